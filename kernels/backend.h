/*
 * backend: the inside of the public border. backend.c checks arguments and does what is the same for all devices
 * (checks of files, tables, sizes); a device plugs in by a table of operations.
 *
 * A device embeds struct backend, struct ternary and struct dense as the first member of its own.
 */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include "kernels/kernels.h"
#include "kernels/tensor.h"

#define KERNELS_MAX_HEAD_DIM 256
#define KV_SLACK_BYTES 64 /* behind K and V: a kernel may read past the last position */

struct backend {
    const struct backend_ops *ops;
    struct backend_info info;
    struct pool *pool; /* for work on the host; closed by backend_close; NULL: none */
};

struct ternary {
    enum ternary_format format;
    size_t n_rows, n_cols; /* n_cols padded to 128 */
    float scale;
    size_t memory_bytes;
};

struct dense {
    enum tensor_type type;
    size_t n_rows, n_cols, row_bytes;
    size_t memory_bytes;
};

struct rope {
    enum rope_style style;
    size_t n_dims, n_positions;
    float *table; /* dev [n_positions][2][n_dims/2]: cos, then sin */
};

/* What a device does; the contracts are those of kernels.h. Arguments have been checked, and no operation is called with
 * n = 0. */
struct backend_ops {
    void (*close)(struct backend *be); /* all but the pool */
    void *(*alloc)(struct backend *be, size_t n_bytes);
    void (*free)(struct backend *be, void *dev);
    void (*upload)(struct backend *be, void *dev, const void *host, size_t n_bytes);
    void (*download)(struct backend *be, void *host, const void *dev, size_t n_bytes);
    enum error_code (*sync)(struct backend *be, struct error *err);
    /* Takes packed->owned when it succeeds. `format` is a wish; the matrix says what it has. */
    enum error_code (*ternary_open)(struct backend *be, const struct ternary_packed *packed, enum ternary_format format,
                                    struct ternary **out, struct error *err);
    void (*ternary_close)(struct backend *be, struct ternary *w);
    enum error_code (*dense_open)(struct backend *be, const struct tensor_view *view, struct dense **out,
                                  struct error *err);
    void (*dense_close)(struct backend *be, struct dense *w);
    void (*embed)(struct backend *be, const struct dense *table, const int32_t *ids, size_t n, float *y);
    void (*rmsnorm)(struct backend *be, const float *x, const float *weight, float eps, size_t n, size_t dim, float *y);
    void (*quantize)(struct backend *be, const float *x, size_t n, size_t dim, struct activations *a);
    void (*matmul)(struct backend *be, const struct ternary *const *w, float *const *y, size_t n_mats,
                   const struct activations *a, size_t n);
    void (*add)(struct backend *be, float *x, const float *y, size_t n_values);
    void (*ffn_act)(struct backend *be, enum ffn_act act, const float *gate, const float *up, size_t n_values, float *y);
    /* NULL: the operations that they stand for, one after the other. */
    void (*norm_quantize)(struct backend *be, const float *x, const float *weight, float eps, size_t n, size_t dim, float *y,
                          struct activations *a);
    void (*ffn_quantize)(struct backend *be, enum ffn_act act, const float *gate, const float *up, const float *weight, float eps,
                         size_t n, size_t dim, float *y, struct activations *a);
    void (*rope)(struct backend *be, const struct rope *r, float *x, size_t n, size_t n_heads, size_t head_dim,
                 const int32_t *positions);
    void (*kv_write)(struct backend *be, const struct kv_cache *kv, size_t layer, const struct batch_view *batch,
                     const float *k, const float *v);
    void (*attention)(struct backend *be, const struct kv_cache *kv, size_t layer, const struct batch_view *batch,
                      const float *q, size_t n_heads, float *y);
    void (*logits)(struct backend *be, const struct dense *table, const float *x, const int32_t *rows, size_t n_out,
                   bool round_f16, float *logits);
    /* NULL: the device has no screen. */
    bool (*dense_screen)(struct backend *be, struct dense *w);
    void (*logits_needed)(struct backend *be, const struct dense *table, const float *x, const int32_t *rows, size_t n_out,
                          const struct logits_need *needs, float *logits);
    size_t (*dense_read_bytes)(const struct dense *w, const struct logits_need *need); /* NULL: always the whole table */
    double (*measure)(struct backend *be, enum backend_limit limit);                   /* NULL: has no measurement */
    /* Makes room for what operations on a matrix of another backend of these operations need; NULL: it cannot be read. */
    bool (*ternary_share)(struct backend *be, const struct ternary *w);
    bool has_kv_int8; /* attention reads KV_INT8 */
    void (*keep_rows)(struct backend *be, float *x, size_t dim, const int32_t *rows, size_t n); /* NULL: cannot */
    void (*spare)(struct backend *be); /* NULL: no CPU is taken from others */
    enum error_code (*room)(struct backend *be, size_t n_bytes, struct error *err); /* NULL: as much as there is */
    bool (*pass_begin)(struct backend *be, const struct op_pass *p); /* NULL, as pass_end: operations read where their arguments lie */
    void (*pass_end)(struct backend *be);
    /* NULL: the operations that they stand for, as above. */
    void (*add_norm_quantize)(struct backend *be, float *x, const float *add, const float *weight, float eps, size_t n, size_t dim, float *y,
                              struct activations *a);
    void (*rope_write)(struct backend *be, const struct rope *r, float *q, size_t n_heads, float *k, const float *v, const struct kv_cache *kv,
                       size_t layer, const struct batch_view *batch);
};

/* The CPU: always there. */
enum error_code cpu_open(const struct backend_options *options, struct backend **out, struct error *err);

/* CUDA device `ordinal`, from libbitnet-cuda.so. */
enum error_code plugin_open_cuda(int ordinal, const struct backend_options *options, struct backend **out,
                                 struct error *err);

/* As backend_gpus. */
size_t plugin_list_cuda(struct backend_device *out, size_t max, struct error *why);

/* The symbols of libbitnet-cuda.so. BACKEND_ABI changes with this header or a public structure. */
#define BACKEND_ABI 10u
#define BACKEND_CUDA_LIBRARY "libbitnet-cuda.so"
#define BACKEND_CUDA_OPEN "bitnet_cuda_open"
#define BACKEND_CUDA_LIST "bitnet_cuda_list"
typedef enum error_code backend_cuda_open_fn(uint32_t abi, int ordinal, struct backend **out, struct error *err);
typedef size_t backend_cuda_list_fn(uint32_t abi, struct backend_device *out, size_t max, struct error *why);

#endif
