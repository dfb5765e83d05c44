/* A block of triples (kernels/triples.h) as vectors, AVX-512. */
#ifndef KERNELS_X86_TRIPLES_BLOCK_H
#define KERNELS_X86_TRIPLES_BLOCK_H

#include "kernels/triples.h"
#include "kernels/x86/vnni.h"

/* a | b & c */
#define OR_AND(a, b, c) _mm512_ternarylogic_epi32(a, b, c, 0xf8)

/* Vector i of a block. Bits 5 to 7 of the first five are others': lookups take five or six bits, and tables of 64 repeat. */
ALWAYS_INLINE __m512i block_vector(const uint8_t *block, int i)
{
    const __m512i low3 = _mm512_set1_epi8(0x07), bits34 = _mm512_set1_epi8(0x18), bit3 = _mm512_set1_epi8(0x08), bit4 = _mm512_set1_epi8(0x10);
    __m512i line = _mm512_load_si512(block + 64 * (i < 5 ? i : i - 5));
    if (i < 5)
        return line;
    line = _mm512_and_si512(_mm512_srli_epi16(line, 5), low3);
    if (i < 7)
        return OR_AND(line, _mm512_srli_epi16(_mm512_load_si512(block + 64 * (i - 2)), 2), bits34);
    line = OR_AND(line, _mm512_srli_epi16(_mm512_load_si512(block + 64 * 3), 4), bit3);
    return OR_AND(line, _mm512_srli_epi16(_mm512_load_si512(block + 64 * 4), 3), bit4);
}

/* All vectors of a block. What lies `ahead` bytes is asked for, unless that is 0. */
ALWAYS_INLINE void load_block(const uint8_t *block, size_t ahead, __m512i *v)
{
#pragma GCC unroll 5
    for (int i = 0; ahead && i < TRIPLES_BYTES / 64; i++)
        _mm_prefetch((const char *)block + 64 * i + ahead, _MM_HINT_T0);
#pragma GCC unroll 8
    for (int i = 0; i < TRIPLES_VECTORS; i++)
        v[i] = block_vector(block, i);
}

#endif
