/*
 * Ternary weights times int8 activations. Codes are 0, 1, 2 for -1, 0, +1, so a sum over codes exceeds the wanted one by the
 * sum of the activations, which op_quantize left beside them.
 */
#include "kernels/cpu.h"
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
static bool grow_panels(struct cpu *cpu, size_t n_cols)
{
    size_t panel_bytes = TILES_PANEL_BYTES(n_cols);
    if (panel_bytes <= cpu->panel_bytes)
        return true;
    uint8_t *panels = aligned_alloc(64, (size_t)pool_size(cpu->base.pool) * panel_bytes);
    if (!panels)
        return false;
    free(cpu->panels);
    cpu->panels = panels;
    cpu->panel_bytes = panel_bytes;
    return true;
}

/* Turns rows into tiles and gives the rows back. */
static bool repack(struct cpu *cpu, struct cpu_ternary *w)
{
    struct ternary_packed *p = &w->packed;
    size_t n_bytes = tiles_bytes(p->n_rows, p->row_bytes * 4);
    if (!grow_panels(cpu, p->row_bytes * 4) || !(w->tiles = memory_alloc_weights(n_bytes)))
        return false;
    tiles_pack(cpu->base.pool, p, w->tiles);
    free(p->owned);
    p->owned = NULL;
    p->rows = NULL;
    w->base.memory_bytes = n_bytes;
    return true;
}

enum error_code cpu_ternary_open(struct backend *be, const struct ternary_packed *packed, struct ternary **out,
                                 struct error *err)
{
    struct cpu *cpu = (struct cpu *)be;
    struct cpu_ternary *w = calloc(1, sizeof *w);
    if (!w)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a matrix");
    w->packed = *packed;
    w->base = (struct ternary){.format = TERNARY_I2S,
                               .n_rows = packed->n_rows,
                               .n_cols = packed->row_bytes * 4,
                               .scale = packed->scale,
                               .memory_bytes = packed->owned_bytes};
    if (!cpu->map_weights && !repack(cpu, w)) {
        free(w);
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for %zu bytes of repacked weights",
                         tiles_bytes(packed->n_rows, packed->row_bytes * 4));
    }
    *out = &w->base;
    return ERROR_NONE;
}

void cpu_ternary_close(struct backend *be, struct ternary *w)
{
    struct cpu_ternary *t = (struct cpu_ternary *)w;
    (void)be;
    free(t->packed.owned);
    memory_free_weights(t->tiles);
    free(t);
}

struct matmul_call {
    const struct ternary *const *w;
    float *const *y;
    size_t n_mats;
    const struct activations *a;
    size_t n;
};

/* Rows begin .. end - 1 of one mapped matrix, in tiles. */
static void matmul_rows(const struct cpu *cpu, const struct matmul_call *c, size_t mat, size_t begin, size_t end)
{
    const struct cpu_ternary *w = (const struct cpu_ternary *)c->w[mat];
    size_t row_bytes = w->packed.row_bytes, tile = L1_BYTES / row_bytes & ~(size_t)7;
    if (tile < 8)
        tile = 8;
    if (c->n == 1)
        tile = end - begin;
    for (size_t r = begin; r < end; r += tile) {
        struct matmul_tile t = {.rows = w->packed.rows + r * row_bytes,
                                .row_bytes = row_bytes,
                                .n_rows = end - r < tile ? end - r : tile,
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

/* Groups begin .. end - 1 of one repacked matrix. */
static void matmul_groups(const struct cpu *cpu, const struct matmul_call *c, size_t mat, size_t begin, size_t end, int thread)
{
    const struct cpu_ternary *w = (const struct cpu_ternary *)c->w[mat];
    size_t n_cols = w->base.n_cols, row = begin * TILE_ROWS, last = end * TILE_ROWS;
    struct matmul_tiles m = {.tiles = w->tiles + begin * (n_cols / TILE_COLS) * TILE_BYTES,
                             .n_cols = n_cols,
                             .n_groups = end - begin,
                             .n_rows = (last < w->base.n_rows ? last : w->base.n_rows) - row,
                             .q = c->a->q,
                             .q_stride = c->a->stride,
                             .q_scale = c->a->scale,
                             .q_sum = c->a->sum,
                             .n_tokens = c->n,
                             .scale = w->packed.scale,
                             .y = c->y[mat] + row,
                             .y_stride = w->base.n_rows,
                             .panel = cpu->panels + (size_t)thread * cpu->panel_bytes};
    cpu->kernels.matmul_tiles_i8(&m);
}

/* Items are groups of 16 rows of all matrices, one after the other. */
static void matmul_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct matmul_call *c = call;
    size_t first = 0;
    for (size_t m = 0; m < c->n_mats; m++) {
        size_t n_rows = c->w[m]->n_rows, last = first + tiles_n_groups(n_rows);
        size_t from = begin > first ? begin : first, to = end < last ? end : last;
        if (from < to && ((const struct cpu_ternary *)c->w[m])->tiles)
            matmul_groups(cpu, c, m, from - first, to - first, thread);
        else if (from < to)
            matmul_rows(cpu, c, m, (from - first) * TILE_ROWS,
                        (to - first) * TILE_ROWS < n_rows ? (to - first) * TILE_ROWS : n_rows);
        first = last;
    }
}

void cpu_op_matmul(struct backend *be, const struct ternary *const *w, float *const *y, size_t n_mats,
                   const struct activations *a, size_t n)
{
    struct matmul_call call = {.w = w, .y = y, .n_mats = n_mats, .a = a, .n = n};
    size_t n_groups = 0;
    for (size_t m = 0; m < n_mats; m++)
        n_groups += tiles_n_groups(w[m]->n_rows);
    cpu_for((struct cpu *)be, n_groups, TILE_ROWS * w[0]->n_cols * n / 4, matmul_items, &call);
}
