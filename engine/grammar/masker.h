/*
 * Which tokens may come next: the automata of the grammars in use, the masks of their states, and the place of each sequence.
 *
 *   matcher_start -> (matcher_mask -> matcher_push)* -> matcher_stop
 *
 * A mask is worked out once for a state, by a walk of the vocabulary's tree, and kept as long as there is room; so are automata. What a
 * mask allows is exact: a token is in it if and only if the text with its bytes can still become one of the grammar.
 *
 * Owned by one thread, but for masker_open.
 */
#ifndef ENGINE_GRAMMAR_MASKER_H
#define ENGINE_GRAMMAR_MASKER_H

#include "engine/grammar/automaton.h"
#include "engine/grammar/trie.h"

struct token_mask {
    uint64_t *allowed; /* [(n_vocab + 63) / 64] a bit a token */
    uint32_t n_allowed;
    /* For the masker: whose it is (NULL: nobody's), and of which state while the epoch is this */
    struct automaton *owner;
    uint32_t state, epoch;
    uint64_t used; /* the time of its last use */
};

struct masker;

/* For n_sequences sequences at once over the ids below n_vocab. Memory: see masker_memory_bytes. */
enum error_code masker_open(const struct tokenizer *t, uint32_t n_vocab, size_t n_sequences, struct masker **out,
                            struct error *err);
void masker_close(struct masker *m);
/* What it may take at most beside the automata, which have bounds of their own. */
size_t masker_memory_bytes(const struct masker *m);

/* The place of a text in its grammar. Zeroed = stopped. */
struct matcher {
    struct automaton *automaton;
    uint32_t state, epoch;
};

/* At the beginning of a text of g. False when memory is out; the matcher is stopped then. */
bool matcher_start(struct masker *m, struct grammar *g, struct matcher *x);
void matcher_stop(struct masker *m, struct matcher *x);
/* What may follow the n tokens that were pushed so far, which are given again because the place may have to be found anew. Valid until
 * n_sequences other masks were asked for. NULL when the grammar has grown too large to be followed, or the matcher is stopped. */
const struct token_mask *matcher_mask(struct masker *m, struct matcher *x, const uint32_t *ids, size_t n);
/* How many of the n_more tokens behind the n could be drawn, as far as their text goes. */
uint32_t matcher_follow(struct masker *m, struct matcher *x, const uint32_t *ids, size_t n, uint32_t n_more);
/* Goes on by the last of the n tokens. True when the text is complete and nothing can follow. */
bool matcher_push(struct masker *m, struct matcher *x, const uint32_t *ids, size_t n);

#endif
