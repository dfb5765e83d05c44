/*
 * Attention over one segment, AVX-512: the 16 lanes are one register. A tile of dot products is 16 sums, of 4 queries and 4
 * positions, 2 and 8 or 1 and 16, and the tree of kernels/arith.h adds all of them at once by shuffling registers in pairs.
 */
#include "kernels/cpu.h"
#include "kernels/x86/avx512.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define TILE 16
#define COLUMN(H) 4

/* Into the second cache, which has more places for lines on their way than the first. */
ALWAYS_INLINE void prefetch(const uint8_t *p, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i += 64)
        _mm_prefetch((const char *)p + i, _MM_HINT_T1);
}

ALWAYS_INLINE struct lanes lanes_of(const uint8_t *p, const enum kv_type T)
{
    if (T == KV_F16)
        return (struct lanes){_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p))};
    return (struct lanes){_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)))};
}

/* Rounded to F16, or to 16 bits and as many as fill pairs of registers. */
static float load_query(const float *q, size_t dim, enum kv_type type, float scale, float *out)
{
    if (type == KV_F16) {
        for (size_t i = 0; i < dim; i += ARITH_LANES) {
            __m512 v = _mm512_maskz_loadu_ps(first_lanes(dim - i), q + i);
            _mm512_store_ps(out + i,
                            _mm512_cvtph_ps(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)));
        }
        return scale;
    }
    __m512 max = _mm512_set1_ps(ARITH_QUANTIZE_MIN);
    for (size_t i = 0; i < dim; i += ARITH_LANES)
        max = _mm512_max_ps(_mm512_abs_ps(finite_values(_mm512_maskz_loadu_ps(first_lanes(dim - i), q + i))), max);
    float t = ARITH_QUERY_MAX / _mm512_reduce_max_ps(max);
    for (size_t i = 0; i < dim; i += 2 * ARITH_LANES)
        for (size_t half = i; half < i + 2 * ARITH_LANES; half += ARITH_LANES) {
            __mmask16 mask = half < dim ? first_lanes(dim - half) : 0;
            __m512 v = _mm512_mul_ps(finite_values(_mm512_maskz_loadu_ps(mask, q + half)), _mm512_set1_ps(t));
            _mm256_store_si256((__m256i *)((int16_t *)out + half), _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(v)));
        }
    return scale / t;
}

/* l += l+8, l += l+4 of four sums; 128-bit lane i holds what is left of the i-th. */
#define FOUR(name, vector, shuffle, add)                                                                               \
    ALWAYS_INLINE vector name(vector a, vector b, vector c, vector d)                                                  \
    {                                                                                                                  \
        vector x = add(shuffle(a, b, 0x44), shuffle(a, b, 0xee)), y = add(shuffle(c, d, 0x44), shuffle(c, d, 0xee));   \
        return add(shuffle(x, y, 0x88), shuffle(x, y, 0xdd));                                                          \
    }
FOUR(four_floats, __m512, _mm512_shuffle_f32x4, _mm512_add_ps)
FOUR(four_ints, __m512i, _mm512_shuffle_i32x4, _mm512_add_epi32)
#undef FOUR

/* The last steps; value j of 128-bit lane i is the sum that lane i of the j-th argument leads to. */
static inline __m512 last_floats(__m512 a, __m512 b, __m512 c, __m512 d)
{
    __m512d ad = _mm512_castps_pd(a), bd = _mm512_castps_pd(b), cd = _mm512_castps_pd(c), dd = _mm512_castps_pd(d);
    __m512 x =
        _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ad, bd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ad, bd)));
    __m512 y =
        _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(cd, dd)), _mm512_castpd_ps(_mm512_unpackhi_pd(cd, dd)));
    return _mm512_add_ps(_mm512_shuffle_ps(x, y, 0x88), _mm512_shuffle_ps(x, y, 0xdd));
}

static inline __m512 last_ints(__m512i a, __m512i b, __m512i c, __m512i d)
{
    __m512i x = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    __m512i y = _mm512_add_epi32(_mm512_unpacklo_epi64(c, d), _mm512_unpackhi_epi64(c, d));
    __m512 xf = _mm512_castsi512_ps(x), yf = _mm512_castsi512_ps(y);
    __m512i even = _mm512_castps_si512(_mm512_shuffle_ps(xf, yf, 0x88)),
            odd = _mm512_castps_si512(_mm512_shuffle_ps(xf, yf, 0xdd));
    return _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd));
}

/* Sum 4 * i + e of a tile, which counts queries and in them positions, is value e of 128-bit lane i. */
ALWAYS_INLINE void store_tile(__m512 y, const int H, float *p)
{
    if (H == 1) {
        _mm512_storeu_ps(p, y);
    } else if (H == 2) {
        _mm256_storeu_ps(p, _mm512_castps512_ps256(y));
        _mm256_storeu_ps(p + ARITH_SEGMENT, upper(y));
    } else {
        _mm_storeu_ps(p, _mm512_castps512_ps128(y));
        _mm_storeu_ps(p + ARITH_SEGMENT, _mm512_extractf32x4_ps(y, 1));
        _mm_storeu_ps(p + 2 * ARITH_SEGMENT, _mm512_extractf32x4_ps(y, 2));
        _mm_storeu_ps(p + 3 * ARITH_SEGMENT, _mm512_extractf32x4_ps(y, 3));
    }
}

ALWAYS_INLINE void step_f16(const float *q, const int H, const uint8_t *k, size_t row_bytes, __mmask16 mask,
                            bool masked, __m512 *sum)
{
    const int n_positions = TILE / H;
    __m512 qq[4];
#pragma GCC unroll 4
    for (int h = 0; h < H; h++)
        qq[h] = _mm512_load_ps(q + h * KERNELS_MAX_HEAD_DIM);
#pragma GCC unroll 16
    for (int j = 0; j < n_positions; j++) {
        __m512 kk = lanes_of(k + (size_t)j * row_bytes, KV_F16).v;
        if (masked)
            kk = _mm512_maskz_mov_ps(mask, kk);
#pragma GCC unroll 4
        for (int h = 0; h < H; h++)
            sum[h * (TILE / H) + j] = _mm512_fmadd_ps(qq[h], kk, sum[h * (TILE / H) + j]);
    }
}

/* What is asked for is so in steps: a core that waits for many lines at once does not get at those in its second cache. */
ALWAYS_INLINE void dots(const float *q, const int H, const enum kv_type T, const uint8_t *k, size_t dim, float *p,
                        const uint8_t *next)
{
    const int n_positions = TILE / H;
    const size_t value_bytes = (size_t)n_positions * KV_TYPE_BYTES(T);
    size_t row_bytes = dim * KV_TYPE_BYTES(T), i = 0;
    if (T == KV_F16) {
        __m512 sum[TILE];
#pragma GCC unroll 16
        for (int a = 0; a < TILE; a++)
            sum[a] = _mm512_setzero_ps();
        for (; i + ARITH_LANES <= dim; i += ARITH_LANES) {
            if (next)
                prefetch(next + i * value_bytes, ARITH_LANES * value_bytes);
            step_f16(q + i, H, k + 2 * i, row_bytes, 0, false, sum);
        }
        if (i < dim)
            step_f16(q + i, H, k + 2 * i, row_bytes, first_lanes(dim - i), true, sum);
        __m512 part[4];
#pragma GCC unroll 4
        for (int e = 0; e < 4; e++)
            part[e] = four_floats(sum[e], sum[4 + e], sum[8 + e], sum[12 + e]);
        store_tile(last_floats(part[0], part[1], part[2], part[3]), H, p);
        return;
    }
    __m512i sum[TILE];
#pragma GCC unroll 16
    for (int a = 0; a < TILE; a++)
        sum[a] = _mm512_setzero_si512();
    for (; i < dim; i += 2 * ARITH_LANES) {
        __m512i qq[4];
        if (next)
            prefetch(next + i * value_bytes, 2 * ARITH_LANES * value_bytes);
#pragma GCC unroll 4
        for (int h = 0; h < H; h++)
            qq[h] = _mm512_load_si512((const int16_t *)(q + h * KERNELS_MAX_HEAD_DIM) + i);
#pragma GCC unroll 16
        for (int j = 0; j < n_positions; j++) {
            __m512i kk = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(k + (size_t)j * row_bytes + i)));
#pragma GCC unroll 4
            for (int h = 0; h < H; h++)
                sum[h * (TILE / H) + j] = _mm512_dpwssd_epi32(sum[h * (TILE / H) + j], qq[h], kk);
        }
    }
    __m512i part[4];
#pragma GCC unroll 4
    for (int e = 0; e < 4; e++)
        part[e] = four_ints(sum[e], sum[4 + e], sum[8 + e], sum[12 + e]);
    store_tile(last_ints(part[0], part[1], part[2], part[3]), H, p);
}

#include "kernels/attention_lanes.h"

void attention_segment_avx512(const struct attention_segment *s)
{
    attend_segment(s);
}
