#include "engine/registry/validation.h"

#include "base/clock.h"
#include "engine/registry/ask.h"
#include "engine/text/tokenizer.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_PROMPT 12 /* tokens of the known answer's prompt */
#define N_ANSWER 16
#define N_SPEED 32

enum error_code validation_check(const struct model_validation *asked, struct model_validation *out, struct error *err)
{
    *out = *asked;
    if (!out->min_accuracy)
        out->min_accuracy = VALIDATION_ACCURACY;
    if (!out->n_samples)
        out->n_samples = VALIDATION_SAMPLES;
    if (!out->timeout_ns)
        out->timeout_ns = VALIDATION_TIMEOUT_NS;
    if (!(out->min_accuracy >= 0.9 && out->min_accuracy <= 1))
        return error_set_param(err, ERROR_VALIDATION_FAILED, "validation.min_accuracy", "expected 0.9 to 1, found %g", out->min_accuracy);
    if (out->n_samples < VALIDATION_MIN_SAMPLES || out->n_samples > 1000)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "validation.samples", "expected %d to 1000, found %u", VALIDATION_MIN_SAMPLES,
                               out->n_samples);
    if (out->timeout_ns < 0 || out->timeout_ns > 3600 * CLOCK_NS_PER_S)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "validation.timeout_seconds", "expected at most 3600, found %lld",
                               (long long)(out->timeout_ns / CLOCK_NS_PER_S));
    return ERROR_NONE;
}

void validation_clear(struct validation_results *results)
{
    *results = (struct validation_results){.accuracy = -1, .cosine = -1, .p_value = -1, .bits_per_byte = -1, .tokens_per_second = -1};
}

enum error_code validation_fail(struct validation_results *results, struct error *err, enum error_code code, const char *type,
                                const char *expected, const char *format, ...)
{
    char actual[sizeof results->failures[0].actual];
    va_list args;
    va_start(args, format);
    vsnprintf(actual, sizeof actual, format, args);
    va_end(args);
    if (results->n_failures < VALIDATION_MAX_FAILURES) {
        size_t i = results->n_failures++;
        snprintf(results->failures[i].type, sizeof results->failures[i].type, "%s", type);
        snprintf(results->failures[i].expected, sizeof results->failures[i].expected, "%s", expected);
        memcpy(results->failures[i].actual, actual, sizeof actual);
    }
    return error_set(err, code, "%s: expected %s, found %s", type, expected, actual);
}

/* A request of the checks that was not answered. */
static enum error_code not_answered(struct validation *v, const char *type, enum error_code code, const struct error *why, struct error *err)
{
    if (code == ERROR_SERVICE_UNAVAILABLE || code == ERROR_MEMORY_EXHAUSTED) {
        *err = *why;
        return code;
    }
    return validation_fail(v->results, err, ERROR_MODEL_LOAD_FAILED, code == ERROR_DEADLINE_EXCEEDED ? "timeout" : type, "an answer", "%s",
                           why->message);
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

/* Tokens of the text that fit. */
static size_t n_text(const struct validation *v)
{
    size_t n = v->ids->n < CHECK_MAX_TOKENS ? v->ids->n : CHECK_MAX_TOKENS, most = engine_model(v->engine)->context_length - 1;
    return n < most ? n : most;
}

static double bits_per_byte(const struct validation *v, const struct score *scores, size_t n)
{
    double bits = 0;
    size_t n_bytes = 0;
    for (size_t i = 1; i < n; i++) {
        size_t piece_bytes = 0;
        tokenizer_piece(engine_tokenizer(v->engine), v->ids->ids[i], &piece_bytes);
        n_bytes += piece_bytes;
        bits -= (double)scores[i].logprob / M_LN2;
    }
    return n_bytes ? bits / (double)n_bytes : (double)INFINITY;
}

static enum error_code check_text(struct validation *v, struct error *err)
{
    size_t n = n_text(v);
    struct error why = {0};
    struct score *scores = calloc(n, sizeof *scores);
    if (!scores)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the scores of a text");
    enum error_code code = ask_scores(v->engine, v->ids->ids, n, v->deadline_ns, scores, &why);
    double bits = code ? -1 : bits_per_byte(v, scores, n);
    free(scores);
    if (code)
        return not_answered(v, "text", code, &why, err);
    v->results->bits_per_byte = bits;
    if (bits < CHECK_PLAUSIBLE_BITS)
        return ERROR_NONE;
    return validation_fail(v->results, err, ERROR_MODEL_LOAD_FAILED, "text", "less than 1.5 bits a byte of a plain English text",
                           "%.2f: weights, tokenizer or hyperparameters are not those that belong together", bits);
}

/* ---- known answers ----------------------------------------------------------------------------------------------- */

/* An answer drawn token by token, and the same text read at once: at each place the likeliest token and its probability are the same. */
static enum error_code check_answers(struct validation *v, struct error *err)
{
    uint32_t ids[N_PROMPT + N_ANSWER];
    struct score scores[N_PROMPT + N_ANSWER];
    struct answer a;
    struct error why = {0};
    size_t n = v->ids->n < N_PROMPT ? v->ids->n : N_PROMPT;
    memcpy(ids, v->ids->ids, n * sizeof *ids);
    enum error_code code = ask_tokens(v->engine, ids, n, N_ANSWER, v->deadline_ns, &a, &why);
    if (!code) {
        memcpy(ids + n, a.ids, a.n * sizeof *ids);
        code = ask_scores(v->engine, ids, n + a.n, v->deadline_ns, scores, &why);
    }
    if (code)
        return not_answered(v, "known_answers", code, &why, err);
    for (size_t i = 0; i < a.n; i++) {
        const struct token_logprob *best = &scores[n + i].top[0];
        if (best->id != a.ids[i] || best->logprob != a.logprobs[i])
            return validation_fail(v->results, err, ERROR_MODEL_LOAD_FAILED, "known_answers", "the same tokens one by one and at once",
                                   "token %zu is %u (%g) one by one and %u (%g) at once", i, a.ids[i], (double)a.logprobs[i], best->id,
                                   (double)best->logprob);
    }
    return ERROR_NONE;
}

static enum error_code measure_speed(struct validation *v, struct error *err)
{
    struct answer a;
    struct error why = {0};
    enum error_code code = ask_tokens(v->engine, v->ids->ids, 8 < v->ids->n ? 8 : v->ids->n, N_SPEED, v->deadline_ns, &a, &why);
    if (code)
        return not_answered(v, "speed", code, &why, err);
    v->results->tokens_per_second = a.tokens_per_second;
    return ERROR_NONE;
}

/* ---- all --------------------------------------------------------------------------------------------------------- */

enum error_code validation_run(struct validation *v, struct error *err)
{
    static const struct {
        enum error_code (*check)(struct validation *v, struct error *err);
        double share; /* done before it */
        bool compares;
    } steps[] = {{check_text, 0, false}, {check_answers, 0.15, false}, {measure_speed, 0.2, false}, {validation_compare, 0.25, true}};
    if (engine_model(v->engine)->embedding_size)
        return validation_embeddings(v, err);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        if (steps[i].compares && v->asked.no_cross_validation)
            continue;
        if (!v->go_on(v->user, steps[i].share))
            return validation_fail(v->results, err, ERROR_MODEL_LOAD_FAILED, "timeout", "to be checked in time", "that time ran out");
        enum error_code code = steps[i].check(v, err);
        if (code)
            return code;
    }
    return ERROR_NONE;
}
