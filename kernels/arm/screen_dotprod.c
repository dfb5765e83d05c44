/* The int8 screen, with dot products. */
#include "kernels/arm/neon.h"
#include "kernels/cpu.h"

void screen_i8_dotprod(const int8_t *rows, size_t stride, size_t n_rows, const struct screen_x *x, int32_t *high,
                       int32_t *low)
{
    for (size_t r = 0; r < n_rows; r++, rows += stride) {
        int32x4_t h[2], l[2]; /* so that sums do not wait for each other */
        h[0] = h[1] = l[0] = l[1] = vdupq_n_s32(0);
        for (size_t i = 0; i < stride; i += 32)
            for (size_t j = 0; j < 2; j++) {
                int8x16_t q = vld1q_s8(rows + i + 16 * j);
                h[j] = vdotq_s32(h[j], q, vld1q_s8(x->high + i + 16 * j));
                l[j] = vdotq_s32(l[j], q, vld1q_s8(x->low + i + 16 * j));
            }
        high[r] = vaddvq_s32(vaddq_s32(h[0], h[1]));
        low[r] = vaddvq_s32(vaddq_s32(l[0], l[1]));
    }
}
