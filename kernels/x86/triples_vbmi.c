/* Triples of ternary weights times int8 activations, AVX-512 with VNNI and VBMI, for few tokens: vpermb looks a vector of indices up in each
 * table of codes, which gives 16 rows x 4 columns three times. */
#include "kernels/cpu.h"
#include "kernels/x86/lookup_vbmi.h"
#include "kernels/x86/triples_block.h"

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
        load_block(block, VNNI_AHEAD, v);
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

/* Many tokens are looked up, as far as whole bands of rows go. */
void matmul_triples_i8_vbmi(const struct matmul_tiles *m)
{
    struct matmul_tiles rest = *m;
    if (m->n_tokens >= LOOKUP_MIN_TOKENS)
        lookup_bands(&rest);
    if (rest.n_groups)
        stripes_run(&rest, vnni_sizes, block);
}

/* Whole blocks of n_cols columns to a byte a code; code 0 for what is left of them, where activations are 0. */
void triples_unpack_vbmi(const uint8_t *group, size_t n_cols, uint8_t *panel)
{
    size_t c = 0;
    for (; c + TRIPLES_COLS <= n_cols; c += TRIPLES_COLS, group += TRIPLES_BYTES) {
        __m512i v[TRIPLES_VECTORS];
        load_block(group, VNNI_AHEAD, v);
        for (int i = 0; i < TRIPLES_VECTORS; i++)
            for (int j = 0; j < 3; j++, panel += 64)
                _mm512_store_si512(panel, _mm512_permutexvar_epi8(v[i], _mm512_load_si512(triples_codes[j])));
    }
    memset(panel, 0, (n_cols - c) * TILE_ROWS);
}
