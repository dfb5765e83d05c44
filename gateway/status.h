/* From the status of a gRPC call to the error that a client of HTTP is told. */
#ifndef GATEWAY_STATUS_H
#define GATEWAY_STATUS_H

#include "gateway/error.h"
#include "rpc/rpc.h"

struct field;

/* The code that ErrorInfo.reason names, ERROR_NONE when there is none. */
enum error_code status_reason(const struct rpc_status *status);
/* Fills `f` from a status that is not OK: code by ErrorInfo.reason, by the bare status where there is none; fields at fault
 * under their REST names by `table` (may be NULL); the time of RetryInfo. */
void status_failure(const struct rpc_status *status, const struct field *table, struct failure *f);

#endif
