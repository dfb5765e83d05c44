/*
 * Causal attention over the paged cache, in segments of ARITH_SEGMENT positions whatever the batch: a block of threads takes one
 * (row, head, segment) and leaves max, sum and weighted sum of V; a second kernel joins the segments of a row and head in order.
 * Rows go in groups, so that the partial results stay within PARTIAL_BYTES.
 */
#include "kernels/cuda/device.h"

#define THREADS 256
#define PARTIAL_BYTES ((size_t)128 << 20)

struct attention_args {
    const __half *k, *v;        /* of the layer */
    const int32_t *positions, *sequences, *tables;
    int first_row, n_heads, n_kv_heads, head_dim, max_blocks, n_segments;
    const float *q;
    float *partials;            /* [rows of the group][n_heads][n_segments][head_dim + 2]: out, max, sum */
    float *y;
};

/* Where `position` of a row's sequence lies for a KV head. */
static __device__ inline size_t offset_of(const struct attention_args &a, const int32_t *table, int kv_head, int position)
{
    size_t block = (size_t)table[position / KV_BLOCK_SIZE];
    return ((block * a.n_kv_heads + kv_head) * KV_BLOCK_SIZE + position % KV_BLOCK_SIZE) * a.head_dim;
}

/* Block: x = head, y = row of the group, z = segment. Each warp scores every eighth position. */
static __global__ void segment_kernel(struct attention_args a)
{
    __shared__ float q[KERNELS_MAX_HEAD_DIM], p[ARITH_SEGMENT], shared[THREADS / WARP];
    int head = (int)blockIdx.x, row = a.first_row + (int)blockIdx.y, first = (int)blockIdx.z * ARITH_SEGMENT;
    int n = min(a.positions[row] + 1 - first, ARITH_SEGMENT), kv_head = head / (a.n_heads / a.n_kv_heads);
    if (n <= 0)
        return; /* the whole block */
    const int32_t *table = a.tables + (size_t)a.sequences[row] * a.max_blocks;
    int tid = (int)threadIdx.x, warp = tid / WARP, lane = tid % WARP;
    for (int d = tid; d < a.head_dim; d += THREADS)
        q[d] = __half2float(__float2half_rn(a.q[((size_t)row * a.n_heads + head) * a.head_dim + d]));
    __syncthreads();
    float scale = __fdiv_rn(1.0f, __fsqrt_rn((float)a.head_dim));
    for (int j = warp; j < n; j += THREADS / WARP) {
        const __half *k = a.k + offset_of(a, table, kv_head, first + j);
        float sum = 0.0f;
        for (int d = lane; d < a.head_dim; d += WARP)
            sum = fmaf(q[d], __half2float(k[d]), sum);
        sum = warp_sum(sum);
        if (lane == 0)
            p[j] = sum * scale;
    }
    __syncthreads();
    float score = tid < n ? p[tid] : -INFINITY;
    float max = block_max(score, shared);
    float weight = tid < n ? expf(score - max) : 0.0f;
    p[tid] = weight;
    float sum = block_sum(weight, shared); /* its barriers also publish p */
    float *out = a.partials + (((size_t)blockIdx.y * a.n_heads + head) * a.n_segments + blockIdx.z) * (a.head_dim + 2);
    for (int d = tid; d < a.head_dim; d += THREADS) {
        float o = 0.0f;
        for (int j = 0; j < n; j++)
            o = fmaf(p[j], __half2float(a.v[offset_of(a, table, kv_head, first + j) + d]), o);
        out[d] = o;
    }
    if (tid == 0) {
        out[a.head_dim] = max;
        out[a.head_dim + 1] = sum;
    }
}

/* Block: x = head, y = row of the group. */
static __global__ void merge_kernel(struct attention_args a)
{
    int head = (int)blockIdx.x, row = a.first_row + (int)blockIdx.y;
    int n_segments = a.positions[row] / ARITH_SEGMENT + 1, stride = a.head_dim + 2;
    const float *partial = a.partials + ((size_t)blockIdx.y * a.n_heads + head) * a.n_segments * stride;
    for (int d = (int)threadIdx.x; d < a.head_dim; d += (int)blockDim.x) {
        float out = partial[d], max = partial[a.head_dim], sum = partial[a.head_dim + 1];
        for (int s = 1; s < n_segments; s++) {
            const float *next = partial + (size_t)s * stride;
            float joint = fmaxf(max, next[a.head_dim]), wa = expf(max - joint), wb = expf(next[a.head_dim] - joint);
            out = __fadd_rn(__fmul_rn(out, wa), __fmul_rn(next[d], wb));
            sum = __fadd_rn(__fmul_rn(sum, wa), __fmul_rn(next[a.head_dim + 1], wb));
            max = joint;
        }
        a.y[((size_t)row * a.n_heads + head) * a.head_dim + d] = __fdiv_rn(out, sum);
    }
}

/* Copies positions, sequences and tables; false when there is no memory. */
static bool push_batch(struct gpu *gpu, const struct batch_view *b, struct attention_args *a)
{
    size_t n_table = b->n_sequences * b->max_blocks, used = 0;
    if (!gpu_scratch(gpu, &gpu->ints, (2 * b->n + n_table) * sizeof(int32_t)))
        return false;
    a->positions = gpu_push_ints(gpu, b->positions, b->n, &used);
    a->sequences = gpu_push_ints(gpu, b->sequences, b->n, &used);
    a->tables = gpu_push_ints(gpu, b->block_tables, n_table, &used);
    return true;
}

void gpu_attention(struct backend *be, const struct kv_cache *kv, size_t layer, const struct batch_view *batch,
                   const float *q, size_t n_heads, float *y)
{
    struct gpu *gpu = gpu_enter(be);
    size_t layer_start = layer * kv->n_blocks * kv->n_kv_heads * KV_BLOCK_SIZE * kv->head_dim, last = 0;
    struct attention_args a = {};
    for (size_t i = 0; i < batch->n; i++)
        last = (size_t)batch->positions[i] > last ? (size_t)batch->positions[i] : last;
    a.k = (const __half *)kv->k + layer_start;
    a.v = (const __half *)kv->v + layer_start;
    a.n_heads = (int)n_heads;
    a.n_kv_heads = (int)kv->n_kv_heads;
    a.head_dim = (int)kv->head_dim;
    a.max_blocks = (int)batch->max_blocks;
    a.n_segments = (int)(last / ARITH_SEGMENT) + 1;
    a.q = q;
    a.y = y;
    size_t row_bytes = n_heads * (size_t)a.n_segments * (kv->head_dim + 2) * sizeof(float);
    size_t group = row_bytes < PARTIAL_BYTES ? PARTIAL_BYTES / row_bytes : 1;
    group = group < batch->n ? group : batch->n;
    group = group < 65535 ? group : 65535; /* of a grid's y */
    a.partials = (float *)gpu_scratch(gpu, &gpu->floats, group * row_bytes);
    if (!a.partials || !push_batch(gpu, batch, &a))
        return;
    for (size_t row = 0; row < batch->n; row += group) {
        unsigned rows = (unsigned)(batch->n - row < group ? batch->n - row : group);
        a.first_row = (int)row;
        segment_kernel<<<dim3((unsigned)n_heads, rows, (unsigned)a.n_segments), THREADS, 0, gpu->stream>>>(a);
        gpu_launched(gpu);
        merge_kernel<<<dim3((unsigned)n_heads, rows), 128, 0, gpu->stream>>>(a);
        gpu_launched(gpu);
    }
}
