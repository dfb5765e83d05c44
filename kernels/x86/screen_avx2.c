/* Rows of a screen, AVX2. One plane is read as it streams by: six bits as 0..63 times int8 have pair sums that can be added twice in
 * int16 (4 * 63 * 127 = 32004), two bits many times. Rows of both are unpacked to u - 128, for many vectors to meet: the size times
 * the vector with the weight's sign, 2 * 128 * 127 in int16. */
#include "kernels/cpu.h"

#include <immintrin.h>

#define PANEL 2
#define AHEAD 1024 /* bytes of the high plane; without it one thread reads a tenth slower */

typedef int8_t code; /* u - 128 */

static inline __m256i load(const void *p)
{
    return _mm256_load_si256(p);
}

/* u >> 2 of 32 of the weights 64 k .. 64 k + 63 of a block, k = 0 .. 3. */
static inline __attribute__((always_inline)) void six_bits(const uint8_t *high, __m256i u[4])
{
    const __m256i six = _mm256_set1_epi8(0x3f), top = _mm256_set1_epi8((char)0xc0);
    __m256i a = load(high), b = load(high + 64), c = load(high + 128);
    u[0] = _mm256_and_si256(a, six);
    u[1] = _mm256_and_si256(b, six);
    u[2] = _mm256_and_si256(c, six);
    __m256i d = _mm256_srli_epi16(_mm256_and_si256(a, top), 2); /* no bit crosses into the next byte */
    d = _mm256_srli_epi16(_mm256_or_si256(d, _mm256_and_si256(b, top)), 2);
    u[3] = _mm256_srli_epi16(_mm256_or_si256(d, _mm256_and_si256(c, top)), 2);
}

static inline __attribute__((always_inline)) void two_bits(const uint8_t *low, __m256i u[4])
{
    const __m256i two = _mm256_set1_epi8(3);
    __m256i a = load(low);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++)
        u[k] = _mm256_and_si256(_mm256_srli_epi16(a, 2 * k), two);
}

static inline int32_t reduce(__m256i v)
{
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 1);
}

/* One plane of all rows times vectors v, v + 1, or v alone. */
static inline __attribute__((always_inline)) void plane(const struct screen_tile *t, size_t v, int n_x, bool low)
{
    const __m256i ones = _mm256_set1_epi16(1);
    size_t row_bytes = low ? screen_low_bytes(t->stride) : screen_high_bytes(t->stride);
    for (size_t r = 0; r < t->n_rows; r++) {
        const uint8_t *row = (low ? t->low : t->high) + r * row_bytes;
        const int8_t *x = t->x + v * t->x_stride;
        __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        for (size_t i = 0; i < t->stride; i += 256, row += low ? 64 : 192, x += 256) {
            for (int line = 0; !low && line < 3; line++)
                _mm_prefetch((const char *)row + AHEAD + 64 * line, _MM_HINT_T0);
#pragma GCC unroll 2
            for (int at = 0; at < 64; at += 32) {
                __m256i u[4];
                (low ? two_bits : six_bits)(row + at, u);
#pragma GCC unroll 2
                for (int w = 0; w < n_x; w++) {
                    const int8_t *values = x + (size_t)w * t->x_stride + at;
#pragma GCC unroll 2
                    for (int k = 0; k < 4; k += 2) {
                        __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(u[k], load(values + 64 * k)),
                                                         _mm256_maddubs_epi16(u[k + 1], load(values + 64 * k + 64)));
                        sums[w] = _mm256_add_epi32(sums[w], _mm256_madd_epi16(pairs, ones));
                    }
                }
            }
        }
        for (int w = 0; w < n_x; w++)
            t->sums[(v + (size_t)w) * SCREEN_CHUNK + r] = (low ? 1 : 4) * reduce(sums[w]);
    }
}

static inline __attribute__((always_inline)) void planes(const struct screen_tile *t, bool low)
{
    for (size_t v = 0; v < t->n_x; v += 2)
        if (v + 1 < t->n_x)
            plane(t, v, 2, low);
        else
            plane(t, v, 1, low);
}

static void unpack(const struct screen_tile *t, size_t r, int8_t *q)
{
    const uint8_t *high = t->high + r * screen_high_bytes(t->stride), *low = t->low + r * screen_low_bytes(t->stride);
    for (size_t i = 0; i < t->stride; i += 256, high += 192, low += 64)
#pragma GCC unroll 2
        for (int at = 0; at < 64; at += 32) {
            __m256i top[4], rest[4];
            six_bits(high + at, top);
            two_bits(low + at, rest);
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++) {
                __m256i u =
                    _mm256_or_si256(_mm256_slli_epi16(top[k], 2), rest[k]); /* no bit crosses into the next byte */
                _mm256_store_si256((__m256i *)(q + i + 64 * k + at), _mm256_xor_si256(u, _mm256_set1_epi8((char)0x80)));
            }
        }
}

static int32_t sum_of(const int8_t *x, size_t n)
{
    __m256i sum = _mm256_setzero_si256();
    for (size_t i = 0; i < n; i += 32)
        sum = _mm256_add_epi32(
            sum, _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), load(x + i)), _mm256_set1_epi16(1)));
    return reduce(sum);
}

/* Unpacked rows r .. times vectors v ..; the counts are constants where it is called. */
static inline __attribute__((always_inline)) void block(const struct screen_tile *t, const int8_t *q, size_t r,
                                                        size_t v, int n_rows, int n_x)
{
    const __m256i ones = _mm256_set1_epi16(1);
    const int8_t *x = t->x + v * t->x_stride;
    __m256i sums[4][PANEL];
#pragma GCC unroll 4
    for (int w = 0; w < n_x; w++)
#pragma GCC unroll 2
        for (int j = 0; j < n_rows; j++)
            sums[w][j] = _mm256_setzero_si256();
    for (size_t i = 0; i < t->stride; i += 32) {
        __m256i weights[PANEL], sizes[PANEL];
#pragma GCC unroll 2
        for (int j = 0; j < n_rows; j++) {
            weights[j] = load(q + (size_t)j * t->stride + i);
            sizes[j] = _mm256_abs_epi8(weights[j]);
        }
#pragma GCC unroll 4
        for (int w = 0; w < n_x; w++) {
            __m256i values = load(x + (size_t)w * t->x_stride + i);
#pragma GCC unroll 2
            for (int j = 0; j < n_rows; j++) {
                __m256i pairs = _mm256_maddubs_epi16(sizes[j], _mm256_sign_epi8(values, weights[j]));
                sums[w][j] = _mm256_add_epi32(sums[w][j], _mm256_madd_epi16(pairs, ones));
            }
        }
    }
#pragma GCC unroll 4
    for (int w = 0; w < n_x; w++)
#pragma GCC unroll 2
        for (int j = 0; j < n_rows; j++)
            t->sums[(v + (size_t)w) * SCREEN_CHUNK + r + (size_t)j] = reduce(sums[w][j]);
}

#include "kernels/x86/screen_panels.h"

static void both_planes(const struct screen_tile *t)
{
    panels(t);
    for (size_t v = 0; v < t->n_x; v++) {
        int32_t shift = 128 * sum_of(t->x + v * t->x_stride, t->stride);
        for (size_t r = 0; r < t->n_rows; r++)
            t->sums[v * SCREEN_CHUNK + r] += shift;
    }
}

void screen_i8_avx2(const struct screen_tile *t)
{
    if (t->high && t->low)
        both_planes(t);
    else if (t->high)
        planes(t, false);
    else
        planes(t, true);
}
