/*
 * The tokens of a vocabulary as a tree of their bytes, so that all of them are tried against an automaton in one walk that leaves out what
 * begins with a byte that cannot stand there. Nodes lie in the order of the walk. Immutable; any thread.
 *
 * Tokens without text (control, unknown, unused, end of generation) are not in it.
 */
#ifndef ENGINE_GRAMMAR_TRIE_H
#define ENGINE_GRAMMAR_TRIE_H

#include "engine/text/tokenizer.h"

struct trie_node {
    uint32_t skip;        /* the first node behind those that begin as this one does */
    uint32_t first_token; /* its tokens are order[first_token .. the next node's first_token) */
    uint16_t depth;       /* bytes; the root, which is not stored, has 0 */
    uint8_t byte;         /* the last of them */
};

struct trie {
    struct trie_node *nodes; /* [n_nodes + 1], the last one for its first_token */
    uint32_t n_nodes;
    uint32_t *order; /* [n_tokens] ids by their bytes */
    uint32_t n_tokens, max_depth;
    uint32_t *ends; /* [n_ends] ids that end a generation */
    uint32_t n_ends;
};

/* The tokens of t below n_vocab. False when memory is out. */
bool trie_open(struct trie *trie, const struct tokenizer *t, uint32_t n_vocab);
void trie_close(struct trie *trie);

#endif
