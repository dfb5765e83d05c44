/*
 * Which sequences take part in the next step, and with how many rows. Pure policy: state in, decisions out; it reads
 * no clock and holds no sequence.
 *
 *   step:  | decode | decode | decode | prefill chunk of the oldest | of the next ...|   at most max_rows rows
 *
 * Decodes come first, one row each, so that a long prompt never stops the streams that run; prompts fill what is left
 * in the order of admission. Beside decodes the prompts' rows are cut so that a step takes the target's time, or without one at most
 * 1.6 times what it will take when these prompts are decodes too: the time between two tokens stays below twice what it will then be.
 * Without decodes a step takes SCHEDULER_ALONE_NS, so that a cancel, a deadline or a new request is seen, or SCHEDULER_SHARED_NS where
 * another engine waits for its turn. A crowd that has just come, of short prompts, is met in steps as long: the first of it wait a few times
 * for the others and then decode in one batch with them, which is sooner over for all than decoding by twos and threes. No cut can change
 * a result, as the result of a row does not depend on its step.
 */
#ifndef ENGINE_SCHEDULER_H
#define ENGINE_SCHEDULER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCHEDULER_ALONE_NS INT64_C(1000000000)
#define SCHEDULER_SHARED_NS INT64_C(20000000)
#define SCHEDULER_UNKNOWN_NS INT64_C(100000000) /* of a step beside decodes, at least, before the time of decodes alone is known */
#define SCHEDULER_LEAST_NS INT64_C(10000000)    /* a shorter step is not worth a cut */
#define SCHEDULER_CROWD 4                       /* prompts, at least */
#define SCHEDULER_CROWD_NS INT64_C(10000000000) /* of their rows, at most, times the share of prompts in all sequences */
#define SCHEDULER_FIRST_PREFILL 64 /* rows of prompts in a step before the time of a row is known */
#define SCHEDULER_MIN_PREFILL 4    /* rows that prompts get in a step, whatever they take */

struct scheduler {
    size_t max_rows;
    int64_t target_ns;  /* of a step with decodes; 0 = by what decodes take */
    bool shared;        /* other engines compute in turns with this one */
    size_t next_decode; /* where the turn begins when there are more decodes than rows */
    /* Learnt; 0 = not known. */
    int64_t row_ns;     /* what a row of a prompt adds to a step */
    int64_t decode_ns;  /* what a step of n_decodes decodes alone takes */
    size_t n_decodes;
};

/* One admitted sequence, in the order of admission. */
struct scheduler_item {
    uint32_t n_left; /* known tokens that are not in the KV cache yet and that it may compute now; at least 1 unless paused */
    bool decode;     /* n_left is a generated token and what was drafted behind it */
    bool paused;     /* its reader is behind, or another sequence computes what it waits for */
    uint32_t n_rows; /* out: rows in the step; 0 = not in it */
};

/* Fills n_rows of each item; returns the rows of the step. */
size_t scheduler_plan(struct scheduler *s, struct scheduler_item *items, size_t n);

/* What a step of n decodes alone takes, as far as it is known; 0 = not. */
int64_t scheduler_decode_ns(const struct scheduler *s, size_t n);

/* Learns from a step that was made, of so many decodes and rows of prompts. */
void scheduler_learn(struct scheduler *s, size_t n_decodes, size_t n_prefill, int64_t step_ns);

#endif
