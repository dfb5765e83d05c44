/* The functions of the real header, worked out by the last lane of a warp to come. Sums of mma_f16 and mma_bf16 are taken in f64 and rounded once: a
 * device keeps fewer bits between, in no order that is promised. */
#ifndef KERNELS_CUDA_PTX_H
#define KERNELS_CUDA_PTX_H

#include <cuda_fp16.h>

struct emulated_mma {
    void *d;
    const unsigned *a, *b;
};

template <typename A> static inline void emulator_mma_8(const uint64_t *lanes)
{
    A a[16][32];
    int8_t b[8][32];
    for (int l = 0; l < 32; l++) {
        const emulated_mma *m = (const emulated_mma *)lanes[l];
        int g = l / 4, t = l % 4;
        for (int i = 0; i < 4; i++)
            memcpy(&a[g + 8 * (i & 1)][4 * t + 16 * (i / 2)], &m->a[i], 4);
        for (int i = 0; i < 2; i++)
            memcpy(&b[g][4 * t + 16 * i], &m->b[i], 4);
    }
    for (int l = 0; l < 32; l++) {
        int *d = (int *)((const emulated_mma *)lanes[l])->d;
        for (int i = 0; i < 4; i++) {
            const A *row = a[l / 4 + 8 * (i / 2)];
            const int8_t *col = b[l % 4 * 2 + i % 2];
            int sum = 0;
            for (int k = 0; k < 32; k++)
                sum += row[k] * col[k];
            d[i] = (int)((unsigned)d[i] + (unsigned)sum);
        }
    }
}

static inline float emulator_from_f16(unsigned bits) { return emulator_f16[bits]; }
static inline float emulator_from_bf16(unsigned bits) { return __uint_as_float(bits << 16); }

template <float value(unsigned bits)> static inline void emulator_mma_16(const uint64_t *lanes)
{
    typedef double pair __attribute__((vector_size(2 * sizeof(double))));
    double a[16][16];
    pair b[16][4], d[16][4];
    for (int l = 0; l < 32; l++) {
        const emulated_mma *m = (const emulated_mma *)lanes[l];
        int g = l / 4, t = l % 4;
        for (int i = 0; i < 4; i++) {
            d[g + 8 * (i / 2)][t][i % 2] = ((const float *)m->d)[i];
            for (int h = 0; h < 2; h++)
                a[g + 8 * (i & 1)][2 * t + 8 * (i / 2) + h] = value(m->a[i] >> (16 * h) & 0xffffu);
        }
        for (int i = 0; i < 2; i++)
            for (int h = 0; h < 2; h++)
                b[2 * t + 8 * i + h][g / 2][g % 2] = value(m->b[i] >> (16 * h) & 0xffffu);
    }
    for (int row = 0; row < 16; row++) {
        pair s0 = d[row][0], s1 = d[row][1], s2 = d[row][2], s3 = d[row][3];
        for (int k = 0; k < 16; k++) {
            pair v = {a[row][k], a[row][k]};
            s0 += v * b[k][0];
            s1 += v * b[k][1];
            s2 += v * b[k][2];
            s3 += v * b[k][3];
        }
        d[row][0] = s0, d[row][1] = s1, d[row][2] = s2, d[row][3] = s3;
    }
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++)
            ((float *)((const emulated_mma *)lanes[l])->d)[i] = (float)d[l / 4 + 8 * (i / 2)][l % 4][i % 2];
}

static inline void mma_s8(int d[4], const unsigned a[4], const unsigned b[2])
{
    emulated_mma m = {d, a, b};
    emulator_exchange(EMULATOR_ALL_LANES, (uint64_t)&m, "mma_s8", emulator_mma_8<int8_t>);
}

static inline void mma_u8(int d[4], const unsigned a[4], const unsigned b[2])
{
    emulated_mma m = {d, a, b};
    emulator_exchange(EMULATOR_ALL_LANES, (uint64_t)&m, "mma_u8", emulator_mma_8<uint8_t>);
}

static inline void mma_f16(float d[4], const unsigned a[4], const unsigned b[2])
{
    emulated_mma m = {d, a, b};
    emulator_exchange(EMULATOR_ALL_LANES, (uint64_t)&m, "mma_f16", emulator_mma_16<emulator_from_f16>);
}

static inline void mma_bf16(float d[4], const unsigned a[4], const unsigned b[2])
{
    emulated_mma m = {d, a, b};
    emulator_exchange(EMULATOR_ALL_LANES, (uint64_t)&m, "mma_bf16", emulator_mma_16<emulator_from_bf16>);
}

static inline void copy_async16(void *shared, const void *global) { emulator_copy(shared, global, 16); }
static inline void copy_async_commit() { emulator_copy_commit(); }
template <int N> static inline void copy_async_wait() { emulator_copy_wait(N); }

#endif
