/* selftest: what the known answers share. See selftest.cu. */
#ifndef KERNELS_CUDA_SELFTEST_H
#define KERNELS_CUDA_SELFTEST_H

#include "kernels/cuda/device.h"

#define TEST_MAX_BLOCKS 32

/* Device memory of one check, freed at its end. */
struct test {
    struct backend *be;
    void *blocks[TEST_MAX_BLOCKS];
    size_t n_blocks;
    bool good; /* there was memory for all of it */
};

/* Device memory with a copy of `host`, or zeros when it is NULL. */
template <typename T> static T *test_take(struct test *t, const T *host, size_t n)
{
    T *dev = t->n_blocks < TEST_MAX_BLOCKS ? (T *)t->be->ops->alloc(t->be, n * sizeof *dev) : NULL;
    t->good = t->good && dev;
    if (!dev)
        return NULL;
    t->blocks[t->n_blocks++] = dev;
    if (host)
        t->be->ops->upload(t->be, dev, host, n * sizeof *dev);
    return dev;
}

template <typename T> static void test_read(struct test *t, T *host, const T *dev, size_t n)
{
    t->be->ops->download(t->be, host, dev, n * sizeof *dev);
}

/* Evenly in [-1, 1), a function of i. */
static inline float test_value(uint32_t i)
{
    uint32_t c[4] = {i, 0, 0, 0};
    arith_philox(c, 7);
    return (float)(int32_t)c[0] * 0x1p-31f;
}

/* Within a ten-thousandth of what is expected, and of 1. */
static inline bool test_near(const float *found, const double *expected, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)found[i] - expected[i]) <= 1e-4 * (1.0 + fabs(expected[i]))))
            return false;
    return true;
}

/* Absmax quantisation of n values to int8, as kernels/arith.h says; the scale s. */
static inline float test_quantize(const float *x, size_t n, int8_t *q)
{
    float max = ARITH_QUANTIZE_MIN;
    for (size_t i = 0; i < n; i++)
        max = isfinite(x[i]) && fabsf(x[i]) > max ? fabsf(x[i]) : max;
    float s = 127.0f / max;
    for (size_t i = 0; i < n; i++) {
        float v = isfinite(x[i]) ? rintf(x[i] * s) : 0.0f;
        q[i] = (int8_t)(v > 127.0f ? 127.0f : v);
    }
    return s;
}

bool test_embedding(struct test *t);
bool test_logits(struct test *t);
bool test_attention(struct test *t);

#endif
