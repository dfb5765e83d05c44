/*
 * Tiles of ternary weights times int8 activations, plain NEON. A quarter of a tile (4 rows) is one load; a shift and a mask give 4 rows x 4
 * columns of codes, which meet 4 broadcast activations in widening multiply-adds: 8 lanes of int16 are 2 rows x 4 columns. A lane takes 4
 * products of at most 256 in size from a tile; after 32 tiles 32768 is reached on the negative side only, which int16 holds.
 */
#include "kernels/arm/ternary.h"

#define INT16_TILES ((size_t)32)

/* Adds plane p of Q quarters, whose codes are given, times the activations of T tokens. */
#define ADD_PLANE(p)                                                                                                   \
    _Pragma("GCC unroll 4") for (int j = 0; j < T; j++)                                                                \
    {                                                                                                                  \
        int8x16_t four = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x[j]), p));                         \
        _Pragma("GCC unroll 4") for (int i = 0; i < Q; i++)                                                            \
        {                                                                                                              \
            low[i * T + j] = vmlal_s8(low[i * T + j], vget_low_s8(codes[i][p]), vget_low_s8(four));                    \
            high[i * T + j] = vmlal_high_s8(high[i * T + j], codes[i][p], four);                                       \
        }                                                                                                              \
    }

/* Adds tiles k .. end - 1 of Q quarters times T tokens to sums[Q * T], a pair for each: of the lower and the upper two rows. */
ALWAYS_INLINE void add_tiles(const uint8_t *tile, const int8_t *q, size_t q_stride, size_t n_tiles, const int Q,
                             const int T, int32x4x2_t *sums)
{
    int16x8_t low[8], high[8];
#pragma GCC unroll 8
    for (int i = 0; i < Q * T; i++)
        low[i] = high[i] = vdupq_n_s16(0);
    for (size_t k = 0; k < n_tiles; k++, tile += TILE_BYTES, q += TILE_COLS) {
        int8x16_t codes[4][4], x[4];
#pragma GCC unroll 4
        for (int j = 0; j < T; j++)
            x[j] = vld1q_s8(q + (size_t)j * q_stride);
#pragma GCC unroll 4
        for (int i = 0; i < Q; i++)
            unpack(tile + 16 * i, codes[i]);
        ADD_PLANE(0)
        ADD_PLANE(1)
        ADD_PLANE(2)
        ADD_PLANE(3)
    }
#pragma GCC unroll 8
    for (int i = 0; i < Q * T; i++) {
        sums[i].val[0] = vpadalq_s16(sums[i].val[0], low[i]);
        sums[i].val[1] = vpadalq_s16(sums[i].val[1], high[i]);
    }
}

/* T tokens and Q quarters of a group from `quarter` on; Q * T is at most 8, so that all sums stay in registers. */
ALWAYS_INLINE void tokens(const struct matmul_tiles *m, size_t g, size_t quarter, size_t t, const int Q, const int T)
{
    size_t n_tiles = m->n_cols / TILE_COLS;
    const uint8_t *tiles = m->tiles + g * n_tiles * TILE_BYTES + 16 * quarter;
    const int8_t *q = m->q + t * m->q_stride;
    int32x4x2_t sums[8];
#pragma GCC unroll 8
    for (int i = 0; i < Q * T; i++)
        sums[i].val[0] = sums[i].val[1] = vdupq_n_s32(0);
    for (size_t k = 0; k < n_tiles; k += INT16_TILES)
        add_tiles(tiles + k * TILE_BYTES, q + k * TILE_COLS, m->q_stride,
                  n_tiles - k < INT16_TILES ? n_tiles - k : INT16_TILES, Q, T, sums);
#pragma GCC unroll 8
    for (int i = 0; i < Q * T; i++)
        finish_rows(m, g * TILE_ROWS + 4 * (quarter + (size_t)(i / T)), t + (size_t)(i % T),
                    vpaddq_s32(sums[i].val[0], sums[i].val[1]));
}

static void group(const struct matmul_tiles *m, size_t g, size_t t, size_t end)
{
    for (; t + 4 <= end; t += 4)
        for (size_t half = 0; half < 2; half++)
            tokens(m, g, 2 * half, t, 2, 4);
    for (; t < end; t++)
        tokens(m, g, 0, t, 4, 1);
}

void matmul_tiles_i8_neon(const struct matmul_tiles *m)
{
    walk_groups(m, group);
}
