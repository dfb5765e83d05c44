/* The spans of a generation. Attributes are those of OpenTelemetry's conventions for RPC servers and generative models; our own begin
 * with bitnet. Never a word of a prompt or an answer. */
#include "service/tracing.h"

#include "base/clock.h"

#include <string.h>

#define MS_NS 1e6

void tracing_begin(struct tracing *t, struct tracer *tracer, struct rpc_call *call, const char *method)
{
    const struct trace_context parent = trace_context_read(rpc_call_metadata(call, "traceparent"));
    const char *state = parent.known ? rpc_call_metadata(call, "tracestate") : NULL;
    if (state && strlen(state) >= TRACE_STATE_BYTES)
        state = NULL;
    t->span = span_start(tracer, method + 1, SPAN_SERVER, &parent, state, clock_now_ns(), &t->here);
    trace_id_write(&t->here, t->id);
    span_set_text(t->span, "rpc.system", "grpc");
    span_set_text(t->span, "rpc.service", "bitnet.v1.InferenceService");
    span_set_text(t->span, "rpc.method", strrchr(method, '/') + 1);
}

const char *tracing_id(const struct tracing *t)
{
    return t->id[0] ? t->id : NULL;
}

void tracing_request(struct tracing *t, const Bitnet__V1__GenerateRequest *r, const struct request *q)
{
    if (!t->span)
        return;
    bool chat = r->input_case == BITNET__V1__GENERATE_REQUEST__INPUT_CHAT;
    span_set_text(t->span, "gen_ai.operation.name", chat ? "chat" : "text_completion");
    span_set_text(t->span, "gen_ai.provider.name", "bitnet");
    span_set_text(t->span, "gen_ai.request.model", r->model[0] ? r->model : NULL);
    span_set_int(t->span, "gen_ai.request.max_tokens", q->max_tokens);
    span_set_float(t->span, "gen_ai.request.temperature", (double)q->sampling.temperature);
    span_set_float(t->span, "gen_ai.request.top_p", (double)q->sampling.top_p);
    span_set_int(t->span, "gen_ai.request.top_k", q->sampling.top_k);
    span_set_int(t->span, "gen_ai.request.seed", (int64_t)q->sampling.seed);
    if (q->n > 1)
        span_set_int(t->span, "gen_ai.request.choice.count", q->n);
}

static void add_phase(const struct tracing *t, const char *name, int64_t from_ns, int64_t to_ns, const char *key, int64_t value)
{
    struct span *s = span_child(t->span, name, SPAN_INTERNAL, from_ns);
    if (key)
        span_set_int(s, key, value);
    span_end(s, to_ns);
}

/* As far as the request came. */
static void add_phases(const struct tracing *t, const struct stream_summary *sum)
{
    int64_t arrival_ns = sum->arrival_ns, end_ns = arrival_ns + (int64_t)(sum->total_ms * MS_NS);
    int64_t admitted_ns = arrival_ns + (int64_t)(sum->queue_ms * MS_NS);
    int64_t first_ns = arrival_ns + (int64_t)(sum->first_token_ms * MS_NS);
    add_phase(t, "queue", arrival_ns, admitted_ns, NULL, 0);
    if (!sum->admitted)
        return;
    add_phase(t, "prefill", admitted_ns, sum->first_token_ms > 0 ? first_ns : end_ns, "gen_ai.usage.input_tokens", sum->n_prompt_tokens);
    if (sum->first_token_ms > 0)
        add_phase(t, "decode", first_ns, end_ns, "gen_ai.usage.output_tokens", sum->n_generated_tokens);
}

void tracing_answer(struct tracing *t, const char *id, const struct engine_model *m, const char *request_id, const struct stream_summary *summary,
                    const char *const *finishes, size_t n_finishes)
{
    if (!t->span)
        return;
    span_set_text(t->span, "gen_ai.response.id", request_id);
    span_set_text(t->span, "gen_ai.response.model", id);
    if (n_finishes > 0)
        span_set_texts(t->span, "gen_ai.response.finish_reasons", finishes, n_finishes);
    span_set_int(t->span, "gen_ai.usage.input_tokens", summary->n_prompt_tokens);
    span_set_int(t->span, "gen_ai.usage.output_tokens", summary->n_generated_tokens);
    span_set_text(t->span, "bitnet.quantization", m->quantization);
    span_set_text(t->span, "bitnet.device", m->device);
    span_set_float(t->span, "bitnet.batch_size", summary->mean_batch_size);
    span_set_int(t->span, "bitnet.cached_tokens", summary->n_cached_tokens);
    add_phases(t, summary);
}

void tracing_embeddings(struct tracing *t, const char *id, uint64_t n_tokens)
{
    if (!t->span)
        return;
    span_set_text(t->span, "gen_ai.operation.name", "embeddings");
    span_set_text(t->span, "gen_ai.provider.name", "bitnet");
    span_set_text(t->span, "gen_ai.response.model", id);
    span_set_int(t->span, "gen_ai.usage.input_tokens", (int64_t)n_tokens);
}

void tracing_end(struct tracing *t, enum error_code code, const char *message)
{
    if (!t->span)
        return;
    span_set_int(t->span, "rpc.grpc.status_code", code ? error_info(code)->grpc_status : 0);
    if (code)
        span_fail(t->span, error_info(code)->name, message);
    span_end(t->span, clock_now_ns());
    t->span = NULL;
}
