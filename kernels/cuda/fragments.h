/* fragments: how lanes get the 16-bit words that the instructions of ptx.h take. */
#ifndef KERNELS_CUDA_FRAGMENTS_H
#define KERNELS_CUDA_FRAGMENTS_H

#include "kernels/cuda/device.h"

static __device__ inline unsigned half_bits(__half x, __half y)
{
    return (unsigned)__half_as_ushort(x) | (unsigned)__half_as_ushort(y) << 16;
}

static __device__ inline unsigned pack_half(float x, float y) { return half_bits(__float2half_rn(x), __float2half_rn(y)); }

static __device__ inline float round_half(float x) { return __half2float(__float2half_rn(x)); }

/* Two of four unsigned bytes, 0 and 1 or 2 and 3, less `centre`, as F16: 1024 + byte has the byte in its lowest bits. */
static __device__ inline unsigned half_from_bytes(unsigned bytes, bool upper, float centre)
{
    unsigned both = __byte_perm(bytes, 0x64646464u, upper ? 0x4342 : 0x4140);
    __half2 x = __halves2half2(__ushort_as_half((unsigned short)both), __ushort_as_half((unsigned short)(both >> 16)));
    x = __hsub2(x, __half2half2(__float2half_rn(1024.0f + centre)));
    return half_bits(__low2half(x), __high2half(x));
}

/* 4 N bytes at byte `at` of a row of row_bytes, 0 behind its end. EXACT: they are there, and rows are aligned to as many. */
template <int N, bool EXACT> static __device__ inline void load_words(const uint8_t *row, int at, int row_bytes, unsigned out[N])
{
    static_assert(N == 2 || N == 4, "words of one load");
    if constexpr (!EXACT) {
        if (row_bytes % (4 * N) || at >= row_bytes) {
            for (int i = 0; i < N; i++) {
                out[i] = 0;
                for (int j = 0; j < 4; j++)
                    out[i] |= at + 4 * i + j < row_bytes ? (unsigned)row[at + 4 * i + j] << (8 * j) : 0;
            }
            return;
        }
    }
    if constexpr (N == 4) {
        uint4 v = __ldg((const uint4 *)(row + at));
        out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
    } else {
        uint2 v = __ldg((const uint2 *)(row + at));
        out[0] = v.x, out[1] = v.y;
    }
}

/* Powers of two: times `factor` the largest of some values gets an exponent of 13, so that two F16 values hold all that matter to 22 bits;
 * times `back` it is what it was. */
struct peak {
    float factor, back;
};

static __device__ inline struct peak peak_of(float max)
{
    unsigned exponent = __float_as_uint(max) >> 23;
    exponent = exponent < 20 ? 20 : exponent; /* so that factor is a number */
    return {__uint_as_float((267 - exponent) << 23), __uint_as_float((exponent - 13) << 23)};
}

#endif
