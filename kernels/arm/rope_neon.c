/* Rotary position embedding and rounding to F16. */
#include "kernels/arm/neon.h"
#include "kernels/cpu.h"

/* fma(a, c, -(b * s)) and fma(a, s, b * c). */
ALWAYS_INLINE float32x4_t turn0(float32x4_t a, float32x4_t b, float32x4_t c, float32x4_t s)
{
    return vfmaq_f32(vnegq_f32(vmulq_f32(b, s)), a, c);
}

ALWAYS_INLINE float32x4_t turn1(float32x4_t a, float32x4_t b, float32x4_t c, float32x4_t s)
{
    return vfmaq_f32(vmulq_f32(b, c), a, s);
}

static void turn_scalar(float *x0, float *x1, float c, float s)
{
    float a = *x0, b = *x1;
    *x0 = arith_fma(a, c, -(b * s));
    *x1 = arith_fma(a, s, b * c);
}

void rope_neox_neon(float *x, const float *cos, const float *sin, size_t half)
{
    size_t i = 0;
    for (; i + 4 <= half; i += 4) {
        float32x4_t a = vld1q_f32(x + i), b = vld1q_f32(x + half + i), c = vld1q_f32(cos + i), s = vld1q_f32(sin + i);
        vst1q_f32(x + i, turn0(a, b, c, s));
        vst1q_f32(x + half + i, turn1(a, b, c, s));
    }
    for (; i < half; i++)
        turn_scalar(x + i, x + half + i, cos[i], sin[i]);
}

void rope_norm_neon(float *x, const float *cos, const float *sin, size_t half)
{
    size_t i = 0;
    for (; i + 4 <= half; i += 4) {
        float32x4x2_t v = vld2q_f32(x + 2 * i); /* even values, odd values */
        float32x4_t c = vld1q_f32(cos + i), s = vld1q_f32(sin + i);
        vst2q_f32(x + 2 * i, ((float32x4x2_t){{turn0(v.val[0], v.val[1], c, s), turn1(v.val[0], v.val[1], c, s)}}));
    }
    rope_norm_portable(x + 2 * i, cos + i, sin + i, half - i);
}

void to_f16_neon(const float *x, size_t n, uint16_t *out)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
    to_f16_portable(x + i, n - i, out + i);
}
