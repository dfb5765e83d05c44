/* Limits, AVX-512 with VNNI: reads of 64 bytes; vpdpbusd. */
#include "kernels/cpu.h"

#include <immintrin.h>

uint64_t read_bytes_avx512(const uint8_t *p, size_t n)
{
    __m512i s0 = _mm512_setzero_si512(), s1 = s0, s2 = s0, s3 = s0;
    for (size_t i = 0; i < n; i += 256) {
        s0 = _mm512_xor_si512(s0, _mm512_loadu_si512(p + i));
        s1 = _mm512_xor_si512(s1, _mm512_loadu_si512(p + i + 64));
        s2 = _mm512_xor_si512(s2, _mm512_loadu_si512(p + i + 128));
        s3 = _mm512_xor_si512(s3, _mm512_loadu_si512(p + i + 192));
    }
    s0 = _mm512_xor_si512(_mm512_xor_si512(s0, s1), _mm512_xor_si512(s2, s3));
    uint64_t words[8];
    _mm512_storeu_si512(words, s0);
    return words[0] ^ words[1] ^ words[2] ^ words[3] ^ words[4] ^ words[5] ^ words[6] ^ words[7];
}

/* The empty assembly may have changed `a`, so each product is computed. */
#define STEP(s)                                                                                                        \
    __asm__ volatile("" : "+v"(a));                                                                                    \
    s = _mm512_dpbusd_epi32(s, a, b)

/* Twelve chains, as an instruction takes four or five cycles and two may begin in one. Each feeds on its own sum. */
uint64_t peak_i8_avx512(uint64_t n_rounds)
{
    __m512i a = _mm512_set1_epi8(2), b = _mm512_set1_epi8(3), s0 = a, s1 = a, s2 = a, s3 = a, s4 = a, s5 = a, s6 = a,
            s7 = a, s8 = a, s9 = a, s10 = a, s11 = a;
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
    }
    s0 = _mm512_xor_si512(_mm512_xor_si512(_mm512_xor_si512(s0, s1), _mm512_xor_si512(s2, s3)),
                          _mm512_xor_si512(_mm512_xor_si512(s4, s5), _mm512_xor_si512(s6, s7)));
    s0 = _mm512_xor_si512(s0, _mm512_xor_si512(_mm512_xor_si512(s8, s9), _mm512_xor_si512(s10, s11)));
    __asm__ volatile("" : : "v"(s0));
    return n_rounds * 12 * 64;
}
