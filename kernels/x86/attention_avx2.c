/*
 * Attention over one segment, AVX2: the 16 lanes are two registers. A tile of dot products is 4 sums, of 4 queries and one position,
 * 2 and 2 or 1 and 4, whose trees are added together.
 */
#include "kernels/cpu.h"
#include "kernels/x86/avx2.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define TILE 4
#define COLUMN(H) (4 / (H))

/* Into the second cache, which has more places for lines on their way than the first. */
ALWAYS_INLINE void prefetch(const uint8_t *p, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i += 64)
        _mm_prefetch((const char *)p + i, _MM_HINT_T1);
}

static inline void lanes_store(float *p, struct lanes a)
{
    _mm256_storeu_ps(p, a.low);
    _mm256_storeu_ps(p + 8, a.high);
}

static inline struct lanes lanes_all(float x)
{
    return (struct lanes){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}

static inline struct lanes lanes_add(struct lanes a, struct lanes b)
{
    return (struct lanes){_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}

static inline struct lanes lanes_sub(struct lanes a, struct lanes b)
{
    return (struct lanes){_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}

static inline struct lanes lanes_mul(struct lanes a, struct lanes b)
{
    return (struct lanes){_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}

static inline struct lanes lanes_max(struct lanes a, struct lanes b)
{
    return (struct lanes){_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}

/* The largest; no lane is NaN. */
static inline float lanes_most(struct lanes a)
{
    float lane[8], max = -INFINITY;
    _mm256_storeu_ps(lane, _mm256_max_ps(a.low, a.high));
    for (int l = 0; l < 8; l++)
        max = lane[l] > max ? lane[l] : max;
    return max;
}

static inline struct lanes lanes_exp(struct lanes a)
{
    return (struct lanes){exp_avx2(a.low), exp_avx2(a.high)};
}

static inline __m256 load_i8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

ALWAYS_INLINE struct lanes lanes_of(const uint8_t *p, const enum kv_type T)
{
    return T == KV_F16 ? lanes_load_f16(p) : (struct lanes){load_i8(p), load_i8(p + 8)};
}

/* The first n < 16 lanes, zeros behind them. */
static inline struct lanes lanes_keep(struct lanes a, size_t n)
{
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i low = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), index),
            high = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n - 8), index);
    return (struct lanes){_mm256_and_ps(a.low, _mm256_castsi256_ps(low)),
                          _mm256_and_ps(a.high, _mm256_castsi256_ps(high))};
}

static inline struct lanes lanes_first(const float *p, size_t n)
{
    return n < ARITH_LANES ? lanes_tail(p, n) : lanes_load(p);
}

static inline __m256 magnitude(__m256 x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

/* Values that are not finite count as 0. */
static inline __m256 finite_values(__m256 x)
{
    return _mm256_and_ps(x, _mm256_cmp_ps(magnitude(x), _mm256_set1_ps(INFINITY), _CMP_LT_OQ));
}

/* Rounded to F16, or to 16 bits and a multiple of 16 of them. */
static float load_query(const float *q, size_t dim, enum kv_type type, float scale, float *out)
{
    enum { nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }; /* clang takes no variable */
    if (type == KV_F16) {
        for (size_t i = 0; i < dim; i += ARITH_LANES) {
            struct lanes v = lanes_first(q + i, dim - i);
            _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm256_cvtps_ph(v.low, nearest)));
            _mm256_storeu_ps(out + i + 8, _mm256_cvtph_ps(_mm256_cvtps_ph(v.high, nearest)));
        }
        return scale;
    }
    struct lanes max = lanes_all(ARITH_QUANTIZE_MIN);
    for (size_t i = 0; i < dim; i += ARITH_LANES) {
        struct lanes v = lanes_first(q + i, dim - i);
        max = lanes_max((struct lanes){magnitude(finite_values(v.low)), magnitude(finite_values(v.high))}, max);
    }
    float t = ARITH_QUERY_MAX / lanes_most(max);
    for (size_t i = 0; i < dim; i += ARITH_LANES) {
        struct lanes v = lanes_first(q + i, dim - i);
        v = lanes_mul((struct lanes){finite_values(v.low), finite_values(v.high)}, lanes_all(t));
        __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(v.low), _mm256_cvtps_epi32(v.high));
        _mm256_storeu_si256((__m256i *)((int16_t *)out + i), _mm256_permute4x64_epi64(words, 0xd8));
    }
    return scale / t;
}

ALWAYS_INLINE void step_f16(const float *q, const int H, const uint8_t *k, size_t row_bytes, size_t keep,
                            struct lanes *sum)
{
    const int n_positions = TILE / H;
#pragma GCC unroll 4
    for (int j = 0; j < n_positions; j++) {
        struct lanes kk = lanes_load_f16(k + (size_t)j * row_bytes);
        if (keep)
            kk = lanes_keep(kk, keep);
#pragma GCC unroll 4
        for (int h = 0; h < H; h++)
            sum[h * (TILE / H) + j] = lanes_fma(lanes_load(q + h * KERNELS_MAX_HEAD_DIM), kk, sum[h * (TILE / H) + j]);
    }
}

ALWAYS_INLINE __m128 dots_f16(const float *q, const int H, const uint8_t *k, size_t dim)
{
    struct lanes sum[TILE];
    size_t i = 0;
#pragma GCC unroll 4
    for (int a = 0; a < TILE; a++)
        sum[a] = lanes_zero();
    for (; i + ARITH_LANES <= dim; i += ARITH_LANES)
        step_f16(q + i, H, k + 2 * i, 2 * dim, 0, sum);
    if (i < dim)
        step_f16(q + i, H, k + 2 * i, 2 * dim, dim - i, sum);
    return lanes_sum4(sum[0], sum[1], sum[2], sum[3]);
}

/* Integers, so of any order. */
ALWAYS_INLINE __m128 dots_i8(const float *q, const int H, const uint8_t *k, size_t dim)
{
    const int n_positions = TILE / H;
    __m256i sum[TILE];
#pragma GCC unroll 4
    for (int a = 0; a < TILE; a++)
        sum[a] = _mm256_setzero_si256();
    for (size_t i = 0; i < dim; i += 16)
#pragma GCC unroll 4
        for (int j = 0; j < n_positions; j++) {
            __m256i kk = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(k + (size_t)j * dim + i)));
#pragma GCC unroll 4
            for (int h = 0; h < H; h++) {
                __m256i qq = _mm256_loadu_si256((const __m256i *)((const int16_t *)(q + h * KERNELS_MAX_HEAD_DIM) + i));
                sum[h * (TILE / H) + j] = _mm256_add_epi32(sum[h * (TILE / H) + j], _mm256_madd_epi16(qq, kk));
            }
        }
    __m256i both = _mm256_hadd_epi32(_mm256_hadd_epi32(sum[0], sum[1]), _mm256_hadd_epi32(sum[2], sum[3]));
    return _mm_cvtepi32_ps(_mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)));
}

ALWAYS_INLINE void dots(const float *q, const int H, const enum kv_type T, const uint8_t *k, size_t dim, float *p,
                        const uint8_t *next)
{
    if (next)
        prefetch(next, TILE / (size_t)H * dim * KV_TYPE_BYTES(T));
    __m128 y = T == KV_F16 ? dots_f16(q, H, k, dim) : dots_i8(q, H, k, dim);
    if (H == 1) {
        _mm_storeu_ps(p, y);
    } else if (H == 2) {
        _mm_storel_pi((__m64 *)p, y);
        _mm_storeh_pi((__m64 *)(p + ARITH_SEGMENT), y);
    } else {
        float one[TILE];
        _mm_storeu_ps(one, y);
        for (int h = 0; h < TILE; h++)
            p[h * ARITH_SEGMENT] = one[h];
    }
}

#include "kernels/attention_lanes.h"

void attention_segment_avx2(const struct attention_segment *s)
{
    attend_segment(s);
}

void attention_merge_avx2(float *out_a, float *max_a, float *sum_a, const float *out_b, float max_b, float sum_b,
                          size_t head_dim)
{
    float max = *max_a > max_b ? *max_a : max_b;
    float a = arith_exp(*max_a - max), b = arith_exp(max_b - max);
    __m256 aa = _mm256_set1_ps(a), bb = _mm256_set1_ps(b);
    size_t d = 0;
    for (; d + 8 <= head_dim; d += 8) {
        __m256 x = _mm256_mul_ps(_mm256_loadu_ps(out_a + d), aa), y = _mm256_mul_ps(_mm256_loadu_ps(out_b + d), bb);
        _mm256_storeu_ps(out_a + d, _mm256_add_ps(x, y));
    }
    for (; d < head_dim; d++)
        out_a[d] = out_a[d] * a + out_b[d] * b;
    *sum_a = *sum_a * a + sum_b * b;
    *max_a = max;
}
