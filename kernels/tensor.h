/*
 * tensor: the layouts of tensors in files. Blocks, little-endian:
 *
 *   Q8_0   32 weights in 34 bytes    f16 d, int8 q[32]                                     w = d * q
 *   Q6_K   256 weights in 210 bytes  low 4 bits [128], high 2 bits [64], int8 scale[16], f16 d   w = d * scale * (q - 32)
 *   TQ1_0  256 weights in 54 bytes   5 trits a byte [48], 4 trits a byte [4], f16 d        w = d * (t - 1)
 *   TQ2_0  256 weights in 66 bytes   4 codes a byte [64], f16 d                            w = d * (c - 1)
 *   I2_S   flat over the tensor: element e is in block e / 128 (order 128) or e / 64 (order 64); f32 scale at byte n / 4
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

/* Converts one row of n F32, F16, BF16, Q8_0 or Q6_K weights to f32. `src` needs no alignment. */
void tensor_row_f32(const void *src, size_t n, float *out);
void tensor_row_f16(const void *src, size_t n, float *out);
void tensor_row_bf16(const void *src, size_t n, float *out);
void tensor_row_q8_0(const void *src, size_t n, float *out);
void tensor_row_q6_k(const void *src, size_t n, float *out);

/* Unpacks row `row` of a ternary tensor to codes 0, 1, 2 (3 where the file is bad). codes: [n_cols]. */
void tensor_unpack_codes(const struct tensor_view *view, size_t row, uint8_t *codes);
/* Packs codes [n_cols], padded with code 1 to a multiple of 128, to I2S_ORDER_128. */
void tensor_pack_codes(const uint8_t *codes, size_t n_cols, uint8_t *out);

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
