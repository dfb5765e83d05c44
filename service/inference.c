/*
 * Generate and StreamGenerate.
 *
 *   message -> engine_submit -> stream        the loop: on_ready -> rpc_post -> advance, here
 *   advance: stream_read -> one message at a time (a stream) | collected (one answer) -> complete
 *   the prompt's log-probabilities, where they were asked for, come first and are kept by the stream until it is closed
 *
 * A generation belongs to its call, whose callbacks and posts come one at a time; it is freed in on_done, which closes the stream and so
 * ends the sequence when the client went away.
 */
#include "base/clock.h"
#include "base/crash.h"
#include "base/log.h"
#include "service/caller.h"
#include "service/collect.h"
#include "service/convert.h"
#include "service/echo.h"
#include "service/latency.h"
#include "service/load_report.h"
#include "service/tracing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CHOICES CONVERT_MAX_CHOICES
#define EVENT_TOKENS COLLECT_EVENT_TOKENS
#define INFERENCE "/bitnet.v1.InferenceService/"

struct generation {
    struct service *service;
    struct served *served; /* the model that it began with, held until its end */
    struct stream *stream;
    bool streaming, sending, over;
    bool echo_sent[MAX_CHOICES];
    bool logprobs;
    bool call_deadline; /* the call's deadline comes before timeout_ms: then there is no answer */
    uint32_t n_choices, n_answers, n_top; /* generated; of these, in the answer */
    uint64_t seed;
    int crash_place;
    char request_id[CALLER_BYTES], fingerprint[CONVERT_FINGERPRINT_BYTES];
    struct tracing trace;
    struct echo echo;
    struct buffer texts; /* of the event that is being packed */
    struct collected choices[MAX_CHOICES];
};

static void generation_free(struct generation *g)
{
    tracing_end(&g->trace, ERROR_CANCELLED, NULL); /* unless it has ended otherwise */
    crash_leave(g->crash_place);
    stream_close(g->stream);
    served_release(g->served);
    for (size_t i = 0; i < MAX_CHOICES; i++)
        collect_fini(&g->choices[i]);
    echo_fini(&g->echo);
    buffer_fini(&g->texts);
    free(g);
}

static const struct tokenizer *tokenizer_of(const struct generation *g)
{
    return engine_tokenizer(served_engine(g->served));
}

static char *model_of(const struct generation *g)
{
    return (char *)(uintptr_t)served_id(g->served);
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

/* Room for the log-probabilities of one message, each with its alternatives. */
struct logprob_room {
    Bitnet__V1__TokenLogprob entry[EVENT_TOKENS];
    Bitnet__V1__TopLogprob top[EVENT_TOKENS], *top_list[EVENT_TOKENS];
};

static bool send_tokens(struct generation *g, struct rpc_call *call, const struct stream_event *e)
{
    struct logprob_room room;
    size_t n_top = 0; /* in the room */
    Bitnet__V1__Token tokens[EVENT_TOKENS], *list[EVENT_TOKENS];
    size_t offsets[EVENT_TOKENS];
    Bitnet__V1__TokenEvent event = BITNET__V1__TOKEN_EVENT__INIT;
    Bitnet__V1__StreamGenerateResponse response = BITNET__V1__STREAM_GENERATE_RESPONSE__INIT;
    buffer_clear(&g->texts);
    for (size_t i = 0; i < e->n_tokens; i++) { /* all texts first: the buffer moves while it grows */
        offsets[i] = g->texts.n_bytes;
        if (!g->echo_sent[e->choice])
            buffer_append(&g->texts, g->echo.text.data, g->echo.text.n_bytes);
        g->echo_sent[e->choice] = true;
        message_text(&g->texts, e->tokens[i].text, e->tokens[i].n_bytes);
        buffer_append_char(&g->texts, '\0');
    }
    for (size_t i = 0; i < e->n_tokens; i++) {
        const struct token *t = &e->tokens[i];
        bitnet__v1__token__init(&tokens[i]);
        tokens[i].id = t->id;
        tokens[i].text = g->texts.data + offsets[i];
        if (g->logprobs) {
            collect_logprob(tokenizer_of(g), t->id, t->logprob, t->top, t->n_top,
                            &room.entry[i], &room.top[n_top], &room.top_list[n_top]);
            tokens[i].logprob = &room.entry[i];
            n_top += t->n_top;
        }
        list[i] = &tokens[i];
    }
    event.choice = e->choice;
    event.position = e->position;
    if (e->position == 0) {
        event.model = model_of(g);
        event.system_fingerprint = g->fingerprint;
    }
    event.n_tokens = e->n_tokens;
    event.tokens = list;
    response.event_case = BITNET__V1__STREAM_GENERATE_RESPONSE__EVENT_TOKEN;
    response.token = &event;
    return message_send(call, &response.base);
}

/* The next of the prompt's tokens; its text, if any, goes with the first of them instead of with the answer's. */
static bool send_prompt(struct generation *g, struct rpc_call *call)
{
    for (size_t c = 0; c < MAX_CHOICES; c++)
        g->echo_sent[c] = true;
    return echo_send(&g->echo, call, tokenizer_of(g), model_of(g), g->fingerprint);
}

static bool send_choice_end(struct rpc_call *call, const struct stream_event *e)
{
    Bitnet__V1__ChoiceEnd end = BITNET__V1__CHOICE_END__INIT;
    Bitnet__V1__StreamGenerateResponse response = BITNET__V1__STREAM_GENERATE_RESPONSE__INIT;
    end.choice = e->choice;
    end.finish_reason = convert_finish(e->finish);
    response.event_case = BITNET__V1__STREAM_GENERATE_RESPONSE__EVENT_CHOICE_END;
    response.choice_end = &end;
    return message_send(call, &response.base);
}

/* The parts of the answer that both kinds of calls share. */
struct answer {
    Bitnet__V1__GenerateResponse response;
    Bitnet__V1__Usage usage;
    Bitnet__V1__Timing timing;
};

static void answer_init(struct answer *a, struct generation *g, const struct stream_summary *sum)
{
    const struct engine_model *m = engine_model(served_engine(g->served));
    bitnet__v1__generate_response__init(&a->response);
    bitnet__v1__usage__init(&a->usage);
    bitnet__v1__timing__init(&a->timing);
    a->usage.prompt_tokens = sum->n_prompt_tokens;
    a->usage.completion_tokens = sum->n_generated_tokens;
    a->usage.cached_prompt_tokens = sum->n_cached_tokens;
    a->timing.queue_ms = sum->queue_ms;
    a->timing.time_to_first_token_ms = sum->first_token_ms;
    a->timing.total_ms = sum->total_ms;
    a->timing.tokens_per_second = sum->tokens_per_second;
    a->timing.mean_batch_size = sum->mean_batch_size;
    a->response.request_id = g->request_id;
    a->response.model = model_of(g);
    a->response.system_fingerprint = g->fingerprint;
    a->response.usage = &a->usage;
    a->response.timing = &a->timing;
    a->response.seed = g->seed;
    a->response.quantization = convert_quantization(m->quantization);
    a->response.device = (char *)(uintptr_t)(sum->devices[0] ? sum->devices : m->device);
    a->response.memory_bytes = m->weight_bytes + m->kv_bytes + m->scratch_bytes;
    struct engine_accuracy accuracy;
    if (engine_accuracy(served_engine(g->served), &accuracy)) {
        a->response._accuracy_case = BITNET__V1__GENERATE_RESPONSE___ACCURACY_ACCURACY;
        a->response.accuracy = accuracy.recent;
    }
}

static void send_complete(struct generation *g, struct rpc_call *call, const struct stream_event *e)
{
    struct answer a;
    Bitnet__V1__Choice choices[MAX_CHOICES], *list[MAX_CHOICES];
    Bitnet__V1__StreamGenerateResponse response = BITNET__V1__STREAM_GENERATE_RESPONSE__INIT;
    answer_init(&a, g, &e->summary);
    for (uint32_t i = 0; i < g->n_choices; i++) {
        bitnet__v1__choice__init(&choices[i]);
        choices[i].index = i;
        choices[i].finish_reason = convert_finish(g->choices[i].finish ? g->choices[i].finish : e->finish);
        list[i] = &choices[i];
    }
    a.response.n_choices = g->n_choices;
    a.response.choices = list;
    response.event_case = BITNET__V1__STREAM_GENERATE_RESPONSE__EVENT_COMPLETE;
    response.complete = &a.response;
    message_send(call, &response.base);
    rpc_call_finish(call, &(struct rpc_status){.message = ""}, NULL, 0);
}

/* ---- one answer -------------------------------------------------------------------------------------------------- */

static void answer_once(struct generation *g, struct rpc_call *call, const struct stream_event *e)
{
    const struct tokenizer *t = tokenizer_of(g);
    struct answer a;
    Bitnet__V1__Choice choices[MAX_CHOICES], *list[MAX_CHOICES];
    struct collect_room rooms[MAX_CHOICES] = {0}, prompt = {0};
    uint32_t order[MAX_CHOICES] = {0, 1, 2, 3, 4, 5, 6, 7};
    answer_init(&a, g, &e->summary);
    bool ok = echo_fill(&g->echo, t, g->n_top, &prompt);
    a.response.n_prompt_logprobs = g->echo.n_tokens;
    a.response.prompt_logprobs = prompt.entry_list;
    if (g->n_choices > g->n_answers)
        collect_rank(g->choices, g->n_choices, order);
    for (uint32_t i = 0; i < g->n_answers; i++) {
        struct collected *c = &g->choices[order[i]];
        if (!c->finish)
            c->finish = e->finish;
        ok = ok && collect_choice(c, t, g->logprobs, g->n_top, &choices[i], &rooms[i]);
        choices[i].index = i;
        list[i] = &choices[i];
    }
    a.response.n_choices = g->n_answers;
    a.response.choices = list;
    if (ok)
        message_answer(call, &a.response.base);
    else
        status_fail(g->service, call,
                    &(struct error){.code = ERROR_MEMORY_EXHAUSTED, .message = "no memory for the answer"});
    for (uint32_t i = 0; i < MAX_CHOICES; i++)
        collect_room_free(&rooms[i]);
    collect_room_free(&prompt);
}

/* ---- progress ---------------------------------------------------------------------------------------------------- */

static const char *const finish_names[] = {"none", "stop", "length", "cancelled", "deadline", "error"};

static void log_end(const struct generation *g, const struct stream_event *e)
{
    log_info("service", "request finished", LOG_STR("request_id", g->request_id), LOG_STR("trace_id", tracing_id(&g->trace)),
             LOG_STR("model", model_of(g)), LOG_STR("finish", finish_names[e->finish]),
             LOG_INT("prompt_tokens", e->summary.n_prompt_tokens),
             LOG_INT("generated_tokens", e->summary.n_generated_tokens), LOG_FLOAT("queue_ms", e->summary.queue_ms),
             LOG_FLOAT("total_ms", e->summary.total_ms),
             LOG_STR("error", e->finish == FINISH_ERROR ? e->error.message : NULL));
}

/* The answer in the request's spans. */
static void trace_answer(struct generation *g, const struct stream_event *e)
{
    const char *finishes[MAX_CHOICES];
    for (uint32_t i = 0; i < g->n_answers; i++)
        finishes[i] = finish_names[g->choices[i].finish ? g->choices[i].finish : e->finish];
    tracing_answer(&g->trace, served_id(g->served), engine_model(served_engine(g->served)), g->request_id, &e->summary, finishes, g->n_answers);
}

static void complete(struct generation *g, struct rpc_call *call, const struct stream_event *e)
{
    struct error err = e->error;
    g->over = true;
    log_end(g, e);
    if (e->finish == FINISH_DEADLINE && e->summary.n_generated_tokens == 0)
        error_set(&err, ERROR_DEADLINE_EXCEEDED, "the deadline passed before the first token");
    else if (e->finish == FINISH_DEADLINE && g->call_deadline)
        error_set(&err, ERROR_DEADLINE_EXCEEDED, "the call's deadline passed after %u tokens",
                  e->summary.n_generated_tokens);
    else if (e->finish == FINISH_CANCELLED)
        error_set(&err, ERROR_CANCELLED, "the request was cancelled");
    else if (e->finish != FINISH_ERROR)
        err.code = ERROR_NONE;
    trace_answer(g, e);
    latency_request(g->request_id, tracing_id(&g->trace), &e->summary);
    load_report_add(g->service, call);
    tracing_end(&g->trace, err.code, err.message);
    if (err.code) {
        service_metrics_reject(g->service->metrics, err.reason); /* it had a place, but has not started */
        status_fail(g->service, call, &err);
    } else if (g->streaming)
        send_complete(g, call, e);
    else
        answer_once(g, call, e);
}

/* The engine has given up on a reader, behind whose unread message nothing gets out any more. */
static void give_up(struct generation *g, struct rpc_call *call)
{
    const struct error_info *info = error_info(ERROR_READER_STALLED);
    g->over = true;
    service_metrics_error(g->service->metrics, ERROR_READER_STALLED);
    tracing_end(&g->trace, ERROR_READER_STALLED, NULL);
    log_info("service", "the client does not read its stream", LOG_STR("request_id", g->request_id), LOG_STR("trace_id", tracing_id(&g->trace)),
             LOG_STR("code", info->name));
    rpc_call_abort(call, info->grpc_status, "the stream was not read and has been given up");
}

/* Takes from the stream what is there, until a message is under way or nothing is left. */
static void advance(void *service, struct rpc_call *call)
{
    struct generation *g = rpc_call_user(call);
    struct stream_event e;
    size_t max_tokens = !g || !g->streaming ? EVENT_TOKENS : g->service->coalesce ? collect_event_tokens(g->logprobs, g->n_top) : 1;
    (void)service;
    if (g && !g->over && g->sending && stream_stalled(g->stream))
        give_up(g, call);
    while (g && !g->over && !g->sending) {
        if (g->streaming && echo_waits(&g->echo)) {
            g->sending = send_prompt(g, call);
            continue;
        }
        stream_read(g->stream, max_tokens, &e);
        switch (e.type) {
        case STREAM_NOTHING:
            return;
        case STREAM_PROMPT:
            g->echo.tokens = e.tokens;
            g->echo.n_tokens = e.n_tokens;
            break;
        case STREAM_TOKENS:
            if (g->streaming)
                g->sending = send_tokens(g, call, &e);
            else if (!collect_add(&g->choices[e.choice], &e)) {
                g->over = true;
                status_fail(g->service, call,
                            &(struct error){.code = ERROR_MEMORY_EXHAUSTED, .message = "no memory for the answer"});
            }
            break;
        case STREAM_CHOICE_END:
            g->choices[e.choice].finish = e.finish;
            if (g->streaming)
                g->sending = send_choice_end(call, &e);
            break;
        case STREAM_COMPLETE:
            complete(g, call, &e);
            break;
        }
    }
}

void inference_sent(void *service, struct rpc_call *call, bool ok)
{
    struct generation *g = rpc_call_user(call);
    (void)ok; /* a failure is followed by on_done */
    if (g)
        g->sending = false;
    advance(service, call);
}

void inference_done(void *service, struct rpc_call *call, bool cancelled)
{
    struct generation *g = rpc_call_user(call);
    (void)service;
    if (!g)
        return;
    if (cancelled && !g->over)
        log_info("service", "client went away or its deadline passed", LOG_STR("request_id", g->request_id),
                 LOG_STR("trace_id", tracing_id(&g->trace)));
    rpc_call_set_user(call, NULL);
    generation_free(g);
}

/* ---- start ------------------------------------------------------------------------------------------------------- */

static void on_ready(void *user)
{
    rpc_post(user, advance);
}

static struct generation *generation_new(struct service *s, bool streaming)
{
    struct generation *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    g->service = s;
    g->streaming = streaming;
    echo_init(&g->echo);
    buffer_init(&g->texts, COLLECT_MAX_TEXT_BYTES);
    for (size_t i = 0; i < MAX_CHOICES; i++)
        collect_init(&g->choices[i]);
    return g;
}

static enum error_code submit(struct generation *g, struct rpc_call *call, const Bitnet__V1__GenerateRequest *r,
                              struct error *err)
{
    struct converted c;
    char peer[CALLER_BYTES];
    if (registry_acquire_on(g->service->registry, r->model, convert_device(r->device), &g->served, err))
        return err->code;
    struct engine *engine = served_engine(g->served);
    if (g->streaming && r->best_of > (r->n ? r->n : 1))
        return error_set_param(err, ERROR_VALIDATION_FAILED, "best_of",
                               "best_of: expected no more than n in a stream, whose tokens are sent before the best are known");
    enum error_code code = convert_request(g->service, tokenizer_of(g), r, rpc_call_deadline_ns(call), &c, err);
    if (!code)
        code = echo_take(&g->echo, tokenizer_of(g), r, err);
    for (size_t i = 0; i < MAX_CHOICES && !g->streaming; i++)
        buffer_append(&g->choices[i].text, g->echo.text.data, g->echo.text.n_bytes);
    if (!code) {
        c.request.id = g->request_id;
        c.request.trace_id = g->trace.here.flags & 1 ? tracing_id(&g->trace) : NULL; /* exemplars name traces that can be looked up */
        c.request.client_id = caller_name(call, r->client_id, peer);
        c.request.on_ready = on_ready;
        c.request.user = call;
        g->n_choices = c.request.n;
        g->n_answers = r->n ? r->n : 1;
        g->logprobs = r->logprobs;
        g->n_top = r->top_logprobs;
        g->seed = c.request.sampling.seed;
        convert_fingerprint(served_id(g->served), engine_model(engine), g->fingerprint);
        g->call_deadline = c.call_deadline;
        tracing_request(&g->trace, r, &c.request);
        if (convert_has_form(r)) {
            code = engine_admits(engine, &c.request, err);
            if (!code)
                code = convert_form(g->service, r, &c, err);
        }
        if (!code)
            code = engine_submit(engine, &c.request, &g->stream, err);
    }
    convert_fini(&c);
    return code;
}

static void start(struct service *s, struct rpc_call *call, const void *data, size_t n_bytes, bool streaming)
{
    struct error err = {0};
    Bitnet__V1__GenerateRequest *r = message_unpack(&bitnet__v1__generate_request__descriptor, data, n_bytes, &err);
    struct generation *g = r ? generation_new(s, streaming) : NULL;
    if (r && !g)
        error_set(&err, ERROR_MEMORY_EXHAUSTED, "no memory for a request");
    if (g) {
        tracing_begin(&g->trace, s->tracer, call, streaming ? INFERENCE "StreamGenerate" : INFERENCE "Generate");
        caller_request_id(call, r->request_id, g->request_id);
        g->crash_place = crash_enter(g->request_id);
    }
    if (!g || submit(g, call, r, &err)) {
        service_metrics_reject(s->metrics, err.reason);
        log_info("service", "request refused", LOG_STR("request_id", g ? g->request_id : NULL), LOG_STR("trace_id", g ? tracing_id(&g->trace) : NULL),
                 LOG_STR("code", error_info(err.code)->name), LOG_STR("cause", err.reason), LOG_STR("reason", err.message));
        load_report_add(s, call);
        status_fail(s, call, &err);
        if (g) {
            tracing_end(&g->trace, err.code, err.message);
            generation_free(g);
        }
    } else {
        rpc_call_set_user(call, g); /* posts run on this thread, so none came before */
        advance(s, call);
    }
    message_free(r);
}

void inference_generate(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    start(service, call, data, n_bytes, false);
}

void inference_stream(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    start(service, call, data, n_bytes, true);
}
