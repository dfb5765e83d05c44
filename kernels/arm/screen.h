/* Rows of a screen as 16 signed bytes at a time, and the walk over rows and vectors; what multiplies is the file's that includes this. */
#ifndef KERNELS_ARM_SCREEN_H
#define KERNELS_ARM_SCREEN_H

#include "kernels/arm/neon.h"
#include "kernels/cpu.h"

/* p of 16 of the weights 64 k .. 64 k + 63 of a block, less 128 where the high plane is there. */
ALWAYS_INLINE int8x16_t screen_weights(const uint8_t *high, const uint8_t *low, int k)
{
    static const int8_t middle_shift[4] = {0, -2, -4, 2};
    uint8x16_t u = vdupq_n_u8(0);
    if (high) {
        uint8x16_t a = vld1q_u8(high + 64 * (k / 2)), b = vld1q_u8(high + 128);
        a = k % 2 ? vshlq_n_u8(a, 4) : vandq_u8(a, vdupq_n_u8(0xf0));
        b = vandq_u8(vshlq_u8(b, vdupq_n_s8(middle_shift[k])), vdupq_n_u8(0x0c));
        u = veorq_u8(vorrq_u8(a, b), vdupq_n_u8(0x80));
    }
    if (low)
        u = vorrq_u8(u, vandq_u8(vshlq_u8(vld1q_u8(low), vdupq_n_s8((int8_t)(-2 * k))), vdupq_n_u8(3)));
    return vreinterpretq_s8_u8(u);
}

/* Unpacks each row once, as vectors are many or the plane streams by. `dot` sums n products, n a multiple of 256. */
ALWAYS_INLINE void screen_rows(const struct screen_tile *t, int32_t (*dot)(const int8_t *a, const int8_t *b, size_t n))
{
    _Alignas(16) int8_t q[SCREEN_MAX_COLS];
    for (size_t r = 0; r < t->n_rows; r++) {
        const uint8_t *high = t->high ? t->high + r * screen_high_bytes(t->stride) : NULL;
        const uint8_t *low = t->low ? t->low + r * screen_low_bytes(t->stride) : NULL;
        for (size_t i = 0; i < t->stride; i += 256, high += high ? 192 : 0, low += low ? 64 : 0)
            for (int k = 0; k < 4; k++)
                for (size_t at = 0; at < 64; at += 16)
                    vst1q_s8(q + i + 64 * (size_t)k + at,
                             screen_weights(high ? high + at : NULL, low ? low + at : NULL, k));
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
