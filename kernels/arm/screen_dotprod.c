/* Rows of a screen, with dot products. */
#include "kernels/arm/screen.h"

ALWAYS_INLINE int32_t dot(const int8_t *a, const int8_t *b, size_t n)
{
    int32x4_t sums[4]; /* so that they do not wait for each other */
    for (size_t j = 0; j < 4; j++)
        sums[j] = vdupq_n_s32(0);
    for (size_t i = 0; i < n; i += 64)
        for (size_t j = 0; j < 4; j++)
            sums[j] = vdotq_s32(sums[j], vld1q_s8(a + i + 16 * j), vld1q_s8(b + i + 16 * j));
    return vaddvq_s32(vaddq_s32(vaddq_s32(sums[0], sums[1]), vaddq_s32(sums[2], sums[3])));
}

void screen_i8_dotprod(const struct screen_tile *t)
{
    screen_rows(t, dot);
}
