/*
 * A compiled grammar: a program of nodes that read characters, fork, call rules and end them, and the automaton over bytes
 * of its characters, whose bytes are put into classes that all of its states treat alike.
 */
#ifndef ENGINE_GRAMMAR_PROGRAM_H
#define ENGINE_GRAMMAR_PROGRAM_H

#include "engine/grammar/chars.h"

#include <stdatomic.h>

#define GRAMMAR_MAX_NODES (1u << 18)
#define GRAMMAR_MAX_DEPTH 96 /* calls inside of each other */
#define GRAMMAR_END 0u       /* the node at which every rule ends */
#define GRAMMAR_HOPELESS 0xFFFF

enum node_kind { NODE_END, NODE_CHARS, NODE_FORK, NODE_CALL };

struct node {
    uint16_t kind;
    uint16_t state; /* CHARS: where a character begins */
    uint32_t next;  /* CHARS, CALL: what follows; FORK: one way */
    uint32_t other; /* FORK: the other way; CALL: the first node of the rule */
};

struct grammar {
    atomic_uint n_references;
    struct node *nodes; /* [n_nodes] */
    uint16_t
        *needs; /* [n_nodes] calls inside of each other that it takes at least to get from here to the end of the rule;
                         * GRAMMAR_HOPELESS: no way leads there */
    uint32_t n_nodes, start;
    uint16_t
        *next; /* [n_states][n_classes] state of a character and class of a byte -> state, CHARS_DEAD or CHARS_DONE */
    uint32_t n_states, n_classes;
    uint8_t class_of[256];
    size_t memory_bytes;
};

#endif
