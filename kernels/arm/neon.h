/* What the NEON kernels share: the 16 lanes of kernels/arith.h in four registers, tails, and arith_exp for 4 values. */
#ifndef KERNELS_ARM_NEON_H
#define KERNELS_ARM_NEON_H

#include "kernels/arith.h"

#include <arm_neon.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Lanes 0-3, 4-7, 8-11 and 12-15. Members, not an array: an array that some loop indexes stays in memory. */
struct lanes {
    float32x4_t a, b, c, d;
};

ALWAYS_INLINE struct lanes lanes_all(float x)
{
    float32x4_t v = vdupq_n_f32(x);
    return (struct lanes){v, v, v, v};
}

ALWAYS_INLINE struct lanes lanes_load(const float *p)
{
    return (struct lanes){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}

ALWAYS_INLINE void lanes_store(float *p, struct lanes l)
{
    vst1q_f32(p, l.a);
    vst1q_f32(p + 4, l.b);
    vst1q_f32(p + 8, l.c);
    vst1q_f32(p + 12, l.d);
}

/* The n < 16 values at p, padded with zeros. */
ALWAYS_INLINE struct lanes lanes_tail(const float *p, size_t n)
{
    float t[ARITH_LANES] = {0};
    memcpy(t, p, n * sizeof *p);
    return lanes_load(t);
}

/* 4 F16 values to f32. */
ALWAYS_INLINE float32x4_t from_f16(uint16x4_t h)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(h));
}

/* 16 F16 values, which may lie at an odd address. */
ALWAYS_INLINE struct lanes lanes_load_f16(const void *p)
{
    const uint8_t *bytes = p;
    uint16x8_t low = vreinterpretq_u16_u8(vld1q_u8(bytes)), high = vreinterpretq_u16_u8(vld1q_u8(bytes + 16));
    return (struct lanes){from_f16(vget_low_u16(low)), from_f16(vget_high_u16(low)), from_f16(vget_low_u16(high)),
                          from_f16(vget_high_u16(high))};
}

ALWAYS_INLINE struct lanes lanes_tail_f16(const void *p, size_t n)
{
    uint8_t t[2 * ARITH_LANES] = {0};
    memcpy(t, p, 2 * n);
    return lanes_load_f16(t);
}

ALWAYS_INLINE struct lanes lanes_fma(struct lanes x, struct lanes y, struct lanes sum)
{
    return (struct lanes){vfmaq_f32(sum.a, x.a, y.a), vfmaq_f32(sum.b, x.b, y.b), vfmaq_f32(sum.c, x.c, y.c),
                          vfmaq_f32(sum.d, x.d, y.d)};
}

/* l += l+8, l += l+4. */
ALWAYS_INLINE float32x4_t lanes_four(struct lanes l)
{
    return vaddq_f32(vaddq_f32(l.a, l.c), vaddq_f32(l.b, l.d));
}

/* l += l+2 of two: sums 0 and 1 of a, then of b. */
ALWAYS_INLINE float32x4_t lanes_two(float32x4_t a, float32x4_t b)
{
    float64x2_t x = vreinterpretq_f64_f32(a), y = vreinterpretq_f64_f32(b);
    return vaddq_f32(vreinterpretq_f32_f64(vzip1q_f64(x, y)), vreinterpretq_f32_f64(vzip2q_f64(x, y)));
}

ALWAYS_INLINE float lanes_sum(struct lanes l)
{
    float32x4_t four = lanes_four(l);
    return vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)));
}

/* Four sums at once. */
ALWAYS_INLINE float32x4_t lanes_sum4(const struct lanes l[4])
{
    return vpaddq_f32(lanes_two(lanes_four(l[0]), lanes_four(l[1])), lanes_two(lanes_four(l[2]), lanes_four(l[3])));
}

/* 2^k. */
ALWAYS_INLINE float32x4_t power_of_2(int32x4_t k)
{
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(k, vdupq_n_s32(127)), 23));
}

/* arith_exp. */
static inline float32x4_t exp_neon(float32x4_t x)
{
    float32x4_t n = vrndnq_f32(vmulq_n_f32(x, ARITH_LOG2E));
    float32x4_t r = vfmaq_f32(x, n, vdupq_n_f32(-ARITH_LN2_HI));
    r = vfmaq_f32(r, n, vdupq_n_f32(-ARITH_LN2_LO));
    float32x4_t p = vdupq_n_f32(ARITH_EXP_P0);
    p = vfmaq_f32(vdupq_n_f32(ARITH_EXP_P1), p, r);
    p = vfmaq_f32(vdupq_n_f32(ARITH_EXP_P2), p, r);
    p = vfmaq_f32(vdupq_n_f32(ARITH_EXP_P3), p, r);
    p = vfmaq_f32(vdupq_n_f32(ARITH_EXP_P4), p, r);
    p = vfmaq_f32(vdupq_n_f32(ARITH_EXP_P5), p, r);
    p = vaddq_f32(vfmaq_f32(r, p, vmulq_f32(r, r)), vdupq_n_f32(1.0f));
    int32x4_t k = vcvtq_s32_f32(n), half = vshrq_n_s32(k, 1);
    float32x4_t y = vmulq_f32(vmulq_f32(p, power_of_2(half)), power_of_2(vsubq_s32(k, half)));
    y = vbslq_f32(vcltq_f32(x, vdupq_n_f32(ARITH_EXP_LO)), vdupq_n_f32(0.0f), y);
    return vbslq_f32(vcgtq_f32(x, vdupq_n_f32(ARITH_EXP_HI)), vdupq_n_f32(INFINITY), y); /* a NaN went through all */
}

#endif
