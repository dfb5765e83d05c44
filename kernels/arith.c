/*
 * Double precision functions for tables made at load, and the exported scalar definitions. libm's sin, cos and pow may
 * differ between versions and CPUs, so they are not used; fma, rint and sqrt are exact by IEEE 754 and are.
 */
#include "kernels/arith.h"

#include "kernels/cpu.h"

#include <pthread.h>

/* Polynomials of fdlibm's __kernel_sin and __kernel_cos (Sun Microsystems, k_sin.c, k_cos.c) on [-pi/4, pi/4]; x + tail
 * is the reduced argument. */
static double sin_reduced(double x, double tail)
{
    double z = x * x, v = z * x;
    double r = 8.33333333332248946124e-03 +
               z * (-1.98412698298579493134e-04 +
                    z * (2.75573137070700676789e-06 + z * (-2.50507602534068634195e-08 + z * 1.58969099521155010221e-10)));
    return x - ((z * (0.5 * tail - v * r) - tail) - v * -1.66666666666666324348e-01);
}

static double cos_reduced(double x, double tail)
{
    double z = x * x;
    double r = z * (4.16666666666666019037e-02 +
                    z * (-1.38888888888741095749e-03 +
                         z * (2.48015872894767294178e-05 +
                              z * (-2.75573143513906633035e-07 +
                                   z * (2.08757232129817482790e-09 + z * -1.13596475577881948265e-11)))));
    double half = 0.5 * z, w = 1.0 - half;
    return w + (((1.0 - w) - half) + (z * r - x * tail));
}

void arith_sincos(double x, double *sin_out, double *cos_out)
{
    /* pi/2 in parts of 33 bits (fdlibm's e_rem_pio2.c): n of up to 20 bits times a part is exact. */
    static const double part1 = 1.57079632673412561417e+00, part2 = 6.07710050630396597660e-11,
                        part3 = 2.02226624871116645580e-21, part3_tail = 8.47842766036889956997e-32;
    double n = rint(x * 6.36619772367581382433e-01);
    double a = x - n * part1;
    double b = a - n * part2;
    double w = n * part2 - (a - b); /* what the subtraction lost, negated */
    double c = b - n * part3;
    w = (n * part3 - (b - c)) + (n * part3_tail + w);
    double y = c - w, tail = (c - y) - w;
    double s = sin_reduced(y, tail), k = cos_reduced(y, tail);
    switch ((int64_t)n & 3) {
    case 0: *sin_out = s, *cos_out = k; break;
    case 1: *sin_out = k, *cos_out = -s; break;
    case 2: *sin_out = -s, *cos_out = -k; break;
    default: *sin_out = -k, *cos_out = s; break;
    }
}

static const double ln2_hi = 6.93147180369123816490e-01, ln2_lo = 1.90821492927058770002e-10; /* fdlibm, e_log.c */

/* log(a) for a > 0 and normal, as hi + lo with about 62 bits: 2 atanh(s), s = (m - 1) / (m + 1). */
static double log_double(double a, double *lo)
{
    int e;
    double m = frexp(a, &e);
    if (m < 0.70710678118654752440) {
        m += m;
        e--;
    }
    double f = m - 1.0, d = 2.0 + f, d_lo = f - (d - 2.0);
    double s = f / d, s_lo = (fma(-s, d, f) - s * d_lo) / d;
    double z = s * s, p = 2.0 / 23;
    for (int i = 21; i >= 3; i -= 2)
        p = fma(p, z, 2.0 / i);
    double k = e, x = k * ln2_hi, y = 2.0 * s;
    double hi = x + y, t = hi - x;
    *lo = ((x - (hi - t)) + (y - t)) + (fma(k, ln2_lo, 2.0 * s_lo) + p * z * s);
    return hi;
}

double arith_pow(double a, double b)
{
    double l_lo, l = log_double(a, &l_lo);
    double t = b * l, t_lo = fma(b, l, -t) + b * l_lo;
    double k = rint(t * 1.44269504088896338700e+00);
    double r = fma(-k, ln2_lo, fma(-k, ln2_hi, t)) + t_lo;
    double p = 1.0;
    for (int i = 14; i >= 1; i--) /* Taylor: |r| <= 0.35, the rest is below 2^-60 */
        p = fma(p, r / i, 1.0);
    return ldexp(p, (int)k);
}

float exp_one_portable(float x) { return arith_exp(x); }
float log_one_portable(float x) { return arith_log(x); }
float gumbel_one_portable(uint64_t seed, uint32_t choice, uint32_t position, uint32_t id)
{
    return arith_gumbel(seed, choice, position, id);
}

void gumbels_portable(uint64_t seed, uint32_t choice, uint32_t position, uint32_t first, float *out)
{
    for (uint32_t i = 0; i < KERNEL_GUMBELS; i++)
        out[i] = arith_gumbel(seed, choice, position, first + i);
}

static struct cpu_kernels best;
static void find_best(void) { cpu_kernels_init(&best, NULL); }

/* The variants of this CPU, found once for the process: these functions know no backend. */
static const struct cpu_kernels *kernels(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_best);
    return &best;
}

float kernel_exp(float x) { return kernels()->exp_one(x); }

float kernel_log(float x) { return kernels()->log_one(x); }

float kernel_gumbel(uint64_t seed, uint32_t choice, uint32_t position, uint32_t token_id)
{
    return kernels()->gumbel_one(seed, choice, position, token_id);
}

void kernel_gumbels(uint64_t seed, uint32_t choice, uint32_t position, uint32_t first, float out[KERNEL_GUMBELS])
{
    kernels()->gumbels(seed, choice, position, first, out);
}

uint64_t kernel_hash(uint64_t seed, const void *data, size_t n_bytes)
{
    const uint8_t *p = data;
    uint64_t h = UINT64_C(0xcbf29ce484222325) ^ seed;
    for (size_t i = 0; i < n_bytes; i++)
        h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    return h;
}
