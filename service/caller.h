/* caller: who is at the other end of a call, and how its request is named in logs. */
#ifndef SERVICE_CALLER_H
#define SERVICE_CALLER_H

#include "rpc/rpc.h"

#define CALLER_BYTES 129

/* The request's id: `field`, else the header x-request-id, else a new one; the caller is told. */
void caller_request_id(struct rpc_call *call, const char *field, char out[CALLER_BYTES]);
/* Whose turn it is: `field`, as a gateway says, else the header x-client-id, else the address, whatever the port, in `room`. Borrowed from
 * the three. */
const char *caller_name(struct rpc_call *call, const char *field, char room[CALLER_BYTES]);

#endif
