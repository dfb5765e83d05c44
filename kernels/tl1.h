/*
 * tl1: the layout of lookups of partial sums. For one token, the sums that two weights can give with their activations are put in a
 * table; a row then looks its sum up instead of multiplying. (The idea of bitnet.cpp's TL1 and of T-MAC; with entries of 16 bits and
 * sums that cannot overflow, so that the integers are those of all formats.)
 *
 * The index of two weights is 3 code(first) + code(second), 0..8. Rows are taken in groups of 64, columns in blocks of 32: index t of a
 * block has the columns t and 16 + t, so that a block is two tiles (kernels/tiles.h) and the first weights of its indices are one of
 * them. A block is 8 cache lines; byte r of a line belongs to row r:
 *
 *             bits  7 6 5 4    3 2 1 0
 *   line 0          index 1    index 0
 *   line 1          index 3    index 2
 *   ...
 *
 * So one register holds the same index of 32 or 64 rows: one table serves it all, and no sum crosses lanes. Blocks of a group follow each
 * other by column, groups by row: a token reads memory from front to back. Rows beyond the last and columns beyond the file's
 * hold weight 0.
 *
 * An entry is at most 2 * 128 in size: 256 * 16 * TL1_INT16_BLOCKS = 28672 fits int16, whatever the data; sums are widened to 32 bits
 * after that many blocks.
 *
 * Several tokens share the work of turning groups back into tiles, which are then multiplied.
 */
#ifndef KERNELS_TL1_H
#define KERNELS_TL1_H

#include "kernels/kernels.h"
#include "kernels/tensor.h"

#define TL1_ROWS 64
#define TL1_COLS 32    /* of a block */
#define TL1_INDICES 16 /* of a block */
#define TL1_LINE 64    /* bytes */
#define TL1_BYTES (TL1_INDICES / 2 * TL1_LINE)
#define TL1_TABLE_BYTES 64 /* of an index; each instruction set arranges its entries */
#define TL1_INT16_BLOCKS 7

struct pool;

/* One token: y[r], r < n_rows. */
struct matmul_tl1 {
    const uint8_t *blocks;   /* [n_groups][n_cols / 32][512], 64-byte aligned */
    size_t n_cols;           /* a multiple of 128 */
    size_t n_groups, n_rows; /* 64 (n_groups - 1) < n_rows <= 64 n_groups */
    const uint8_t *tables;   /* [n_cols / 2][64], by tl1_tables of the same instruction set; 64-byte aligned */
    float q_scale, scale;    /* of the token and of the weights */
    float *y;
};

/* Blocks of one group: what the inner kernels work on. */
struct tl1_run {
    const uint8_t *blocks;
    const uint8_t *next; /* as many bytes are read after these: to be prefetched; may point behind the matrix */
    size_t n_blocks;     /* 1..TL1_INT16_BLOCKS */
    const uint8_t *tables;
};
/* Adds to sums [64], 64-byte aligned, whose order is the instruction set's own. */
typedef void tl1_run_fn(const struct tl1_run *run, int32_t *sums);
/* y[r] = sum of row r / q_scale * scale, r < 64. */
typedef void tl1_finish_fn(const int32_t *sums, float q_scale, float scale, float *y);

/* matmul_tl1_i8 by those two. Goes through 16 groups together, TL1_INT16_BLOCKS blocks of each in turn, so that the tables of these blocks
 * are read from L1: tables of whole rows would come from L2 for each group, and they are as many bytes as its weights. */
void tl1_walk(const struct matmul_tl1 *m, tl1_run_fn *run, tl1_finish_fn *finish);

/* The two weights of an index, twice 16 entries; 9 to 15 do not occur. */
extern const int16_t tl1_weights[2][32];

/* Bytes of n_rows x n_cols weights; repacks rows in I2S_ORDER_128 into `out` (so many bytes), in parallel. */
size_t tl1_bytes(size_t n_rows, size_t n_cols);
void tl1_pack(struct pool *pool, const struct ternary_packed *packed, uint8_t *out);

#endif
