/*
 * Attention over one segment, NEON: the 16 lanes are four registers. A tile of dot products is 4 sums, of 4 queries and one position,
 * 2 and 2 or 1 and 4, whose trees are added together.
 */
#include "kernels/arm/neon.h"
#include "kernels/cpu.h"

#define TILE 4
#define COLUMN(H) ((H) == 4 ? 1 : 2)

/* Into the second cache, which has more places for lines on their way than the first. */
ALWAYS_INLINE void prefetch(const uint8_t *p, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i += 64)
        __builtin_prefetch(p + i, 0, 2);
}

ALWAYS_INLINE struct lanes lanes_zero(void)
{
    return lanes_all(0.0f);
}

#define EACH(name, op)                                                                                                 \
    ALWAYS_INLINE struct lanes name(struct lanes x, struct lanes y)                                                    \
    {                                                                                                                  \
        return (struct lanes){op(x.a, y.a), op(x.b, y.b), op(x.c, y.c), op(x.d, y.d)};                                 \
    }
EACH(lanes_add, vaddq_f32)
EACH(lanes_sub, vsubq_f32)
EACH(lanes_mul, vmulq_f32)
/* Passes over a NaN in the first. */
ALWAYS_INLINE float32x4_t larger(float32x4_t x, float32x4_t y)
{
    return vbslq_f32(vcgtq_f32(x, y), x, y);
}
EACH(lanes_max, larger)
#undef EACH

/* The largest; no lane is NaN. */
ALWAYS_INLINE float lanes_most(struct lanes l)
{
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(l.a, l.b), vmaxq_f32(l.c, l.d)));
}

ALWAYS_INLINE struct lanes lanes_exp(struct lanes l)
{
    return (struct lanes){exp_neon(l.a), exp_neon(l.b), exp_neon(l.c), exp_neon(l.d)};
}

ALWAYS_INLINE struct lanes lanes_of(const uint8_t *p, const enum kv_type T)
{
    if (T == KV_F16)
        return lanes_load_f16(p);
    int8x16_t q = vreinterpretq_s8_u8(vld1q_u8(p));
    int16x8_t low = vmovl_s8(vget_low_s8(q)), high = vmovl_s8(vget_high_s8(q));
    return (struct lanes){vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
                          vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))};
}

ALWAYS_INLINE struct lanes lanes_first(const float *p, size_t n)
{
    return n < ARITH_LANES ? lanes_tail(p, n) : lanes_load(p);
}

ALWAYS_INLINE float32x4_t round_f16(float32x4_t x)
{
    return vcvt_f32_f16(vcvt_f16_f32(x));
}

/* Values that are not finite count as 0. */
ALWAYS_INLINE float32x4_t finite_values(float32x4_t x)
{
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), vcltq_f32(vabsq_f32(x), vdupq_n_f32(INFINITY))));
}

ALWAYS_INLINE struct lanes lanes_finite(struct lanes l)
{
    return (struct lanes){finite_values(l.a), finite_values(l.b), finite_values(l.c), finite_values(l.d)};
}

ALWAYS_INLINE struct lanes lanes_abs(struct lanes l)
{
    return (struct lanes){vabsq_f32(l.a), vabsq_f32(l.b), vabsq_f32(l.c), vabsq_f32(l.d)};
}

ALWAYS_INLINE int16x4_t to_i16(float32x4_t x)
{
    return vqmovn_s32(vcvtnq_s32_f32(x));
}

/* Rounded to F16, or to 16 bits and a multiple of 16 of them. */
static float load_query(const float *q, size_t dim, enum kv_type type, float scale, float *out)
{
    if (type == KV_F16) {
        for (size_t i = 0; i < dim; i += ARITH_LANES) {
            struct lanes v = lanes_first(q + i, dim - i);
            lanes_store(out + i, (struct lanes){round_f16(v.a), round_f16(v.b), round_f16(v.c), round_f16(v.d)});
        }
        return scale;
    }
    struct lanes max = lanes_all(ARITH_QUANTIZE_MIN);
    for (size_t i = 0; i < dim; i += ARITH_LANES)
        max = lanes_max(lanes_abs(lanes_finite(lanes_first(q + i, dim - i))), max);
    float t = ARITH_QUERY_MAX / lanes_most(max);
    int16_t *to = (int16_t *)out;
    for (size_t i = 0; i < dim; i += ARITH_LANES) {
        struct lanes v = lanes_mul(lanes_finite(lanes_first(q + i, dim - i)), lanes_all(t));
        vst1q_s16(to + i, vcombine_s16(to_i16(v.a), to_i16(v.b)));
        vst1q_s16(to + i + 8, vcombine_s16(to_i16(v.c), to_i16(v.d)));
    }
    return scale / t;
}

/* 16 products more in each sum of a tile; the first `n` where K ends. */
ALWAYS_INLINE void step_f16(const float *q, const int H, const uint8_t *k, size_t row_bytes, size_t n,
                            struct lanes *sum)
{
#pragma GCC unroll 4
    for (int j = 0; j < TILE / H; j++) {
        const uint8_t *at = k + (size_t)j * row_bytes;
        struct lanes kk = n < ARITH_LANES ? lanes_tail_f16(at, n) : lanes_load_f16(at);
#pragma GCC unroll 4
        for (int h = 0; h < H; h++)
            sum[h * (TILE / H) + j] = lanes_fma(lanes_load(q + h * KERNELS_MAX_HEAD_DIM), kk, sum[h * (TILE / H) + j]);
    }
}

ALWAYS_INLINE float32x4_t dots_f16(const float *q, const int H, const uint8_t *k, size_t dim)
{
    struct lanes sum[TILE];
    size_t i = 0;
#pragma GCC unroll 4
    for (int a = 0; a < TILE; a++)
        sum[a] = lanes_zero();
    for (; i + ARITH_LANES <= dim; i += ARITH_LANES)
        step_f16(q + i, H, k + 2 * i, 2 * dim, ARITH_LANES, sum);
    if (i < dim)
        step_f16(q + i, H, k + 2 * i, 2 * dim, dim - i, sum);
    return lanes_sum4(sum);
}

/* Integers, so of any order. */
ALWAYS_INLINE float32x4_t dots_i8(const float *q, const int H, const uint8_t *k, size_t dim)
{
    int32x4_t sum[TILE];
#pragma GCC unroll 4
    for (int a = 0; a < TILE; a++)
        sum[a] = vdupq_n_s32(0);
    for (size_t i = 0; i < dim; i += 16)
#pragma GCC unroll 4
        for (int j = 0; j < TILE / H; j++) {
            int8x16_t bytes = vreinterpretq_s8_u8(vld1q_u8(k + (size_t)j * dim + i));
            int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
#pragma GCC unroll 4
            for (int h = 0; h < H; h++) {
                const int16_t *qq = (const int16_t *)(q + h * KERNELS_MAX_HEAD_DIM) + i;
                int16x8_t first = vld1q_s16(qq), second = vld1q_s16(qq + 8);
                int32x4_t s = sum[h * (TILE / H) + j];
                s = vmlal_high_s16(vmlal_s16(s, vget_low_s16(first), vget_low_s16(low)), first, low);
                s = vmlal_high_s16(vmlal_s16(s, vget_low_s16(second), vget_low_s16(high)), second, high);
                sum[h * (TILE / H) + j] = s;
            }
        }
    return vcvtq_f32_s32(vpaddq_s32(vpaddq_s32(sum[0], sum[1]), vpaddq_s32(sum[2], sum[3])));
}

ALWAYS_INLINE void dots(const float *q, const int H, const enum kv_type T, const uint8_t *k, size_t dim, float *p,
                        const uint8_t *next)
{
    if (next)
        prefetch(next, TILE / (size_t)H * dim * KV_TYPE_BYTES(T));
    float32x4_t y = T == KV_F16 ? dots_f16(q, H, k, dim) : dots_i8(q, H, k, dim);
    if (H == 1) {
        vst1q_f32(p, y);
    } else if (H == 2) {
        vst1_f32(p, vget_low_f32(y));
        vst1_f32(p + ARITH_SEGMENT, vget_high_f32(y));
    } else {
        float one[TILE];
        vst1q_f32(one, y);
        for (int h = 0; h < TILE; h++)
            p[h * ARITH_SEGMENT] = one[h];
    }
}

#include "kernels/attention_lanes.h"

void attention_segment_neon(const struct attention_segment *s)
{
    attend_segment(s);
}

void attention_merge_neon(float *out_a, float *max_a, float *sum_a, const float *out_b, float max_b, float sum_b,
                          size_t head_dim)
{
    float max = *max_a > max_b ? *max_a : max_b;
    float a = arith_exp(*max_a - max), b = arith_exp(max_b - max);
    size_t d = 0;
    for (; d + 4 <= head_dim; d += 4)
        vst1q_f32(out_a + d, vaddq_f32(vmulq_n_f32(vld1q_f32(out_a + d), a), vmulq_n_f32(vld1q_f32(out_b + d), b)));
    for (; d < head_dim; d++)
        out_a[d] = out_a[d] * a + out_b[d] * b;
    *sum_a = *sum_a * a + sum_b * b;
    *max_a = max;
}
