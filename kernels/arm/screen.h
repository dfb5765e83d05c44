/* Rows of a screen as 16 signed bytes at a time, and the walk over rows and vectors; what multiplies is the file's that includes this. */
#ifndef KERNELS_ARM_SCREEN_H
#define KERNELS_ARM_SCREEN_H

#include "kernels/arm/neon.h"
#include "kernels/cpu.h"

/* p of weights 64 k .. 64 k + 15 of a block, k = 0 .. 3, less 128 where the high plane is there. */
ALWAYS_INLINE void screen_weights(const uint8_t *high, const uint8_t *low, int8_t *q)
{
    uint8x16_t u[4] = {vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0)};
    if (low) {
        u[0] = vld1q_u8(low);
        u[1] = vshrq_n_u8(u[0], 2);
        u[2] = vshrq_n_u8(u[0], 4);
        u[3] = vshrq_n_u8(u[0], 6);
    }
    if (high) { /* inserted above the low two bits */
        uint8x16_t a = vld1q_u8(high), b = vld1q_u8(high + 64), c = vld1q_u8(high + 128);
        u[0] = vsliq_n_u8(u[0], a, 2);
        u[1] = vsliq_n_u8(u[1], b, 2);
        u[2] = vsliq_n_u8(u[2], c, 2);
        u[3] = vsliq_n_u8(u[3], vshrq_n_u8(vsriq_n_u8(c, vsriq_n_u8(b, a, 2), 2), 2), 2);
    }
    for (size_t k = 0; k < 4; k++) {
        u[k] = high ? veorq_u8(u[k], vdupq_n_u8(0x80)) : vandq_u8(u[k], vdupq_n_u8(3));
        vst1q_s8(q + 64 * k, vreinterpretq_s8_u8(u[k]));
    }
}

/* Unpacks each row once, as vectors are many or the plane streams by. `dot` sums n products, n a multiple of 256. */
ALWAYS_INLINE void screen_rows(const struct screen_tile *t, int32_t (*dot)(const int8_t *a, const int8_t *b, size_t n))
{
    _Alignas(16) int8_t q[SCREEN_MAX_COLS];
    for (size_t r = 0; r < t->n_rows; r++) {
        const uint8_t *high = t->high ? t->high + r * screen_high_bytes(t->stride) : NULL;
        const uint8_t *low = t->low ? t->low + r * screen_low_bytes(t->stride) : NULL;
        for (size_t i = 0; i < t->stride; i += 256, high += high ? 192 : 0, low += low ? 64 : 0)
            for (size_t at = 0; at < 64; at += 16)
                screen_weights(high ? high + at : NULL, low ? low + at : NULL, q + i + at);
        for (size_t v = 0; v < t->n_x; v++)
            t->sums[v * SCREEN_CHUNK + r] = dot(q, t->x + v * t->x_stride, t->stride);
    }
    for (size_t v = 0; t->high && v < t->n_x; v++) {
        int32_t sum = 0;
        for (size_t i = 0; i < t->stride; i += 16)
            sum += vaddlvq_s8(vld1q_s8(t->x + v * t->x_stride + i));
        for (size_t r = 0; r < t->n_rows; r++)
            t->sums[v * SCREEN_CHUNK + r] += 128 * sum;
    }
}

#endif
