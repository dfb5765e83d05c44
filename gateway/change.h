/*
 * A change of the models: one call to every engine, one after the other in the order of the list, so that what the first one refuses has
 * touched no other. Each is asked once: never again, never two at a time. It ends at the first failure. A client that goes away does not
 * end it. Loop thread only.
 */
#ifndef GATEWAY_CHANGE_H
#define GATEWAY_CHANGE_H

#include "gateway/error.h"
#include "rpc/rpc.h"

#include <protobuf-c/protobuf-c.h>

struct change;

/* How it went: all engines but the last one that was asked did it. */
struct change_answers {
    ProtobufCMessage *const
        *messages;    /* the last one of each engine, in their order; NULL: none came. Freed after the callback */
    size_t n;         /* engines that were asked */
    size_t n_skipped; /* of these, that had nothing to do */
    const struct rpc_status *status; /* of the last one */
    const char *const *engines;      /* their addresses, [n] */
};

struct change_options {
    const char *path; /* static */
    const void *data; /* packed request; copied */
    size_t n_bytes;
    int64_t timeout_ms;                     /* for each engine */
    const ProtobufCMessageDescriptor *type; /* of the engines' messages */
    enum error_code skip;                   /* an engine that ends with it had nothing to do; ERROR_NONE: none has */
    /* Must end the exchange; does not come when the client has gone. */
    void (*answer)(struct request *r, const struct change_answers *answers);
};

/* Begins; answers the request itself when it cannot, as while an engine is down or drains. */
void change_start(struct request *r, const struct change_options *options);
/* Fills `f` with the failure of the last engine; `details` says which it was, and which engines were changed before it. */
void change_failure(const struct request *r, const struct change_answers *answers, struct failure *f);
/* The clients of all changes are told this error; the changes go on. */
void change_fail_all(struct gateway *g, const struct failure *f);
/* Forgets all changes, whose clients have gone; what an engine has begun it ends. Before engine_close. */
void change_close_all(struct gateway *g);

#endif
