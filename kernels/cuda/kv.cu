/* Rope, and the writing of K and V to the paged cache, as F16 or int8: by themselves and in one kernel. */
#include "kernels/cuda/pass.h"

#define HEAD_THREADS (2 * WARP) /* of a block: a warp each for K and V */

struct rope_args {
    const float *table; /* [positions][2][half]: cos, then sin */
    const int32_t *positions;
    int half;
    bool neox;
};

struct write_args {
    const int32_t *places; /* [n] of each row: its block times KV_BLOCK_SIZE, and where in it */
    size_t first_block;    /* of the layer */
    int n_kv_heads, dim;
    const float *from[2];  /* K, V */
    void *to[2];
    float *scales[2];      /* int8 */
};

/* One thread of n a pair. */
static __device__ inline void rotate(const struct rope_args &r, size_t row, float *x, int thread, int n)
{
    const float *cos = r.table + (size_t)r.positions[row] * 2 * r.half, *sin = cos + r.half;
    for (int i = thread; i < r.half; i += n) {
        float *x0 = x + (r.neox ? i : 2 * i), *x1 = x + (r.neox ? i + r.half : 2 * i + 1);
        float a = *x0, b = *x1;
        *x0 = fmaf(a, cos[i], -__fmul_rn(b, sin[i]));
        *x1 = fmaf(a, sin[i], __fmul_rn(b, cos[i]));
    }
}

/* A warp: K or V of a row and KV head. */
template <int TYPE> static __device__ inline void write_head(const struct write_args &a, size_t row, size_t head, int which, int lane)
{
    int place = a.places[row];
    size_t at = ((a.first_block + place / KV_BLOCK_SIZE) * a.n_kv_heads + head) * KV_BLOCK_SIZE + place % KV_BLOCK_SIZE;
    const float *x = a.from[which] + (row * a.n_kv_heads + head) * a.dim;
    if (TYPE == KV_F16) {
        for (int d = lane; d < a.dim; d += WARP)
            ((__half *)a.to[which])[at * a.dim + d] = __float2half_rn(x[d]);
        return;
    }
    float max = ARITH_QUANTIZE_MIN;
    for (int d = lane; d < a.dim; d += WARP)
        max = fmaxf(max, fabsf(finite_or_0(x[d])));
    float s = __fdiv_rn(127.0f, warp_max(max));
    for (int d = lane; d < a.dim; d += WARP)
        ((int8_t *)a.to[which])[at * a.dim + d] = (int8_t)fmaxf(fminf(rintf(__fmul_rn(finite_or_0(x[d]), s)), 127.0f), -128.0f);
    if (lane == 0)
        a.scales[which][at] = __fdiv_rn(1.0f, s);
}

/* Block x: row and head, as they lie. */
static __global__ void rope_kernel(struct rope_args r, float *x, int n_heads, int head_dim)
{
    rotate(r, blockIdx.x / n_heads, x + (size_t)blockIdx.x * head_dim, (int)threadIdx.x, HEAD_THREADS);
}

/* Block x: a row and KV head. */
template <int TYPE> static __global__ void write_kernel(struct write_args a)
{
    write_head<TYPE>(a, blockIdx.x / a.n_kv_heads, blockIdx.x % a.n_kv_heads, (int)threadIdx.x / WARP, (int)threadIdx.x % WARP);
}

/* Block: x = row, y = head, of q, then of K and V. The warp that writes a head of K has rotated it. */
template <int TYPE> static __global__ void rope_write_kernel(struct rope_args r, float *q, int n_heads, float *k, struct write_args a)
{
    size_t row = blockIdx.x, head = blockIdx.y;
    int thread = (int)threadIdx.x;
    if ((int)head < n_heads) {
        rotate(r, row, q + (row * n_heads + head) * a.dim, thread, HEAD_THREADS);
        return; /* the whole block */
    }
    head -= n_heads;
    if (thread < WARP)
        rotate(r, row, k + (row * a.n_kv_heads + head) * a.dim, thread, WARP);
    __syncwarp();
    write_head<TYPE>(a, row, head, thread / WARP, thread % WARP);
}

static struct rope_args rope_args_of(const struct rope *r, const int32_t *positions)
{
    return {r->table, positions, (int)(r->n_dims / 2), r->style == ROPE_NEOX};
}

static struct write_args write_args_of(const struct kv_cache *kv, size_t layer, const struct gpu_batch *b, const float *k, const float *v)
{
    return {b->places, layer * kv->n_blocks, (int)kv->n_kv_heads, (int)kv->head_dim, {k, v}, {kv->k, kv->v}, {kv->k_scale, kv->v_scale}};
}

void gpu_rope(struct backend *be, const struct rope *r, float *x, size_t n, size_t n_heads, size_t head_dim,
              const int32_t *positions)
{
    struct gpu *gpu = gpu_enter(be);
    const int32_t *dev = gpu_ints_of(gpu, positions, n);
    if (dev)
        gpu_launch(gpu, rope_kernel, (unsigned)(n * n_heads), HEAD_THREADS, rope_args_of(r, dev), x, (int)n_heads, (int)head_dim);
}

void gpu_kv_write(struct backend *be, const struct kv_cache *kv, size_t layer, const struct batch_view *batch,
                  const float *k, const float *v)
{
    struct gpu *gpu = gpu_enter(be);
    const struct gpu_batch *b = gpu_batch_of(gpu, batch, 0);
    if (b)
        gpu_launch(gpu, kv->type == KV_F16 ? write_kernel<KV_F16> : write_kernel<KV_INT8>, (unsigned)(batch->n * kv->n_kv_heads), HEAD_THREADS,
                   write_args_of(kv, layer, b, k, v));
}

void gpu_rope_write(struct backend *be, const struct rope *r, float *q, size_t n_heads, float *k, const float *v, const struct kv_cache *kv,
                    size_t layer, const struct batch_view *batch)
{
    struct gpu *gpu = gpu_enter(be);
    const struct gpu_batch *b = gpu_batch_of(gpu, batch, 0);
    if (b)
        gpu_launch(gpu, kv->type == KV_F16 ? rope_write_kernel<KV_F16> : rope_write_kernel<KV_INT8>,
                   dim3((unsigned)batch->n, (unsigned)(n_heads + kv->n_kv_heads)), HEAD_THREADS, rope_args_of(r, b->positions), q, (int)n_heads, k,
                   write_args_of(kv, layer, b, k, v));
}
