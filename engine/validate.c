/* See validate.h. Comparisons are written so that NaN fails them. */
#include "engine/validate.h"

#include "base/utf8.h"

#include <string.h>

const char *request_input_name(const struct request *r)
{
    return r->tokens ? "tokens" : r->messages ? "messages" : "prompt";
}

enum error_code request_validate_length(const struct request_limits *limits, const char *param, size_t n,
                                        struct error *err)
{
    if (n == 0)
        return error_set_param(err, ERROR_VALIDATION_FAILED, param,
                               "expected at least 1 token, found an empty %s and a model that adds none", param);
    if (limits->embedding_size && n > limits->context_length)
        return error_set_param(err, ERROR_VALIDATION_FAILED, param, "expected at most %u tokens (the context), found %zu",
                               limits->context_length, n);
    if (!limits->embedding_size && n >= limits->context_length)
        return error_set_param(err, ERROR_VALIDATION_FAILED, param,
                               "expected at most %u tokens (the context of %u less one for the answer), found %zu",
                               limits->context_length - 1, limits->context_length, n);
    return ERROR_NONE;
}

static enum error_code check_float(const char *param, float value, float min, float max, struct error *err)
{
    if (value >= min && value <= max)
        return ERROR_NONE;
    return error_set_param(err, ERROR_VALIDATION_FAILED, param, "expected %g to %g, found %g", (double)min, (double)max,
                           (double)value);
}

static enum error_code check_bias(const struct request_limits *limits, const struct sampling *p, struct error *err)
{
    const char *param = "sampling.logit_bias";
    if (p->n_bias > REQUEST_MAX_BIAS)
        return error_set_param(err, ERROR_VALIDATION_FAILED, param, "expected at most %d entries, found %zu",
                               REQUEST_MAX_BIAS, p->n_bias);
    for (size_t i = 0; i < p->n_bias; i++) {
        if (p->bias[i].id >= limits->vocab_size)
            return error_set_param(err, ERROR_VALIDATION_FAILED, param, "expected a token id below %u, found %u",
                                   limits->vocab_size, p->bias[i].id);
        if (check_float(param, p->bias[i].bias, -100, 100, err))
            return err ? err->code : ERROR_VALIDATION_FAILED;
    }
    return ERROR_NONE;
}

static enum error_code check_sampling(const struct request_limits *limits, const struct sampling *p, struct error *err)
{
    const struct {
        const char *param;
        float value, min, max;
    } fields[] = {
        {"sampling.temperature", p->temperature, 0, 2},
        {"sampling.top_p", p->top_p, 0, 1},
        {"sampling.min_p", p->min_p, 0, 1},
        {"sampling.repetition_penalty", p->repetition_penalty, 0, 2},
        {"sampling.presence_penalty", p->presence_penalty, -2, 2},
        {"sampling.frequency_penalty", p->frequency_penalty, -2, 2},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        enum error_code code = check_float(fields[i].param, fields[i].value, fields[i].min, fields[i].max, err);
        if (code)
            return code;
    }
    return check_bias(limits, p, err);
}

static enum error_code check_stop(const struct request *r, struct error *err)
{
    size_t bad;
    if (r->n_stop > REQUEST_MAX_STOP)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "stop", "expected at most %d strings, found %zu",
                               REQUEST_MAX_STOP, r->n_stop);
    for (size_t i = 0; i < r->n_stop; i++) {
        size_t n = r->stop[i] ? strlen(r->stop[i]) : 0;
        if (n < 1 || n > REQUEST_MAX_STOP_BYTES)
            return error_set_param(err, ERROR_VALIDATION_FAILED, "stop", "expected strings of 1 to %d bytes, found %zu",
                                   REQUEST_MAX_STOP_BYTES, n);
        if (!utf8_valid(r->stop[i], n, &bad))
            return error_set_param(err, ERROR_VALIDATION_FAILED, "stop", "expected UTF-8, found an invalid byte at %zu",
                                   bad);
    }
    return ERROR_NONE;
}

static enum error_code check_text_bytes(const struct request_limits *limits, const char *param, size_t n_bytes,
                                        struct error *err)
{
    if (n_bytes / limits->max_token_bytes < limits->context_length)
        return ERROR_NONE;
    return error_set_param(err, ERROR_VALIDATION_FAILED, param,
                           "expected at most %u tokens (the context of %u less one for the answer), found %zu bytes, "
                           "which are at least %zu tokens",
                           limits->context_length - 1, limits->context_length, n_bytes,
                           n_bytes / limits->max_token_bytes);
}

static enum error_code check_messages(const struct request_limits *limits, const struct request *r, struct error *err)
{
    size_t n_bytes = 0;
    if (r->n_messages == 0)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "messages", "expected at least 1 message, found none");
    for (size_t i = 0; i < r->n_messages; i++) {
        if (!r->messages[i].role || !r->messages[i].content)
            return error_set_param(err, ERROR_VALIDATION_FAILED, "messages",
                                   "expected a role and a content, found message %zu without", i);
        n_bytes += strlen(r->messages[i].content);
    }
    return check_text_bytes(limits, "messages", n_bytes, err);
}

static enum error_code check_tokens(const struct request_limits *limits, const struct request *r, struct error *err)
{
    enum error_code code = request_validate_length(limits, "tokens", r->n_tokens, err);
    if (code)
        return code;
    for (size_t i = 0; i < r->n_tokens; i++)
        if (r->tokens[i] >= limits->vocab_size)
            return error_set_param(err, ERROR_VALIDATION_FAILED, "tokens", "expected ids below %u, found %u at %zu",
                                   limits->vocab_size, r->tokens[i], i);
    return ERROR_NONE;
}

static enum error_code check_input(const struct request_limits *limits, const struct request *r, struct error *err)
{
    int n_inputs = (r->prompt != NULL) + (r->messages != NULL) + (r->tokens != NULL);
    if (n_inputs != 1)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "prompt",
                               "expected exactly one of prompt, messages and tokens, found %d", n_inputs);
    if (r->tokens)
        return check_tokens(limits, r, err);
    if (r->messages)
        return check_messages(limits, r, err);
    return check_text_bytes(limits, "prompt", r->prompt_bytes, err);
}

/* A model does either. */
static enum error_code check_kind(const struct request_limits *limits, const struct request *r, struct error *err)
{
    if (r->embed && !limits->embedding_size)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "model", "expected a model that computes embeddings, found one that generates");
    if (!r->embed && limits->embedding_size)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "model", "expected a model that generates, found one that computes embeddings");
    if (r->embed && (r->max_tokens || r->n > 1 || r->logprobs || r->prompt_logprobs || r->n_stop || r->grammar))
        return error_set_param(err, ERROR_VALIDATION_FAILED, "embed", "expected nothing but an input and limits with it, found more");
    return ERROR_NONE;
}

static enum error_code check_numbers(const struct request *r, struct error *err)
{
    if (r->max_tokens < 1 && !r->embed && (!r->prompt_logprobs || r->n > 1))
        return error_set_param(err, ERROR_VALIDATION_FAILED, "max_tokens",
                               "expected at least 1, or one choice with the prompt's log-probabilities, found 0");
    if (r->prompt_logprobs && !r->logprobs)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "prompt_logprobs", "expected logprobs with it, found none");
    if (r->n > REQUEST_MAX_CHOICES)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "n", "expected 1 to %d, found %u", REQUEST_MAX_CHOICES,
                               r->n);
    if (r->top_logprobs > REQUEST_MAX_TOP)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "top_logprobs", "expected 0 to %d, found %u",
                               REQUEST_MAX_TOP, r->top_logprobs);
    if (r->top_logprobs && !r->logprobs)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "top_logprobs",
                               "expected logprobs with it, found %u without", r->top_logprobs);
    if (r->grammar && r->ignore_eos)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "ignore_eos",
                               "expected no grammar with it, found one: where it is complete, the answer ends");
    if (r->priority != PRIORITY_NORMAL && r->priority != PRIORITY_LOW && r->priority != PRIORITY_HIGH)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "priority", "expected normal, low or high, found %d",
                               (int)r->priority);
    return ERROR_NONE;
}

enum error_code request_validate(const struct request_limits *limits, const struct request *r, struct error *err)
{
    enum error_code code = check_kind(limits, r, err);
    if (!code)
        code = check_numbers(r, err);
    if (!code && !r->embed)
        code = check_sampling(limits, &r->sampling, err);
    if (!code)
        code = check_stop(r, err);
    return code ? code : check_input(limits, r, err);
}
