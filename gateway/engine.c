/*
 * Calls and their attempts.
 *
 *   start -> attempt -> first message: from now on it is the answer, and what comes is passed on
 *              |  `--- no message within hedge_ms: a second attempt beside it; the first message of either wins
 *              +--> ends before a message, and another engine may do better: next attempt
 *              `--> any other end: the call's
 *
 * Before the first verdict on any engine (a moment after the start) a call waits for it.
 */
#include "gateway/engine.h"

#include "base/clock.h"
#include "base/log.h"
#include "gateway/gateway.h"
#include "gateway/pool.h"
#include "gateway/status.h"
#include "trace/trace.h"

#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TRIES 10
#define PATIENCE_MS 2000     /* for the first verdict */
#define SAME_AGAIN_MS 20     /* times the tries so far, before an engine that has failed a call gets it again */
#define MIN_LEFT_NS (10 * CLOCK_NS_PER_MS) /* with less time than that another attempt is of no use */
#define MAX_METADATA 7

enum { GRPC_CANCELLED = 1, GRPC_RESOURCE_EXHAUSTED = 8, GRPC_UNAVAILABLE = 14 };

/* Why there was another attempt; the label of bitnet_engine_retries_total. */
enum retry { RETRY_NONE, RETRY_UNAVAILABLE, RETRY_CANCELLED, RETRY_QUEUE_FULL, RETRY_HEDGE, N_RETRIES };

static const char *const retry_names[N_RETRIES] = {NULL, "unavailable", "cancelled", "queue_full", "hedge"};

struct engine {
    struct event_base *base;
    const struct gateway_config *config;
    struct pool *pool;
    struct engine_call *calls; /* doubly linked */
    struct metrics_series *retries[N_RETRIES];
};

struct attempt {
    struct engine_call *call;
    struct member *member;
    struct bridge_call *handle; /* NULL: none is under way */
    struct span *span;          /* NULL: not recorded */
};

struct engine_call {
    struct engine *engine;
    struct engine_call_options options; /* its texts and data are in `copy` */
    char *copy;
    struct attempt attempts[2]; /* the second beside the first by hedging */
    struct attempt *winner;     /* whose message came */
    struct member *tried[MAX_TRIES];
    size_t n_tried;
    bool was_full, parked; /* parked: waits for the first verdict */
    struct event *timer;   /* parked; the same engine again; hedge */
    struct rpc_status last; /* of the attempt that failed, while the timer runs; its texts are owned */
    struct engine_call *next, *previous;
};

static void advance(struct engine_call *call);

/* ---- attempts ---- */

/* The attempt's span: OpenTelemetry's conventions for RPC clients. */
static void span_begin(struct attempt *a)
{
    const struct engine_call_options *o = &a->call->options;
    const char *service = o->path + 1, *method = strrchr(o->path, '/') + 1;
    char name[64];
    if (!o->span)
        return;
    snprintf(name, sizeof name, "%.*s", (int)(method - 1 - service), service);
    a->span = span_child(o->span, service, SPAN_CLIENT, clock_now_ns());
    span_set_text(a->span, "rpc.system", "grpc");
    span_set_text(a->span, "rpc.service", name);
    span_set_text(a->span, "rpc.method", method);
    span_set_text(a->span, "server.address", a->member->address);
    if (a->call->n_tried > 0)
        span_set_int(a->span, "rpc.grpc.attempt", (int64_t)a->call->n_tried + 1);
}

static void span_finish(struct attempt *a, int code, const char *message)
{
    if (!a->span)
        return;
    span_set_int(a->span, "rpc.grpc.status_code", code);
    if (code)
        span_fail(a->span, rpc_status_name(code), message);
    span_end(a->span, clock_now_ns());
    a->span = NULL;
}

/* Takes the attempt's engine and handle from it; `cancel` when it still runs. */
static void attempt_end(struct attempt *a, bool cancel)
{
    if (!a->handle)
        return;
    if (cancel) {
        bridge_cancel(a->handle);
        span_finish(a, GRPC_CANCELLED, NULL);
    }
    a->handle = NULL;
    member_put(a->member, a->call->options.channel == ENGINE_WORK);
}

/* `parent` is room for the traceparent of an attempt that is recorded. */
static void fill_metadata(const struct attempt *a, char parent[TRACE_PARENT_BYTES], const char *metadata[MAX_METADATA])
{
    const struct engine_call_options *o = &a->call->options;
    const char *const pairs[][2] = {
        {"x-request-id", o->request_id},
        {"traceparent", a->span ? trace_context_write(span_context(a->span), parent) : o->traceparent},
        {"tracestate", o->tracestate}};
    size_t n = 0;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (pairs[i][1][0] != '\0') {
            metadata[n++] = pairs[i][0];
            metadata[n++] = pairs[i][1];
        }
    metadata[n] = NULL;
}

static void on_message(void *user, const void *data, size_t n_bytes, size_t cost);
static void on_status(void *user, const struct rpc_status *status);

static enum error_code attempt_start(struct engine_call *call, struct member *m, struct error *err)
{
    struct attempt *a = &call->attempts[call->attempts[0].handle ? 1 : 0];
    const struct engine_call_options *o = &call->options;
    const char *metadata[MAX_METADATA];
    char parent[TRACE_PARENT_BYTES];
    *a = (struct attempt){.call = call, .member = m};
    span_begin(a);
    fill_metadata(a, parent, metadata);
    const struct bridge_options options = {
        .client = m->client,
        .path = o->path,
        .data = o->data,
        .n_bytes = o->n_bytes,
        .deadline_ns = o->deadline_ns,
        .metadata = metadata,
        .user = a,
        .on_message = on_message,
        .on_status = on_status,
    };
    enum error_code code = bridge_start(pool_bridge(call->engine->pool), &options, &a->handle, err);
    if (code != ERROR_NONE) {
        span_finish(a, GRPC_UNAVAILABLE, err->message);
        return code;
    }
    member_take(m, o->channel == ENGINE_WORK);
    call->tried[call->n_tried++] = m;
    return ERROR_NONE;
}

/* ---- calls ---- */

static void forget_status(struct engine_call *call)
{
    free((void *)(uintptr_t)call->last.message);
    free((void *)(uintptr_t)call->last.details);
    call->last = (struct rpc_status){0};
}

static void call_free(struct engine_call *call)
{
    struct engine *e = call->engine;
    *(call->previous ? &call->previous->next : &e->calls) = call->next;
    if (call->next)
        call->next->previous = call->previous;
    for (int i = 0; i < 2; i++)
        attempt_end(&call->attempts[i], true);
    if (call->timer)
        event_free(call->timer);
    forget_status(call);
    free(call->copy);
    free(call);
}

/* The end of the call: its callback comes when it is gone. */
static void call_end(struct engine_call *call, const struct rpc_status *status)
{
    void (*done)(void *, const struct rpc_status *) = call->options.on_status;
    void *user = call->options.user;
    call_free(call);
    done(user, status);
}

static void end_with_last(struct engine_call *call)
{
    static const struct rpc_status none = {.code = GRPC_UNAVAILABLE, .message = ""};
    struct rpc_status last = call->last.message ? call->last : none;
    call->last = (struct rpc_status){0};
    call_end(call, &last);
    if (last.message != none.message) {
        free((void *)(uintptr_t)last.message);
        free((void *)(uintptr_t)last.details);
    }
}

static bool keep_status(struct engine_call *call, const struct rpc_status *status)
{
    forget_status(call);
    call->last = *status;
    call->last.message = strdup(status->message);
    call->last.details = NULL;
    if (status->details_n_bytes > 0 && (call->last.details = malloc(status->details_n_bytes)))
        memcpy((void *)(uintptr_t)call->last.details, status->details, status->details_n_bytes);
    else
        call->last.details_n_bytes = 0;
    return call->last.message != NULL;
}

static void on_timer(evutil_socket_t fd, short what, void *user);

static bool set_timer(struct engine_call *call, int64_t ms)
{
    const struct timeval wait = {ms / 1000, ms % 1000 * 1000};
    if (!call->timer)
        call->timer = evtimer_new(call->engine->base, on_timer, call);
    return call->timer && event_add(call->timer, &wait) == 0;
}

/* An attempt on `m`; a hedge is due when it says nothing for long. */
static enum error_code go(struct engine_call *call, struct member *m, struct error *err)
{
    int64_t hedge_ms = call->options.hedge ? call->engine->config->hedge_ms : 0;
    call->parked = false;
    enum error_code code = attempt_start(call, m, err);
    if (code == ERROR_NONE && hedge_ms > 0 && call->options.channel == ENGINE_WORK && call->n_tried == 1)
        set_timer(call, hedge_ms);
    return code;
}

static struct member *choose(struct engine_call *call, bool again)
{
    return pool_choose(call->engine->pool, call->options.affinity, call->tried, again ? 0 : call->n_tried);
}

static bool may_try(const struct engine_call *call)
{
    return call->n_tried < (size_t)call->engine->config->engine_tries &&
           call->options.deadline_ns - clock_now_ns() > MIN_LEFT_NS;
}

/* Why another engine may do better, if so. Refusals for what the request is would be repeated by all. */
static enum retry retry_reason(const struct engine_call *call, const struct rpc_status *status)
{
    if (call->options.channel != ENGINE_WORK || call->winner)
        return RETRY_NONE;
    switch (status->code) {
    case GRPC_UNAVAILABLE:
        return RETRY_UNAVAILABLE;
    case GRPC_CANCELLED: /* not by us: an engine that was going away */
        return RETRY_CANCELLED;
    case GRPC_RESOURCE_EXHAUSTED: /* a full queue, not a client's limit */
        return !call->was_full && status_reason(status) == ERROR_SERVICE_UNAVAILABLE ? RETRY_QUEUE_FULL : RETRY_NONE;
    default:
        return RETRY_NONE;
    }
}

/* The next attempt after one that failed: on another engine at once, or on the same one a moment later, when it may have
 * connected anew. False: this was it. */
static bool retry(struct engine_call *call, const struct rpc_status *status)
{
    enum retry why = retry_reason(call, status);
    struct error err = {0};
    if (why == RETRY_NONE || !may_try(call))
        return false;
    struct member *m = choose(call, false);
    call->was_full |= why == RETRY_QUEUE_FULL;
    if (m && go(call, m, &err) == ERROR_NONE) {
        metrics_inc(call->engine->retries[why], 1);
        return true;
    }
    return !m && why != RETRY_QUEUE_FULL && keep_status(call, status) &&
           set_timer(call, SAME_AGAIN_MS * (int64_t)call->n_tried);
}

static void on_message(void *user, const void *data, size_t n_bytes, size_t cost)
{
    struct attempt *a = user;
    struct engine_call *call = a->call;
    if (!call->winner) {
        call->winner = a;
        if (call->timer)
            event_del(call->timer);
        attempt_end(&call->attempts[a == call->attempts ? 1 : 0], true);
        free(call->copy); /* there will be no other attempt */
        call->copy = NULL;
    }
    call->options.on_message(call->options.user, data, n_bytes, cost);
}

static void on_status(void *user, const struct rpc_status *status)
{
    struct attempt *a = user;
    struct engine_call *call = a->call;
    span_finish(a, status->code, status->message);
    attempt_end(a, false);
    bool other = call->attempts[0].handle || call->attempts[1].handle;
    if (other && retry_reason(call, status) != RETRY_NONE)
        return; /* the one beside it goes on */
    if (!retry(call, status))
        call_end(call, status);
}

/* Parked, the same engine again, or a hedge. */
static void on_timer(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    struct engine_call *call = user;
    struct error err = {0};
    if (call->parked) {
        end_with_last(call);
    } else if (call->attempts[0].handle || call->attempts[1].handle) {
        struct member *m = may_try(call) ? choose(call, false) : NULL;
        if (m && attempt_start(call, m, &err) == ERROR_NONE)
            metrics_inc(call->engine->retries[RETRY_HEDGE], 1);
    } else {
        advance(call);
    }
}

/* After the pause: any engine that serves will do. */
static void advance(struct engine_call *call)
{
    struct error err = {0};
    enum retry why = call->last.code == GRPC_CANCELLED ? RETRY_CANCELLED : RETRY_UNAVAILABLE;
    struct member *m = may_try(call) ? choose(call, true) : NULL;
    if (m && go(call, m, &err) == ERROR_NONE)
        metrics_inc(call->engine->retries[why], 1);
    else
        end_with_last(call);
}

/* A verdict came: calls that wait for one go on, or end. */
static void on_change(void *user)
{
    struct engine *e = user;
    struct error err = {0};
    for (;;) {
        struct engine_call *call = e->calls;
        while (call && !call->parked)
            call = call->next;
        struct member *m = call ? choose(call, true) : NULL; /* no call, no pool: it is being opened */
        if (!call || (!m && pool_settling(e->pool)))
            return;
        event_del(call->timer);
        if (!m || go(call, m, &err) != ERROR_NONE)
            end_with_last(call); /* whose owner may cancel others: the list is walked anew */
    }
}

/* ---- the interface ---- */

static char *copy_text(char **to, const char *text)
{
    char *start = *to;
    size_t n = text ? strlen(text) : 0;
    if (n > 0)
        memcpy(start, text, n);
    start[n] = '\0';
    *to = start + n + 1;
    return start;
}

static size_t text_bytes(const char *text)
{
    return text ? strlen(text) + 1 : 1;
}

static struct engine_call *call_new(struct engine *e, const struct engine_call_options *o)
{
    struct engine_call *call = calloc(1, sizeof *call);
    size_t n = o->n_bytes + text_bytes(o->request_id) + text_bytes(o->traceparent) + text_bytes(o->tracestate);
    char *copy = call ? malloc(n) : NULL;
    if (!copy) {
        free(call);
        return NULL;
    }
    call->engine = e;
    call->options = *o;
    call->copy = copy;
    call->options.request_id = copy_text(&copy, o->request_id);
    call->options.traceparent = copy_text(&copy, o->traceparent);
    call->options.tracestate = copy_text(&copy, o->tracestate);
    call->options.data = copy;
    if (o->n_bytes > 0)
        memcpy(copy, o->data, o->n_bytes);
    call->next = e->calls;
    if (call->next)
        call->next->previous = call;
    e->calls = call;
    return call;
}

enum error_code engine_start(struct engine *e, const struct engine_call_options *options, struct engine_call **out,
                             struct error *err)
{
    bool work = options->channel == ENGINE_WORK;
    struct member *m = work ? pool_choose(e->pool, options->affinity, NULL, 0)
                            : pool_member(e->pool, options->member);
    if (!m && !pool_settling(e->pool))
        return error_set(err, ERROR_SERVICE_UNAVAILABLE, "no inference engine is available");
    struct engine_call *call = call_new(e, options);
    if (!call)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    enum error_code code = ERROR_NONE;
    call->parked = !m;
    if (m)
        code = go(call, m, err);
    else if (!set_timer(call, PATIENCE_MS))
        code = error_set(err, ERROR_INTERNAL, "out of memory");
    if (code != ERROR_NONE)
        call_free(call);
    else
        *out = call;
    return code;
}

void engine_release(struct engine_call *call, size_t cost)
{
    if (call->winner && call->winner->handle)
        bridge_release(call->winner->handle, cost);
}

void engine_cancel(struct engine_call *call)
{
    call_free(call);
}

size_t engine_n_members(const struct engine *e)
{
    return pool_n_members(e->pool);
}

enum engine_state engine_member(const struct engine *e, size_t index, bool *missed)
{
    const struct member *m = pool_member(e->pool, index);
    *missed = m->state == ENGINE_DOWN && (m->served || m->given);
    return m->state;
}

const char *engine_member_address(const struct engine *e, size_t index)
{
    return pool_member(e->pool, index)->address;
}

enum error_code engine_open(struct event_base *base, const struct gateway_config *config, struct metrics *metrics,
                            struct engine **out, struct error *err)
{
    struct engine *e = calloc(1, sizeof *e);
    if (!e)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    e->base = base;
    e->config = config;
    struct metrics_family *retries =
        metrics_add(metrics, METRICS_COUNTER, "bitnet_engine_retries_total",
                    "Further attempts at an engine, by why the one before was not enough.", "reason", NULL, 0);
    for (int i = RETRY_NONE + 1; i < N_RETRIES; i++)
        e->retries[i] = metrics_get(retries, retry_names[i]);
    enum error_code code = pool_open(base, config, metrics, e, on_change, &e->pool, err);
    if (code != ERROR_NONE)
        free(e);
    else
        *out = e;
    return code;
}

void engine_close(struct engine *e)
{
    while (e->calls)
        engine_cancel(e->calls);
    pool_close(e->pool);
    free(e);
}
