/* W3C Trace Context on its way to the engine. */
#ifndef GATEWAY_TRACE_H
#define GATEWAY_TRACE_H

#include "gateway/gateway.h"

#define TRACE_STATE_BYTES 513 /* 512 is what the specification asks to be passed on at least */

/* The request's tracestate, of all its header fields, in `out`: "" without a traceparent, and when it is too long or holds
 * bytes that a header must not have. Returns `out`. */
const char *trace_state(const struct request *r, char out[TRACE_STATE_BYTES]);

#endif
