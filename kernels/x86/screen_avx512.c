/* Rows of a screen, AVX-512 with VNNI. One plane is read as it streams by; rows of both are unpacked four at a time, for many vectors to
 * meet: then four rows and four vectors keep 16 sums in registers. */
#include "kernels/cpu.h"

#include <immintrin.h>

#define PANEL 4

typedef uint8_t code;

/* The bits of a where mask has them, else those of b. */
static inline __m512i select_bits(__m512i mask, __m512i a, __m512i b)
{
    return _mm512_ternarylogic_epi32(mask, a, b, 0xca);
}

/* u >> 2 of weights 64 k .. 64 k + 63 of a block, k = 0 .. 3, in the low six bits; the top two are any. */
static inline __attribute__((always_inline)) void six_bits(const uint8_t *high, __m512i u[4])
{
    const __m512i top = _mm512_set1_epi8((char)0xc0);
#pragma GCC unroll 3
    for (int k = 0; k < 3; k++)
        u[k] = _mm512_load_si512(high + 64 * k);
    u[3] = select_bits(top, u[1], _mm512_srli_epi16(u[0], 2));
    u[3] = _mm512_srli_epi16(select_bits(top, u[2], _mm512_srli_epi16(u[3], 2)), 2);
}

/* u of the same in the low two bits; the others are any. */
static inline __attribute__((always_inline)) void two_bits(const uint8_t *low, __m512i u[4])
{
#pragma GCC unroll 4
    for (unsigned k = 0; k < 4; k++)
        u[k] = _mm512_srli_epi16(_mm512_load_si512(low), 2 * k);
}

/* One plane of all rows times vectors v, v + 1, or v alone. */
static inline __attribute__((always_inline)) void plane(const struct screen_tile *t, size_t v, int n_x, bool low)
{
    const __m512i mask = _mm512_set1_epi8(low ? 3 : 0x3f);
    size_t row_bytes = low ? screen_low_bytes(t->stride) : screen_high_bytes(t->stride);
    for (size_t r = 0; r < t->n_rows; r++) {
        const uint8_t *row = (low ? t->low : t->high) + r * row_bytes;
        const int8_t *x = t->x + v * t->x_stride;
        __m512i sums[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
        for (size_t i = 0; i < t->stride; i += 256, row += low ? 64 : 192, x += 256) {
            __m512i u[4];
            (low ? two_bits : six_bits)(row, u);
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++) {
                u[k] = _mm512_and_si512(u[k], mask);
#pragma GCC unroll 2
                for (int w = 0; w < n_x; w++)
                    sums[w] =
                        _mm512_dpbusd_epi32(sums[w], u[k], _mm512_load_si512(x + (size_t)w * t->x_stride + 64 * k));
            }
        }
        for (int w = 0; w < n_x; w++)
            t->sums[(v + (size_t)w) * SCREEN_CHUNK + r] = (low ? 1 : 4) * _mm512_reduce_add_epi32(sums[w]);
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

static void unpack(const struct screen_tile *t, size_t r, uint8_t *u)
{
    const uint8_t *high = t->high + r * screen_high_bytes(t->stride), *low = t->low + r * screen_low_bytes(t->stride);
    for (size_t i = 0; i < t->stride; i += 256, high += 192, low += 64) {
        __m512i top[4], rest[4];
        six_bits(high, top);
        two_bits(low, rest);
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++)
            _mm512_store_si512(u + i + 64 * k,
                               select_bits(_mm512_set1_epi8((char)0xfc), _mm512_slli_epi16(top[k], 2), rest[k]));
    }
}

/* The sums of four registers. */
static inline __m128i sum4(const __m512i *s)
{
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(s[0], s[1]), _mm512_unpackhi_epi32(s[0], s[1]));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(s[2], s[3]), _mm512_unpackhi_epi32(s[2], s[3]));
    __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    __m256i two = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1));
}

/* Unpacked rows r .. times vectors v ..; the counts are constants where it is called. */
static inline __attribute__((always_inline)) void block(const struct screen_tile *t, const uint8_t *u, size_t r,
                                                        size_t v, int n_rows, int n_x)
{
    const int8_t *x = t->x + v * t->x_stride;
    __m512i sums[4][PANEL];
#pragma GCC unroll 4
    for (int w = 0; w < n_x; w++)
#pragma GCC unroll 4
        for (int j = 0; j < n_rows; j++)
            sums[w][j] = _mm512_setzero_si512();
    for (size_t i = 0; i < t->stride; i += 64) {
        __m512i q[PANEL];
#pragma GCC unroll 4
        for (int j = 0; j < n_rows; j++)
            q[j] = _mm512_load_si512(u + (size_t)j * t->stride + i);
#pragma GCC unroll 4
        for (int w = 0; w < n_x; w++) {
            __m512i values = _mm512_load_si512(x + (size_t)w * t->x_stride + i);
#pragma GCC unroll 4
            for (int j = 0; j < n_rows; j++)
                sums[w][j] = _mm512_dpbusd_epi32(sums[w][j], q[j], values);
        }
    }
#pragma GCC unroll 4
    for (int w = 0; w < n_x; w++) {
        int32_t *out = t->sums + (v + (size_t)w) * SCREEN_CHUNK + r;
        if (n_rows == PANEL)
            _mm_storeu_si128((__m128i *)out, sum4(sums[w]));
        else
            *out = _mm512_reduce_add_epi32(sums[w][0]);
    }
}

#include "kernels/x86/screen_panels.h"

void screen_i8_avx512(const struct screen_tile *t)
{
    if (t->high && t->low)
        panels(t);
    else if (t->high)
        planes(t, false);
    else
        planes(t, true);
}
