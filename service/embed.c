/*
 * Embed. Each input is a request of its own to the engine, some of them at a time; the call ends when all have, or with the first that fails.
 * As in inference.c, callbacks and posts of a call come one at a time, and on_done frees what it has.
 */
#include "base/clock.h"
#include "base/crash.h"
#include "base/log.h"
#include "bitnet/v1/inference.pb-c.h"
#include "service/caller.h"
#include "service/service.h"
#include "service/tracing.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_INPUTS 256
#define WINDOW 32 /* inputs in flight: enough for a batch, and room for others in the queue */

struct embedding {
    struct service *service;
    struct served *served;
    Bitnet__V1__EmbedRequest *message;
    struct tracing trace;
    int crash_place;
    char request_id[CALLER_BYTES], peer[CALLER_BYTES];
    const char *client;
    int64_t deadline_ns;
    size_t n, n_begun, n_done;
    bool over;
    uint32_t dimensions;
    uint64_t n_tokens;
    struct stream *streams[MAX_INPUTS]; /* kept until the end: they own the vectors */
    const float *vectors[MAX_INPUTS];   /* NULL: it is not there yet */
};

static void embedding_free(struct embedding *m)
{
    tracing_end(&m->trace, ERROR_CANCELLED, NULL); /* unless it has ended otherwise */
    crash_leave(m->crash_place);
    for (size_t i = 0; i < m->n_begun; i++)
        stream_close(m->streams[i]);
    served_release(m->served);
    message_free(m->message);
    free(m);
}

static void fail(struct embedding *m, struct rpc_call *call, const struct error *err)
{
    m->over = true;
    service_metrics_reject(m->service->metrics, err->reason);
    tracing_end(&m->trace, err->code, err->message);
    log_info("service", "request refused", LOG_STR("request_id", m->request_id), LOG_STR("trace_id", tracing_id(&m->trace)), LOG_STR("code", error_info(err->code)->name),
             LOG_STR("cause", err->reason), LOG_STR("reason", err->message));
    status_fail(m->service, call, err);
}

/* ---- answer ---- */

/* The first of a vector's values, at length 1. */
static void cut(const float *from, size_t n, float *out)
{
    double square = 0;
    for (size_t i = 0; i < n; i++)
        square += (double)from[i] * (double)from[i];
    double length = square > 0 ? sqrt(square) : 1;
    for (size_t i = 0; i < n; i++)
        out[i] = (float)((double)from[i] / length);
}

static bool fill(const struct embedding *m, Bitnet__V1__Embedding *embeddings, Bitnet__V1__Embedding **list,
                 float *values)
{
    size_t size = engine_model(served_engine(m->served))->embedding_size;
    if (!embeddings || !list || !values)
        return false;
    for (size_t i = 0; i < m->n; i++, values += m->dimensions) {
        if (m->dimensions < size)
            cut(m->vectors[i], m->dimensions, values);
        else
            memcpy(values, m->vectors[i], size * sizeof *values); /* as the engine gave it, to the bit */
        bitnet__v1__embedding__init(&embeddings[i]);
        embeddings[i].n_values = m->dimensions;
        embeddings[i].values = values;
        list[i] = &embeddings[i];
    }
    return true;
}

static void answer(struct embedding *m, struct rpc_call *call)
{
    Bitnet__V1__EmbedResponse response = BITNET__V1__EMBED_RESPONSE__INIT;
    Bitnet__V1__Embedding *embeddings = calloc(m->n, sizeof *embeddings), **list = calloc(m->n, sizeof *list);
    float *values = calloc(m->n, m->dimensions * sizeof *values);
    if (fill(m, embeddings, list, values)) {
        m->over = true;
        response.request_id = m->request_id;
        response.model = (char *)(uintptr_t)served_id(m->served);
        response.n_embeddings = m->n;
        response.embeddings = list;
        response.prompt_tokens = (uint32_t)m->n_tokens;
        tracing_embeddings(&m->trace, response.model, m->n_tokens);
        tracing_end(&m->trace, ERROR_NONE, NULL);
        log_info("service", "embeddings finished", LOG_STR("request_id", m->request_id), LOG_STR("trace_id", tracing_id(&m->trace)), LOG_STR("model", response.model),
                 LOG_INT("inputs", m->n), LOG_INT("prompt_tokens", m->n_tokens));
        message_answer(call, &response.base);
    } else {
        fail(m, call, &(struct error){.code = ERROR_MEMORY_EXHAUSTED, .message = "no memory for the embeddings"});
    }
    free(values);
    free(list);
    free(embeddings);
}

/* ---- inputs ---- */

static void on_ready(void *user);

/* Says which input it was. */
static void name_input(struct error *err, size_t i)
{
    if (err->code != ERROR_VALIDATION_FAILED)
        return;
    snprintf(err->param, sizeof err->param, "inputs[%zu]", i);
    error_prefix(err, "inputs[%zu]", i);
}

static enum error_code begin(struct embedding *m, struct rpc_call *call, size_t i, struct error *err)
{
    const Bitnet__V1__EmbedInput *in = m->message->inputs[i];
    struct request r = {.id = m->request_id,
                        .client_id = m->client,
                        .embed = true,
                        .priority = (enum priority)m->message->priority, /* the same numbers */
                        .deadline_ns = m->deadline_ns,
                        .on_ready = on_ready,
                        .user = call};
    bool tokens = in->input_case == BITNET__V1__EMBED_INPUT__INPUT_TOKENS;
    if (tokens) {
        r.tokens = in->tokens->ids;
        r.n_tokens = in->tokens->n_ids;
    } else {
        r.prompt = in->input_case == BITNET__V1__EMBED_INPUT__INPUT_TEXT ? in->text : "";
        r.prompt_bytes = strlen(r.prompt);
    }
    if (tokens && r.n_tokens == 0)
        error_set_param(err, ERROR_VALIDATION_FAILED, "tokens", "expected at least one id, found none");
    else
        engine_submit(served_engine(m->served), &r, &m->streams[i], err);
    name_input(err, i);
    return err->code;
}

/* Begins as many as the window has room for. One that finds no place waits for others of the call. */
static void begin_some(struct embedding *m, struct rpc_call *call)
{
    while (!m->over && m->n_begun < m->n && m->n_begun - m->n_done < WINDOW) {
        struct error err = {0};
        if (begin(m, call, m->n_begun, &err) == ERROR_NONE)
            m->n_begun++;
        else if (err.code == ERROR_SERVICE_UNAVAILABLE && m->n_begun > m->n_done)
            return;
        else
            fail(m, call, &err);
    }
}

static void take_end(struct embedding *m, struct rpc_call *call, size_t i, const struct stream_event *e)
{
    struct error err = e->error;
    m->n_done++;
    m->n_tokens += e->summary.n_prompt_tokens;
    m->vectors[i] = e->embedding;
    if (e->embedding)
        return;
    if (e->finish == FINISH_DEADLINE)
        error_set(&err, ERROR_DEADLINE_EXCEEDED, "the deadline passed after %zu of %zu inputs", m->n_done - 1, m->n);
    else if (e->finish != FINISH_ERROR)
        error_set(&err, ERROR_CANCELLED, "the request was cancelled");
    fail(m, call, &err);
}

static void advance(void *service, struct rpc_call *call)
{
    struct embedding *m = rpc_call_user(call);
    struct stream_event e;
    (void)service;
    for (size_t i = 0; m && i < m->n_begun && !m->over; i++)
        while (!m->over && !m->vectors[i]) {
            stream_read(m->streams[i], 0, &e);
            if (e.type == STREAM_NOTHING)
                break;
            if (e.type == STREAM_COMPLETE)
                take_end(m, call, i, &e);
        }
    if (!m || m->over)
        return;
    begin_some(m, call);
    if (!m->over && m->n_done == m->n)
        answer(m, call);
}

static void on_ready(void *user)
{
    rpc_post(user, advance);
}

/* ---- start ---- */

static int64_t deadline_of(const struct service *s, const Bitnet__V1__EmbedRequest *r, struct rpc_call *call)
{
    int64_t ms = r->timeout_ms ? (int64_t)r->timeout_ms : s->config->default_timeout_ms, now_ns = clock_now_ns();
    int64_t own_ns = ms ? now_ns + ms * CLOCK_NS_PER_MS : CLOCK_NEVER, call_ns = rpc_call_deadline_ns(call);
    return own_ns < call_ns ? own_ns : call_ns;
}

static enum error_code check(struct embedding *m, struct error *err)
{
    const Bitnet__V1__EmbedRequest *r = m->message;
    if (r->n_inputs < 1 || r->n_inputs > MAX_INPUTS)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "inputs", "inputs: expected 1 to %d, found %zu",
                               MAX_INPUTS, r->n_inputs);
    if (registry_acquire(m->service->registry, r->model, &m->served, err))
        return err->code;
    uint32_t size = engine_model(served_engine(m->served))->embedding_size;
    if (size == 0)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "model",
                               "model: expected one that computes embeddings, found \"%.64s\", which generates",
                               served_id(m->served));
    if (r->dimensions > size)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "dimensions", "dimensions: expected at most %u, found %u",
                               size, r->dimensions);
    m->dimensions = r->dimensions ? r->dimensions : size;
    m->n = r->n_inputs;
    return ERROR_NONE;
}

void embed_call(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    struct service *s = service;
    struct error err = {0};
    Bitnet__V1__EmbedRequest *r = message_unpack(&bitnet__v1__embed_request__descriptor, data, n_bytes, &err);
    struct embedding *m = r ? calloc(1, sizeof *m) : NULL;
    if (!m) {
        if (r)
            error_set(&err, ERROR_MEMORY_EXHAUSTED, "no memory for a request");
        status_fail(s, call, &err);
        message_free(r);
        return;
    }
    m->service = s;
    m->message = r;
    m->deadline_ns = deadline_of(s, r, call);
    m->client = caller_name(call, r->client_id, m->peer);
    tracing_begin(&m->trace, s->tracer, call, "/bitnet.v1.InferenceService/Embed");
    caller_request_id(call, r->request_id, m->request_id);
    m->crash_place = crash_enter(m->request_id);
    rpc_call_set_user(call, m);
    if (check(m, &err))
        fail(m, call, &err);
    else
        advance(s, call);
}

void embed_done(void *service, struct rpc_call *call, bool cancelled)
{
    struct embedding *m = rpc_call_user(call);
    (void)service;
    if (!m)
        return;
    if (cancelled && !m->over)
        log_info("service", "client went away or its deadline passed", LOG_STR("request_id", m->request_id));
    rpc_call_set_user(call, NULL);
    embedding_free(m);
}
