/* RMSNorm and the quantisation of activations. */
#include "kernels/cpu.h"
#include "kernels/x86/avx2.h"

void rmsnorm_avx2(const float *x, const float *weight, float eps, size_t n, float *y)
{
    struct lanes sum = lanes_zero();
    size_t i = 0;
    for (; i + ARITH_LANES <= n; i += ARITH_LANES) {
        struct lanes v = lanes_load(x + i);
        sum = lanes_fma(v, v, sum);
    }
    if (i < n) {
        struct lanes v = lanes_tail(x + i, n - i);
        sum = lanes_fma(v, v, sum);
    }
    float r = 1.0f / sqrtf(lanes_sum(sum) / (float)n + eps);
    __m256 rr = _mm256_set1_ps(r);
    for (i = 0; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), rr), _mm256_loadu_ps(weight + i)));
    for (; i < n; i++)
        y[i] = x[i] * r * weight[i];
}

/* Values that are not finite count as 0. */
static inline __m256 finite8(__m256 x)
{
    __m256 a = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
    return _mm256_and_ps(x, _mm256_cmp_ps(a, _mm256_set1_ps(INFINITY), _CMP_LT_OQ));
}

static inline float finite1(float x) { return fabsf(x) < INFINITY ? x : 0.0f; }

static float max_abs(const float *x, size_t n)
{
    __m256 max = _mm256_set1_ps(1e-5f);
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        max = _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), finite8(_mm256_loadu_ps(x + i))), max);
    float lane[8], m = 0.0f;
    _mm256_storeu_ps(lane, max);
    for (int l = 0; l < 8; l++)
        m = lane[l] > m ? lane[l] : m;
    for (; i < n; i++) {
        float a = fabsf(finite1(x[i]));
        m = a > m ? a : m;
    }
    return m;
}

/* 8 rounded and clamped values. */
static inline __m256i quantize8(const float *x, __m256 s)
{
    __m256i v = _mm256_cvtps_epi32(_mm256_mul_ps(finite8(_mm256_loadu_ps(x)), s));
    return _mm256_max_epi32(_mm256_min_epi32(v, _mm256_set1_epi32(127)), _mm256_set1_epi32(-128));
}

void quantize_avx2(const float *x, size_t n, int8_t *q, float *scale, int32_t *sum)
{
    float s = 127.0f / max_abs(x, n);
    __m256 ss = _mm256_set1_ps(s);
    __m256i total = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256i a = quantize8(x + i, ss), b = quantize8(x + i + 8, ss);
        total = _mm256_add_epi32(total, _mm256_add_epi32(a, b));
        __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
        __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128((__m128i *)(q + i), bytes);
    }
    int32_t lane[8], t = 0;
    _mm256_storeu_si256((__m256i *)lane, total);
    for (int l = 0; l < 8; l++)
        t += lane[l];
    for (; i < n; i++) {
        float v = rintf(finite1(x[i]) * s);
        v = v < 127.0f ? v : 127.0f;
        v = v > -128.0f ? v : -128.0f;
        q[i] = (int8_t)v;
        t += q[i];
    }
    *scale = s;
    *sum = t;
}
