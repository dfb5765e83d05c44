/*
 * What the AVX-512 kernels of ternary weights share. Codes come as 16 rows x 4 columns in a register, in the order of tiles
 * (kernels/tiles.h), and meet four broadcast activations: vpdpbusd adds to one exact 32-bit sum a row.
 */
#ifndef KERNELS_X86_VNNI_H
#define KERNELS_X86_VNNI_H

#include "kernels/x86/stripes.h"

#define VNNI_BLOCK 16   /* tokens: their sums stay in registers beside codes and tables */
#define VNNI_AHEAD 4096 /* bytes of weights that are prefetched */

ALWAYS_INLINE __m512i broadcast4(const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm512_set1_epi32(four);
}

/* sum / s * scale: 16 rows of token t. */
ALWAYS_INLINE __m512 scaled(const struct matmul_tiles *m, size_t t, __m512i sum)
{
    __m512 y = _mm512_div_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(m->q_scale[t]));
    return _mm512_mul_ps(y, _mm512_set1_ps(m->scale));
}

/* y = (sum - q_sum) / s * scale for a group of one token; the last group may hold fewer rows. */
ALWAYS_INLINE void finish(const struct matmul_tiles *m, size_t g, size_t t, __m512i sum)
{
    size_t row = g * TILE_ROWS, n = m->n_rows - row < TILE_ROWS ? m->n_rows - row : TILE_ROWS;
    __m512 y = scaled(m, t, _mm512_sub_epi32(sum, _mm512_set1_epi32(m->q_sum[t])));
    _mm512_mask_storeu_ps(m->y + t * m->y_stride + row, (__mmask16)((1u << n) - 1), y);
}

/* Chains of sums a token: a product waits for the one before it in its chain, so a few tokens need more than one. */
#define VNNI_CHAINS(T) ((T) >= 8 ? 1 : (T) >= 4 ? 2 : 4)

ALWAYS_INLINE void sums_clear(__m512i *sums, const int T)
{
    const int n = T * VNNI_CHAINS(T);
#pragma GCC unroll 16
    for (int i = 0; i < n; i++)
        sums[i] = _mm512_setzero_si512();
}

/* Adds codes x the activations of T tokens, one after the other at q; `step` counts the calls of an unrolled loop. */
ALWAYS_INLINE void sums_add(__m512i *sums, int step, __m512i codes, const int8_t *q, const int T)
{
    __m512i *chain = sums + step % VNNI_CHAINS(T) * T;
#pragma GCC unroll 16
    for (int i = 0; i < T; i++) {
        chain[i] = _mm512_dpbusd_epi32(chain[i], codes, broadcast4(q + 4 * i));
        __asm__("" : "+v"(chain[i])); /* gcc would copy it to another register and, with many, to memory */
    }
}

ALWAYS_INLINE void sums_finish(const struct matmul_tiles *m, size_t g, size_t t, const __m512i *sums, const int T)
{
#pragma GCC unroll 16
    for (int i = 0; i < T; i++) {
        __m512i sum = sums[i];
        for (int c = 1; c < VNNI_CHAINS(T); c++)
            sum = _mm512_add_epi32(sum, sums[c * T + i]);
        finish(m, g, t + (size_t)i, sum);
    }
}

static block_sizes vnni_sizes = {VNNI_BLOCK, 12, 8, 6, 4, 3, 2, 1};

/* Calls KERNEL(..., T) with T a constant. */
#define VNNI_DISPATCH(n, KERNEL, ...)                                                                                  \
    switch (n) {                                                                                                       \
    case 16: KERNEL(__VA_ARGS__, 16); break;                                                                           \
    case 12: KERNEL(__VA_ARGS__, 12); break;                                                                           \
    case 8: KERNEL(__VA_ARGS__, 8); break;                                                                             \
    case 6: KERNEL(__VA_ARGS__, 6); break;                                                                             \
    case 4: KERNEL(__VA_ARGS__, 4); break;                                                                             \
    case 3: KERNEL(__VA_ARGS__, 3); break;                                                                             \
    case 2: KERNEL(__VA_ARGS__, 2); break;                                                                             \
    default: KERNEL(__VA_ARGS__, 1); break;                                                                            \
    }

#endif
