/*
 * Causal attention over the paged cache, with tensor cores.
 *
 * A tile is up to 16 queries: rows of one sequence that follow each other, times heads that read the same KV head. A warp takes a tile and a
 * block of the cache, 32 positions: scores, their maximum, p = exp(score - maximum), the sum of p, and the sum of p V. These are joined,
 * block after block, to segments of ARITH_SEGMENT, and segments to the whole. So what a query gets depends on nothing but what it
 * attends to, though there are two ways:
 *
 *   split   a block of threads takes a tile and a segment, each of its warps a block of the cache; merge_kernel joins the segments
 *   whole   a warp takes a tile and walks through all blocks; what the segments before gave is in y
 *
 * Split reads the cache with the whole device at once, for tokens one by one: a byte of K or V serves the 4 or so heads of a group, far less
 * than tensor cores could do with it. Whole leaves nothing in memory between, for prompts: its warps have tiles that follow each other and
 * read the same K and V at about the same time, from the first-level cache; 2,048 tokens of 20 heads of 128 are 32 GFLOP. K and V go from
 * memory to registers: in split no two warps need the same, and the order of dimensions makes loads of 16 bytes parts of fragments.
 *
 * Against the CPU: sums in other orders, another exp, p in 22 bits; so values differ by about 2^-20 of the largest V times (1 + the largest
 * score). Scores over int8 are the CPU's to the bit. A V that is not finite makes NaN of what attends to it, and of nothing else.
 */
#include "kernels/cuda/attention_block.h"

#define BLOCKS (ARITH_SEGMENT / KV_BLOCK_SIZE) /* of a segment: warps of split */
#define SPLIT_THREADS (BLOCKS * WARP)
#define WHOLE_WARPS 4
#define MERGE_THREADS 128
#define PARTIAL_BYTES ((size_t)128 << 20)

static_assert(SPLIT_THREADS == TILE * COLUMNS / 4, "a thread joins four dimensions of a query");

static __device__ inline float *y_of(const struct attention_args &a, const struct query &q)
{
    return a.y + ((size_t)q.row * a.n_heads + q.head) * a.head_dim;
}

static __device__ inline float *partial_of(const struct attention_args &a, const struct query &q, int segment)
{
    return a.partials + (((size_t)(q.row - a.first_row) * a.n_heads + q.head) * a.n_segments + segment) * (a.head_dim + 2);
}

/* ---- split */

struct split_shared {
    float out[BLOCKS][TILE][COLUMNS + 4]; /* of a group */
    float max[BLOCKS][TILE], sum[BLOCKS][TILE];
    struct joint joints[BLOCKS][TILE];    /* of a block with those before it */
    float segment_sum[TILE];
};

/* Blocks of the segment that begins at `first` that a query attends to. */
static __device__ inline int blocks_of(const struct query &q, int first)
{
    return q.last < first ? 0 : min(q.last - first, ARITH_SEGMENT - 1) / KV_BLOCK_SIZE + 1;
}

/* By one thread a query: how its blocks are joined. */
static __device__ inline void plan_joints(const struct attention_args &a, struct split_shared &s, const struct query &q, int i, int first)
{
    float max = s.max[0][i], sum = s.sum[0][i];
    for (int b = 1; b < blocks_of(q, first); b++) {
        struct joint j = joint_of(max, s.max[b][i]);
        sum = join(sum, s.sum[b][i], j);
        max = j.max;
        s.joints[b][i] = j;
    }
    s.segment_sum[i] = segment_sum(max, sum);
    if (q.live && q.last >= ARITH_SEGMENT && q.last >= first) {
        float *partial = partial_of(a, q, first / ARITH_SEGMENT) + a.head_dim;
        partial[0] = max;
        partial[1] = s.segment_sum[i];
    }
}

/* By one thread: dimensions d .. d + 3 of a group for query i. */
static __device__ inline void join_blocks(const struct attention_args &a, const struct split_shared &s, const struct query &q, int i, int first,
                                          int group, int d)
{
    int n = q.live ? blocks_of(q, first) : 0;
    if (n == 0)
        return;
    bool single = q.last < ARITH_SEGMENT;
    float *to = single ? y_of(a, q) : partial_of(a, q, first / ARITH_SEGMENT);
    for (int e = d; e < d + 4 && COLUMNS * group + e < a.head_dim; e++) {
        float out = s.out[0][i][e];
        for (int b = 1; b < n; b++)
            out = join(out, s.out[b][i][e], s.joints[b][i]);
        to[COLUMNS * group + e] = single ? finish(out, s.segment_sum[i]) : out;
    }
}

/* Block: x = tile, y = KV head and chunk of its heads, z = segment. */
template <int TYPE, int GROUPS, bool EXACT>
static __global__ void __launch_bounds__(SPLIT_THREADS) split_kernel(struct attention_args a)
{
    __shared__ uint4 queries[4 * GROUPS][WARP];
    __shared__ struct split_shared s;
    struct tile t = a.tiles[blockIdx.x];
    int first = (int)blockIdx.z * ARITH_SEGMENT, tid = (int)threadIdx.x, warp = tid / WARP, lane = tid % WARP;
    if (t.n_rows == 0 || t.last < first)
        return; /* the whole block */
    struct query q[2] = {query_at(a, t, lane / 4), query_at(a, t, lane / 4 + 8)}, own = query_at(a, t, tid / (COLUMNS / 4));
    float factor[2];
    fill_queries<TYPE, GROUPS>(a, q, lane, warp, BLOCKS, queries, factor);
    __syncthreads();
    int at = first + warp * KV_BLOCK_SIZE;
    bool attended = at <= t.last, all_attend = false;
    struct cache_block b = block_at<TYPE>(a, t, attended ? at : first);
    struct weights w;
    struct values<TYPE> v;
    if (attended) {
        load_values<TYPE, EXACT>(b, 0, lane, &v);
        w = weigh_positions<TYPE, GROUPS, EXACT>(a, b, q, queries, factor, lane);
        all_attend = __all_sync(ALL_LANES, at + KV_BLOCK_SIZE - 1 <= min(q[0].last, q[1].last));
        for (int e = 0; e < 2 && lane % 4 == 0; e++) {
            s.max[warp][lane / 4 + 8 * e] = w.max[e];
            s.sum[warp][lane / 4 + 8 * e] = w.sum[e];
        }
    }
    __syncthreads();
    if (tid < TILE)
        plan_joints(a, s, query_at(a, t, tid), tid, first);
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
        if (!EXACT && COLUMNS * group >= a.head_dim)
            break;
        if (attended) {
            float out[8][4];
            weigh_values<TYPE>(w, v, b, q, all_attend, lane, out);
            for (int e = 0; e < 4; e++)
                for (int i = 0; i < 8; i++)
                    s.out[warp][lane / 4 + e / 2 * 8][lane % 4 * 16 + e % 2 * 8 + i] = out[i][e];
            if (group + 1 < GROUPS)
                load_values<TYPE, EXACT>(b, group + 1, lane, &v);
        }
        __syncthreads();
        join_blocks(a, s, own, tid / (COLUMNS / 4), first, group, tid % (COLUMNS / 4) * 4);
        __syncthreads();
    }
}

/* Block: x = tile, y = head. Rows of one segment are complete. */
static __global__ void merge_kernel(struct attention_args a)
{
    struct tile t = a.tiles[blockIdx.x];
    for (int row = t.row; row < t.row + t.n_rows; row++) {
        struct query q = {row, (int)blockIdx.y, a.positions[row], true};
        int n_segments = q.last / ARITH_SEGMENT + 1;
        for (int d = (int)threadIdx.x; d < a.head_dim && n_segments > 1; d += MERGE_THREADS) {
            const float *partial = partial_of(a, q, 0);
            float out = partial[d], max = partial[a.head_dim], sum = partial[a.head_dim + 1];
            for (int s = 1; s < n_segments; s++) {
                partial = partial_of(a, q, s);
                struct joint j = joint_of(max, partial[a.head_dim]);
                out = join(out, partial[d], j);
                sum = join(sum, partial[a.head_dim + 1], j);
                max = j.max;
            }
            y_of(a, q)[d] = finish(out, sum);
        }
    }
}

/* ---- whole */

/* What a lane knows of its two queries when it has walked through some segments. */
struct walked {
    float max[2], sum[2];
};

template <bool EXACT> static __device__ inline void load_y(const float *y, int d, int head_dim, float out[8])
{
    for (int i = 0; i < 8; i += 4) {
        if (EXACT) {
            float4 v = *(const float4 *)(y + d + i);
            out[i] = v.x, out[i + 1] = v.y, out[i + 2] = v.z, out[i + 3] = v.w;
        } else {
            for (int k = i; k < i + 4; k++)
                out[k] = d + k < head_dim ? y[d + k] : 0.0f;
        }
    }
}

template <bool EXACT> static __device__ inline void store_y(float *y, int d, int head_dim, const float v[8])
{
    for (int i = 0; i < 8; i += 4) {
        if (EXACT)
            *(float4 *)(y + d + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
        else
            for (int k = i; k < i + 4 && d + k < head_dim; k++)
                y[d + k] = v[k];
    }
}

/* Joins the segment that begins at `first` to those before. */
template <int GROUPS, bool EXACT>
static __device__ inline void end_segment(const struct attention_args &a, const struct query q[2], int lane, int first, const struct walked &segment,
                                          const float out[GROUPS][8][4], struct walked *all)
{
#pragma unroll
    for (int e = 0; e < 2; e++) {
        if (!q[e].live || q[e].last < first)
            continue;
        float sum = segment_sum(segment.max[e], segment.sum[e]), values[8];
        struct joint j = joint_of(all->max[e], segment.max[e]);
        bool begins = first == 0, ends = q[e].last < first + ARITH_SEGMENT;
        all->max[e] = begins ? segment.max[e] : j.max;
        all->sum[e] = begins ? sum : join(all->sum[e], sum, j);
        float *y = y_of(a, q[e]);
#pragma unroll
        for (int k = 0; k < 2 * GROUPS; k++) {
            int d = k / 2 * COLUMNS + lane % 4 * 16 + k % 2 * 8;
            if (!begins)
                load_y<EXACT>(y, d, a.head_dim, values);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                float v = out[k / 2][i][2 * e + k % 2];
                v = begins ? v : join(values[i], v, j);
                values[i] = ends ? finish(v, all->sum[e]) : v;
            }
            store_y<EXACT>(y, d, a.head_dim, values);
        }
    }
}

/* Adds the block at position `at` to a segment; `begins` it. */
template <int TYPE, int GROUPS, bool EXACT>
static __device__ inline void walk_block(const struct attention_args &a, const struct tile &t, const struct query q[2], const uint4 (*queries)[WARP],
                                         const float factor[2], int lane, int at, bool begins, struct walked *segment, float out[GROUPS][8][4])
{
    struct cache_block b = block_at<TYPE>(a, t, at);
    struct weights w = weigh_positions<TYPE, GROUPS, EXACT>(a, b, q, queries, factor, lane);
    bool all_attend = __all_sync(ALL_LANES, at + KV_BLOCK_SIZE - 1 <= min(q[0].last, q[1].last));
    struct joint j[2];
    for (int e = 0; e < 2; e++) {
        bool joins = !begins && at <= q[e].last;
        j[e] = joint_of(segment->max[e], w.max[e]);
        segment->max[e] = begins ? w.max[e] : joins ? j[e].max : segment->max[e];
        segment->sum[e] = begins ? w.sum[e] : joins ? join(segment->sum[e], w.sum[e], j[e]) : segment->sum[e];
    }
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
        if (!EXACT && COLUMNS * group >= a.head_dim)
            break;
        struct values<TYPE> v;
        float part[8][4];
        load_values<TYPE, EXACT>(b, group, lane, &v);
        weigh_values<TYPE>(w, v, b, q, all_attend, lane, part);
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float joined = join(out[group][i][e], part[i][e], j[e / 2]);
                out[group][i][e] = begins ? part[i][e] : at <= q[e / 2].last ? joined : out[group][i][e];
            }
    }
}

/* Block: x = WHOLE_WARPS tiles, y = KV head and chunk of its heads. */
template <int TYPE, int GROUPS, bool EXACT>
static __global__ void __launch_bounds__(WHOLE_WARPS * WARP) whole_kernel(struct attention_args a)
{
    __shared__ uint4 queries[WHOLE_WARPS][4 * GROUPS][WARP];
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, index = (int)blockIdx.x * WHOLE_WARPS + warp;
    if (index >= a.n_tiles)
        return; /* the whole warp: from here on warps are by themselves */
    struct tile t = a.tiles[index];
    struct query q[2] = {query_at(a, t, lane / 4), query_at(a, t, lane / 4 + 8)};
    struct walked segment = {}, all = {};
    float factor[2], out[GROUPS][8][4] = {};
    fill_queries<TYPE, GROUPS>(a, q, lane, 0, 1, queries[warp], factor); /* a lane reads what it wrote */
    for (int first = 0; first <= t.last; first += ARITH_SEGMENT) {
        int end = min(first + ARITH_SEGMENT, t.last + 1);
        for (int at = first; at < end; at += KV_BLOCK_SIZE)
            walk_block<TYPE, GROUPS, EXACT>(a, t, q, queries[warp], factor, lane, at, at == first, &segment, out);
        end_segment<GROUPS, EXACT>(a, q, lane, first, segment, out, &all);
    }
}

/* ---- the operation */

typedef void attention_kernel(struct attention_args a);

/* EXACT: rows of K and V are whole groups, and y can be stored four at a time. */
static attention_kernel *choose(enum kv_type type, bool whole, const struct attention_args *a)
{
#define KERNELS(name, groups, exact)                                                                                   \
    {                                                                                                                  \
        name##_kernel<KV_F16, groups, exact>, name##_kernel<KV_INT8, groups, exact>                                    \
    }
    static attention_kernel *const kernels[3][2][2] = {{KERNELS(split, 1, true), KERNELS(whole, 1, true)},
                                                       {KERNELS(split, 2, true), KERNELS(whole, 2, true)},
                                                       {KERNELS(split, 4, false), KERNELS(whole, 4, false)}};
#undef KERNELS
    bool aligned = (uintptr_t)a->y % sizeof(float4) == 0;
    return kernels[aligned && a->head_dim == COLUMNS ? 0 : aligned && a->head_dim == 2 * COLUMNS ? 1 : 2][whole][type];
}

/* In parts, so that the partial results stay within PARTIAL_BYTES. */
static void run_split(struct gpu *gpu, enum kv_type type, const struct gpu_batch *b, struct attention_args a, unsigned n_units)
{
    const struct tile *tiles = b->host_split;
    a.n_segments = b->n_segments;
    size_t row_bytes = (size_t)a.n_heads * (size_t)a.n_segments * (size_t)(a.head_dim + 2) * sizeof(float), n_rows = 1;
    size_t most = PARTIAL_BYTES / row_bytes > TILE ? PARTIAL_BYTES / row_bytes : TILE;
    for (size_t i = 0; i < b->n_split; i++)
        n_rows = tiles[i].n_rows ? (size_t)(tiles[i].row + tiles[i].n_rows - tiles[0].row) : n_rows;
    n_rows = n_rows < most ? n_rows : most;
    a.partials = a.n_segments > 1 ? (float *)gpu_scratch(gpu, &gpu->floats, n_rows * row_bytes) : NULL;
    if (a.n_segments > 1 && !a.partials)
        return;
    for (size_t i = 0, n; i < b->n_split; i += n) {
        a.first_row = tiles[i].row;
        a.tiles = b->split + i;
        for (n = 1; i + n < b->n_split && tiles[i + n].row + tiles[i + n].n_rows - a.first_row <= (int32_t)n_rows;)
            n++;
        gpu_launch(gpu, choose(type, false, &a), dim3((unsigned)n, n_units, (unsigned)a.n_segments), SPLIT_THREADS, a);
        if (a.n_segments > 1)
            gpu_launch(gpu, merge_kernel, dim3((unsigned)n, (unsigned)a.n_heads), MERGE_THREADS, a);
    }
}

void gpu_attention(struct backend *be, const struct kv_cache *kv, size_t layer, const struct batch_view *batch,
                   const float *q, size_t n_heads, float *y)
{
    struct gpu *gpu = gpu_enter(be);
    size_t first_place = layer * kv->n_blocks * kv->n_kv_heads * KV_BLOCK_SIZE;
    size_t row_bytes = kv->head_dim * (kv->type == KV_F16 ? sizeof(uint16_t) : sizeof(int8_t));
    struct attention_args a = {};
    a.k = (const uint8_t *)kv->k + first_place * row_bytes;
    a.v = (const uint8_t *)kv->v + first_place * row_bytes;
    a.k_scale = kv->type == KV_INT8 ? kv->k_scale + first_place : NULL;
    a.v_scale = kv->type == KV_INT8 ? kv->v_scale + first_place : NULL;
    a.n_heads = (int)n_heads;
    a.n_kv_heads = (int)kv->n_kv_heads;
    int group = a.n_heads / a.n_kv_heads;
    a.n_chunks = (group + TILE - 1) / TILE;
    a.chunk = (group + a.n_chunks - 1) / a.n_chunks;
    a.head_dim = (int)kv->head_dim;
    a.scale = 1.0f / sqrtf((float)kv->head_dim);
    a.q = q;
    a.y = y;
    const struct gpu_batch *b = gpu_batch_of(gpu, batch, (size_t)(TILE / a.chunk));
    if (!b)
        return;
    a.positions = b->positions;
    a.sequences = b->sequences;
    a.tables = b->tables;
    a.max_blocks = (int)b->stride;
    unsigned n_units = (unsigned)(a.n_kv_heads * a.n_chunks);
    if (b->n_split)
        run_split(gpu, kv->type, b, a, n_units);
    a.tiles = b->whole;
    a.n_tiles = (int)b->n_whole;
    if (b->n_whole)
        gpu_launch(gpu, choose(kv->type, true, &a), dim3(gpu_blocks(b->n_whole, WHOLE_WARPS), n_units), WHOLE_WARPS * WARP, a);
}
