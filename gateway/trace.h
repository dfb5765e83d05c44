/* W3C Trace Context of requests, on its way from the client to the engine, and their spans. Loop thread. */
#ifndef GATEWAY_TRACE_H
#define GATEWAY_TRACE_H

#include "gateway/gateway.h"

/* The request has its route: from now on r->trace is what is passed on. Requests for health, metrics and pages are not recorded. */
void trace_begin(struct request *r);
/* It has ended with this status; 499 = the client went away. */
void trace_end(struct request *r, int status);

/* The request's tracestate, of all its header fields, in `out`: "" without a traceparent, and when it is too long or holds
 * bytes that a header must not have. Returns `out`. */
const char *trace_state(const struct request *r, char out[TRACE_STATE_BYTES]);

#endif
