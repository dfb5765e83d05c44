/* The engine that computes nothing. A call's state is its own; all runs on the server's completion thread. */
#include "tests/unit/load/server.h"

#include "bitnet/v1/inference.pb-c.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TOKENS_A_MESSAGE 16

struct call {
    uint32_t n_prompt, max_tokens, n_sent;
    int number;
    bool ended; /* the client may have been told */
    enum { TOKENS, COMPLETE, OVER } next;
};

static void send_event(struct rpc_call *call, const Bitnet__V1__StreamGenerateResponse *event)
{
    uint8_t bytes[2048];
    size_t n = bitnet__v1__stream_generate_response__get_packed_size(event);
    ck_assert_uint_le(n, sizeof bytes);
    bitnet__v1__stream_generate_response__pack(event, bytes);
    rpc_call_send(call, bytes, n);
}

static void send_tokens(struct fake *f, struct rpc_call *call, struct call *c)
{
    Bitnet__V1__StreamGenerateResponse event = BITNET__V1__STREAM_GENERATE_RESPONSE__INIT;
    Bitnet__V1__TokenEvent tokens = BITNET__V1__TOKEN_EVENT__INIT;
    Bitnet__V1__Token token[MAX_TOKENS_A_MESSAGE], *list[MAX_TOKENS_A_MESSAGE];
    char text[MAX_TOKENS_A_MESSAGE][16];
    tokens.position = c->n_sent;
    tokens.tokens = list;
    for (; tokens.n_tokens < f->tokens_a_message && c->n_sent < c->max_tokens; c->n_sent++) {
        size_t i = tokens.n_tokens++;
        bitnet__v1__token__init(&token[i]);
        snprintf(text[i], sizeof text[i], "t%u ", f->differ ? c->n_sent + (uint32_t)c->number : c->n_sent);
        token[i].text = text[i];
        list[i] = &token[i];
    }
    event.event_case = BITNET__V1__STREAM_GENERATE_RESPONSE__EVENT_TOKEN;
    event.token = &tokens;
    c->next = c->n_sent == c->max_tokens ? COMPLETE : TOKENS;
    send_event(call, &event);
}

static void send_complete(struct fake *f, struct rpc_call *call, struct call *c)
{
    Bitnet__V1__StreamGenerateResponse event = BITNET__V1__STREAM_GENERATE_RESPONSE__INIT;
    Bitnet__V1__GenerateResponse answer = BITNET__V1__GENERATE_RESPONSE__INIT;
    Bitnet__V1__Usage usage = BITNET__V1__USAGE__INIT;
    usage.prompt_tokens = c->n_prompt;
    usage.completion_tokens = c->max_tokens + f->lose;
    answer.usage = &usage;
    event.event_case = BITNET__V1__STREAM_GENERATE_RESPONSE__EVENT_COMPLETE;
    event.complete = &answer;
    c->next = OVER;
    send_event(call, &event);
}

/* Before the client hears of it, which may send its next request then. */
static void stop_running(struct fake *f, struct call *c)
{
    if (!c->ended)
        atomic_fetch_sub(&f->n_running, 1);
    c->ended = true;
}

static void finish(struct fake *f, struct rpc_call *call, const struct rpc_status *status)
{
    stop_running(f, rpc_call_user(call));
    rpc_call_finish(call, status, NULL, 0);
}

static void go_on(struct fake *f, struct rpc_call *call, struct call *c)
{
    if (c->n_sent > 0 && f->silent)
        return;
    if (c->n_sent > 0 && f->fail)
        finish(f, call, &(struct rpc_status){.code = 13, .message = "as planned"});
    else if (c->next == TOKENS)
        send_tokens(f, call, c);
    else if (c->next == COMPLETE)
        send_complete(f, call, c);
    else
        finish(f, call, &(struct rpc_status){.message = ""});
}

static void refuse(struct fake *f, struct rpc_call *call)
{
    uint8_t retry_bytes[32], bytes[256];
    Google__Protobuf__Duration delay = GOOGLE__PROTOBUF__DURATION__INIT;
    Google__Rpc__RetryInfo retry = GOOGLE__RPC__RETRY_INFO__INIT;
    Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT, *list = &any;
    Google__Rpc__Status status = GOOGLE__RPC__STATUS__INIT;
    delay.seconds = f->retry_ms / 1000;
    delay.nanos = (int32_t)(f->retry_ms % 1000) * 1000000;
    retry.retry_delay = &delay;
    any.type_url = (char *)(uintptr_t) "type.googleapis.com/google.rpc.RetryInfo";
    any.value.len = google__rpc__retry_info__pack(&retry, retry_bytes);
    any.value.data = retry_bytes;
    status.n_details = 1;
    status.details = &list;
    size_t n = google__rpc__status__pack(&status, bytes);
    finish(f, call, &(struct rpc_status){.code = 8, .message = "full", .details = bytes, .details_n_bytes = n});
}

static void on_message(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    struct fake *f = service;
    Bitnet__V1__GenerateRequest *r = bitnet__v1__generate_request__unpack(NULL, n_bytes, data);
    ck_assert_ptr_nonnull(r);
    struct call *c = calloc(1, sizeof *c);
    c->number = atomic_fetch_add(&f->n_requests, 1);
    c->n_prompt = r->tokens ? (uint32_t)r->tokens->n_ids : 1;
    c->max_tokens = r->max_tokens;
    bitnet__v1__generate_request__free_unpacked(r, NULL);
    rpc_call_set_user(call, c);
    int running = atomic_fetch_add(&f->n_running, 1) + 1;
    if (running > atomic_load(&f->max_running))
        atomic_store(&f->max_running, running);
    if (f->refuse_every && c->number % f->refuse_every == f->refuse_every - 1)
        refuse(f, call);
    else
        go_on(f, call, c);
}

static void on_sent(void *service, struct rpc_call *call, bool ok)
{
    if (ok)
        go_on(service, call, rpc_call_user(call));
}

static void on_done(void *service, struct rpc_call *call, bool cancelled)
{
    struct fake *f = service;
    atomic_fetch_add(&f->n_cancelled, cancelled);
    stop_running(f, rpc_call_user(call));
    free(rpc_call_user(call));
}

void fake_open(struct fake *f)
{
    struct error err = {0};
    f->methods[0] = (struct rpc_method){.path = "/bitnet.v1.InferenceService/StreamGenerate",
                                        .kind = RPC_SERVER_STREAM,
                                        .service = f,
                                        .on_message = on_message,
                                        .on_sent = on_sent,
                                        .on_done = on_done};
    ck_assert_msg(!rpc_server_open(&(struct rpc_server_options){.methods = f->methods, .listen = "127.0.0.1:0"},
                                   &f->server, &err),
                  "%s", err.message);
    snprintf(f->target, sizeof f->target, "127.0.0.1:%d", rpc_server_port(f->server));
}

void fake_close(struct fake *f)
{
    rpc_server_close(f->server);
}
