/* What the AVX2 kernels share: the 16 lanes of kernels/arith.h in two registers, tails, and arith_exp for 8 values. */
#ifndef KERNELS_X86_AVX2_H
#define KERNELS_X86_AVX2_H

#include "kernels/arith.h"

#include <immintrin.h>

/* Lanes 0-7 and 8-15. */
struct lanes {
    __m256 low, high;
};

static inline struct lanes lanes_zero(void) { return (struct lanes){_mm256_setzero_ps(), _mm256_setzero_ps()}; }

/* l += l+8, l += l+4. */
static inline __m128 lanes_four(struct lanes v)
{
    __m256 eight = _mm256_add_ps(v.low, v.high);
    return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}

static inline float lanes_sum(struct lanes v)
{
    __m128 four = lanes_four(v), two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* Four sums at once; a transposition turns the last two steps of the tree into additions of whole registers. */
static inline __m128 lanes_sum4(struct lanes a, struct lanes b, struct lanes c, struct lanes d)
{
    __m128 r0 = lanes_four(a), r1 = lanes_four(b), r2 = lanes_four(c), r3 = lanes_four(d);
    _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
    return _mm_add_ps(_mm_add_ps(r0, r2), _mm_add_ps(r1, r3));
}

/* The n < 16 values at p, padded with zeros. */
static inline struct lanes lanes_tail(const float *p, size_t n)
{
    float t[ARITH_LANES] = {0};
    memcpy(t, p, n * sizeof *p);
    return (struct lanes){_mm256_loadu_ps(t), _mm256_loadu_ps(t + 8)};
}

/* 8 F16 values to f32. */
static inline __m256 load_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }

static inline struct lanes lanes_load_f16(const uint8_t *p)
{
    return (struct lanes){load_f16(p), load_f16(p + 16)};
}

static inline struct lanes lanes_tail_f16(const void *p, size_t n)
{
    uint8_t t[2 * ARITH_LANES] = {0};
    memcpy(t, p, 2 * n);
    return lanes_load_f16(t);
}

static inline struct lanes lanes_fma(struct lanes a, struct lanes b, struct lanes sum)
{
    return (struct lanes){_mm256_fmadd_ps(a.low, b.low, sum.low), _mm256_fmadd_ps(a.high, b.high, sum.high)};
}

static inline struct lanes lanes_load(const float *p) { return (struct lanes){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }

/* arith_exp. */
static inline __m256 exp_avx2(__m256 x)
{
    const __m256 one = _mm256_set1_ps(1.0f);
    const __m256i bias = _mm256_set1_epi32(127);
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(ARITH_LOG2E)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-ARITH_LN2_HI), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-ARITH_LN2_LO), r);
    __m256 p = _mm256_set1_ps(ARITH_EXP_P0);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(ARITH_EXP_P1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(ARITH_EXP_P2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(ARITH_EXP_P3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(ARITH_EXP_P4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(ARITH_EXP_P5));
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), one);
    __m256i k = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(k, 1), rest = _mm256_sub_epi32(k, half);
    __m256 power1 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    __m256 power2 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    __m256 y = _mm256_mul_ps(_mm256_mul_ps(p, power1), power2);
    __m256 low = _mm256_cmp_ps(x, _mm256_set1_ps(ARITH_EXP_LO), _CMP_LT_OQ);
    __m256 high = _mm256_cmp_ps(x, _mm256_set1_ps(ARITH_EXP_HI), _CMP_GT_OQ);
    y = _mm256_andnot_ps(low, y);
    y = _mm256_blendv_ps(y, _mm256_set1_ps(INFINITY), high);
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

#endif
