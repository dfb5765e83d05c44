/* Rotary position embedding and the writing of K and V: what happens to a row between the projections and attention. */
#include "kernels/arith.h"
#include "kernels/cpu.h"

/* (x0, x1) turned by the angle. */
static inline void rotate(float *x0, float *x1, float c, float s)
{
    float a = *x0, b = *x1;
    *x0 = arith_fma(a, c, -(b * s));
    *x1 = arith_fma(a, s, b * c);
}

void rope_neox_portable(float *x, const float *cos, const float *sin, size_t half)
{
    for (size_t i = 0; i < half; i++)
        rotate(x + i, x + half + i, cos[i], sin[i]);
}

void rope_norm_portable(float *x, const float *cos, const float *sin, size_t half)
{
    for (size_t i = 0; i < half; i++)
        rotate(x + 2 * i, x + 2 * i + 1, cos[i], sin[i]);
}

void to_f16_portable(const float *x, size_t n, uint16_t *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = arith_to_f16(x[i]);
}

struct rope_call {
    const struct rope *rope;
    float *x;
    size_t n_heads, head_dim;
    const int32_t *positions;
};

static void rope_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct rope_call *c = call;
    const struct rope *r = c->rope;
    rope_neox_fn *turn = r->style == ROPE_NEOX ? cpu->kernels.rope_neox : cpu->kernels.rope_norm;
    size_t half = r->n_dims / 2;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        const float *cos = r->table + (size_t)c->positions[i] * r->n_dims;
        for (size_t h = 0; h < c->n_heads; h++)
            turn(c->x + (i * c->n_heads + h) * c->head_dim, cos, cos + half, half);
    }
}

void cpu_op_rope(struct backend *be, const struct rope *r, float *x, size_t n, size_t n_heads, size_t head_dim,
                 const int32_t *positions)
{
    struct rope_call call = {.rope = r, .x = x, .n_heads = n_heads, .head_dim = head_dim, .positions = positions};
    cpu_for((struct cpu *)be, n, n_heads * head_dim, rope_items, &call);
}

struct kv_call {
    const struct kv_cache *kv;
    size_t layer;
    const struct batch_view *batch;
    const float *k, *v;
};

/* Stores one head at a place of the cache, counted in positions. */
static void kv_store(const struct cpu *cpu, const struct kv_cache *kv, const float *x, size_t place, void *to,
                     float *scales)
{
    size_t dim = kv->head_dim;
    if (kv->type == KV_F16) {
        cpu->kernels.to_f16(x, dim, (uint16_t *)to + place * dim);
        return;
    }
    float s;
    int32_t sum;
    cpu->kernels.quantize(x, dim, (int8_t *)to + place * dim, &s, &sum);
    scales[place] = 1.0f / s;
}

static void kv_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct kv_call *c = call;
    const struct batch_view *b = c->batch;
    size_t heads = c->kv->n_kv_heads, dim = c->kv->head_dim;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        size_t position = (size_t)b->positions[i], sequence = (size_t)b->sequences[i];
        size_t block = (size_t)b->block_tables[sequence * b->max_blocks + position / KV_BLOCK_SIZE];
        for (size_t h = 0; h < heads; h++) {
            size_t place =
                ((c->layer * c->kv->n_blocks + block) * heads + h) * KV_BLOCK_SIZE + position % KV_BLOCK_SIZE;
            kv_store(cpu, c->kv, c->k + (i * heads + h) * dim, place, c->kv->k, c->kv->k_scale);
            kv_store(cpu, c->kv, c->v + (i * heads + h) * dim, place, c->kv->v, c->kv->v_scale);
        }
    }
}

void cpu_op_kv_write(struct backend *be, const struct kv_cache *kv, size_t layer, const struct batch_view *batch,
                     const float *k, const float *v)
{
    struct kv_call call = {.kv = kv, .layer = layer, .batch = batch, .k = k, .v = v};
    cpu_for((struct cpu *)be, batch->n, 2 * kv->n_kv_heads * kv->head_dim, kv_items, &call);
}
