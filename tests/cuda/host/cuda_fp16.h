/* IEEE binary16 as cuda_fp16.h has it. */
#ifndef TESTS_CUDA_FP16_H
#define TESTS_CUDA_FP16_H

#include "tests/cuda/host/intrinsics.h"

extern "C" {
#include "kernels/arith.h"
}

/* All 65,536 values as f32. */
extern const float *const emulator_f16;

struct __half {
    unsigned short bits;
    __half() = default;
    __half(float v) : bits(arith_to_f16(v)) {}
    operator float() const { return emulator_f16[bits]; }
};
struct __attribute__((aligned(4))) __half2 {
    __half x, y;
};
typedef __half half;
typedef __half2 half2;

static inline float __half2float(__half v) { return emulator_f16[v.bits]; }
static inline __half __float2half_rn(float v) { return __half(v); }
static inline unsigned short __half_as_ushort(__half v) { return v.bits; }
static inline __half __ushort_as_half(unsigned short bits)
{
    __half v;
    v.bits = bits;
    return v;
}
static inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
static inline __half2 __half2half2(__half v) { return {v, v}; }
static inline __half __low2half(__half2 v) { return v.x; }
static inline __half __high2half(__half2 v) { return v.y; }
static inline __half2 __hsub2(__half2 a, __half2 b) { return {__half((float)a.x - b.x), __half((float)a.y - b.y)}; }

#endif
