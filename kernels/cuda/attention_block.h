/*
 * attention_block: what a warp does with a tile of queries and one block of the cache, see attention.cu.
 *
 * Fragments are those of ptx.h, g = lane / 4 and t = lane % 4. The order of dimensions within a product, and of columns within a group of
 * 64, is free: it is the one in which a lane loads neighbours. With D the first dimension of a group:
 *   scores, F16    a step of 16 dimensions is half of a group of 32: lane t has D + 8t + 4 * half .. + 3
 *   scores, int8   a step of 32 dimensions is half of a group of 64: lane t has D + 16t + 8 * half .. + 7
 *   out            column g of product i is dimension D + 8g + i: lane t ends with D + 16t .. + 15 of queries g and g + 8
 */
#ifndef KERNELS_CUDA_ATTENTION_BLOCK_H
#define KERNELS_CUDA_ATTENTION_BLOCK_H

#include "kernels/cuda/fragments.h"
#include "kernels/cuda/pass.h"

#define TILE 16           /* queries */
#define COLUMNS 64        /* of a group of V's dimensions */
#define PEAK 16384.0f     /* F16: what p = 1 is multiplied with, so that two F16 values hold the small ones, too */
#define SCORE_TILES (KV_BLOCK_SIZE / 8)
#define VALUE_STEPS (KV_BLOCK_SIZE / 16)

struct attention_args {
    const uint8_t *k, *v;            /* of the layer */
    const float *k_scale, *v_scale;  /* int8 */
    const int32_t *positions, *sequences, *tables;
    const struct tile *tiles;
    int n_tiles, n_heads, n_kv_heads, chunk, n_chunks; /* a tile has `chunk` of a KV head's query heads, or those left */
    int head_dim, max_blocks, n_segments, first_row;
    float scale;                     /* 1 / sqrt(head_dim) */
    const float *q;
    float *partials;                 /* [rows from first_row][n_heads][n_segments][head_dim + 2]: out, max, sum */
    float *y;
};

struct query {
    int row, head, last;
    bool live; /* false: stands for the last one where a tile has no more */
};

/* Query i of the tile for blockIdx.y, a KV head and chunk of its heads. */
static __device__ inline struct query query_at(const struct attention_args &a, const struct tile &t, int i)
{
    int kv_head = (int)blockIdx.y / a.n_chunks, skip = (int)blockIdx.y % a.n_chunks * a.chunk;
    int group = a.n_heads / a.n_kv_heads, n_heads = min(a.chunk, group - skip), n = t.n_rows * n_heads, k = min(i, n - 1);
    struct query q = {t.row + k / n_heads, kv_head * group + skip + k % n_heads, 0, i < n};
    q.last = a.positions[q.row];
    return q;
}

/* Over the four lanes of a query. */
static __device__ inline float max_of_query(float x)
{
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

static __device__ inline float sum_of_query(float x)
{
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

/* ---- queries as fragments, [4 * GROUPS][WARP] */

/* The 16-bit query of an int8 cache is 256 * high + low, low unsigned. */
static __device__ inline unsigned pack_query(const float *q, int d, int head_dim, float t, bool high)
{
    unsigned bytes = 0;
    for (int i = 0; i < 4; i++) {
        float x = d + i < head_dim ? q[d + i] : 0.0f;
        int rounded = (int)rintf(__fmul_rn(fabsf(x) < INFINITY ? x : 0.0f, t));
        bytes |= (unsigned)(high ? rounded >> 8 : rounded & 255) << (8 * i) & 255u << (8 * i);
    }
    return bytes;
}

/* Fragments first, first + step, ... of a tile; factor: what a query's integer sums are multiplied with. */
template <int TYPE, int GROUPS>
static __device__ inline void fill_queries(const struct attention_args &a, const struct query q[2], int lane, int first, int step,
                                           uint4 (*out)[WARP], float factor[2])
{
    const float *row[2];
    float t[2];
    for (int e = 0; e < 2; e++) {
        row[e] = a.q + ((size_t)q[e].row * a.n_heads + q[e].head) * a.head_dim;
        if (TYPE == KV_INT8) {
            float max = ARITH_QUANTIZE_MIN;
            for (int d = lane % 4; d < a.head_dim; d += 4)
                max = fabsf(row[e][d]) < INFINITY ? fmaxf(max, fabsf(row[e][d])) : max;
            t[e] = __fdiv_rn(ARITH_QUERY_MAX, max_of_query(max));
            factor[e] = __fdiv_rn(a.scale, t[e]);
        }
    }
    for (int s = first; s < 4 * GROUPS; s += step) {
        unsigned w[4];
        for (int i = 0; i < 4; i++) { /* query i % 2, half i / 2 of the lane's part */
            if (TYPE == KV_INT8) {
                w[i] = pack_query(row[i % 2], s / 4 * 64 + lane % 4 * 16 + s / 2 % 2 * 8 + i / 2 * 4, a.head_dim, t[i % 2], s % 2);
            } else {
                int d = s / 2 * 32 + lane % 4 * 8 + s % 2 * 4 + i / 2 * 2;
                w[i] = pack_half(d < a.head_dim ? row[i % 2][d] : 0.0f, d + 1 < a.head_dim ? row[i % 2][d + 1] : 0.0f);
            }
        }
        out[s][lane] = make_uint4(w[0], w[1], w[2], w[3]);
    }
}

/* ---- scores */

/* A block of the cache for one KV head. */
struct cache_block {
    const uint8_t *k, *v;
    const float *k_scale, *v_scale;
    int first, row_bytes;
};

template <int TYPE> static __device__ inline struct cache_block block_at(const struct attention_args &a, const struct tile &t, int position)
{
    const int32_t *table = a.tables + (size_t)a.sequences[t.row] * a.max_blocks;
    size_t place = ((size_t)table[position / KV_BLOCK_SIZE] * a.n_kv_heads + blockIdx.y / a.n_chunks) * KV_BLOCK_SIZE;
    int row_bytes = a.head_dim * (TYPE == KV_F16 ? 2 : 1);
    return {a.k + place * row_bytes,
            a.v + place * row_bytes,
            TYPE == KV_INT8 ? a.k_scale + place : NULL,
            TYPE == KV_INT8 ? a.v_scale + place : NULL,
            position,
            row_bytes};
}

template <int GROUPS, bool EXACT>
static __device__ inline void score_f16(const struct attention_args &a, const struct cache_block &b, const uint4 (*queries)[WARP], int lane,
                                        float s[SCORE_TILES][4])
{
#pragma unroll
    for (int i = 0; i < 2 * GROUPS; i++) {
        if (!EXACT && 32 * i >= a.head_dim)
            break;
        unsigned k[SCORE_TILES][4];
#pragma unroll
        for (int j = 0; j < SCORE_TILES; j++)
            load_words<4, EXACT>(b.k + (8 * j + lane / 4) * b.row_bytes, 64 * i + 16 * (lane % 4), b.row_bytes, k[j]);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint4 w = queries[2 * i + half][lane];
            unsigned q[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
            for (int j = 0; j < SCORE_TILES; j++)
                mma_f16(s[j], q, k[j] + 2 * half);
        }
    }
    for (int j = 0; j < SCORE_TILES; j++)
        for (int e = 0; e < 4; e++)
            s[j][e] = __fmul_rn(s[j][e], a.scale);
}

template <int GROUPS, bool EXACT>
static __device__ inline void score_int8(const struct attention_args &a, const struct cache_block &b, const uint4 (*queries)[WARP],
                                         const float factor[2], int lane, float s[SCORE_TILES][4])
{
    int low[SCORE_TILES][4] = {}, high[SCORE_TILES][4] = {};
#pragma unroll
    for (int i = 0; i < GROUPS; i++) {
        if (!EXACT && 64 * i >= a.head_dim)
            break;
        unsigned k[SCORE_TILES][4];
#pragma unroll
        for (int j = 0; j < SCORE_TILES; j++)
            load_words<4, EXACT>(b.k + (8 * j + lane / 4) * b.row_bytes, 64 * i + 16 * (lane % 4), b.row_bytes, k[j]);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint4 w = queries[4 * i + 2 * half][lane], u = queries[4 * i + 2 * half + 1][lane];
            unsigned q_low[4] = {w.x, w.y, w.z, w.w}, q_high[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
            for (int j = 0; j < SCORE_TILES; j++) {
                mma_u8(low[j], q_low, k[j] + 2 * half);
                mma_s8(high[j], q_high, k[j] + 2 * half);
            }
        }
    }
    for (int j = 0; j < SCORE_TILES; j++)
        for (int e = 0; e < 4; e++) {
            float sum = (float)(256 * high[j][e] + low[j][e]);
            s[j][e] = __fmul_rn(__fmul_rn(sum, factor[e / 2]), b.k_scale[8 * j + 2 * (lane % 4) + e % 2]);
        }
}

/* ---- weights of positions */

/* Of a lane's two queries. A block that one does not attend to has max -infinity and sum 0. */
struct weights {
    float max[2], sum[2];
    float back[2];                                      /* int8: a power of two that out is multiplied with */
    unsigned high[VALUE_STEPS][4], low[VALUE_STEPS][4]; /* p, for int8 times the scale of V, in two parts, as fragments */
};

static __device__ inline bool attends(const struct cache_block &b, const struct query q[2], int lane, int j, int e)
{
    return b.first + 8 * j + 2 * (lane % 4) + e % 2 <= q[e / 2].last;
}

/* Multiplies p with V's scales, and then by a power of two. */
static __device__ inline void scale_weights(const struct cache_block &b, const struct query q[2], int lane, float p[SCORE_TILES][4], float back[2])
{
    float max[2] = {0.0f, 0.0f};
    for (int j = 0; j < SCORE_TILES; j++)
        for (int e = 0; e < 4; e++) {
            p[j][e] = attends(b, q, lane, j, e) ? __fmul_rn(p[j][e], b.v_scale[8 * j + 2 * (lane % 4) + e % 2]) : 0.0f;
            max[e / 2] = fmaxf(max[e / 2], p[j][e]);
        }
    float factor[2];
    for (int e = 0; e < 2; e++) {
        struct peak peak = peak_of(max_of_query(max[e]));
        factor[e] = peak.factor;
        back[e] = peak.back;
    }
    for (int j = 0; j < SCORE_TILES; j++)
        for (int e = 0; e < 4; e++)
            p[j][e] = __fmul_rn(p[j][e], factor[e / 2]);
}

template <int TYPE, int GROUPS, bool EXACT>
static __device__ inline struct weights weigh_positions(const struct attention_args &a, const struct cache_block &b, const struct query q[2],
                                                        const uint4 (*queries)[WARP], const float factor[2], int lane)
{
    struct weights w = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}, {1.0f, 1.0f}};
    float p[SCORE_TILES][4] = {};
    if (TYPE == KV_F16)
        score_f16<GROUPS, EXACT>(a, b, queries, lane, p);
    else
        score_int8<GROUPS, EXACT>(a, b, queries, factor, lane, p);
    for (int j = 0; j < SCORE_TILES; j++)
        for (int e = 0; e < 4; e++)
            w.max[e / 2] = attends(b, q, lane, j, e) ? fmaxf(w.max[e / 2], p[j][e]) : w.max[e / 2];
    float from[2];
    for (int e = 0; e < 2; e++) {
        w.max[e] = max_of_query(w.max[e]);
        from[e] = w.max[e] == -INFINITY ? 0.0f : w.max[e];
    }
    for (int j = 0; j < SCORE_TILES; j++)
        for (int e = 0; e < 4; e++) {
            float weight = TYPE == KV_F16 ? expf(p[j][e] - from[e / 2]) * PEAK : expf(p[j][e] - from[e / 2]);
            p[j][e] = attends(b, q, lane, j, e) ? weight : 0.0f;
            w.sum[e / 2] += p[j][e];
        }
    for (int e = 0; e < 2; e++)
        w.sum[e] = sum_of_query(w.sum[e]);
    if (TYPE == KV_INT8)
        scale_weights(b, q, lane, p, w.back);
    for (int s = 0; s < VALUE_STEPS; s++)
        for (int i = 0; i < 4; i++) { /* query i % 2, positions of score tile 2s + i / 2 */
            const float *x = p[2 * s + i / 2] + i % 2 * 2;
            w.high[s][i] = pack_half(x[0], x[1]);
            w.low[s][i] = pack_half(x[0] - round_half(x[0]), x[1] - round_half(x[1]));
        }
    return w;
}

/* ---- their sum over V */

/* A group of V's dimensions: of each step's 16 positions a lane has 2t, 2t + 1, 2t + 8, 2t + 9, 8 dimensions of each. */
template <int TYPE> struct values {
    unsigned words[VALUE_STEPS][4][TYPE == KV_F16 ? 4 : 2];
};

template <int TYPE, bool EXACT>
static __device__ inline void load_values(const struct cache_block &b, int group, int lane, struct values<TYPE> *out)
{
#pragma unroll
    for (int s = 0; s < VALUE_STEPS; s++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint8_t *row = b.v + (16 * s + 2 * (lane % 4) + i % 2 + i / 2 * 8) * b.row_bytes;
            constexpr int n_words = TYPE == KV_F16 ? 4 : 2;
            load_words<n_words, EXACT>(row, 4 * n_words * (8 * group + lane / 4), b.row_bytes, out->words[s][i]);
        }
}

/* Dimension i of the 8 of two positions, as F16. */
template <int TYPE> static __device__ inline unsigned value_pair(const unsigned *x, const unsigned *y, int i)
{
    if (TYPE == KV_F16)
        return __byte_perm(x[i / 2], y[i / 2], i % 2 ? 0x7632 : 0x5410);
    return half_from_bytes(__byte_perm(x[i / 4], y[i / 4], 0x40 + 0x11 * (i % 4)) ^ 0x8080u, false, 128.0f);
}

/* V that is not finite: a query that attends to it gets NaN, and others nothing of it. */
static __device__ inline void set_aside(unsigned v[2], const struct cache_block &b, const struct query q[2], int lane, int step, float out[4])
{
    unsigned bad[2], attended[4];
    for (int i = 0; i < 2; i++) {
        unsigned halves = ((v[i] & 0x7c00u) == 0x7c00u ? 0xffffu : 0) | ((v[i] >> 16 & 0x7c00u) == 0x7c00u ? 0xffff0000u : 0);
        bad[i] = halves & 0x3c003c00u; /* ones */
        v[i] &= ~halves;
    }
    if (!__any_sync(ALL_LANES, (bad[0] | bad[1]) != 0))
        return;
    for (int i = 0; i < 4; i++)
        attended[i] = (attends(b, q, lane, 2 * step + i / 2, i % 2 * 2) ? 0x3c00u : 0) |
                      (attends(b, q, lane, 2 * step + i / 2, i % 2 * 2 + 1) ? 0x3c000000u : 0);
    float count[4] = {};
    mma_f16(count, attended, bad);
    for (int e = 0; e < 4; e++)
        out[e] = count[e] > 0.0f ? NAN : out[e];
}

/* out [8][4]: what the block gives for a group. all_attend: each query to each position. */
template <int TYPE>
static __device__ inline void weigh_values(const struct weights &w, const struct values<TYPE> &v, const struct cache_block &b,
                                           const struct query q[2], bool all_attend, int lane, float out[8][4])
{
#pragma unroll
    for (int i = 0; i < 8; i++) {
#pragma unroll
        for (int e = 0; e < 4; e++)
            out[i][e] = 0.0f;
#pragma unroll
        for (int s = 0; s < VALUE_STEPS; s++) {
            unsigned pairs[2] = {value_pair<TYPE>(v.words[s][0], v.words[s][1], i), value_pair<TYPE>(v.words[s][2], v.words[s][3], i)};
            if (TYPE == KV_F16 && !all_attend)
                set_aside(pairs, b, q, lane, s, out[i]);
            mma_f16(out[i], w.high[s], pairs);
            mma_f16(out[i], w.low[s], pairs);
        }
#pragma unroll
        for (int e = 0; e < 4; e++)
            out[i][e] = TYPE == KV_F16 ? out[i][e] : __fmul_rn(out[i][e], w.back[e / 2]);
    }
}

/* ---- joining parts */

/* What two parts, one before the other, are multiplied with. Of the greater, and of equals, nothing is taken away, infinite or not. */
struct joint {
    float max, first, second;
};

static __device__ inline struct joint joint_of(float first, float second)
{
    float max = fmaxf(first, second);
    return {max, first == max ? 1.0f : expf(first - max), second == max ? 1.0f : expf(second - max)};
}

static __device__ inline float join(float first, float second, const struct joint &j)
{
    return fmaf(second, j.second, __fmul_rn(first, j.first));
}

/* A segment in which every score is -infinity has no weights. */
static __device__ inline float segment_sum(float max, float sum) { return max == -INFINITY ? NAN : sum; }

static __device__ inline float finish(float out, float sum) { return fabsf(out) < INFINITY ? __fdiv_rn(out, sum) : NAN; }

#endif
