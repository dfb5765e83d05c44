/* Lookups of partial sums: repacking, the walk through a matrix, the portable kernels, and the layout. */
#include "kernels/tl1.h"

#include "kernels/layout.h"
#include "kernels/pool.h"

#include <string.h>

#define WALK_GROUPS ((size_t)16) /* that share tables in L1 */
#define UNPACK_GROUPS                                                                                                  \
    ((size_t)4) /* that become tiles together: packing the activations for them is then a small part */
#define BYTES(b) (0x0101010101010101u * (b)) /* that byte, 8 times */

#define FIRST -1, -1, -1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0
#define SECOND -1, 0, 1, -1, 0, 1, -1, 0, 1, 0, 0, 0, 0, 0, 0, 0
const int16_t tl1_weights[2][32] __attribute__((aligned(64))) = {{FIRST, FIRST}, {SECOND, SECOND}};

static size_t n_groups_of(size_t n_rows)
{
    return (n_rows + TL1_ROWS - 1) / TL1_ROWS;
}
static size_t group_bytes(size_t n_cols)
{
    return n_cols / TL1_COLS * TL1_BYTES;
}

size_t tl1_bytes(size_t n_rows, size_t n_cols)
{
    return n_groups_of(n_rows) * group_bytes(n_cols);
}

/* ---- repacking */

/* Codes of 8 columns, one a byte, from column `col` of a row, a multiple of 8. */
static uint64_t codes8(const uint8_t *row, size_t col)
{
    uint64_t bytes;
    memcpy(&bytes, row + col / 128 * 32 + col % 32, sizeof bytes);
    return bytes >> (6 - col % 128 / 32 * 2) & BYTES(3);
}

struct pack {
    const struct ternary_packed *packed;
    uint8_t *out;
};

static void pack_row(const uint8_t *row, size_t n_cols, uint8_t *out)
{
    for (size_t col = 0; col < n_cols; col += TL1_COLS, out += TL1_BYTES)
        for (size_t half = 0; half < 2; half++) {
            uint64_t x = 3 * codes8(row, col + 8 * half) + codes8(row, col + TILE_COLS + 8 * half);
            for (size_t i = 0; i < 4; i++, x >>= 16)
                out[(4 * half + i) * TL1_LINE] = (uint8_t)((x & 15) | (x >> 4 & 0xf0));
        }
}

static void pack_groups(void *arg, int thread, int n_threads)
{
    const struct pack *p = arg;
    const struct ternary_packed *w = p->packed;
    size_t begin, end, n_cols = w->row_bytes * 4;
    pool_range(n_groups_of(w->n_rows), thread, n_threads, &begin, &end);
    for (size_t g = begin; g < end; g++) {
        uint8_t *group = p->out + g * group_bytes(n_cols);
        if ((g + 1) * TL1_ROWS > w->n_rows)
            memset(group, 0x44, group_bytes(n_cols)); /* two weights 0, twice */
        for (size_t r = 0; r < TL1_ROWS && g * TL1_ROWS + r < w->n_rows; r++)
            pack_row(w->rows + (g * TL1_ROWS + r) * w->row_bytes, n_cols, group + r);
    }
}

void tl1_pack(struct pool *pool, const struct ternary_packed *packed, uint8_t *out)
{
    pool_run(pool, pack_groups, &(struct pack){.packed = packed, .out = out});
}

/* ---- kernels */

void tl1_walk(const struct matmul_tl1 *m, tl1_run_fn *run, tl1_finish_fn *finish)
{
    size_t n_blocks = m->n_cols / TL1_COLS, n_bytes = group_bytes(m->n_cols);
    for (size_t g0 = 0; g0 < m->n_groups; g0 += WALK_GROUPS) {
        size_t n_groups = m->n_groups - g0 < WALK_GROUPS ? m->n_groups - g0 : WALK_GROUPS;
        const uint8_t *group0 = m->blocks + g0 * n_bytes;
        int32_t sums[WALK_GROUPS][TL1_ROWS] __attribute__((aligned(64))) = {{0}};
        for (size_t b = 0; b < n_blocks; b += TL1_INT16_BLOCKS) {
            struct tl1_run r = {.blocks = group0 + b * TL1_BYTES,
                                .n_blocks = n_blocks - b < TL1_INT16_BLOCKS ? n_blocks - b : TL1_INT16_BLOCKS,
                                .tables = m->tables + b * TL1_INDICES * TL1_TABLE_BYTES};
            for (size_t g = 0; g < n_groups; g++, r.blocks += n_bytes) {
                r.next = g + 1 < n_groups ? r.blocks + n_bytes : group0 + (b + TL1_INT16_BLOCKS) * TL1_BYTES;
                run(&r, sums[g]);
            }
        }
        for (size_t g = 0; g < n_groups; g++) {
            size_t first = (g0 + g) * TL1_ROWS;
            float y[TL1_ROWS];
            finish(sums[g], m->q_scale, m->scale, y);
            memcpy(m->y + first, y, (m->n_rows - first < TL1_ROWS ? m->n_rows - first : TL1_ROWS) * sizeof *y);
        }
    }
}

/* A table: 16 int16. */
void tl1_tables_portable(const int8_t *q, size_t n_cols, uint8_t *tables)
{
    for (size_t col = 0; col < n_cols; col += TL1_COLS)
        for (size_t t = 0; t < TL1_INDICES; t++, tables += TL1_TABLE_BYTES) {
            int16_t table[16];
            for (size_t i = 0; i < 16; i++)
                table[i] = (int16_t)(tl1_weights[0][i] * q[col + t] + tl1_weights[1][i] * q[col + TILE_COLS + t]);
            memcpy(tables, table, sizeof table);
        }
}

static unsigned index_of(const uint8_t *block, size_t t, size_t r)
{
    return block[t / 2 * TL1_LINE + r] >> (4 * (t % 2)) & 15;
}

static void run_portable(const struct tl1_run *run, int32_t *sums)
{
    for (size_t b = 0; b < run->n_blocks; b++)
        for (size_t t = 0; t < TL1_INDICES; t++) {
            int16_t table[16];
            memcpy(table, run->tables + (b * TL1_INDICES + t) * TL1_TABLE_BYTES, sizeof table);
            for (size_t r = 0; r < TL1_ROWS; r++)
                sums[r] += table[index_of(run->blocks + b * TL1_BYTES, t, r)];
        }
}

static void finish_portable(const int32_t *sums, float q_scale, float scale, float *y)
{
    for (size_t r = 0; r < TL1_ROWS; r++)
        y[r] = (float)sums[r] / q_scale * scale;
}

void matmul_tl1_i8_portable(const struct matmul_tl1 *m)
{
    tl1_walk(m, run_portable, finish_portable);
}

void tl1_unpack_portable(const uint8_t *group, size_t n_cols, uint8_t *tiles)
{
    size_t n_tiles = n_cols / TILE_COLS;
    memset(tiles, 0, TL1_ROWS / TILE_ROWS * n_tiles * TILE_BYTES);
    for (size_t k = 0; k < n_tiles; k += 2, group += TL1_BYTES)
        for (size_t t = 0; t < TL1_INDICES; t++)
            for (size_t r = 0; r < TL1_ROWS; r++) {
                unsigned index = index_of(group, t, r), shift = (unsigned)(t / 4 * 2);
                uint8_t *tile = tiles + (r / TILE_ROWS * n_tiles + k) * TILE_BYTES + 4 * (r % TILE_ROWS) + t % 4;
                tile[0] |= (uint8_t)(index / 3 << shift);
                tile[TILE_BYTES] |= (uint8_t)(index % 3 << shift);
            }
}

/* ---- the layout; scratch: the tables of a token, or groups as tiles and what multiplying them needs */

static size_t unpacked_bytes(size_t n_cols)
{
    return tiles_bytes(UNPACK_GROUPS * TL1_ROWS, n_cols);
}

static size_t scratch_bytes(size_t n_cols)
{
    size_t one = n_cols / 2 * TL1_TABLE_BYTES, many = unpacked_bytes(n_cols) + matmul_scratch_bytes(n_cols);
    return one > many ? one : many;
}

/* Each thread makes its own: less time than waiting for parts that others make, and they are in its caches. */
static void prepare(const struct cpu *cpu, const struct matmul_call *c, uint8_t *scratch)
{
    if (c->n == 1)
        cpu->kernels.tl1_tables(c->a->q, c->w[0]->n_cols, scratch);
}

/* Several tokens times groups begin .. end - 1, at most UNPACK_GROUPS. */
static void multiply_unpacked(const struct cpu *cpu, const struct matmul_call *c, size_t mat, size_t begin, size_t end,
                              uint8_t *scratch)
{
    const struct cpu_ternary *w = (const struct cpu_ternary *)c->w[mat];
    size_t n_cols = w->base.n_cols, n_rows = layout_n_rows(w->layout, w->base.n_rows, begin, end);
    for (size_t g = begin; g < end; g++)
        cpu->kernels.tl1_unpack(w->data + g * group_bytes(n_cols), n_cols,
                                scratch + (g - begin) * tiles_bytes(TL1_ROWS, n_cols));
    struct matmul_tiles m = {.tiles = scratch,
                             .n_cols = n_cols,
                             .n_groups = tiles_n_groups(n_rows),
                             .n_rows = n_rows,
                             .q = c->a->q,
                             .q_stride = c->a->stride,
                             .q_scale = c->a->scale,
                             .q_sum = c->a->sum,
                             .n_tokens = c->n,
                             .scale = w->base.scale,
                             .y = c->y[mat] + begin * TL1_ROWS,
                             .y_stride = w->base.n_rows,
                             .scratch = scratch + unpacked_bytes(n_cols)};
    cpu->kernels.matmul_tiles_i8(&m);
}

static void multiply(const struct cpu *cpu, const struct matmul_call *c, size_t mat, size_t begin, size_t end,
                     uint8_t *scratch)
{
    const struct cpu_ternary *w = (const struct cpu_ternary *)c->w[mat];
    for (size_t g = begin; c->n > 1 && g < end; g += UNPACK_GROUPS)
        multiply_unpacked(cpu, c, mat, g, end - g < UNPACK_GROUPS ? end : g + UNPACK_GROUPS, scratch);
    if (c->n > 1)
        return;
    struct matmul_tl1 m = {.blocks = w->data + begin * group_bytes(w->base.n_cols),
                           .n_cols = w->base.n_cols,
                           .n_groups = end - begin,
                           .n_rows = layout_n_rows(w->layout, w->base.n_rows, begin, end),
                           .tables = scratch,
                           .q_scale = c->a->scale[0],
                           .scale = w->base.scale,
                           .y = c->y[mat] + begin * TL1_ROWS};
    cpu->kernels.matmul_tl1_i8(&m);
}

const struct cpu_layout layout_tl1 = {.format = TERNARY_TL1,
                                      .group_rows = TL1_ROWS,
                                      .bytes = tl1_bytes,
                                      .scratch_bytes = scratch_bytes,
                                      .pack = tl1_pack,
                                      .prepare = prepare,
                                      .multiply = multiply};
