/* Limits, dot products: sdot of 16 products. */
#include "kernels/cpu.h"

#include <arm_neon.h>

/* The empty assembly may have changed `a`, so each product is computed. */
#define STEP(s)                                                                                                        \
    __asm__ volatile("" : "+w"(a));                                                                                    \
    s = vdotq_s32(s, a, b)

uint64_t peak_i8_dotprod(uint64_t n_rounds)
{
    int8x16_t a = vdupq_n_s8(2), b = vdupq_n_s8(3);
    int32x4_t s0 = vdupq_n_s32(0), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0, s8 = s0, s9 = s0,
              s10 = s0, s11 = s0, s12 = s0, s13 = s0, s14 = s0, s15 = s0;
    for (uint64_t r = 0; r < n_rounds; r++) {
        STEP(s0);
        STEP(s1);
        STEP(s2);
        STEP(s3);
        STEP(s4);
        STEP(s5);
        STEP(s6);
        STEP(s7);
        STEP(s8);
        STEP(s9);
        STEP(s10);
        STEP(s11);
        STEP(s12);
        STEP(s13);
        STEP(s14);
        STEP(s15);
    }
    s0 = veorq_s32(veorq_s32(veorq_s32(s0, s1), veorq_s32(s2, s3)), veorq_s32(veorq_s32(s4, s5), veorq_s32(s6, s7)));
    s8 = veorq_s32(veorq_s32(veorq_s32(s8, s9), veorq_s32(s10, s11)),
                   veorq_s32(veorq_s32(s12, s13), veorq_s32(s14, s15)));
    s0 = veorq_s32(s0, s8);
    __asm__ volatile("" : : "w"(s0));
    return n_rounds * 16 * 16;
}
