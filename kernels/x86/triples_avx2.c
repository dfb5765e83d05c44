/*
 * Triples of ternary weights times int8 activations, AVX2. A table of 27 codes is two of 16 for a byte shuffle, and the index's bit 4
 * chooses. A group of rows is unpacked once to a byte a code in the order of tiles, [n_cols / 4][16 rows][4 columns], in this thread's
 * scratch; then tokens pass, eight at a time. Pair sums (maddubs, at most 512 in size) are added in int16 for 64 steps of 4 columns:
 * 32768 is reached on the negative side only, which int16 holds.
 */
#include "kernels/cpu.h"
#include "kernels/triples.h"
#include "kernels/x86/avx2.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define STEP_BYTES 64   /* of 4 columns */
#define INT16_STEPS 64

ALWAYS_INLINE __m256i load(const uint8_t *p) { return _mm256_load_si256((const __m256i *)p); }

/* Bits 5.. of each byte moved down by `shift`, of these the ones in `bits`. */
ALWAYS_INLINE __m256i field(__m256i line, int shift, int bits)
{
    return _mm256_and_si256(_mm256_srli_epi16(line, shift), _mm256_set1_epi8((char)bits));
}

/* The eight vectors of half a block's rows; bits 5 to 7 of the first five are others'. */
ALWAYS_INLINE void load_half(const uint8_t *block, __m256i *v)
{
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++)
        v[i] = load(block + 64 * i);
    v[5] = _mm256_or_si256(field(v[0], 5, 0x07), field(v[3], 2, 0x18));
    v[6] = _mm256_or_si256(field(v[1], 5, 0x07), field(v[4], 2, 0x18));
    v[7] = _mm256_or_si256(_mm256_or_si256(field(v[2], 5, 0x07), field(v[3], 4, 0x08)), field(v[4], 3, 0x10));
}

ALWAYS_INLINE __m256i table_half(int table, int half)
{
    return _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)(triples_codes[table] + 16 * half)));
}

/* 8 rows of a block to codes; `out` is those rows' half of each step. */
ALWAYS_INLINE void unpack_half(const uint8_t *block, uint8_t *out)
{
    const __m256i low4 = _mm256_set1_epi8(0x0f);
    __m256i v[TRIPLES_VECTORS];
    load_half(block, v);
#pragma GCC unroll 3
    for (int j = 0; j < 3; j++) {
        const __m256i low = table_half(j, 0), high = table_half(j, 1);
#pragma GCC unroll 8
        for (int i = 0; i < TRIPLES_VECTORS; i++) {
            __m256i index = _mm256_and_si256(v[i], low4), bit4 = _mm256_slli_epi16(v[i], 3);
            __m256i codes = _mm256_blendv_epi8(_mm256_shuffle_epi8(low, index), _mm256_shuffle_epi8(high, index), bit4);
            _mm256_store_si256((__m256i *)(out + (3 * i + j) * STEP_BYTES), codes);
        }
    }
}

static void unpack_group(const uint8_t *block, size_t n_cols, uint8_t *panel)
{
    for (size_t c = 0; c < n_cols; c += TRIPLES_COLS, block += TRIPLES_BYTES, panel += TRIPLES_COLS / 4 * STEP_BYTES) {
        unpack_half(block, panel);
        unpack_half(block + 32, panel + 32);
    }
}

ALWAYS_INLINE __m256i broadcast4(const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm256_set1_epi32(four);
}

/* y = (sum - q_sum) / s * scale for 8 rows of one token; the last group may hold fewer. */
ALWAYS_INLINE void finish(const struct matmul_tiles *m, size_t row, size_t t, __m256i sum)
{
    __m256 y = _mm256_cvtepi32_ps(_mm256_sub_epi32(sum, _mm256_set1_epi32(m->q_sum[t])));
    y = _mm256_mul_ps(_mm256_div_ps(y, _mm256_set1_ps(m->q_scale[t])), _mm256_set1_ps(m->scale));
    if (row + 8 <= m->n_rows) {
        _mm256_storeu_ps(m->y + t * m->y_stride + row, y);
        return;
    }
    float part[8];
    _mm256_storeu_ps(part, y);
    if (row < m->n_rows)
        memcpy(m->y + t * m->y_stride + row, part, (m->n_rows - row) * sizeof *part);
}

/* T tokens and one half (8 rows) of the group whose codes are in the panel. */
ALWAYS_INLINE void tokens(const struct matmul_tiles *m, size_t row, const uint8_t *panel, size_t t, const int T)
{
    const __m256i ones = _mm256_set1_epi16(1);
    size_t n_steps = m->n_cols / 4;
    const int8_t *q = m->q + t * m->q_stride;
    __m256i sums[8];
#pragma GCC unroll 8
    for (int i = 0; i < T; i++)
        sums[i] = _mm256_setzero_si256();
    for (size_t k0 = 0; k0 < n_steps; k0 += INT16_STEPS) {
        size_t end = n_steps - k0 < INT16_STEPS ? n_steps : k0 + INT16_STEPS;
        __m256i acc[8];
#pragma GCC unroll 8
        for (int i = 0; i < T; i++)
            acc[i] = _mm256_setzero_si256();
        for (size_t k = k0; k < end; k++) {
            __m256i codes = load(panel + k * STEP_BYTES);
#pragma GCC unroll 8
            for (int i = 0; i < T; i++)
                acc[i] = _mm256_add_epi16(acc[i], _mm256_maddubs_epi16(codes, broadcast4(q + (size_t)i * m->q_stride + 4 * k)));
        }
#pragma GCC unroll 8
        for (int i = 0; i < T; i++)
            sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(acc[i], ones));
    }
#pragma GCC unroll 8
    for (int i = 0; i < T; i++)
        finish(m, row, t + (size_t)i, sums[i]);
}

static void half_group(const struct matmul_tiles *m, size_t row, const uint8_t *panel)
{
    size_t t = 0;
    for (; t + 8 <= m->n_tokens; t += 8)
        tokens(m, row, panel, t, 8);
    if (t + 4 <= m->n_tokens) {
        tokens(m, row, panel, t, 4);
        t += 4;
    }
    for (; t < m->n_tokens; t++)
        tokens(m, row, panel, t, 1);
}

void matmul_triples_i8_avx2(const struct matmul_tiles *m)
{
    size_t group_bytes = m->n_cols / TRIPLES_COLS * TRIPLES_BYTES;
    for (size_t g = 0; g < m->n_groups; g++) {
        unpack_group(m->tiles + g * group_bytes, m->n_cols, m->scratch);
        half_group(m, g * TILE_ROWS, m->scratch);
        half_group(m, g * TILE_ROWS + 8, m->scratch + 32);
    }
}
