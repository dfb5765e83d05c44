/*
 * Batches of tokens, as the kernels of ternary weights take them: in stripes of MATMUL_STRIPE, and a stripe is packed once into this
 * thread's scratch, in blocks of T tokens, a block as [n_cols / 4][T][4] activations, so that it is one stream of memory. Then each
 * group of rows meets all blocks of the stripe while it is in the first cache.
 */
#ifndef KERNELS_X86_STRIPES_H
#define KERNELS_X86_STRIPES_H

#include "kernels/tiles.h"

#include <immintrin.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Sizes of blocks that there are kernels for, descending to 1. */
typedef const uint8_t block_sizes[8];

/* Tokens of the next block when `left` are left: nearly equal blocks. */
static inline size_t block_tokens(block_sizes sizes, size_t left)
{
    size_t n_blocks = (left + sizes[0] - 1) / sizes[0], most = (left + n_blocks - 1) / n_blocks, i = 0;
    while (sizes[i] > most)
        i++;
    return sizes[i];
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
typedef void block_fn(const struct matmul_tiles *m, size_t g, size_t t, const int8_t *q, size_t n_tokens);

/* One token is its own packed block. */
ALWAYS_INLINE void stripes_run(const struct matmul_tiles *m, block_sizes sizes, block_fn *block)
{
    for (size_t g = 0; m->n_tokens == 1 && g < m->n_groups; g++)
        block(m, g, 0, m->q, 1);
    for (size_t t0 = 0; m->n_tokens > 1 && t0 < m->n_tokens; t0 += MATMUL_STRIPE) {
        size_t end = m->n_tokens - t0 < MATMUL_STRIPE ? m->n_tokens : t0 + MATMUL_STRIPE, n;
        for (size_t t = t0; t < end; t += n) {
            n = block_tokens(sizes, end - t);
            pack_tokens(m->q + t * m->q_stride, m->q_stride, m->n_cols, n, (int8_t *)m->scratch + (t - t0) * m->n_cols);
        }
        for (size_t g = 0; g < m->n_groups; g++)
            for (size_t t = t0; t < end; t += n) {
                n = block_tokens(sizes, end - t);
                block(m, g, t, (const int8_t *)m->scratch + (t - t0) * m->n_cols, n);
            }
    }
}

#endif
