/*
 * Tiles of ternary weights times int8 activations, AVX2. Half a tile (8 rows) is one load; a shift and a mask give 8 rows x 4 columns,
 * which meet 4 broadcast activations. Pair sums (maddubs, at most 512 in size) are added in int16 for 16 tiles, 64 of them: 32768
 * is reached on the negative side only, which int16 holds.
 */
#include "kernels/cpu.h"
#include "kernels/tiles.h"
#include "kernels/x86/avx2.h"

#define INT16_TILES 16
#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE __m256i broadcast4(const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm256_set1_epi32(four);
}

/* y = (sum - q_sum) / s * scale for 8 rows of one token; the last group may hold fewer. */
ALWAYS_INLINE void finish(const struct matmul_tiles *m, size_t row, size_t t, __m256i sum)
{
    __m256 y = _mm256_cvtepi32_ps(_mm256_sub_epi32(sum, _mm256_set1_epi32(m->q_sum[t])));
    y = _mm256_mul_ps(_mm256_div_ps(y, _mm256_set1_ps(m->q_scale[t])), _mm256_set1_ps(m->scale));
    if (row + 8 <= m->n_rows) {
        _mm256_storeu_ps(m->y + t * m->y_stride + row, y);
        return;
    }
    float part[8];
    _mm256_storeu_ps(part, y);
    if (row < m->n_rows)
        memcpy(m->y + t * m->y_stride + row, part, (m->n_rows - row) * sizeof *part);
}

/* One token: both halves of each tile, so that a cache line is read once. */
ALWAYS_INLINE void one_token(const struct matmul_tiles *m, size_t g, size_t t)
{
    const __m256i mask = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
    size_t n_tiles = m->n_cols / TILE_COLS;
    const uint8_t *tile = m->tiles + g * n_tiles * TILE_BYTES;
    const int8_t *q = m->q + t * m->q_stride;
    __m256i low = _mm256_setzero_si256(), high = low;
    for (size_t k0 = 0; k0 < n_tiles; k0 += INT16_TILES) {
        size_t end = n_tiles - k0 < INT16_TILES ? n_tiles : k0 + INT16_TILES;
        __m256i a = _mm256_setzero_si256(), b = a;
        for (size_t k = k0; k < end; k++, tile += TILE_BYTES, q += TILE_COLS) {
            __m256i v = _mm256_load_si256((const __m256i *)tile), u = _mm256_load_si256((const __m256i *)(tile + 32));
            _mm_prefetch((const char *)tile + 2048, _MM_HINT_T0);
#pragma GCC unroll 4
            for (int p = 0; p < 4; p++) {
                __m256i x = broadcast4(q + 4 * p);
                a = _mm256_add_epi16(a, _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(v, 2 * p), mask), x));
                b = _mm256_add_epi16(b, _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(u, 2 * p), mask), x));
            }
        }
        low = _mm256_add_epi32(low, _mm256_madd_epi16(a, ones));
        high = _mm256_add_epi32(high, _mm256_madd_epi16(b, ones));
    }
    finish(m, g * TILE_ROWS, t, low);
    finish(m, g * TILE_ROWS + 8, t, high);
}

/* T tokens and one half (8 rows) of a group; T accumulators of int16. */
ALWAYS_INLINE void tokens(const struct matmul_tiles *m, size_t g, size_t half, size_t t, const int T)
{
    const __m256i mask = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
    size_t n_tiles = m->n_cols / TILE_COLS;
    const uint8_t *tile = m->tiles + g * n_tiles * TILE_BYTES + 32 * half;
    __m256i sums[8];
#pragma GCC unroll 8
    for (int i = 0; i < T; i++)
        sums[i] = _mm256_setzero_si256();
    for (size_t k0 = 0; k0 < n_tiles; k0 += INT16_TILES) {
        size_t end = n_tiles - k0 < INT16_TILES ? n_tiles : k0 + INT16_TILES;
        __m256i acc[8];
#pragma GCC unroll 8
        for (int i = 0; i < T; i++)
            acc[i] = _mm256_setzero_si256();
        for (size_t k = k0; k < end; k++, tile += TILE_BYTES) {
            __m256i v = _mm256_load_si256((const __m256i *)tile);
            const int8_t *q = m->q + t * m->q_stride + k * TILE_COLS;
#pragma GCC unroll 4
            for (int p = 0; p < 4; p++) {
                __m256i codes = _mm256_and_si256(_mm256_srli_epi16(v, 2 * p), mask);
#pragma GCC unroll 8
                for (int i = 0; i < T; i++)
                    acc[i] = _mm256_add_epi16(
                        acc[i], _mm256_maddubs_epi16(codes, broadcast4(q + (size_t)i * m->q_stride + 4 * p)));
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < T; i++)
            sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(acc[i], ones));
    }
#pragma GCC unroll 8
    for (int i = 0; i < T; i++)
        finish(m, g * TILE_ROWS + 8 * half, t + (size_t)i, sums[i]);
}

static void group(const struct matmul_tiles *m, size_t g)
{
    size_t t = 0;
    for (; t + 8 <= m->n_tokens; t += 8)
        for (size_t half = 0; half < 2; half++)
            tokens(m, g, half, t, 8);
    if (t + 4 <= m->n_tokens) {
        for (size_t half = 0; half < 2; half++)
            tokens(m, g, half, t, 4);
        t += 4;
    }
    if (t + 2 <= m->n_tokens) {
        for (size_t half = 0; half < 2; half++)
            tokens(m, g, half, t, 2);
        t += 2;
    }
    if (t < m->n_tokens)
        one_token(m, g, t);
}

void matmul_tiles_i8_avx2(const struct matmul_tiles *m)
{
    for (size_t g = 0; g < m->n_groups; g++)
        group(m, g);
}
