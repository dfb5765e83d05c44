/*
 * The forward pass over a batch of rows, each a token of some sequence; attention knows sequences, all else knows rows.
 *
 *   x = embed(ids)
 *   per layer:  h = norm(x)  -> q k v -> rope -> cache -> attention -> [sub norm] -> o    -> x += o
 *               h = norm(x)  -> gate up -> activation            -> [sub norm] -> down -> x += down
 *   Of a shape with input norms a projection reads its own norm of h, and each head of q and k is normalised before it is rotated:
 *               h = norm(x)  -> q k v of norm_q(h) norm_k(h) norm_v(h) -> head norm of q k -> rope; gate up of norm_gate(h) norm_up(h)
 *   logits = head(norm(x)) of the rows that want them; of a model that pools norm(x)
 *
 * Activations enter a ternary product quantised to int8, once for all matrices that read them. Scratch is made once, in
 * one allocation, [max_rows] of each buffer; h doubles as the output of o and down.
 */
#include "engine/model/tensors.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>

struct forward {
    struct model *model;
    uint64_t number; /* no two have the same */
    size_t max_rows, memory_bytes;
    int32_t *attended;        /* [max_rows] of a model that is not causal: the last position that each row attends to */
    struct {
        int32_t *positions, *sequences, *in_order; /* [max_rows] */
    } kept;                   /* the rows that want logits, once they are in front */
    float *scratch;         /* dev: the buffers below, one after the other */
    float *x, *h;           /* [max_rows][dim] */
    float *normed;          /* [max_rows][dim] of a shape with input norms: what a projection reads */
    float *q, *att;         /* [max_rows][n_heads * head_dim] */
    float *k, *v;           /* [max_rows][n_kv_heads * head_dim] */
    float *gate, *up;       /* [max_rows][ffn_dim] */
    struct activations act; /* widest of dim, q and ffn */
};

static _Atomic uint64_t n_forwards; /* that there ever were */

static size_t max3(size_t a, size_t b, size_t c)
{
    size_t ab = a > b ? a : b;
    return ab > c ? ab : c;
}

/* Cuts scratch into buffers, or only counts its floats when `base` is NULL. 16 floats are a cache line. */
static size_t lay_out(struct forward *f, float *base)
{
    const struct model_shape *s = &f->model->shape;
    struct {
        float **slot;
        size_t width;
    } buffers[] = {
        {&f->x, s->dim},
        {&f->h, s->dim},
        {&f->normed, s->has_input_norms ? s->dim : 0},
        {&f->q, tensor_size(s, SIZE_Q)},
        {&f->att, tensor_size(s, SIZE_Q)},
        {&f->k, tensor_size(s, SIZE_KV)},
        {&f->v, tensor_size(s, SIZE_KV)},
        {&f->gate, s->ffn_dim},
        {&f->up, s->ffn_dim},
    };
    size_t at = 0;
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++) {
        if (base)
            *buffers[i].slot = base + at;
        at += (f->max_rows * buffers[i].width + 15) / 16 * 16;
    }
    return at;
}

enum error_code forward_open(struct model *m, size_t max_rows, struct forward **out, struct error *err)
{
    const struct model_shape *s = &m->shape;
    size_t widest = max3(s->dim, tensor_size(s, SIZE_Q), s->ffn_dim);
    if (max_rows == 0 || max_rows > SIZE_MAX / sizeof(float) / 16 / widest)
        return error_set(err, ERROR_VALIDATION_FAILED, "a batch of %zu rows cannot be", max_rows);
    struct forward *f = calloc(1, sizeof *f);
    if (!f)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a forward pass");
    f->model = m;
    f->number = atomic_fetch_add(&n_forwards, 1) + 1;
    f->max_rows = max_rows;
    f->attended = s->causal ? NULL : calloc(max_rows, sizeof *f->attended);
    f->kept.positions = calloc(3 * max_rows, sizeof *f->kept.positions);
    size_t n_bytes = lay_out(f, NULL) * sizeof(float);
    f->scratch = backend_alloc(m->backend, n_bytes);
    if ((!s->causal && !f->attended) || !f->kept.positions || !f->scratch || !activations_open(m->backend, max_rows, widest, &f->act)) {
        backend_free(m->backend, f->scratch);
        free(f->attended);
        free(f->kept.positions);
        free(f);
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the activations of %zu rows (%zu bytes)", max_rows,
                         n_bytes);
    }
    lay_out(f, f->scratch);
    f->kept.sequences = f->kept.positions + max_rows;
    f->kept.in_order = f->kept.sequences + max_rows;
    f->memory_bytes = n_bytes + max_rows * (f->act.stride + sizeof *f->act.scale + sizeof *f->act.sum + 3 * sizeof *f->kept.positions);
    *out = f;
    return ERROR_NONE;
}

void forward_close(struct forward *f)
{
    if (!f)
        return;
    activations_close(f->model->backend, &f->act);
    backend_free(f->model->backend, f->scratch);
    free(f->attended);
    free(f->kept.positions);
    free(f);
}

size_t forward_memory_bytes(const struct forward *f)
{
    return f->memory_bytes;
}

/* y = w of x's own norm, of a shape with input norms; x [n][dim]. */
static void project_normed(struct forward *f, const float *x, const float *norm, const struct ternary *w, size_t n, float *y)
{
    const struct model_shape *s = &f->model->shape;
    struct backend *be = f->model->backend;
    op_norm_quantize(be, x, norm, s->norm_eps, n, s->dim, f->normed, &f->act);
    op_matmul(be, &w, &y, 1, &f->act, n);
}

static void project_normed_heads(struct forward *f, const struct model_layer *w, size_t n)
{
    const struct model_shape *s = &f->model->shape;
    struct backend *be = f->model->backend;
    op_rmsnorm(be, f->x, w->attn_norm, s->norm_eps, n, s->dim, f->h);
    project_normed(f, f->h, w->q_norm, w->q, n, f->q);
    project_normed(f, f->h, w->k_norm, w->k, n, f->k);
    project_normed(f, f->h, w->v_norm, w->v, n, f->v);
    op_rmsnorm(be, f->q, w->q_head_norm, s->norm_eps, n * s->n_heads, s->head_dim, f->q);
    op_rmsnorm(be, f->k, w->k_head_norm, s->norm_eps, n * s->n_kv_heads, s->head_dim, f->k);
}

/* Up to the layer's K and V in the cache. From the second layer on h is what the one before adds to x. */
static void project(struct forward *f, const struct kv_cache *kv, size_t layer, const struct batch_view *batch)
{
    const struct model_shape *s = &f->model->shape;
    const struct model_layer *w = &f->model->layers[layer];
    struct backend *be = f->model->backend;
    if (s->has_input_norms) {
        if (layer)
            op_add(be, f->x, f->h, batch->n * s->dim);
        project_normed_heads(f, w, batch->n);
    } else {
        if (layer)
            op_add_norm_quantize(be, f->x, f->h, w->attn_norm, s->norm_eps, batch->n, s->dim, f->h, &f->act);
        else
            op_norm_quantize(be, f->x, w->attn_norm, s->norm_eps, batch->n, s->dim, f->h, &f->act);
        op_matmul(be, (const struct ternary *const[]){w->q, w->k, w->v}, (float *const[]){f->q, f->k, f->v}, 3, &f->act,
                  batch->n);
    }
    op_rope_write(be, f->model->rope, f->q, s->n_heads, f->k, f->v, kv, layer, batch);
}

/* Of a model that is not causal each row of a text attends to as many positions as its last one. */
static const int32_t *attended(struct forward *f, const struct batch_view *batch)
{
    if (f->model->shape.causal)
        return batch->positions;
    for (size_t i = batch->n; i-- > 0;)
        f->attended[i] = i + 1 < batch->n && batch->sequences[i + 1] == batch->sequences[i] ? f->attended[i + 1] : batch->positions[i];
    return f->attended;
}

/* Rows first .. first + part->n - 1 of the step; what they add to x is in the first rows of h. */
static void attend(struct forward *f, const struct kv_cache *kv, size_t layer, const struct batch_view *part, size_t first)
{
    const struct model_shape *s = &f->model->shape;
    const struct model_layer *w = &f->model->layers[layer];
    struct backend *be = f->model->backend;
    size_t width = tensor_size(s, SIZE_Q);
    op_attention(be, kv, layer, part, f->q + first * width, s->n_heads, f->att);
    op_norm_quantize(be, f->att, w->attn_sub_norm, s->norm_eps, part->n, width, f->att, &f->act);
    op_matmul(be, (const struct ternary *const[]){w->o}, &f->h, 1, &f->act, part->n);
}

/* Adds h to x before, and leaves what is to be added in it. */
static void feed_forward(struct forward *f, size_t layer, size_t first, size_t n)
{
    const struct model_shape *s = &f->model->shape;
    const struct model_layer *w = &f->model->layers[layer];
    struct backend *be = f->model->backend;
    float *x = f->x + first * s->dim;
    if (s->has_input_norms) {
        op_add(be, x, f->h, n * s->dim);
        op_rmsnorm(be, x, w->ffn_norm, s->norm_eps, n, s->dim, f->h);
        project_normed(f, f->h, w->gate_norm, w->gate, n, f->gate);
        project_normed(f, f->h, w->up_norm, w->up, n, f->up);
    } else {
        op_add_norm_quantize(be, x, f->h, w->ffn_norm, s->norm_eps, n, s->dim, f->h, &f->act);
        op_matmul(be, (const struct ternary *const[]){w->gate, w->up}, (float *const[]){f->gate, f->up}, 2, &f->act, n);
    }
    op_ffn_quantize(be, s->ffn_act, f->gate, f->up, w->ffn_sub_norm, s->norm_eps, n, s->ffn_dim, f->gate, &f->act);
    op_matmul(be, (const struct ternary *const[]){w->down}, &f->h, 1, &f->act, n);
}

/* Past the last layer's cache nothing is read but the rows that want logits: moves these to the front where the device can, else leaves out what is
 * before and behind them. Returns where they are; *first is the first row of the part. */
static const int32_t *keep_wanted(struct forward *f, struct batch_view *part, const int32_t *out_rows, size_t n_out, size_t *first)
{
    const struct model_shape *s = &f->model->shape;
    struct backend *be = f->model->backend;
    if (op_keep_rows(be, f->q, tensor_size(s, SIZE_Q), out_rows, n_out)) {
        op_keep_rows(be, f->x, s->dim, out_rows, n_out);
        for (size_t i = 0; i < n_out; i++) {
            f->kept.positions[i] = part->positions[out_rows[i]];
            f->kept.sequences[i] = part->sequences[out_rows[i]];
            f->kept.in_order[i] = (int32_t)i;
        }
        part->positions = f->kept.positions;
        part->sequences = f->kept.sequences;
        part->n = n_out;
        return f->kept.in_order;
    }
    *first = (size_t)out_rows[0];
    part->positions += *first;
    part->sequences += *first;
    part->n = (size_t)out_rows[n_out - 1] + 1 - *first;
    return out_rows;
}

/* Up to the last norm; returns which rows of h are those of out_rows. */
static const int32_t *run_layers(struct forward *f, const struct kv_cache *kv, const struct batch_view *batch, const int32_t *ids,
                                 const int32_t *out_rows, size_t n_out)
{
    const struct model *m = f->model;
    const struct model_shape *s = &m->shape;
    struct batch_view part = *batch;
    size_t first = 0;
    part.positions = attended(f, batch);
    op_embed(m->backend, m->embedding, ids, batch->n, f->x);
    for (size_t layer = 0; layer < s->n_layers; layer++) {
        project(f, kv, layer, batch);
        if (layer + 1 == s->n_layers) {
            if (!n_out)
                return out_rows;
            if (n_out < batch->n)
                out_rows = keep_wanted(f, &part, out_rows, n_out, &first);
        }
        attend(f, kv, layer, &part, first);
        feed_forward(f, layer, first, part.n);
    }
    op_add(m->backend, f->x + first * s->dim, f->h, part.n * s->dim);
    op_rmsnorm(m->backend, f->x + first * s->dim, m->output_norm, s->norm_eps, part.n, s->dim, f->h + first * s->dim);
    return out_rows;
}

/* A pass of which each row wants logits, as decodes do, is the same again and again. */
static const int32_t *run_pass(struct forward *f, const struct kv_cache *kv, const struct batch_view *batch, const int32_t *ids,
                               const int32_t *out_rows, size_t n_out)
{
    const struct model_shape *s = &f->model->shape;
    const struct op_pass pass = {f->number, kv, batch, ids, s->causal && n_out == batch->n};
    assert(batch->n > 0 && batch->n <= f->max_rows && n_out <= batch->n);
    assert(kv->n_layers == s->n_layers && kv->n_kv_heads == s->n_kv_heads && kv->head_dim == s->head_dim);
    if (op_pass_begin(f->model->backend, &pass)) {
        out_rows = run_layers(f, kv, batch, ids, out_rows, n_out);
        op_pass_end(f->model->backend);
    }
    return out_rows;
}

enum error_code forward_run(struct forward *f, const struct kv_cache *kv, const struct batch_view *batch,
                            const int32_t *ids, const int32_t *out_rows, size_t n_out,
                            const struct logits_need *needs, bool round_head_f16, float *logits, struct error *err)
{
    struct model *m = f->model;
    out_rows = run_pass(f, kv, batch, ids, out_rows, n_out);
    if (n_out) {
        if (needs)
            op_logits_needed(m->backend, m->head, f->h, out_rows, n_out, needs, logits);
        else
            op_logits(m->backend, m->head, f->h, out_rows, n_out, round_head_f16, logits);
    }
    return backend_sync(m->backend, err);
}

enum error_code forward_hidden(struct forward *f, const struct kv_cache *kv, const struct batch_view *batch,
                               const int32_t *ids, const int32_t *out_rows, size_t n_out, float *hidden, struct error *err)
{
    size_t dim = f->model->shape.dim;
    out_rows = run_pass(f, kv, batch, ids, out_rows, n_out);
    for (size_t i = 0, n; i < n_out; i += n) { /* rows that follow each other in one copy */
        for (n = 1; i + n < n_out && out_rows[i + n] == out_rows[i] + (int32_t)n;)
            n++;
        backend_download(f->model->backend, hidden + i * dim, f->h + (size_t)out_rows[i] * dim, n * dim * sizeof *hidden);
    }
    return backend_sync(f->model->backend, err);
}
