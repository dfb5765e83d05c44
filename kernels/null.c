/*
 * The null backend: no arithmetic and no memory. It takes a model's shapes, so that everything around a forward pass runs as it does with a real
 * one, and its logits choose a token by the row's position alone. For measuring what serves a model by itself, and for tests of scheduling, which
 * make a step as long as they need and let it fail where they want.
 */
#include "kernels/backend.h"

#include "kernels/machine.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHOSEN_LOGIT 0.0f
#define OTHER_LOGIT (-1000.0f) /* finite, so that a grammar finds something; no temperature up to 2 draws it beside the chosen one */

struct null_backend {
    struct backend base;
    struct null_options options;
    int32_t *positions; /* [n_positions] of the batch at hand */
    size_t n_positions;
    uint32_t *ids; /* [n_ids] what is chosen from; NULL: every token */
    size_t n_ids;
    float *others; /* [n_others] a row in which nothing is chosen yet */
    size_t n_others;
    struct timespec due; /* when the step that is made may end */
    bool in_step;
};

/* A step begins with its embedding and ends with its sync. */
static void begin_step(struct null_backend *n)
{
    if (n->options.step_ns <= 0)
        return;
    clock_gettime(CLOCK_MONOTONIC, &n->due);
    n->due.tv_nsec += n->options.step_ns % 1000000000;
    n->due.tv_sec += n->options.step_ns / 1000000000 + n->due.tv_nsec / 1000000000;
    n->due.tv_nsec %= 1000000000;
    n->in_step = true;
}

static enum error_code null_sync(struct backend *be, struct error *err)
{
    struct null_backend *n = (struct null_backend *)be;
    if (n->in_step)
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &n->due, NULL);
    n->in_step = false;
    if (n->options.fails && n->options.fails(n->options.user))
        return error_set(err, ERROR_DEVICE_UNAVAILABLE, "the null device was told to fail");
    return ERROR_NONE;
}

/* ---- memory that nobody reads */

static void *null_alloc(struct backend *be, size_t n_bytes)
{
    (void)be, (void)n_bytes;
    return aligned_alloc(64, 64);
}

static void null_free(struct backend *be, void *dev)
{
    (void)be;
    free(dev);
}

static void null_upload(struct backend *be, void *dev, const void *host, size_t n_bytes)
{
    (void)be, (void)dev, (void)host, (void)n_bytes;
}

static void null_download(struct backend *be, void *host, const void *dev, size_t n_bytes)
{
    (void)be, (void)dev;
    memset(host, 0, n_bytes);
}

/* ---- weights: their shapes */

static bool make_others(struct null_backend *null, size_t n)
{
    if (n <= null->n_others)
        return true;
    float *more = realloc(null->others, n * sizeof *more);
    if (!more)
        return false;
    null->others = more;
    for (; null->n_others < n; null->n_others++)
        more[null->n_others] = OTHER_LOGIT;
    return true;
}

static enum error_code null_ternary_open(struct backend *be, const struct ternary_packed *packed, enum ternary_format format,
                                         struct ternary **out, struct error *err)
{
    (void)be, (void)format;
    struct ternary *w = calloc(1, sizeof *w);
    if (!w)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the shape of a matrix");
    *w = (struct ternary){.format = TERNARY_I2S, .n_rows = packed->n_rows, .n_cols = packed->n_cols, .scale = packed->scale};
    free(packed->owned);
    *out = w;
    return ERROR_NONE;
}

static void null_ternary_close(struct backend *be, struct ternary *w)
{
    (void)be;
    free(w);
}

static enum error_code null_dense_open(struct backend *be, const struct tensor_view *view, struct dense **out, struct error *err)
{
    struct dense *w = calloc(1, sizeof *w);
    if (!w || !make_others((struct null_backend *)be, view->n_rows)) {
        free(w);
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the shape of a table");
    }
    *w = (struct dense){.type = view->type, .n_rows = view->n_rows, .n_cols = view->n_cols};
    *out = w;
    return ERROR_NONE;
}

static void null_dense_close(struct backend *be, struct dense *w)
{
    (void)be;
    free(w);
}

/* ---- operations: what a position says, nothing else */

static void null_embed(struct backend *be, const struct dense *table, const int32_t *ids, size_t n, float *y)
{
    (void)table, (void)ids, (void)n, (void)y;
    begin_step((struct null_backend *)be);
}

static void null_rmsnorm(struct backend *be, const float *x, const float *weight, float eps, size_t n, size_t dim, float *y)
{
    (void)be, (void)x, (void)weight, (void)eps, (void)n, (void)dim, (void)y;
}

static void null_quantize(struct backend *be, const float *x, size_t n, size_t dim, struct activations *a)
{
    (void)be, (void)x, (void)n, (void)dim, (void)a;
}

static void null_matmul(struct backend *be, const struct ternary *const *w, float *const *y, size_t n_mats,
                        const struct activations *a, size_t n)
{
    (void)be, (void)w, (void)y, (void)n_mats, (void)a, (void)n;
}

static void null_add(struct backend *be, float *x, const float *y, size_t n_values)
{
    (void)be, (void)x, (void)y, (void)n_values;
}

static void null_ffn_act(struct backend *be, enum ffn_act act, const float *gate, const float *up, size_t n_values, float *y)
{
    (void)be, (void)act, (void)gate, (void)up, (void)n_values, (void)y;
}

static void null_rope(struct backend *be, const struct rope *r, float *x, size_t n, size_t n_heads, size_t head_dim,
                      const int32_t *positions)
{
    (void)be, (void)r, (void)x, (void)n, (void)n_heads, (void)head_dim, (void)positions;
}

/* The one operation that sees the positions of the whole batch. */
static void null_kv_write(struct backend *be, const struct kv_cache *kv, size_t layer, const struct batch_view *batch, const float *k,
                          const float *v)
{
    struct null_backend *null = (struct null_backend *)be;
    (void)kv, (void)k, (void)v;
    if (layer > 0)
        return;
    if (batch->n > null->n_positions) {
        int32_t *more = realloc(null->positions, batch->n * sizeof *more);
        assert(more && "null: memory for the positions of a batch");
        null->positions = more;
        null->n_positions = batch->n;
    }
    memcpy(null->positions, batch->positions, batch->n * sizeof *batch->positions);
}

static void null_attention(struct backend *be, const struct kv_cache *kv, size_t layer, const struct batch_view *batch,
                           const float *q, size_t n_heads, float *y)
{
    (void)be, (void)kv, (void)layer, (void)batch, (void)q, (void)n_heads, (void)y;
}

uint32_t kernel_null_choice(uint32_t position, uint32_t n)
{
    uint64_t mixed = (position + UINT64_C(1)) * UINT64_C(0x9E3779B97F4A7C15);
    return (uint32_t)((mixed >> 32) * n >> 32); /* scattered, so that no text repeats and is foretold */
}

static void null_logits(struct backend *be, const struct dense *table, const float *x, const int32_t *rows, size_t n_out,
                        bool round_f16, float *logits)
{
    const struct null_backend *null = (const struct null_backend *)be;
    (void)x, (void)round_f16;
    for (size_t i = 0; i < n_out; i++) {
        float *row = logits + i * table->n_rows;
        uint32_t position = (uint32_t)null->positions[rows[i]];
        uint32_t chosen = null->ids ? null->ids[kernel_null_choice(position, (uint32_t)null->n_ids)]
                                    : kernel_null_choice(position, (uint32_t)table->n_rows);
        memcpy(row, null->others, table->n_rows * sizeof *row);
        row[chosen < table->n_rows ? chosen : 0] = CHOSEN_LOGIT;
    }
}

/* ---- open and close */

static void null_close(struct backend *be)
{
    struct null_backend *null = (struct null_backend *)be;
    free(null->positions);
    free(null->ids);
    free(null->others);
    free(null);
}

static const struct backend_ops ops = {
    .close = null_close,
    .alloc = null_alloc,
    .free = null_free,
    .upload = null_upload,
    .download = null_download,
    .sync = null_sync,
    .ternary_open = null_ternary_open,
    .ternary_close = null_ternary_close,
    .dense_open = null_dense_open,
    .dense_close = null_dense_close,
    .embed = null_embed,
    .rmsnorm = null_rmsnorm,
    .quantize = null_quantize,
    .matmul = null_matmul,
    .add = null_add,
    .ffn_act = null_ffn_act,
    .rope = null_rope,
    .kv_write = null_kv_write,
    .attention = null_attention,
    .logits = null_logits,
    .has_kv_int8 = true,
};

enum error_code backend_open_null(const struct null_options *options, struct backend **out, struct error *err)
{
    struct null_backend *null = calloc(1, sizeof *null);
    if (!null)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the null device");
    null->options = *options;
    null->base.ops = &ops;
    null->base.info = (struct backend_info){.device = "null",
                                            .name = "null",
                                            .isa = "null",
                                            .n_threads = 1,
                                            .memory_bytes = machine_memory_bytes(),
                                            .auto_format = TERNARY_I2S,
                                            .auto_reason = "nothing is computed"};
    *out = &null->base;
    return ERROR_NONE;
}

bool backend_null_choices(struct backend *be, const uint32_t *ids, size_t n)
{
    struct null_backend *null = (struct null_backend *)be;
    assert(be->ops == &ops && n > 0 && n <= UINT32_MAX);
    uint32_t *copy = malloc(n * sizeof *copy);
    if (!copy)
        return false;
    memcpy(copy, ids, n * sizeof *copy);
    free(null->ids);
    null->ids = copy;
    null->n_ids = n;
    return true;
}
