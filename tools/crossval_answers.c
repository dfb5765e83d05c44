/*
 * Greedy answers to compare along. A text's positions are compared wherever two tokens are about as likely, too, which a request only
 * rarely comes to: what it gets depends on the positions of its own answer.
 */
#include "tools/crossval.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK = 128 };

static uint32_t best_of(const float *logits, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        best = logits[i] > logits[best] ? i : best;
    return (uint32_t)best;
}

/* Computes tokens from..n - 1 of ids and gives the logits of the last. */
static bool feed(struct session *s, const uint32_t *ids, size_t from, size_t n, float *logits, struct error *err)
{
    struct session_row rows[CHUNK];
    for (size_t at = from, m; at < n; at += m) {
        m = n - at < CHUNK ? n - at : CHUNK;
        for (size_t i = 0; i < m; i++)
            rows[i] = (struct session_row){0, ids[at + i], at + i + 1 == n};
        if (session_step(s, rows, m, false, logits, err))
            return false;
    }
    return true;
}

/* Appends up to n tokens to ids [n_prompt]; how many there are then, in all, or 0 with *err set. */
static size_t answer(struct session *s, uint32_t *ids, size_t n_prompt, size_t n, float *logits, struct error *err)
{
    size_t n_fed = 0, n_ids = n_prompt;
    session_reset(s, 0);
    while (n_ids < n_prompt + n && !(n_ids > n_prompt && tokenizer_is_eog(session_tokenizer(s), ids[n_ids - 1]))) {
        if (!feed(s, ids, n_fed, n_ids, logits, err))
            return 0;
        n_fed = n_ids;
        ids[n_ids++] = best_of(logits, session_model(s)->vocab_size);
    }
    return n_ids;
}

bool crossval_answer(struct session *s, struct crossval_sequences *q, size_t n, struct error *err)
{
    struct crossval_sequences out = {0};
    size_t longest = 0;
    for (size_t i = 0; i < q->n; i++)
        longest = q->n_ids[i] > longest ? q->n_ids[i] : longest;
    uint32_t *ids = malloc((longest + n) * sizeof *ids);
    float *logits = malloc(session_model(s)->vocab_size * sizeof *logits);
    bool ok = ids && logits;
    if (ok && longest + n > session_model(s)->context_length) {
        error_set_param(err, ERROR_VALIDATION_FAILED, "answers", "a prompt of %zu tokens and an answer of %zu are more than the model's context of %u", longest,
                        n, session_model(s)->context_length);
        ok = false;
    }
    for (size_t i = 0, at = 0, n_ids; ok && i < q->n; at += q->n_ids[i++]) {
        memcpy(ids, q->ids + at, q->n_ids[i] * sizeof *ids);
        n_ids = answer(s, ids, q->n_ids[i], n, logits, err);
        ok = n_ids && crossval_sequences_add(&out, ids, n_ids, q->n_ids[i] - 1); /* the position that draws the first token */
    }
    if (!ok && !err->code)
        error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for answers of %zu tokens", n);
    free(ids);
    free(logits);
    crossval_sequences_free(q);
    *q = out;
    return ok;
}
