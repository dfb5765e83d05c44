/* What the ternary kernels of both instruction sets share: unpacking, the last step, and the order in which a large product is walked. */
#ifndef KERNELS_ARM_TERNARY_H
#define KERNELS_ARM_TERNARY_H

#include "kernels/arm/neon.h"
#include "kernels/cpu.h"

#define L2_BYTES ((size_t)1 << 18) /* of activations */

/* The codes of 16 bytes, from the low bits up. */
ALWAYS_INLINE void unpack(const uint8_t *p, int8x16_t codes[4])
{
    const uint8x16_t v = vld1q_u8(p), mask = vdupq_n_u8(3);
    codes[0] = vreinterpretq_s8_u8(vandq_u8(v, mask));
    codes[1] = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v, 2), mask));
    codes[2] = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v, 4), mask));
    codes[3] = vreinterpretq_s8_u8(vshrq_n_u8(v, 6));
}

/* Tiles: y = (sum - q_sum) / s * scale for 4 rows of one token; the last group may hold fewer. */
ALWAYS_INLINE void finish_rows(const struct matmul_tiles *m, size_t row, size_t t, int32x4_t sum)
{
    float32x4_t y = vcvtq_f32_s32(vsubq_s32(sum, vdupq_n_s32(m->q_sum[t])));
    y = vmulq_n_f32(vdivq_f32(y, vdupq_n_f32(m->q_scale[t])), m->scale);
    float *out = m->y + t * m->y_stride + row, part[4];
    if (row + 4 <= m->n_rows) {
        vst1q_f32(out, y);
        return;
    }
    vst1q_f32(part, y);
    if (row < m->n_rows)
        memcpy(out, part, (m->n_rows - row) * sizeof *part);
}

/* Calls `group` for each group of rows and tokens t .. end - 1: as many tokens as leave their activations in L2 while all groups pass,
 * each of which stays in L1 while the tokens pass. */
static inline void walk_groups(const struct matmul_tiles *m,
                               void (*group)(const struct matmul_tiles *m, size_t g, size_t t, size_t end))
{
    size_t block = L2_BYTES / m->n_cols & ~(size_t)7;
    if (block < 8)
        block = 8;
    for (size_t t = 0; t < m->n_tokens; t += block)
        for (size_t g = 0; g < m->n_groups; g++)
            group(m, g, t, m->n_tokens - t < block ? m->n_tokens : t + block);
}

/* Packed rows: the same for one row and token. */
ALWAYS_INLINE void finish_one(const struct matmul_tile *m, size_t r, size_t t, int32x4_t sum)
{
    m->y[t * m->y_stride + r] = (float)(vaddvq_s32(sum) - m->q_sum[t]) / m->q_scale[t] * m->scale;
}

#endif
