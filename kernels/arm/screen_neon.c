/* The int8 screen, plain NEON: the products of two values, at most 2 * 127 * 127 in size, fit int16. */
#include "kernels/arm/neon.h"
#include "kernels/cpu.h"

/* Adds 16 products. */
ALWAYS_INLINE int32x4_t add16(int32x4_t sum, int8x16_t q, int8x16_t x)
{
    return vpadalq_s16(sum, vmlal_high_s8(vmull_s8(vget_low_s8(q), vget_low_s8(x)), q, x));
}

void screen_i8_neon(const int8_t *rows, size_t stride, size_t n_rows, const struct screen_x *x, int32_t *high,
                    int32_t *low)
{
    for (size_t r = 0; r < n_rows; r++, rows += stride) {
        int32x4_t h = vdupq_n_s32(0), l = h;
        for (size_t i = 0; i < stride; i += 16) {
            int8x16_t q = vld1q_s8(rows + i);
            h = add16(h, q, vld1q_s8(x->high + i));
            l = add16(l, q, vld1q_s8(x->low + i));
        }
        high[r] = vaddvq_s32(h);
        low[r] = vaddvq_s32(l);
    }
}
