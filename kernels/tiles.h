/*
 * tiles: the layout that the fastest ternary kernels read. Rows are taken in groups of 16; a tile is 16 rows x 16 columns in 64
 * bytes, a cache line:
 *
 *   byte 4 r + j of a tile holds, in bits 2 p and 2 p + 1, the code of row r, column 4 p + j     (p, j = 0..3, r = 0..15)
 *
 *                 columns 0 1 2 3   4 5 6 7   8 9 ..
 *      row  0     plane  0          1         2  3            bytes 0..3
 *      row  1                                                 bytes 4..7
 *      ...
 *
 * So a shift and a mask of one 512-bit load give 16 rows x 4 columns of codes, which meet 4 activations that are broadcast: each
 * 32-bit lane sums one row, and no sum crosses lanes. The same bytes, unpacked, are the B operand of an AMX tile product. Tiles of a group
 * follow each other by column, groups by row; rows beyond the last and columns beyond the file's hold code 1 (weight 0).
 */
#ifndef KERNELS_TILES_H
#define KERNELS_TILES_H

#include "kernels/kernels.h"
#include "kernels/tensor.h"

#define TILE_ROWS 16
#define TILE_COLS 16
#define TILE_BYTES 64

struct pool;

/* Groups of rows times tokens; y[t * y_stride + r], r < n_rows. Also of triples (kernels/triples.h), in their own blocks. */
struct matmul_tiles {
    const uint8_t *tiles;    /* [n_groups][n_cols / 16][64], 64-byte aligned */
    size_t n_cols;           /* whole tiles: a multiple of 128; whole blocks of triples: of 96 */
    size_t n_groups, n_rows; /* 16 (n_groups - 1) < n_rows <= 16 n_groups */
    const int8_t *q;         /* [n_tokens][q_stride] */
    size_t q_stride;
    const float *q_scale; /* [n_tokens] */
    const int32_t *q_sum; /* [n_tokens] */
    size_t n_tokens;
    float scale; /* of the weights */
    float *y;
    size_t y_stride;
    uint8_t *scratch; /* of this thread: matmul_scratch_bytes(n_cols), 64-byte aligned */
};

/* Room for the activations of a stripe of tokens, for the codes of two groups of rows, a byte each, for 16-bit sums of some groups of rows and
 * 32 tokens with two bytes an index, or for a band of weights, the tables of 128 tokens and their carries. */
#define MATMUL_STRIPE 48
#define MATMUL_SUMS_GROUPS 120 /* they stay in the second cache */
#define MATMUL_SUMS_BYTES (MATMUL_SUMS_GROUPS * TILE_ROWS * (2 * 32 + 2 * 8))
#define MATMUL_LOOKUP_BYTES (630 * 1024)
static inline size_t matmul_scratch_bytes(size_t n_cols)
{
    size_t stripe = MATMUL_STRIPE * n_cols, fixed = MATMUL_SUMS_BYTES > MATMUL_LOOKUP_BYTES ? MATMUL_SUMS_BYTES : MATMUL_LOOKUP_BYTES;
    return stripe > fixed ? stripe : fixed;
}

/* Groups of n_rows rows, and the bytes of their tiles. */
size_t tiles_n_groups(size_t n_rows);
size_t tiles_bytes(size_t n_rows, size_t n_cols);

/* Repacks rows in I2S_ORDER_128 into `out` (tiles_bytes of it), in parallel. */
void tiles_pack(struct pool *pool, const struct ternary_packed *packed, uint8_t *out);

#endif
