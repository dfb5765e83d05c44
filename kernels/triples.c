/* Triples: repacking, and the portable kernel. */
#include "kernels/triples.h"

#include "kernels/cpu.h"
#include "kernels/pool.h"

#include <string.h>

#define LINE 64
#define TOKENS 8 /* of the portable kernel's inner loop */

#define CODES_0 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 1, 1, 1, 1, 1
#define CODES_1 0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1
#define CODES_2 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1
_Alignas(64) const uint8_t triples_codes[3][64] = {{CODES_0, CODES_0}, {CODES_1, CODES_1}, {CODES_2, CODES_2}};

size_t triples_cols(size_t n_cols) { return (n_cols + TRIPLES_COLS - 1) / TRIPLES_COLS * TRIPLES_COLS; }

size_t triples_bytes(size_t n_rows, size_t n_cols)
{
    return tiles_n_groups(n_rows) * (triples_cols(n_cols) / TRIPLES_COLS) * TRIPLES_BYTES;
}

/* The 128 codes of a block of I2S_ORDER_128. */
static void unpack_block(const uint8_t *restrict block, uint8_t *restrict codes)
{
    for (int i = 0; i < 32; i++) {
        codes[i] = block[i] >> 6;
        codes[32 + i] = block[i] >> 4 & 3;
        codes[64 + i] = block[i] >> 2 & 3;
        codes[96 + i] = block[i] & 3;
    }
}

/* The codes of 384 columns from column c of a row in I2S_ORDER_128 on: whole blocks of both layouts. Code 1 beyond the row. */
#define SPAN 384
static void unpack_span(const struct ternary_packed *w, size_t r, size_t c, uint8_t *codes)
{
    for (size_t b = 0; b < SPAN; b += TENSOR_PACK_COLS, codes += TENSOR_PACK_COLS) {
        if ((c + b) / 4 >= w->row_bytes) {
            memset(codes, 1, TENSOR_PACK_COLS);
            continue;
        }
        unpack_block(w->rows + r * w->row_bytes + (c + b) / 4, codes);
    }
}

static uint32_t load4(const uint8_t *p)
{
    uint32_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

/* The four indices of each vector of one row, in the bytes of a word: none exceeds 26, so words are added as they are. They go to
 * bytes 4 row .. 4 row + 3 of the lines. */
static void pack_block(const uint8_t *restrict codes, size_t row, uint8_t *restrict block)
{
    const uint32_t low3 = 0x07070707u, low2 = 0x03030303u, one = 0x01010101u;
    uint32_t v[TRIPLES_VECTORS];
    for (size_t i = 0; i < TRIPLES_VECTORS; i++, codes += TRIPLES_STEP)
        v[i] = load4(codes) + 3 * load4(codes + 4) + 9 * load4(codes + 8);
    const uint32_t lines[5] = {
        v[0] | (v[5] & low3) << 5,
        v[1] | (v[6] & low3) << 5,
        v[2] | (v[7] & low3) << 5,
        v[3] | (v[5] >> 3 & low2) << 5 | (v[7] >> 3 & one) << 7,
        v[4] | (v[6] >> 3 & low2) << 5 | (v[7] >> 4 & one) << 7,
    };
    for (size_t i = 0; i < 5; i++)
        memcpy(block + LINE * i + 4 * row, &lines[i], sizeof lines[i]);
}

struct pack {
    const struct ternary_packed *packed;
    uint8_t *out;
};

static void pack_row(const struct ternary_packed *w, size_t r, size_t n_cols, uint8_t *group)
{
    uint8_t codes[SPAN];
    for (size_t c = 0; c < n_cols; c += TRIPLES_COLS, group += TRIPLES_BYTES) {
        if (c % SPAN == 0)
            unpack_span(w, r, c, codes);
        pack_block(codes + c % SPAN, r % TILE_ROWS, group);
    }
}

static void pack_groups(void *arg, int thread, int n_threads)
{
    const struct pack *p = arg;
    const struct ternary_packed *w = p->packed;
    size_t begin, end, n_cols = triples_cols(w->row_bytes * 4), group_bytes = n_cols / TRIPLES_COLS * TRIPLES_BYTES;
    uint8_t none[TRIPLES_COLS];
    memset(none, 1, sizeof none);
    pool_range(tiles_n_groups(w->n_rows), thread, n_threads, &begin, &end);
    for (size_t g = begin; g < end; g++) {
        uint8_t *group = p->out + g * group_bytes;
        for (size_t r = g * TILE_ROWS; r < (g + 1) * TILE_ROWS; r++) {
            if (r < w->n_rows)
                pack_row(w, r, n_cols, group);
            else
                for (size_t b = 0; b < group_bytes; b += TRIPLES_BYTES)
                    pack_block(none, r % TILE_ROWS, group + b);
        }
    }
}

void triples_pack(struct pool *pool, const struct ternary_packed *packed, uint8_t *out)
{
    pool_run(pool, pack_groups, &(struct pack){.packed = packed, .out = out});
}

/* The index in byte `at` of vector v's lines. */
static unsigned index_at(const uint8_t *at, size_t v)
{
    switch (v) {
    case 5: return at[0] >> 5 | (at[3 * LINE] >> 5 & 3u) << 3;
    case 6: return at[LINE] >> 5 | (at[4 * LINE] >> 5 & 3u) << 3;
    case 7: return at[2 * LINE] >> 5 | (unsigned)(at[3 * LINE] >> 7) << 3 | (unsigned)(at[4 * LINE] >> 7) << 4;
    default: return at[v * LINE] & 31u;
    }
}

/* The codes of one row of a block, in the order of the columns. */
static void unpack_row(const uint8_t *block, size_t row, uint8_t *codes)
{
    for (size_t v = 0; v < TRIPLES_VECTORS; v++)
        for (size_t j = 0; j < 4; j++) {
            unsigned index = index_at(block + 4 * row + j, v);
            for (size_t i = 0; i < 3; i++)
                codes[TRIPLES_STEP * v + 4 * i + j] = triples_codes[i][index];
        }
}

/* Sums of one row for up to TOKENS tokens. */
static void row_sums(const struct matmul_tiles *m, size_t row, size_t t0, size_t n, int32_t *sums)
{
    const uint8_t *block = m->tiles + row / TILE_ROWS * (m->n_cols / TRIPLES_COLS) * TRIPLES_BYTES;
    uint8_t codes[TRIPLES_COLS];
    for (size_t c = 0; c < m->n_cols; c += TRIPLES_COLS, block += TRIPLES_BYTES) {
        unpack_row(block, row % TILE_ROWS, codes);
        for (size_t t = 0; t < n; t++) {
            const int8_t *q = m->q + (t0 + t) * m->q_stride + c;
            for (size_t i = 0; i < TRIPLES_COLS; i++)
                sums[t] += codes[i] * q[i];
        }
    }
}

void matmul_triples_i8_portable(const struct matmul_tiles *m)
{
    for (size_t row = 0; row < m->n_rows; row++)
        for (size_t t0 = 0; t0 < m->n_tokens; t0 += TOKENS) {
            int32_t sums[TOKENS] = {0};
            size_t n = m->n_tokens - t0 < TOKENS ? m->n_tokens - t0 : TOKENS;
            row_sums(m, row, t0, n, sums);
            for (size_t t = t0; t < t0 + n; t++)
                m->y[t * m->y_stride + row] = (float)(sums[t - t0] - m->q_sum[t]) / m->q_scale[t] * m->scale;
        }
}
