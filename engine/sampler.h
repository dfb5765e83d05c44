/*
 * Sampling: logits of one row -> one token. Everything is defined exactly, so that a token depends on the logits, the
 * parameters, the tokens so far and (seed, choice, position) only.
 *
 *   penalties -> bias -> grammar -> [log-probabilities are of this] -> temperature -> top-k -> top-p -> min-p -> draw
 *
 * Order of tokens, wherever one is needed: logit descending, then id ascending. A weight is exp((logit - max) / T).
 *  penalties  repetition (CTRL, arXiv 1909.05858 section 4.1, as in HF): a positive logit of a token seen in prompt or
 *             output is divided, another multiplied. Then, over generated tokens only and as OpenAI defines them,
 *             logit -= count * frequency + presence.
 *  grammar    tokens that are not allowed get -infinity; at least one is allowed
 *  top-k      the first k in order
 *  top-p      the shortest prefix in order whose weight is at least top_p of what top-k left; one token at least
 *  min-p      weight at least min_p (the best token's weight is 1)
 *  draw       argmax of logit / T + gumbel(seed, choice, position, id) in double, ties to the lowest id; position is the
 *             index in the sequence, prompt included. Temperature 0: argmax of the logit, ties to the lowest id.
 *
 * One sampler serves all sequences of an engine: it holds scratch memory, no state. One thread at a time.
 */
#ifndef ENGINE_SAMPLER_H
#define ENGINE_SAMPLER_H

#include "engine/engine.h"

#define SAMPLER_MAX_TOP 20

struct sampler;

struct sample_input {
    const uint32_t *prompt; /* [n_prompt], ids below the vocabulary's size, as are generated[] and bias[] */
    size_t n_prompt;
    const uint32_t *generated; /* [n_generated] */
    size_t n_generated;
    uint32_t choice;
    bool logprobs;
    uint32_t n_top; /* 0..SAMPLER_MAX_TOP */
    const uint64_t *allowed; /* a bit a token: the others are as if they were not there; NULL = all are allowed */
    size_t n_allowed;        /* bits that are set */
};

struct sample {
    uint32_t id;
    float logprob; /* 0 when not asked for */
    uint32_t n_top;
    struct token_logprob top[SAMPLER_MAX_TOP];
};

/* Scratch for a vocabulary; the caller closes it. */
enum error_code sampler_open(uint32_t vocab_size, struct sampler **out, struct error *err);
void sampler_close(struct sampler *s);
size_t sampler_memory_bytes(const struct sampler *s);

/* What sampler_draw will read of the logits of such a row, so that a backend need not compute the rest; its lists are those of `in` and
 * p->bias. */
struct logits_need sampler_need(const struct sampling *p, const struct sample_input *in);

/* Draws one token. `logits` [vocab_size] are changed. A logit that is NaN or +infinity, or none above -infinity, is
 * ERROR_INFERENCE_FAILED; finite logits always give a token. Allocates nothing. */
enum error_code sampler_draw(struct sampler *s, const struct sampling *p, const struct sample_input *in, float *logits,
                             struct sample *out, struct error *err);

/* The log-probability of token `id` by these logits as they are, and the best n_top (at most SAMPLER_MAX_TOP). Errors as those of
 * sampler_draw. Allocates nothing. */
enum error_code sampler_score(struct sampler *s, const float *logits, uint32_t id, uint32_t n_top, struct sample *out,
                              struct error *err);

#endif
