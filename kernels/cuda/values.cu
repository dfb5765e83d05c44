/* Operations on values one by one: addition, FFN activations, rope, and the writing of K and V. */
#include "kernels/cuda/device.h"

#define THREADS 256

static __global__ void add_kernel(float *x, const float *y, size_t n)
{
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n)
        x[i] += y[i];
}

void gpu_add(struct backend *be, float *x, const float *y, size_t n_values)
{
    struct gpu *gpu = gpu_enter(be);
    add_kernel<<<gpu_blocks(n_values, THREADS), THREADS, 0, gpu->stream>>>(x, y, n_values);
    gpu_launched(gpu);
}

static __global__ void act_kernel(bool silu, const float *gate, const float *up, size_t n, float *y)
{
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n)
        return;
    float g = gate[i], r = fmaxf(g, 0.0f);
    float a = silu ? __fdiv_rn(g, 1.0f + expf(-g)) : __fmul_rn(r, r);
    y[i] = __fmul_rn(a, up[i]);
}

void gpu_ffn_act(struct backend *be, enum ffn_act act, const float *gate, const float *up, size_t n_values, float *y)
{
    struct gpu *gpu = gpu_enter(be);
    act_kernel<<<gpu_blocks(n_values, THREADS), THREADS, 0, gpu->stream>>>(act == FFN_SILU, gate, up, n_values, y);
    gpu_launched(gpu);
}

/* One thread a pair. Block x: row and head, as they lie. */
static __global__ void rope_kernel(bool neox, const float *table, int half, float *x, int n_heads, int head_dim,
                                   const int32_t *positions)
{
    size_t head = blockIdx.x, row = head / n_heads;
    const float *cos = table + (size_t)positions[row] * 2 * half, *sin = cos + half;
    x += head * head_dim;
    for (int i = (int)threadIdx.x; i < half; i += (int)blockDim.x) {
        float *x0 = x + (neox ? i : 2 * i), *x1 = x + (neox ? i + half : 2 * i + 1);
        float a = *x0, b = *x1;
        *x0 = fmaf(a, cos[i], -__fmul_rn(b, sin[i]));
        *x1 = fmaf(a, sin[i], __fmul_rn(b, cos[i]));
    }
}

void gpu_rope(struct backend *be, const struct rope *r, float *x, size_t n, size_t n_heads, size_t head_dim,
              const int32_t *positions)
{
    struct gpu *gpu = gpu_enter(be);
    size_t used = 0;
    if (!gpu_scratch(gpu, &gpu->ints, n * sizeof *positions))
        return;
    const int32_t *dev = gpu_push_ints(gpu, positions, n, &used);
    rope_kernel<<<(unsigned)(n * n_heads), 64, 0, gpu->stream>>>(r->style == ROPE_NEOX, r->table, (int)(r->n_dims / 2), x,
                                                                (int)n_heads, (int)head_dim, dev);
    gpu_launched(gpu);
}

/* Block x: a row and KV head. to: dev [n], where position and block of each row begin, in positions of KV head 0. */
static __global__ void kv_write_kernel(const int32_t *blocks, const int32_t *places, size_t layer_start, int n_kv_heads,
                                       int dim, const float *k, const float *v, __half *k_to, __half *v_to)
{
    size_t row = blockIdx.x / n_kv_heads, head = blockIdx.x % n_kv_heads;
    size_t to = layer_start + (((size_t)blocks[row] * n_kv_heads + head) * KV_BLOCK_SIZE + places[row]) * dim;
    size_t from = (size_t)blockIdx.x * dim;
    for (int d = (int)threadIdx.x; d < dim; d += (int)blockDim.x) {
        k_to[to + d] = __float2half_rn(k[from + d]);
        v_to[to + d] = __float2half_rn(v[from + d]);
    }
}

void gpu_kv_write(struct backend *be, const struct kv_cache *kv, size_t layer, const struct batch_view *batch,
                  const float *k, const float *v)
{
    struct gpu *gpu = gpu_enter(be);
    size_t used = 0, layer_start = layer * kv->n_blocks * kv->n_kv_heads * KV_BLOCK_SIZE * kv->head_dim;
    int32_t part[256];
    if (!gpu_scratch(gpu, &gpu->ints, 2 * batch->n * sizeof *part))
        return;
    const int32_t *blocks = (const int32_t *)gpu->ints.dev, *places = blocks + batch->n;
    for (int what = 0; what < 2; what++) /* the block of each row, then its place in the block */
        for (size_t i = 0; i < batch->n;) {
            size_t n = 0;
            for (; n < 256 && i < batch->n; n++, i++) {
                int32_t p = batch->positions[i];
                const int32_t *table = batch->block_tables + (size_t)batch->sequences[i] * batch->max_blocks;
                part[n] = what ? p % KV_BLOCK_SIZE : table[p / KV_BLOCK_SIZE];
            }
            gpu_push_ints(gpu, part, n, &used);
        }
    kv_write_kernel<<<(unsigned)(batch->n * kv->n_kv_heads), 128, 0, gpu->stream>>>(
        blocks, places, layer_start, (int)kv->n_kv_heads, (int)kv->head_dim, k, v, (__half *)kv->k, (__half *)kv->v);
    gpu_launched(gpu);
}
