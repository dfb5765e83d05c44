/*
 * Attention over one segment. Heads that share K and V go together, 4, 2 or 1 at a time, so that a value of the cache is
 * converted once for them. Scores of a head stay in a row of 256; V is walked down a column of 16 dimensions, whose sums stay in
 * registers.
 */
#include "kernels/arm/neon.h"
#include "kernels/cpu.h"

#define HEADS 4

ALWAYS_INLINE size_t offset_of(const struct attention_segment *s, size_t position)
{
    return (size_t)s->blocks[position / KV_BLOCK_SIZE] * s->block_stride + position % KV_BLOCK_SIZE * s->head_dim;
}

/* p[h][j] = dot(q[h], k[j]) * scale. */
ALWAYS_INLINE void scores(const struct attention_segment *s, size_t first, const int H, float (*p)[ARITH_SEGMENT])
{
    size_t whole = s->head_dim & ~(size_t)(ARITH_LANES - 1), rest = s->head_dim - whole;
    const float *q = s->q + first * s->head_dim;
    struct lanes tail[HEADS];
    for (int h = 0; h < H; h++)
        tail[h] = lanes_tail(q + (size_t)h * s->head_dim + whole, rest);
    for (size_t j = 0; j < s->n_positions; j++) {
        const uint16_t *k = s->k + offset_of(s, j);
        struct lanes sum[HEADS];
#pragma GCC unroll 4
        for (int h = 0; h < HEADS; h++)
            sum[h] = lanes_all(0.0f);
        for (size_t i = 0; i < whole; i += ARITH_LANES) {
            struct lanes kk = lanes_load_f16(k + i);
#pragma GCC unroll 4
            for (int h = 0; h < H; h++)
                sum[h] = lanes_fma(lanes_load(q + (size_t)h * s->head_dim + i), kk, sum[h]);
        }
        if (rest) {
            struct lanes kk = lanes_tail_f16(k + whole, rest);
#pragma GCC unroll 4
            for (int h = 0; h < H; h++)
                sum[h] = lanes_fma(tail[h], kk, sum[h]);
        }
        float y[4];
        vst1q_f32(y, vmulq_n_f32(lanes_sum4(sum), s->scale));
#pragma GCC unroll 4
        for (int h = 0; h < H; h++)
            p[h][j] = y[h];
    }
}

ALWAYS_INLINE float32x4_t exp_of(float32x4_t score, float max)
{
    return exp_neon(vsubq_f32(score, vdupq_n_f32(max)));
}

/* Scores to exp(score - max), padded with zeros to a multiple of 16; yields max and sum. */
static void soften(float *p, size_t n, float *max_out, float *sum_out)
{
    size_t padded = (n + ARITH_LANES - 1) & ~(size_t)(ARITH_LANES - 1);
    struct lanes sum = lanes_all(0.0f);
    float32x4_t max4 = vdupq_n_f32(-INFINITY);
    float lane[4], max = -INFINITY;
    for (size_t j = n; j < padded; j++)
        p[j] = -INFINITY;
    for (size_t j = 0; j < padded; j += 4) {
        float32x4_t v = vld1q_f32(p + j);
        max4 = vbslq_f32(vcgtq_f32(v, max4), v, max4); /* passes over a NaN */
    }
    vst1q_f32(lane, max4);
    for (int l = 0; l < 4; l++)
        max = lane[l] > max ? lane[l] : max;
    for (size_t j = 0; j < padded; j += ARITH_LANES) {
        struct lanes v = lanes_load(p + j);
        v = (struct lanes){exp_of(v.a, max), exp_of(v.b, max), exp_of(v.c, max), exp_of(v.d, max)};
        lanes_store(p + j, v);
        sum =
            (struct lanes){vaddq_f32(sum.a, v.a), vaddq_f32(sum.b, v.b), vaddq_f32(sum.c, v.c), vaddq_f32(sum.d, v.d)};
    }
    *max_out = max;
    *sum_out = lanes_sum(sum);
}

/* out[h][d] = sum over j of p[h][j] * v[j][d]. */
ALWAYS_INLINE void weigh(const struct attention_segment *s, size_t first, const int H, float (*p)[ARITH_SEGMENT])
{
    float *out = s->out + first * s->head_dim;
    size_t d = 0;
    for (; d + ARITH_LANES <= s->head_dim; d += ARITH_LANES) {
        struct lanes sum[HEADS];
#pragma GCC unroll 4
        for (int h = 0; h < H; h++)
            sum[h] = lanes_all(0.0f);
        for (size_t j = 0; j < s->n_positions; j++) {
            struct lanes v = lanes_load_f16(s->v + offset_of(s, j) + d);
#pragma GCC unroll 4
            for (int h = 0; h < H; h++)
                sum[h] = lanes_fma(lanes_all(p[h][j]), v, sum[h]);
        }
#pragma GCC unroll 4
        for (int h = 0; h < H; h++)
            lanes_store(out + (size_t)h * s->head_dim + d, sum[h]);
    }
    for (; d < s->head_dim; d++)
        for (int h = 0; h < H; h++) {
            float sum = 0.0f;
            for (size_t j = 0; j < s->n_positions; j++)
                sum = arith_fma(p[h][j], arith_from_f16(s->v[offset_of(s, j) + d]), sum);
            out[(size_t)h * s->head_dim + d] = sum;
        }
}

ALWAYS_INLINE void heads(const struct attention_segment *s, size_t first, const int H)
{
    float p[HEADS][ARITH_SEGMENT];
    scores(s, first, H, p);
    for (int h = 0; h < H; h++)
        soften(p[h], s->n_positions, s->max + first + h, s->sum + first + h);
    weigh(s, first, H, p);
}

void attention_segment_neon(const struct attention_segment *s)
{
    size_t h = 0;
    for (; h + 4 <= s->n_heads; h += 4)
        heads(s, h, 4);
    if (h + 2 <= s->n_heads) {
        heads(s, h, 2);
        h += 2;
    }
    if (h < s->n_heads)
        heads(s, h, 1);
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
