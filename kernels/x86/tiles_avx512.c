/* Tiles of ternary weights times int8 activations, AVX-512 with VNNI. A tile is one load; a shift and a mask give 16 rows x 4 columns of
 * codes. */
#include "kernels/cpu.h"
#include "kernels/x86/vnni.h"

ALWAYS_INLINE void tokens(const struct matmul_tiles *m, size_t g, size_t t, const int8_t *q, const int T)
{
    const __m512i mask = _mm512_set1_epi8(3);
    size_t n_tiles = m->n_cols / TILE_COLS;
    const uint8_t *tile = m->tiles + g * n_tiles * TILE_BYTES;
    __m512i sums[VNNI_BLOCK];
    sums_clear(sums, T);
    for (size_t k = 0; k < n_tiles; k++, tile += TILE_BYTES) {
        __m512i v = _mm512_load_si512(tile);
        _mm_prefetch((const char *)tile + VNNI_AHEAD, _MM_HINT_T0);
#pragma GCC unroll 4
        for (unsigned p = 0; p < 4; p++, q += 4 * T)
            sums_add(sums, p, _mm512_and_si512(_mm512_srli_epi32(v, 2 * p), mask), q, T);
    }
    sums_finish(m, g, t, sums, T);
}

static void block(const struct matmul_tiles *m, size_t g, size_t t, const int8_t *q, size_t n_tokens)
{
    VNNI_DISPATCH(n_tokens, tokens, m, g, t, q)
}

void matmul_tiles_i8_avx512(const struct matmul_tiles *m) { stripes_run(m, vnni_sizes, block); }
