/*
 * Special tokens written in a text, found leftmost and longest. The texts are kept sorted; at each place the candidates are
 * narrowed down byte by byte with a binary search, so a vocabulary full of special tokens costs no more than a few steps.
 */
#ifndef ENGINE_TEXT_SPECIALS_H
#define ENGINE_TEXT_SPECIALS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SPECIALS_MAX_BYTES 256 /* longer texts are never looked for, which bounds the work at one place */

struct special {
    const char *text; /* borrowed from the vocabulary */
    uint32_t n_bytes, id;
    bool always; /* user-defined: found even where control tokens are not to be parsed */
};

struct specials {
    struct special *items; /* [n], sorted by text once specials_sort was called */
    size_t n, capacity;
    bool starts[2][256]; /* [parse all][first byte]: some text begins with it */
};

/* Adds a text; ones that are empty or over SPECIALS_MAX_BYTES are left out. False when memory is out. */
bool specials_add(struct specials *s, const char *text, size_t n_bytes, uint32_t id, bool always);
void specials_sort(struct specials *s); /* once, after the last specials_add */
void specials_fini(struct specials *s);

/* The first special token in text[from..n_bytes): its place in *at; NULL when there is none. `all` false: user-defined only. */
const struct special *specials_find(const struct specials *s, const char *text, size_t n_bytes, size_t from, bool all,
                                    size_t *at);

#endif
