/* RMSNorm and the quantisation of activations. */
#include "kernels/arm/neon.h"
#include "kernels/cpu.h"

void rmsnorm_neon(const float *x, const float *weight, float eps, size_t n, float *y)
{
    struct lanes sum = lanes_all(0.0f);
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
    for (i = 0; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vmulq_f32(vmulq_n_f32(vld1q_f32(x + i), r), vld1q_f32(weight + i)));
    for (; i < n; i++)
        y[i] = x[i] * r * weight[i];
}

/* Values that are not finite count as 0. */
ALWAYS_INLINE float32x4_t finite4(float32x4_t x)
{
    uint32x4_t is_finite = vcaltq_f32(x, vdupq_n_f32(INFINITY)); /* |x| < infinity */
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), is_finite));
}

/* 4 rounded and clamped values. */
ALWAYS_INLINE int32x4_t quantize4(float32x4_t x, float s)
{
    int32x4_t v = vcvtnq_s32_f32(vmulq_n_f32(finite4(x), s));
    return vmaxq_s32(vminq_s32(v, vdupq_n_s32(127)), vdupq_n_s32(-128));
}

ALWAYS_INLINE float32x4_t max16(struct lanes x)
{
    float32x4_t low = vmaxq_f32(vabsq_f32(finite4(x.a)), vabsq_f32(finite4(x.b)));
    return vmaxq_f32(low, vmaxq_f32(vabsq_f32(finite4(x.c)), vabsq_f32(finite4(x.d))));
}

/* max |x|, at least 1e-5; values that are not there count as 0. */
static float max_abs(const float *x, size_t n)
{
    float32x4_t max = vdupq_n_f32(1e-5f);
    size_t i = 0;
    for (; i + ARITH_LANES <= n; i += ARITH_LANES)
        max = vmaxq_f32(max, max16(lanes_load(x + i)));
    return vmaxvq_f32(vmaxq_f32(max, max16(lanes_tail(x + i, n - i))));
}

/* 16 values to bytes; adds them to the sums. */
ALWAYS_INLINE int8x16_t quantize16(struct lanes x, float s, int32x4_t *sum)
{
    int32x4_t a = quantize4(x.a, s), b = quantize4(x.b, s), c = quantize4(x.c, s), d = quantize4(x.d, s);
    int16x8_t low = vcombine_s16(vmovn_s32(a), vmovn_s32(b)), high = vcombine_s16(vmovn_s32(c), vmovn_s32(d));
    *sum = vpadalq_s16(*sum, vaddq_s16(low, high));
    return vcombine_s8(vmovn_s16(low), vmovn_s16(high));
}

void quantize_neon(const float *x, size_t n, int8_t *q, float *scale, int32_t *sum)
{
    float s = 127.0f / max_abs(x, n);
    int32x4_t total = vdupq_n_s32(0);
    size_t i = 0;
    for (; i + ARITH_LANES <= n; i += ARITH_LANES)
        vst1q_s8(q + i, quantize16(lanes_load(x + i), s, &total));
    if (i < n) {
        int8_t tail[ARITH_LANES];
        vst1q_s8(tail, quantize16(lanes_tail(x + i, n - i), s, &total));
        memcpy(q + i, tail, n - i);
    }
    *scale = s;
    *sum = vaddvq_s32(total);
}
