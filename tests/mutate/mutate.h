/*
 * mutate: sends mutations of valid requests to a running gateway, many connections at a time, and reads what comes back
 * strictly. Every connection has to end in a close by the gateway, and every answer that it began has to be well-formed and
 * whole. Case i of a seed is always the same bytes.
 *
 *   mutate.c   the connections      cases.c   the bytes that are sent      answers.c   the bytes that come back
 */
#ifndef TESTS_MUTATE_MUTATE_H
#define TESTS_MUTATE_MUTATE_H

#include "base/buffer.h"

#include <stdbool.h>
#include <stdint.h>

/* Writes case `index` of a protocol (1: HTTP/1, 2: HTTP/2). */
void case_make(int protocol, uint64_t seed, uint64_t index, struct buffer *out);

struct tally {
    uint64_t n_status[6]; /* answers by the first digit of their status */
    uint64_t n_resets, n_goaways;
};

/* Reads all that one connection sent. `cut`: the last answer may be incomplete, because the client left first. Returns what
 * is wrong with it, or NULL. */
const char *answers_check(const struct buffer *in, bool cut, struct tally *t);

#endif
