#include "service/convert.h"

#include "base/clock.h"
#include "base/id.h"

#include "version.h"

#include <stdio.h>
#include <string.h>

#define DEFAULT_MAX_TOKENS 100

static enum error_code convert_input(const struct tokenizer *t, const Bitnet__V1__GenerateRequest *r, struct converted *out,
                                     struct error *err)
{
    struct request *q = &out->request;
    enum error_code code;
    switch (r->input_case) {
    case BITNET__V1__GENERATE_REQUEST__INPUT_PROMPT:
        q->prompt = r->prompt;
        q->prompt_bytes = strlen(r->prompt);
        return ERROR_NONE;
    case BITNET__V1__GENERATE_REQUEST__INPUT_TOKENS:
        q->tokens = r->tokens->ids;
        q->n_tokens = r->tokens->n_ids;
        if (!q->n_tokens)
            return error_set_param(err, ERROR_VALIDATION_FAILED, "tokens",
                                   "tokens: expected at least one id, found none");
        return ERROR_NONE;
    case BITNET__V1__GENERATE_REQUEST__INPUT_CHAT:
        if (r->echo)
            return error_set_param(err, ERROR_VALIDATION_FAILED, "echo",
                                   "echo: expected a prompt or tokens, found a chat");
        if (!r->chat->n_messages)
            return error_set_param(err, ERROR_VALIDATION_FAILED, "messages",
                                   "messages: expected at least one, found none");
        if ((code = tools_render(r->chat, r->tools, tools_roles_of(t), &out->chat, err)))
            return code;
        q->messages = out->chat.messages;
        q->n_messages = out->chat.n;
        return ERROR_NONE;
    default:
        return error_set_param(err, ERROR_VALIDATION_FAILED, "prompt",
                               "expected a prompt, a chat or tokens, found none of them");
    }
}

/* What the message has set replaces the default. */
static enum error_code convert_sampling(const struct service *s, const Bitnet__V1__Sampling *m, struct converted *out,
                                        struct error *err)
{
    struct sampling *p = &out->request.sampling;
    *p = sampling_defaults();
    p->seed = s->config->deterministic || s->config->seed >= 0 ? (uint64_t)(s->config->seed >= 0 ? s->config->seed : 0)
                                                               : id_random_u64() & UINT32_MAX; /* REST's range */
    if (!m)
        return ERROR_NONE;
#define TAKE(field)                                                                                                    \
    if (m->_##field##_case)                                                                                            \
    p->field = m->field
    TAKE(temperature);
    TAKE(top_k);
    TAKE(top_p);
    TAKE(min_p);
    TAKE(repetition_penalty);
    TAKE(presence_penalty);
    TAKE(frequency_penalty);
    TAKE(seed);
#undef TAKE
    if (m->n_logit_bias > CONVERT_MAX_BIAS)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "sampling.logit_bias",
                               "sampling.logit_bias: expected at most %d entries, found %zu", CONVERT_MAX_BIAS,
                               m->n_logit_bias);
    for (size_t i = 0; i < m->n_logit_bias; i++)
        out->bias[i] = (struct logit_bias){m->logit_bias[i]->token_id, m->logit_bias[i]->bias};
    p->bias = out->bias;
    p->n_bias = m->n_logit_bias;
    return ERROR_NONE;
}

/* timeout_ms, or the server's default, as a point in time. */
static int64_t own_deadline(const struct service *s, const Bitnet__V1__GenerateRequest *r)
{
    int64_t ms = r->timeout_ms ? (int64_t)r->timeout_ms : s->config->default_timeout_ms;
    return ms ? clock_now_ns() + ms * CLOCK_NS_PER_MS : CLOCK_NEVER;
}

/* How many choices are generated; the engine checks n. */
static enum error_code convert_choices(const Bitnet__V1__GenerateRequest *r, struct request *q, struct error *err)
{
    uint32_t n = r->n ? r->n : 1;
    q->n = r->best_of ? r->best_of : n;
    q->logprobs = r->logprobs || q->n > n;
    if (q->n >= n && q->n <= CONVERT_MAX_CHOICES)
        return ERROR_NONE;
    if (!r->best_of)
        return ERROR_NONE; /* n is checked by the engine */
    return error_set_param(err, ERROR_VALIDATION_FAILED, "best_of", "best_of: expected n (%u) to %d, found %u", n,
                           CONVERT_MAX_CHOICES, r->best_of);
}

static enum error_code check_form(const Bitnet__V1__GenerateRequest *r, struct error *err)
{
    if (tools_in_use(r->tools) && r->input_case != BITNET__V1__GENERATE_REQUEST__INPUT_CHAT)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "tools", "tools: expected a chat with them, found none");
    if (r->score_only && !r->prompt_logprobs)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "score_only",
                               "score_only: expected prompt_logprobs with it, found none");
    return ERROR_NONE;
}

bool convert_has_form(const Bitnet__V1__GenerateRequest *r)
{
    return r->response_format || r->tools;
}

enum error_code convert_form(const struct service *s, const Bitnet__V1__GenerateRequest *r, struct converted *out,
                             struct error *err)
{
    enum error_code code = formats_get(s->formats, r->response_format, r->tools, &out->grammar, err);
    out->request.grammar = out->grammar;
    return code;
}

enum error_code convert_request(const struct service *s, const struct tokenizer *t, const Bitnet__V1__GenerateRequest *r, int64_t rpc_deadline_ns,
                                struct converted *out, struct error *err)
{
    memset(&out->request, 0, sizeof out->request);
    out->chat = (struct tools_chat){0};
    out->grammar = NULL;
    struct request *q = &out->request;
    enum error_code code = tools_check(r->tools, err);
    if (!code)
        code = convert_input(t, r, out, err);
    if (!code)
        code = convert_sampling(s, r->sampling, out, err);
    if (!code)
        code = check_form(r, err);
    if (!code)
        code = convert_choices(r, q, err);
    q->max_tokens = r->score_only ? 0 : r->max_tokens ? r->max_tokens : DEFAULT_MAX_TOKENS;
    q->prompt_logprobs = r->prompt_logprobs;
    q->stop = (const char *const *)r->stop;
    q->n_stop = r->n_stop;
    q->top_logprobs = r->top_logprobs;
    q->ignore_eos = r->ignore_eos;
    q->priority = r->priority == BITNET__V1__PRIORITY__PRIORITY_HIGH  ? PRIORITY_HIGH
                  : r->priority == BITNET__V1__PRIORITY__PRIORITY_LOW ? PRIORITY_LOW
                                                                      : PRIORITY_NORMAL;
    int64_t own = own_deadline(s, r);
    out->call_deadline = rpc_deadline_ns < own;
    q->deadline_ns = out->call_deadline ? rpc_deadline_ns : own;
    return code;
}

void convert_fini(struct converted *c)
{
    tools_chat_fini(&c->chat);
    grammar_release(c->grammar);
    c->grammar = NULL;
}

void convert_fingerprint(const char *id, const struct engine_model *m, char out[CONVERT_FINGERPRINT_BYTES])
{
    const char *const parts[] = {BITNET_VERSION, BITNET_GIT_SHA, id, m->path, m->architecture, m->quantization, m->device};
    uint64_t hash = kernel_hash(m->n_parameters, &m->file_bytes, sizeof m->file_bytes);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        hash = kernel_hash(hash, parts[i], strlen(parts[i]) + 1);
    snprintf(out, CONVERT_FINGERPRINT_BYTES, "fp_%012llx", (unsigned long long)(hash ^ hash >> 48) & 0xFFFFFFFFFFFF);
}

Bitnet__V1__FinishReason convert_finish(enum finish_reason finish)
{
    switch (finish) {
    case FINISH_STOP:
        return BITNET__V1__FINISH_REASON__FINISH_REASON_STOP;
    case FINISH_LENGTH:
        return BITNET__V1__FINISH_REASON__FINISH_REASON_LENGTH;
    case FINISH_CANCELLED:
        return BITNET__V1__FINISH_REASON__FINISH_REASON_CANCELLED;
    case FINISH_DEADLINE:
        return BITNET__V1__FINISH_REASON__FINISH_REASON_DEADLINE;
    default:
        return BITNET__V1__FINISH_REASON__FINISH_REASON_UNSPECIFIED;
    }
}

Bitnet__V1__Quantization convert_quantization(const char *name)
{
    return strcmp(name, "tl1") == 0   ? BITNET__V1__QUANTIZATION__QUANTIZATION_TL1
           : strcmp(name, "tl2") == 0 ? BITNET__V1__QUANTIZATION__QUANTIZATION_TL2
                                      : BITNET__V1__QUANTIZATION__QUANTIZATION_I2S;
}

enum device_wish convert_device(Bitnet__V1__Device device)
{
    return device == BITNET__V1__DEVICE__DEVICE_CPU ? DEVICE_CPU : device == BITNET__V1__DEVICE__DEVICE_GPU ? DEVICE_GPU : DEVICE_ANY;
}
