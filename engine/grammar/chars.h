/*
 * Sets of characters, and the automata over bytes that read one character of a set: as UTF-8, or as it may stand inside of
 * a JSON string, where some must be escaped. One table holds the states of all sets of a grammar; equal states are one.
 *
 * The texts of a set are a prefix code: what has read one character can go no further.
 */
#ifndef ENGINE_GRAMMAR_CHARS_H
#define ENGINE_GRAMMAR_CHARS_H

#include "engine/engine.h"

#define CHARS_MAX_RANGES 1024
#define CHARS_MAX_STATES 8192

/* No state: the byte cannot stand here; or it ends a character. */
#define CHARS_DEAD 0xFFFEu
#define CHARS_DONE 0xFFFFu

struct char_set {
    struct char_range ranges[CHARS_MAX_RANGES];
    size_t n;
    bool overflow; /* a range did not fit */
};

void char_set_add(struct char_set *s, uint32_t first, uint32_t last);
/* Sorts and joins. U+0000 and surrogates are taken out: no text of ours has them. */
void char_set_normalise(struct char_set *s);
/* All characters that are not in the set, which is normalised before and after. */
void char_set_invert(struct char_set *s);

struct char_table {
    uint16_t (*next)[256]; /* [n] state -> byte -> state, CHARS_DEAD or CHARS_DONE; owned */
    size_t n, capacity;
    uint32_t *slots; /* [n_slots] hash table of states, 0 = free, else state + 1 */
    size_t n_slots;
    uint16_t all[4]; /* the state that reads n continuation bytes of any value, + 1; 0 = not made yet */
    bool failed;     /* memory is out or there are too many states; sticky */
};

void char_table_fini(struct char_table *t);
/* The state that reads one character of the normalised set; CHARS_DEAD when it is empty or the table has failed. */
uint16_t char_table_set(struct char_table *t, const struct char_set *s, bool in_json);
/* The state that reads one byte. */
uint16_t char_table_byte(struct char_table *t, uint8_t byte);

#endif
