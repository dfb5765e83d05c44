/* Packed rows of ternary weights times int8 activations, with dot products. A block of 128 weights is two loads; of each, shifts and masks
 * give 4 x 16 codes that sdot multiplies by 16 activations into exact 32-bit sums. */
#include "kernels/arm/ternary.h"

/* Rows r .. r + R - 1 times tokens t .. t + T - 1; R * T is at most 8, so that all sums stay in registers. */
ALWAYS_INLINE void tile(const struct matmul_tile *m, size_t r, size_t t, const int R, const int T)
{
    const uint8_t *rows = m->rows + r * m->row_bytes;
    const int8_t *q = m->q + t * m->q_stride;
    int32x4_t sums[8];
#pragma GCC unroll 8
    for (int i = 0; i < R * T; i++)
        sums[i] = vdupq_n_s32(0);
    for (size_t b = 0; b < m->row_bytes; b += 16) {
        const int8_t *x = q + b / 32 * 128 + b % 32;
        int8x16_t codes[4][4];
#pragma GCC unroll 4
        for (int i = 0; i < R; i++)
            unpack(rows + (size_t)i * m->row_bytes + b, codes[i]);
#pragma GCC unroll 4
        for (int part = 0; part < 4; part++)
#pragma GCC unroll 4
            for (int j = 0; j < T; j++) {
                int8x16_t a = vld1q_s8(x + (size_t)j * m->q_stride + 32 * (size_t)part);
#pragma GCC unroll 4
                for (int i = 0; i < R; i++)
                    sums[i * T + j] = vdotq_s32(sums[i * T + j], codes[i][3 - part], a);
            }
    }
#pragma GCC unroll 8
    for (int i = 0; i < R * T; i++)
        finish_one(m, r + (size_t)(i / T), t + (size_t)(i % T), sums[i]);
}

void matmul_i2s_i8_dotprod(const struct matmul_tile *m)
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
