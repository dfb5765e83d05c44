/*
 * Engines for tests of the pool: rpc's server half in this process, which do what their fields say, and a struct engine in front
 * of them with its loop. Include it in one file of a program only.
 */
#ifndef TESTS_UNIT_GATEWAY_FAKES_H
#define TESTS_UNIT_GATEWAY_FAKES_H

#include "base/clock.h"
#include "base/log.h"
#include "gateway/engine.h"
#include "gateway/gateway.h"
#include "google/protobuf/any.pb-c.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"
#include "tests/unit/gateway/turns.h"

#include <event2/event.h>
#include <stdatomic.h>

#define N_FAKES 3
#define N_METHODS 3 /* with the end of the list */

/* ---- engines ---- */

struct fake {
    struct rpc_method methods[N_METHODS];
    struct rpc_server *server;
    atomic_int code;     /* what calls end with */
    _Atomic(const char *) reason; /* of ErrorInfo; NULL = none */
    atomic_bool silent;  /* says nothing */
    atomic_bool speaks_first; /* a message, then `code` */
    atomic_bool holds;   /* nothing behind that message */
    atomic_int serving;  /* HealthCheckResponse's status */
    atomic_int n_calls, n_cancelled;
    _Atomic(struct rpc_call *) watch;
    char request_id[64], trace[64], state[64];
    atomic_llong left_ms; /* of the deadline, when the call came */
};

static struct fake fakes[N_FAKES];

static void copy_metadata(struct rpc_call *c, const char *key, char out[64])
{
    const char *value = rpc_call_metadata(c, key);
    snprintf(out, 64, "%s", value ? value : "-");
}

static void fake_end(struct fake *f, struct rpc_call *c)
{
    Google__Rpc__ErrorInfo info = GOOGLE__RPC__ERROR_INFO__INIT;
    Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT, *details[1] = {&any};
    Google__Rpc__Status s = GOOGLE__RPC__STATUS__INIT;
    uint8_t packed_info[256], packed[512];
    const char *reason = atomic_load(&f->reason);
    struct rpc_status status = {.code = atomic_load(&f->code)};
    status.message = status.code ? "no" : "";
    if (reason) {
        info.reason = (char *)(uintptr_t)reason;
        any.type_url = (char *)(uintptr_t) "type.googleapis.com/google.rpc.ErrorInfo";
        any.value.len = google__rpc__error_info__pack(&info, packed_info);
        any.value.data = packed_info;
        s.n_details = 1;
        s.details = details;
        status.details_n_bytes = google__rpc__status__pack(&s, packed);
        status.details = packed;
    }
    rpc_call_finish(c, &status, NULL, 0);
}

static void work_message(void *service, struct rpc_call *c, const void *data, size_t n)
{
    struct fake *f = service;
    ck_assert(n == 2 && memcmp(data, "hi", 2) == 0);
    copy_metadata(c, "x-request-id", f->request_id);
    copy_metadata(c, "traceparent", f->trace);
    copy_metadata(c, "tracestate", f->state);
    atomic_store(&f->left_ms, (rpc_call_deadline_ns(c) - clock_now_ns()) / CLOCK_NS_PER_MS);
    atomic_fetch_add(&f->n_calls, 1);
    if (f->silent)
        return;
    if (f->speaks_first)
        rpc_call_send(c, "word", 4);
    else
        fake_end(f, c);
}

static void work_sent(void *service, struct rpc_call *c, bool ok)
{
    struct fake *f = service;
    if (ok && !f->holds)
        fake_end(f, c);
}

static void work_done(void *service, struct rpc_call *c, bool cancelled)
{
    (void)c;
    if (cancelled)
        atomic_fetch_add(&((struct fake *)service)->n_cancelled, 1);
}

static void send_health(void *service, struct rpc_call *c)
{
    struct fake *f = service;
    Grpc__Health__V1__HealthCheckResponse r = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    uint8_t packed[16];
    r.status = (Grpc__Health__V1__HealthCheckResponse__ServingStatus)atomic_load(&f->serving);
    rpc_call_send(c, packed, grpc__health__v1__health_check_response__pack(&r, packed));
}

static void watch_message(void *service, struct rpc_call *c, const void *data, size_t n)
{
    (void)data, (void)n;
    rpc_call_get(c);
    atomic_store(&((struct fake *)service)->watch, c);
    send_health(service, c);
}

static void watch_done(void *service, struct rpc_call *c, bool cancelled)
{
    (void)cancelled;
    atomic_store(&((struct fake *)service)->watch, NULL);
    rpc_call_put(c);
}

static void fake_open(struct fake *f, bool health)
{
    struct error err;
    f->methods[0] = (struct rpc_method){.path = "/t.T/Work",
                                        .kind = RPC_SERVER_STREAM,
                                        .service = f,
                                        .on_message = work_message,
                                        .on_sent = work_sent,
                                        .on_done = work_done};
    if (health)
        f->methods[1] = (struct rpc_method){.path = "/grpc.health.v1.Health/Watch",
                                            .kind = RPC_SERVER_STREAM,
                                            .service = f,
                                            .on_message = watch_message,
                                            .on_done = watch_done};
    atomic_store(&f->serving, 1);
    const struct rpc_server_options options = {.methods = f->methods, .listen = "127.0.0.1:0"};
    ck_assert_int_eq(rpc_server_open(&options, &f->server, &err), ERROR_NONE);
}

/* ---- the gateway's side ---- */

struct answer {
    struct engine_call *call;
    int n_messages, code; /* code -1: not over */
    struct answer *also;  /* to be cancelled when this one ends */
};

static bool hedged = true; /* what calls say of hedging */
static char targets[128];
static struct gateway_config config;
static struct metrics *metrics;
static struct engine *engine;

static void setup(bool health)
{
    size_t n = 0;
    log_init(LOG_OFF, LOG_FORMAT_JSON);
    rpc_init();
    memset(fakes, 0, sizeof fakes);
    for (int i = 0; i < N_FAKES; i++) {
        fake_open(&fakes[i], health);
        n += (size_t)snprintf(targets + n, sizeof targets - n, "%s127.0.0.1:%d", i ? "," : "",
                              rpc_server_port(fakes[i].server));
    }
    config = (struct gateway_config){.engine = targets, .engine_tries = 3};
    base = event_base_new();
    metrics = metrics_open();
}

static void open_engine(void)
{
    struct error err = {0};
    ck_assert_msg(engine_open(base, &config, metrics, &engine, &err) == ERROR_NONE, "%s", err.message);
}

static void teardown(void)
{
    engine_close(engine);
    for (int i = 0; i < N_FAKES; i++)
        if (fakes[i].server)
            rpc_server_close(fakes[i].server);
    metrics_close(metrics);
    event_base_free(base);
    rpc_fini();
}

static size_t n_in_state(enum engine_state state)
{
    bool missed;
    size_t n = 0;
    for (size_t i = 0; i < engine_n_members(engine); i++)
        n += engine_member(engine, i, &missed) == state;
    return n;
}

static void on_message(void *user, const void *data, size_t n_bytes, size_t cost)
{
    struct answer *a = user;
    ck_assert(n_bytes == 4 && memcmp(data, "word", 4) == 0);
    a->n_messages++;
    engine_release(a->call, cost);
}

static void on_status(void *user, const struct rpc_status *status)
{
    struct answer *a = user;
    ck_assert_int_eq(a->code, -1);
    a->code = status->code;
    if (a->also && a->also->code < 0)
        engine_cancel(a->also->call);
}

static enum error_code start(struct answer *a, int64_t timeout_ms, uint64_t affinity)
{
    struct error err;
    const struct engine_call_options options = {.path = "/t.T/Work",
                                                .data = "hi",
                                                .n_bytes = 2,
                                                .deadline_ns = clock_now_ns() + timeout_ms * CLOCK_NS_PER_MS,
                                                .request_id = "rid",
                                                .traceparent = "00-1-2-01",
                                                .tracestate = "a=b,c=d",
                                                .affinity = affinity,
                                                .hedge = hedged,
                                                .user = a,
                                                .on_message = on_message,
                                                .on_status = on_status};
    *a = (struct answer){.code = -1};
    return engine_start(engine, &options, &a->call, &err);
}

static int calls(void)
{
    int n = 0;
    for (int i = 0; i < N_FAKES; i++)
        n += atomic_load(&fakes[i].n_calls);
    return n;
}

static double retries(const char *reason)
{
    return metrics_value(metrics_get(
        metrics_add(metrics, METRICS_COUNTER, "bitnet_engine_retries_total", "", "reason", NULL, 0), reason));
}

#endif
