/* Tiles: repacking, and the portable kernel. */
#include "kernels/tiles.h"

#include "kernels/cpu.h"
#include "kernels/pool.h"

#include <string.h>

#define TOKENS 8 /* of the portable kernel's inner loop */

size_t tiles_n_groups(size_t n_rows) { return (n_rows + TILE_ROWS - 1) / TILE_ROWS; }

size_t tiles_bytes(size_t n_rows, size_t n_cols) { return tiles_n_groups(n_rows) * (n_cols / TILE_COLS) * TILE_BYTES; }

/* Byte b of four words becomes four bytes of `out`: element j of all. The words are four consecutive bytes of one plane. */
static inline uint32_t plane(uint32_t word, int shift) { return word >> shift & 0x03030303u; }

/* One block (128 columns, 32 bytes) of one row into the 8 tiles it is part of. Column 32 part + 4 i + j of the block is in bits
 * 6 - 2 part of byte 4 i + j; in its tile 2 part + i / 4 it goes to plane i % 4, byte 4 row + j. */
static void pack_block(const uint8_t *block, size_t row, uint8_t *tiles)
{
    for (size_t i = 0; i < 8; i += 4)
        for (int part = 0; part < 4; part++) {
            uint32_t packed = 0;
            for (size_t p = 0; p < 4; p++) {
                uint32_t word;
                memcpy(&word, block + 4 * (i + p), sizeof word);
                packed |= plane(word, 6 - 2 * part) << (2 * p);
            }
            memcpy(tiles + (2 * (size_t)part + i / 4) * TILE_BYTES + 4 * row, &packed, sizeof packed);
        }
}

struct pack {
    const struct ternary_packed *packed;
    uint8_t *out;
};

static void pack_groups(void *arg, int thread, int n_threads)
{
    const struct pack *p = arg;
    const struct ternary_packed *w = p->packed;
    size_t begin, end, group_bytes = w->row_bytes * TILE_ROWS;
    pool_range(tiles_n_groups(w->n_rows), thread, n_threads, &begin, &end);
    for (size_t g = begin; g < end; g++) {
        uint8_t *group = p->out + g * group_bytes;
        if ((g + 1) * TILE_ROWS > w->n_rows)
            memset(group, 0x55, group_bytes); /* code 1 everywhere */
        for (size_t r = 0; r < TILE_ROWS && g * TILE_ROWS + r < w->n_rows; r++) {
            const uint8_t *row = w->rows + (g * TILE_ROWS + r) * w->row_bytes;
            for (size_t b = 0; b < w->row_bytes; b += 32)
                pack_block(row + b, r, group + b / 32 * 8 * TILE_BYTES);
        }
    }
}

void tiles_pack(struct pool *pool, const struct ternary_packed *packed, uint8_t *out)
{
    pool_run(pool, pack_groups, &(struct pack){.packed = packed, .out = out});
}

/* Sums of one tile for one token, into one sum a row. */
static void tile_sums(const uint8_t *tile, const int8_t *q, int32_t *sums)
{
    for (int r = 0; r < TILE_ROWS; r++) {
        int32_t sum = 0;
        for (int p = 0; p < 4; p++)
            for (int j = 0; j < 4; j++)
                sum += (tile[4 * r + j] >> (2 * p) & 3) * q[4 * p + j];
        sums[r] += sum;
    }
}

void matmul_tiles_i8_portable(const struct matmul_tiles *m)
{
    size_t n_tiles = m->n_cols / TILE_COLS;
    for (size_t g = 0; g < m->n_groups; g++)
        for (size_t t0 = 0; t0 < m->n_tokens; t0 += TOKENS) {
            int32_t sums[TOKENS][TILE_ROWS] = {{0}};
            size_t n = m->n_tokens - t0 < TOKENS ? m->n_tokens - t0 : TOKENS;
            const uint8_t *tile = m->tiles + g * n_tiles * TILE_BYTES;
            for (size_t k = 0; k < n_tiles; k++, tile += TILE_BYTES)
                for (size_t t = 0; t < n; t++)
                    tile_sums(tile, m->q + (t0 + t) * m->q_stride + k * TILE_COLS, sums[t]);
            for (size_t t = t0; t < t0 + n; t++)
                for (size_t r = g * TILE_ROWS; r < m->n_rows && r < (g + 1) * TILE_ROWS; r++)
                    m->y[t * m->y_stride + r] =
                        (float)(sums[t - t0][r % TILE_ROWS] - m->q_sum[t]) / m->q_scale[t] * m->scale;
        }
}
