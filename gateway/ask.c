/* Unary calls of short requests: models, tokens, devices, statistics. */
#include "gateway/ask.h"

#include "base/clock.h"
#include "gateway/error.h"
#include "gateway/status.h"
#include "gateway/trace.h"

#include <stdlib.h>

struct ask {
    struct request *r;
    struct engine_call *call; /* of one engine; NULL: all are asked */
    void (*answer)(struct request *r, const void *data, size_t n_bytes);
    struct buffer message;
    struct ask_all *all; /* NULL: one is asked */
    void (*answer_all)(struct request *r, const struct ask_all_answers *answers);
};

static void ask_free(struct ask *a)
{
    a->r->on_gone = NULL;
    buffer_fini(&a->message);
    free(a);
}

static void on_gone(void *user)
{
    struct ask *a = user;
    if (a->all)
        ask_all_cancel(a->all);
    else
        engine_cancel(a->call);
    ask_free(a);
}

static void fail(struct request *r, const struct rpc_status *status)
{
    struct failure f;
    failure_init(&f);
    status_failure(status, r->fields, &f);
    error_respond(r, &f);
    failure_fini(&f);
}

static void on_message(void *user, const void *data, size_t n_bytes, size_t cost)
{
    struct ask *a = user;
    buffer_clear(&a->message);
    buffer_append(&a->message, data, n_bytes);
    engine_release(a->call, cost);
}

static void on_status(void *user, const struct rpc_status *status)
{
    struct ask *a = user;
    if (status->code == 0)
        a->answer(a->r, a->message.data ? a->message.data : "", a->message.n_bytes);
    else
        fail(a->r, status);
    ask_free(a);
}

static void on_answers(void *user, const struct ask_all_answers *answers)
{
    struct ask *a = user;
    if (answers->n > 0)
        a->answer_all(a->r, answers);
    else
        fail(a->r, answers->status);
    ask_free(a);
}

/* What both kinds of questions have in common; NULL when memory is out, which is answered. */
static struct ask *ask_new(struct request *r)
{
    struct ask *a = calloc(1, sizeof *a);
    if (!a) {
        error_answer(r, ERROR_INTERNAL, "out of memory");
        return NULL;
    }
    a->r = r;
    buffer_init(&a->message, SIZE_MAX / 2);
    return a;
}

/* It is under way, or answered with `err`. */
static void ask_started(struct ask *a, enum error_code code, const struct error *err)
{
    if (code != ERROR_NONE) {
        error_respond_plain(a->r, err);
        ask_free(a);
        return;
    }
    a->r->user = a;
    a->r->on_gone = on_gone;
}

void ask_engine(struct request *r, const char *path, const void *data, size_t n_bytes, int64_t timeout_ms,
                void (*answer)(struct request *r, const void *data, size_t n_bytes))
{
    char state[TRACE_STATE_BYTES], parent[TRACE_PARENT_BYTES];
    struct error err = {0};
    struct ask *a = ask_new(r);
    if (!a)
        return;
    a->answer = answer;
    const struct engine_call_options options = {
        .channel = ENGINE_WORK,
        .path = path,
        .data = data,
        .n_bytes = n_bytes,
        .deadline_ns = clock_now_ns() + timeout_ms * CLOCK_NS_PER_MS,
        .request_id = r->id,
        .span = r->span,
        .traceparent = trace_context_write(&r->trace, parent),
        .tracestate = trace_state(r, state),
        .user = a,
        .on_message = on_message,
        .on_status = on_status,
    };
    ask_started(a, engine_start(r->g->engine, &options, &a->call, &err), &err);
}

void ask_engines(struct request *r, const char *path, const void *data, size_t n_bytes, int64_t timeout_ms,
                 const ProtobufCMessageDescriptor *type,
                 void (*answer)(struct request *r, const struct ask_all_answers *answers))
{
    char state[TRACE_STATE_BYTES], parent[TRACE_PARENT_BYTES];
    struct error err = {0};
    struct ask *a = ask_new(r);
    if (!a)
        return;
    a->answer_all = answer;
    const struct engine_call_options options = {
        .path = path,
        .data = data,
        .n_bytes = n_bytes,
        .deadline_ns = clock_now_ns() + timeout_ms * CLOCK_NS_PER_MS,
        .request_id = r->id,
        .span = r->span,
        .traceparent = trace_context_write(&r->trace, parent),
        .tracestate = trace_state(r, state),
    };
    ask_started(a, ask_all_start(r->g->engine, &options, type, true, a, on_answers, &a->all, &err), &err);
}
