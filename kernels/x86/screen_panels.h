/*
 * Rows of both planes of a screen times many vectors, written once: rows are unpacked a panel at a time. An instruction set's file defines
 *
 *   PANEL    rows that are unpacked together
 *   code     the type of an unpacked weight
 *   unpack   row r to one code a weight
 *   block    n_rows unpacked rows from r on times n_x vectors from v on; PANEL rows or 1, 4 vectors or 1, constants where it is called
 *
 * includes this and calls panels.
 */
#ifndef KERNELS_X86_SCREEN_PANELS_H
#define KERNELS_X86_SCREEN_PANELS_H

#include "kernels/x86/ask.h"

/* Between vectors the next panel's rows are asked for. */
static inline __attribute__((always_inline)) void panel(const struct screen_tile *t, const code *u, size_t r, int n_rows)
{
    size_t high_bytes = PANEL * screen_high_bytes(t->stride), low_bytes = PANEL * screen_low_bytes(t->stride), v = 0, n;
    const uint8_t *high = t->high + (r / PANEL + 1) * high_bytes, *low = t->low + (r / PANEL + 1) * low_bytes;
    for (; v < t->n_x; v += n) {
        n = v + 4 <= t->n_x ? 4 : 1;
        ask(high, high_bytes, v, v + n, t->n_x, SECOND_CACHE);
        ask(low, low_bytes, v, v + n, t->n_x, SECOND_CACHE);
        if (n == 4)
            block(t, u, r, v, n_rows, 4);
        else
            block(t, u, r, v, n_rows, 1);
    }
}

static void panels(const struct screen_tile *t)
{
    _Alignas(64) code u[PANEL * SCREEN_MAX_COLS];
    size_t r = 0;
    for (; r + PANEL <= t->n_rows; r += PANEL) {
        for (size_t j = 0; j < PANEL; j++)
            unpack(t, r + j, u + j * t->stride);
        panel(t, u, r, PANEL);
    }
    for (; r < t->n_rows; r++) {
        unpack(t, r, u);
        panel(t, u, r, 1);
    }
}

#endif
