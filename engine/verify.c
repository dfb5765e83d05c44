/*
 * Whether a model file is whole and says what its maker meant: more than loading asks, by reading and running all of it. Five checks, each
 * built on those before it:
 *
 *   structure      keys, tensors and shapes, as loading checks them
 *   tokenizer      a text becomes tokens and the same text again
 *   weights        every weight; see model/check.h
 *   text           the model predicts a plain English text better than letter frequencies would
 *   known answers  portable and best kernels, one chunk or single tokens, give the same bits
 *
 * What is not seen: a change of some weights that the model still does well with. Caller's thread.
 */
#include "engine/engine.h"

#include "engine/model/check.h"
#include "engine/model/gguf_text.h"
#include "engine/model/tensors.h"
#include "engine/text/tokenizer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_ANSWER 12       /* tokens of the known answers */
#define N_TEXT 512        /* tokens of the text that are scored, at most */
#define CHUNK 32          /* of them at once */
#define PLAUSIBLE_BITS 1.5 /* a byte of the text. Letter frequencies take 4.2, compressors 2 to 3; the bundled model of 11 M weights 0.85 */
#define MESSAGE_BYTES 512

static const char text[] =
    "Once upon a time there was a little fox who lived with his mother at the edge of a green wood. Every morning he ran down to the "
    "river to look for fish, and every evening he came home tired and hungry. \"You must not go beyond the old bridge,\" said his mother, "
    "\"for the farmer keeps a big dog there, and he does not like foxes.\"\n\n"
    "One day the little fox saw a rabbit on the other side of the water. The rabbit was eating clover in the sun, and did not seem to be "
    "afraid of anything. \"Good morning,\" said the little fox. \"Why do you sit there, when the dog may come at any time?\"\n\n"
    "\"Oh,\" said the rabbit, \"the dog is old and sleeps all day long. Come over and see for yourself.\" So the little fox went over the "
    "bridge, though he knew that he should not. He had not gone very far when he heard a loud noise behind him. It was the dog, and he was "
    "not asleep at all. The little fox ran as fast as he could. He ran across the field, and through the hedge, and he did not stop until "
    "he was safe at home.\n\n"
    "\"What is the matter?\" asked his mother. \"Nothing,\" said the little fox, but he never went beyond the old bridge again.\n";

enum { CHECK_STRUCTURE, CHECK_TOKENIZER, CHECK_WEIGHTS, CHECK_TEXT, CHECK_ANSWERS, N_CHECKS };
static const char *const names[] = {"structure", "tokenizer", "weights", "text", "known answers"};

struct verify {
    const char *path;
    int i2s_order;
    struct gguf *gguf;
    struct model_shape shape;
    struct tokenizer *tokenizer;
    struct token_list ids; /* of the text, BOS first where the model has one */
    size_t n_done;         /* checks that were made; all but the last have passed */
    bool passed;
    char messages[N_CHECKS][MESSAGE_BYTES];
    struct error error;
};

#define FAIL(v, ...) error_set(&(v)->error, ERROR_MODEL_LOAD_FAILED, __VA_ARGS__)
#define SAY(v, check, ...) snprintf((v)->messages[check], MESSAGE_BYTES, __VA_ARGS__)

static enum error_code check_structure(struct verify *v)
{
    enum error_code code = gguf_open(v->path, &v->gguf, &v->error);
    if (!code)
        code = model_shape_read(v->gguf, &v->shape, &v->error);
    if (!code)
        SAY(v, CHECK_STRUCTURE, "%s, %u layers of %u, %zu tensors in %zu file%s", v->shape.arch_name, v->shape.n_layers,
            v->shape.dim, gguf_n_tensors(v->gguf), gguf_n_parts(v->gguf), gguf_n_parts(v->gguf) > 1 ? "s" : "");
    return code;
}

static enum error_code check_tokenizer(struct verify *v)
{
    struct buffer back;
    enum error_code code = tokenizer_from_gguf(v->gguf, v->shape.vocab_size, &v->tokenizer, &v->error);
    if (code)
        return code;
    int64_t bos = tokenizer_bos(v->tokenizer);
    if (bos >= 0 && !(v->ids.ids = malloc(sizeof *v->ids.ids)))
        return error_set(&v->error, ERROR_MEMORY_EXHAUSTED, "no memory for the tokens of a text");
    if (bos >= 0) {
        v->ids.capacity = v->ids.n = 1;
        v->ids.ids[0] = (uint32_t)bos;
    }
    size_t first = v->ids.n;
    if ((code = tokenizer_encode(v->tokenizer, text, sizeof text - 1, false, false, &v->ids, &v->error)))
        return code;
    buffer_init(&back, 4 * sizeof text);
    code = tokenizer_decode(v->tokenizer, v->ids.ids + first, v->ids.n - first, false, &back, &v->error);
    const char *from = back.data ? back.data : "";
    size_t n = back.n_bytes;
    if (n == sizeof text && *from == ' ') /* SentencePiece begins words with a space */
        from++, n--;
    size_t same = 0;
    while (same < n && same < sizeof text - 1 && from[same] == text[same])
        same++;
    buffer_fini(&back);
    if (!code && (n != sizeof text - 1 || same != n))
        return FAIL(v, "a text of %zu bytes became %zu tokens and then another text, from byte %zu on", sizeof text - 1,
                    v->ids.n - first, same);
    SAY(v, CHECK_TOKENIZER, "%u tokens; a text of %zu bytes is %zu of them, and the same text again",
        tokenizer_n_tokens(v->tokenizer), sizeof text - 1, v->ids.n - first);
    return code;
}

static enum error_code check_weights(struct verify *v)
{
    enum order_evidence evidence;
    struct weights_summary w;
    enum i2s_order fits = model_i2s_order(v->gguf, &v->shape, &evidence),
                   order = v->i2s_order < 0 ? fits : (enum i2s_order)v->i2s_order;
    if (evidence == ORDER_SEEN && order != fits)
        return FAIL(v, "I2_S tensors are packed %d to a block, but were asked to be read as %d", fits == I2S_ORDER_64 ? 64 : 128,
                    order == I2S_ORDER_64 ? 64 : 128);
    enum error_code code = model_check_weights(v->gguf, &v->shape, order, &w, &v->error);
    if (!code)
        SAY(v, CHECK_WEIGHTS, "%" PRIu64 ", finite; scales %.4g to %.4g; FFN rows and columns correlate by %.2f", w.n_weights,
            w.scale_min, w.scale_max, w.ffn_fit);
    return code;
}

static enum error_code open_session(struct verify *v, const char *isa, int n_threads, struct session **out)
{
    const struct engine_options options = {.model_path = v->path, .device = "cpu", .isa = isa, .n_threads = n_threads,
                                           .i2s_order = v->i2s_order, .max_sequences = 1, .max_batch_tokens = N_TEXT,
                                           .context_length = N_TEXT + 1};
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
            rows[i] = (struct session_row){0, v->ids.ids[at + i], at + i + 1 == n};
        enum error_code code = session_step(s, rows, m, false, at + m == n ? logits : NULL, &v->error);
        if (code)
            return code;
    }
    return ERROR_NONE;
}

static enum error_code answers_of(struct verify *v, const char *isa, int n_threads, float *logits, float *again)
{
    struct session *s = NULL;
    size_t n = v->ids.n < N_ANSWER ? v->ids.n : N_ANSWER, vocab = v->shape.vocab_size;
    enum error_code code = open_session(v, isa, n_threads, &s);
    if (!code)
        code = last_logits(v, s, n, n, logits);
    if (!code)
        code = last_logits(v, s, n, 1, again);
    session_close(s);
    if (code)
        return code;
    for (size_t i = 0; i < vocab; i++)
        if (!isfinite(logits[i]))
            return FAIL(v, "the logit of token %zu behind %zu tokens is %f", i, n, (double)logits[i]);
    if (memcmp(logits, again, vocab * sizeof *logits) != 0)
        return FAIL(v, "%zu tokens at once and one by one gave different logits (%s kernels)", n, isa ? isa : "best");
    return ERROR_NONE;
}

static enum error_code check_answers(struct verify *v)
{
    size_t vocab = v->shape.vocab_size;
    float *logits = malloc(3 * vocab * sizeof *logits);
    if (!logits)
        return error_set(&v->error, ERROR_MEMORY_EXHAUSTED, "no memory for the logits of %zu tokens", vocab);
    enum error_code code = answers_of(v, "portable", 1, logits, logits + vocab);
    if (!code)
        code = answers_of(v, NULL, 0, logits + vocab, logits + 2 * vocab);
    if (!code && memcmp(logits, logits + vocab, vocab * sizeof *logits) != 0)
        code = FAIL(v, "portable and best kernels gave different logits");
    if (!code)
        SAY(v, CHECK_ANSWERS, "portable and best kernels, %d tokens at once and one by one: the same bits (%016" PRIx64 ")",
            N_ANSWER, kernel_hash(0, logits, vocab * sizeof *logits));
    free(logits);
    return code;
}

/* -log2 p of `target` under softmax(logits). */
static double bits_of(const float *logits, size_t n, uint32_t target)
{
    double max = (double)logits[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        max = (double)logits[i] > max ? (double)logits[i] : max;
    for (size_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - max);
    return (log(sum) + max - (double)logits[target]) / M_LN2;
}

/* Bits of all tokens of the text but the first, and the bytes that these tokens are. logits: [CHUNK][vocab_size]. */
static enum error_code score_text(struct verify *v, struct session *s, float *logits, double *bits, size_t *n_bytes)
{
    size_t n = v->ids.n < N_TEXT ? v->ids.n : N_TEXT, vocab = v->shape.vocab_size;
    struct session_row rows[CHUNK];
    *bits = 0;
    *n_bytes = 0;
    for (size_t at = 0; at + 1 < n; at += CHUNK) {
        size_t m = n - 1 - at < CHUNK ? n - 1 - at : CHUNK;
        for (size_t i = 0; i < m; i++)
            rows[i] = (struct session_row){0, v->ids.ids[at + i], true};
        enum error_code code = session_step(s, rows, m, false, logits, &v->error);
        if (code)
            return code;
        for (size_t i = 0; i < m; i++) {
            size_t piece_bytes = 0;
            *bits += bits_of(logits + i * vocab, vocab, v->ids.ids[at + i + 1]);
            tokenizer_piece(v->tokenizer, v->ids.ids[at + i + 1], &piece_bytes);
            *n_bytes += piece_bytes;
        }
    }
    return ERROR_NONE;
}

static enum error_code check_text(struct verify *v)
{
    struct session *s = NULL;
    double bits = 0;
    size_t n_bytes = 0;
    float *logits = malloc(CHUNK * (size_t)v->shape.vocab_size * sizeof *logits);
    enum error_code code =
        logits ? open_session(v, NULL, 0, &s) : error_set(&v->error, ERROR_MEMORY_EXHAUSTED, "no memory for logits");
    if (!code)
        code = score_text(v, s, logits, &bits, &n_bytes);
    session_close(s);
    free(logits);
    if (code)
        return code;
    double per_byte = n_bytes ? bits / (double)n_bytes : (double)INFINITY;
    if (!(per_byte < PLAUSIBLE_BITS))
        return FAIL(v,
                    "a plain English text takes %.2f bits a byte, expected less than %.1f of a language model: weights, tokenizer or "
                    "hyperparameters are not those that belong together",
                    per_byte, PLAUSIBLE_BITS);
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
    buffer_printf(out, "%s: %s\n", v->path, v->passed ? "sound" : "NOT SOUND");
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
    json_string(out, "path", v->path);
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
    v->path = path;
    v->i2s_order = i2s_order;
    run_checks(v);
    if (json)
        write_json(v, out);
    else
        write_text(v, out);
    enum error_code code = v->passed ? ERROR_NONE : v->error.code;
    if (code && err)
        *err = v->error;
    free(v->ids.ids);
    tokenizer_close(v->tokenizer);
    gguf_close(v->gguf);
    free(v);
    return code;
}
