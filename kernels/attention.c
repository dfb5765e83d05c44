/*
 * Causal attention over the paged cache. Rows of one sequence that follow each other share a pass over K and V: a tile is such rows,
 * as long as they end in the same segment. A unit is a tile and some of the query heads of one KV head. Threads take units, and walk
 * their segments in order; a unit that is a large part of all work is cut into its segments, which threads take one by one:
 *
 *   unit    | s0 s1 s2 s3 |     whole: one thread, merging as it goes
 *   unit    | s0 | s1 | s2 | s3 |   in pieces: each leaves its partial result, the thread that ends the last one merges them
 *
 * Both merge the same segments in the same order, so they give the same bits, and one barrier ends the operation either way.
 */
#include "kernels/arith.h"
#include "kernels/cpu.h"
#include "kernels/pool.h"

#define MAX_HEADS 16  /* query heads of a unit */
#define MAX_TILES 512 /* of one pass over the batch */
#define MAX_RESULT (CPU_MAX_QUERIES * (CPU_HEAD_STRIDE(KERNELS_MAX_HEAD_DIM) + 2))

/* ---- the reference kernels */

static float dot_half(const float *q, const uint16_t *k, size_t n)
{
    float lane[ARITH_LANES] = {0};
    for (size_t i = 0; i < n; i += ARITH_LANES)
        for (size_t l = 0; l < ARITH_LANES; l++)
            lane[l] = i + l < n ? arith_fma(arith_from_f16(arith_to_f16(q[i + l])), arith_from_f16(k[i + l]), lane[l])
                                : arith_fma(0.0f, 0.0f, lane[l]);
    return arith_tree(lane);
}

/* q to 16 bits; returns t. */
static float quantize_query(const float *q, size_t n, int16_t *out)
{
    float max = ARITH_QUANTIZE_MIN;
    for (size_t i = 0; i < n; i++) {
        float a = fabsf(q[i]);
        max = a < INFINITY && a > max ? a : max;
    }
    float t = ARITH_QUERY_MAX / max;
    for (size_t i = 0; i < n; i++)
        out[i] = (int16_t)rintf((fabsf(q[i]) < INFINITY ? q[i] : 0.0f) * t);
    return t;
}

/* Where position p of a segment lies, in positions. */
static size_t place_of(const struct attention_segment *s, size_t p)
{
    return (size_t)s->blocks[p / KV_BLOCK_SIZE] * (s->block_stride / s->head_dim) + p % KV_BLOCK_SIZE;
}

static void score_f16(const struct attention_segment *s, const float *q, size_t n_positions, float *p)
{
    for (size_t j = 0; j < n_positions; j++)
        p[j] = dot_half(q, (const uint16_t *)s->k + place_of(s, j) * s->head_dim, s->head_dim) * s->scale;
}

static void score_int8(const struct attention_segment *s, const float *q, size_t n_positions, float *p)
{
    int16_t rounded[KERNELS_MAX_HEAD_DIM];
    float factor = s->scale / quantize_query(q, s->head_dim, rounded);
    for (size_t j = 0; j < n_positions; j++) {
        const int8_t *k = (const int8_t *)s->k + place_of(s, j) * s->head_dim;
        int32_t sum = 0;
        for (size_t d = 0; d < s->head_dim; d++)
            sum += rounded[d] * k[d];
        p[j] = (float)sum * factor * s->k_scale[place_of(s, j)];
    }
}

/* out += p * position j of V. */
static void weigh(const struct attention_segment *s, size_t j, float p, float *out)
{
    size_t place = place_of(s, j);
    if (s->type == KV_F16) {
        const uint16_t *v = (const uint16_t *)s->v + place * s->head_dim;
        for (size_t d = 0; d < s->head_dim; d++)
            out[d] = arith_fma(p, arith_from_f16(v[d]), out[d]);
    } else {
        const int8_t *v = (const int8_t *)s->v + place * s->head_dim;
        for (size_t d = 0; d < s->head_dim; d++)
            out[d] = arith_fma(p * s->v_scale[place], (float)v[d], out[d]);
    }
}

static void attend_query(const struct attention_segment *s, size_t row, size_t head)
{
    size_t query = row * s->n_heads + head,
           n = s->n_positions + row < ARITH_SEGMENT ? s->n_positions + row : ARITH_SEGMENT;
    const float *q = s->q + row * s->q_stride + head * s->head_dim;
    float *out = s->out + query * CPU_HEAD_STRIDE(s->head_dim), p[ARITH_SEGMENT], lane[ARITH_LANES] = {0},
          max = -INFINITY;
    (s->type == KV_F16 ? score_f16 : score_int8)(s, q, n, p);
    for (size_t j = 0; j < n; j++)
        max = p[j] > max ? p[j] : max;
    for (size_t d = 0; d < s->head_dim; d++)
        out[d] = 0.0f;
    for (size_t j = 0; j < n; j++) {
        p[j] = arith_exp(p[j] - max);
        lane[j % ARITH_LANES] += p[j];
        weigh(s, j, p[j], out);
    }
    s->max[query] = max;
    s->sum[query] = arith_tree(lane);
}

void attention_segment_portable(const struct attention_segment *s)
{
    for (size_t row = 0; row < s->n_rows; row++)
        for (size_t head = 0; head < s->n_heads; head++)
            attend_query(s, row, head);
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

/* ---- the operation */

struct tile {
    size_t row, n_rows, n_positions, n_segments; /* positions: of its first row */
    size_t first_item;                           /* items of a tile: its units, or their pieces */
    bool in_pieces;
    size_t first_float;   /* in pieces: of [units][n_segments][result_floats] */
    size_t first_counter; /* in pieces: of [units] */
};

struct attention_call {
    const struct kv_cache *kv;
    const struct batch_view *batch;
    size_t layer, n_heads, group; /* group: query heads of a KV head */
    size_t n_chunks, chunk;       /* units of a KV head, query heads of all but the last */
    const float *q;
    float *y, scale;
    size_t n_tiles, n_items;
    struct tile tiles[MAX_TILES];
};

struct unit {
    const struct tile *tile;
    size_t kv_head, first_head, n_heads, n_queries;
};

/* What attention over some segments of a unit yields, in one array: [n_queries][stride], [n_queries], [n_queries]. */
struct result {
    float *out, *max, *sum;
};

static size_t units_of_tile(const struct attention_call *c)
{
    return c->kv->n_kv_heads * c->n_chunks;
}

static size_t result_floats(const struct attention_call *c, size_t n_rows)
{
    return n_rows * c->chunk * (CPU_HEAD_STRIDE(c->kv->head_dim) + 2);
}

static struct result result_at(const struct attention_call *c, const struct unit *u, float *floats)
{
    float *max = floats + u->n_queries * CPU_HEAD_STRIDE(c->kv->head_dim);
    return (struct result){floats, max, max + u->n_queries};
}

static struct unit unit_of(const struct attention_call *c, const struct tile *t, size_t index)
{
    struct unit u = {.tile = t, .kv_head = index / c->n_chunks};
    size_t skip = index % c->n_chunks * c->chunk;
    u.first_head = u.kv_head * c->group + skip;
    u.n_heads = c->group - skip < c->chunk ? c->group - skip : c->chunk;
    u.n_queries = t->n_rows * u.n_heads;
    return u;
}

static void attend(const struct cpu *cpu, const struct attention_call *c, const struct unit *u, size_t segment,
                   struct result r)
{
    const struct kv_cache *kv = c->kv;
    const struct batch_view *b = c->batch;
    size_t first = segment * ARITH_SEGMENT, left = u->tile->n_positions - first;
    size_t block_places = kv->n_kv_heads * KV_BLOCK_SIZE, stride = c->n_heads * kv->head_dim;
    size_t place = c->layer * kv->n_blocks * block_places + u->kv_head * KV_BLOCK_SIZE;
    size_t offset_bytes = place * kv->head_dim * KV_TYPE_BYTES(kv->type);
    struct attention_segment s = {.type = kv->type,
                                  .k = (const uint8_t *)kv->k + offset_bytes,
                                  .v = (const uint8_t *)kv->v + offset_bytes,
                                  .k_scale = kv->k_scale ? kv->k_scale + place : NULL,
                                  .v_scale = kv->v_scale ? kv->v_scale + place : NULL,
                                  .blocks = b->block_tables + (size_t)b->sequences[u->tile->row] * b->max_blocks +
                                            first / KV_BLOCK_SIZE,
                                  .block_stride = block_places * kv->head_dim,
                                  .n_positions = left < ARITH_SEGMENT ? left : ARITH_SEGMENT,
                                  .head_dim = kv->head_dim,
                                  .scale = c->scale,
                                  .n_rows = u->tile->n_rows,
                                  .n_heads = u->n_heads,
                                  .q = c->q + u->tile->row * stride + u->first_head * kv->head_dim,
                                  .q_stride = stride,
                                  .out = r.out,
                                  .max = r.max,
                                  .sum = r.sum};
    cpu->kernels.attention_segment(&s);
}

static void merge(const struct cpu *cpu, const struct attention_call *c, const struct unit *u, struct result a,
                  struct result b)
{
    size_t dim = c->kv->head_dim, stride = CPU_HEAD_STRIDE(dim);
    for (size_t i = 0; i < u->n_queries; i++)
        cpu->kernels.attention_merge(a.out + i * stride, a.max + i, a.sum + i, b.out + i * stride, b.max[i], b.sum[i],
                                     dim);
}

/* y = x / sum; the loop of constant length becomes vectors. */
static void divide(const float *restrict x, float sum, size_t n, float *restrict y)
{
    size_t d = 0;
    for (; d + ARITH_LANES <= n; d += ARITH_LANES)
        for (size_t l = 0; l < ARITH_LANES; l++)
            y[d + l] = x[d + l] / sum;
    for (; d < n; d++)
        y[d] = x[d] / sum;
}

static void finish(const struct attention_call *c, const struct unit *u, struct result r)
{
    size_t dim = c->kv->head_dim;
    for (size_t i = 0; i < u->n_queries; i++) {
        size_t row = u->tile->row + i / u->n_heads, head = u->first_head + i % u->n_heads;
        divide(r.out + i * CPU_HEAD_STRIDE(dim), r.sum[i], dim, c->y + (row * c->n_heads + head) * dim);
    }
}

static void whole_unit(const struct cpu *cpu, const struct attention_call *c, const struct unit *u)
{
    _Alignas(64) float floats[2][MAX_RESULT];
    struct result running = result_at(c, u, floats[0]), next = result_at(c, u, floats[1]);
    attend(cpu, c, u, 0, running);
    for (size_t s = 1; s < u->tile->n_segments; s++) {
        attend(cpu, c, u, s, next);
        merge(cpu, c, u, running, next);
    }
    finish(c, u, running);
}

/* The last thread to end a piece sees what the others wrote: their release, its acquire of the counter. */
static void piece_of_unit(struct cpu *cpu, const struct attention_call *c, const struct unit *u, size_t index,
                          size_t segment)
{
    const struct tile *t = u->tile;
    size_t n_floats = result_floats(c, t->n_rows);
    float *floats = cpu->pieces.partials + t->first_float + index * t->n_segments * n_floats;
    atomic_uint *n_done = &cpu->pieces.n_done[t->first_counter + index];
    attend(cpu, c, u, segment, result_at(c, u, floats + segment * n_floats));
    if (atomic_fetch_add_explicit(n_done, 1, memory_order_acq_rel) + 1 < t->n_segments)
        return;
    atomic_store_explicit(n_done, 0, memory_order_relaxed);
    struct result running = result_at(c, u, floats);
    for (size_t s = 1; s < t->n_segments; s++)
        merge(cpu, c, u, running, result_at(c, u, floats + s * n_floats));
    finish(c, u, running);
}

/* From the last item to the first: prompts come last in a batch, and their last rows have most to do. */
static void attention_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct attention_call *c = call;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        size_t item = c->n_items - 1 - i, low = 0, high = c->n_tiles;
        while (high - low > 1) {
            size_t middle = low + (high - low) / 2;
            *(c->tiles[middle].first_item <= item ? &low : &high) = middle;
        }
        const struct tile *t = &c->tiles[low];
        size_t index = (item - t->first_item) / (t->in_pieces ? t->n_segments : 1);
        struct unit u = unit_of(c, t, index);
        if (t->in_pieces)
            piece_of_unit(cpu, c, &u, index, (item - t->first_item) % t->n_segments);
        else
            whole_unit(cpu, c, &u);
    }
}

/* Cuts the rows from `row` on into tiles of at most max_rows; returns the first row that no tile holds. */
static size_t cut_tiles(struct attention_call *c, size_t row, size_t max_rows)
{
    const struct batch_view *b = c->batch;
    for (c->n_tiles = 0; row < b->n && c->n_tiles < MAX_TILES; c->n_tiles++) {
        size_t position = (size_t)b->positions[row], n = 1;
        while (n < max_rows && row + n < b->n && b->sequences[row + n] == b->sequences[row] &&
               (size_t)b->positions[row + n] == position + n && (position + n) % ARITH_SEGMENT)
            n++;
        c->tiles[c->n_tiles] = (struct tile){
            .row = row, .n_rows = n, .n_positions = position + 1, .n_segments = position / ARITH_SEGMENT + 1};
        row += n;
    }
    return row;
}

/* Decides which tiles go in pieces, and numbers the items; returns the work, in rows times positions times units. */
static size_t plan(const struct cpu *cpu, struct attention_call *c)
{
    size_t n_threads = (size_t)pool_size(cpu->base.pool), n_units = units_of_tile(c), work = 0, n_floats = 0,
           n_counters = 0;
    for (size_t i = 0; i < c->n_tiles; i++)
        work += c->tiles[i].n_rows * c->tiles[i].n_positions * n_units;
    c->n_items = 0;
    for (size_t i = 0; i < c->n_tiles; i++) {
        struct tile *t = &c->tiles[i];
        size_t needed = n_units * t->n_segments * result_floats(c, t->n_rows);
        t->first_item = c->n_items;
        t->in_pieces =
            n_threads > 1 && t->n_segments > 1 && needed <= cpu->pieces.n_floats - n_floats &&
            t->n_rows * t->n_positions * n_threads * CPU_UNITS_A_THREAD > work; /* so there are counters enough */
        t->first_float = n_floats;
        t->first_counter = n_counters;
        if (t->in_pieces) {
            n_floats += needed;
            n_counters += n_units;
        }
        c->n_items += n_units * (t->in_pieces ? t->n_segments : 1);
    }
    return work;
}

void cpu_op_attention(struct backend *be, const struct kv_cache *kv, size_t layer, const struct batch_view *batch,
                      const float *q, size_t n_heads, float *y)
{
    struct cpu *cpu = (struct cpu *)be;
    struct attention_call c;
    c.kv = kv;
    c.batch = batch;
    c.layer = layer;
    c.n_heads = n_heads;
    c.group = n_heads / kv->n_kv_heads;
    c.n_chunks = (c.group + MAX_HEADS - 1) / MAX_HEADS;
    c.chunk = (c.group + c.n_chunks - 1) / c.n_chunks;
    c.q = q;
    c.y = y;
    c.scale = 1.0f / sqrtf((float)kv->head_dim);
    /* Tiles as tall as leave units enough for all threads. */
    size_t rows = batch->n * units_of_tile(&c) / ((size_t)pool_size(be->pool) * CPU_UNITS_A_THREAD),
           most = CPU_MAX_QUERIES / c.chunk;
    rows = rows < 1 ? 1 : rows < most ? rows : most;
    for (size_t row = 0; row < batch->n;) {
        row = cut_tiles(&c, row, rows);
        size_t work = plan(cpu, &c);
        cpu_for_each(cpu, c.n_items, 2 * work / c.n_items * kv->head_dim, attention_items, &c);
    }
}
