/*
 * Operations on rows: addition, RMSNorm, the FFN's activation and quantisation, which mostly follow one another, in one kernel that does those that are
 * asked for; and the keeping of rows.
 *
 * A block has a row, a thread its units of 4 values in steps of the block's size. Loads come first, the norm's weights with them, and what was
 * loaded is held in registers up to HELD_UNITS units a thread; a longer row is read again in each pass. All is a function of the
 * row's width alone.
 */
#include "kernels/cuda/device.h"

#define ROW_THREADS 512 /* at most */
#define HELD_UNITS 4
#define KEPT 8          /* rows that are read before the first of them is written */

struct row_args {
    const float *x, *up;  /* [n][dim]; up: x is a gate; or NULL */
    const float *add;     /* [n][dim]: x is x + add from now on; or NULL */
    float *sum_to;        /* x, where there is something to add */
    const float *weight;  /* of the norm, or NULL */
    float *y;             /* [n][dim], or NULL; may be x */
    int8_t *q;            /* [n][stride], or NULL */
    float *scale;
    int32_t *sum;
    float eps;
    int dim, stride;
    bool silu, aligned;   /* aligned: all rows of floats begin at 16 bytes */
};

static __device__ inline float activated(bool silu, float gate, float up)
{
    float r = fmaxf(gate, 0.0f);
    return __fmul_rn(silu ? __fdiv_rn(gate, 1.0f + expf(-gate)) : __fmul_rn(r, r), up);
}

/* Values i .. i + 3 of a row, zeros beyond its end. */
static __device__ inline void load_unit(const struct row_args &a, const float *row, int i, float v[4])
{
    if (a.aligned && i < a.dim) {
        float4 all = *(const float4 *)(row + i);
        v[0] = all.x, v[1] = all.y, v[2] = all.z, v[3] = all.w;
        return;
    }
    for (int c = 0; c < 4; c++)
        v[c] = i + c < a.dim ? row[i + c] : 0.0f;
}

static __device__ inline void store_unit(const struct row_args &a, float *row, int i, const float v[4])
{
    if (a.aligned && i < a.dim) {
        *(float4 *)(row + i) = make_float4(v[0], v[1], v[2], v[3]);
        return;
    }
    for (int c = 0; c < 4; c++)
        if (i + c < a.dim)
            row[i + c] = v[c];
}

/* The values before the norm. */
static __device__ inline void load_values(const struct row_args &a, size_t row, int i, bool adds, float v[4])
{
    load_unit(a, a.x + row, i, v);
    if (adds) {
        float more[4];
        load_unit(a, a.add + row, i, more);
        for (int c = 0; c < 4; c++)
            v[c] += more[c];
        store_unit(a, a.sum_to + row, i, v);
    }
    if (a.up) {
        float up[4];
        load_unit(a, a.up + row, i, up);
        for (int c = 0; c < 4; c++)
            v[c] = activated(a.silu, v[c], up[c]);
    }
}

/* Block: a row. HELD: units that a thread holds; 0: as many as there are, not held. */
template <int HELD> static __global__ void __launch_bounds__(ROW_THREADS) row_kernel(struct row_args a)
{
    __shared__ float shared[ROW_THREADS / WARP];
    __shared__ int shared_total[ROW_THREADS / WARP];
    const size_t row = (size_t)blockIdx.x * a.dim;
    const int first = 4 * (int)threadIdx.x, step = 4 * (int)blockDim.x, n_units = HELD ? HELD : (a.dim + step - 1) / step;
    float held[HELD ? HELD : 1][4], weights[HELD ? HELD : 1][4], squares = 0.0f, r = 1.0f, max = ARITH_QUANTIZE_MIN;
#pragma unroll
    for (int k = 0; k < n_units; k++) {
        float(&v)[4] = held[HELD ? k : 0];
        load_values(a, row, first + k * step, a.add != NULL, v);
        if (HELD && a.weight)
            load_unit(a, a.weight, first + k * step, weights[k]);
        for (int c = 0; c < 4; c++)
            squares = fmaf(v[c], v[c], squares);
    }
    if (a.weight)
        r = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(__fdiv_rn(block_sum(squares, shared), (float)a.dim), a.eps)));
#pragma unroll
    for (int k = 0; k < n_units; k++) {
        float(&v)[4] = held[HELD ? k : 0], (&weight)[4] = weights[HELD ? k : 0];
        if (!HELD)
            load_values(a, row, first + k * step, false, v);
        if (!HELD && a.weight)
            load_unit(a, a.weight, first + k * step, weight);
        for (int c = 0; c < 4; c++) {
            v[c] = a.weight ? __fmul_rn(__fmul_rn(v[c], r), weight[c]) : v[c];
            max = fmaxf(max, fabsf(finite_or_0(v[c])));
        }
        if (a.y)
            store_unit(a, a.y + row, first + k * step, v);
    }
    if (!a.q)
        return; /* the whole block */
    const float s = __fdiv_rn(127.0f, block_max(max, shared));
    int8_t *q = a.q + (size_t)blockIdx.x * a.stride;
    int total = 0;
#pragma unroll
    for (int k = 0; k < n_units; k++) {
        float(&v)[4] = held[HELD ? k : 0];
        unsigned word = 0;
        if (!HELD)
            load_unit(a, (a.y ? a.y : a.x) + row, first + k * step, v);
        for (int c = 0; c < 4; c++) {
            int value = (int)fmaxf(fminf(rintf(__fmul_rn(finite_or_0(v[c]), s)), 127.0f), -128.0f);
            total += value;
            word |= (unsigned)(value & 255) << 8 * c;
        }
        if (first + k * step < a.stride)
            *(unsigned *)(q + first + k * step) = word;
    }
    for (int i = first + n_units * step; i < a.stride; i += step)
        *(unsigned *)(q + i) = 0;
    total = block_sum(total, shared_total);
    if (threadIdx.x == 0) {
        a.scale[blockIdx.x] = s;
        a.sum[blockIdx.x] = total;
    }
}

static bool is_aligned(const float *p) { return (uintptr_t)p % sizeof(float4) == 0; }

static void launch(struct gpu *gpu, struct row_args *a, size_t n, size_t dim, const struct activations *act)
{
    a->dim = (int)dim;
    a->aligned = dim % 4 == 0 && is_aligned(a->x) && is_aligned(a->up) && is_aligned(a->add) && is_aligned(a->weight) && is_aligned(a->y);
    if (act) {
        a->q = act->q;
        a->scale = act->scale;
        a->sum = act->sum;
        a->stride = (int)act->stride;
    }
    size_t n_units = (dim + 3) / 4, held = n_units <= ROW_THREADS ? 1 : HELD_UNITS;
    size_t n_threads = gpu_blocks(n_units, held * WARP) * (size_t)WARP;
    if (n_threads > ROW_THREADS)
        gpu_launch(gpu, row_kernel<0>, (unsigned)n, ROW_THREADS, *a);
    else
        gpu_launch(gpu, held == 1 ? row_kernel<1> : row_kernel<HELD_UNITS>, (unsigned)n, (unsigned)n_threads, *a);
}

void gpu_rmsnorm(struct backend *be, const float *x, const float *weight, float eps, size_t n, size_t dim, float *y)
{
    struct row_args a = {};
    a.x = x;
    a.weight = weight;
    a.eps = eps;
    a.y = y;
    launch(gpu_enter(be), &a, n, dim, NULL);
}

void gpu_quantize(struct backend *be, const float *x, size_t n, size_t dim, struct activations *act)
{
    struct row_args a = {};
    a.x = x;
    launch(gpu_enter(be), &a, n, dim, act);
}

void gpu_norm_quantize(struct backend *be, const float *x, const float *weight, float eps, size_t n, size_t dim, float *y,
                       struct activations *act)
{
    struct row_args a = {};
    a.x = x;
    a.weight = weight;
    a.eps = eps;
    a.y = weight ? y : NULL;
    launch(gpu_enter(be), &a, n, dim, act);
}

void gpu_add_norm_quantize(struct backend *be, float *x, const float *add, const float *weight, float eps, size_t n, size_t dim, float *y,
                           struct activations *act)
{
    struct row_args a = {};
    a.x = a.sum_to = x;
    a.add = add;
    a.weight = weight;
    a.eps = eps;
    a.y = weight ? y : NULL;
    launch(gpu_enter(be), &a, n, dim, act);
}

void gpu_ffn_quantize(struct backend *be, enum ffn_act act, const float *gate, const float *up, const float *weight, float eps,
                      size_t n, size_t dim, float *y, struct activations *out)
{
    struct row_args a = {};
    a.x = gate;
    a.up = up;
    a.silu = act == FFN_SILU;
    a.weight = weight;
    a.eps = eps;
    a.y = y;
    launch(gpu_enter(be), &a, n, dim, out);
}

static __global__ void add_kernel(float *x, const float *y, size_t n)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        x[i] += y[i];
}

void gpu_add(struct backend *be, float *x, const float *y, size_t n_values)
{
    gpu_launch(gpu_enter(be), add_kernel, gpu_blocks(n_values, 256), 256, x, y, n_values);
}

static __global__ void act_kernel(bool silu, const float *gate, const float *up, size_t n, float *y)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        y[i] = activated(silu, gate[i], up[i]);
}

void gpu_ffn_act(struct backend *be, enum ffn_act act, const float *gate, const float *up, size_t n_values, float *y)
{
    gpu_launch(gpu_enter(be), act_kernel, gpu_blocks(n_values, 256), 256, act == FFN_SILU, gate, up, n_values, y);
}

/* A thread: a column. A row comes from one that is not before it, so that what is overwritten was read. */
static __global__ void keep_kernel(float *x, size_t dim, const int32_t *rows, int n)
{
    size_t col = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (col >= dim)
        return;
    for (int first = 0; first < n; first += KEPT) {
        float v[KEPT];
#pragma unroll
        for (int k = 0; k < KEPT; k++)
            if (first + k < n)
                v[k] = x[(size_t)rows[first + k] * dim + col];
#pragma unroll
        for (int k = 0; k < KEPT; k++)
            if (first + k < n)
                x[(size_t)(first + k) * dim + col] = v[k];
    }
}

void gpu_keep_rows(struct backend *be, float *x, size_t dim, const int32_t *rows, size_t n)
{
    struct gpu *gpu = gpu_enter(be);
    size_t used = 0;
    if (n == 0 || (size_t)rows[n - 1] == n - 1 || !gpu_scratch(gpu, &gpu->ints, n * sizeof *rows))
        return; /* they lie there, or sync tells */
    const int32_t *dev = gpu_push_ints(gpu, rows, n, &used);
    gpu_launch(gpu, keep_kernel, gpu_blocks(dim, 128), 128, x, dim, dev, (int)n);
}
