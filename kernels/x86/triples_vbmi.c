/* Triples of ternary weights times int8 activations, AVX-512 with VNNI and VBMI: vpermb looks a vector of indices up in each table of
 * codes, which gives 16 rows x 4 columns three times. */
#include "kernels/cpu.h"
#include "kernels/triples.h"
#include "kernels/x86/vnni.h"

/* a | b & c */
#define OR_AND(a, b, c) _mm512_ternarylogic_epi32(a, b, c, 0xf8)

/* The vectors of a block. Bits 5 to 7 of the first five are others': vpermb takes six bits, and the tables repeat. */
ALWAYS_INLINE void load_block(const uint8_t *block, __m512i *v)
{
    const __m512i low3 = _mm512_set1_epi8(0x07), bits34 = _mm512_set1_epi8(0x18), bit3 = _mm512_set1_epi8(0x08), bit4 = _mm512_set1_epi8(0x10);
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) {
        v[i] = _mm512_load_si512(block + 64 * i);
        _mm_prefetch((const char *)block + 64 * i + VNNI_AHEAD, _MM_HINT_T0);
    }
    v[5] = OR_AND(_mm512_and_si512(_mm512_srli_epi16(v[0], 5), low3), _mm512_srli_epi16(v[3], 2), bits34);
    v[6] = OR_AND(_mm512_and_si512(_mm512_srli_epi16(v[1], 5), low3), _mm512_srli_epi16(v[4], 2), bits34);
    v[7] = OR_AND(_mm512_and_si512(_mm512_srli_epi16(v[2], 5), low3), _mm512_srli_epi16(v[3], 4), bit3);
    v[7] = OR_AND(v[7], _mm512_srli_epi16(v[4], 3), bit4);
}

ALWAYS_INLINE void tokens(const struct matmul_tiles *m, size_t g, size_t t, const int8_t *q, const int T)
{
    size_t n_blocks = m->n_cols / TRIPLES_COLS;
    const uint8_t *block = m->tiles + g * n_blocks * TRIPLES_BYTES;
    const __m512i first = _mm512_load_si512(triples_codes[0]), second = _mm512_load_si512(triples_codes[1]),
                  third = _mm512_load_si512(triples_codes[2]);
    __m512i sums[VNNI_BLOCK];
    sums_clear(sums, T);
    for (size_t b = 0; b < n_blocks; b++, block += TRIPLES_BYTES) {
        __m512i v[TRIPLES_VECTORS];
        load_block(block, v);
#pragma GCC unroll 8
        for (int i = 0; i < TRIPLES_VECTORS; i++, q += TRIPLES_STEP * T) {
            sums_add(sums, 3 * i, _mm512_permutexvar_epi8(v[i], first), q, T);
            sums_add(sums, 3 * i + 1, _mm512_permutexvar_epi8(v[i], second), q + 4 * T, T);
            sums_add(sums, 3 * i + 2, _mm512_permutexvar_epi8(v[i], third), q + 8 * T, T);
        }
    }
    sums_finish(m, g, t, sums, T);
}

static void block(const struct matmul_tiles *m, size_t g, size_t t, const int8_t *q, size_t n_tokens)
{
    VNNI_DISPATCH(n_tokens, tokens, m, g, t, q)
}

void matmul_triples_i8_vbmi(const struct matmul_tiles *m) { stripes_run(m, vnni_sizes, block); }

/* Whole blocks of n_cols columns to a byte a code; code 0 for what is left of them, where activations are 0. */
void triples_unpack_vbmi(const uint8_t *group, size_t n_cols, uint8_t *panel)
{
    size_t c = 0;
    for (; c + TRIPLES_COLS <= n_cols; c += TRIPLES_COLS, group += TRIPLES_BYTES) {
        __m512i v[TRIPLES_VECTORS];
        load_block(group, v);
        for (int i = 0; i < TRIPLES_VECTORS; i++)
            for (int j = 0; j < 3; j++, panel += 64)
                _mm512_store_si512(panel, _mm512_permutexvar_epi8(v[i], _mm512_load_si512(triples_codes[j])));
    }
    memset(panel, 0, (n_cols - c) * TILE_ROWS);
}
