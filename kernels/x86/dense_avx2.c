/* Conversion of rows of weights, and dot products with 16 lanes in two registers. Several rows, of the table or of x, go together
 * so that one chain of fused multiply-adds does not wait for itself. */
#include "kernels/cpu.h"
#include "kernels/x86/avx2.h"

void row_f16_avx2(const void *src, size_t n, float *out)
{
    const uint8_t *p = src;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, load_f16(p + 2 * i));
    tensor_row_f16(p + 2 * i, n - i, out + i);
}

void row_bf16_avx2(const void *src, size_t n, float *out)
{
    const uint8_t *p = src;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p + 2 * i)));
        _mm256_storeu_si256((__m256i *)(out + i), _mm256_slli_epi32(wide, 16));
    }
    tensor_row_bf16(p + 2 * i, n - i, out + i);
}

static inline float load_scale(const uint8_t *p)
{
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return arith_from_f16(half);
}

/* 8 int8 times one scale. */
static inline void scale8(__m128i q, __m256 scale, float *out)
{
    _mm256_storeu_ps(out, _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q))));
}

static inline void scale16(__m128i q, float scale, float *out)
{
    __m256 s = _mm256_set1_ps(scale);
    scale8(q, s, out);
    scale8(_mm_srli_si128(q, 8), s, out + 8);
}

void row_q8_0_avx2(const void *src, size_t n, float *out)
{
    const uint8_t *p = src;
    for (size_t i = 0; i + 32 <= n; i += 32, p += 34) {
        float d = load_scale(p);
        scale16(_mm_loadu_si128((const __m128i *)(p + 2)), d, out + i);
        scale16(_mm_loadu_si128((const __m128i *)(p + 18)), d, out + i + 16);
    }
}

/* 32 values q - 32, of low and high bits in place, times d * scale[0] and d * scale[1]. */
static inline void q6_k_32(__m256i low, __m256i high, float d, const int8_t *scale, float *out)
{
    __m256i q = _mm256_sub_epi8(_mm256_or_si256(low, high), _mm256_set1_epi8(32));
    scale16(_mm256_castsi256_si128(q), d * (float)scale[0], out);
    scale16(_mm256_extracti128_si256(q, 1), d * (float)scale[1], out + 16);
}

static void q6_k_half(const uint8_t *low, const uint8_t *high, const int8_t *scale, float d, float *out)
{
    const __m256i nibble = _mm256_set1_epi8(15), two_bits = _mm256_set1_epi8(0x30);
    __m256i a = _mm256_loadu_si256((const __m256i *)low), b = _mm256_loadu_si256((const __m256i *)(low + 32));
    __m256i h = _mm256_loadu_si256((const __m256i *)high);
    q6_k_32(_mm256_and_si256(a, nibble), _mm256_and_si256(_mm256_slli_epi16(h, 4), two_bits), d, scale, out);
    q6_k_32(_mm256_and_si256(b, nibble), _mm256_and_si256(_mm256_slli_epi16(h, 2), two_bits), d, scale + 2, out + 32);
    q6_k_32(_mm256_and_si256(_mm256_srli_epi16(a, 4), nibble), _mm256_and_si256(h, two_bits), d, scale + 4, out + 64);
    q6_k_32(_mm256_and_si256(_mm256_srli_epi16(b, 4), nibble), _mm256_and_si256(_mm256_srli_epi16(h, 2), two_bits), d,
            scale + 6, out + 96);
}

void row_q6_k_avx2(const void *src, size_t n, float *out)
{
    const uint8_t *p = src;
    for (size_t i = 0; i + 256 <= n; i += 256, p += 210) {
        const int8_t *scale = (const int8_t *)(p + 192);
        float d = load_scale(p + 208);
        q6_k_half(p, p + 128, scale, d, out + i);
        q6_k_half(p + 64, p + 160, scale + 8, d, out + i + 128);
    }
}

static float dot1(const float *a, const float *b, size_t n)
{
    struct lanes sum = lanes_zero();
    size_t i = 0;
    for (; i + ARITH_LANES <= n; i += ARITH_LANES)
        sum = lanes_fma(lanes_load(a + i), lanes_load(b + i), sum);
    if (i < n)
        sum = lanes_fma(lanes_tail(a + i, n - i), lanes_tail(b + i, n - i), sum);
    return lanes_sum(sum);
}

/* One row with four rows of x. */
static __m128 dot4(const float *row, const float *x, size_t x_stride, size_t n)
{
    const float *x1 = x + x_stride, *x2 = x1 + x_stride, *x3 = x2 + x_stride;
    struct lanes s0 = lanes_zero(), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;
    for (; i + ARITH_LANES <= n; i += ARITH_LANES) {
        struct lanes w = lanes_load(row + i);
        s0 = lanes_fma(w, lanes_load(x + i), s0);
        s1 = lanes_fma(w, lanes_load(x1 + i), s1);
        s2 = lanes_fma(w, lanes_load(x2 + i), s2);
        s3 = lanes_fma(w, lanes_load(x3 + i), s3);
    }
    if (i < n) {
        struct lanes w = lanes_tail(row + i, n - i);
        s0 = lanes_fma(w, lanes_tail(x + i, n - i), s0);
        s1 = lanes_fma(w, lanes_tail(x1 + i, n - i), s1);
        s2 = lanes_fma(w, lanes_tail(x2 + i, n - i), s2);
        s3 = lanes_fma(w, lanes_tail(x3 + i, n - i), s3);
    }
    return lanes_sum4(s0, s1, s2, s3);
}

void dots_f32_avx2(const float *row, const float *x, size_t x_stride, size_t n_x, size_t n, float *out, size_t out_stride)
{
    size_t j = 0;
    for (; j + 4 <= n_x; j += 4) {
        float y[4];
        _mm_storeu_ps(y, dot4(row, x + j * x_stride, x_stride, n));
        for (size_t k = 0; k < 4; k++)
            out[(j + k) * out_stride] = y[k];
    }
    for (; j < n_x; j++)
        out[j * out_stride] = dot1(row, x + j * x_stride, n);
}

static float dot1_f16(const uint8_t *row, const float *x, size_t n)
{
    struct lanes sum = lanes_zero();
    size_t i = 0;
    for (; i + ARITH_LANES <= n; i += ARITH_LANES)
        sum = lanes_fma(lanes_load_f16(row + 2 * i), lanes_load(x + i), sum);
    if (i < n)
        sum = lanes_fma(lanes_tail_f16(row + 2 * i, n - i), lanes_tail(x + i, n - i), sum);
    return lanes_sum(sum);
}

/* Four rows of the table with one row of x. */
static __m128 dot4_f16(const uint8_t *r0, size_t row_bytes, const float *x, size_t n)
{
    const uint8_t *r1 = r0 + row_bytes, *r2 = r1 + row_bytes, *r3 = r2 + row_bytes;
    struct lanes s0 = lanes_zero(), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;
    for (; i + ARITH_LANES <= n; i += ARITH_LANES) {
        struct lanes v = lanes_load(x + i);
        s0 = lanes_fma(lanes_load_f16(r0 + 2 * i), v, s0);
        s1 = lanes_fma(lanes_load_f16(r1 + 2 * i), v, s1);
        s2 = lanes_fma(lanes_load_f16(r2 + 2 * i), v, s2);
        s3 = lanes_fma(lanes_load_f16(r3 + 2 * i), v, s3);
    }
    if (i < n) {
        struct lanes v = lanes_tail(x + i, n - i);
        s0 = lanes_fma(lanes_tail_f16(r0 + 2 * i, n - i), v, s0);
        s1 = lanes_fma(lanes_tail_f16(r1 + 2 * i, n - i), v, s1);
        s2 = lanes_fma(lanes_tail_f16(r2 + 2 * i, n - i), v, s2);
        s3 = lanes_fma(lanes_tail_f16(r3 + 2 * i, n - i), v, s3);
    }
    return lanes_sum4(s0, s1, s2, s3);
}

void dots_f16_avx2(const void *rows, size_t row_bytes, size_t n_rows, const float *x, size_t n, float *out)
{
    const uint8_t *p = rows;
    size_t r = 0;
    for (; r + 4 <= n_rows; r += 4)
        _mm_storeu_ps(out + r, dot4_f16(p + r * row_bytes, row_bytes, x, n));
    for (; r < n_rows; r++)
        out[r] = dot1_f16(p + r * row_bytes, x, n);
}
