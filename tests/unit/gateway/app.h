/*
 * The application without network and without gRPC: requests go through a connection in memory, and engine.h is
 * implemented here, so that a test says what the engine answers. Include it in one file of a program only.
 */
#ifndef TESTS_UNIT_GATEWAY_APP_H
#define TESTS_UNIT_GATEWAY_APP_H

#include "base/log.h"
#include "bitnet/v1/inference.pb-c.h"
#include "gateway/change.h"
#include "gateway/engine.h"
#include "gateway/gateway.h"
#include "gateway/health.h"
#include "google/protobuf/any.pb-c.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "tests/unit/gateway/memory.h"

#include <event2/event.h>

#define APP_MAX_CALLS 32

struct engine_call {
    struct engine_call_options options;
    struct buffer request;
    size_t held;
    bool cancelled, over;
};

static struct engine_call app_calls[APP_MAX_CALLS];
static int app_n_calls;
static enum error_code app_refuse; /* engine_start fails with it */
static size_t app_n_engines = 1;
static unsigned app_down; /* bit n: engine n is, and should not be */

enum error_code engine_start(struct engine *e, const struct engine_call_options *options, struct engine_call **out,
                             struct error *err)
{
    (void)e;
    if (app_refuse != ERROR_NONE || app_n_calls == APP_MAX_CALLS)
        return error_set(err, app_refuse != ERROR_NONE ? app_refuse : ERROR_SERVICE_UNAVAILABLE, "refused");
    struct engine_call *call = &app_calls[app_n_calls++];
    *call = (struct engine_call){.options = *options};
    buffer_init(&call->request, 4 << 20);
    buffer_append(&call->request, options->data, options->n_bytes);
    *out = call;
    return ERROR_NONE;
}

size_t engine_n_members(const struct engine *e)
{
    (void)e;
    return app_n_engines;
}

enum engine_state engine_member(const struct engine *e, size_t index, bool *missed)
{
    (void)e;
    *missed = app_down >> index & 1;
    return *missed ? ENGINE_DOWN : ENGINE_SERVING;
}

const char *engine_member_address(const struct engine *e, size_t index)
{
    static const char *const names[] = {"a:1", "b:1", "c:1", "d:1"};
    (void)e;
    return names[index];
}

void engine_release(struct engine_call *call, size_t cost)
{
    call->held -= cost;
}

void engine_cancel(struct engine_call *call)
{
    call->cancelled = call->over = true;
}

struct app {
    struct gateway_config config;
    struct gateway g;
    struct memory m; /* its connection speaks to the application */
};

static inline void app_connect(struct app *a, const struct http_settings *http)
{
    const struct http_transport transport = {.user = &a->m, .wake = memory_wake, .pending = memory_pending};
    memset(&a->m, 0, sizeof a->m);
    buffer_init(&a->m.out, 64 << 20);
    a->m.conn = http_conn_open(http, &transport, "192.0.2.1");
}

static inline void app_open(struct app *a)
{
    memset(a, 0, sizeof *a);
    log_init(LOG_OFF, LOG_FORMAT_JSON);
    app_n_calls = 0;
    app_refuse = ERROR_NONE;
    app_n_engines = 1;
    app_down = 0;
    a->config =
        (struct gateway_config){.max_body_bytes = 1 << 20, .max_prompt_chars = 8192, .request_timeout_ms = 600000,
                                .compression = "on"};
    a->g.config = &a->config;
    a->g.base = event_base_new();
    gateway_metrics_open(&a->g);
    a->g.health = health_open(&a->g);
    gateway_init_http(&a->g);
    app_connect(a, &a->g.main_http);
}

static inline void app_close(struct app *a)
{
    memory_close(&a->m);
    change_close_all(&a->g);
    health_close(a->g.health);
    for (int i = 0; i < app_n_calls; i++)
        buffer_fini(&app_calls[i].request);
    metrics_close(a->g.metrics);
    event_base_free(a->g.base);
}

/* A whole request; the answer, as far as it is there, is in app_sent. */
static inline void app_request(struct app *a, const char *method, const char *path, const char *headers,
                               const char *body)
{
    struct buffer b;
    buffer_init(&b, 8 << 20);
    buffer_clear(&a->m.out);
    buffer_printf(&b, "%s %s HTTP/1.1\r\nHost: a\r\nX-Request-Id: rid\r\n%sContent-Length: %zu\r\n\r\n%s", method, path,
                  headers, strlen(body), body);
    memory_input(&a->m, b.data, b.n_bytes, 0);
    buffer_fini(&b);
}

static inline void app_post(struct app *a, const char *path, const char *body)
{
    app_request(a, "POST", path, "Content-Type: application/json\r\n", body);
}

static inline const char *app_sent(struct app *a)
{
    http_conn_output(a->m.conn, &a->m.out);
    return memory_sent(&a->m);
}

static inline int app_status(struct app *a)
{
    const char *sent = app_sent(a);
    return strncmp(sent, "HTTP/1.1 ", 9) == 0 ? atoi(sent + 9) : 0;
}

static inline const char *app_body(struct app *a)
{
    const char *end = strstr(app_sent(a), "\r\n\r\n");
    return end ? end + 4 : "";
}

/* ---- what the engine says ---- */

static inline void app_message(int call, const ProtobufCMessage *message)
{
    struct engine_call *c = &app_calls[call];
    size_t n = protobuf_c_message_get_packed_size(message);
    uint8_t *packed = malloc(n + 1);
    protobuf_c_message_pack(message, packed);
    c->held += n * ENGINE_EXPANSION;
    c->options.on_message(c->options.user, packed, n, n * ENGINE_EXPANSION);
    free(packed);
}

static inline void app_end(int call, int code, const char *message)
{
    struct engine_call *c = &app_calls[call];
    const struct rpc_status status = {.code = code, .message = message};
    c->over = true;
    c->options.on_status(c->options.user, &status);
}

/* As service ends a call: ErrorInfo with the code's name. */
static inline void app_fail(int call, enum error_code code, const char *message)
{
    Google__Rpc__ErrorInfo reason = GOOGLE__RPC__ERROR_INFO__INIT;
    Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT, *list[] = {&any};
    Google__Rpc__Status packed = GOOGLE__RPC__STATUS__INIT;
    uint8_t info[256], bytes[512];
    struct engine_call *c = &app_calls[call];
    reason.reason = (char *)(uintptr_t)error_info(code)->name;
    any.type_url = (char *)(uintptr_t) "type.googleapis.com/google.rpc.ErrorInfo";
    any.value = (ProtobufCBinaryData){google__rpc__error_info__pack(&reason, info), info};
    packed.n_details = 1;
    packed.details = list;
    const struct rpc_status status = {.code = error_info(code)->grpc_status,
                                      .message = message,
                                      .details = bytes,
                                      .details_n_bytes = google__rpc__status__pack(&packed, bytes)};
    c->over = true;
    c->options.on_status(c->options.user, &status);
}

static inline void app_token(int call, uint32_t choice, uint32_t position, uint32_t id, const char *text, float logprob)
{
    Bitnet__V1__StreamGenerateResponse r = BITNET__V1__STREAM_GENERATE_RESPONSE__INIT;
    Bitnet__V1__TokenEvent event = BITNET__V1__TOKEN_EVENT__INIT;
    Bitnet__V1__Token token = BITNET__V1__TOKEN__INIT, *tokens[1] = {&token};
    Bitnet__V1__TokenLogprob lp = BITNET__V1__TOKEN_LOGPROB__INIT;
    token.id = lp.token_id = id;
    token.text = (char *)(uintptr_t)text;
    lp.token.data = (uint8_t *)(uintptr_t)text;
    lp.token.len = strlen(text);
    lp.logprob = logprob;
    if (logprob < 0)
        token.logprob = &lp;
    event.choice = choice;
    event.position = position;
    event.n_tokens = 1;
    event.tokens = tokens;
    r.event_case = BITNET__V1__STREAM_GENERATE_RESPONSE__EVENT_TOKEN;
    r.token = &event;
    app_message(call, &r.base);
}

static inline void app_choice_end(int call, uint32_t choice, Bitnet__V1__FinishReason reason)
{
    Bitnet__V1__StreamGenerateResponse r = BITNET__V1__STREAM_GENERATE_RESPONSE__INIT;
    Bitnet__V1__ChoiceEnd end = BITNET__V1__CHOICE_END__INIT;
    end.choice = choice;
    end.finish_reason = reason;
    r.event_case = BITNET__V1__STREAM_GENERATE_RESPONSE__EVENT_CHOICE_END;
    r.choice_end = &end;
    app_message(call, &r.base);
}

/* One choice with `text`, as a whole answer or as the end of a stream. */
static inline void app_answer(int call, bool stream, const char *text)
{
    Bitnet__V1__GenerateResponse a = BITNET__V1__GENERATE_RESPONSE__INIT;
    Bitnet__V1__Usage usage = BITNET__V1__USAGE__INIT;
    Bitnet__V1__Timing timing = BITNET__V1__TIMING__INIT;
    Bitnet__V1__Choice choice = BITNET__V1__CHOICE__INIT, *choices[1] = {&choice};
    choice.text = (char *)(uintptr_t)text;
    choice.finish_reason = BITNET__V1__FINISH_REASON__FINISH_REASON_LENGTH;
    usage.prompt_tokens = 4;
    usage.completion_tokens = 2;
    usage.cached_prompt_tokens = 1;
    timing = (Bitnet__V1__Timing){timing.base, 1.5, 20.25, 100.4, 25.0, 1.0};
    a.model = (char *)(uintptr_t) "tales";
    a.n_choices = 1;
    a.choices = choices;
    a.usage = &usage;
    a.timing = &timing;
    a.seed = 7;
    a.quantization = BITNET__V1__QUANTIZATION__QUANTIZATION_I2S;
    a.device = (char *)(uintptr_t) "cpu";
    a.memory_bytes = 3 << 20;
    if (stream) {
        Bitnet__V1__StreamGenerateResponse r = BITNET__V1__STREAM_GENERATE_RESPONSE__INIT;
        r.event_case = BITNET__V1__STREAM_GENERATE_RESPONSE__EVENT_COMPLETE;
        r.complete = &a;
        app_message(call, &r.base);
    } else {
        app_message(call, &a.base);
    }
}

static inline Bitnet__V1__GenerateRequest *app_generate_request(int call)
{
    const struct buffer *b = &app_calls[call].request;
    return bitnet__v1__generate_request__unpack(NULL, b->n_bytes, (const uint8_t *)b->data);
}

#endif
