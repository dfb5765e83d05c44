/*
 * A grammar as a deterministic automaton over bytes, made as far as it is walked.
 *
 * A state is a set of threads of the program: where each is, how far in a character, and in which frame, that is, the calls that it has
 * yet to return from. Equal frames are one and equal states are one, so both are compared by number. From a state that is not
 * AUTOMATON_DEAD the grammar can always be ended within its depth.
 *
 * Grows up to a bound; then it is cleared, and whoever holds a state finds the way back to it by the text (`epoch` has changed).
 * One thread.
 */
#ifndef ENGINE_GRAMMAR_AUTOMATON_H
#define ENGINE_GRAMMAR_AUTOMATON_H

#include "engine/grammar/program.h"

#define AUTOMATON_MAX_BYTES ((size_t)8 << 20)
/* Threads of a state: more come only from grammars in which texts have very many readings. */
#define AUTOMATON_MAX_THREADS 8192

/* Instead of a state: no text of the grammar goes on so; the automaton cannot grow further, or the budget is spent. */
#define AUTOMATON_DEAD 0xFFFFFFFEu
#define AUTOMATON_FAILED 0xFFFFFFFDu
#define AUTOMATON_UNKNOWN 0xFFFFFFFFu

struct frame {
    uint32_t back;   /* node to go on from */
    uint32_t parent; /* frame to go on in */
    uint32_t depth;
};

struct state {
    uint32_t first_thread, n_threads; /* in threads[] */
    bool accepting;                   /* the text may end here */
    uint32_t mask;                    /* for masks: number of its mask, UINT32_MAX = none */
};

/* Numbers of things that are hashed by what they are: open addressing. */
struct table {
    uint32_t *slots; /* [n_slots] number + 1, 0 = free */
    size_t n_slots;
};

/* The state that is being made; serves any number of automata of one thread. */
struct automaton_work {
    uint64_t made[AUTOMATON_MAX_THREADS], todo[AUTOMATON_MAX_THREADS];
    uint64_t seen[2 * AUTOMATON_MAX_THREADS]; /* a hash set; what does not bear the stamp is not there */
    uint32_t stamps[2 * AUTOMATON_MAX_THREADS], stamp;
    size_t n_made, n_todo;
    bool accepting, failed;
    size_t
        budget; /* threads that may yet be looked at; at 0 no state can be made: the user sets it before a piece of work */
};

struct automaton {
    struct grammar *grammar; /* a reference */
    uint32_t epoch;          /* changes when all states are forgotten */
    struct state *states;    /* [n_states] */
    uint32_t *next;          /* [n_states][n_classes] */
    size_t n_states, states_capacity;
    uint64_t *threads; /* [n_threads] of all states; see automaton.c for the packing */
    size_t n_threads, threads_capacity;
    struct frame *frames; /* [n_frames]; 0 is the bottom */
    size_t n_frames, frames_capacity;
    struct table state_table, frame_table;
    struct automaton_work *work; /* borrowed */
};

/* Takes a reference to g; `work`, zeroed at first, outlives the automaton. NULL when memory is out. */
struct automaton *automaton_open(struct grammar *g, struct automaton_work *work);
void automaton_close(struct automaton *a);
/* Forgets all states. */
void automaton_clear(struct automaton *a);
size_t automaton_memory_bytes(const struct automaton *a);

/* The state of the empty text, or FAILED. */
uint32_t automaton_start(struct automaton *a);
/* Makes the state behind `state` and a byte of the class: a state, DEAD or FAILED. */
uint32_t automaton_make(struct automaton *a, uint32_t state, uint32_t class);

static inline uint32_t automaton_next(struct automaton *a, uint32_t state, uint8_t byte)
{
    uint32_t class = a->grammar->class_of[byte], next = a->next[state * a->grammar->n_classes + class];
    return next == AUTOMATON_UNKNOWN ? automaton_make(a, state, class) : next;
}

/* The text is complete and nothing may follow. */
static inline bool automaton_is_over(const struct automaton *a, uint32_t state)
{
    return a->states[state].accepting && a->states[state].n_threads == 0;
}

#endif
