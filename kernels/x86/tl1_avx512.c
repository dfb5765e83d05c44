/*
 * Lookups of partial sums, AVX-512: a shuffle of 32 words by the low 5 bits of each word gives whole entries, and as a table has its 16
 * entries twice, the fifth bit, another index's, needs no mask. The words of a line hold indices of an even row in the low byte and of an
 * odd one in the high byte.
 */
#include "kernels/cpu.h"
#include "kernels/tl1.h"

#include <immintrin.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* A table: 16 int16, twice. */
void tl1_tables_avx512(const int8_t *q, size_t n_cols, uint8_t *tables)
{
    const __m512i first = _mm512_load_si512(tl1_weights[0]), second = _mm512_load_si512(tl1_weights[1]);
    for (size_t col = 0; col < n_cols; col += TL1_COLS)
        for (size_t t = 0; t < TL1_INDICES; t++, tables += TL1_TABLE_BYTES)
            _mm512_store_si512(
                tables, _mm512_add_epi16(_mm512_mullo_epi16(first, _mm512_set1_epi16(q[col + t])),
                                         _mm512_mullo_epi16(second, _mm512_set1_epi16(q[col + TL1_INDICES + t]))));
}

/* Adds int16 sums of 64 rows to 32-bit ones: of rows 0-7 and 16-23, 32-39 and 48-55, then those 8 rows on. */
ALWAYS_INLINE void widen(__m512i even, __m512i odd, int32_t *sums)
{
    __m512i rows[2] = {_mm512_unpacklo_epi16(even, odd), _mm512_unpackhi_epi16(even, odd)};
    for (int i = 0; i < 2; i++, sums += 32) {
        __m512i a = _mm512_cvtepi16_epi32(_mm512_castsi512_si256(rows[i]));
        __m512i b = _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(rows[i], 1));
        _mm512_store_si512(sums, _mm512_add_epi32(_mm512_load_si512(sums), a));
        _mm512_store_si512(sums + 16, _mm512_add_epi32(_mm512_load_si512(sums + 16), b));
    }
}

static void run_blocks(const struct tl1_run *run, int32_t *sums)
{
    const uint8_t *lines = run->blocks, *next = run->next, *tables = run->tables;
    __m512i even = _mm512_setzero_si512(), odd = even;
    for (size_t i = 0; i < run->n_blocks * TL1_INDICES / 2; i++) {
        __m512i v = _mm512_load_si512(lines), table0 = _mm512_load_si512(tables),
                table1 = _mm512_load_si512(tables + TL1_TABLE_BYTES);
        _mm_prefetch((const char *)next, _MM_HINT_T1);
        even = _mm512_add_epi16(even, _mm512_permutexvar_epi16(v, table0));
        odd = _mm512_add_epi16(odd, _mm512_permutexvar_epi16(_mm512_srli_epi16(v, 8), table0));
        even = _mm512_add_epi16(even, _mm512_permutexvar_epi16(_mm512_srli_epi16(v, 4), table1));
        odd = _mm512_add_epi16(odd, _mm512_permutexvar_epi16(_mm512_srli_epi16(v, 12), table1));
        lines += TL1_LINE;
        next += TL1_LINE;
        tables += 2 * TL1_TABLE_BYTES;
    }
    widen(even, odd, sums);
}

static void finish(const int32_t *sums, float q_scale, float scale, float *y)
{
    for (int i = 0; i < 4; i++) {
        float *out = y + i / 2 * 8 + i % 2 * 32;
        __m512 v = _mm512_div_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums + 16 * i)), _mm512_set1_ps(q_scale));
        v = _mm512_mul_ps(v, _mm512_set1_ps(scale));
        _mm256_storeu_ps(out, _mm512_castps512_ps256(v));
        _mm256_storeu_ps(out + 16, _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1)));
    }
}

void matmul_tl1_i8_avx512(const struct matmul_tl1 *m)
{
    tl1_walk(m, run_blocks, finish);
}
