/* Conversion of rows of weights, and dot products with 16 lanes in four registers. Four rows, of the table or of x, go together where there
 * are as many, so that one row of the other side is read once for them. */
#include "kernels/arm/neon.h"
#include "kernels/cpu.h"

void row_f16_neon(const void *src, size_t n, float *out)
{
    const uint8_t *p = src;
    size_t i = 0;
    for (; i + ARITH_LANES <= n; i += ARITH_LANES)
        lanes_store(out + i, lanes_load_f16(p + 2 * i));
    tensor_row_f16(p + 2 * i, n - i, out + i);
}

void row_bf16_neon(const void *src, size_t n, float *out)
{
    const uint8_t *p = src;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint16x8_t v = vreinterpretq_u16_u8(vld1q_u8(p + 2 * i));
        vst1q_f32(out + i, vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(v), 16)));
        vst1q_f32(out + i + 4, vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(v), 16)));
    }
    tensor_row_bf16(p + 2 * i, n - i, out + i);
}

static float load_scale(const uint8_t *p)
{
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return arith_from_f16(half);
}

/* 16 int8 times one scale. */
ALWAYS_INLINE void scale16(int8x16_t q, float scale, float *out)
{
    int16x8_t low = vmovl_s8(vget_low_s8(q)), high = vmovl_s8(vget_high_s8(q));
    vst1q_f32(out, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), scale));
    vst1q_f32(out + 4, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))), scale));
    vst1q_f32(out + 8, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), scale));
    vst1q_f32(out + 12, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(high))), scale));
}

void row_q8_0_neon(const void *src, size_t n, float *out)
{
    const uint8_t *p = src;
    for (size_t i = 0; i + 32 <= n; i += 32, p += 34) {
        float d = load_scale(p);
        scale16(vld1q_s8((const int8_t *)p + 2), d, out + i);
        scale16(vld1q_s8((const int8_t *)p + 18), d, out + i + 16);
    }
}

/* 16 values q - 32 of low bits and, in place, high bits, times one scale. */
ALWAYS_INLINE void q6_k_16(uint8x16_t low, uint8x16_t high, float scale, float *out)
{
    scale16(vsubq_s8(vreinterpretq_s8_u8(vorrq_u8(low, high)), vdupq_n_s8(32)), scale, out);
}

/* 128 weights from 64 low bytes, 32 high bytes and 8 scales; i is the half of each 32. */
static void q6_k_half(const uint8_t *low, const uint8_t *high, const int8_t *scale, float d, float *out)
{
    const uint8x16_t nibble = vdupq_n_u8(15), two_bits = vdupq_n_u8(0x30);
    for (int i = 0; i < 2; i++, low += 16, high += 16, scale++, out += 16) {
        uint8x16_t a = vld1q_u8(low), b = vld1q_u8(low + 32), h = vld1q_u8(high);
        q6_k_16(vandq_u8(a, nibble), vandq_u8(vshlq_n_u8(h, 4), two_bits), d * (float)scale[0], out);
        q6_k_16(vandq_u8(b, nibble), vandq_u8(vshlq_n_u8(h, 2), two_bits), d * (float)scale[2], out + 32);
        q6_k_16(vshrq_n_u8(a, 4), vandq_u8(h, two_bits), d * (float)scale[4], out + 64);
        q6_k_16(vshrq_n_u8(b, 4), vandq_u8(vshrq_n_u8(h, 2), two_bits), d * (float)scale[6], out + 96);
    }
}

void row_q6_k_neon(const void *src, size_t n, float *out)
{
    const uint8_t *p = src;
    for (size_t i = 0; i + 256 <= n; i += 256, p += 210) {
        const int8_t *scale = (const int8_t *)(p + 192);
        float d = load_scale(p + 208);
        q6_k_half(p, p + 128, scale, d, out + i);
        q6_k_half(p + 64, p + 160, scale + 8, d, out + i + 128);
    }
}

/* One row with N (1 or 4) rows of x. */
ALWAYS_INLINE float32x4_t dots(const float *row, const float *x, size_t x_stride, size_t n, const int N)
{
    struct lanes sum[4] = {lanes_all(0.0f), lanes_all(0.0f), lanes_all(0.0f), lanes_all(0.0f)};
    size_t i = 0;
    for (; i + ARITH_LANES <= n; i += ARITH_LANES) {
        struct lanes w = lanes_load(row + i);
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            sum[j] = lanes_fma(w, lanes_load(x + (size_t)j * x_stride + i), sum[j]);
    }
    if (i < n) {
        struct lanes w = lanes_tail(row + i, n - i);
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            sum[j] = lanes_fma(w, lanes_tail(x + (size_t)j * x_stride + i, n - i), sum[j]);
    }
    return lanes_sum4(sum);
}

void dots_f32_neon(const float *row, const float *x, size_t x_stride, size_t n_x, size_t n, float *out,
                   size_t out_stride)
{
    size_t j = 0;
    for (; j + 4 <= n_x; j += 4) {
        float y[4];
        vst1q_f32(y, dots(row, x + j * x_stride, x_stride, n, 4));
        for (size_t k = 0; k < 4; k++)
            out[(j + k) * out_stride] = y[k];
    }
    for (; j < n_x; j++)
        out[j * out_stride] = vgetq_lane_f32(dots(row, x + j * x_stride, x_stride, n, 1), 0);
}

/* N (1 or 4) rows of the table with one row of x. */
ALWAYS_INLINE float32x4_t dots_half(const uint8_t *rows, size_t row_bytes, const float *x, size_t n, const int N)
{
    struct lanes sum[4] = {lanes_all(0.0f), lanes_all(0.0f), lanes_all(0.0f), lanes_all(0.0f)};
    size_t i = 0;
    for (; i + ARITH_LANES <= n; i += ARITH_LANES) {
        struct lanes v = lanes_load(x + i);
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            sum[j] = lanes_fma(lanes_load_f16(rows + (size_t)j * row_bytes + 2 * i), v, sum[j]);
    }
    if (i < n) {
        struct lanes v = lanes_tail(x + i, n - i);
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            sum[j] = lanes_fma(lanes_tail_f16(rows + (size_t)j * row_bytes + 2 * i, n - i), v, sum[j]);
    }
    return lanes_sum4(sum);
}

void dots_f16_neon(const void *rows, size_t row_bytes, size_t n_rows, const float *x, size_t n, float *out)
{
    const uint8_t *p = rows;
    size_t r = 0;
    for (; r + 4 <= n_rows; r += 4)
        vst1q_f32(out + r, dots_half(p + r * row_bytes, row_bytes, x, n, 4));
    for (; r < n_rows; r++)
        out[r] = vgetq_lane_f32(dots_half(p + r * row_bytes, row_bytes, x, n, 1), 0);
}
