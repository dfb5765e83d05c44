/* Load reports: what a client's balancer is told of this engine's load, in the trailing metadata `endpoint-load-metrics-bin` (gRPC's
 * custom backend metrics, ORCA). */
#ifndef SERVICE_LOAD_REPORT_H
#define SERVICE_LOAD_REPORT_H

#include "service/service.h"

/* Puts the report of now into the call's trailing metadata, when --load-reports says so: always, or where the client asks with the metadata
 * `endpoint-load-metrics-format: bin`. Before the call is finished; any completion thread. */
void load_report_add(struct service *s, struct rpc_call *call);

#endif
