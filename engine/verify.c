/*
 * Whether a model file is whole and says what its maker meant: more than loading asks, by reading and running all of it. Five checks, each
 * built on those before it:
 *
 *   structure      keys, tensors and shapes, as loading checks them
 *   tokenizer      a text becomes tokens and the same text again
 *   weights        every weight; see model/check.h
 *   text           the model predicts a plain English text better than letter frequencies would; one that computes embeddings is not asked
 *   known answers  portable and best kernels, one chunk or single tokens (of a causal model), give the same bits
 *
 * What is not seen: a change of some weights that the model still does well with. Caller's thread.
 */
#include "engine/checks.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_ANSWER 12       /* tokens of the known answers */
#define CHUNK 32          /* of them at once */

enum { CHECK_STRUCTURE, CHECK_TOKENIZER, CHECK_WEIGHTS, CHECK_TEXT, CHECK_ANSWERS, N_CHECKS };
static const char *const names[] = {"structure", "tokenizer", "weights", "text", "known answers"};

struct verify {
    struct file_checks file;
    size_t n_done;         /* checks that were made; all but the last have passed */
    bool passed;
    char messages[N_CHECKS][CHECK_MESSAGE_BYTES];
    struct error error;
};

#define FAIL(v, ...) error_set(&(v)->error, ERROR_MODEL_LOAD_FAILED, __VA_ARGS__)
#define SAY(v, check, ...) snprintf((v)->messages[check], CHECK_MESSAGE_BYTES, __VA_ARGS__)

static enum error_code check_structure(struct verify *v)
{
    return file_check_structure(&v->file, v->messages[CHECK_STRUCTURE], &v->error);
}

static enum error_code check_tokenizer(struct verify *v)
{
    return file_check_tokenizer(&v->file, v->messages[CHECK_TOKENIZER], &v->error);
}

static enum error_code check_weights(struct verify *v)
{
    return file_check_weights(&v->file, v->messages[CHECK_WEIGHTS], &v->error);
}

static enum error_code open_session(struct verify *v, const char *isa, int n_threads, struct session **out)
{
    const struct engine_options options = {.model_path = v->file.path, .device = "cpu", .isa = isa, .n_threads = n_threads,
                                           .i2s_order = v->file.i2s_order, .max_sequences = 1, .max_batch_tokens = CHECK_MAX_TOKENS,
                                           .context_length = CHECK_MAX_TOKENS + 1};
    return session_open(&options, out, &v->error);
}

/* Logits of the last of the first n tokens, evaluated in pieces. */
static enum error_code last_logits(struct verify *v, struct session *s, size_t n, size_t piece, float *logits)
{
    struct session_row rows[N_ANSWER];
    session_reset(s, 0);
    for (size_t at = 0; at < n; at += piece) {
        size_t m = n - at < piece ? n - at : piece;
        for (size_t i = 0; i < m; i++)
            rows[i] = (struct session_row){0, v->file.ids.ids[at + i], at + i + 1 == n};
        enum error_code code = session_step(s, rows, m, false, at + m == n ? logits : NULL, &v->error);
        if (code)
            return code;
    }
    return ERROR_NONE;
}

/* Tokens of a model that is not causal see those after them. */
static const char *passes(const struct verify *v)
{
    return v->file.shape.causal ? "at once and one by one" : "twice";
}

static enum error_code answers_of(struct verify *v, const char *isa, int n_threads, float *logits, float *again)
{
    struct session *s = NULL;
    size_t n = v->file.ids.n < N_ANSWER ? v->file.ids.n : N_ANSWER, vocab = v->file.shape.vocab_size;
    enum error_code code = open_session(v, isa, n_threads, &s);
    if (!code)
        code = last_logits(v, s, n, n, logits);
    if (!code)
        code = last_logits(v, s, n, v->file.shape.causal ? 1 : n, again);
    session_close(s);
    if (code)
        return code;
    for (size_t i = 0; i < vocab; i++)
        if (!isfinite(logits[i]))
            return FAIL(v, "the logit of token %zu behind %zu tokens is %f", i, n, (double)logits[i]);
    if (memcmp(logits, again, vocab * sizeof *logits) != 0)
        return FAIL(v, "%zu tokens %s gave different logits (%s kernels)", n, passes(v), isa ? isa : "best");
    return ERROR_NONE;
}

static enum error_code check_answers(struct verify *v)
{
    size_t vocab = v->file.shape.vocab_size;
    float *logits = malloc(3 * vocab * sizeof *logits);
    if (!logits)
        return error_set(&v->error, ERROR_MEMORY_EXHAUSTED, "no memory for the logits of %zu tokens", vocab);
    enum error_code code = answers_of(v, "portable", 1, logits, logits + vocab);
    if (!code)
        code = answers_of(v, NULL, 0, logits + vocab, logits + 2 * vocab);
    if (!code && memcmp(logits, logits + vocab, vocab * sizeof *logits) != 0)
        code = FAIL(v, "portable and best kernels gave different logits");
    if (!code)
        SAY(v, CHECK_ANSWERS, "portable and best kernels, %d tokens %s: the same bits (%016" PRIx64 ")", N_ANSWER,
            passes(v), kernel_hash(0, logits, vocab * sizeof *logits));
    free(logits);
    return code;
}

/* Bits of all tokens of the text but the first, and the bytes that these tokens are. logits: [CHUNK][vocab_size]. */
static enum error_code score_text(struct verify *v, struct session *s, float *logits, double *bits, size_t *n_bytes)
{
    size_t n = v->file.ids.n < CHECK_MAX_TOKENS ? v->file.ids.n : CHECK_MAX_TOKENS, vocab = v->file.shape.vocab_size;
    struct session_row rows[CHUNK];
    *bits = 0;
    *n_bytes = 0;
    for (size_t at = 0; at + 1 < n; at += CHUNK) {
        size_t m = n - 1 - at < CHUNK ? n - 1 - at : CHUNK;
        for (size_t i = 0; i < m; i++)
            rows[i] = (struct session_row){0, v->file.ids.ids[at + i], true};
        enum error_code code = session_step(s, rows, m, false, logits, &v->error);
        if (code)
            return code;
        for (size_t i = 0; i < m; i++) {
            size_t piece_bytes = 0;
            *bits += check_bits(logits + i * vocab, vocab, v->file.ids.ids[at + i + 1]);
            tokenizer_piece(v->file.tokenizer, v->file.ids.ids[at + i + 1], &piece_bytes);
            *n_bytes += piece_bytes;
        }
    }
    return ERROR_NONE;
}

static enum error_code check_text(struct verify *v)
{
    struct session *s = NULL;
    if (v->file.shape.pooling != POOLING_NONE) {
        SAY(v, CHECK_TEXT, "not asked of a model that computes embeddings");
        return ERROR_NONE;
    }
    double bits = 0;
    size_t n_bytes = 0;
    float *logits = malloc(CHUNK * (size_t)v->file.shape.vocab_size * sizeof *logits);
    enum error_code code =
        logits ? open_session(v, NULL, 0, &s) : error_set(&v->error, ERROR_MEMORY_EXHAUSTED, "no memory for logits");
    if (!code)
        code = score_text(v, s, logits, &bits, &n_bytes);
    session_close(s);
    free(logits);
    if (code)
        return code;
    double per_byte = n_bytes ? bits / (double)n_bytes : (double)INFINITY;
    if (!(per_byte < CHECK_PLAUSIBLE_BITS))
        return FAIL(v,
                    "a plain English text takes %.2f bits a byte, expected less than %.1f of a language model: weights, tokenizer or "
                    "hyperparameters are not those that belong together",
                    per_byte, CHECK_PLAUSIBLE_BITS);
    SAY(v, CHECK_TEXT, "%.3f bits a byte of a plain English text", per_byte);
    return ERROR_NONE;
}

/* ---- report ---------------------------------------------------------------------------------------------------- */

static void run_checks(struct verify *v)
{
    static enum error_code (*const checks[])(struct verify *) = {check_structure, check_tokenizer, check_weights, check_text,
                                                                 check_answers};
    for (v->passed = true; v->passed && v->n_done < N_CHECKS; v->n_done++)
        if (checks[v->n_done](v)) {
            SAY(v, v->n_done, "%s", v->error.message);
            v->passed = false;
        }
}

static void write_text(const struct verify *v, struct buffer *out)
{
    buffer_printf(out, "%s: %s\n", v->file.path, v->passed ? "sound" : "NOT SOUND");
    for (size_t i = 0; i < N_CHECKS; i++)
        buffer_printf(out, "  %-6s  %-14s %s\n", i >= v->n_done ? "-" : i + 1 < v->n_done || v->passed ? "ok" : "FAILED",
                      names[i], i < v->n_done ? v->messages[i] : "not checked");
}

static void json_string(struct buffer *out, const char *name, const char *value)
{
    buffer_printf(out, "\"%s\":\"", name);
    buffer_append_json(out, value, strlen(value));
    buffer_append_char(out, '"');
}

static void write_json(const struct verify *v, struct buffer *out)
{
    buffer_append_char(out, '{');
    json_string(out, "path", v->file.path);
    buffer_printf(out, ",\"sound\":%s,\"checks\":[", v->passed ? "true" : "false");
    for (size_t i = 0; i < v->n_done; i++) {
        buffer_append_str(out, i ? ",{" : "{");
        json_string(out, "name", names[i]);
        buffer_printf(out, ",\"passed\":%s,", i + 1 < v->n_done || v->passed ? "true" : "false");
        json_string(out, "message", v->messages[i]);
        buffer_append_char(out, '}');
    }
    buffer_append_char(out, ']');
    if (!v->passed) {
        buffer_append_str(out, ",\"error\":{");
        json_string(out, "code", error_info(v->error.code)->name);
        buffer_append_char(out, ',');
        json_string(out, "message", v->error.message);
        buffer_append_char(out, '}');
    }
    buffer_append_str(out, "}\n");
}

enum error_code model_verify(const char *path, int i2s_order, bool json, struct buffer *out, struct error *err)
{
    struct verify *v = calloc(1, sizeof *v);
    if (!v)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory to verify %s", path);
    v->file.path = path;
    v->file.i2s_order = i2s_order;
    run_checks(v);
    if (json)
        write_json(v, out);
    else
        write_text(v, out);
    enum error_code code = v->passed ? ERROR_NONE : v->error.code;
    if (code && err)
        *err = v->error;
    file_checks_fini(&v->file);
    free(v);
    return code;
}
