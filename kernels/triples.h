/*
 * triples: the TL2 layout. Three weights are one 5-bit index into tables of weights: 1.67 bits a weight instead of 2, and as a table
 * lookup yields the codes of 64 weights at once, no slower to unpack. Rows are taken in groups of 16; a block is 16 rows x 96 columns in
 * 320 bytes, five cache lines, and holds eight vectors of 64 indices:
 *
 *   byte 4 r + j of vector v is the index of row r, columns 12 v + j, 12 v + j + 4, 12 v + j + 8 of the block     (j = 0..3, r = 0..15):
 *   code(12 v + j) + 3 code(12 v + j + 4) + 9 code(12 v + j + 8)                                                  0..26
 *
 *   line     0       1       2       3               4               a byte of a line:
 *   bits 0-4 vector0 vector1 vector2 vector3         vector4         its own vector's index
 *   bits 5-7 5: 0-2  6: 0-2  7: 0-2  5: 3-4, 7: 3    6: 3-4, 7: 4    bits of vectors 5, 6, 7
 *
 * So the table of the first, second and third code turns a vector into the codes of 16 rows x 4 columns three times, in the order that
 * tiles have (kernels/tiles.h): each 32-bit lane sums one row. Blocks of a group follow each other by column, groups by row; rows beyond
 * the last and columns beyond the matrix' hold code 1 (weight 0).
 */
#ifndef KERNELS_TRIPLES_H
#define KERNELS_TRIPLES_H

#include "kernels/tiles.h"

#define TRIPLES_COLS 96  /* of a block */
#define TRIPLES_BYTES 320
#define TRIPLES_VECTORS 8
#define TRIPLES_STEP 12  /* columns of a vector */

/* Columns of a matrix when padded to whole blocks, and the bytes of its blocks. */
size_t triples_cols(size_t n_cols);
size_t triples_bytes(size_t n_rows, size_t n_cols);

/* Repacks rows in I2S_ORDER_128 into `out` (triples_bytes of it), in parallel. */
void triples_pack(struct pool *pool, const struct ternary_packed *packed, uint8_t *out);

/* [3][64]: the codes of the indices 0..26, repeated from 32 on, as a table of 64 is looked up by 6 bits of which one is another's. */
extern const uint8_t triples_codes[3][64];

/* A byte for each code of one group, [n_cols / 4][16 rows][4 columns]: whole blocks, then code 0 up to n_cols, a multiple of 4. AVX-512
 * with VBMI only. */
void triples_unpack_vbmi(const uint8_t *group, size_t n_cols, uint8_t *panel);

#endif
