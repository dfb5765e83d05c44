/*
 * changes: what changes models (load, unload, swap, a new default), each on a thread of its own, as it may take minutes. A call that asked for one
 * is told of its progress and its end; when it goes away the change goes on.
 *
 *   handler: change_start -> thread: run -> [change_progress]* -> end
 *                                              |  rpc_post
 *   completion thread:               messages of progress, the result, the status
 */
#ifndef SERVICE_CHANGES_H
#define SERVICE_CHANGES_H

#include "service/service.h"

#define CHANGES_MAX 16 /* that run or wait at once */

struct changes;
struct change;

struct changes *changes_open(struct service *s); /* NULL when memory is out */
/* None begins any more; true when all have ended by deadline_ns. Any thread. */
bool changes_drain(struct changes *c, int64_t deadline_ns);
/* After all have ended. */
void changes_close(struct changes *c);

/* What one kind of change is. */
struct change_kind {
    const char *name; /* for logs */
    /* Makes the change, on a thread of its own: `request` is the message that asked for it. Appends the packed result: the call's answer, or the
     * last message of its stream, which is sent also when the change failed. */
    enum error_code (*run)(struct change *c, struct service *s, const void *request, struct buffer *result,
                           struct error *err);
    /* Appends the message of a stream that tells of progress; NULL for a unary call. */
    bool (*pack_progress)(const struct model_progress *p, struct buffer *out);
};

/* Begins a change. `request` is taken, also when none can begin, which ends the call with SERVICE_UNAVAILABLE. On the call's thread. */
void change_start(struct changes *c, const struct change_kind *kind, struct rpc_call *call, void *request);
/* To be given to the registry as on_progress, with the change as its user. */
void change_progress(void *change, const struct model_progress *p);

#endif
