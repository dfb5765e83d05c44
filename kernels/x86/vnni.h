/*
 * What the AVX-512 kernels of ternary weights share. Codes come as 16 rows x 4 columns in a register, in the order of tiles
 * (kernels/tiles.h), and meet four broadcast activations: vpdpbusd adds to one exact 32-bit sum a row.
 *
 * For a batch, tokens are taken in stripes, and a stripe is packed once into this thread's scratch: blocks of T tokens, of a block
 * [n_cols / 4][T][4] activations, so that a block is one stream. Then each group of rows meets all blocks of the stripe while it is in
 * the first cache.
 */
#ifndef KERNELS_X86_VNNI_H
#define KERNELS_X86_VNNI_H

#include "kernels/tiles.h"

#include <immintrin.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define VNNI_BLOCK 16   /* tokens: their sums stay in registers beside codes and tables */
#define VNNI_AHEAD 4096 /* bytes of weights that are prefetched */

ALWAYS_INLINE __m512i broadcast4(const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm512_set1_epi32(four);
}

/* y = (sum - q_sum) / s * scale for a group of one token; the last group may hold fewer rows. */
ALWAYS_INLINE void finish(const struct matmul_tiles *m, size_t g, size_t t, __m512i sum)
{
    size_t row = g * TILE_ROWS, n = m->n_rows - row < TILE_ROWS ? m->n_rows - row : TILE_ROWS;
    __m512 y = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, _mm512_set1_epi32(m->q_sum[t])));
    y = _mm512_mul_ps(_mm512_div_ps(y, _mm512_set1_ps(m->q_scale[t])), _mm512_set1_ps(m->scale));
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
    for (int i = 0; i < T; i++)
        chain[i] = _mm512_dpbusd_epi32(chain[i], codes, broadcast4(q + 4 * i));
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

/* Tokens of the next block when `left` are left: what is left in nearly equal blocks of a size that has a kernel. */
static inline size_t block_tokens(size_t left)
{
    static const uint8_t sizes[] = {16, 12, 8, 6, 4, 3, 2, 1};
    size_t n_blocks = (left + VNNI_BLOCK - 1) / VNNI_BLOCK, most = (left + n_blocks - 1) / n_blocks, i = 0;
    while (sizes[i] > most)
        i++;
    return sizes[i];
}

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

/* T rows of q become [n_cols / 4][T][4]. */
static inline void pack_tokens(const int8_t *q, size_t q_stride, size_t n_cols, size_t n_tokens, int8_t *out)
{
    size_t t = 0;
    for (; t + 4 <= n_tokens; t += 4) {
        const int8_t *a = q + t * q_stride, *b = a + q_stride, *c = b + q_stride, *d = c + q_stride;
        int8_t *to = out + 4 * t;
        for (size_t k = 0; k < n_cols; k += 16, to += 16 * n_tokens) {
            __m128i va = _mm_loadu_si128((const __m128i *)(a + k)), vb = _mm_loadu_si128((const __m128i *)(b + k));
            __m128i vc = _mm_loadu_si128((const __m128i *)(c + k)), vd = _mm_loadu_si128((const __m128i *)(d + k));
            __m128i ab0 = _mm_unpacklo_epi32(va, vb), ab1 = _mm_unpackhi_epi32(va, vb);
            __m128i cd0 = _mm_unpacklo_epi32(vc, vd), cd1 = _mm_unpackhi_epi32(vc, vd);
            _mm_storeu_si128((__m128i *)to, _mm_unpacklo_epi64(ab0, cd0));
            _mm_storeu_si128((__m128i *)(to + 4 * n_tokens), _mm_unpackhi_epi64(ab0, cd0));
            _mm_storeu_si128((__m128i *)(to + 8 * n_tokens), _mm_unpacklo_epi64(ab1, cd1));
            _mm_storeu_si128((__m128i *)(to + 12 * n_tokens), _mm_unpackhi_epi64(ab1, cd1));
        }
    }
    for (; t < n_tokens; t++)
        for (size_t k = 0; k < n_cols; k += 4)
            memcpy(out + k * n_tokens + 4 * t, q + t * q_stride + k, 4);
}

/* Group g times n_tokens tokens from t on, whose packed block is q. */
typedef void vnni_block_fn(const struct matmul_tiles *m, size_t g, size_t t, const int8_t *q, size_t n_tokens);

/* One token is its own packed block. */
ALWAYS_INLINE void vnni_stripes(const struct matmul_tiles *m, vnni_block_fn *block)
{
    for (size_t g = 0; m->n_tokens == 1 && g < m->n_groups; g++)
        block(m, g, 0, m->q, 1);
    for (size_t t0 = 0; m->n_tokens > 1 && t0 < m->n_tokens; t0 += MATMUL_STRIPE) {
        size_t end = m->n_tokens - t0 < MATMUL_STRIPE ? m->n_tokens : t0 + MATMUL_STRIPE, n;
        for (size_t t = t0; t < end; t += n) {
            n = block_tokens(end - t);
            pack_tokens(m->q + t * m->q_stride, m->q_stride, m->n_cols, n, (int8_t *)m->scratch + (t - t0) * m->n_cols);
        }
        for (size_t g = 0; g < m->n_groups; g++)
            for (size_t t = t0; t < end; t += n) {
                n = block_tokens(end - t);
                block(m, g, t, (const int8_t *)m->scratch + (t - t0) * m->n_cols, n);
            }
    }
}

#endif
