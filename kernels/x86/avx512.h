/* What the AVX-512 kernels share: the 16 lanes of kernels/arith.h in one register, and arith_exp for them. */
#ifndef KERNELS_X86_AVX512_H
#define KERNELS_X86_AVX512_H

#include "kernels/arith.h"

#include <immintrin.h>

struct lanes {
    __m512 v;
};

static inline struct lanes lanes_zero(void)
{
    return (struct lanes){_mm512_setzero_ps()};
}
static inline struct lanes lanes_load(const float *p)
{
    return (struct lanes){_mm512_loadu_ps(p)};
}
static inline void lanes_store(float *p, struct lanes a)
{
    _mm512_storeu_ps(p, a.v);
}
static inline struct lanes lanes_all(float x)
{
    return (struct lanes){_mm512_set1_ps(x)};
}
static inline struct lanes lanes_add(struct lanes a, struct lanes b)
{
    return (struct lanes){_mm512_add_ps(a.v, b.v)};
}
static inline struct lanes lanes_sub(struct lanes a, struct lanes b)
{
    return (struct lanes){_mm512_sub_ps(a.v, b.v)};
}
static inline struct lanes lanes_mul(struct lanes a, struct lanes b)
{
    return (struct lanes){_mm512_mul_ps(a.v, b.v)};
}
static inline struct lanes lanes_max(struct lanes a, struct lanes b)
{
    return (struct lanes){_mm512_max_ps(a.v, b.v)};
}

static inline struct lanes lanes_fma(struct lanes a, struct lanes b, struct lanes sum)
{
    return (struct lanes){_mm512_fmadd_ps(a.v, b.v, sum.v)};
}

/* The largest; no lane is NaN. */
static inline float lanes_most(struct lanes a)
{
    return _mm512_reduce_max_ps(a.v);
}

/* Lanes 8-15. */
static inline __m256 upper(__m512 x)
{
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1));
}

static inline float lanes_sum(struct lanes a)
{
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), upper(a.v));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* The first n lanes, all when n is more. */
static inline __mmask16 first_lanes(size_t n)
{
    return n < ARITH_LANES ? (__mmask16)((1u << n) - 1) : (__mmask16)0xffff;
}

/* Values that are not finite count as 0. */
static inline __m512 finite_values(__m512 x)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(INFINITY), _CMP_LT_OQ), x);
}

/* arith_exp. */
static inline struct lanes lanes_exp(struct lanes a)
{
    const __m512i bias = _mm512_set1_epi32(127);
    __m512 x = a.v;
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(ARITH_LOG2E)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-ARITH_LN2_HI), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-ARITH_LN2_LO), r);
    __m512 p = _mm512_set1_ps(ARITH_EXP_P0);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(ARITH_EXP_P1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(ARITH_EXP_P2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(ARITH_EXP_P3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(ARITH_EXP_P4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(ARITH_EXP_P5));
    p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
    __m512i k = _mm512_cvtps_epi32(n), half = _mm512_srai_epi32(k, 1), rest = _mm512_sub_epi32(k, half);
    __m512 power1 = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(half, bias), 23));
    __m512 power2 = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(rest, bias), 23));
    __m512 y = _mm512_mul_ps(_mm512_mul_ps(p, power1), power2);
    y = _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, _mm512_set1_ps(ARITH_EXP_LO), _CMP_LT_OQ), _mm512_setzero_ps());
    y = _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, _mm512_set1_ps(ARITH_EXP_HI), _CMP_GT_OQ),
                           _mm512_set1_ps(INFINITY));
    return (struct lanes){_mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x)};
}

#endif
