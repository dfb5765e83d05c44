/*
 * Packed rows of ternary weights times int8 activations, plain NEON. A block of 128 weights is two loads; of each, shifts and masks give
 * 4 x 16 codes that meet 16 activations in widening multiply-adds. A lane of int16 takes 16 products of at most 256 in size from a
 * block; after 8 blocks 32768 is reached on the negative side only, which int16 holds.
 */
#include "kernels/arm/ternary.h"

#define INT16_BYTES ((size_t)8 * 32) /* of a row */

/* Adds `n_bytes` (at most INT16_BYTES) of R rows times T tokens to sums[R * T]. */
ALWAYS_INLINE void add_blocks(const uint8_t *rows, size_t row_bytes, const int8_t *q, size_t q_stride, size_t n_bytes,
                              const int R, const int T, int32x4_t *sums)
{
    int16x8_t acc[8];
#pragma GCC unroll 8
    for (int i = 0; i < R * T; i++)
        acc[i] = vdupq_n_s16(0);
    for (size_t b = 0; b < n_bytes; b += 16) {
        const int8_t *x = q + b / 32 * 128 + b % 32;
        int8x16_t codes[4][4];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
            unpack(rows + (size_t)r * row_bytes + b, codes[r]);
#pragma GCC unroll 4
        for (int part = 0; part < 4; part++)
#pragma GCC unroll 4
            for (int t = 0; t < T; t++) {
                int8x16_t a = vld1q_s8(x + (size_t)t * q_stride + 32 * (size_t)part);
#pragma GCC unroll 4
                for (int r = 0; r < R; r++) {
                    int8x16_t c = codes[r][3 - part];
                    acc[r * T + t] = vmlal_s8(acc[r * T + t], vget_low_s8(c), vget_low_s8(a));
                    acc[r * T + t] = vmlal_high_s8(acc[r * T + t], c, a);
                }
            }
    }
#pragma GCC unroll 8
    for (int i = 0; i < R * T; i++)
        sums[i] = vpadalq_s16(sums[i], acc[i]);
}

/* Rows r .. r + R - 1 times tokens t .. t + T - 1; R * T is at most 8. */
ALWAYS_INLINE void tile(const struct matmul_tile *m, size_t r, size_t t, const int R, const int T)
{
    int32x4_t sums[8];
#pragma GCC unroll 8
    for (int i = 0; i < R * T; i++)
        sums[i] = vdupq_n_s32(0);
    for (size_t b = 0; b < m->row_bytes; b += INT16_BYTES)
        add_blocks(m->rows + r * m->row_bytes + b, m->row_bytes, m->q + t * m->q_stride + 4 * b, m->q_stride,
                   m->row_bytes - b < INT16_BYTES ? m->row_bytes - b : INT16_BYTES, R, T, sums);
#pragma GCC unroll 8
    for (int i = 0; i < R * T; i++)
        finish_one(m, r + (size_t)(i / T), t + (size_t)(i % T), sums[i]);
}

void matmul_i2s_i8_neon(const struct matmul_tile *m)
{
    size_t t = 0;
    for (; t + 4 <= m->n_tokens; t += 4) {
        size_t r = 0;
        for (; r + 2 <= m->n_rows; r += 2)
            tile(m, r, t, 2, 4);
        if (r < m->n_rows)
            tile(m, r, t, 1, 4);
    }
    for (; t < m->n_tokens; t++) {
        size_t r = 0;
        for (; r + 4 <= m->n_rows; r += 4)
            tile(m, r, t, 4, 1);
        for (; r < m->n_rows; r++)
            tile(m, r, t, 1, 1);
    }
}
