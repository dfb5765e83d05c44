/* Rotary position embedding and rounding to F16. */
#include "kernels/cpu.h"
#include "kernels/x86/avx2.h"

/* fmsub rounds a * c - (b * s) once, as fma(a, c, -(b * s)) does. */
static inline __m256 turn0(__m256 a, __m256 b, __m256 c, __m256 s) { return _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)); }
static inline __m256 turn1(__m256 a, __m256 b, __m256 c, __m256 s) { return _mm256_fmadd_ps(a, s, _mm256_mul_ps(b, c)); }

static inline void turn_scalar(float *x0, float *x1, float c, float s)
{
    float a = *x0, b = *x1;
    *x0 = arith_fma(a, c, -(b * s));
    *x1 = arith_fma(a, s, b * c);
}

void rope_neox_avx2(float *x, const float *cos, const float *sin, size_t half)
{
    size_t i = 0;
    for (; i + 8 <= half; i += 8) {
        __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + half + i);
        __m256 c = _mm256_loadu_ps(cos + i), s = _mm256_loadu_ps(sin + i);
        _mm256_storeu_ps(x + i, turn0(a, b, c, s));
        _mm256_storeu_ps(x + half + i, turn1(a, b, c, s));
    }
    for (; i < half; i++)
        turn_scalar(x + i, x + half + i, cos[i], sin[i]);
}

/* Swaps the middle 64-bit quarters: 0 1 2 3 -> 0 2 1 3. */
static inline __m256 swap_middle(__m256 v)
{
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xd8));
}

void rope_norm_avx2(float *x, const float *cos, const float *sin, size_t half)
{
    size_t i = 0;
    for (; i + 8 <= half; i += 8) {
        /* pairs 0 1 | 2 3 and 4 5 | 6 7; even and odd values come out as pairs 0 1 4 5 | 2 3 6 7 */
        __m256 u = _mm256_loadu_ps(x + 2 * i), v = _mm256_loadu_ps(x + 2 * i + 8);
        __m256 a = _mm256_shuffle_ps(u, v, 0x88), b = _mm256_shuffle_ps(u, v, 0xdd);
        __m256 c = swap_middle(_mm256_loadu_ps(cos + i)), s = swap_middle(_mm256_loadu_ps(sin + i));
        __m256 y0 = turn0(a, b, c, s), y1 = turn1(a, b, c, s);
        _mm256_storeu_ps(x + 2 * i, _mm256_unpacklo_ps(y0, y1));
        _mm256_storeu_ps(x + 2 * i + 8, _mm256_unpackhi_ps(y0, y1));
    }
    for (; i < half; i++)
        turn_scalar(x + 2 * i, x + 2 * i + 1, cos[i], sin[i]);
}

void to_f16_avx2(const float *x, size_t n, uint16_t *out)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(out + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < n; i++)
        out[i] = arith_to_f16(x[i]);
}
