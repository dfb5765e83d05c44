/*
 * Stop strings: bytes of a sequence's text go in, and out comes how much of the text may be shown, because it cannot
 * be the beginning of a stop string any more. One automaton a string (Knuth, Morris, Pratt: Fast Pattern Matching in
 * Strings), so nothing is buffered or read twice and strings are found across the borders of tokens.
 *
 * The first string to be complete wins; of strings complete at the same byte the longest. The text ends before it.
 * A stopper is immutable and may be shared by threads; a state belongs to one sequence.
 */
#ifndef ENGINE_STOPPER_H
#define ENGINE_STOPPER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STOPPER_MAX_STRINGS 16
#define STOPPER_MAX_BYTES 256

struct stopper;

struct stopper_state {
    uint64_t n_bytes;                      /* of text so far */
    uint16_t matched[STOPPER_MAX_STRINGS]; /* length of the longest beginning of each string that the text ends with */
};

/* Copies n strings (at most STOPPER_MAX_STRINGS of 1..STOPPER_MAX_BYTES bytes, may be none); NULL when memory is
 * out. */
struct stopper *stopper_open(const char *const *strings, size_t n);
void stopper_close(struct stopper *s);

/* Takes the next bytes of the text (the state starts zeroed). *safe is the number of bytes, from the start of the
 * text, that may be shown. True when a stop string was found: then the text ends at *safe, and nothing more may be
 * pushed. */
bool stopper_push(const struct stopper *s, struct stopper_state *state, const char *text, size_t n_bytes,
                  uint64_t *safe);

#endif
