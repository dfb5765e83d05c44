/*
 * reference: the model of an engine once more, computed by the portable kernels. Reads the engine's own weights, so it takes no memory for
 * them, only scratch and keys and values of one sequence. Used by one thread at a time, beside the engine's loop.
 *
 * Results of kernels do not depend on instruction set, threads or batch, so on sound kernels a recomputed token is the same token. What both
 * read in common is not checked: the weights in memory, and the draw, which is the sampler's.
 */
#ifndef ENGINE_REFERENCE_H
#define ENGINE_REFERENCE_H

#include "engine/engine.h"

struct reference;

struct reference_options {
    size_t n_positions;       /* of the sequence, at most; cut to the context */
    bool load;
    void (*pace)(void *user); /* called about each millisecond of computing, and may wait; or NULL */
    void *pace_user;
};
/* The engine must outlive it. DEVICE_UNAVAILABLE: the weights are on a device that the
 * portable kernels cannot read. Then, when `load` is set, the file is loaded once more, on the CPU with one thread and its best kernels. Never of a
 * null model. */
enum error_code reference_open(struct engine *e, const struct reference_options *o, struct reference **out, struct error *err);
void reference_close(struct reference *r);
size_t reference_memory_bytes(const struct reference *r); /* its own: scratch, keys and values, loaded weights */

struct agreement {
    uint64_t n_compared, n_same;   /* tokens */
};
/* Draws tokens[n_prompt..n) again, each behind the tokens before it, with the request's sampling (choice 0), and compares. `go_on`, asked between
 * chunks, may end it (then what was compared so far is given); or NULL. A chunk takes about 0.1 s, or one token. VALIDATION_FAILED: no token to
 * compare, an id beyond the vocabulary, or more than n_positions before the last token. */
enum error_code reference_compare(struct reference *r, const uint32_t *tokens, size_t n_prompt, size_t n, const struct sampling *sampling,
                                  bool (*go_on)(void *user), void *user, struct agreement *out, struct error *err);
/* Logits of the last n_last of n tokens, host [n_last][vocab_size]. */
enum error_code reference_logits(struct reference *r, const uint32_t *tokens, size_t n, size_t n_last, float *logits, struct error *err);

#endif
