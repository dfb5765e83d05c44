/* What device code has without asking: qualifiers, built-in variables, vector types, functions. */
#ifndef TESTS_CUDA_INTRINSICS_H
#define TESTS_CUDA_INTRINSICS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define SHARED_BYTES(name) uint8_t *name = (uint8_t *)emulator_shared()

#define VECTORS(type, name)                                                                                            \
    struct name##1 { type x; };                                                                                        \
    struct __attribute__((aligned(2 * sizeof(type)))) name##2 { type x, y; };                                          \
    struct name##3 { type x, y, z; };                                                                                  \
    struct __attribute__((aligned(4 * sizeof(type) < 16 ? 4 * sizeof(type) : 16))) name##4 { type x, y, z, w; };       \
    static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                            \
    static inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                                 \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
VECTORS(signed char, char)
VECTORS(unsigned char, uchar)
VECTORS(short, short)
VECTORS(unsigned short, ushort)
VECTORS(int, int)
VECTORS(unsigned, uint)
VECTORS(float, float)
VECTORS(double, double)
VECTORS(long long, longlong)
VECTORS(unsigned long long, ulonglong)
#undef VECTORS

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

/* Of the thread that runs. */
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
static constexpr int warpSize = 32;

/* ---- what block.cc does */

#define EMULATOR_ALL_LANES 0xffffffffu
/* The dynamic shared memory of the block. */
void *emulator_shared();
/* Waits until all threads of the block have come. */
void emulator_barrier();
/* Waits until the lanes of `mask` have come, for the same `what`, and yields all lanes' values, good until the lane's next but one exchange.
 * The last lane to come calls `compute`. */
const uint64_t *emulator_exchange(unsigned mask, uint64_t value, const char *what, void (*compute)(const uint64_t *values) = NULL);
unsigned emulator_lane();
/* Copies to shared memory that arrive when they are waited for. */
void emulator_copy(void *to, const void *from, size_t n_bytes);
void emulator_copy_commit();
void emulator_copy_wait(int n_groups);
[[noreturn]] void emulator_stop(const char *format, ...) __attribute__((format(printf, 1, 2)));

static inline void __syncthreads() { emulator_barrier(); }
static inline void __syncwarp(unsigned mask = EMULATOR_ALL_LANES) { emulator_exchange(mask, 0, "__syncwarp"); }

/* The value of lane `from`, or the lane's own when `from` lies out of its part of the warp. */
template <typename T> static inline T emulator_shuffle(unsigned mask, T v, int from, bool inside, const char *what)
{
    static_assert(sizeof v == 4 || sizeof v == 8, "a shuffle takes 4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &v, sizeof v);
    const uint64_t *values = emulator_exchange(mask, bits, what);
    if (!inside)
        return v;
    if (!(mask >> from & 1))
        emulator_stop("%s reads lane %d, which is not in its mask %08x", what, from, mask);
    memcpy(&v, &values[from], sizeof v);
    return v;
}

template <typename T> static inline T __shfl_sync(unsigned mask, T v, int from, int width = 32)
{
    int lane = (int)emulator_lane();
    return emulator_shuffle(mask, v, (lane & -width) + (from & (width - 1)), true, "__shfl_sync");
}

template <typename T> static inline T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32)
{
    int lane = (int)emulator_lane(), from = lane ^ bits;
    return emulator_shuffle(mask, v, from, from < (lane & -width) + width, "__shfl_xor_sync");
}



static inline unsigned __ballot_sync(unsigned mask, int v)
{
    const uint64_t *values = emulator_exchange(mask, v != 0, "__ballot_sync");
    unsigned out = 0;
    for (int l = 0; l < 32; l++)
        out |= (unsigned)(mask >> l & 1 & values[l]) << l;
    return out;
}

static inline int __any_sync(unsigned mask, int v) { return __ballot_sync(mask, v) != 0; }
static inline int __all_sync(unsigned mask, int v) { return __ballot_sync(mask, v) == mask; }

/* ---- atomic because one thread runs at a time */

#define ATOMIC(name, type, next)                                                                                       \
    static inline type name(type *p, type v)                                                                           \
    {                                                                                                                  \
        type old = *p;                                                                                                 \
        *p = next;                                                                                                     \
        return old;                                                                                                    \
    }
ATOMIC(atomicAdd, int, old + v)
ATOMIC(atomicAdd, unsigned, old + v)
ATOMIC(atomicAdd, float, old + v)
ATOMIC(atomicMax, int, old > v ? old : v)
ATOMIC(atomicMax, unsigned, old > v ? old : v)
#undef ATOMIC

/* ---- numbers */

#define LESS_AND_MORE(type)                                                                                            \
    static inline type min(type a, type b) { return a < b ? a : b; }                                                   \
    static inline type max(type a, type b) { return a > b ? a : b; }
LESS_AND_MORE(int)
LESS_AND_MORE(unsigned)
LESS_AND_MORE(long)
LESS_AND_MORE(unsigned long)
LESS_AND_MORE(long long)
LESS_AND_MORE(unsigned long long)
#undef LESS_AND_MORE
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }

template <typename To, typename From> static inline To emulator_bits(From from)
{
    static_assert(sizeof(To) == sizeof from, "the same bits");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline unsigned __float_as_uint(float a) { return emulator_bits<unsigned>(a); }
static inline float __uint_as_float(unsigned a) { return emulator_bits<float>(a); }

static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s)
{
    uint64_t both = (uint64_t)b << 32 | a;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        unsigned pick = s >> (4 * i), byte = (unsigned)(both >> (8 * (pick & 7))) & 255u;
        out |= (pick & 8 ? (byte & 128 ? 255u : 0u) : byte) << (8 * i);
    }
    return out;
}

template <typename T> static inline T __ldg(const T *p) { return *p; }

#endif
