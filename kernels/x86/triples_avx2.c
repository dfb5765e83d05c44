/*
 * Triples of ternary weights times int8 activations, AVX2. A table of 27 codes is two of 16 for a byte shuffle, and the index's bit 4
 * chooses between them. Sums are those of kernels/x86/maddubs.h; two blocks are 48 steps of four columns.
 */
#include "kernels/cpu.h"
#include "kernels/triples.h"
#include "kernels/x86/maddubs.h"

#define INT16_BLOCKS 2

ALWAYS_INLINE __m256i load(const uint8_t *p) { return _mm256_load_si256((const __m256i *)p); }

/* Each byte moved down by `shift`, of these bits the ones in `bits`. */
ALWAYS_INLINE __m256i field(const uint8_t *line, int shift, int bits)
{
    return _mm256_and_si256(_mm256_srli_epi16(load(line), shift), _mm256_set1_epi8((char)bits));
}

/* Vector i of 8 rows of a block, which begin at `half`; bits 5 to 7 may be others'. */
ALWAYS_INLINE __m256i vector_of(const uint8_t *half, int i)
{
    switch (i) {
    case 5: return _mm256_or_si256(field(half, 5, 0x07), field(half + 192, 2, 0x18));
    case 6: return _mm256_or_si256(field(half + 64, 5, 0x07), field(half + 256, 2, 0x18));
    case 7:
        return _mm256_or_si256(_mm256_or_si256(field(half + 128, 5, 0x07), field(half + 192, 4, 0x08)),
                               field(half + 256, 3, 0x10));
    default: return load(half + 64 * i);
    }
}

/* The indices of a vector as a byte shuffle and a choice want them. */
struct indices {
    __m256i low4, bit4;
};

ALWAYS_INLINE struct indices indices_of(const uint8_t *half, int i)
{
    __m256i v = vector_of(half, i);
    return (struct indices){_mm256_and_si256(v, _mm256_set1_epi8(0x0f)), _mm256_slli_epi16(v, 3)};
}

ALWAYS_INLINE __m256i codes_of(struct indices v, int table)
{
    const __m256i first = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)triples_codes[table])),
                  second = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)(triples_codes[table] + 16)));
    return _mm256_blendv_epi8(_mm256_shuffle_epi8(first, v.low4), _mm256_shuffle_epi8(second, v.low4), v.bit4);
}

ALWAYS_INLINE void tokens(const struct matmul_tiles *m, size_t g, size_t t, const int8_t *q, const int T)
{
    size_t n_blocks = m->n_cols / TRIPLES_COLS;
    const uint8_t *block = m->tiles + g * n_blocks * TRIPLES_BYTES;
    __m256i sums[2 * MADDUBS_BLOCK];
    sums_clear(sums, T);
    for (size_t b0 = 0; b0 < n_blocks; b0 += INT16_BLOCKS) {
        size_t end = n_blocks - b0 < INT16_BLOCKS ? n_blocks : b0 + INT16_BLOCKS;
        __m256i low[MADDUBS_BLOCK], high[MADDUBS_BLOCK];
        pairs_clear(low, T);
        pairs_clear(high, T);
        for (size_t b = b0; b < end; b++, block += TRIPLES_BYTES) {
#pragma GCC unroll 5
            for (int i = 0; i < 5; i++)
                _mm_prefetch((const char *)block + 64 * i + MADDUBS_AHEAD, _MM_HINT_T0);
#pragma GCC unroll 8
            for (int i = 0; i < TRIPLES_VECTORS; i++) {
                struct indices upper = indices_of(block, i), lower = indices_of(block + 32, i);
#pragma GCC unroll 3
                for (int j = 0; j < 3; j++, q += 4 * T)
                    pairs_add(low, high, codes_of(upper, j), codes_of(lower, j), q, T);
            }
        }
        sums_add(sums, low, high, 1, T);
    }
    sums_finish(m, g, t, sums, T);
}

static void block(const struct matmul_tiles *m, size_t g, size_t t, const int8_t *q, size_t n_tokens)
{
    MADDUBS_DISPATCH(n_tokens, tokens, m, g, t, q)
}

void matmul_triples_i8_avx2(const struct matmul_tiles *m) { stripes_run(m, maddubs_sizes, block); }
