/*
 * ask: requests that the registry itself makes of an engine, to see how it does. Waits for the answer on the caller's thread.
 */
#ifndef ENGINE_REGISTRY_ASK_H
#define ENGINE_REGISTRY_ASK_H

#include "engine/engine.h"

#define ASK_MAX_TOKENS 64 /* of an answer */
#define ASK_TOP 20        /* most likely tokens of each position */

struct answer {
    uint32_t ids[ASK_MAX_TOKENS];
    float logprobs[ASK_MAX_TOKENS];
    size_t n;
    double tokens_per_second; /* reading the prompt included */
};

/* Generates up to max_tokens tokens behind ids, greedily, not ended by the end of a text. INFERENCE_FAILED or what the engine says; DEADLINE_EXCEEDED. */
enum error_code ask_tokens(struct engine *e, const uint32_t *ids, size_t n, size_t max_tokens, int64_t deadline_ns, struct answer *out,
                           struct error *err);

/* The log-probabilities of tokens 1..n-1 of a text, each behind those before it. */
struct score {
    uint32_t id;
    float logprob;
    uint32_t n_top;
    struct token_logprob top[ASK_TOP]; /* descending */
};
/* out: [n]; out[0] is not filled. */
enum error_code ask_scores(struct engine *e, const uint32_t *ids, size_t n, int64_t deadline_ns, struct score *out, struct error *err);

/* The vector [embedding_size] of a text, of a model that computes them. */
enum error_code ask_embedding(struct engine *e, const uint32_t *ids, size_t n, int64_t deadline_ns, float *out, struct error *err);

#endif
