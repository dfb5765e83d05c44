/*
 * Tiles of ternary weights times int8 activations, AVX-512 with VNNI. A tile is one load; a shift and a mask give 16 rows x 4 columns of
 * codes, vpdpbusd multiplies them by 4 broadcast activations and adds into one exact 32-bit sum a row.
 */
#include "kernels/cpu.h"
#include "kernels/tiles.h"

#include <immintrin.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

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

/* One token: four sums, one a plane, so that they do not wait for each other. */
ALWAYS_INLINE void one_token(const struct matmul_tiles *m, size_t g, size_t t)
{
    const __m512i mask = _mm512_set1_epi8(3);
    size_t n_tiles = m->n_cols / TILE_COLS;
    const uint8_t *tile = m->tiles + g * n_tiles * TILE_BYTES;
    const int8_t *q = m->q + t * m->q_stride;
    __m512i acc[4];
    for (int p = 0; p < 4; p++)
        acc[p] = _mm512_setzero_si512();
    for (size_t k = 0; k < n_tiles; k++, tile += TILE_BYTES, q += TILE_COLS) {
        __m512i v = _mm512_load_si512(tile);
        _mm_prefetch((const char *)tile + 4096, _MM_HINT_T0);
#pragma GCC unroll 4
        for (unsigned p = 0; p < 4; p++)
            acc[p] = _mm512_dpbusd_epi32(acc[p], _mm512_and_si512(_mm512_srli_epi32(v, 2 * p), mask), broadcast4(q + 4 * p));
    }
    finish(m, g, t, _mm512_add_epi32(_mm512_add_epi32(acc[0], acc[1]), _mm512_add_epi32(acc[2], acc[3])));
}

/* T tokens (at most 12) and G groups (1 or 2): an activation is loaded once for both. */
ALWAYS_INLINE void tokens(const struct matmul_tiles *m, size_t g, size_t t, const int G, const int T)
{
    const __m512i mask = _mm512_set1_epi8(3);
    size_t group_bytes = m->n_cols / TILE_COLS * TILE_BYTES;
    const uint8_t *tile = m->tiles + g * group_bytes;
    const int8_t *q = m->q + t * m->q_stride;
    __m512i acc[24];
#pragma GCC unroll 24
    for (int i = 0; i < G * T; i++)
        acc[i] = _mm512_setzero_si512();
    for (size_t k = 0; k < m->n_cols; k += TILE_COLS, tile += TILE_BYTES) {
        __m512i v[2];
#pragma GCC unroll 2
        for (int i = 0; i < G; i++)
            v[i] = _mm512_load_si512(tile + (size_t)i * group_bytes);
#pragma GCC unroll 4
        for (unsigned p = 0; p < 4; p++) {
            __m512i codes[2];
#pragma GCC unroll 2
            for (int i = 0; i < G; i++)
                codes[i] = _mm512_and_si512(_mm512_srli_epi32(v[i], 2 * p), mask);
#pragma GCC unroll 12
            for (int j = 0; j < T; j++) {
                __m512i x = broadcast4(q + (size_t)j * m->q_stride + k + 4 * p);
#pragma GCC unroll 2
                for (int i = 0; i < G; i++)
                    acc[i * T + j] = _mm512_dpbusd_epi32(acc[i * T + j], codes[i], x);
            }
        }
    }
#pragma GCC unroll 24
    for (int i = 0; i < G * T; i++)
        finish(m, g + (size_t)(i / T), t + (size_t)(i % T), acc[i]);
}

ALWAYS_INLINE void groups(const struct matmul_tiles *m, size_t g, const int G)
{
    size_t t = 0;
    for (; t + 12 <= m->n_tokens; t += 12)
        tokens(m, g, t, G, 12);
    if (t + 8 <= m->n_tokens) {
        tokens(m, g, t, G, 8);
        t += 8;
    }
    if (t + 4 <= m->n_tokens) {
        tokens(m, g, t, G, 4);
        t += 4;
    }
    if (t + 2 <= m->n_tokens) {
        tokens(m, g, t, G, 2);
        t += 2;
    }
    for (size_t i = 0; t < m->n_tokens && i < (size_t)G; i++)
        one_token(m, g + i, t);
}

void matmul_tiles_i8_avx512(const struct matmul_tiles *m)
{
    size_t g = 0;
    for (; g + 2 <= m->n_groups; g += 2)
        groups(m, g, 2);
    if (g < m->n_groups)
        groups(m, g, 1);
}
