/*
 * screen: a copy of a table of weights in eight bits that finds, by proof, the few rows whose logits can matter. They are then
 * computed exactly, so no result changes.
 *
 * Row r is w = s (u - 128) + e with unsigned eight-bit u. The top six bits lie in one plane, the low two in another. The input is
 * x = t (254 h + l) + d with int8 h and l. A first look saves what costs most, for a single x the low plane (bytes), for many the low
 * half (arithmetic), and takes a larger e or d; only rows that may still matter are looked at again. With v standing for w,
 *
 *   |w.x - v.(x - d)|  <=  |e| |x| + |v| |d|        (Cauchy-Schwarz, twice)
 *
 * to which comes the rounding of the exact dot product, at most n 2^-24 |w| |x| and some, and that of the estimate, which is made of
 * exact integers in float: less than 2^-18 |v| |x|. Both |e| and |v| are computed at load and rounded up. Base 254 keeps both halves
 * within +-127.
 *
 *   a block of 256 weights, w = 64 k + i:
 *   high  64 bytes: bits 7..2 of weights i from the low bits up | bits 3..2 of 192 + i
 *         64 bytes: of 64 + i | bits 5..4 of 192 + i    64 bytes: of 128 + i | bits 7..6 of 192 + i
 *   low   64 bytes: bits 1..0 of weights i, 64 + i, 128 + i, 192 + i, from the low bits up
 */
#ifndef KERNELS_SCREEN_H
#define KERNELS_SCREEN_H

#include "kernels/kernels.h"

#define SCREEN_CHUNK 64       /* rows; planes and arrays are padded to it */
#define SCREEN_GROUP 16       /* of its rows, which share their largest bounds */
#define SCREEN_MAX_COLS 32768 /* so that twice a sum fits int32 */

struct screen {
    size_t n_rows, n_cols, stride; /* stride: n_cols padded to 256 */
    uint8_t *high, *low;           /* [n_rows][stride / 4 * 3], [n_rows][stride / 4], 64-byte aligned */
    float *scale;                  /* [n_rows] s */
    float *coarse_error, *error;   /* [n_rows] |e| of six and of eight bits, rounded up */
    float *norm;                   /* [n_rows] the larger |v| of both, rounded up */
    float max_size;                /* largest norm + coarse_error; set by screen_finish */
    size_t memory_bytes;
};

/* A row of x as two int8 halves, which lie elsewhere. */
struct screen_x {
    double scale;               /* t */
    double norm;                /* |x|, rounded up */
    double error, coarse_error; /* |d| with both halves and with the high one, rounded up */
    int32_t high_sum, low_sum;  /* sums of the halves */
    bool usable;                /* false: not finite or beyond the ranges of the proof */
};

/* How the estimate of a row is made, all in float: factor * scale[r] * (254 (2 h - centre h_sum) + (2 l - centre l_sum)) from sums h and l
 * over the halves, where the second term is left out when the low half is; and what the computed f32 logit lies within:
 * per_error * error[r] + per_norm * norm[r] + constant. */
struct screen_bound {
    float factor;
    int32_t centre;     /* twice the middle of what u stands for */
    const float *error; /* [n_rows] for as many bits */
    float per_error, per_norm, constant;
};

/* Rows of a screen times int8 vectors: sums[v * SCREEN_CHUNK + r] = sum of p[r] * x[v]; p is u of both planes, u & ~3 of the high one, u & 3
 * of the low one. Those that are NULL are not read. */
struct screen_tile {
    const uint8_t *high, *low; /* of the first row */
    size_t stride, n_rows;     /* n_rows at most SCREEN_CHUNK */
    const int8_t *x;           /* [n_x] vectors x_stride apart, 64-byte aligned */
    size_t n_x, x_stride;
    int32_t *sums;
};

/* A chunk's rows and one vector. screen_bounds estimates quantity[r], and of each group the largest bounds of rows that take part, -inf
 * when none does. screen_reaching returns the rows, of those that take part, whose quantity's upper bound is `least` or more; it reads
 * bound, error, norm, aside, quantity, and of each group `upper`, below which no row of it is looked at. */
struct screen_chunk {
    const int32_t *high, *low;         /* [SCREEN_CHUNK] sums over the halves; low: or NULL */
    int32_t high_centre, low_centre;   /* the centre times the sum of a half */
    const struct screen_bound *bound;
    const float *scale, *error, *norm; /* [SCREEN_CHUNK] of the rows */
    const float *noise;                /* [SCREEN_CHUNK] what comes to a quantity; or NULL */
    uint64_t aside;                    /* bits of rows that take no part */
    float *quantity;                   /* [SCREEN_CHUNK] */
    float *lower, *upper;              /* [SCREEN_CHUNK / SCREEN_GROUP] */
};

static inline size_t screen_high_bytes(size_t stride)
{
    return stride / 4 * 3;
}
static inline size_t screen_low_bytes(size_t stride)
{
    return stride / 4;
}

/* Allocates (owner: see memory_alloc_weights); the rows are filled in by screen_set_row. False when memory is out. */
bool screen_open(struct screen *s, const void *owner, size_t n_rows, size_t n_cols);
void screen_close(struct screen *s);
/* Quantises row r of f32 weights. Rows may be set by several threads. False when the row is not finite. */
bool screen_set_row(struct screen *s, size_t r, const float *w);
/* After the last row. */
void screen_finish(struct screen *s);
/* Splits n_cols values into halves [stride] with zeros beyond them. */
void screen_split(const struct screen *s, const float *x, int8_t *high, int8_t *low, struct screen_x *out);
/* For six bits of the weights or all eight, and for the high half of x or both. */
struct screen_bound screen_bound(const struct screen *s, const struct screen_x *x, bool all_bits, bool both_halves);
#endif
