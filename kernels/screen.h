/*
 * screen: an int8 copy of a table of weights that finds, by proof, the few rows whose logits can matter. Half the bytes of F16 are read;
 * the rows that remain are then computed exactly, so no result changes.
 *
 * Row r is w = s q + e with int8 q, |q| <= 127. The input is x = t (254 h + l) + d with int8 h and l. Then
 *
 *   |w.x - s t q.(254 h + l)|  <=  |e| |x| + s |q| |d|        (Cauchy-Schwarz, twice)
 *
 * to which comes the rounding of the exact dot product, at most n 2^-24 |w| |x| and some. |e| and s |q| are computed at load in
 * double and rounded up. Base 254 keeps both halves within +-127, so that pair sums of AVX2 cannot saturate.
 */
#ifndef KERNELS_SCREEN_H
#define KERNELS_SCREEN_H

#include "kernels/kernels.h"

struct screen {
    size_t n_rows, n_cols, stride; /* stride: n_cols padded to 64 with zeros */
    int8_t *q;                     /* [n_rows][stride], 64-byte aligned */
    float *scale;                  /* [n_rows] s */
    float *error;                  /* [n_rows] |e|, rounded up */
    float *norm;                   /* [n_rows] s |q|, rounded up */
    float max_error, max_norm;     /* over all rows; set by screen_finish */
    size_t memory_bytes;
};

/* A row of x in two int8 halves, with what its bounds need. */
struct screen_x {
    int8_t *high, *low;            /* [stride], 64-byte aligned */
    int32_t high_sum, low_sum;     /* sums of the halves */
    double scale;                  /* t */
    double norm, error;            /* |x|, |d|, rounded up */
    bool finite;
};

/* Allocates; the rows are filled in by screen_set_row. False when memory is out. */
bool screen_open(struct screen *s, size_t n_rows, size_t n_cols);
void screen_close(struct screen *s);
/* Quantises row r of f32 weights. Rows may be set by several threads. False when the row is not finite. */
bool screen_set_row(struct screen *s, size_t r, const float *w);
/* After the last row. */
void screen_finish(struct screen *s);
/* Splits n_cols values into x->high and x->low, which have room for the stride. */
void screen_split(const struct screen *s, const float *x, struct screen_x *out);
/* The computed f32 logit of row r lies within per_error * error[r] + per_norm * norm[r] of the estimate, which may be kept in float. */
struct screen_bound {
    double per_error, per_norm;
};
struct screen_bound screen_bound(const struct screen *s, const struct screen_x *x);

#endif
