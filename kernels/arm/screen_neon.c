/* Rows of a screen, plain NEON: one product, at most 128 * 127 in size, and a second added to it fit int16. */
#include "kernels/arm/screen.h"

ALWAYS_INLINE int32_t dot(const int8_t *a, const int8_t *b, size_t n)
{
    int32x4_t sum = vdupq_n_s32(0);
    for (size_t i = 0; i < n; i += 16) {
        int8x16_t q = vld1q_s8(a + i), x = vld1q_s8(b + i);
        sum = vpadalq_s16(sum, vmlal_high_s8(vmull_s8(vget_low_s8(q), vget_low_s8(x)), q, x));
    }
    return vaddvq_s32(sum);
}

void screen_i8_neon(const struct screen_tile *t)
{
    screen_rows(t, dot);
}
