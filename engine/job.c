/* See job.h. */
#include "engine/job.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

static enum error_code tokenise(const struct job_options *o, const struct request *r, struct token_list *out,
                                struct error *err)
{
    const char *param = request_input_name(r);
    enum error_code code = ERROR_NONE;
    if (r->messages)
        code = tokenizer_encode_chat(o->tokenizer, r->messages, r->n_messages, out, err);
    else
        code = tokenizer_encode(o->tokenizer, r->prompt, r->prompt_bytes, true, false, out, err);
    if (code) {
        if (err && code == ERROR_VALIDATION_FAILED && !err->param[0])
            memcpy(err->param, param, strlen(param) + 1);
        return code;
    }
    return request_validate_length(o->limits, param, out->n, err);
}

static enum error_code copy_tokens(const struct request *r, struct token_list *out, struct error *err)
{
    out->ids = malloc(r->n_tokens * sizeof *out->ids);
    if (!out->ids)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a request of %zu tokens", r->n_tokens);
    memcpy(out->ids, r->tokens, r->n_tokens * sizeof *out->ids);
    out->n = out->capacity = r->n_tokens;
    return ERROR_NONE;
}

/* A token of ordinary text is about four bytes; a chat template adds a few tokens to each message. */
uint64_t job_estimate_tokens(const struct request_limits *limits, const struct request *r)
{
    uint64_t n_prompt = r->tokens ? r->n_tokens : r->messages ? 0 : r->prompt_bytes / 4 + 1;
    for (size_t i = 0; r->messages && i < r->n_messages; i++)
        n_prompt += strlen(r->messages[i].content) / 4 + 8;
    if (n_prompt >= limits->context_length)
        n_prompt = limits->context_length - 1;
    uint64_t room = limits->context_length - n_prompt;
    return n_prompt + (r->n ? r->n : 1) * (r->max_tokens < room ? r->max_tokens : room);
}

uint64_t job_client(const struct request *r)
{
    return r->client_id && r->client_id[0] ? kernel_hash(1, r->client_id, strlen(r->client_id)) : 0;
}

int64_t job_deadline_ns(const struct job_options *o, const struct request *r)
{
    if (r->deadline_ns)
        return r->deadline_ns;
    return o->default_timeout_ns > 0 ? o->now_ns + o->default_timeout_ns : CLOCK_NEVER;
}

static bool copy_options(struct job *j, const struct job_options *o, const struct request *r)
{
    j->sampling = r->sampling;
    j->bias = calloc(r->sampling.n_bias + 1, sizeof *j->bias);
    j->stopper = stopper_open(r->stop, r->n_stop);
    j->id = r->id ? strdup(r->id) : NULL;
    if (r->trace_id && strlen(r->trace_id) < sizeof j->trace_id)
        strcpy(j->trace_id, r->trace_id);
    if (!j->bias || !j->stopper || (r->id && !j->id))
        return false;
    if (r->sampling.n_bias)
        memcpy(j->bias, r->sampling.bias, r->sampling.n_bias * sizeof *j->bias);
    j->sampling.bias = j->bias;
    j->logprobs = r->logprobs;
    j->prompt_logprobs = r->prompt_logprobs;
    j->n_top = r->top_logprobs;
    j->ignore_eos = r->ignore_eos;
    j->grammar = r->grammar ? grammar_ref(r->grammar) : NULL;
    j->pooled = r->embed ? calloc(o->limits->embedding_size, sizeof *j->pooled) : NULL;
    if (r->embed && !j->pooled)
        return false;
    j->item.priority = r->priority;
    j->item.arrival_ns = o->now_ns;
    j->item.fair.client = job_client(r);
    j->item.fair.cost = j->n_prompt + (uint64_t)j->n_choices * j->max_tokens;
    j->deadline_ns = job_deadline_ns(o, r);
    return true;
}

static bool make_sequences(struct job *j)
{
    j->pool = calloc((size_t)j->n_choices * j->max_tokens + 1, sizeof *j->pool);
    for (uint32_t c = 0; j->pool && c < j->n_choices; c++) {
        j->sequences[c].job = j;
        j->sequences[c].choice = c;
        j->sequences[c].generated = j->pool + (size_t)c * j->max_tokens;
    }
    return j->pool != NULL;
}

static bool make_stream(struct job *j, const struct job_options *o, const struct request *r)
{
    struct stream_options so = {.n_choices = j->n_choices,
                                .max_tokens = j->max_tokens,
                                .n_top = j->n_top,
                                .prompt = j->prompt,
                                .n_prompt = j->prompt_logprobs ? j->n_prompt : 0,
                                .n_embedding = j->pooled ? o->limits->embedding_size : 0,
                                .max_token_bytes = o->max_stream_bytes,
                                .on_ready = r->on_ready,
                                .user = r->user,
                                .waker = o->waker};
    j->stream = stream_open(&so);
    return j->stream != NULL;
}

enum error_code job_open(const struct job_options *o, const struct request *r, struct job **out, struct error *err)
{
    struct token_list prompt = {0};
    enum error_code code = r->tokens ? copy_tokens(r, &prompt, err) : tokenise(o, r, &prompt, err);
    if (code) {
        free(prompt.ids);
        return code;
    }
    uint32_t n_choices = r->n ? r->n : 1, room = o->limits->context_length - (uint32_t)prompt.n;
    struct job *j = calloc(1, sizeof *j + n_choices * sizeof *j->sequences);
    if (!j) {
        free(prompt.ids);
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a request");
    }
    j->prompt = prompt.ids;
    j->n_prompt = (uint32_t)prompt.n;
    j->n_choices = n_choices;
    j->max_tokens = r->max_tokens < room ? r->max_tokens : room;
    /* The stream comes last: until it is there, nobody else knows of the job. */
    if (copy_options(j, o, r) && make_sequences(j) && make_stream(j, o, r)) {
        *out = j;
        return ERROR_NONE;
    }
    job_close(j);
    return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a request of %zu prompt and %u new tokens", prompt.n,
                     r->max_tokens);
}

void job_close(struct job *j)
{
    if (j->stream)
        stream_release(j->stream);
    stopper_close(j->stopper);
    grammar_release(j->grammar);
    free(j->bias);
    free(j->pooled);
    free(j->id);
    free(j->prompt);
    free(j->pool);
    free(j);
}
