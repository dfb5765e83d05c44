/*
 * GET /health, /health/live, /health/ready. Live says that this loop turns; the other two ask all engines and merge what they
 * say. Requests that come while a question is under way wait for its answer, so that probes never add up to load.
 */
#include "gateway/health.h"

#include "base/clock.h"
#include "bitnet/v1/admin.pb-c.h"
#include "gateway/ask_all.h"
#include "gateway/emit.h"
#include "gateway/health_merge.h"
#include "gateway/query.h"

#include "version.h"

#include <stdlib.h>
#include <string.h>

#define FRESH_NS CLOCK_NS_PER_S
#define TIMEOUT_NS (450 * CLOCK_NS_PER_MS) /* within the 500 ms that readiness may take */

#ifdef FEATURE_DEGRADED_OK
#define DEGRADED_STATUS 200
#else
#define DEGRADED_STATUS 503
#endif

/* A request that waits for the engine's answer. */
struct waiter {
    struct health *health;
    struct request *r;
    void (*answer)(struct request *r, const Bitnet__V1__HealthResponse *engine);
    struct waiter *next, *previous;
};

struct health {
    struct gateway *g;
    struct ask_all *round; /* under way; NULL: none is */
    Bitnet__V1__HealthResponse *last; /* of all engines; owned; NULL: none answered */
    int64_t last_ns;
    size_t n_serving; /* engines, at that time */
    struct waiter *waiters;
};

struct health *health_open(struct gateway *g)
{
    struct health *h = calloc(1, sizeof *h);
    if (h)
        h->g = g;
    return h;
}

static void free_response(Bitnet__V1__HealthResponse *response)
{
    if (response)
        bitnet__v1__health_response__free_unpacked(response, NULL);
}

void health_close(struct health *h)
{
    if (!h)
        return;
    if (h->round)
        ask_all_cancel(h->round);
    free_response(h->last);
    free(h);
}

/* ---- asking ---- */

static void waiter_free(struct waiter *w)
{
    *(w->previous ? &w->previous->next : &w->health->waiters) = w->next;
    if (w->next)
        w->next->previous = w->previous;
    w->r->on_gone = NULL;
    free(w);
}

static void on_gone(void *user)
{
    waiter_free(user); /* the question goes on: its answer serves the next one */
}

static void answer_all(struct health *h)
{
    while (h->waiters) {
        struct waiter *w = h->waiters;
        struct request *r = w->r;
        void (*answer)(struct request *, const Bitnet__V1__HealthResponse *) = w->answer;
        waiter_free(w);
        answer(r, h->last);
    }
}

static size_t count_serving(const struct engine *e)
{
    bool missed;
    size_t n = 0;
    for (size_t i = 0; i < engine_n_members(e); i++)
        n += engine_member(e, i, &missed) == ENGINE_SERVING;
    return n;
}

static void on_answers(void *user, const struct ask_all_answers *answers)
{
    struct health *h = user;
    h->round = NULL;
    free_response(h->last);
    h->last = NULL;
    if (answers->n > 0) {
        health_merge((Bitnet__V1__HealthResponse **)answers->messages, answers->n, answers->n_missing);
        h->last = (Bitnet__V1__HealthResponse *)answers->messages[0];
        answers->messages[0] = NULL;
    }
    h->last_ns = clock_now_ns();
    h->n_serving = count_serving(h->g->engine);
    answer_all(h);
}

/* Asks every engine that is not down. False when there is none. */
static bool ask_engines(struct health *h)
{
    struct error err;
    const struct engine_call_options options = {
        .path = "/bitnet.v1.AdminService/Health", .data = "", .deadline_ns = clock_now_ns() + TIMEOUT_NS};
    return ask_all_start(h->g->engine, &options, &bitnet__v1__health_response__descriptor, false, h, on_answers,
                         &h->round, &err) == ERROR_NONE;
}

static void ask(struct request *r, void (*answer)(struct request *, const Bitnet__V1__HealthResponse *))
{
    struct health *h = r->g->health;
    if (!query_empty(r))
        return;
    bool fresh = h->last && clock_now_ns() - h->last_ns < FRESH_NS;
    if (fresh && count_serving(r->g->engine) == h->n_serving) {
        answer(r, h->last);
        return;
    }
    struct waiter *w = calloc(1, sizeof *w);
    if (!w || (!h->round && !ask_engines(h))) {
        free(w);
        answer(r, NULL);
        return;
    }
    *w = (struct waiter){.health = h, .r = r, .answer = answer, .next = h->waiters};
    if (w->next)
        w->next->previous = w;
    h->waiters = w;
    r->user = w;
    r->on_gone = on_gone;
}

/* ---- answers ---- */

static void put_timestamp(struct buffer *b)
{
    char now[CLOCK_RFC3339_BYTES];
    emit_key(b, "timestamp");
    emit_text(b, clock_rfc3339(clock_wall_ns(), now));
}

void handle_live(struct request *r)
{
    struct buffer b;
    if (!query_empty(r))
        return;
    buffer_init(&b, 256);
    emit_open(&b, '{');
    emit_key(&b, "status");
    emit_text(&b, "alive");
    put_timestamp(&b);
    emit_close(&b, '}');
    request_json(r, 200, &b);
    buffer_fini(&b);
}

static void put_check(struct buffer *b, const char *name, bool ok)
{
    emit_key(b, name);
    emit_bool(b, ok);
}

static void ready_answer(struct request *r, const Bitnet__V1__HealthResponse *e)
{
    bool draining = r->g->draining || (e && e->draining);
    bool ready = !draining && e && e->model_loaded && e->engine_ready && e->device_available && e->resources_available;
    struct buffer b;
    buffer_init(&b, 1024);
    emit_open(&b, '{');
    emit_key(&b, "status");
    emit_text(&b, ready ? "ready" : draining ? "draining" : "not_ready");
    put_timestamp(&b);
    emit_key(&b, "checks");
    emit_open(&b, '{');
    put_check(&b, "model_loaded", e && e->model_loaded);
    put_check(&b, "inference_engine_ready", e && e->engine_ready);
    put_check(&b, "device_available", e && e->device_available);
    put_check(&b, "resources_available", e && e->resources_available);
    emit_close(&b, '}');
    emit_close(&b, '}');
    request_json(r, ready ? 200 : 503, &b);
    buffer_fini(&b);
}

static const char *status_name(Bitnet__V1__HealthStatus status)
{
    return status == BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_HEALTHY    ? "healthy"
           : status == BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_DEGRADED ? "degraded"
                                                                         : "unhealthy";
}

static void put_component(struct buffer *b, const char *name, const char *status, const char *message)
{
    emit_key(b, name);
    emit_open(b, '{');
    emit_key(b, "status");
    emit_text(b, status);
    if (message && message[0] != '\0') {
        emit_key(b, "message");
        emit_text(b, message);
    }
    emit_close(b, '}');
}

static void put_components(struct buffer *b, const Bitnet__V1__HealthResponse *e)
{
    static const char *const names[] = {"model_manager", "execution_router", "batch_engine", "device_monitor",
                                        "quantization_engine"};
    emit_key(b, "components");
    emit_open(b, '{');
    for (size_t i = 0; !e && i < sizeof names / sizeof *names; i++)
        put_component(b, names[i], "unhealthy", "no inference engine answers");
    for (size_t i = 0; e && i < e->n_components; i++)
        put_component(b, e->components[i]->name, status_name(e->components[i]->status), e->components[i]->message);
    emit_close(b, '}');
}

/* Words separated by spaces as an array. */
static void put_words(struct buffer *b, const char *key, const char *words)
{
    emit_key(b, key);
    emit_open(b, '[');
    for (const char *p = words; *p; p += strspn(p, " ")) {
        size_t n = strcspn(p, " ");
        if (n > 0)
            emit_bytes(b, p, n);
        p += n;
    }
    emit_close(b, ']');
}

static void put_build(struct buffer *b, const Bitnet__V1__HealthResponse *e)
{
    emit_key(b, "version");
    emit_text(b, e ? e->version : BITNET_VERSION);
    emit_key(b, "build");
    emit_open(b, '{');
    emit_key(b, "git_sha");
    emit_text(b, e ? e->git_sha : BITNET_GIT_SHA);
    emit_key(b, "compiler");
    emit_text(b, e ? e->compiler : BITNET_COMPILER);
    put_words(b, "features", e ? e->features : BITNET_FEATURES);
    emit_close(b, '}');
}

static void put_measured(struct buffer *b, const Bitnet__V1__HealthResponse *e)
{
    emit_key(b, "system_metrics");
    emit_open(b, '{');
    emit_key(b, "cpu_utilization");
    emit_fixed(b, e->cpu_utilization, 4);
    emit_key(b, "memory_usage_bytes");
    emit_uint(b, e->memory_bytes);
    if (e->gpu_memory_bytes > 0) {
        emit_key(b, "gpu_memory_usage_bytes");
        emit_uint(b, e->gpu_memory_bytes);
    }
    emit_key(b, "active_requests");
    emit_uint(b, e->active_requests);
    emit_key(b, "queue_depth");
    emit_uint(b, e->queue_depth);
    emit_key(b, "tokens_generated");
    emit_uint(b, e->tokens_generated);
    emit_key(b, "kv_cache_utilization");
    emit_fixed(b, e->kv_cache_utilization, 4);
    emit_close(b, '}');
    if (e->window_requests == 0)
        return;
    emit_key(b, "performance_indicators");
    emit_open(b, '{');
    emit_key(b, "avg_response_time_ms");
    emit_fixed(b, e->avg_response_time_ms, 3);
    emit_key(b, "requests_per_second");
    emit_fixed(b, e->requests_per_second, 3);
    emit_key(b, "error_rate");
    emit_fixed(b, e->error_rate, 6);
    emit_key(b, "sla_compliance");
    emit_fixed(b, e->sla_compliance, 6);
    emit_close(b, '}');
}

static void health_answer(struct request *r, const Bitnet__V1__HealthResponse *e)
{
    const char *status = e ? status_name(e->status) : "unhealthy";
    struct buffer b;
    buffer_init(&b, 65536);
    emit_open(&b, '{');
    emit_key(&b, "status");
    emit_text(&b, status);
    put_timestamp(&b);
    bool all = !r->access.restricted; /* strangers need not know the build and the load */
    if (all) {
        emit_key(&b, "uptime_seconds");
        emit_fixed(&b, e ? e->uptime_seconds : (double)(clock_now_ns() - r->g->started_ns) / 1e9, 3);
        put_build(&b, e);
    }
    put_components(&b, e);
    if (e && all)
        put_measured(&b, e);
    emit_close(&b, '}');
    int code = strcmp(status, "healthy") == 0 ? 200 : strcmp(status, "degraded") == 0 ? DEGRADED_STATUS : 503;
    request_json(r, code, &b);
    buffer_fini(&b);
}

void handle_health(struct request *r)
{
    ask(r, health_answer);
}

void handle_ready(struct request *r)
{
    ask(r, ready_answer);
}
