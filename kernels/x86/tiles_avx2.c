/*
 * Tiles of ternary weights times int8 activations, AVX2. Each half of a tile (8 rows) is one load; a shift and a mask give 8 rows x 4
 * columns, which meet 4 broadcast activations. Pair sums (maddubs, at most 512 in size) are added in int16 for 16 tiles, 64 of them:
 * 32768 is reached on the negative side only, which int16 holds.
 */
#include "kernels/cpu.h"
#include "kernels/x86/lookup_avx2.h"
#include "kernels/x86/maddubs.h"

#define INT16_TILES 16

/* Codes of plane p of half a tile. */
ALWAYS_INLINE __m256i codes_of(const uint8_t *half, int p)
{
    __m256i v = _mm256_load_si256((const __m256i *)half);
    return _mm256_and_si256(_mm256_srli_epi16(v, 2 * p), _mm256_set1_epi8(3));
}

ALWAYS_INLINE void tokens(const struct matmul_tiles *m, size_t g, size_t t, const int8_t *q, const int T)
{
    size_t n_tiles = m->n_cols / TILE_COLS;
    const uint8_t *tile = m->tiles + g * n_tiles * TILE_BYTES;
    __m256i sums[2 * MADDUBS_BLOCK];
    sums_clear(sums, T);
    for (size_t k0 = 0; k0 < n_tiles; k0 += INT16_TILES) {
        size_t end = n_tiles - k0 < INT16_TILES ? n_tiles : k0 + INT16_TILES;
        __m256i low[MADDUBS_BLOCK], high[MADDUBS_BLOCK];
        pairs_clear(low, T);
        pairs_clear(high, T);
        for (size_t k = k0; k < end; k++, tile += TILE_BYTES) {
            _mm_prefetch((const char *)tile + MADDUBS_AHEAD, _MM_HINT_T0);
#pragma GCC unroll 4
            for (int p = 0; p < 4; p++, q += 4 * T)
                pairs_add(low, high, codes_of(tile, p), codes_of(tile + 32, p), q, T);
        }
        sums_add(sums, low, high, T);
    }
    sums_finish(m, g, t, sums, T);
}

static void block(const struct matmul_tiles *m, size_t g, size_t t, const int8_t *q, size_t n_tokens)
{
    MADDUBS_DISPATCH(n_tokens, tokens, m, g, t, q)
}

/* Many tokens are looked up, if there are rows enough. */
void matmul_tiles_i8_avx2(const struct matmul_tiles *m)
{
    struct matmul_tiles rest = *m;
    lookup_tokens(&rest);
    stripes_run(&rest, maddubs_sizes, block);
}
