/*
 * Ternary weights times int8 activations. A block of 128 weights is one 32-byte load; a shift and a mask give 4 x 32 codes 0..2 in
 * the order of 32 activations each. Pair sums (maddubs) are added in int16 for at most 16 blocks: |16 * 4 * 512| = 32768
 * is reached on the negative side only, which int16 holds. A tile of rows x tokens loads and unpacks a row once for its tokens and
 * an activation once for its rows; 8 accumulators, so that all stay in registers.
 */
#include "kernels/cpu.h"
#include "kernels/x86/avx2.h"

#define INT16_BYTES ((size_t)16 * 32) /* of a row, until int16 sums are widened */

/* Sums of the 8 values of each. */
static inline __m128i reduce4(const __m256i *v)
{
    __m256i ab = _mm256_hadd_epi32(v[0], v[1]), cd = _mm256_hadd_epi32(v[2], v[3]), all = _mm256_hadd_epi32(ab, cd);
    return _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}

static inline int32_t reduce1(__m256i v)
{
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 1);
}

/* y = sum / s * scale for four values whose s and sum of activations are given. */
static inline __m128 finish4(__m128i sum, __m128i q_sum, __m128 q_scale, float scale)
{
    __m128 y = _mm_div_ps(_mm_cvtepi32_ps(_mm_sub_epi32(sum, q_sum)), q_scale);
    return _mm_mul_ps(y, _mm_set1_ps(scale));
}

/* Adds `n_bytes` (at most INT16_BYTES) of R rows times T tokens to sums[R * T]. */
#define ALWAYS_INLINE static inline __attribute__((always_inline))
ALWAYS_INLINE void add_blocks(const uint8_t *rows, size_t row_bytes, const int8_t *q, size_t q_stride, size_t n_bytes,
                              const int R, const int T, __m256i *sums)
{
    const __m256i mask = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
    __m256i acc[8];
#pragma GCC unroll 8
    for (int i = 0; i < R * T; i++)
        acc[i] = _mm256_setzero_si256();
    for (size_t b = 0; b < n_bytes; b += 32) {
        __m256i raw[4];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
            raw[r] = _mm256_loadu_si256((const __m256i *)(rows + (size_t)r * row_bytes + b));
#pragma GCC unroll 4
        for (int part = 0; part < 4; part++) {
            __m256i codes[4];
#pragma GCC unroll 4
            for (int r = 0; r < R; r++)
                codes[r] = _mm256_and_si256(_mm256_srli_epi16(raw[r], 6 - 2 * part), mask);
#pragma GCC unroll 4
            for (int t = 0; t < T; t++) {
                __m256i a = _mm256_loadu_si256((const __m256i *)(q + (size_t)t * q_stride + 4 * b + 32 * (size_t)part));
#pragma GCC unroll 4
                for (int r = 0; r < R; r++)
                    acc[r * T + t] = _mm256_add_epi16(acc[r * T + t], _mm256_maddubs_epi16(codes[r], a));
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < R * T; i++)
        sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(acc[i], ones));
}

/* Rows r .. r + R - 1 times tokens t .. t + T - 1. */
ALWAYS_INLINE void tile(const struct matmul_tile *m, size_t r, size_t t, const int R, const int T)
{
    __m256i sums[8];
#pragma GCC unroll 8
    for (int i = 0; i < R * T; i++)
        sums[i] = _mm256_setzero_si256();
    for (size_t b = 0; b < m->row_bytes; b += INT16_BYTES) {
        size_t n = m->row_bytes - b < INT16_BYTES ? m->row_bytes - b : INT16_BYTES;
        add_blocks(m->rows + r * m->row_bytes + b, m->row_bytes, m->q + t * m->q_stride + 4 * b, m->q_stride, n, R, T, sums);
    }
    if (R == 4 && T == 1) {
        __m128i q_sum = _mm_set1_epi32(m->q_sum[t]);
        _mm_storeu_ps(m->y + t * m->y_stride + r, finish4(reduce4(sums), q_sum, _mm_set1_ps(m->q_scale[t]), m->scale));
        return;
    }
    if (T == 4) {
        float y[4];
        for (int i = 0; i < R; i++) {
            __m128i q_sum = _mm_loadu_si128((const __m128i *)(m->q_sum + t));
            _mm_storeu_ps(y, finish4(reduce4(sums + 4 * i), q_sum, _mm_loadu_ps(m->q_scale + t), m->scale));
            for (size_t j = 0; j < 4; j++)
                m->y[(t + j) * m->y_stride + r + (size_t)i] = y[j];
        }
        return;
    }
    for (int i = 0; i < R * T; i++) {
        size_t token = t + (size_t)(i % T);
        float sum = (float)(reduce1(sums[i]) - m->q_sum[token]);
        m->y[token * m->y_stride + r + (size_t)(i / T)] = sum / m->q_scale[token] * m->scale;
    }
}

static void tokens1(const struct matmul_tile *m, size_t t)
{
    size_t r = 0;
    for (; r + 4 <= m->n_rows; r += 4)
        tile(m, r, t, 4, 1);
    for (; r < m->n_rows; r++)
        tile(m, r, t, 1, 1);
}

static void tokens2(const struct matmul_tile *m, size_t t)
{
    size_t r = 0;
    for (; r + 4 <= m->n_rows; r += 4)
        tile(m, r, t, 4, 2);
    for (; r < m->n_rows; r++)
        tile(m, r, t, 1, 2);
}

static void tokens4(const struct matmul_tile *m, size_t t)
{
    size_t r = 0;
    for (; r + 2 <= m->n_rows; r += 2)
        tile(m, r, t, 2, 4);
    for (; r < m->n_rows; r++)
        tile(m, r, t, 1, 4);
}

void matmul_i2s_i8_avx2(const struct matmul_tile *m)
{
    size_t t = 0;
    for (; t + 4 <= m->n_tokens; t += 4)
        tokens4(m, t);
    if (t + 2 <= m->n_tokens) {
        tokens2(m, t);
        t += 2;
    }
    if (t < m->n_tokens)
        tokens1(m, t);
}
