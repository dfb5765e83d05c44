/*
 * Merging, the part that byte-level BPE and SentencePiece share: a row of symbols, in which the best pair is joined again and
 * again until no pair of neighbours may be joined. "Best" is the lowest rank, then the leftmost place.
 *
 *   BPE from a GGUF     rank = index in tokenizer.ggml.merges
 *   BPE from ranks      rank = the joined token's rank; each way to cut a token into two tokens is a pair
 *   SentencePiece       rank = place of the joined token's score among all, best first; pairs as above
 *
 * Pairs are made when the vocabulary is loaded, so that a merge step compares two integers and hashes no text. A heap keeps
 * the work at n log n for a piece of n symbols, however long the piece.
 */
#ifndef ENGINE_TEXT_MERGES_H
#define ENGINE_TEXT_MERGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MERGES_NO_SYMBOL UINT32_MAX /* joins with nothing */

struct merges_slot {
    uint64_t pair; /* left << 32 | right; UINT64_MAX = free */
    uint32_t rank, joined;
};

struct merges {
    struct merges_slot *slots; /* [capacity], a power of two, at most half full */
    size_t capacity, n;
    uint64_t seed;
};

/* One symbol of a piece. `start` is the caller's: where in the text it begins. */
struct symbol {
    uint32_t id;
    uint32_t start;
    uint32_t prev, next; /* neighbours; UINT32_MAX at the ends */
};

struct merges_candidate {
    uint64_t key; /* rank << 32 | index of the left symbol */
    uint32_t left, right, joined;
};

/* Memory for one caller at a time; zeroed = empty, grows, freed with merges_work_fini. */
struct merges_work {
    struct symbol *symbols; /* [n]; prev and next are filled by merges_apply */
    size_t n, symbols_capacity;
    struct merges_candidate *heap;
    size_t n_heap, heap_capacity;
};

bool merges_init(struct merges *m, size_t n_expected);
void merges_fini(struct merges *m);

/* Adds a pair unless it is there already (the first one has the better rank). False when memory is out. */
bool merges_add(struct merges *m, uint32_t left, uint32_t right, uint32_t rank, uint32_t joined);

/* Appends a symbol to the piece. False when memory is out or the piece has 2^31 symbols. */
bool merges_push(struct merges_work *w, uint32_t id, uint32_t start);

/* Joins what can be joined in w->symbols[0..n); the result is the list from symbol 0 along `next`. False when memory is out. */
bool merges_apply(const struct merges *m, struct merges_work *w);
void merges_work_fini(struct merges_work *w);

#endif
