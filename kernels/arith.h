/*
 * "One result": the definitions that the portable reference and every SIMD variant follow, so that all CPU variants give
 * the same bits. Everything here is compiled with -ffp-contract=off, rounds to nearest even and keeps denormals; a fused
 * multiply-add happens only where arith_fma is written.
 *
 *  dot product, sum   16 partial sums: lane l takes elements l, l+16, l+32, ... in ascending order, by fma (or +); a tail is
 *                     padded with zeros. Then the fixed tree l += l+8, l += l+4, l += l+2, l += l+1.
 *  max                exact, so of any order; a NaN is passed over (p > max ? p : max).
 *  quantisation       s = 127 / max(|x|, 1e-5); q = rint(x * s) clamped to -128..127. A value that is not finite counts as 0,
 *                     in the maximum too, so that any input has a defined result.
 *  ternary product    integers, exact; then (float)sum / s * scale, rounded after each step.
 *  RMSNorm            ss = sum of squares (a dot product); r = 1 / sqrt(ss / dim + eps), each step rounded;
 *                     y = (x * r) * weight.
 *  RoPE               cos and sin from the table (arith_sincos in double, rounded to f32);
 *                     y0 = fma(x0, c, -(x1 * s)), y1 = fma(x0, s, x1 * c).
 *  attention          per row and head, q rounded to F16. Positions are cut into segments of ARITH_SEGMENT, [0,256),
 *                     [256,512), ... whatever the chunking. In a segment: score_j = dot(q, k_j) * (1/sqrt(d)); m = max; p_j = exp(score_j - m);
 *                     sum = 16 lanes over j - segment start; out[d] = fma(p_j, v_j[d], out[d]) for ascending j, from 0.
 *                     Segments are merged in order: M = max(m_a, m_b); a = exp(m_a - M), b = exp(m_b - M);
 *                     sum = sum_a * a + sum_b * b; out[d] = out_a[d] * a + out_b[d] * b (products and additions rounded one by one).
 *                     At the end y[d] = out[d] / sum. One segment alone is not scaled.
 *  attention, int8    a position's K or V of one head is quantised as activations are; its scale is u = 1 / s. q is quantised to 16 bits:
 *                     t = 32767 / max(|q|, 1e-5); q' = rint(q * t), not finite counting as 0.
 *                     score_j = (float)(sum of q' * k_j, exact in int32) * ((1/sqrt(d)) / t) * u_j, from left to right.
 *                     sum is that of p_j; out[d] = fma(p_j * u_j, (float)v_j[d], out[d]). All else as above.
 *  FFN                RELU2: r = max(g, 0); y = (r * r) * up. SILU: y = (g / (1 + exp(-g))) * up.
 *  LM head            the row converted to f32 exactly (F16, BF16) or by its format's definition, then a dot product with x in f32.
 *  exp, log           arith_exp, arith_log below; the same operations in the same order in every variant.
 *  noise              arith_gumbel below.
 *  NaN                where an operation yields NaN, that it is one is defined, its sign and payload are not.
 *
 * Integers inside kernels: a pair sum of u8 codes 0..2 and int8 is at most 512 in size; 64 such pairs' sums (16 blocks of
 * 128 weights) fit int16 and are widened to int32 before they can overflow, whatever the data.
 */
#ifndef KERNELS_ARITH_H
#define KERNELS_ARITH_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ARITH_LANES 16
#define ARITH_SEGMENT 256 /* positions of an attention segment */
#define ARITH_QUANTIZE_MIN 1e-5f /* what is smaller than it in a whole row becomes 0 */
#define ARITH_QUERY_MAX 32767.0f /* of q in attention over int8: 256 products with 127 stay within int32 */

static inline float arith_fma(float a, float b, float c) { return fmaf(a, b, c); }

static inline uint32_t arith_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float arith_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* IEEE binary16 to binary32, exact. */
static inline float arith_from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu;
    if (exponent == 31)
        return arith_float(sign | 0x7f800000u | mantissa << 13 | (mantissa ? 0x400000u : 0)); /* quiet NaN, as F16C */
    if (exponent == 0) {
        float m = (float)mantissa * 0x1p-24f;
        return sign ? -m : m;
    }
    return arith_float(sign | (exponent + 112) << 23 | mantissa << 13);
}

/* binary32 to binary16, round to nearest even, as F16C's vcvtps2ph. */
static inline uint16_t arith_to_f16(float x)
{
    uint32_t u = arith_bits(x), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((a >> 13) & 0x3ffu));
    if (a >= 0x477ff000u) /* rounds to 2^16 or more */
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x38800000u) { /* below 2^-14: denormal; adding 0.5 aligns the mantissa and rounds */
        uint32_t d = arith_bits(arith_float(a) + 0.5f) - 0x3f000000u;
        return (uint16_t)(sign | d);
    }
    return (uint16_t)(sign | ((a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13));
}

static inline float arith_from_bf16(uint16_t h) { return arith_float((uint32_t)h << 16); }

/* The fixed tree over 16 lanes; destroys them. */
static inline float arith_tree(float lane[ARITH_LANES])
{
    for (int width = 8; width; width /= 2)
        for (int l = 0; l < width; l++)
            lane[l] += lane[l + width];
    return lane[0];
}

/* Polynomial and reduction of Cephes' expf (Moshier, expf.c), with fma. 0 below -87.33, +inf above 88.72, NaN stays. */
#define ARITH_EXP_LO (-87.33654f)
#define ARITH_EXP_HI 88.72283f
#define ARITH_LOG2E 1.44269504f
#define ARITH_LN2_HI 0.693359375f
#define ARITH_LN2_LO (-2.12194440e-4f)
#define ARITH_EXP_P0 1.9875691500e-4f
#define ARITH_EXP_P1 1.3981999507e-3f
#define ARITH_EXP_P2 8.3334519073e-3f
#define ARITH_EXP_P3 4.1665795894e-2f
#define ARITH_EXP_P4 1.6666665459e-1f
#define ARITH_EXP_P5 5.0000001201e-1f

static inline float arith_exp(float x)
{
    if (x != x)
        return x;
    if (x < ARITH_EXP_LO)
        return 0.0f;
    if (x > ARITH_EXP_HI)
        return arith_float(0x7f800000u);
    float n = rintf(x * ARITH_LOG2E);
    float r = arith_fma(n, -ARITH_LN2_LO, arith_fma(n, -ARITH_LN2_HI, x));
    float p = ARITH_EXP_P0;
    p = arith_fma(p, r, ARITH_EXP_P1);
    p = arith_fma(p, r, ARITH_EXP_P2);
    p = arith_fma(p, r, ARITH_EXP_P3);
    p = arith_fma(p, r, ARITH_EXP_P4);
    p = arith_fma(p, r, ARITH_EXP_P5);
    p = arith_fma(p, r * r, r) + 1.0f;
    int32_t k = (int32_t)n, half = k >> 1; /* 2^k in two steps, so that k = 128 and denormal results are right */
    return p * arith_float((uint32_t)(half + 127) << 23) * arith_float((uint32_t)(k - half + 127) << 23);
}

/* Polynomial of Cephes' logf (Moshier, logf.c), with fma. x is positive and normal. */
static inline float arith_log(float x)
{
    uint32_t u = arith_bits(x);
    float e = (float)((int32_t)(u >> 23) - 126);
    float m = arith_float((u & 0x7fffffu) | 0x3f000000u); /* [0.5, 1) */
    if (m < 0.707106781f) {
        e -= 1.0f;
        m = m + m;
    }
    m -= 1.0f;
    float z = m * m, p = 7.0376836292e-2f;
    p = arith_fma(p, m, -1.1514610310e-1f);
    p = arith_fma(p, m, 1.1676998740e-1f);
    p = arith_fma(p, m, -1.2420140846e-1f);
    p = arith_fma(p, m, 1.4249322787e-1f);
    p = arith_fma(p, m, -1.6668057665e-1f);
    p = arith_fma(p, m, 2.0000714765e-1f);
    p = arith_fma(p, m, -2.4999993993e-1f);
    p = arith_fma(p, m, 3.3333331174e-1f);
    p = p * m * z;
    p = arith_fma(e, ARITH_LN2_LO, p);
    p = arith_fma(z, -0.5f, p);
    return arith_fma(e, ARITH_LN2_HI, m + p);
}

/* Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3, SC11). */
static inline void arith_philox(uint32_t counter[4], uint64_t key)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * counter[0], b = (uint64_t)0xCD9E8D57u * counter[2];
        uint32_t c1 = counter[1], c3 = counter[3];
        counter[0] = (uint32_t)(b >> 32) ^ c1 ^ k0;
        counter[1] = (uint32_t)b;
        counter[2] = (uint32_t)(a >> 32) ^ c3 ^ k1;
        counter[3] = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/* One of Philox's words to Gumbel noise -log(E), E = -log(1 - v) exponential, v = (31 bits + 1/2) / 2^31. The quotient
 * corrects the rounding of 1 - v (as log1p does), so that the upper tail, which decides an argmax, is smooth. */
static inline float arith_gumbel_word(uint32_t word)
{
    float v = ((float)(int32_t)(word >> 1) + 0.5f) * 0x1p-31f;
    v = v < 0x1.fffffep-1f ? v : 0x1.fffffep-1f;
    float y = 1.0f - v;
    float e = y == 1.0f ? v : -arith_log(y) * (v / (1.0f - y));
    return -arith_log(e);
}

/* The noise of token `id` at `position` (index among the generated tokens' sequence positions) of choice `choice`. */
static inline float arith_gumbel(uint64_t seed, uint32_t choice, uint32_t position, uint32_t id)
{
    uint32_t c[4] = {id >> 2, position, choice, 0};
    arith_philox(c, seed);
    return arith_gumbel_word(c[id & 3]);
}

/* sin and cos of x >= 0 (up to 2^20) in double, and a^b for a > 0: for tables made at load. See arith.c. */
void arith_sincos(double x, double *sin_out, double *cos_out);
double arith_pow(double a, double b);

#endif
