/* Unary calls of short requests: models, tokens. */
#include "gateway/ask.h"

#include "base/clock.h"
#include "gateway/engine.h"
#include "gateway/error.h"
#include "gateway/status.h"
#include "gateway/trace.h"

#include <stdlib.h>

struct ask {
    struct request *r;
    struct engine_call *call;
    void (*answer)(struct request *r, const void *data, size_t n_bytes);
    struct buffer message;
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
    engine_cancel(a->call);
    ask_free(a);
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
    struct request *r = a->r;
    if (status->code == 0) {
        a->answer(r, a->message.data ? a->message.data : "", a->message.n_bytes);
    } else {
        struct failure f;
        failure_init(&f);
        status_failure(status, r->fields, &f);
        error_respond(r, &f);
        failure_fini(&f);
    }
    ask_free(a);
}

void ask_engine(struct request *r, const char *path, const void *data, size_t n_bytes, int64_t timeout_ms,
                void (*answer)(struct request *r, const void *data, size_t n_bytes))
{
    char state[TRACE_STATE_BYTES];
    struct error err = {0};
    struct ask *a = calloc(1, sizeof *a);
    if (!a) {
        error_answer(r, ERROR_INTERNAL, "out of memory");
        return;
    }
    a->r = r;
    a->answer = answer;
    buffer_init(&a->message, SIZE_MAX / 2);
    const struct engine_call_options options = {
        .channel = ENGINE_WORK,
        .path = path,
        .data = data,
        .n_bytes = n_bytes,
        .deadline_ns = clock_now_ns() + timeout_ms * CLOCK_NS_PER_MS,
        .request_id = r->id,
        .traceparent = r->traceparent,
        .tracestate = trace_state(r, state),
        .user = a,
        .on_message = on_message,
        .on_status = on_status,
    };
    if (engine_start(r->g->engine, &options, &a->call, &err) != ERROR_NONE) {
        error_respond_plain(r, &err);
        ask_free(a);
        return;
    }
    r->user = a;
    r->on_gone = on_gone;
}
