/*
 * Tiles of ternary weights times int8 activations, AVX2. Each half of a tile (8 rows) is one load; a shift and a mask give 8 rows x 4
 * columns, which meet 4 broadcast activations. Pair sums (maddubs, at most 512 in size) are added in int16 for 16 tiles, 64 of them:
 * 32768 is reached on the negative side only, which int16 holds.
 *
 * One or two tokens leave registers free, and three shifts are much beside their products. There a mask alone gives planes 0 and 1,
 * and after one shift planes 2 and 3: the even planes as codes, the odd ones as codes times 4, in sums of their own. A pair sum of the
 * odd ones is at most 2 * 8 * 128 = 2048 in size, and 8 tiles have 16 of them: 32768 again. Of the even ones 16 are at most 8192. They
 * meet in 32 bits as four times the sum of all, at most 1024 in size a column: two million columns do not overflow.
 */
#include "kernels/cpu.h"
#include "kernels/x86/lookup_avx2.h"
#include "kernels/x86/maddubs.h"

#define INT16_TILES 16
#define FEW_TOKENS 2
#define FEW_INT16_TILES 8 /* n_cols is a multiple of their columns */

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
        sums_add(sums, low, high, 1, T);
    }
    sums_finish(m, g, t, sums, T);
}

ALWAYS_INLINE void pairs_add_plane(__m256i *pairs, __m256i low, __m256i high, __m256i mask, const int8_t *q,
                                   const int T)
{
    pairs_add(pairs, pairs + FEW_TOKENS, _mm256_and_si256(low, mask), _mm256_and_si256(high, mask), q, T);
}

ALWAYS_INLINE void few_tokens(const struct matmul_tiles *m, size_t g, size_t t, const int8_t *q, const int T)
{
    const __m256i codes = _mm256_set1_epi8(0x03), codes4 = _mm256_set1_epi8(0x0c);
    size_t group_bytes = m->n_cols / TILE_COLS * TILE_BYTES;
    const uint8_t *tile = m->tiles + g * group_bytes, *end = tile + group_bytes;
    __m256i sums[2 * FEW_TOKENS]; /* times 4 */
    sums_clear(sums, T);
    while (tile < end) {
        __m256i even[2 * FEW_TOKENS], odd[2 * FEW_TOKENS];
        pairs_clear(even, 2 * FEW_TOKENS);
        pairs_clear(odd, 2 * FEW_TOKENS);
#pragma GCC unroll 8
        for (int k = 0; k < FEW_INT16_TILES; k++, tile += TILE_BYTES, q += TILE_COLS * T) {
            _mm_prefetch((const char *)tile + MADDUBS_AHEAD, _MM_HINT_T0);
            __m256i low = _mm256_load_si256((const __m256i *)tile);
            __m256i high = _mm256_load_si256((const __m256i *)(tile + 32));
            pairs_add_plane(even, low, high, codes, q, T);
            pairs_add_plane(odd, low, high, codes4, q + 4 * T, T);
            low = _mm256_srli_epi16(low, 4);
            high = _mm256_srli_epi16(high, 4);
            pairs_add_plane(even, low, high, codes, q + 8 * T, T);
            pairs_add_plane(odd, low, high, codes4, q + 12 * T, T);
        }
        sums_add(sums, even, even + FEW_TOKENS, 4, T);
        sums_add(sums, odd, odd + FEW_TOKENS, 1, T);
    }
    for (int i = 0; i < 2 * T; i++)
        sums[i] = _mm256_srai_epi32(sums[i], 2);
    sums_finish(m, g, t, sums, T);
}

ALWAYS_INLINE void any_tokens(const struct matmul_tiles *m, size_t g, size_t t, const int8_t *q, const int T)
{
    if (T <= FEW_TOKENS)
        few_tokens(m, g, t, q, T);
    else
        tokens(m, g, t, q, T);
}

static void block(const struct matmul_tiles *m, size_t g, size_t t, const int8_t *q, size_t n_tokens)
{
    MADDUBS_DISPATCH(n_tokens, any_tokens, m, g, t, q)
}

/* Many tokens are looked up, if there are rows enough. */
void matmul_tiles_i8_avx2(const struct matmul_tiles *m)
{
    struct matmul_tiles rest = *m;
    lookup_tokens(&rest);
    stripes_run(&rest, maddubs_sizes, block);
}
