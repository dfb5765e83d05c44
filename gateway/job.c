/* Jobs: from the engine's messages to a view, with back-pressure, pings and the end in all its forms. */
#include "gateway/job.h"

#include "base/clock.h"
#include "gateway/error.h"
#include "gateway/sse.h"
#include "gateway/status.h"
#include "gateway/trace.h"

#include <event2/event.h>
#include <stdlib.h>

#define MAX_ANSWER_BYTES (64 << 20)
#define KEEP_BYTES 4096

static void job_free(struct job *j)
{
    struct gateway *g = j->r->g;
    *(j->previous ? &j->previous->next : &g->jobs) = j->next;
    if (j->next)
        j->next->previous = j->previous;
    for (int i = 0; j->calls && i < j->n_calls; i++) {
        if (j->calls[i].call)
            engine_cancel(j->calls[i].call);
        if (j->calls[i].answer)
            bitnet__v1__generate_response__free_unpacked(j->calls[i].answer, NULL);
    }
    j->r->on_gone = j->r->on_writable = NULL;
    if (j->ping)
        event_free(j->ping);
    buffer_fini(&j->out);
    free(j->calls);
    free(j->state);
    free(j);
}

static void flush(struct job *j)
{
    if (j->out.n_bytes == 0)
        return;
    http_write(j->r->x, j->out.data, j->out.n_bytes);
    if (j->out.capacity > KEEP_BYTES)
        buffer_fini(&j->out);
    else
        buffer_clear(&j->out);
    j->last_write_ns = clock_now_ns();
}

static void release_held(struct job *j)
{
    for (int i = 0; i < j->n_calls; i++)
        if (j->calls[i].call) {
            engine_release(j->calls[i].call, j->calls[i].held);
            j->calls[i].held = 0;
        }
}

/* The status line is held back until something is to be said, so that an early error has its own status. */
static void begin(struct job *j)
{
    if (j->begun)
        return;
    j->begun = true;
    request_stream(j->r);
    if (j->view->begin)
        j->view->begin(j);
}

static void job_fail(struct job *j, const struct failure *f)
{
    if (!j->begun) {
        error_respond(j->r, f);
    } else {
        j->r->failed = f->error.code;
        j->view->error(j, f);
        flush(j);
        http_end(j->r->x);
    }
    job_free(j);
}

static void on_gone(void *user)
{
    job_free(user);
}

static void on_writable(void *user)
{
    release_held(user);
}

static void on_ping(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    struct job *j = user;
    int64_t silent_ns = clock_now_ns() - j->last_write_ns;
    if (silent_ns >= JOB_PING_NS - CLOCK_NS_PER_MS) {
        begin(j);
        buffer_append_str(&j->out, SSE_PING);
        flush(j);
        silent_ns = 0;
    }
    int64_t wait_us = (JOB_PING_NS - silent_ns) / 1000;
    const struct timeval wait = {wait_us / 1000000, wait_us % 1000000};
    event_add(j->ping, &wait);
}

static void fail_with(struct job *j, const char *message)
{
    struct failure f;
    failure_init(&f);
    error_set(&f.error, ERROR_INTERNAL, "%s", message);
    job_fail(j, &f);
    failure_fini(&f);
}

/* ---- from the engine ---- */

static void show(struct job *j, int call, const Bitnet__V1__StreamGenerateResponse *event)
{
    begin(j);
    switch (event->event_case) {
    case BITNET__V1__STREAM_GENERATE_RESPONSE__EVENT_TOKEN:
        j->view->token(j, call, event->token);
        break;
    case BITNET__V1__STREAM_GENERATE_RESPONSE__EVENT_PROMPT:
        if (j->view->prompt)
            j->view->prompt(j, call, event->prompt);
        break;
    case BITNET__V1__STREAM_GENERATE_RESPONSE__EVENT_CHOICE_END:
        j->view->choice_end(j, call, event->choice_end);
        break;
    case BITNET__V1__STREAM_GENERATE_RESPONSE__EVENT_COMPLETE:
        j->view->complete(j, call, event->complete);
        break;
    default: /* from a newer engine */
        break;
    }
    flush(j);
}

static void on_event(void *user, const void *data, size_t n_bytes, size_t cost)
{
    struct job_call *c = user;
    struct job *j = c->job;
    Bitnet__V1__StreamGenerateResponse *event = bitnet__v1__stream_generate_response__unpack(NULL, n_bytes, data);
    if (!event) {
        fail_with(j, "the engine sent a message that cannot be read");
        return;
    }
    c->held += cost;
    show(j, (int)(c - j->calls), event);
    bitnet__v1__stream_generate_response__free_unpacked(event, NULL);
    if (http_queued(j->r->x) < HTTP_LOW_WATER_BYTES)
        release_held(j);
}

static void on_answer(void *user, const void *data, size_t n_bytes, size_t cost)
{
    struct job_call *c = user;
    if (c->answer)
        bitnet__v1__generate_response__free_unpacked(c->answer, NULL);
    c->answer = bitnet__v1__generate_response__unpack(NULL, n_bytes, data);
    engine_release(c->call, cost);
}

static bool whole(const struct job *j)
{
    for (int i = 0; i < j->n_calls; i++)
        if (!j->calls[i].answer)
            return false;
    return true;
}

static void finish(struct job *j)
{
    if (!j->stream && !whole(j)) {
        fail_with(j, "the engine's answer cannot be read");
        return;
    }
    if (j->stream)
        begin(j);
    j->view->done(j);
    if (j->stream) {
        flush(j);
        http_end(j->r->x);
    } else {
        request_json(j->r, 200, &j->out);
    }
    job_free(j);
}

static void on_status(void *user, const struct rpc_status *status)
{
    struct job_call *c = user;
    struct job *j = c->job;
    c->call = NULL;
    if (status->code == 0) {
        if (--j->n_open == 0)
            finish(j);
        return;
    }
    struct failure f;
    failure_init(&f);
    status_failure(status, j->r->fields, &f);
    job_fail(j, &f);
    failure_fini(&f);
}

/* ---- start ---- */

static enum error_code start_call(struct job *j, int index, const struct buffer *request, int64_t deadline_ns,
                                  struct error *err)
{
    struct job_call *c = &j->calls[index];
    char state[TRACE_STATE_BYTES], parent[TRACE_PARENT_BYTES];
    c->job = j;
    const struct engine_call_options options = {
        .channel = ENGINE_WORK,
        .path = j->stream ? "/bitnet.v1.InferenceService/StreamGenerate" : "/bitnet.v1.InferenceService/Generate",
        .data = request->data,
        .n_bytes = request->n_bytes,
        .deadline_ns = deadline_ns,
        .request_id = j->r->id,
        .span = j->r->span,
        .traceparent = trace_context_write(&j->r->trace, parent),
        .tracestate = trace_state(j->r, state),
        .affinity = j->r->affinity,
        .hedge = true,
        .user = c,
        .on_message = j->stream ? on_event : on_answer,
        .on_status = on_status,
    };
    enum error_code code = engine_start(j->r->g->engine, &options, &c->call, err);
    if (code == ERROR_NONE)
        j->n_open++;
    return code;
}

static struct job *job_open(struct request *r, const struct job_view *view, void *state, bool stream, int n_calls)
{
    struct job *j = calloc(1, sizeof *j);
    if (!j)
        return NULL;
    *j = (struct job){.r = r, .view = view, .state = state, .stream = stream, .n_calls = n_calls};
    j->calls = calloc((size_t)n_calls, sizeof *j->calls);
    buffer_init(&j->out, MAX_ANSWER_BYTES);
    j->last_write_ns = clock_now_ns();
    j->ping = stream ? evtimer_new(r->g->base, on_ping, j) : NULL;
    j->next = r->g->jobs;
    if (j->next)
        j->next->previous = j;
    r->g->jobs = j;
    r->user = j;
    r->on_gone = on_gone;
    r->on_writable = on_writable;
    return j;
}

void job_start(struct request *r, const struct job_view *view, void *state, bool stream, const struct buffer *requests,
               int n_calls, int64_t timeout_ms)
{
    struct job *j = job_open(r, view, state, stream, n_calls);
    if (!j) {
        free(state);
        error_answer(r, ERROR_INTERNAL, "out of memory");
        return;
    }
    if (!j->calls || (stream && !j->ping)) {
        fail_with(j, "out of memory");
        return;
    }
    /* The engine keeps the request's own limit; two seconds more let it still answer with what there is. */
    int64_t limit_ms = timeout_ms > 0 ? timeout_ms + 2000 : r->g->config->request_timeout_ms;
    int64_t deadline_ns = clock_now_ns() + limit_ms * CLOCK_NS_PER_MS;
    struct failure f;
    failure_init(&f);
    for (int i = 0; i < n_calls; i++)
        if (start_call(j, i, &requests[i], deadline_ns, &f.error) != ERROR_NONE) {
            job_fail(j, &f);
            return;
        }
    const struct timeval wait = {JOB_PING_NS / CLOCK_NS_PER_S, 0};
    if (j->ping)
        event_add(j->ping, &wait);
}

void job_fail_all(struct gateway *g, const struct failure *f)
{
    while (g->jobs)
        job_fail(g->jobs, f);
}
