/* arith_gumbel of 64 tokens: 8 counters at a time, whose four words belong to four tokens each. */
#include "kernels/arith.h"
#include "kernels/cpu.h"

#include <immintrin.h>

/* High and low words of the products of 8 words with m. */
static inline __m256i multiply(__m256i words, uint32_t m, __m256i *low)
{
    const __m256i factor = _mm256_set1_epi64x((long long)m);
    __m256i even = _mm256_mul_epu32(words, factor), odd = _mm256_mul_epu32(_mm256_srli_epi64(words, 32), factor);
    *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
    return _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}

static inline void philox(__m256i c[4], uint64_t key)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        __m256i a_low, b_low, a = multiply(c[0], 0xD2511F53u, &a_low), b = multiply(c[2], 0xCD9E8D57u, &b_low);
        c[0] = _mm256_xor_si256(_mm256_xor_si256(b, c[1]), _mm256_set1_epi32((int)k0));
        c[1] = b_low;
        c[2] = _mm256_xor_si256(_mm256_xor_si256(a, c[3]), _mm256_set1_epi32((int)k1));
        c[3] = a_low;
    }
}

/* arith_log. */
static inline __m256 log_avx2(__m256 x)
{
    const __m256 one = _mm256_set1_ps(1.0f);
    __m256i u = _mm256_castps_si256(x);
    __m256 e = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(u, 23), _mm256_set1_epi32(126)));
    __m256 m = _mm256_castsi256_ps(
        _mm256_or_si256(_mm256_and_si256(u, _mm256_set1_epi32(0x7fffff)), _mm256_set1_epi32(0x3f000000)));
    __m256 small = _mm256_cmp_ps(m, _mm256_set1_ps(0.707106781f), _CMP_LT_OQ);
    e = _mm256_blendv_ps(e, _mm256_sub_ps(e, one), small);
    m = _mm256_blendv_ps(m, _mm256_add_ps(m, m), small);
    m = _mm256_sub_ps(m, one);
    __m256 z = _mm256_mul_ps(m, m), p = _mm256_set1_ps(7.0376836292e-2f);
    p = _mm256_fmadd_ps(p, m, _mm256_set1_ps(-1.1514610310e-1f));
    p = _mm256_fmadd_ps(p, m, _mm256_set1_ps(1.1676998740e-1f));
    p = _mm256_fmadd_ps(p, m, _mm256_set1_ps(-1.2420140846e-1f));
    p = _mm256_fmadd_ps(p, m, _mm256_set1_ps(1.4249322787e-1f));
    p = _mm256_fmadd_ps(p, m, _mm256_set1_ps(-1.6668057665e-1f));
    p = _mm256_fmadd_ps(p, m, _mm256_set1_ps(2.0000714765e-1f));
    p = _mm256_fmadd_ps(p, m, _mm256_set1_ps(-2.4999993993e-1f));
    p = _mm256_fmadd_ps(p, m, _mm256_set1_ps(3.3333331174e-1f));
    p = _mm256_mul_ps(_mm256_mul_ps(p, m), z);
    p = _mm256_fmadd_ps(e, _mm256_set1_ps(ARITH_LN2_LO), p);
    p = _mm256_fmadd_ps(z, _mm256_set1_ps(-0.5f), p);
    return _mm256_fmadd_ps(e, _mm256_set1_ps(ARITH_LN2_HI), _mm256_add_ps(m, p));
}

static inline __m256 negated(__m256 x)
{
    return _mm256_xor_ps(x, _mm256_set1_ps(-0.0f));
}

/* arith_gumbel_word. */
static inline __m256 gumbel(__m256i word)
{
    const __m256 one = _mm256_set1_ps(1.0f);
    __m256 v = _mm256_cvtepi32_ps(_mm256_srli_epi32(word, 1));
    v = _mm256_mul_ps(_mm256_add_ps(v, _mm256_set1_ps(0.5f)), _mm256_set1_ps(0x1p-31f));
    v = _mm256_min_ps(v, _mm256_set1_ps(0x1.fffffep-1f));
    __m256 y = _mm256_sub_ps(one, v), rest = _mm256_div_ps(v, _mm256_sub_ps(one, y));
    __m256 e = _mm256_mul_ps(negated(log_avx2(y)), rest);
    e = _mm256_blendv_ps(e, v, _mm256_cmp_ps(y, one, _CMP_EQ_OQ));
    return negated(log_avx2(e));
}

void gumbels_avx2(uint64_t seed, uint32_t choice, uint32_t position, uint32_t first, float *out)
{
    /* the counters transposed, as the words of one are to lie side by side */
    const __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
    for (uint32_t i = 0; i < KERNEL_GUMBELS; i += 32, out += 32) {
        __m256i c[4] = {_mm256_add_epi32(_mm256_set1_epi32((int)((first + i) >> 2)), order),
                        _mm256_set1_epi32((int)position), _mm256_set1_epi32((int)choice), _mm256_setzero_si256()};
        philox(c, seed);
        __m256i a = _mm256_unpacklo_epi32(c[0], c[1]), b = _mm256_unpackhi_epi32(c[0], c[1]);
        __m256i d = _mm256_unpacklo_epi32(c[2], c[3]), e = _mm256_unpackhi_epi32(c[2], c[3]);
        _mm256_storeu_ps(out, gumbel(_mm256_unpacklo_epi64(a, d)));
        _mm256_storeu_ps(out + 8, gumbel(_mm256_unpackhi_epi64(a, d)));
        _mm256_storeu_ps(out + 16, gumbel(_mm256_unpacklo_epi64(b, e)));
        _mm256_storeu_ps(out + 24, gumbel(_mm256_unpackhi_epi64(b, e)));
    }
}
