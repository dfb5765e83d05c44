/* arith_gumbel of 64 tokens: 16 counters at a time, whose four words belong to four tokens each. */
#include "kernels/arith.h"
#include "kernels/cpu.h"

#include <immintrin.h>

/* High and low words of the products of 16 words with m. */
static inline __m512i multiply(__m512i words, uint32_t m, __m512i *low)
{
    const __m512i factor = _mm512_set1_epi64((long long)m);
    __m512i even = _mm512_mul_epu32(words, factor), odd = _mm512_mul_epu32(_mm512_srli_epi64(words, 32), factor);
    *low = _mm512_mask_mov_epi32(even, 0xaaaa, _mm512_slli_epi64(odd, 32));
    return _mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xaaaa, odd);
}

static inline void philox(__m512i c[4], uint64_t key)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        __m512i a_low, b_low, a = multiply(c[0], 0xD2511F53u, &a_low), b = multiply(c[2], 0xCD9E8D57u, &b_low);
        c[0] = _mm512_ternarylogic_epi32(b, c[1], _mm512_set1_epi32((int)k0), 0x96); /* xor of three */
        c[1] = b_low;
        c[2] = _mm512_ternarylogic_epi32(a, c[3], _mm512_set1_epi32((int)k1), 0x96);
        c[3] = a_low;
    }
}

/* arith_log. */
static inline __m512 log_avx512(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512i u = _mm512_castps_si512(x);
    __m512 e = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_srli_epi32(u, 23), _mm512_set1_epi32(126)));
    __m512 m = _mm512_castsi512_ps(
        _mm512_or_si512(_mm512_and_si512(u, _mm512_set1_epi32(0x7fffff)), _mm512_set1_epi32(0x3f000000)));
    __mmask16 small = _mm512_cmp_ps_mask(m, _mm512_set1_ps(0.707106781f), _CMP_LT_OQ);
    e = _mm512_mask_sub_ps(e, small, e, one);
    m = _mm512_mask_add_ps(m, small, m, m);
    m = _mm512_sub_ps(m, one);
    __m512 z = _mm512_mul_ps(m, m), p = _mm512_set1_ps(7.0376836292e-2f);
    p = _mm512_fmadd_ps(p, m, _mm512_set1_ps(-1.1514610310e-1f));
    p = _mm512_fmadd_ps(p, m, _mm512_set1_ps(1.1676998740e-1f));
    p = _mm512_fmadd_ps(p, m, _mm512_set1_ps(-1.2420140846e-1f));
    p = _mm512_fmadd_ps(p, m, _mm512_set1_ps(1.4249322787e-1f));
    p = _mm512_fmadd_ps(p, m, _mm512_set1_ps(-1.6668057665e-1f));
    p = _mm512_fmadd_ps(p, m, _mm512_set1_ps(2.0000714765e-1f));
    p = _mm512_fmadd_ps(p, m, _mm512_set1_ps(-2.4999993993e-1f));
    p = _mm512_fmadd_ps(p, m, _mm512_set1_ps(3.3333331174e-1f));
    p = _mm512_mul_ps(_mm512_mul_ps(p, m), z);
    p = _mm512_fmadd_ps(e, _mm512_set1_ps(ARITH_LN2_LO), p);
    p = _mm512_fmadd_ps(z, _mm512_set1_ps(-0.5f), p);
    return _mm512_fmadd_ps(e, _mm512_set1_ps(ARITH_LN2_HI), _mm512_add_ps(m, p));
}

static inline __m512 negated(__m512 x)
{
    return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(x), _mm512_set1_epi32((int)0x80000000u)));
}

/* arith_gumbel_word. */
static inline __m512 gumbel(__m512i word)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 v = _mm512_cvtepi32_ps(_mm512_srli_epi32(word, 1));
    v = _mm512_mul_ps(_mm512_add_ps(v, _mm512_set1_ps(0.5f)), _mm512_set1_ps(0x1p-31f));
    v = _mm512_min_ps(v, _mm512_set1_ps(0x1.fffffep-1f));
    __m512 y = _mm512_sub_ps(one, v), rest = _mm512_div_ps(v, _mm512_sub_ps(one, y));
    __m512 e = _mm512_mul_ps(negated(log_avx512(y)), rest);
    e = _mm512_mask_mov_ps(e, _mm512_cmp_ps_mask(y, one, _CMP_EQ_OQ), v);
    return negated(log_avx512(e));
}

void gumbels_avx512(uint64_t seed, uint32_t choice, uint32_t position, uint32_t first, float *out)
{
    /* 4 x 4 of the counters transposed, as the words of one are to lie side by side */
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i c[4] = {_mm512_add_epi32(_mm512_set1_epi32((int)(first >> 2)), order), _mm512_set1_epi32((int)position),
                    _mm512_set1_epi32((int)choice), _mm512_setzero_si512()};
    philox(c, seed);
    __m512i a = _mm512_unpacklo_epi32(c[0], c[1]), b = _mm512_unpackhi_epi32(c[0], c[1]);
    __m512i d = _mm512_unpacklo_epi32(c[2], c[3]), e = _mm512_unpackhi_epi32(c[2], c[3]);
    _mm512_storeu_ps(out, gumbel(_mm512_unpacklo_epi64(a, d)));
    _mm512_storeu_ps(out + 16, gumbel(_mm512_unpackhi_epi64(a, d)));
    _mm512_storeu_ps(out + 32, gumbel(_mm512_unpacklo_epi64(b, e)));
    _mm512_storeu_ps(out + 48, gumbel(_mm512_unpackhi_epi64(b, e)));
}
