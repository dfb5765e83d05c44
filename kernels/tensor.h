/*
 * tensor: the layouts of tensors in files. Blocks, little-endian:
 *
 *   Q4_0   32 weights in 18 bytes    f16 d, byte j: weight j in the low bits, 16 + j in the high ones    w = d * (q - 8)
 *   Q8_0   32 weights in 34 bytes    f16 d, int8 q[32]                                     w = d * q
 *   Q6_K   256 weights in 210 bytes  low 4 bits [128], high 2 bits [64], int8 scale[16], f16 d   w = d * scale * (q - 32)
 *   TQ1_0  256 weights in 54 bytes   5 trits a byte [48], 4 trits a byte [4], f16 d        w = d * (t - 1)
 *   TQ2_0  256 weights in 66 bytes   4 codes a byte [64], f16 d                            w = d * (c - 1)
 *   Q2_0   128 weights in 34 bytes, or 64 in 18  f16 d, 4 codes a byte from the low bits up    w = d * (c - 1)
 *   I2_S   flat over the tensor: element e is in block e / 128 (order 128) or e / 64 (order 64); f32 scale at byte n / 4
 *   TL1, TL2   see kernels/tensor_tl.c
 *
 * Stateless; any thread.
 */
#ifndef KERNELS_TENSOR_H
#define KERNELS_TENSOR_H

#include "kernels/kernels.h"

#define TENSOR_PACK_COLS 128 /* weights of a packed block: 32 bytes in I2S_ORDER_128 */

struct pool;

/* Bytes and weights of a block of a type; n_weights 0 when it is not understood. */
struct tensor_block {
    size_t n_weights, n_bytes;
};
struct tensor_block tensor_block(uint32_t type);
/* The same of a tensor, as Q2_0 has two. */
struct tensor_block tensor_view_block(const struct tensor_view *view);

/* Converts one row of n F32, F16, BF16, Q8_0, Q6_K or Q4_0 weights to f32. `src` needs no alignment. */
void tensor_row_f32(const void *src, size_t n, float *out);
void tensor_row_f16(const void *src, size_t n, float *out);
void tensor_row_bf16(const void *src, size_t n, float *out);
void tensor_row_q8_0(const void *src, size_t n, float *out);
void tensor_row_q6_k(const void *src, size_t n, float *out);
void tensor_row_q4_0(const void *src, size_t n, float *out);

/* Packs codes [n_cols], padded with code 1 to a multiple of 128, to I2S_ORDER_128. */
void tensor_pack_codes(const uint8_t *codes, size_t n_cols, uint8_t *out);

/* TL1 and TL2. The tiling is a function of the shape: false when that has none. */
bool tensor_tl_known(uint32_t type, size_t n_rows, size_t n_cols);
/* "1536 x 4096, ..." of the type, for messages. */
const char *tensor_tl_shapes(uint32_t type);
size_t tensor_tl_bytes(uint32_t type, size_t n_rows, size_t n_cols); /* without the scale; 0: too few columns, or overflow */
void tensor_tl_unpack(const struct tensor_view *view, size_t row, uint8_t *codes);

/* The layout that kernels read: rows of n_cols / 4 bytes (n_cols padded to 128) in I2S_ORDER_128. */
struct ternary_packed {
    const uint8_t *rows;
    size_t row_bytes, n_rows, n_cols; /* n_cols as in the file */
    float scale;
    uint8_t *owned;                   /* rows, when they were repacked (freed with free), or NULL: borrowed from the view */
    size_t owned_bytes;
};

/* Checks a view as ternary_open promises and yields its packed form; in parallel on `pool` (may be NULL). */
enum error_code ternary_prepare(struct pool *pool, const struct tensor_view *view, struct ternary_packed *out,
                                struct error *err);

#endif
