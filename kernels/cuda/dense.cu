/* Tables of floating-point weights: embedding and LM head. Data stay as in the file; a value is converted where it is used. */
#include "kernels/cuda/pass.h"

#include <stdlib.h>

#define EMBED_THREADS 256

/* A weight of a row that starts at `row`. */
template <int TYPE> static __device__ inline float weight_at(const uint8_t *row, int col);

template <> __device__ inline float weight_at<TENSOR_F32>(const uint8_t *row, int col) { return ((const float *)row)[col]; }

template <> __device__ inline float weight_at<TENSOR_F16>(const uint8_t *row, int col)
{
    return __half2float(((const __half *)row)[col]);
}

template <> __device__ inline float weight_at<TENSOR_BF16>(const uint8_t *row, int col)
{
    return __uint_as_float((uint32_t)((const uint16_t *)row)[col] << 16);
}

template <> __device__ inline float weight_at<TENSOR_Q8_0>(const uint8_t *row, int col)
{
    const uint8_t *block = row + col / 32 * 34;
    return __half2float(*(const __half *)block) * (float)((const int8_t *)block)[2 + col % 32];
}

template <> __device__ inline float weight_at<TENSOR_Q6_K>(const uint8_t *row, int col)
{
    const uint8_t *block = row + col / 256 * 210;
    int half = col % 256 / 128, part = col % 128 / 32, i = col % 32;
    int low = block[64 * half + 32 * (part & 1) + i] >> (part < 2 ? 0 : 4) & 15;
    int high = block[128 + 32 * half + i] >> (2 * part) & 3;
    float scale = (float)((const int8_t *)block)[192 + col % 256 / 16];
    return __half2float(*(const __half *)(block + 208)) * scale * (float)((low | high << 4) - 32);
}

template <> __device__ inline float weight_at<TENSOR_Q4_0>(const uint8_t *row, int col)
{
    const uint8_t *block = row + col / 32 * 18;
    int q = block[2 + col % 16] >> (col % 32 < 16 ? 0 : 4) & 15;
    return __half2float(*(const __half *)block) * (float)(q - 8);
}

/* Calls `call(type)` with the table's type as a constant. */
#define DISPATCH(type, CALL)                                                                                           \
    switch (type) {                                                                                                    \
    case TENSOR_F16: CALL(TENSOR_F16); break;                                                                          \
    case TENSOR_BF16: CALL(TENSOR_BF16); break;                                                                        \
    case TENSOR_Q8_0: CALL(TENSOR_Q8_0); break;                                                                        \
    case TENSOR_Q6_K: CALL(TENSOR_Q6_K); break;                                                                        \
    case TENSOR_Q4_0: CALL(TENSOR_Q4_0); break;                                                                        \
    default: CALL(TENSOR_F32); break;                                                                                  \
    }

enum error_code gpu_dense_open(struct backend *be, const struct tensor_view *view, struct dense **out, struct error *err)
{
    struct tensor_block block = {1, 4};
    if (view->type == TENSOR_F16 || view->type == TENSOR_BF16)
        block.n_bytes = 2;
    else if (view->type == TENSOR_Q8_0)
        block = {32, 34};
    else if (view->type == TENSOR_Q6_K)
        block = {256, 210};
    else if (view->type == TENSOR_Q4_0)
        block = {32, 18};
    size_t row_bytes = view->n_cols / block.n_weights * block.n_bytes, n_bytes = row_bytes * view->n_rows;
    struct gpu_dense *w = (struct gpu_dense *)calloc(1, sizeof *w);
    uint8_t *data = w ? (uint8_t *)be->ops->alloc(be, n_bytes) : NULL;
    if (!data) {
        free(w);
        return gpu_no_memory(be, "a table", n_bytes, err);
    }
    be->ops->upload(be, data, view->data, n_bytes);
    enum error_code code = be->ops->sync(be, err);
    if (code) {
        be->ops->free(be, data);
        free(w);
        return code;
    }
    w->base.type = view->type;
    w->base.n_rows = view->n_rows;
    w->base.n_cols = view->n_cols;
    w->base.row_bytes = row_bytes;
    w->base.memory_bytes = n_bytes;
    w->data = data;
    *out = &w->base;
    return ERROR_NONE;
}

void gpu_dense_close(struct backend *be, struct dense *w)
{
    be->ops->free(be, ((struct gpu_dense *)w)->data);
    free(w);
}

template <int TYPE>
static __global__ void embed_kernel(const uint8_t *data, size_t row_bytes, int n_cols, const int32_t *ids, float *y)
{
    const uint8_t *row = data + (size_t)ids[blockIdx.x] * row_bytes;
    for (int c = (int)threadIdx.x; c < n_cols; c += EMBED_THREADS)
        y[(size_t)blockIdx.x * n_cols + c] = weight_at<TYPE>(row, c);
}

void gpu_embed(struct backend *be, const struct dense *table, const int32_t *ids, size_t n, float *y)
{
    struct gpu *gpu = gpu_enter(be);
    const struct gpu_dense *w = (const struct gpu_dense *)table;
    const int32_t *dev = gpu_ints_of(gpu, ids, n);
    if (!dev)
        return;
#define EMBED(type) gpu_launch(gpu, embed_kernel<type>, (unsigned)n, EMBED_THREADS, w->data, table->row_bytes, (int)table->n_cols, dev, y)
    DISPATCH(table->type, EMBED)
#undef EMBED
}
