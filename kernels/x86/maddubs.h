/*
 * What the AVX2 kernels of ternary weights share. A group of 16 rows is two registers of 8 rows x 4 columns, in the order of tiles
 * (kernels/tiles.h), which meet four broadcast activations: maddubs gives the sums of pairs in int16, two a row. After at most 64 of
 * these, at most 512 in size each, they are widened: 32768 is reached on the negative side only, which int16 holds.
 */
#ifndef KERNELS_X86_MADDUBS_H
#define KERNELS_X86_MADDUBS_H

#include "kernels/x86/stripes.h"

#define MADDUBS_BLOCK 6    /* tokens: their pair sums stay in 12 of 16 registers */
#define MADDUBS_AHEAD 2560 /* bytes of weights that are prefetched */

static block_sizes maddubs_sizes = {MADDUBS_BLOCK, 4, 3, 2, 1};

ALWAYS_INLINE __m256i broadcast4(const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm256_set1_epi32(four);
}

ALWAYS_INLINE void pairs_clear(__m256i *pairs, const int T)
{
#pragma GCC unroll 6
    for (int i = 0; i < T; i++)
        pairs[i] = _mm256_setzero_si256();
}

/* Adds codes of rows 0..7 and 8..15 x the activations of T tokens, one after the other at q. */
ALWAYS_INLINE void pairs_add(__m256i *low, __m256i *high, __m256i codes_low, __m256i codes_high, const int8_t *q, const int T)
{
#pragma GCC unroll 6
    for (int i = 0; i < T; i++) {
        __m256i x = broadcast4(q + 4 * i);
        low[i] = _mm256_add_epi16(low[i], _mm256_maddubs_epi16(codes_low, x));
        high[i] = _mm256_add_epi16(high[i], _mm256_maddubs_epi16(codes_high, x));
        __asm__("" : "+x"(low[i]), "+x"(high[i])); /* or the compiler reorders the additions and runs out of registers */
    }
}

/* Exact sums, [T][2 halves], each addition times a factor. */
ALWAYS_INLINE void sums_clear(__m256i *sums, const int T)
{
    for (int i = 0; i < 2 * T; i++)
        sums[i] = _mm256_setzero_si256();
}

ALWAYS_INLINE void sums_add(__m256i *sums, const __m256i *low, const __m256i *high, const int16_t factor, const int T)
{
    const __m256i factors = _mm256_set1_epi16(factor);
#pragma GCC unroll 6
    for (int i = 0; i < T; i++) {
        sums[2 * i] = _mm256_add_epi32(sums[2 * i], _mm256_madd_epi16(low[i], factors));
        sums[2 * i + 1] = _mm256_add_epi32(sums[2 * i + 1], _mm256_madd_epi16(high[i], factors));
    }
}

/* sum / s * scale for 8 rows of token t. */
ALWAYS_INLINE __m256 scaled(const struct matmul_tiles *m, size_t t, __m256i sum)
{
    __m256 y = _mm256_div_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(m->q_scale[t]));
    return _mm256_mul_ps(y, _mm256_set1_ps(m->scale));
}

/* y = (sum - q_sum) / s * scale for 8 rows of one token; the last group may hold fewer. */
ALWAYS_INLINE void finish(const struct matmul_tiles *m, size_t row, size_t t, __m256i sum)
{
    __m256 y = scaled(m, t, _mm256_sub_epi32(sum, _mm256_set1_epi32(m->q_sum[t])));
    if (row + 8 <= m->n_rows) {
        _mm256_storeu_ps(m->y + t * m->y_stride + row, y);
        return;
    }
    float part[8];
    _mm256_storeu_ps(part, y);
    if (row < m->n_rows)
        memcpy(m->y + t * m->y_stride + row, part, (m->n_rows - row) * sizeof *part);
}

ALWAYS_INLINE void sums_finish(const struct matmul_tiles *m, size_t g, size_t t, const __m256i *sums, const int T)
{
    for (int i = 0; i < T; i++) {
        finish(m, g * TILE_ROWS, t + (size_t)i, sums[2 * i]);
        finish(m, g * TILE_ROWS + 8, t + (size_t)i, sums[2 * i + 1]);
    }
}

/* Calls KERNEL(..., T) with T a constant. */
#define MADDUBS_DISPATCH(n, KERNEL, ...)                                                                               \
    switch (n) {                                                                                                       \
    case 6: KERNEL(__VA_ARGS__, 6); break;                                                                             \
    case 4: KERNEL(__VA_ARGS__, 4); break;                                                                             \
    case 3: KERNEL(__VA_ARGS__, 3); break;                                                                             \
    case 2: KERNEL(__VA_ARGS__, 2); break;                                                                             \
    default: KERNEL(__VA_ARGS__, 1); break;                                                                            \
    }

#endif
