/* The public operations: checks of preconditions, and what stands for an operation that a device lacks. */
#include "kernels/backend.h"

#include <assert.h>

#define MAX_MATS 4

void op_embed(struct backend *be, const struct dense *table, const int32_t *ids, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        assert(ids[i] >= 0 && (size_t)ids[i] < table->n_rows);
    if (n)
        be->ops->embed(be, table, ids, n, y);
}

void op_rmsnorm(struct backend *be, const float *x, const float *weight, float eps, size_t n, size_t dim, float *y)
{
    assert(dim > 0);
    if (n)
        be->ops->rmsnorm(be, x, weight, eps, n, dim, y);
}

bool op_pass_begin(struct backend *be, const struct op_pass *p)
{
    assert(p->batch->n > 0);
    return be->ops->pass_begin ? be->ops->pass_begin(be, p) : true;
}

void op_pass_end(struct backend *be)
{
    if (be->ops->pass_end)
        be->ops->pass_end(be);
}

bool op_keep_rows(struct backend *be, float *x, size_t dim, const int32_t *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        assert(rows[i] >= (int32_t)i && (!i || rows[i] > rows[i - 1]));
    if (be->ops->keep_rows)
        be->ops->keep_rows(be, x, dim, rows, n);
    return be->ops->keep_rows;
}

void op_quantize(struct backend *be, const float *x, size_t n, size_t dim, struct activations *a)
{
    assert(n <= a->max_rows && dim > 0 && dim <= a->max_cols);
    if (n)
        be->ops->quantize(be, x, n, dim, a);
}

void op_norm_quantize(struct backend *be, const float *x, const float *weight, float eps, size_t n, size_t dim, float *y,
                      struct activations *a)
{
    assert(n <= a->max_rows && dim > 0 && dim <= a->max_cols);
    if (n && be->ops->norm_quantize) {
        be->ops->norm_quantize(be, x, weight, eps, n, dim, y, a);
        return;
    }
    if (weight)
        op_rmsnorm(be, x, weight, eps, n, dim, y);
    op_quantize(be, weight ? y : x, n, dim, a);
}

void op_add_norm_quantize(struct backend *be, float *x, const float *add, const float *weight, float eps, size_t n, size_t dim, float *y,
                          struct activations *a)
{
    assert(n <= a->max_rows && dim > 0 && dim <= a->max_cols);
    if (n && be->ops->add_norm_quantize) {
        be->ops->add_norm_quantize(be, x, add, weight, eps, n, dim, y, a);
        return;
    }
    op_add(be, x, add, n * dim);
    op_norm_quantize(be, x, weight, eps, n, dim, y, a);
}

void op_matmul(struct backend *be, const struct ternary *const *w, float *const *y, size_t n_mats,
               const struct activations *a, size_t n)
{
    assert(n_mats >= 1 && n_mats <= MAX_MATS && n <= a->max_rows && w[0]->n_cols <= a->stride);
    for (size_t m = 1; m < n_mats; m++)
        assert(w[m]->n_cols == w[0]->n_cols);
    if (n)
        be->ops->matmul(be, w, y, n_mats, a, n);
}

void op_add(struct backend *be, float *x, const float *y, size_t n_values)
{
    if (n_values)
        be->ops->add(be, x, y, n_values);
}

void op_ffn_act(struct backend *be, enum ffn_act act, const float *gate, const float *up, size_t n_values, float *y)
{
    assert(act == FFN_RELU2 || act == FFN_SILU);
    if (n_values)
        be->ops->ffn_act(be, act, gate, up, n_values, y);
}

void op_ffn_quantize(struct backend *be, enum ffn_act act, const float *gate, const float *up, const float *weight, float eps,
                     size_t n, size_t dim, float *y, struct activations *a)
{
    assert(n <= a->max_rows && dim > 0 && dim <= a->max_cols && (act == FFN_RELU2 || act == FFN_SILU));
    if (n && be->ops->ffn_quantize) {
        be->ops->ffn_quantize(be, act, gate, up, weight, eps, n, dim, y, a);
        return;
    }
    op_ffn_act(be, act, gate, up, n * dim, y);
    op_norm_quantize(be, y, weight, eps, n, dim, y, a);
}

void op_rope(struct backend *be, const struct rope *r, float *x, size_t n, size_t n_heads, size_t head_dim,
             const int32_t *positions)
{
    assert(r->n_dims <= head_dim);
    for (size_t i = 0; i < n; i++)
        assert(positions[i] >= 0 && (size_t)positions[i] < r->n_positions);
    if (n)
        be->ops->rope(be, r, x, n, n_heads, head_dim, positions);
}

/* The rows lie in their block tables, and the blocks in the cache. */
static void check_batch(const struct kv_cache *kv, size_t layer, const struct batch_view *b)
{
    assert(layer < kv->n_layers);
    for (size_t i = 0; i < b->n; i++) {
        assert(b->positions[i] >= 0 && (size_t)b->positions[i] / KV_BLOCK_SIZE < b->max_blocks);
        assert(b->sequences[i] >= 0 && (size_t)b->sequences[i] < b->n_sequences);
    }
    (void)kv, (void)layer, (void)b;
}

void op_kv_write(struct backend *be, const struct kv_cache *kv, size_t layer, const struct batch_view *batch,
                 const float *k, const float *v)
{
    check_batch(kv, layer, batch);
    if (batch->n)
        be->ops->kv_write(be, kv, layer, batch, k, v);
}

void op_rope_write(struct backend *be, const struct rope *r, float *q, size_t n_heads, float *k, const float *v, const struct kv_cache *kv,
                   size_t layer, const struct batch_view *batch)
{
    assert(r->n_dims <= kv->head_dim);
    check_batch(kv, layer, batch);
    if (batch->n && be->ops->rope_write) {
        be->ops->rope_write(be, r, q, n_heads, k, v, kv, layer, batch);
        return;
    }
    op_rope(be, r, q, batch->n, n_heads, kv->head_dim, batch->positions);
    op_rope(be, r, k, batch->n, kv->n_kv_heads, kv->head_dim, batch->positions);
    op_kv_write(be, kv, layer, batch, k, v);
}

void op_attention(struct backend *be, const struct kv_cache *kv, size_t layer, const struct batch_view *batch,
                  const float *q, size_t n_heads, float *y)
{
    assert(n_heads && n_heads % kv->n_kv_heads == 0 && kv->head_dim <= KERNELS_MAX_HEAD_DIM);
    check_batch(kv, layer, batch);
    if (batch->n)
        be->ops->attention(be, kv, layer, batch, q, n_heads, y);
}

void op_logits(struct backend *be, const struct dense *table, const float *x, const int32_t *rows, size_t n_out,
               bool round_f16, float *logits)
{
    if (n_out)
        be->ops->logits(be, table, x, rows, n_out, round_f16, logits);
}

void op_logits_needed(struct backend *be, const struct dense *table, const float *x, const int32_t *rows, size_t n_out,
                      const struct logits_need *needs, float *logits)
{
    if (!n_out)
        return;
    if (be->ops->logits_needed)
        be->ops->logits_needed(be, table, x, rows, n_out, needs, logits);
    else
        be->ops->logits(be, table, x, rows, n_out, false, logits);
}
