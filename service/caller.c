#include "service/caller.h"

#include "base/id.h"

#include <stdio.h>
#include <string.h>

void caller_request_id(struct rpc_call *call, const char *field, char out[CALLER_BYTES])
{
    const char *header = rpc_call_metadata(call, "x-request-id");
    if (id_request_id_valid(field))
        snprintf(out, CALLER_BYTES, "%s", field);
    else if (header && id_request_id_valid(header))
        snprintf(out, CALLER_BYTES, "%s", header);
    else
        id_uuid(out);
    rpc_call_add_metadata(call, "x-request-id", out);
}

const char *caller_name(struct rpc_call *call, const char *field, char room[CALLER_BYTES])
{
    const char *header = rpc_call_metadata(call, "x-client-id"), *peer = rpc_call_peer(call);
    if (field[0])
        return field;
    if (header && header[0])
        return header;
    snprintf(room, CALLER_BYTES, "%s", peer ? peer : "");
    char *port = strrchr(room, ':');
    if (port && strncmp(room, "ip", 2) == 0)
        *port = '\0';
    return room;
}
