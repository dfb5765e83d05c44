/* Limits, NEON: smlal of 8 products into 16-bit sums, which is what the kernels use. Reads are the portable code's. */
#include "kernels/cpu.h"

#include <arm_neon.h>

/* The empty assembly may have changed `a`, so each product is computed. */
#define STEP(s)                                                                                                        \
    __asm__ volatile("" : "+w"(a));                                                                                    \
    s = vmlal_s8(s, a, b)

uint64_t peak_i8_neon(uint64_t n_rounds)
{
    int8x8_t a = vdup_n_s8(2), b = vdup_n_s8(3);
    int16x8_t s0 = vdupq_n_s16(0), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
    for (uint64_t r = 0; r < n_rounds; r++) {
        STEP(s0);
        STEP(s1);
        STEP(s2);
        STEP(s3);
        STEP(s4);
        STEP(s5);
        STEP(s6);
        STEP(s7);
    }
    s0 = veorq_s16(veorq_s16(veorq_s16(s0, s1), veorq_s16(s2, s3)), veorq_s16(veorq_s16(s4, s5), veorq_s16(s6, s7)));
    __asm__ volatile("" : : "w"(s0));
    return n_rounds * 8 * 8;
}
