/*
 * Tiles of ternary weights times int8 activations, with dot products. A quarter of a tile (4 rows) is one load; a shift and a mask give 4
 * rows x 4 columns of codes, sdot multiplies them by 4 of the token's 16 activations, chosen by lane, and adds into one exact
 * 32-bit sum a row.
 */
#include "kernels/arm/ternary.h"

/* One token. Codes stay where they lie in the byte: those of planes 1 and 2 count 4 and 16 times, which a shift of the sum undoes. */
ALWAYS_INLINE void one_token(const struct matmul_tiles *m, size_t g, size_t t)
{
    const uint8x16_t mask0 = vdupq_n_u8(3), mask1 = vdupq_n_u8(3 << 2), mask2 = vdupq_n_u8(3 << 4);
    const uint8_t *tile = m->tiles + g * (m->n_cols / TILE_COLS) * TILE_BYTES;
    const int8_t *q = m->q + t * m->q_stride;
    int32x4_t once[4], times4[4], times16[4];
    for (int i = 0; i < 4; i++)
        once[i] = times4[i] = times16[i] = vdupq_n_s32(0);
    for (size_t k = 0; k < m->n_cols; k += TILE_COLS, tile += TILE_BYTES) {
        int8x16_t x = vld1q_s8(q + k);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            uint8x16_t v = vld1q_u8(tile + 16 * i);
            once[i] = vdotq_laneq_s32(once[i], vreinterpretq_s8_u8(vandq_u8(v, mask0)), x, 0);
            times4[i] = vdotq_laneq_s32(times4[i], vreinterpretq_s8_u8(vandq_u8(v, mask1)), x, 1);
            times16[i] = vdotq_laneq_s32(times16[i], vreinterpretq_s8_u8(vandq_u8(v, mask2)), x, 2);
            once[i] = vdotq_laneq_s32(once[i], vreinterpretq_s8_u8(vshrq_n_u8(v, 6)), x, 3);
        }
    }
    for (size_t i = 0; i < 4; i++)
        finish_rows(m, g * TILE_ROWS + 4 * i, t,
                    vaddq_s32(once[i], vaddq_s32(vshrq_n_s32(times4[i], 2), vshrq_n_s32(times16[i], 4))));
}

/* T tokens (at most 8) and one half of a group, so that all sums and activations stay in registers. */
ALWAYS_INLINE void tokens(const struct matmul_tiles *m, size_t g, size_t half, size_t t, const int T)
{
    const uint8_t *tile = m->tiles + g * (m->n_cols / TILE_COLS) * TILE_BYTES + 32 * half;
    const int8_t *q = m->q + t * m->q_stride;
    int32x4_t sums[2][8];
#pragma GCC unroll 8
    for (int j = 0; j < T; j++)
        sums[0][j] = sums[1][j] = vdupq_n_s32(0);
    for (size_t k = 0; k < m->n_cols; k += TILE_COLS, tile += TILE_BYTES) {
        int8x16_t x[8], codes[4];
#pragma GCC unroll 8
        for (int j = 0; j < T; j++)
            x[j] = vld1q_s8(q + (size_t)j * m->q_stride + k);
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            unpack(tile + 16 * i, codes);
#pragma GCC unroll 8
            for (int j = 0; j < T; j++) {
                sums[i][j] = vdotq_laneq_s32(sums[i][j], codes[0], x[j], 0);
                sums[i][j] = vdotq_laneq_s32(sums[i][j], codes[1], x[j], 1);
                sums[i][j] = vdotq_laneq_s32(sums[i][j], codes[2], x[j], 2);
                sums[i][j] = vdotq_laneq_s32(sums[i][j], codes[3], x[j], 3);
            }
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < T; j++)
        for (size_t i = 0; i < 2; i++)
            finish_rows(m, g * TILE_ROWS + 8 * half + 4 * i, t + (size_t)j, sums[i][j]);
}

static void group(const struct matmul_tiles *m, size_t g, size_t t, size_t end)
{
    for (; t + 8 <= end; t += 8)
        for (size_t half = 0; half < 2; half++)
            tokens(m, g, half, t, 8);
    for (; t + 4 <= end; t += 4)
        for (size_t half = 0; half < 2; half++)
            tokens(m, g, half, t, 4);
    for (; t < end; t++)
        one_token(m, g, t);
}

void matmul_tiles_i8_dotprod(const struct matmul_tiles *m)
{
    walk_groups(m, group);
}
