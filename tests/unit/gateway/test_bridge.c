/*
 * The bridge against an engine made of rpc's server half in the same process: streams, disconnects, back-pressure, errors,
 * and an engine that is not there. HTTP comes from memory; gRPC goes over a loopback socket.
 */
#include "tests/suite.h"
#include "tests/unit/gateway/memory.h"

#include "base/clock.h"
#include "base/log.h"
#include "bitnet/v1/admin.pb-c.h"
#include "bitnet/v1/inference.pb-c.h"
#include "gateway/engine.h"
#include "gateway/gateway.h"
#include "gateway/health.h"
#include "rpc/rpc.h"

#include <event2/event.h>
#include <stdatomic.h>

#define STREAM_TOKENS 200
#define TRACE "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

/* ---- the engine: what it does is told by the prompt ---- */

struct fake_call {
    int n_sent, n_tokens; /* tokens to send; then the end */
    int code;             /* the status at the end */
};

static atomic_int n_cancelled, n_done, n_flood;
static char seen_request_id[64], seen_trace[64], seen_state[64];

static void fake_send(struct rpc_call *c)
{
    struct fake_call *f = rpc_call_user(c);
    Bitnet__V1__StreamGenerateResponse r = BITNET__V1__STREAM_GENERATE_RESPONSE__INIT;
    Bitnet__V1__TokenEvent event = BITNET__V1__TOKEN_EVENT__INIT;
    Bitnet__V1__Token token = BITNET__V1__TOKEN__INIT, *tokens[1] = {&token};
    Bitnet__V1__GenerateResponse complete = BITNET__V1__GENERATE_RESPONSE__INIT;
    uint8_t packed[256];
    char text[16];
    const struct rpc_status end = {.code = f->code, .message = f->code ? "broken" : ""};
    if (f->n_sent > f->n_tokens) {
        rpc_call_finish(c, &end, NULL, 0);
        return;
    }
    if (f->n_sent < f->n_tokens) {
        snprintf(text, sizeof text, "t%d ", f->n_sent);
        token.text = text;
        token.id = (uint32_t)f->n_sent;
        event.position = (uint32_t)f->n_sent;
        event.n_tokens = 1;
        event.tokens = tokens;
        r.event_case = BITNET__V1__STREAM_GENERATE_RESPONSE__EVENT_TOKEN;
        r.token = &event;
        atomic_fetch_add(&n_flood, 1);
    } else if (f->code == 0) {
        r.event_case = BITNET__V1__STREAM_GENERATE_RESPONSE__EVENT_COMPLETE;
        r.complete = &complete;
    }
    f->n_sent++;
    if (f->code && f->n_sent > f->n_tokens)
        rpc_call_finish(c, &end, NULL, 0);
    else
        rpc_call_send(c, packed, bitnet__v1__stream_generate_response__pack(&r, packed));
}

static void fake_stream(void *service, struct rpc_call *c, const void *data, size_t n)
{
    (void)service;
    Bitnet__V1__GenerateRequest *q = bitnet__v1__generate_request__unpack(NULL, n, data);
    struct fake_call *f = calloc(1, sizeof *f);
    const char *id = rpc_call_metadata(c, "x-request-id");
    const char *trace = rpc_call_metadata(c, "traceparent"), *state = rpc_call_metadata(c, "tracestate");
    snprintf(seen_request_id, sizeof seen_request_id, "%s", id ? id : "");
    snprintf(seen_trace, sizeof seen_trace, "%s", trace ? trace : "");
    snprintf(seen_state, sizeof seen_state, "%s", state ? state : "");
    f->n_tokens = strcmp(q->prompt, "forever") == 0 ? 1 << 30 : STREAM_TOKENS;
    f->code = strcmp(q->prompt, "broken") == 0 ? 13 : 0;
    if (strcmp(q->prompt, "early") == 0) {
        f->code = 8;
        f->n_tokens = 0;
    }
    bitnet__v1__generate_request__free_unpacked(q, NULL);
    rpc_call_set_user(c, f);
    fake_send(c);
}

static void fake_sent(void *service, struct rpc_call *c, bool ok)
{
    (void)service;
    if (ok)
        fake_send(c);
}

static void fake_done(void *service, struct rpc_call *c, bool cancelled)
{
    (void)service;
    free(rpc_call_user(c));
    atomic_fetch_add(cancelled ? &n_cancelled : &n_done, 1);
}

static void fake_health(void *service, struct rpc_call *c, const void *data, size_t n)
{
    (void)service, (void)data, (void)n;
    Bitnet__V1__HealthResponse h = BITNET__V1__HEALTH_RESPONSE__INIT;
    uint8_t packed[128];
    h.status = BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_HEALTHY;
    h.model_loaded = h.engine_ready = h.device_available = h.resources_available = 1;
    const struct rpc_status ok = {.message = ""};
    rpc_call_finish(c, &ok, packed, bitnet__v1__health_response__pack(&h, packed));
}

static const struct rpc_method methods[] = {
    {.path = "/bitnet.v1.InferenceService/StreamGenerate",
     .kind = RPC_SERVER_STREAM,
     .on_message = fake_stream,
     .on_sent = fake_sent,
     .on_done = fake_done},
    {.path = "/bitnet.v1.AdminService/Health", .kind = RPC_UNARY, .on_message = fake_health},
    {0},
};

/* ---- the gateway ---- */

static char target[64];
static struct gateway_config config = {.engine = target,
                                       .max_body_bytes = 1 << 20,
                                       .max_prompt_chars = 8192,
                                       .request_timeout_ms = 20000,
                                       .engine_tries = 3};
static struct gateway g;
static struct memory m;
static struct rpc_server *server;

static void connect_client(void)
{
    const struct http_transport transport = {.user = &m, .wake = memory_wake, .pending = memory_pending};
    memset(&m, 0, sizeof m);
    buffer_init(&m.out, 256 << 20);
    m.conn = http_conn_open(&g.main_http, &transport, "192.0.2.1");
}

static void turn(void)
{
    const struct timeval soon = {0, 2000};
    event_base_loopexit(g.base, &soon);
    event_base_dispatch(g.base);
    http_conn_output(m.conn, &m.out);
}

static void setup(bool with_engine)
{
    struct error err;
    const struct rpc_server_options options = {.methods = methods, .listen = "127.0.0.1:0"};
    log_init(LOG_OFF, LOG_FORMAT_JSON);
    rpc_init();
    ck_assert_int_eq(rpc_server_open(&options, &server, &err), ERROR_NONE);
    snprintf(target, sizeof target, "127.0.0.1:%d", rpc_server_port(server));
    if (!with_engine)
        rpc_server_close(server); /* its port now refuses */
    g = (struct gateway){.config = &config, .base = event_base_new()};
    gateway_metrics_open(&g);
    g.health = health_open(&g);
    gateway_init_http(&g);
    ck_assert_int_eq(engine_open(g.base, &config, g.metrics, &g.engine, &err), ERROR_NONE);
    connect_client();
    bool missed;
    for (int64_t end = clock_now_ns() + 10 * CLOCK_NS_PER_S;
         with_engine && engine_member(g.engine, 0, &missed) != ENGINE_SERVING && clock_now_ns() < end;)
        turn();
}

static void teardown(bool with_engine)
{
    memory_close(&m);
    health_close(g.health);
    engine_close(g.engine);
    if (with_engine)
        rpc_server_close(server);
    metrics_close(g.metrics);
    event_base_free(g.base);
    rpc_fini();
}

/* Turns the loop until `text` was sent, at most five seconds. */
static bool sends(const char *text)
{
    int64_t end = clock_now_ns() + 5 * CLOCK_NS_PER_S;
    while (!strstr(memory_sent(&m), text) && clock_now_ns() < end)
        turn();
    return strstr(memory_sent(&m), text) != NULL;
}

static bool reaches(atomic_int *counter, int value)
{
    int64_t end = clock_now_ns() + 5 * CLOCK_NS_PER_S;
    while (atomic_load(counter) < value && clock_now_ns() < end)
        turn();
    return atomic_load(counter) >= value;
}

static void ask(const char *prompt)
{
    char body[64], text[512];
    snprintf(body, sizeof body, "{\"prompt\":\"%s\"}", prompt);
    snprintf(text, sizeof text,
             "POST /v1/inference/stream HTTP/1.1\r\nHost: a\r\nX-Request-Id: rid-1\r\n"
             "Traceparent: " TRACE "\r\nTracestate: a=1\r\nTracestate: b=2\r\n"
             "Content-Length: %zu\r\n\r\n%s",
             strlen(body), body);
    memory_text(&m, text);
}

START_TEST(streams_in_order)
{
    char text[32];
    setup(true);
    ask("some");
    ck_assert(sends("event: complete\n"));
    const char *at = memory_sent(&m);
    for (int i = 0; i < STREAM_TOKENS; i++) {
        snprintf(text, sizeof text, "\"text\":\"t%d \"", i);
        at = strstr(at, text);
        ck_assert_msg(at, "token %d is missing", i);
    }
    ck_assert_str_eq(seen_request_id, "rid-1");
    ck_assert_str_eq(seen_trace, TRACE);
    ck_assert_str_eq(seen_state, "a=1,b=2");
    ck_assert(sends("\r\n0\r\n\r\n"));
    teardown(true);
}
END_TEST

START_TEST(a_client_that_leaves_cancels)
{
    setup(true);
    ask("forever");
    ck_assert(sends("\"text\":\"t3 \""));
    memory_close(&m);
    connect_client();
    int64_t start = clock_now_ns();
    ck_assert(reaches(&n_cancelled, 1));
    ck_assert_int_lt((clock_now_ns() - start) / CLOCK_NS_PER_MS, 1000);
    teardown(true);
}
END_TEST

START_TEST(a_slow_reader_stops_the_engine)
{
    setup(true);
    ask("forever");
    ck_assert(sends("\"text\":\"t3 \""));
    m.pending = 1 << 20; /* nothing more goes out */
    int before, after, n_looks = 0;
    do { /* until all that may be on its way has come */
        before = atomic_load(&n_flood);
        buffer_clear(&m.out);
        for (int i = 0; i < 100; i++)
            turn();
        after = atomic_load(&n_flood);
    } while (before != after && ++n_looks < 20);
    ck_assert_int_eq(before, after);
    ck_assert_int_lt(after, 20000);
    ck_assert_uint_lt(m.out.n_bytes, 131072);
    m.pending = 0;
    http_conn_output(m.conn, &m.out);
    ck_assert(reaches(&n_flood, after + 1000));
    teardown(true);
}
END_TEST

START_TEST(errors_early_and_late)
{
    setup(true);
    ask("early");
    ck_assert(sends("HTTP/1.1 429 "));
    ck_assert(sends("retry-after: "));
    ask("broken");
    ck_assert(sends("event: error\n"));
    ck_assert(sends("\r\n0\r\n\r\n"));
    ck_assert_ptr_nonnull(strstr(memory_sent(&m), "\"text\":\"t199 \""));
    ck_assert_ptr_null(strstr(memory_sent(&m), "event: complete"));
    teardown(true);
}
END_TEST

START_TEST(no_engine_is_told_at_once)
{
    setup(false);
    int64_t start = clock_now_ns();
    ask("some");
    ck_assert(sends("HTTP/1.1 503 "));
    ck_assert_int_lt((clock_now_ns() - start) / CLOCK_NS_PER_MS, 1000);
    ck_assert(sends("retry-after: 1\r\n"));
    ck_assert(sends("\"code\":\"SERVICE_UNAVAILABLE\""));
    memory_text(&m, "GET /health/ready HTTP/1.1\r\nHost: a\r\n\r\n");
    ck_assert(sends("\"status\":\"not_ready\""));
    teardown(false);
}
END_TEST

START_TEST(an_engine_that_goes_ends_its_streams)
{
    setup(true);
    ask("forever");
    ck_assert(sends("\"text\":\"t3 \""));
    rpc_server_close(server);
    ck_assert(sends("event: error\n"));
    ck_assert_ptr_nonnull(strstr(memory_sent(&m), "SERVICE_UNAVAILABLE"));
    teardown(false);
}
END_TEST

START_TEST(health_is_asked_once_for_all)
{
    setup(true);
    memory_text(&m, "GET /health/ready HTTP/1.1\r\nHost: a\r\n\r\n");
    ck_assert(sends("\"status\":\"ready\""));
    memory_text(&m, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    ck_assert_ptr_nonnull(strstr(memory_sent(&m), "\"status\":\"healthy\"")); /* from the answer of a moment ago */
    teardown(true);
}
END_TEST

START_TEST(closing_with_open_streams)
{
    setup(true);
    ask("forever");
    ck_assert(sends("\"text\":\"t3 \""));
    teardown(true);
}
END_TEST

SUITE("bridge", streams_in_order, a_client_that_leaves_cancels, a_slow_reader_stops_the_engine, errors_early_and_late,
      no_engine_is_told_at_once, an_engine_that_goes_ends_its_streams, health_is_asked_once_for_all,
      closing_with_open_streams)
