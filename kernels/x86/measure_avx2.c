/* Limits, AVX2: reads of 32 bytes; vpmaddubsw and the addition of its pairs in 16 bits, which is what the kernels use. */
#include "kernels/cpu.h"

#include <immintrin.h>

uint64_t read_bytes_avx2(const uint8_t *p, size_t n)
{
    __m256i s0 = _mm256_setzero_si256(), s1 = s0, s2 = s0, s3 = s0;
    for (size_t i = 0; i < n; i += 128) {
        s0 = _mm256_xor_si256(s0, _mm256_loadu_si256((const __m256i *)(p + i)));
        s1 = _mm256_xor_si256(s1, _mm256_loadu_si256((const __m256i *)(p + i + 32)));
        s2 = _mm256_xor_si256(s2, _mm256_loadu_si256((const __m256i *)(p + i + 64)));
        s3 = _mm256_xor_si256(s3, _mm256_loadu_si256((const __m256i *)(p + i + 96)));
    }
    s0 = _mm256_xor_si256(_mm256_xor_si256(s0, s1), _mm256_xor_si256(s2, s3));
    uint64_t words[4];
    _mm256_storeu_si256((__m256i *)words, s0);
    return words[0] ^ words[1] ^ words[2] ^ words[3];
}

/* In assembly, so that there is nothing else in the loop. */
#define STEP(s)                                                                                                        \
    __asm__ volatile("vpmaddubsw %2, %3, %1\n\tvpaddw %1, %0, %0" : "+x"(s), "=&x"(product) : "x"(b), "x"(a))

uint64_t peak_i8_avx2(uint64_t n_rounds)
{
    __m256i a = _mm256_set1_epi8(2), b = _mm256_set1_epi8(3), s0 = a, s1 = a, s2 = a, s3 = a, s4 = a, s5 = a, s6 = a,
            s7 = a, product;
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
    s0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_xor_si256(s0, s1), _mm256_xor_si256(s2, s3)),
                          _mm256_xor_si256(_mm256_xor_si256(s4, s5), _mm256_xor_si256(s6, s7)));
    __asm__ volatile("" : : "x"(s0));
    return n_rounds * 8 * 32;
}
