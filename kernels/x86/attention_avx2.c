/*
 * Attention over one segment. Heads that share K and V go together, 4, 2 or 1 at a time, so that a value of the cache is
 * converted once for them. Scores of a head stay in a row of 256; V is walked down a column of 16 dimensions, whose sums stay in
 * registers.
 */
#include "kernels/cpu.h"
#include "kernels/x86/avx2.h"

#define HEADS 4
#define ALWAYS_INLINE static inline __attribute__((always_inline))

static inline size_t offset_of(const struct attention_segment *s, size_t position)
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
            sum[h] = lanes_zero();
        for (size_t i = 0; i < whole; i += ARITH_LANES) {
            struct lanes kk = lanes_load_f16((const uint8_t *)(k + i));
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
        _mm_storeu_ps(y, _mm_mul_ps(lanes_sum4(sum[0], sum[1], sum[2], sum[3]), _mm_set1_ps(s->scale)));
#pragma GCC unroll 4
        for (int h = 0; h < H; h++)
            p[h][j] = y[h];
    }
}

/* Scores to exp(score - max), padded with zeros to a multiple of 16; yields max and sum. */
static void soften(float *p, size_t n, float *max_out, float *sum_out)
{
    size_t padded = (n + ARITH_LANES - 1) & ~(size_t)(ARITH_LANES - 1);
    __m256 max8 = _mm256_set1_ps(-INFINITY);
    struct lanes sum = lanes_zero();
    float lane[8], max = -INFINITY;
    for (size_t j = n; j < padded; j++)
        p[j] = -INFINITY;
    for (size_t j = 0; j < padded; j += 8)
        max8 = _mm256_max_ps(_mm256_loadu_ps(p + j), max8);
    _mm256_storeu_ps(lane, max8);
    for (int l = 0; l < 8; l++)
        max = lane[l] > max ? lane[l] : max;
    __m256 m = _mm256_set1_ps(max);
    for (size_t j = 0; j < padded; j += ARITH_LANES) {
        __m256 a = exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(p + j), m));
        __m256 b = exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(p + j + 8), m));
        _mm256_storeu_ps(p + j, a);
        _mm256_storeu_ps(p + j + 8, b);
        sum.low = _mm256_add_ps(sum.low, a);
        sum.high = _mm256_add_ps(sum.high, b);
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
            sum[h] = lanes_zero();
        for (size_t j = 0; j < s->n_positions; j++) {
            struct lanes v = lanes_load_f16((const uint8_t *)(s->v + offset_of(s, j) + d));
#pragma GCC unroll 4
            for (int h = 0; h < H; h++) {
                __m256 w = _mm256_broadcast_ss(&p[h][j]);
                sum[h] = lanes_fma((struct lanes){w, w}, v, sum[h]);
            }
        }
#pragma GCC unroll 4
        for (int h = 0; h < H; h++) {
            _mm256_storeu_ps(out + (size_t)h * s->head_dim + d, sum[h].low);
            _mm256_storeu_ps(out + (size_t)h * s->head_dim + d + 8, sum[h].high);
        }
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

static void heads4(const struct attention_segment *s, size_t first) { heads(s, first, 4); }
static void heads2(const struct attention_segment *s, size_t first) { heads(s, first, 2); }
static void heads1(const struct attention_segment *s, size_t first) { heads(s, first, 1); }

void attention_segment_avx2(const struct attention_segment *s)
{
    size_t h = 0;
    for (; h + 4 <= s->n_heads; h += 4)
        heads4(s, h);
    if (h + 2 <= s->n_heads) {
        heads2(s, h);
        h += 2;
    }
    if (h < s->n_heads)
        heads1(s, h);
}

void attention_merge_avx2(float *out_a, float *max_a, float *sum_a, const float *out_b, float max_b, float sum_b,
                          size_t head_dim)
{
    float max = *max_a > max_b ? *max_a : max_b;
    float a = arith_exp(*max_a - max), b = arith_exp(max_b - max);
    __m256 aa = _mm256_set1_ps(a), bb = _mm256_set1_ps(b);
    size_t d = 0;
    for (; d + 8 <= head_dim; d += 8) {
        __m256 x = _mm256_mul_ps(_mm256_loadu_ps(out_a + d), aa), y = _mm256_mul_ps(_mm256_loadu_ps(out_b + d), bb);
        _mm256_storeu_ps(out_a + d, _mm256_add_ps(x, y));
    }
    for (; d < head_dim; d++)
        out_a[d] = out_a[d] * a + out_b[d] * b;
    *sum_a = *sum_a * a + sum_b * b;
    *max_a = max;
}
