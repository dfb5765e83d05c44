/*
 * Calls over several engines, each of them rpc's server half in this process: which failures go to another engine and which
 * do not, hedging, health, and what travels with a call.
 */
#include "tests/suite.h"

#include "base/clock.h"
#include "base/log.h"
#include "gateway/engine.h"
#include "gateway/gateway.h"
#include "google/protobuf/any.pb-c.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"

#include <event2/event.h>
#include <stdatomic.h>

enum { CANCELLED = 1, INVALID = 3, DEADLINE = 4, NOT_FOUND = 5, EXHAUSTED = 8, INTERNAL = 13, UNAVAILABLE = 14 };

#define N_FAKES 2
#define N_METHODS 4

/* ---- engines ---- */

struct fake {
    struct rpc_method methods[N_METHODS];
    struct rpc_server *server;
    atomic_int code;     /* what calls end with */
    _Atomic(const char *) reason; /* of ErrorInfo; NULL = none */
    atomic_bool silent;  /* says nothing */
    atomic_bool speaks_first; /* a message, then `code` */
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

static void fake_end(struct fake *f, struct rpc_call *c, const char *answer)
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
    rpc_call_finish(c, &status, answer, answer ? strlen(answer) : 0);
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
        fake_end(f, c, NULL);
}

static void work_sent(void *service, struct rpc_call *c, bool ok)
{
    if (ok)
        fake_end(service, c, NULL);
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

static char targets[128];
static struct gateway_config config;
static struct event_base *base;
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

static void turn(void)
{
    const struct timeval soon = {0, 2000};
    event_base_loopexit(base, &soon);
    event_base_dispatch(base);
}

#define TURN_UNTIL(condition)                                                                                          \
    do {                                                                                                               \
        for (int64_t end_ = clock_now_ns() + 10 * CLOCK_NS_PER_S; !(condition) && clock_now_ns() < end_;)              \
            turn();                                                                                                    \
        ck_assert(condition);                                                                                          \
    } while (0)

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
                                                .user = a,
                                                .on_message = on_message,
                                                .on_status = on_status};
    *a = (struct answer){.code = -1};
    return engine_start(engine, &options, &a->call, &err);
}

static int calls(void)
{
    return atomic_load(&fakes[0].n_calls) + atomic_load(&fakes[1].n_calls);
}

static double retries(const char *reason)
{
    return metrics_value(metrics_get(
        metrics_add(metrics, METRICS_COUNTER, "bitnet_engine_retries_total", "", "reason", NULL, 0), reason));
}

/* ---- which failures are tried again ---- */

static const struct {
    int code;
    const char *reason;
    int n_calls; /* in all, of at most three */
} failures[] = {
    {UNAVAILABLE, NULL, 3},
    {UNAVAILABLE, "SERVICE_UNAVAILABLE", 3},
    {CANCELLED, NULL, 3},
    {EXHAUSTED, "SERVICE_UNAVAILABLE", 2},
    {EXHAUSTED, "RATE_LIMIT_EXCEEDED", 1},
    {EXHAUSTED, NULL, 1},
    {INVALID, "VALIDATION_FAILED", 1},
    {NOT_FOUND, "MODEL_NOT_FOUND", 1},
    {INTERNAL, NULL, 1},
    {DEADLINE, NULL, 1},
};

START_TEST(failures_that_another_engine_may_not_have)
{
    struct answer a;
    setup(true);
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == 2);
    for (size_t i = 0; i < sizeof failures / sizeof *failures; i++) {
        for (int k = 0; k < N_FAKES; k++) {
            fakes[k].code = failures[i].code;
            fakes[k].reason = failures[i].reason;
        }
        int before = calls(), first = atomic_load(&fakes[0].n_calls);
        ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
        TURN_UNTIL(a.code >= 0);
        ck_assert_int_eq(a.code, failures[i].code);
        ck_assert_msg(calls() - before == failures[i].n_calls, "case %zu: %d calls", i, calls() - before);
        if (failures[i].n_calls == 2) /* one other engine, not the same one */
            ck_assert_int_eq(atomic_load(&fakes[0].n_calls) - first, 1);
    }
    teardown();
}
END_TEST

START_TEST(the_other_engine_answers)
{
    struct answer a;
    setup(true);
    fakes[0].code = UNAVAILABLE;
    fakes[1].speaks_first = true;
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == 2);
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
        TURN_UNTIL(a.code >= 0);
        ck_assert_int_eq(a.code, 0);
        ck_assert_int_eq(a.n_messages, 1);
    }
    ck_assert_int_eq(atomic_load(&fakes[1].n_calls), 4);
    ck_assert_int_eq((int)retries("unavailable"), atomic_load(&fakes[0].n_calls));
    ck_assert_int_ge(atomic_load(&fakes[0].n_calls), 1);
    teardown();
}
END_TEST

START_TEST(what_has_begun_is_not_begun_anew)
{
    struct answer a;
    setup(true);
    for (int k = 0; k < N_FAKES; k++) {
        fakes[k].code = UNAVAILABLE;
        fakes[k].speaks_first = true;
    }
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == 2);
    ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
    TURN_UNTIL(a.code >= 0);
    ck_assert_int_eq(a.code, UNAVAILABLE);
    ck_assert_int_eq(a.n_messages, 1);
    ck_assert_int_eq(calls(), 1);
    teardown();
}
END_TEST

START_TEST(tries_are_bounded)
{
    struct answer a;
    setup(true);
    fakes[0].code = fakes[1].code = UNAVAILABLE;
    config.engine_tries = 1;
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == 2);
    ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
    TURN_UNTIL(a.code >= 0);
    ck_assert_int_eq(calls(), 1);
    teardown();
}
END_TEST

START_TEST(time_is_not_exceeded_by_trying)
{
    struct answer a;
    setup(true);
    fakes[0].silent = fakes[1].silent = true;
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == 2);
    ck_assert_int_eq(start(&a, 100, 0), ERROR_NONE);
    TURN_UNTIL(a.code >= 0);
    ck_assert_int_eq(a.code, DEADLINE);
    ck_assert_int_eq(calls(), 1);
    teardown();
}
END_TEST

/* ---- hedging ---- */

START_TEST(a_silent_engine_is_hedged)
{
    struct answer a;
    setup(true);
    fakes[0].silent = true;
    fakes[1].speaks_first = true;
    config.hedge_ms = 20;
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == 2);
    for (int i = 0; i < 2; i++) { /* each engine is the first one once */
        ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
        TURN_UNTIL(a.code >= 0);
        ck_assert_int_eq(a.code, 0);
        ck_assert_int_eq(a.n_messages, 1);
    }
    ck_assert_int_eq(atomic_load(&fakes[0].n_calls), 1);
    ck_assert_int_eq((int)retries("hedge"), 1);
    TURN_UNTIL(atomic_load(&fakes[0].n_cancelled) == 1); /* the loser */
    teardown();
}
END_TEST

START_TEST(a_hedge_that_fails_leaves_the_first)
{
    struct answer a;
    setup(true);
    fakes[0].silent = true;
    fakes[1].code = UNAVAILABLE;
    config.hedge_ms = 20;
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == 2);
    ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
    TURN_UNTIL(atomic_load(&fakes[1].n_calls) >= 1);
    for (int i = 0; i < 20; i++)
        turn();
    ck_assert_int_eq(a.code, -1);
    engine_cancel(a.call);
    TURN_UNTIL(atomic_load(&fakes[0].n_cancelled) == 1);
    teardown();
}
END_TEST

/* ---- health ---- */

static void set_serving(struct fake *f, int status)
{
    atomic_store(&f->serving, status);
    struct rpc_call *watch = atomic_load(&f->watch);
    ck_assert_ptr_nonnull(watch);
    send_health(f, watch);
}

START_TEST(an_engine_that_drains_gets_nothing_new)
{
    struct answer a, running;
    setup(true);
    fakes[0].silent = true;
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == 2);
    do {
        ck_assert_int_eq(start(&running, 60000, 0), ERROR_NONE);
        for (int i = 0; i < 20; i++)
            turn();
    } while (running.code >= 0); /* until it is the silent one's turn */
    set_serving(&fakes[0], 2);
    TURN_UNTIL(n_in_state(ENGINE_NOT_SERVING) == 1);
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
        TURN_UNTIL(a.code >= 0);
    }
    ck_assert_int_eq(atomic_load(&fakes[0].n_calls), 1);
    ck_assert_int_eq(running.code, -1); /* what runs goes on */
    set_serving(&fakes[1], 2);
    TURN_UNTIL(n_in_state(ENGINE_NOT_SERVING) == 2);
    ck_assert_int_eq(start(&a, 5000, 0), ERROR_SERVICE_UNAVAILABLE);
    set_serving(&fakes[1], 1);
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == 1);
    ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
    teardown();
}
END_TEST

START_TEST(an_engine_that_is_gone_is_down_until_it_is_back)
{
    struct answer a;
    struct error err;
    char listen[64];
    bool missed;
    setup(true);
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == 2);
    snprintf(listen, sizeof listen, "127.0.0.1:%d", rpc_server_port(fakes[0].server));
    rpc_server_close(fakes[0].server);
    TURN_UNTIL(n_in_state(ENGINE_DOWN) == 1);
    ck_assert_int_eq(engine_member(engine, 0, &missed), ENGINE_DOWN);
    ck_assert(missed);
    ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
    TURN_UNTIL(a.code == 0);
    const struct rpc_server_options options = {.methods = fakes[0].methods, .listen = listen};
    ck_assert_int_eq(rpc_server_open(&options, &fakes[0].server, &err), ERROR_NONE);
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == 2);
    teardown();
}
END_TEST

START_TEST(an_engine_without_a_health_service_serves)
{
    struct answer a;
    setup(false);
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == 2);
    ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
    TURN_UNTIL(a.code == 0);
    teardown();
}
END_TEST

/* ---- before the first verdict ---- */

START_TEST(a_call_waits_for_the_first_verdict)
{
    struct answer a;
    setup(true);
    fakes[0].speaks_first = fakes[1].speaks_first = true;
    open_engine();
    ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
    TURN_UNTIL(a.code == 0);
    ck_assert_int_eq(a.n_messages, 1);
    teardown();
}
END_TEST

START_TEST(calls_that_wait_end_with_the_last_hope)
{
    struct answer a[4];
    setup(true);
    for (int i = 0; i < N_FAKES; i++) {
        rpc_server_close(fakes[i].server);
        fakes[i].server = NULL;
    }
    open_engine();
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(start(&a[i], 5000, 0), ERROR_NONE);
    for (int i = 0; i < 4; i++)
        a[i].also = &a[i ^ 1]; /* as a request of two calls cancels the other one */
    TURN_UNTIL(n_in_state(ENGINE_DOWN) == 2);
    int n_ended = 0;
    for (int i = 0; i < 4; i++)
        n_ended += a[i].code == UNAVAILABLE;
    ck_assert_int_eq(n_ended, 2);
    ck_assert_int_eq(start(&a[0], 5000, 0), ERROR_SERVICE_UNAVAILABLE);
    teardown();
}
END_TEST

/* ---- the rest ---- */

START_TEST(metadata_and_deadline_travel)
{
    struct answer a;
    setup(true);
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == 2);
    ck_assert_int_eq(start(&a, 30000, 0), ERROR_NONE);
    TURN_UNTIL(a.code == 0);
    const struct fake *f = &fakes[atomic_load(&fakes[0].n_calls) == 1 ? 0 : 1];
    ck_assert_str_eq(f->request_id, "rid");
    ck_assert_str_eq(f->trace, "00-1-2-01");
    ck_assert_str_eq(f->state, "a=b,c=d");
    ck_assert_int_le(atomic_load(&f->left_ms), 31000); /* the wire has it in coarse units */
    ck_assert_int_gt(atomic_load(&f->left_ms), 5000);
    teardown();
}
END_TEST

START_TEST(a_key_keeps_its_engine)
{
    struct answer a;
    setup(true);
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == 2);
    for (int i = 0; i < 6; i++) {
        ck_assert_int_eq(start(&a, 5000, 4711), ERROR_NONE);
        TURN_UNTIL(a.code == 0);
    }
    ck_assert_int_eq(atomic_load(&fakes[0].n_calls) * atomic_load(&fakes[1].n_calls), 0);
    ck_assert_int_eq(calls(), 6);
    teardown();
}
END_TEST

START_TEST(closing_with_calls_in_all_conditions)
{
    static struct answer a[8];
    setup(true);
    fakes[0].silent = true;
    fakes[1].code = UNAVAILABLE;
    config.hedge_ms = 1;
    open_engine();
    for (int i = 0; i < 4; i++)
        start(&a[i], 5000, 0); /* wait for a verdict */
    TURN_UNTIL(calls() >= 4);
    for (int i = 4; i < 8; i++)
        start(&a[i], 5000, 0);
    engine_cancel(a[7].call);
    teardown();
}
END_TEST

SUITE("engine", failures_that_another_engine_may_not_have, the_other_engine_answers, what_has_begun_is_not_begun_anew,
      tries_are_bounded, time_is_not_exceeded_by_trying, a_silent_engine_is_hedged, a_hedge_that_fails_leaves_the_first,
      an_engine_that_drains_gets_nothing_new, an_engine_that_is_gone_is_down_until_it_is_back,
      an_engine_without_a_health_service_serves, a_call_waits_for_the_first_verdict,
      calls_that_wait_end_with_the_last_hope, metadata_and_deadline_travel, a_key_keeps_its_engine,
      closing_with_calls_in_all_conditions)
