/* A block of triples (kernels/triples.h) as vectors, AVX-512. */
#ifndef KERNELS_X86_TRIPLES_BLOCK_H
#define KERNELS_X86_TRIPLES_BLOCK_H

#include "kernels/triples.h"
#include "kernels/x86/vnni.h"

/* a | b & c */
#define OR_AND(a, b, c) _mm512_ternarylogic_epi32(a, b, c, 0xf8)

/* The vectors of a block. Bits 5 to 7 of the first five are others': lookups take five or six bits, and tables of 64 repeat. What lies `ahead`
 * bytes is asked for, unless that is 0. */
ALWAYS_INLINE void load_block(const uint8_t *block, size_t ahead, __m512i *v)
{
    const __m512i low3 = _mm512_set1_epi8(0x07), bits34 = _mm512_set1_epi8(0x18), bit3 = _mm512_set1_epi8(0x08), bit4 = _mm512_set1_epi8(0x10);
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) {
        v[i] = _mm512_load_si512(block + 64 * i);
        if (ahead)
            _mm_prefetch((const char *)block + 64 * i + ahead, _MM_HINT_T0);
    }
    v[5] = OR_AND(_mm512_and_si512(_mm512_srli_epi16(v[0], 5), low3), _mm512_srli_epi16(v[3], 2), bits34);
    v[6] = OR_AND(_mm512_and_si512(_mm512_srli_epi16(v[1], 5), low3), _mm512_srli_epi16(v[4], 2), bits34);
    v[7] = OR_AND(_mm512_and_si512(_mm512_srli_epi16(v[2], 5), low3), _mm512_srli_epi16(v[3], 4), bit3);
    v[7] = OR_AND(v[7], _mm512_srli_epi16(v[4], 3), bit4);
}

#endif
