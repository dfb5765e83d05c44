/*
 * device: what the parts of the CUDA backend share. One device, one stream: operations run in the order in which they are
 * called, so that scratch memory may be used again by the next one. Host arrays of operations go through pageable copies, which are
 * staged before they return.
 *
 * Integers (quantisation, ternary products) are the CPU's to the bit. Floating point sums keep an order of their own that depends on
 * nothing but the row: results do not depend on the batch.
 */
#ifndef KERNELS_CUDA_DEVICE_H
#define KERNELS_CUDA_DEVICE_H

extern "C" {
#include "kernels/arith.h"
#include "kernels/backend.h"
}

#include "kernels/cuda/ptx.h"

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define WARP 32
#define ALL_LANES 0xffffffffu
#define SHARED_DEFAULT_MAX 49152 /* bytes of shared memory that a block gets without asking */

/* In a kernel: the shared memory that its launch gave, 16-byte aligned. */
#ifndef SHARED_BYTES
#define SHARED_BYTES(name) extern __shared__ __align__(16) uint8_t name[]
#endif

/* Device memory that grows and is used anew by each operation. */
struct scratch {
    void *dev;
    size_t n_bytes;
};

/* Pinned memory on the way to a device. */
#define GPU_STAGES 2
struct stage {
    uint8_t *host;
    cudaEvent_t copied; /* what was put there last */
};

struct gpu {
    struct backend base;
    int ordinal;
    cudaStream_t stream;
    cudaError_t failed; /* the first error since the last sync */
    cudaStream_t copies; /* of uploads */
    cudaEvent_t zeroed;
    struct stage stages[GPU_STAGES];
    struct scratch ints, floats;
    uint64_t generation;    /* of scratch memory: another one when a piece has moved */
    struct gpu_pass *pass;  /* see pass.cu */
    char device[16], name[256], isa[16];
};

struct gpu_ternary {
    struct ternary base;
    uint4 *tiles; /* dev, see matmul.cu */
};

struct gpu_dense {
    struct dense base;
    uint8_t *data; /* dev, as in the file */
};

/* Makes the device current for the calling thread. */
static inline struct gpu *gpu_enter(struct backend *be)
{
    struct gpu *gpu = (struct gpu *)be;
    cudaSetDevice(gpu->ordinal);
    return gpu;
}

/* Keeps the first error; true when there is none. */
static inline bool gpu_check(struct gpu *gpu, cudaError_t error)
{
    if (error != cudaSuccess && gpu->failed == cudaSuccess)
        gpu->failed = error;
    return error == cudaSuccess;
}

/* Launches a kernel with `shared_bytes` of SHARED_BYTES. */
template <typename... P, typename... A>
static inline void gpu_launch_shared(struct gpu *gpu, void (*kernel)(P...), dim3 grid, unsigned n_threads, size_t shared_bytes, A... args)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(n_threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = gpu->stream;
    if (shared_bytes <= SHARED_DEFAULT_MAX ||
        gpu_check(gpu, cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes)))
        gpu_check(gpu, cudaLaunchKernelEx(&config, kernel, args...));
}

template <typename... P, typename... A>
static inline void gpu_launch(struct gpu *gpu, void (*kernel)(P...), dim3 grid, unsigned n_threads, A... args)
{
    gpu_launch_shared(gpu, kernel, grid, n_threads, 0, args...);
}

/* At least n_bytes, or NULL with the error kept. */
void *gpu_scratch(struct gpu *gpu, struct scratch *s, size_t n_bytes);

/* Frees what gpu_scratch has taken. */
void gpu_drop_scratch(struct gpu *gpu);

/* Copies host integers to scratch memory at *used, which moves on; room was made by gpu_scratch. */
const int32_t *gpu_push_ints(struct gpu *gpu, const int32_t *host, size_t n, size_t *used);

static inline unsigned gpu_blocks(size_t n, size_t each) { return (unsigned)((n + each - 1) / each); }

/* What quantisation makes of a value. */
static __device__ inline float finite_or_0(float x) { return fabsf(x) < INFINITY ? x : 0.0f; }

/* Sum and maximum over a warp; all lanes get them. */
static __device__ inline float warp_sum(float v)
{
    for (int step = WARP / 2; step; step /= 2)
        v += __shfl_xor_sync(ALL_LANES, v, step);
    return v;
}

static __device__ inline int warp_sum(int v)
{
    for (int step = WARP / 2; step; step /= 2)
        v += __shfl_xor_sync(ALL_LANES, v, step);
    return v;
}

static __device__ inline float warp_max(float v)
{
    for (int step = WARP / 2; step; step /= 2)
        v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, step));
    return v;
}

/* The same over a block of whole warps; `shared` has a place for each warp. All threads get the result. */
#define BLOCK_REDUCE(name, type, warp, join)                                                                           \
    static __device__ inline type name(type v, type *shared)                                                           \
    {                                                                                                                  \
        int n_warps = (int)blockDim.x / WARP;                                                                          \
        v = warp(v);                                                                                                   \
        __syncthreads();                                                                                               \
        if (threadIdx.x % WARP == 0)                                                                                   \
            shared[threadIdx.x / WARP] = v;                                                                            \
        __syncthreads();                                                                                               \
        v = shared[0];                                                                                                 \
        for (int i = 1; i < n_warps; i++)                                                                              \
            v = join(v, shared[i]);                                                                                    \
        return v;                                                                                                      \
    }
static __device__ inline float join_sum(float a, float b) { return a + b; }
static __device__ inline int join_sum(int a, int b) { return a + b; }
BLOCK_REDUCE(block_sum, float, warp_sum, join_sum)
BLOCK_REDUCE(block_sum, int, warp_sum, join_sum)
BLOCK_REDUCE(block_max, float, warp_max, fmaxf)
#undef BLOCK_REDUCE

/* Streams and pinned memory of uploads; both are no more than begun when that fails. Closed in any case. */
cudaError_t gpu_memory_open(struct gpu *gpu);
void gpu_memory_close(struct gpu *gpu);
/* ERROR_MEMORY_EXHAUSTED: what was to be taken, and what is free. */
enum error_code gpu_no_memory(struct backend *be, const char *what, size_t n_bytes, struct error *err);

/* What passes need; false when memory is out. */
bool gpu_pass_open(struct gpu *gpu);
void gpu_pass_close(struct gpu *gpu);

/* The operations, as in struct backend_ops. */
bool gpu_pass_begin(struct backend *be, const struct op_pass *pass);
void gpu_pass_end(struct backend *be);
void *gpu_alloc(struct backend *be, size_t n_bytes);
void gpu_free(struct backend *be, void *dev);
void gpu_upload(struct backend *be, void *dev, const void *host, size_t n_bytes);
void gpu_download(struct backend *be, void *host, const void *dev, size_t n_bytes);
enum error_code gpu_room(struct backend *be, size_t n_bytes, struct error *err);
enum error_code gpu_ternary_open(struct backend *be, const struct ternary_packed *packed, enum ternary_format format,
                                 struct ternary **out, struct error *err);
void gpu_ternary_close(struct backend *be, struct ternary *w);
enum error_code gpu_dense_open(struct backend *be, const struct tensor_view *view, struct dense **out, struct error *err);
void gpu_dense_close(struct backend *be, struct dense *w);
void gpu_embed(struct backend *be, const struct dense *table, const int32_t *ids, size_t n, float *y);
void gpu_rmsnorm(struct backend *be, const float *x, const float *weight, float eps, size_t n, size_t dim, float *y);
void gpu_quantize(struct backend *be, const float *x, size_t n, size_t dim, struct activations *a);
void gpu_matmul(struct backend *be, const struct ternary *const *w, float *const *y, size_t n_mats,
                const struct activations *a, size_t n);
void gpu_add(struct backend *be, float *x, const float *y, size_t n_values);
void gpu_ffn_act(struct backend *be, enum ffn_act act, const float *gate, const float *up, size_t n_values, float *y);
void gpu_norm_quantize(struct backend *be, const float *x, const float *weight, float eps, size_t n, size_t dim, float *y,
                       struct activations *a);
void gpu_add_norm_quantize(struct backend *be, float *x, const float *add, const float *weight, float eps, size_t n, size_t dim, float *y,
                           struct activations *a);
void gpu_ffn_quantize(struct backend *be, enum ffn_act act, const float *gate, const float *up, const float *weight, float eps,
                      size_t n, size_t dim, float *y, struct activations *a);
void gpu_keep_rows(struct backend *be, float *x, size_t dim, const int32_t *rows, size_t n);
void gpu_rope(struct backend *be, const struct rope *r, float *x, size_t n, size_t n_heads, size_t head_dim,
              const int32_t *positions);
void gpu_kv_write(struct backend *be, const struct kv_cache *kv, size_t layer, const struct batch_view *batch,
                  const float *k, const float *v);
void gpu_rope_write(struct backend *be, const struct rope *r, float *q, size_t n_heads, float *k, const float *v, const struct kv_cache *kv,
                    size_t layer, const struct batch_view *batch);
void gpu_attention(struct backend *be, const struct kv_cache *kv, size_t layer, const struct batch_view *batch,
                   const float *q, size_t n_heads, float *y);
void gpu_logits(struct backend *be, const struct dense *table, const float *x, const int32_t *rows, size_t n_out,
                bool round_f16, float *logits);
void gpu_logits_needed(struct backend *be, const struct dense *table, const float *x, const int32_t *rows, size_t n_out,
                       const struct logits_need *needs, float *logits);

/* Fills *err (may be NULL) and returns its code; the library carries no base/. */
enum error_code gpu_error(struct error *err, enum error_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Runs operations on known data; false, with what was wrong, when the device computes something else. */
bool gpu_self_test(struct backend *be, const char **what);

#endif
