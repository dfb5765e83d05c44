/*
 * Lookups of partial sums, AVX2. A byte shuffle looks 32 rows up at once, so an entry e is kept as two signed bytes, e = 63 h + l with
 * |l| <= 31 and |h| <= 4 (|e| <= 256). Bytes are added as bytes where they cannot overflow, 4 l (124) and 16 h (64), and then, by
 * multiply-add with 1 and 63 in every second byte, to int16 sums of the even and of the odd rows.
 */
#include "kernels/cpu.h"
#include "kernels/tl1.h"
#include "kernels/x86/avx2.h"

#ifndef ALWAYS_INLINE
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#endif
#define RADIX 63

ALWAYS_INLINE __m256i load(const void *p)
{
    return _mm256_load_si256((const __m256i *)p);
}
ALWAYS_INLINE __m256i both(const void *p)
{
    return _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)p));
}

/* A table: l of the 16 entries, then h. */
void tl1_tables_avx2(const int8_t *q, size_t n_cols, uint8_t *tables)
{
    const __m256i first = load(tl1_weights[0]), second = load(tl1_weights[1]);
    for (size_t col = 0; col < n_cols; col += TL1_COLS)
        for (size_t t = 0; t < TL1_INDICES; t++, tables += TL1_TABLE_BYTES) {
            __m256i e = _mm256_add_epi16(_mm256_mullo_epi16(first, _mm256_set1_epi16(q[col + t])),
                                         _mm256_mullo_epi16(second, _mm256_set1_epi16(q[col + TL1_INDICES + t])));
            /* 520 / 32768 is 1 / 63 nearly enough: e / 63 is at least 1 / 126 away from where rounding changes */
            __m256i h = _mm256_mulhrs_epi16(e, _mm256_set1_epi16(520));
            __m256i l = _mm256_sub_epi16(e, _mm256_mullo_epi16(h, _mm256_set1_epi16(RADIX)));
            _mm256_store_si256((__m256i *)tables, _mm256_permute4x64_epi64(_mm256_packs_epi16(l, h), 0xd8));
        }
}

/* The indices of half a block for 32 rows. */
ALWAYS_INLINE void indices(const uint8_t *lines, __m256i *x)
{
    const __m256i mask = _mm256_set1_epi8(15);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m256i v = load(lines + i * TL1_LINE);
        x[2 * i] = _mm256_and_si256(v, mask);
        x[2 * i + 1] = _mm256_and_si256(_mm256_srli_epi16(v, 4), mask);
    }
}

/* Looks up half a block (8 indices) for 32 rows. */
ALWAYS_INLINE void half_block(const uint8_t *lines, const uint8_t *tables, __m256i *even, __m256i *odd, __m256i *high)
{
    const __m256i even1 = _mm256_set1_epi16(1), odd1 = _mm256_set1_epi16(0x100);
    __m256i x[8], low = _mm256_setzero_si256();
    indices(lines, x);
#pragma GCC unroll 8
    for (int t = 0; t < 8; t++, tables += TL1_TABLE_BYTES) {
        __m256i l = _mm256_shuffle_epi8(both(tables), x[t]);
        low = t % 4 ? _mm256_add_epi8(low, l) : l;
        *high = _mm256_add_epi8(*high, _mm256_shuffle_epi8(both(tables + 16), x[t]));
        if (t % 4 == 3) {
            *even = _mm256_add_epi16(*even, _mm256_maddubs_epi16(even1, low));
            *odd = _mm256_add_epi16(*odd, _mm256_maddubs_epi16(odd1, low));
        }
    }
}

/* Adds int16 sums of 32 rows to 32-bit ones. */
ALWAYS_INLINE void widen(__m256i even, __m256i odd, int32_t *sums)
{
    __m256i rows[2] = {_mm256_unpacklo_epi16(even, odd),
                       _mm256_unpackhi_epi16(even, odd)}; /* 0-7, 16-23 | 8-15, 24-31 */
    for (int i = 0; i < 2; i++) {
        __m256i *a = (__m256i *)(sums + 8 * i), *b = (__m256i *)(sums + 16 + 8 * i);
        _mm256_store_si256(a, _mm256_add_epi32(*a, _mm256_cvtepi16_epi32(_mm256_castsi256_si128(rows[i]))));
        _mm256_store_si256(b, _mm256_add_epi32(*b, _mm256_cvtepi16_epi32(_mm256_extracti128_si256(rows[i], 1))));
    }
}

/* 32 of the rows. `next`: the half of each block that is prefetched beside them. */
ALWAYS_INLINE void run_rows(const struct tl1_run *run, size_t row, const uint8_t *next, int32_t *sums)
{
    const __m256i even63 = _mm256_set1_epi16(RADIX), odd63 = _mm256_set1_epi16(RADIX << 8);
    const uint8_t *lines = run->blocks + row, *tables = run->tables;
    __m256i even = _mm256_setzero_si256(), odd = even;
    for (size_t b = 0; b < run->n_blocks; b++, next += TL1_BYTES) {
        __m256i high = _mm256_setzero_si256();
        for (size_t half = 0; half < 2; half++) {
            half_block(lines, tables, &even, &odd, &high);
            lines += TL1_BYTES / 2;
            tables += 8 * TL1_TABLE_BYTES;
        }
        even = _mm256_add_epi16(even, _mm256_maddubs_epi16(even63, high));
        odd = _mm256_add_epi16(odd, _mm256_maddubs_epi16(odd63, high));
#pragma GCC unroll 4
        for (size_t i = 0; i < TL1_BYTES / 2; i += TL1_LINE)
            _mm_prefetch((const char *)next + i, _MM_HINT_T1);
    }
    widen(even, odd, sums + row);
}

static void run_blocks(const struct tl1_run *run, int32_t *sums)
{
    run_rows(run, 0, run->next, sums);
    run_rows(run, 32, run->next + TL1_BYTES / 2, sums);
}

static void finish(const int32_t *sums, float q_scale, float scale, float *y)
{
    for (size_t r = 0; r < TL1_ROWS; r += 8) {
        __m256 v = _mm256_div_ps(_mm256_cvtepi32_ps(load(sums + r)), _mm256_set1_ps(q_scale));
        _mm256_storeu_ps(y + r, _mm256_mul_ps(v, _mm256_set1_ps(scale)));
    }
}

void matmul_tl1_i8_avx2(const struct matmul_tl1 *m)
{
    tl1_walk(m, run_blocks, finish);
}

/* ---- back to tiles */

/* Codes of one weight of 4 indices for 32 rows, [row][4]. */
ALWAYS_INLINE void plane(const __m256i *x, __m256i codes, __m256i *out)
{
    __m256i c[4];
#pragma GCC unroll 4
    for (int t = 0; t < 4; t++)
        c[t] = _mm256_shuffle_epi8(codes, x[t]);
    __m256i ab0 = _mm256_unpacklo_epi8(c[0], c[1]), ab1 = _mm256_unpackhi_epi8(c[0], c[1]);
    __m256i cd0 = _mm256_unpacklo_epi8(c[2], c[3]), cd1 = _mm256_unpackhi_epi8(c[2], c[3]);
    out[0] = _mm256_unpacklo_epi16(ab0, cd0); /* rows 0-3, 16-19 */
    out[1] = _mm256_unpackhi_epi16(ab0, cd0); /* 4-7, 20-23 */
    out[2] = _mm256_unpacklo_epi16(ab1, cd1); /* 8-11, 24-27 */
    out[3] = _mm256_unpackhi_epi16(ab1, cd1); /* 12-15, 28-31 */
}

/* 32 rows of a block into two tiles of each of two groups, which are group_bytes apart. */
ALWAYS_INLINE void unpack_block(const uint8_t *block, uint8_t *tiles, size_t group_bytes)
{
    __m256i x[TL1_INDICES];
    indices(block, x);
    indices(block + TL1_BYTES / 2, x + 8);
    for (size_t k = 0; k < 2; k++, tiles += TILE_BYTES) {
        const __m256i weights = load(tl1_weights[k]), bytes = _mm256_packs_epi16(weights, weights);
        const __m256i codes = _mm256_add_epi8(_mm256_permute4x64_epi64(bytes, 0x88), _mm256_set1_epi8(1));
        __m256i tile[4] = {_mm256_setzero_si256()};
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++) {
            __m256i part[4];
            plane(x + 4 * p, codes, part);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                tile[i] = p ? _mm256_or_si256(tile[i], _mm256_slli_epi16(part[i], 2 * p)) : part[i];
        }
        for (int i = 0; i < 4; i++) {
            _mm_store_si128((__m128i *)tiles + i, _mm256_castsi256_si128(tile[i]));
            _mm_store_si128((__m128i *)(tiles + group_bytes) + i, _mm256_extracti128_si256(tile[i], 1));
        }
    }
}

void tl1_unpack_avx2(const uint8_t *group, size_t n_cols, uint8_t *tiles)
{
    size_t group_bytes = n_cols / TILE_COLS * TILE_BYTES;
    for (size_t col = 0; col < n_cols; col += TL1_COLS, group += TL1_BYTES, tiles += 2 * TILE_BYTES)
        for (size_t half = 0; half < 2; half++)
            unpack_block(group + 32 * half, tiles + 2 * half * group_bytes, group_bytes);
}
