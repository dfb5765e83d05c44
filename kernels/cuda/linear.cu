/*
 * RMSNorm, quantisation and the ternary matrix product.
 *
 * A warp multiplies one row of weights with up to TOKENS rows of activations. A lane takes a word of 4 bytes, 16 weights: word w of
 * block b holds, in part p, the codes of columns 128 b + 32 p + 4 w .. + 3, which meet one word of activations in a dp4a.
 */
#include "kernels/cuda/device.h"

#include <stdlib.h>

#define ROW_THREADS 256 /* of a block that works on one row */
#define WARPS 8         /* rows of weights of a block */
#define TOKENS 8

static __global__ void rmsnorm_kernel(const float *x, const float *weight, float eps, int dim, float *y)
{
    __shared__ float shared[ROW_THREADS / WARP];
    x += (size_t)blockIdx.x * dim;
    y += (size_t)blockIdx.x * dim;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < dim; i += blockDim.x)
        sum = fmaf(x[i], x[i], sum);
    sum = block_sum(sum, shared);
    float r = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(__fdiv_rn(sum, (float)dim), eps)));
    for (int i = threadIdx.x; i < dim; i += blockDim.x)
        y[i] = __fmul_rn(__fmul_rn(x[i], r), weight[i]);
}

void gpu_rmsnorm(struct backend *be, const float *x, const float *weight, float eps, size_t n, size_t dim, float *y)
{
    struct gpu *gpu = gpu_enter(be);
    rmsnorm_kernel<<<(unsigned)n, ROW_THREADS, 0, gpu->stream>>>(x, weight, eps, (int)dim, y);
    gpu_launched(gpu);
}

static __device__ inline float finite_or_0(float x) { return fabsf(x) < INFINITY ? x : 0.0f; }

static __global__ void quantize_kernel(const float *x, int dim, int stride, int8_t *q, float *scale, int32_t *sum)
{
    __shared__ float max_of_warp[ROW_THREADS / WARP];
    __shared__ int sum_of_warp[ROW_THREADS / WARP];
    x += (size_t)blockIdx.x * dim;
    q += (size_t)blockIdx.x * stride;
    float max = 1e-5f;
    for (int i = threadIdx.x; i < dim; i += blockDim.x)
        max = fmaxf(max, fabsf(finite_or_0(x[i])));
    float s = __fdiv_rn(127.0f, block_max(max, max_of_warp));
    int total = 0;
    for (int i = threadIdx.x; i < stride; i += blockDim.x) {
        float v = i < dim ? rintf(__fmul_rn(finite_or_0(x[i]), s)) : 0.0f;
        int rounded = (int)fmaxf(fminf(v, 127.0f), -128.0f);
        q[i] = (int8_t)rounded;
        total += rounded;
    }
    total = block_sum(total, sum_of_warp);
    if (threadIdx.x == 0) {
        scale[blockIdx.x] = s;
        sum[blockIdx.x] = total;
    }
}

void gpu_quantize(struct backend *be, const float *x, size_t n, size_t dim, struct activations *a)
{
    struct gpu *gpu = gpu_enter(be);
    quantize_kernel<<<(unsigned)n, ROW_THREADS, 0, gpu->stream>>>(x, (int)dim, (int)a->stride, a->q, a->scale, a->sum);
    gpu_launched(gpu);
}

enum error_code gpu_ternary_open(struct backend *be, const struct ternary_packed *packed, enum ternary_format format,
                                 struct ternary **out, struct error *err)
{
    (void)format; /* one layout serves all requests */
    size_t n_bytes = packed->row_bytes * packed->n_rows;
    struct gpu_ternary *w = (struct gpu_ternary *)calloc(1, sizeof *w);
    uint8_t *rows = w ? (uint8_t *)be->ops->alloc(be, n_bytes) : NULL;
    if (!rows) {
        free(w);
        return gpu_error(err, ERROR_MEMORY_EXHAUSTED, "no memory on %s for %zu bytes of weights", be->info.device, n_bytes);
    }
    be->ops->upload(be, rows, packed->rows, n_bytes);
    enum error_code code = be->ops->sync(be, err);
    if (code) {
        be->ops->free(be, rows);
        free(w);
        return code;
    }
    free(packed->owned);
    w->base.format = TERNARY_I2S;
    w->base.n_rows = packed->n_rows;
    w->base.n_cols = packed->row_bytes * 4;
    w->base.scale = packed->scale;
    w->base.memory_bytes = n_bytes;
    w->rows = rows;
    *out = &w->base;
    return ERROR_NONE;
}

void gpu_ternary_close(struct backend *be, struct ternary *w)
{
    be->ops->free(be, ((struct gpu_ternary *)w)->rows);
    free(w);
}

static __global__ void matmul_kernel(const uint32_t *rows, int n_rows, int words, float weight_scale, const int8_t *q,
                                     int stride, const float *scale, const int32_t *sum, int n, float *y)
{
    int row = (int)(blockIdx.x * WARPS + threadIdx.x / WARP), lane = (int)threadIdx.x % WARP;
    int first = (int)blockIdx.y * TOKENS, n_tokens = min(TOKENS, n - first);
    if (row >= n_rows)
        return; /* a whole warp */
    rows += (size_t)row * words;
    q += (size_t)first * stride;
    int acc[TOKENS] = {0};
    for (int i = lane; i < words; i += WARP) {
        uint32_t word = rows[i];
        int column = i / 8 * 128 + i % 8 * 4;
#pragma unroll
        for (int part = 0; part < 4; part++) {
            int codes = (int)(word >> (6 - 2 * part) & 0x03030303u);
#pragma unroll
            for (int t = 0; t < TOKENS; t++)
                if (t < n_tokens)
                    acc[t] = __dp4a(codes, *(const int *)(q + (size_t)t * stride + column + 32 * part), acc[t]);
        }
    }
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        if (t >= n_tokens)
            break;
        int total = warp_sum(acc[t]);
        if (lane == 0) {
            size_t token = (size_t)(first + t);
            y[token * n_rows + row] = __fmul_rn(__fdiv_rn((float)(total - sum[token]), scale[token]), weight_scale);
        }
    }
}

void gpu_matmul(struct backend *be, const struct ternary *const *w, float *const *y, size_t n_mats,
                const struct activations *a, size_t n)
{
    struct gpu *gpu = gpu_enter(be);
    for (size_t m = 0; m < n_mats; m++) {
        const struct gpu_ternary *g = (const struct gpu_ternary *)w[m];
        dim3 grid(gpu_blocks(g->base.n_rows, WARPS), gpu_blocks(n, TOKENS));
        matmul_kernel<<<grid, WARPS * WARP, 0, gpu->stream>>>((const uint32_t *)g->rows, (int)g->base.n_rows,
                                                              (int)(g->base.n_cols / 16), g->base.scale, a->q,
                                                              (int)a->stride, a->scale, a->sum, (int)n, y[m]);
        gpu_launched(gpu);
    }
}
