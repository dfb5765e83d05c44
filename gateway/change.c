/* The walk of a change over the engines. */
#include "gateway/change.h"

#include "base/clock.h"
#include "base/log.h"
#include "gateway/emit.h"
#include "gateway/engine.h"
#include "gateway/status.h"
#include "gateway/targets.h"
#include "gateway/trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct change {
    struct gateway *g;
    struct request *r; /* NULL: the client has gone */
    struct change_options options;
    struct buffer data;
    char request_id[GATEWAY_REQUEST_ID_BYTES], traceparent[TRACE_PARENT_BYTES], tracestate[TRACE_STATE_BYTES];
    struct engine_call *call; /* NULL: between two */
    char (*addresses)[TARGET_ADDRESS_BYTES];
    const char **engines;
    ProtobufCMessage **messages;
    size_t n_engines, n_asked, n_skipped;
    struct change *next, *previous;
};

static void change_free(struct change *c)
{
    *(c->previous ? &c->previous->next : &c->g->changes) = c->next;
    if (c->next)
        c->next->previous = c->previous;
    if (c->call)
        engine_cancel(c->call);
    if (c->r)
        c->r->on_gone = NULL;
    for (size_t i = 0; c->messages && i < c->n_engines; i++)
        if (c->messages[i])
            protobuf_c_message_free_unpacked(c->messages[i], NULL);
    buffer_fini(&c->data);
    free(c->messages);
    free(c->engines);
    free(c->addresses);
    free(c);
}

static void on_gone(void *user)
{
    struct change *c = user;
    c->r = NULL;
}

static void conclude(struct change *c, const struct rpc_status *status)
{
    const struct change_answers answers = {c->messages, c->n_asked, c->n_skipped, status, c->engines};
    log_info("gateway", "model change ended", LOG_STR("request_id", c->request_id), LOG_STR("call", c->options.path),
             LOG_STR("engine", c->n_asked > 0 ? c->engines[c->n_asked - 1] : NULL), LOG_INT("engines", c->n_asked),
             LOG_INT("status", status->code), LOG_STR("reason", status->message[0] ? status->message : NULL),
             LOG_BOOL("client_gone", !c->r));
    if (c->r) {
        c->r->on_gone = NULL;
        c->options.answer(c->r, &answers);
        c->r = NULL;
    }
    change_free(c);
}

static void conclude_with(struct change *c, const struct error *err)
{
    const struct rpc_status status = {.code = error_info(err->code)->grpc_status, .message = err->message};
    conclude(c, &status);
}

/* ---- one engine after the other ---- */

static void step(struct change *c);

static void on_message(void *user, const void *data, size_t n_bytes, size_t cost)
{
    struct change *c = user;
    ProtobufCMessage **last = &c->messages[c->n_asked - 1];
    if (*last)
        protobuf_c_message_free_unpacked(*last, NULL);
    *last = protobuf_c_message_unpack(c->options.type, NULL, n_bytes, data);
    engine_release(c->call, cost);
}

static void on_status(void *user, const struct rpc_status *status)
{
    static const struct rpc_status fine = {.message = ""};
    struct change *c = user;
    c->call = NULL;
    if (status->code != 0 && c->options.skip != ERROR_NONE && status_reason(status) == c->options.skip) {
        if (++c->n_skipped == c->n_engines) {
            conclude(c, status);
            return;
        }
        status = &fine;
    }
    if (status->code != 0 || c->n_asked == c->n_engines)
        conclude(c, status);
    else
        step(c);
}

/* Where the engine stands in the list now, which may have changed since the last one; the list's length when it is gone. */
static size_t place_of(const struct change *c, const char *address)
{
    size_t n = engine_n_members(c->g->engine), i = 0;
    while (i < n && strcmp(engine_member_address(c->g->engine, i), address) != 0)
        i++;
    return i;
}

static void step(struct change *c)
{
    struct error err = {0};
    const char *address = c->engines[c->n_asked++];
    const struct engine_call_options options = {
        .channel = ENGINE_ADMIN, /* once */
        .member = place_of(c, address),
        .path = c->options.path,
        .data = c->data.data ? c->data.data : "",
        .n_bytes = c->data.n_bytes,
        .deadline_ns = clock_now_ns() + c->options.timeout_ms * CLOCK_NS_PER_MS,
        .request_id = c->request_id,
        .traceparent = c->traceparent,
        .tracestate = c->tracestate,
        .user = c,
        .on_message = on_message,
        .on_status = on_status,
    };
    if (options.member == engine_n_members(c->g->engine))
        error_set(&err, ERROR_SERVICE_UNAVAILABLE, "the engine is gone");
    else
        engine_start(c->g->engine, &options, &c->call, &err);
    if (err.code != ERROR_NONE)
        conclude_with(c, &err);
}

/* ---- start ---- */

/* The engines that it is for. SERVICE_UNAVAILABLE when one of them cannot be asked, so that none is left behind. */
static enum error_code take_engines(struct change *c, struct error *err)
{
    struct engine *e = c->g->engine;
    size_t n = engine_n_members(e);
    c->addresses = calloc(n + 1, sizeof *c->addresses);
    c->engines = calloc(n + 1, sizeof *c->engines);
    c->messages = calloc(n + 1, sizeof *c->messages);
    if (!c->addresses || !c->engines || !c->messages)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    for (size_t i = 0; i < n; i++) {
        bool missed;
        enum engine_state state = engine_member(e, i, &missed);
        if (missed || state == ENGINE_NOT_SERVING)
            return error_set(err, ERROR_SERVICE_UNAVAILABLE, "expected all engines to serve, found that %s %s",
                             engine_member_address(e, i), missed ? "is down" : "does not");
        if (state == ENGINE_DOWN)
            continue;
        snprintf(c->addresses[c->n_engines], sizeof *c->addresses, "%s", engine_member_address(e, i));
        c->engines[c->n_engines] = c->addresses[c->n_engines];
        c->n_engines++;
    }
    return c->n_engines > 0 ? ERROR_NONE
                            : error_set(err, ERROR_SERVICE_UNAVAILABLE, "no inference engine is available");
}

static struct change *change_new(struct request *r, const struct change_options *options)
{
    struct change *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->g = r->g;
    c->r = r;
    c->options = *options;
    buffer_init(&c->data, SIZE_MAX / 2);
    snprintf(c->request_id, sizeof c->request_id, "%s", r->id);
    trace_context_write(&r->trace, c->traceparent); /* the change may outlive the span */
    trace_state(r, c->tracestate);
    c->next = c->g->changes;
    if (c->next)
        c->next->previous = c;
    c->g->changes = c;
    r->user = c;
    r->on_gone = on_gone;
    return c;
}

void change_start(struct request *r, const struct change_options *options)
{
    struct error err = {0};
    struct change *c = change_new(r, options);
    if (!c || !buffer_append(&c->data, options->data, options->n_bytes))
        error_set(&err, ERROR_INTERNAL, "out of memory");
    if (err.code == ERROR_NONE && take_engines(c, &err) == ERROR_NONE) {
        step(c);
        return;
    }
    if (c)
        change_free(c);
    error_respond_plain(r, &err);
}

/* ---- the end ---- */

void change_failure(const struct request *r, const struct change_answers *answers, struct failure *f)
{
    struct buffer *b = &f->details;
    status_failure(answers->status, r->fields, f);
    emit_key(b, "engine");
    emit_text(b, answers->engines[answers->n - 1]);
    if (answers->n == 1)
        return;
    emit_key(b, "changed_engines");
    emit_open(b, '[');
    for (size_t i = 0; i + 1 < answers->n; i++)
        emit_text(b, answers->engines[i]);
    emit_close(b, ']');
}

void change_fail_all(struct gateway *g, const struct failure *f)
{
    for (struct change *c = g->changes; c; c = c->next)
        if (c->r) {
            struct request *r = c->r;
            c->r = NULL;
            r->on_gone = NULL;
            error_respond(r, f);
        }
}

void change_close_all(struct gateway *g)
{
    while (g->changes)
        change_free(g->changes);
}
