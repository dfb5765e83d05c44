/* Backends, their memory and weights: checks, what all devices share, and the way to a device. Operations: operations.c. */
#include "kernels/backend.h"

#include "kernels/arith.h"
#include "kernels/pool.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>

#define ACTIVATION_PAD 384 /* whole blocks of 128 columns and of 96 */

/* N of "cuda:N", -1 when `device` is something else. */
static int cuda_ordinal(const char *device)
{
    if (strncmp(device, "cuda:", 5) != 0 || device[5] < '0' || device[5] > '9')
        return -1;
    char *end;
    long n = strtol(device + 5, &end, 10);
    return *end || n > 255 ? -1 : (int)n;
}

enum error_code backend_open(const struct backend_options *options, struct backend **out, struct error *err)
{
    static const struct backend_options defaults;
    if (!options)
        options = &defaults;
    *out = NULL;
    const char *device = options->device ? options->device : "cpu";
    if (options->n_threads < 0 || options->n_threads > POOL_MAX_THREADS)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "threads", "expected 0 to %d compute threads, found %d",
                               POOL_MAX_THREADS, options->n_threads);
    if (strcmp(device, "cpu") == 0)
        return cpu_open(options, out, err);
    int ordinal = cuda_ordinal(device);
    if (ordinal < 0)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "device", "expected device \"cpu\" or \"cuda:N\", found \"%.64s\"",
                               device);
    return plugin_open_cuda(ordinal, options, out, err);
}

size_t backend_gpus(struct backend_device *out, size_t max, struct error *why)
{
    struct error unused;
    return plugin_list_cuda(out, max, why ? why : &unused);
}

void backend_close(struct backend *be)
{
    if (!be)
        return;
    pool_close(be->pool);
    be->ops->close(be);
}

void backend_adopt_thread(struct backend *be) { pool_adopt(be->pool); }

void backend_spare_thread(struct backend *be)
{
    if (be->ops->spare)
        be->ops->spare(be);
}

const struct backend_info *backend_info(const struct backend *be) { return &be->info; }

void *backend_alloc(struct backend *be, size_t n_bytes) { return be->ops->alloc(be, n_bytes ? n_bytes : 1); }

enum error_code backend_room(struct backend *be, size_t n_bytes, struct error *err)
{
    return be->ops->room ? be->ops->room(be, n_bytes, err) : ERROR_NONE;
}

void backend_free(struct backend *be, void *dev)
{
    if (dev)
        be->ops->free(be, dev);
}

void backend_upload(struct backend *be, void *dev, const void *host, size_t n_bytes)
{
    if (n_bytes)
        be->ops->upload(be, dev, host, n_bytes);
}

void backend_download(struct backend *be, void *host, const void *dev, size_t n_bytes)
{
    if (n_bytes)
        be->ops->download(be, host, dev, n_bytes);
}

enum error_code backend_sync(struct backend *be, struct error *err) { return be->ops->sync(be, err); }

double backend_measure(struct backend *be, enum backend_limit limit)
{
    return be->ops->measure ? be->ops->measure(be, limit) : 0;
}

/* ---- weights */

enum error_code ternary_open(struct backend *be, const struct tensor_view *view, enum ternary_format format,
                             struct ternary **out, struct error *err)
{
    struct ternary_packed packed;
    *out = NULL;
    enum error_code code = ternary_prepare(be->pool, view, &packed, err);
    if (code)
        return code;
    code = be->ops->ternary_open(be, &packed, format, out, err);
    if (code)
        free(packed.owned);
    return code;
}

void ternary_close(struct backend *be, struct ternary *w)
{
    if (w)
        be->ops->ternary_close(be, w);
}

enum ternary_format ternary_format(const struct ternary *w) { return w->format; }

size_t ternary_memory_bytes(const struct ternary *w) { return w->memory_bytes; }

bool ternary_share(struct backend *be, const struct backend *owner, const struct ternary *w)
{
    return be->ops == owner->ops && be->ops->ternary_share && be->ops->ternary_share(be, w);
}

/* Checks type (a dense one, or of vectors) and size of a tensor of floating-point weights. */
static enum error_code check_dense(const struct tensor_view *v, bool vector, struct error *err)
{
    const char *name = tensor_type_name(v->type);
    bool plain = v->type == TENSOR_F32 || v->type == TENSOR_F16 || v->type == TENSOR_BF16;
    if (!plain && (vector || !tensor_type_is_dense(v->type)))
        return error_set(err, ERROR_MODEL_LOAD_FAILED, "expected a tensor of type %s, found type %d (%s)",
                         vector ? "F32, F16 or BF16" : "F32, F16, BF16, Q8_0, Q6_K or Q4_0", (int)v->type,
                         name ? name : "unknown");
    size_t block = tensor_block(v->type).n_weights;
    if (!v->n_rows || !v->n_cols || v->n_cols % block || v->n_rows > INT32_MAX)
        return error_set(err, ERROR_MODEL_LOAD_FAILED, "expected %s rows of a multiple of %zu weights, found %zu rows of %zu",
                         name, block, v->n_rows, v->n_cols);
    size_t expected = tensor_bytes(v->type, v->n_rows, v->n_cols);
    if (!expected || v->n_bytes < expected)
        return error_set(err, ERROR_MODEL_LOAD_FAILED, "expected %zu bytes of %s for %zu x %zu weights, found %zu", expected,
                         name, v->n_rows, v->n_cols, v->n_bytes);
    return ERROR_NONE;
}

enum error_code dense_open(struct backend *be, const struct tensor_view *view, struct dense **out, struct error *err)
{
    *out = NULL;
    enum error_code code = check_dense(view, false, err);
    return code ? code : be->ops->dense_open(be, view, out, err);
}

void dense_close(struct backend *be, struct dense *w)
{
    if (w)
        be->ops->dense_close(be, w);
}

size_t dense_memory_bytes(const struct dense *w) { return w->memory_bytes; }

bool dense_screen(struct backend *be, struct dense *w) { return be->ops->dense_screen && be->ops->dense_screen(be, w); }

size_t dense_read_bytes(struct backend *be, const struct dense *w, const struct logits_need *need)
{
    return need && be->ops->dense_read_bytes ? be->ops->dense_read_bytes(w, need) : w->n_rows * w->row_bytes;
}

enum error_code vector_open(struct backend *be, const struct tensor_view *view, float **dev_out, struct error *err)
{
    *dev_out = NULL;
    enum error_code code = check_dense(view, true, err);
    if (code)
        return code;
    size_t n = view->n_rows * view->n_cols;
    float *host = malloc(n * sizeof *host), *dev = backend_alloc(be, n * sizeof *dev);
    if (!host || !dev) {
        free(host);
        backend_free(be, dev);
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a vector of %zu weights", n);
    }
    if (view->type == TENSOR_F32)
        tensor_row_f32(view->data, n, host);
    else if (view->type == TENSOR_F16)
        tensor_row_f16(view->data, n, host);
    else
        tensor_row_bf16(view->data, n, host);
    backend_upload(be, dev, host, n * sizeof *dev);
    free(host);
    *dev_out = dev;
    return ERROR_NONE;
}

/* ---- device memory with a shape */

bool activations_open(struct backend *be, size_t max_rows, size_t max_cols, struct activations *out)
{
    size_t stride = (max_cols + ACTIVATION_PAD - 1) / ACTIVATION_PAD * ACTIVATION_PAD, bytes;
    *out = (struct activations){.max_rows = max_rows, .max_cols = max_cols, .stride = stride};
    if (__builtin_mul_overflow(max_rows, stride, &bytes) || bytes > SIZE_MAX / sizeof(float))
        return false;
    out->q = backend_alloc(be, bytes);
    out->scale = backend_alloc(be, max_rows * sizeof *out->scale);
    out->sum = backend_alloc(be, max_rows * sizeof *out->sum);
    if (out->q && out->scale && out->sum)
        return true;
    activations_close(be, out);
    return false;
}

void activations_close(struct backend *be, struct activations *a)
{
    backend_free(be, a->q);
    backend_free(be, a->scale);
    backend_free(be, a->sum);
    *a = (struct activations){0};
}

static size_t kv_value_bytes(enum kv_type type) { return type == KV_F16 ? sizeof(uint16_t) : sizeof(int8_t); }

size_t kv_cache_block_bytes(enum kv_type type, size_t n_layers, size_t n_kv_heads, size_t head_dim)
{
    size_t n;
    if (__builtin_mul_overflow(head_dim, kv_value_bytes(type), &n) ||
        __builtin_add_overflow(n, type == KV_INT8 ? sizeof(float) : 0, &n) ||
        __builtin_mul_overflow(n, 2 * KV_BLOCK_SIZE, &n) || __builtin_mul_overflow(n, n_layers, &n) ||
        __builtin_mul_overflow(n, n_kv_heads, &n))
        return 0;
    return n;
}

enum error_code kv_cache_open(struct backend *be, enum kv_type type, size_t n_layers, size_t n_blocks, size_t n_kv_heads,
                              size_t head_dim, struct kv_cache *out, struct error *err)
{
    size_t block_bytes = kv_cache_block_bytes(type, n_layers, n_kv_heads, head_dim), bytes;
    *out = (struct kv_cache){
        .type = type, .n_layers = n_layers, .n_blocks = n_blocks, .n_kv_heads = n_kv_heads, .head_dim = head_dim};
    if (type == KV_INT8 && !be->ops->has_kv_int8)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "kv_type", "expected a KV cache of type f16 on device %s, found int8",
                               be->info.device);
    if (head_dim == 0 || head_dim > KERNELS_MAX_HEAD_DIM)
        return error_set(err, ERROR_VALIDATION_FAILED, "expected heads of 1 to %d values, found %zu", KERNELS_MAX_HEAD_DIM, head_dim);
    bool fits = block_bytes && !__builtin_mul_overflow(block_bytes, n_blocks, &bytes) && bytes <= SIZE_MAX / 2;
    if (fits) {
        size_t n_scales = n_layers * n_blocks * n_kv_heads * KV_BLOCK_SIZE, n_bytes = n_scales * head_dim * kv_value_bytes(type);
        out->k = backend_alloc(be, n_bytes + KV_SLACK_BYTES);
        out->v = backend_alloc(be, n_bytes + KV_SLACK_BYTES);
        if (type == KV_INT8) {
            out->k_scale = backend_alloc(be, n_scales * sizeof *out->k_scale);
            out->v_scale = backend_alloc(be, n_scales * sizeof *out->v_scale);
        }
        fits = out->k && out->v && (type == KV_F16 || (out->k_scale && out->v_scale));
    }
    if (fits)
        return ERROR_NONE;
    kv_cache_close(be, out);
    return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a KV cache of %zu blocks of %zu bytes", n_blocks, block_bytes);
}

void kv_cache_close(struct backend *be, struct kv_cache *kv)
{
    backend_free(be, kv->k);
    backend_free(be, kv->v);
    backend_free(be, kv->k_scale);
    backend_free(be, kv->v_scale);
    kv->k = kv->v = kv->k_scale = kv->v_scale = NULL;
}

/* ---- rope */

struct rope_fill {
    size_t n_positions, half;
    const double *frequencies;
    float *table;
};

static void fill_rope(void *arg, int thread, int n_threads)
{
    const struct rope_fill *f = arg;
    size_t begin, end;
    pool_range(f->n_positions, thread, n_threads, &begin, &end);
    for (size_t p = begin; p < end; p++) {
        float *row = f->table + 2 * f->half * p;
        for (size_t i = 0; i < f->half; i++) {
            double s, c;
            arith_sincos((double)p * f->frequencies[i], &s, &c);
            row[i] = (float)c;
            row[f->half + i] = (float)s;
        }
    }
}

struct rope *rope_open(struct backend *be, enum rope_style style, size_t n_dims, size_t n_positions, double freq_base,
                       const float *factors)
{
    assert(n_dims % 2 == 0 && n_dims && n_positions && n_positions <= (size_t)1 << 20 && freq_base > 0);
    size_t half = n_dims / 2, bytes = n_positions * n_dims * sizeof(float);
    struct rope *r = malloc(sizeof *r);
    double *frequencies = malloc(half * sizeof *frequencies);
    float *host = malloc(bytes), *dev = backend_alloc(be, bytes);
    if (!r || !frequencies || !host || !dev) {
        backend_free(be, dev);
        free(r);
        r = NULL;
        goto done;
    }
    for (size_t i = 0; i < half; i++) {
        frequencies[i] = arith_pow(freq_base, -2.0 * (double)i / (double)n_dims);
        if (factors)
            frequencies[i] /= (double)factors[i];
    }
    struct rope_fill fill = {.n_positions = n_positions, .half = half, .frequencies = frequencies, .table = host};
    pool_run(be->pool, fill_rope, &fill);
    backend_upload(be, dev, host, bytes);
    *r = (struct rope){.style = style, .n_dims = n_dims, .n_positions = n_positions, .table = dev};
done:
    free(host);
    free(frequencies);
    return r;
}

void rope_close(struct backend *be, struct rope *r)
{
    if (r)
        backend_free(be, r->table);
    free(r);
}
