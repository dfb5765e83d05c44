/*
 * Causal attention over the paged cache. A unit is one row and up to CPU_MAX_HEADS query heads that share a KV head. With
 * many units, a thread takes one and walks its segments; with few and a long context, segments are the items:
 *
 *   wave of segments   | s0 s1 s2 | s3 s4 s5 | ..   items (unit, segment) -> partials
 *   then per unit        merge in order, into the unit's running result
 *
 * Both merge the same segments in the same order, so they give the same bits.
 */
#include "kernels/arith.h"
#include "kernels/cpu.h"
#include "kernels/pool.h"

static float dot_half(const float *q, const uint16_t *k, size_t n)
{
    float lane[ARITH_LANES] = {0};
    for (size_t i = 0; i < n; i += ARITH_LANES)
        for (size_t l = 0; l < ARITH_LANES; l++)
            lane[l] = i + l < n ? arith_fma(q[i + l], arith_from_f16(k[i + l]), lane[l]) : arith_fma(0.0f, 0.0f, lane[l]);
    return arith_tree(lane);
}

/* Where position p of a segment lies. */
static const uint16_t *at(const struct attention_segment *s, const uint16_t *base, size_t p)
{
    return base + (size_t)s->blocks[p / KV_BLOCK_SIZE] * s->block_stride + p % KV_BLOCK_SIZE * s->head_dim;
}

static void segment_head(const struct attention_segment *s, size_t head)
{
    const float *q = s->q + head * s->head_dim;
    float *out = s->out + head * s->head_dim, p[ARITH_SEGMENT], lane[ARITH_LANES] = {0}, max = -INFINITY;
    for (size_t j = 0; j < s->n_positions; j++) {
        p[j] = dot_half(q, at(s, s->k, j), s->head_dim) * s->scale;
        max = p[j] > max ? p[j] : max;
    }
    for (size_t j = 0; j < s->n_positions; j++) {
        p[j] = arith_exp(p[j] - max);
        lane[j % ARITH_LANES] += p[j];
    }
    for (size_t d = 0; d < s->head_dim; d++)
        out[d] = 0.0f;
    for (size_t j = 0; j < s->n_positions; j++) {
        const uint16_t *v = at(s, s->v, j);
        for (size_t d = 0; d < s->head_dim; d++)
            out[d] = arith_fma(p[j], arith_from_f16(v[d]), out[d]);
    }
    s->max[head] = max;
    s->sum[head] = arith_tree(lane);
}

void attention_segment_portable(const struct attention_segment *s)
{
    for (size_t h = 0; h < s->n_heads; h++)
        segment_head(s, h);
}

void attention_merge_portable(float *out_a, float *max_a, float *sum_a, const float *out_b, float max_b, float sum_b,
                              size_t head_dim)
{
    float max = *max_a > max_b ? *max_a : max_b;
    float a = arith_exp(*max_a - max), b = arith_exp(max_b - max);
    for (size_t d = 0; d < head_dim; d++)
        out_a[d] = out_a[d] * a + out_b[d] * b;
    *sum_a = *sum_a * a + sum_b * b;
    *max_a = max;
}

struct attention_call {
    const struct kv_cache *kv;
    const struct batch_view *batch;
    size_t layer, n_heads, group; /* group: query heads of a KV head */
    size_t n_chunks;              /* units of a row and KV head */
    const float *q;
    float *y, scale;
    size_t first_segment, n_segments; /* of the wave */
};

/* One row and the query heads first_head .. first_head + n_heads - 1 of one KV head. */
struct unit {
    size_t row, kv_head, first_head, n_heads, n_positions, n_segments;
};

static struct unit unit_of(const struct attention_call *c, size_t index)
{
    size_t per_row = c->kv->n_kv_heads * c->n_chunks;
    struct unit u = {.row = index / per_row, .kv_head = index % per_row / c->n_chunks};
    size_t skip = index % c->n_chunks * CPU_MAX_HEADS;
    u.first_head = u.kv_head * c->group + skip;
    u.n_heads = c->group - skip < CPU_MAX_HEADS ? c->group - skip : CPU_MAX_HEADS;
    u.n_positions = (size_t)c->batch->positions[u.row] + 1;
    u.n_segments = (u.n_positions + ARITH_SEGMENT - 1) / ARITH_SEGMENT;
    return u;
}

/* Rounds the unit's query heads to F16. */
static void load_query(const struct cpu *cpu, const struct attention_call *c, const struct unit *u, float *q)
{
    uint16_t half[KERNELS_MAX_HEAD_DIM];
    size_t dim = c->kv->head_dim;
    for (size_t h = 0; h < u->n_heads; h++) {
        cpu->kernels.to_f16(c->q + (u->row * c->n_heads + u->first_head + h) * dim, dim, half);
        cpu->kernels.row_f16(half, dim, q + h * dim);
    }
}

static void attend_segment(const struct cpu *cpu, const struct attention_call *c, const struct unit *u, size_t segment,
                           const float *q, struct cpu_partial *out)
{
    const struct kv_cache *kv = c->kv;
    const struct batch_view *b = c->batch;
    size_t first = segment * ARITH_SEGMENT, left = u->n_positions - first;
    size_t head_stride = KV_BLOCK_SIZE * kv->head_dim, block_stride = kv->n_kv_heads * head_stride;
    size_t base = c->layer * kv->n_blocks * block_stride + u->kv_head * head_stride;
    struct attention_segment s = {
        .k = kv->k + base,
        .v = kv->v + base,
        .blocks = b->block_tables + (size_t)b->sequences[u->row] * b->max_blocks + first / KV_BLOCK_SIZE,
        .block_stride = block_stride,
        .n_positions = left < ARITH_SEGMENT ? left : ARITH_SEGMENT,
        .head_dim = kv->head_dim,
        .scale = c->scale,
        .n_heads = u->n_heads,
        .q = q,
        .out = out->out,
        .max = out->max,
        .sum = out->sum};
    cpu->kernels.attention_segment(&s);
}

static void merge(const struct cpu *cpu, const struct attention_call *c, const struct unit *u, struct cpu_partial *a,
                  const struct cpu_partial *b)
{
    size_t dim = c->kv->head_dim;
    for (size_t h = 0; h < u->n_heads; h++)
        cpu->kernels.attention_merge(a->out + h * dim, a->max + h, a->sum + h, b->out + h * dim, b->max[h], b->sum[h], dim);
}

static void finish(const struct attention_call *c, const struct unit *u, const struct cpu_partial *a)
{
    size_t dim = c->kv->head_dim;
    float *y = c->y + (u->row * c->n_heads + u->first_head) * dim;
    for (size_t h = 0; h < u->n_heads; h++)
        for (size_t d = 0; d < dim; d++)
            y[h * dim + d] = a->out[h * dim + d] / a->sum[h];
}

/* Items are units. */
static void unit_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct attention_call *c = call;
    float q[CPU_MAX_HEADS * KERNELS_MAX_HEAD_DIM];
    struct cpu_partial running, next;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        struct unit u = unit_of(c, i);
        load_query(cpu, c, &u, q);
        attend_segment(cpu, c, &u, 0, q, &running);
        for (size_t s = 1; s < u.n_segments; s++) {
            attend_segment(cpu, c, &u, s, q, &next);
            merge(cpu, c, &u, &running, &next);
        }
        finish(c, &u, &running);
    }
}

/* Items are (unit, segment of the wave). */
static void segment_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct attention_call *c = call;
    float q[CPU_MAX_HEADS * KERNELS_MAX_HEAD_DIM];
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        struct unit u = unit_of(c, i / c->n_segments);
        size_t segment = c->first_segment + i % c->n_segments;
        if (segment >= u.n_segments)
            continue;
        load_query(cpu, c, &u, q);
        attend_segment(cpu, c, &u, segment, q, &cpu->partials[i]);
    }
}

/* Items are units: joins the wave's partials to the running result. */
static void merge_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct attention_call *c = call;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        struct unit u = unit_of(c, i);
        struct cpu_partial *running = &cpu->partials[cpu->n_partials + i];
        const struct cpu_partial *wave = &cpu->partials[i * c->n_segments];
        for (size_t s = c->first_segment; s < c->first_segment + c->n_segments && s < u.n_segments; s++, wave++) {
            if (s == 0)
                *running = *wave;
            else
                merge(cpu, c, &u, running, wave);
            if (s + 1 == u.n_segments)
                finish(c, &u, running);
        }
    }
}

void cpu_op_attention(struct backend *be, const struct kv_cache *kv, size_t layer, const struct batch_view *batch,
                      const float *q, size_t n_heads, float *y)
{
    struct cpu *cpu = (struct cpu *)be;
    struct attention_call c = {.kv = kv, .batch = batch, .layer = layer, .n_heads = n_heads, .q = q, .y = y};
    c.group = n_heads / kv->n_kv_heads;
    c.n_chunks = (c.group + CPU_MAX_HEADS - 1) / CPU_MAX_HEADS;
    c.scale = 1.0f / sqrtf((float)kv->head_dim);
    size_t n_units = batch->n * kv->n_kv_heads * c.n_chunks, n_threads = (size_t)pool_size(be->pool), most = 0, total = 0;
    for (size_t i = 0; i < batch->n; i++) {
        size_t n_positions = (size_t)batch->positions[i] + 1;
        most = n_positions > most ? n_positions : most;
        total += n_positions;
    }
    size_t cost = 2 * total / batch->n * kv->head_dim;
    if (n_units >= 4 * n_threads || n_threads == 1 || most <= ARITH_SEGMENT) {
        cpu_for_each(cpu, n_units, cost, unit_items, &c);
        return;
    }
    c.n_segments = cpu->n_partials / n_units; /* n_units < 4 * n_threads <= n_partials */
    for (; c.first_segment * ARITH_SEGMENT < most; c.first_segment += c.n_segments) {
        cpu_for_each(cpu, n_units * c.n_segments, 2 * ARITH_SEGMENT * kv->head_dim, segment_items, &c);
        cpu_for(cpu, n_units, c.n_segments * kv->head_dim, merge_items, &c);
    }
}
