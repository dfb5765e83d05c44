/* POST /v1/inference and /v1/inference/stream: the product's own API (contract, section 1). */
#include "gateway/inference.h"

#include "base/clock.h"
#include "gateway/body.h"
#include "gateway/emit.h"
#include "gateway/error.h"
#include "gateway/job.h"
#include "gateway/params.h"
#include "gateway/query.h"
#include "gateway/sse.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>

#define AT(member) .offset = offsetof(struct params, member)
#define PROGRESS_TOKENS 16
#define PROGRESS_NS CLOCK_NS_PER_S

const struct field inference_fields[] = {
    {"prompt", FIELD_PROMPT, AT(prompt), .required = true},
    {"max_tokens", FIELD_INT, AT(max_tokens), 1, 2048, 100},
    {"model", FIELD_NAME, AT(model), .max = 128},
    {"temperature", FIELD_FLOAT, AT(temperature), 0, 2, 0.7},
    {"top_p", FIELD_FLOAT, AT(top_p), 0, 1, 0.9},
    {"top_k", FIELD_INT, AT(top_k), 1, 1000, 50},
    {"repetition_penalty", FIELD_FLOAT, AT(repetition_penalty), 0, 2, 1},
    {"stop_sequences", FIELD_TEXTS, AT(stop), .max = 10, .each = 64, .proto = "stop"},
    {"seed", FIELD_INT, AT(seed), 0, 4294967295.0},
    {"quantization_preference", FIELD_CHOICE, AT(quantization), .choices = "auto|i2s|tl1|tl2", .proto = "quantization"},
    {"device_preference", FIELD_CHOICE, AT(device), .choices = "auto|cpu|gpu", .proto = "device"},
    {"priority", FIELD_CHOICE, AT(priority), .choices = "normal|low|high"},
    {"timeout_ms", FIELD_INT, AT(timeout_ms), 1, 600000},
    {0},
};

/* What a stream remembers between events. */
struct stream_state {
    int64_t max_tokens;
    int64_t n_tokens;
    int64_t first_ns, progress_ns;
    int64_t progress_tokens;
    Bitnet__V1__FinishReason reason;
};

static const char *finish_name(Bitnet__V1__FinishReason reason)
{
    switch (reason) {
    case BITNET__V1__FINISH_REASON__FINISH_REASON_STOP:
        return "stop";
    case BITNET__V1__FINISH_REASON__FINISH_REASON_LENGTH:
        return "length";
    case BITNET__V1__FINISH_REASON__FINISH_REASON_CANCELLED:
        return "cancelled";
    case BITNET__V1__FINISH_REASON__FINISH_REASON_DEADLINE:
        return "deadline";
    default:
        return NULL;
    }
}

static void put_finish(struct buffer *b, Bitnet__V1__FinishReason reason)
{
    const char *name = finish_name(reason);
    if (name) {
        emit_key(b, "finish_reason");
        emit_text(b, name);
    }
}

static void put_fixed(struct buffer *b, const char *key, double v, int decimals)
{
    emit_key(b, key);
    emit_fixed(b, v, decimals);
}

/* ---- the whole answer ---- */

static void put_performance(struct buffer *b, const Bitnet__V1__GenerateResponse *a)
{
    emit_key(b, "performance_metrics");
    emit_open(b, '{');
    if (a->timing) {
        if (a->timing->mean_batch_size > 0)
            put_fixed(b, "batch_size", a->timing->mean_batch_size, 2);
        put_fixed(b, "queue_time_ms", a->timing->queue_ms, 3);
        put_fixed(b, "processing_time_ms", a->timing->total_ms - a->timing->queue_ms, 3);
        put_fixed(b, "time_to_first_token_ms", a->timing->time_to_first_token_ms, 3);
    }
    if (a->usage) {
        emit_key(b, "cached_prompt_tokens");
        emit_uint(b, a->usage->cached_prompt_tokens);
    }
    if (a->memory_bytes > 0)
        put_fixed(b, "memory_usage_mb", (double)a->memory_bytes / 1048576.0, 2);
    emit_close(b, '}');
}

static void put_accuracy(struct buffer *b, const char *key, const Bitnet__V1__GenerateResponse *a)
{
    if (a->_accuracy_case == BITNET__V1__GENERATE_RESPONSE___ACCURACY_ACCURACY)
        put_fixed(b, key, a->accuracy, 6);
}

static void put_counts(struct buffer *b, const Bitnet__V1__GenerateResponse *a)
{
    if (a->usage) {
        emit_key(b, "tokens_generated");
        emit_uint(b, a->usage->completion_tokens);
        emit_key(b, "prompt_tokens");
        emit_uint(b, a->usage->prompt_tokens);
    }
    if (a->timing) {
        emit_key(b, "inference_time_ms");
        emit_int(b, llround(a->timing->total_ms));
        put_fixed(b, "tokens_per_second", a->timing->tokens_per_second, 3);
    }
}

static void inference_done(struct job *j)
{
    static const char *const quantizations[] = {NULL, "i2s", "tl1", "tl2"};
    const Bitnet__V1__GenerateResponse *a = j->calls[0].answer;
    struct buffer *b = &j->out;
    emit_open(b, '{');
    emit_key(b, "text");
    emit_text(b, a->n_choices > 0 ? a->choices[0]->text : "");
    put_counts(b, a);
    emit_key(b, "model_id");
    emit_text(b, a->model);
    emit_key(b, "request_id");
    emit_text(b, j->r->id);
    if (a->n_choices > 0)
        put_finish(b, a->choices[0]->finish_reason);
    emit_key(b, "seed");
    emit_uint(b, a->seed);
    if ((unsigned)a->quantization < 4 && quantizations[a->quantization]) {
        emit_key(b, "quantization_used");
        emit_text(b, quantizations[a->quantization]);
    }
    if (a->device[0] != '\0') {
        emit_key(b, "device_used");
        emit_text(b, a->device);
    }
    if (a->_accuracy_case == BITNET__V1__GENERATE_RESPONSE___ACCURACY_ACCURACY) {
        emit_key(b, "accuracy_metrics");
        emit_open(b, '{');
        put_accuracy(b, "quantization_accuracy", a);
        emit_close(b, '}');
    }
    put_performance(b, a);
    emit_close(b, '}');
}

/* ---- the stream ---- */

static void event_begin(struct job *j, const char *name)
{
    const struct stream_state *s = j->state;
    sse_begin(&j->out, name, s->n_tokens > 0 ? s->n_tokens - 1 : 0);
    emit_open(&j->out, '{');
    emit_key(&j->out, "type");
    emit_text(&j->out, name);
}

static void event_end(struct job *j)
{
    emit_close(&j->out, '}');
    sse_end(&j->out);
}

static void put_progress(struct job *j, int64_t now_ns)
{
    struct stream_state *s = j->state;
    /* The first token's time holds the prefill, so it is the start and not counted. */
    double rate =
        s->n_tokens > 1 && now_ns > s->first_ns ? (double)(s->n_tokens - 1) * 1e9 / (double)(now_ns - s->first_ns) : 0;
    event_begin(j, "progress");
    emit_key(&j->out, "tokens_generated");
    emit_int(&j->out, s->n_tokens);
    if (rate > 0) {
        put_fixed(&j->out, "tokens_per_second", rate, 3);
        emit_key(&j->out, "estimated_remaining_ms");
        emit_int(&j->out, llround((double)(s->max_tokens - s->n_tokens) * 1000 / rate));
    }
    event_end(j);
    s->progress_ns = now_ns;
    s->progress_tokens = s->n_tokens;
}

static void stream_token(struct job *j, int call, const Bitnet__V1__TokenEvent *event)
{
    (void)call;
    struct stream_state *s = j->state;
    char time[CLOCK_RFC3339_BYTES];
    int64_t now_ns = clock_now_ns();
    clock_rfc3339(clock_wall_ns(), time);
    for (size_t i = 0; i < event->n_tokens; i++) {
        if (s->n_tokens++ == 0)
            s->first_ns = s->progress_ns = now_ns;
        event_begin(j, "token");
        emit_key(&j->out, "text");
        emit_text(&j->out, event->tokens[i]->text);
        emit_key(&j->out, "token_id");
        emit_uint(&j->out, event->tokens[i]->id);
        emit_key(&j->out, "position");
        emit_uint(&j->out, event->position + i);
        emit_key(&j->out, "timestamp");
        emit_text(&j->out, time);
        event_end(j);
        if (s->n_tokens - s->progress_tokens >= PROGRESS_TOKENS || now_ns - s->progress_ns >= PROGRESS_NS)
            put_progress(j, now_ns);
    }
}

static void stream_choice_end(struct job *j, int call, const Bitnet__V1__ChoiceEnd *end)
{
    (void)call;
    ((struct stream_state *)j->state)->reason = end->finish_reason;
}

static void stream_complete(struct job *j, int call, const Bitnet__V1__GenerateResponse *a)
{
    (void)call;
    const struct stream_state *s = j->state;
    event_begin(j, "metrics");
    if (a->device[0] != '\0') {
        emit_key(&j->out, "device");
        emit_text(&j->out, a->device);
    }
    if (a->memory_bytes > 0)
        put_fixed(&j->out, "memory_usage_mb", (double)a->memory_bytes / 1048576.0, 2);
    put_accuracy(&j->out, "quantization_accuracy", a);
    if (a->timing && a->timing->mean_batch_size > 0)
        put_fixed(&j->out, "batch_size", a->timing->mean_batch_size, 2);
    if (a->timing)
        put_fixed(&j->out, "queue_time_ms", a->timing->queue_ms, 3);
    event_end(j);
    event_begin(j, "complete");
    emit_key(&j->out, "total_tokens");
    emit_uint(&j->out, a->usage ? a->usage->completion_tokens : (uint64_t)s->n_tokens);
    if (a->timing) {
        emit_key(&j->out, "inference_time_ms");
        emit_int(&j->out, llround(a->timing->total_ms));
        put_fixed(&j->out, "tokens_per_second", a->timing->tokens_per_second, 3);
    }
    put_finish(&j->out, s->reason);
    put_accuracy(&j->out, "final_accuracy", a);
    emit_key(&j->out, "seed");
    emit_uint(&j->out, a->seed);
    emit_key(&j->out, "request_id");
    emit_text(&j->out, j->r->id);
    event_end(j);
}

static void stream_error(struct job *j, const struct failure *f)
{
    event_begin(j, "error");
    emit_key(&j->out, "code");
    emit_text(&j->out, error_info(f->error.code)->name);
    emit_key(&j->out, "message");
    emit_text(&j->out, f->error.message);
    emit_key(&j->out, "details");
    emit_open(&j->out, '{');
    if (f->device[0] != '\0') {
        emit_key(&j->out, "device");
        emit_text(&j->out, f->device);
    }
    emit_key(&j->out, "error_type");
    emit_text(&j->out, error_info(f->error.code)->openai_type);
    emit_close(&j->out, '}');
    emit_key(&j->out, "request_id");
    emit_text(&j->out, j->r->id);
    event_end(j);
}

static void stream_done(struct job *j)
{
    (void)j; /* `complete` was the last event */
}

static const struct job_view whole_view = {.done = inference_done};
static const struct job_view stream_view = {
    .token = stream_token,
    .choice_end = stream_choice_end,
    .complete = stream_complete,
    .done = stream_done,
    .error = stream_error,
};

/* ---- request ---- */

static bool pack(struct request *r, const json_t *root, struct params *p, struct buffer *out, struct failure *f)
{
    const struct fields_rules rules = {.strict = true, .max_prompt_chars = r->g->config->max_prompt_chars};
    if (!fields_parse(inference_fields, root, &rules, p, f))
        return false;
    const struct input input = {.prompt = p->prompt.text};
    const struct extras extras = {.max_tokens = p->max_tokens.i, .request_id = r->id, .client_id = r->access.client.id};
    return params_pack(p, &input, &extras, out) || (error_set(&f->error, ERROR_INTERNAL, "out of memory"), false);
}

static void handle(struct request *r, bool stream)
{
    struct params p = {0};
    struct failure f;
    struct buffer packed;
    if (!query_empty(r))
        return;
    failure_init(&f);
    buffer_init(&packed, SIZE_MAX / 2);
    json_t *root = body_json(r, &f);
    bool ok = root && pack(r, root, &p, &packed, &f);
    struct stream_state *s = ok ? calloc(1, sizeof *s) : NULL;
    if (ok && s) {
        r->fields = inference_fields;
        s->max_tokens = p.max_tokens.i;
        job_start(r, stream ? &stream_view : &whole_view, s, stream, &packed, 1, p.timeout_ms.set ? p.timeout_ms.i : 0);
    } else {
        if (ok)
            error_set(&f.error, ERROR_INTERNAL, "out of memory");
        error_respond(r, &f);
    }
    json_decref(root);
    buffer_fini(&packed);
    failure_fini(&f);
}

void handle_inference(struct request *r)
{
    handle(r, false);
}

void handle_inference_stream(struct request *r)
{
    handle(r, true);
}
