/* tools, tool_choice and parallel_tool_calls of a chat, and the calls in its messages: their checks, and their way into the proto. */
#ifndef GATEWAY_TOOL_PARAMS_H
#define GATEWAY_TOOL_PARAMS_H

#include "bitnet/v1/inference.pb-c.h"
#include "gateway/params.h"

/* Functions are given, and the answer may call them. */
bool tool_params_in_use(const struct params *p);
/* Calls are all that the answer may be: one has to be made. */
bool tool_params_required(const struct params *p);
/* Checks the three fields; what a schema says is the engine's to check. */
bool tool_params_check(const struct params *p, struct failure *f);
/* Checks tool_calls and tool_call_id of messages[i], which is an object with a role. */
bool tool_params_check_message(const json_t *messages, size_t i, struct failure *f);

/* What the messages of tools point to; zeroed at first. */
struct tool_room {
    Bitnet__V1__Tools tools;
    Bitnet__V1__Tool *tool, **list; /* owned, as are the schemas */
};
/* Fills room->tools; false when memory is out. */
bool tool_params_fill(const struct params *p, struct tool_room *room);
void tool_room_fini(struct tool_room *room);
/* Fills the calls of a message; freed with tool_params_free_calls, also after false, when memory is out. */
bool tool_params_fill_calls(const json_t *message, Bitnet__V1__Message *out);
void tool_params_free_calls(Bitnet__V1__Message *m);

#endif
