/*
 * One question to every engine that is up, and what they say together: health, statistics, devices, models. It goes out once
 * to each, as ADMIN calls do. Loop thread only.
 */
#ifndef GATEWAY_ASK_ALL_H
#define GATEWAY_ASK_ALL_H

#include "gateway/engine.h"

#include <protobuf-c/protobuf-c.h>

struct ask_all;

/* What came, in the engines' order. One that a callback sets to NULL is its to free; the others are freed after it. */
struct ask_all_answers {
    ProtobufCMessage **messages;
    const size_t *members; /* whose they are: places in the list of engines, from 0 */
    size_t n;
    size_t n_missing;                /* engines that ought to have answered and did not */
    const struct rpc_status *status; /* of the call that ended last; with n 0 it is a failure */
};

/* Asks; `options` says path, data, deadline and metadata, the rest of it counts for nothing. `type` is the answers'. `wait`:
 * when no engine is up, the question goes to the first that serves within a moment of the start. `on_done` comes on the loop
 * once all have answered or failed to, not from within this call, and the handle is gone after it. An error, with the
 * message of engine_start, when nobody can be asked. */
enum error_code ask_all_start(struct engine *e, const struct engine_call_options *options,
                              const ProtobufCMessageDescriptor *type, bool wait, void *user,
                              void (*on_done)(void *user, const struct ask_all_answers *answers), struct ask_all **out,
                              struct error *err);
/* Ends the question; on_done does not come. */
void ask_all_cancel(struct ask_all *a);

#endif
