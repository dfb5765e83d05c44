/*
 * Ternary weights times int8 activations. Codes are 0, 1, 2 for -1, 0, +1, so a sum over codes exceeds the wanted one by the
 * sum of the activations, which op_quantize left beside them.
 */
#include "kernels/layout.h"
#include "kernels/memory.h"
#include "kernels/pool.h"

#include <stdlib.h>

#define L1_BYTES ((size_t)16384) /* of weights: they stay in L1 while the tokens pass */
#define TOKENS 8                   /* of the portable kernel's inner loop */

/* 128 codes of a block, in order. */
static void unpack_block(const uint8_t *block, int8_t *codes)
{
    for (int i = 0; i < 32; i++) {
        codes[i] = (int8_t)(block[i] >> 6);
        codes[32 + i] = block[i] >> 4 & 3;
        codes[64 + i] = block[i] >> 2 & 3;
        codes[96 + i] = block[i] & 3;
    }
}

/* Sums of codes times activations for one row and up to TOKENS tokens. */
static void row_sums(const uint8_t *row, size_t row_bytes, const int8_t *q, size_t q_stride, size_t n_tokens, int32_t *sums)
{
    int8_t codes[TENSOR_PACK_COLS];
    for (size_t t = 0; t < n_tokens; t++)
        sums[t] = 0;
    for (size_t b = 0; b < row_bytes; b += 32, q += TENSOR_PACK_COLS) {
        unpack_block(row + b, codes);
        for (size_t t = 0; t < n_tokens; t++) {
            const int8_t *a = q + t * q_stride;
            int32_t sum = 0;
            for (int i = 0; i < TENSOR_PACK_COLS; i++)
                sum += codes[i] * a[i];
            sums[t] += sum;
        }
    }
}

void matmul_i2s_i8_portable(const struct matmul_tile *m)
{
    int32_t sums[TOKENS];
    for (size_t t0 = 0; t0 < m->n_tokens; t0 += TOKENS) {
        size_t n = m->n_tokens - t0 < TOKENS ? m->n_tokens - t0 : TOKENS;
        for (size_t r = 0; r < m->n_rows; r++) {
            row_sums(m->rows + r * m->row_bytes, m->row_bytes, m->q + t0 * m->q_stride, m->q_stride, n, sums);
            for (size_t t = 0; t < n; t++)
                m->y[(t0 + t) * m->y_stride + r] =
                    (float)(sums[t] - m->q_sum[t0 + t]) / m->q_scale[t0 + t] * m->scale;
        }
    }
}

/* Scratch for the widest matrix, so that no operation allocates. */
static bool grow_scratch(struct cpu *cpu, size_t n_bytes)
{
    n_bytes = (n_bytes + 63) / 64 * 64;
    if (n_bytes <= cpu->scratch_bytes)
        return true;
    uint8_t *scratch = aligned_alloc(64, (size_t)pool_size(cpu->base.pool) * n_bytes);
    if (!scratch)
        return false;
    free(cpu->scratch);
    cpu->scratch = scratch;
    cpu->scratch_bytes = n_bytes;
    return true;
}

/* Brings rows into the matrix's layout and gives the rows back. */
static bool repack(struct cpu *cpu, struct cpu_ternary *w)
{
    const struct cpu_layout *l = w->layout;
    struct ternary_packed *p = &w->packed;
    w->base.memory_bytes = l->bytes(w->base.n_rows, w->base.n_cols);
    if (!grow_scratch(cpu, l->scratch_bytes(w->base.n_cols)) || !(w->data = memory_alloc_weights(cpu, w->base.memory_bytes)))
        return false;
    placement_of_rows(&cpu->placement, w->data, layout_n_groups(l, w->base.n_rows), l->bytes(l->group_rows, w->base.n_cols));
    l->pack(cpu->base.pool, p, w->data);
    free(p->owned);
    p->owned = NULL;
    p->rows = NULL;
    return true;
}

static const struct cpu_layout *choose_layout(const struct cpu *cpu, enum ternary_format format)
{
    if (cpu->map_weights)
        return &layout_rows;
    if (format == TERNARY_AUTO)
        format = cpu->base.info.auto_format;
    return format == TERNARY_TL1 ? &layout_tl1 : format == TERNARY_TL2 ? &layout_triples : &layout_tiles;
}

enum error_code cpu_ternary_open(struct backend *be, const struct ternary_packed *packed, enum ternary_format format,
                                 struct ternary **out, struct error *err)
{
    struct cpu *cpu = (struct cpu *)be;
    struct cpu_ternary *w = calloc(1, sizeof *w);
    if (!w)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a matrix");
    w->layout = choose_layout(cpu, format);
    w->packed = *packed;
    w->base = (struct ternary){.format = w->layout->format,
                               .n_rows = packed->n_rows,
                               .n_cols = packed->row_bytes * 4,
                               .scale = packed->scale,
                               .memory_bytes = packed->owned_bytes};
    if (w->layout->pack && !repack(cpu, w)) {
        size_t n_bytes = w->base.memory_bytes;
        free(w);
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for %zu bytes of repacked weights", n_bytes);
    }
    *out = &w->base;
    return ERROR_NONE;
}

void cpu_ternary_close(struct backend *be, struct ternary *w)
{
    struct cpu_ternary *t = (struct cpu_ternary *)w;
    (void)be;
    free(t->packed.owned);
    memory_free_weights(t->data);
    free(t);
}

bool cpu_ternary_share(struct backend *be, const struct ternary *w)
{
    const struct cpu_layout *l = ((const struct cpu_ternary *)w)->layout;
    return !l->scratch_bytes || grow_scratch((struct cpu *)be, l->scratch_bytes(w->n_cols));
}

/* Mapped rows, as many at once as stay in L1 while the tokens pass. */
static void multiply_rows(const struct cpu *cpu, const struct matmul_call *c, size_t mat, size_t begin, size_t end,
                          uint8_t *scratch)
{
    const struct cpu_ternary *w = (const struct cpu_ternary *)c->w[mat];
    size_t row_bytes = w->packed.row_bytes, tile = L1_BYTES / row_bytes & ~(size_t)7;
    size_t first = begin * TILE_ROWS, last = first + layout_n_rows(&layout_rows, w->base.n_rows, begin, end);
    (void)scratch;
    if (tile < 8)
        tile = 8;
    if (c->n == 1)
        tile = last - first;
    for (size_t r = first; r < last; r += tile) {
        struct matmul_tile t = {.rows = w->packed.rows + r * row_bytes,
                                .row_bytes = row_bytes,
                                .n_rows = last - r < tile ? last - r : tile,
                                .q = c->a->q,
                                .q_stride = c->a->stride,
                                .q_scale = c->a->scale,
                                .q_sum = c->a->sum,
                                .n_tokens = c->n,
                                .scale = w->packed.scale,
                                .y = c->y[mat] + r,
                                .y_stride = w->packed.n_rows};
        cpu->kernels.matmul_i2s_i8(&t);
    }
}

const struct cpu_layout layout_rows = {.format = TERNARY_I2S, .group_rows = TILE_ROWS, .multiply = multiply_rows};

/* Groups begin .. end - 1 of tiles or triples, n_cols columns in group_bytes bytes a group. */
static void multiply_groups(matmul_tiles_i8_fn *kernel, const struct matmul_call *c, size_t mat, size_t n_cols,
                            size_t group_bytes, size_t begin, size_t end, uint8_t *scratch)
{
    const struct cpu_ternary *w = (const struct cpu_ternary *)c->w[mat];
    struct matmul_tiles m = {.tiles = w->data + begin * group_bytes,
                             .n_cols = n_cols,
                             .n_groups = end - begin,
                             .n_rows = layout_n_rows(w->layout, w->base.n_rows, begin, end),
                             .q = c->a->q,
                             .q_stride = c->a->stride,
                             .q_scale = c->a->scale,
                             .q_sum = c->a->sum,
                             .n_tokens = c->n,
                             .scale = w->base.scale,
                             .y = c->y[mat] + begin * TILE_ROWS,
                             .y_stride = w->base.n_rows,
                             .scratch = scratch};
    kernel(&m);
}

static void multiply_tiles(const struct cpu *cpu, const struct matmul_call *c, size_t mat, size_t begin, size_t end,
                           uint8_t *scratch)
{
    size_t n_cols = c->w[mat]->n_cols;
    multiply_groups(cpu->kernels.matmul_tiles_i8, c, mat, n_cols, tiles_bytes(1, n_cols), begin, end, scratch);
}

static void multiply_triples(const struct cpu *cpu, const struct matmul_call *c, size_t mat, size_t begin, size_t end,
                             uint8_t *scratch)
{
    size_t n_cols = triples_cols(c->w[mat]->n_cols);
    multiply_groups(cpu->kernels.matmul_triples_i8, c, mat, n_cols, triples_bytes(1, n_cols), begin, end, scratch);
}

static size_t scratch_bytes(size_t n_cols) { return matmul_scratch_bytes(triples_cols(n_cols)); }

const struct cpu_layout layout_tiles = {.format = TERNARY_I2S,
                                        .group_rows = TILE_ROWS,
                                        .bytes = tiles_bytes,
                                        .scratch_bytes = scratch_bytes,
                                        .pack = tiles_pack,
                                        .multiply = multiply_tiles};

const struct cpu_layout layout_triples = {.format = TERNARY_TL2,
                                          .group_rows = TILE_ROWS,
                                          .bytes = triples_bytes,
                                          .scratch_bytes = scratch_bytes,
                                          .pack = triples_pack,
                                          .multiply = multiply_triples};

static const struct cpu_layout *layout_of(const struct ternary *w) { return ((const struct cpu_ternary *)w)->layout; }

/* Items are groups of rows: node after node, of each all matrices, so that threads work on what lies on their node. */
static void matmul_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct matmul_call *c = call;
    const struct cpu_layout *prepared = NULL;
    uint8_t *scratch = cpu->scratch + (size_t)thread * cpu->scratch_bytes;
    size_t first = 0, n_parts = (size_t)cpu->placement.n_nodes * c->n_mats;
    for (size_t i = 0; i < n_parts; i++) {
        size_t m = i % c->n_mats, node_begin, node_end;
        const struct cpu_layout *l = layout_of(c->w[m]);
        placement_range(&cpu->placement, (int)(i / c->n_mats), layout_n_groups(l, c->w[m]->n_rows), &node_begin, &node_end);
        size_t last = first + (node_end - node_begin);
        size_t from = begin > first ? begin : first, to = end < last ? end : last;
        if (from < to) {
            if (l->prepare && l != prepared)
                l->prepare(cpu, c, scratch);
            prepared = l;
            l->multiply(cpu, c, m, node_begin + from - first, node_begin + to - first, scratch);
        }
        first = last;
    }
}

void cpu_op_matmul(struct backend *be, const struct ternary *const *w, float *const *y, size_t n_mats,
                   const struct activations *a, size_t n)
{
    struct matmul_call call = {.w = w, .y = y, .n_mats = n_mats, .a = a, .n = n};
    size_t n_groups = 0;
    for (size_t m = 0; m < n_mats; m++)
        n_groups += layout_n_groups(layout_of(w[m]), w[m]->n_rows);
    cpu_for((struct cpu *)be, n_groups, layout_of(w[0])->group_rows * w[0]->n_cols * n / 4, matmul_items, &call);
}
