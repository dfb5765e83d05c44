/*
 * Four activations of a token have 81 possible sums with ternary weights. For 16 tokens these are 81 registers of 16-bit sums, a table in the
 * first cache; a row adds the register that its four weights name: 64 products in one addition, where maddubs needs four instructions.
 *
 *   for some groups of 16 rows, for a stripe of tokens, for each two tiles of 16 columns:
 *     indices      [group][2 tiles][16 rows][4 offsets]                             second cache
 *     for each 16 tokens:
 *       tables     [2 tiles][4][81 sums][16 tokens]                                 first cache
 *       for each group, for each row: eight of the sums are added to its 16-bit ones    second cache
 *
 * Before 16-bit sums could overflow - by the sizes of the largest of them and of the activations to come - they are added to 32-bit ones that
 * lie where y will be.
 */
#include "kernels/x86/lookup_avx2.h"

#include "kernels/x86/maddubs.h"

#define N_SUMS 81
#define N_TABLES 4              /* of a tile: columns j, 4 + j, 8 + j and 12 + j */
#define TILES 2                 /* whose tables share the first cache */
#define STRIPE 2                /* times LOOKUP_TOKENS */
#define SIGNS ((int)0xaaaaaaaa) /* of 16 words, in a mask of bytes */

/* Some groups of rows, and their part of the scratch. */
struct rows {
    const uint8_t *tiles;
    size_t first_row, n_groups;
    uint64_t *indices; /* [n_groups][TILES][16 rows] */
    __m256i *sums;     /* [STRIPE][n_groups][16 rows] of 16 tokens */
};

/* Of each row of a tile: where in its four tables the sums are that it wants, in bytes. Rows are in the order of SLOT. */
static void find_indices(const uint8_t *tile, uint64_t *out)
{
    const __m256i mask = _mm256_set1_epi8(15), zero = _mm256_setzero_si256();
    const __m256i threes = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 0, 3, 4, 5, 0, 6, 7, 8, 0, 0, 0, 0, 0));
    const __m256i nines =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 9, 18, 0, 27, 36, 45, 0, 54, 63, 72, 0, 0, 0, 0, 0));
    for (int half = 0; half < 2; half++, out += 8) {
        __m256i v = _mm256_load_si256((const __m256i *)(tile + 32 * half));
        __m256i low = _mm256_shuffle_epi8(threes, _mm256_and_si256(v, mask)),
                high = _mm256_shuffle_epi8(nines, _mm256_and_si256(_mm256_srli_epi16(v, 4), mask)),
                index = _mm256_add_epi8(low, high);
        _mm256_store_si256((__m256i *)out, _mm256_slli_epi16(_mm256_unpacklo_epi8(index, zero), 5));
        _mm256_store_si256((__m256i *)(out + 4), _mm256_slli_epi16(_mm256_unpackhi_epi8(index, zero), 5));
    }
}
#define SLOT(row) (((row)&9) | ((row)&2) << 1 | ((row)&4) >> 1)

/* 16 columns of 16 tokens, a register each. */
static void transpose(const int8_t *q, size_t q_stride, __m256i *columns)
{
    __m128i a[16], b[16];
    for (size_t t = 0; t < 16; t++)
        a[t] = _mm_loadu_si128((const __m128i *)(q + t * q_stride));
    for (int step = 0; step < 4; step++) { /* each merges register i with the one 8 behind it */
        for (int i = 0; i < 8; i++) {
            b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
            b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
        }
        memcpy(a, b, sizeof a);
    }
    for (int c = 0; c < 16; c++)
        columns[c] = _mm256_cvtepi8_epi16(a[c]);
}

/* The sums of columns 0, 4, 8 and 12 from x on: number i has the weights i % 3 - 1, i / 3 % 3 - 1, i / 9 % 3 - 1, i / 27 - 1. */
static void make_table(const __m256i *x, __m256i *out)
{
    __m256i low[9], high[9];
    for (int i = 0; i < 2; i++, x += 8) {
        __m256i *s = i ? high : low;
        s[4] = _mm256_setzero_si256();
        s[3] = _mm256_sub_epi16(s[4], x[0]);
        s[5] = x[0];
        for (int j = 3; j < 6; j++) {
            s[j - 3] = _mm256_sub_epi16(s[j], x[4]);
            s[j + 3] = _mm256_add_epi16(s[j], x[4]);
        }
    }
    for (int i = 0; i < 9; i++)
#pragma GCC unroll 9
        for (int j = 0; j < 9; j++)
            _mm256_store_si256(out++, _mm256_add_epi16(high[i], low[j]));
}

ALWAYS_INLINE __m256i look_up(const __m256i *table, uint64_t offset)
{
    return _mm256_load_si256((const __m256i *)((const char *)table + offset));
}

/* Adds TILES tiles of each group to the 16-bit sums. What bounds this are loads, so that four offsets are loaded at once. */
static __attribute__((noinline)) void add_tiles(const __m256i *tables, const uint64_t *indices, size_t n_groups,
                                                __m256i *sums)
{
    for (const uint64_t *end = indices + n_groups * TILES * TILE_ROWS; indices < end;
         indices += TILES * TILE_ROWS, sums += TILE_ROWS)
#pragma GCC unroll 16
        for (int r = 0; r < TILE_ROWS; r++) {
            __m256i sum = sums[r];
#pragma GCC unroll 2
            for (int i = 0; i < TILES; i++) {
                const __m256i *table = tables + i * N_TABLES * N_SUMS;
                uint64_t four = indices[i * TILE_ROWS + SLOT(r)];
                __asm__("" : "+r"(four));
                sum = _mm256_add_epi16(sum, look_up(table, (uint16_t)four));
                sum = _mm256_add_epi16(sum, look_up(table + N_SUMS, (uint16_t)(four >> 16)));
                sum = _mm256_add_epi16(sum, look_up(table + 2 * N_SUMS, (uint16_t)(four >> 32)));
                sum = _mm256_add_epi16(sum, look_up(table + 3 * N_SUMS, four >> 48));
            }
            sums[r] = sum;
        }
}

/* Of 8 rows: register i becomes those of token i, then of token 8 + i. */
static void transpose_sums(const __m256i *rows, __m256i *tokens)
{
    __m256i a[8], b[8];
    memcpy(a, rows, sizeof a);
    for (int step = 0; step < 3; step++) {
        for (int i = 0; i < 4; i++) {
            b[2 * i] = _mm256_unpacklo_epi16(a[i], a[i + 4]);
            b[2 * i + 1] = _mm256_unpackhi_epi16(a[i], a[i + 4]);
        }
        memcpy(a, b, sizeof a);
    }
    memcpy(tokens, a, sizeof a);
}

/* 16 tokens of a stripe. */
struct part {
    size_t t;      /* the first */
    __m256i *sums; /* [rows] */
    __m256i sizes; /* none of the sums is larger */
    bool first;    /* nothing is at y yet */
};

/* y for 8 rows of a token, or its 32-bit sums so far. */
ALWAYS_INLINE __m256i put(const struct matmul_tiles *m, bool first, bool last, size_t t, __m128i sums16, const void *y)
{
    __m256i sums = _mm256_cvtepi16_epi32(sums16);
    if (!first)
        sums = _mm256_add_epi32(sums, _mm256_loadu_si256(y));
    if (!last)
        return sums;
    return _mm256_castps_si256(scaled(m, t, sums));
}

/* 16-bit sums of n of 8 rows, for all tokens of a part, go to y. */
ALWAYS_INLINE void put_rows(const struct matmul_tiles *m, const struct part *p, bool last, size_t row, size_t n,
                            const __m256i *sums)
{
    __m256i tokens[8];
    transpose_sums(sums, tokens);
    for (size_t i = 0; i < LOOKUP_TOKENS; i++) {
        float *y = m->y + (p->t + i) * m->y_stride + row, some[8] = {0};
        __m128i sums16 = i < 8 ? _mm256_castsi256_si128(tokens[i]) : _mm256_extracti128_si256(tokens[i - 8], 1);
        if (n == 8) {
            _mm256_storeu_si256((__m256i *)y, put(m, p->first, last, p->t + i, sums16, y));
        } else {
            if (!p->first)
                memcpy(some, y, n * sizeof *y);
            _mm256_storeu_si256((__m256i *)some, put(m, p->first, last, p->t + i, sums16, some));
            memcpy(y, some, n * sizeof *y);
        }
    }
}

/* The sums of a part go to y and, but for the last, begin anew. */
static void put_part(const struct matmul_tiles *m, const struct rows *rows, struct part *p, bool last)
{
    size_t n = rows->n_groups * TILE_ROWS, left = m->n_rows - rows->first_row, r = 0;
    n = n < left ? n : left;
    for (; r + 8 <= n; r += 8)
        put_rows(m, p, last, rows->first_row + r, 8, p->sums + r);
    if (r < n)
        put_rows(m, p, last, rows->first_row + r, n - r, p->sums + r);
    if (last)
        return;
    memset(p->sums, 0, rows->n_groups * TILE_ROWS * sizeof *p->sums);
    p->sizes = _mm256_setzero_si256();
    p->first = false;
}

/* Of each token. */
static __m256i largest(const __m256i *sums, size_t n)
{
    __m256i size = _mm256_setzero_si256();
    for (size_t i = 0; i < n; i++)
        size = _mm256_max_epi16(size, _mm256_abs_epi16(sums[i]));
    return size;
}

static bool beyond_int16(__m256i a, __m256i b)
{
    return _mm256_movemask_epi8(_mm256_add_epi16(a, b)) & SIGNS;
}

/* Tiles of all groups, whose first column is given, times a part. */
static void add_part(const struct matmul_tiles *m, const struct rows *rows, struct part *p, size_t column)
{
    _Alignas(64) __m256i tables[TILES * N_TABLES * N_SUMS];
    __m256i sizes = _mm256_setzero_si256();
    for (int i = 0; i < TILES; i++, column += TILE_COLS) {
        __m256i columns[TILE_COLS];
        transpose(m->q + p->t * m->q_stride + column, m->q_stride, columns);
        for (int c = 0; c < TILE_COLS; c++)
            sizes = _mm256_add_epi16(sizes, _mm256_abs_epi16(columns[c]));
        for (int j = 0; j < N_TABLES; j++)
            make_table(columns + j, tables + (i * N_TABLES + j) * N_SUMS);
    }
    if (beyond_int16(p->sizes, sizes))
        p->sizes = largest(p->sums, rows->n_groups * TILE_ROWS);
    if (beyond_int16(p->sizes, sizes))
        put_part(m, rows, p, false);
    p->sizes = _mm256_add_epi16(p->sizes, sizes);
    add_tiles(tables, rows->indices, rows->n_groups, p->sums);
}

/* 16 n_parts tokens from t on. */
static void stripe(const struct matmul_tiles *m, const struct rows *rows, size_t t, size_t n_parts)
{
    struct part parts[STRIPE];
    size_t n_tiles = m->n_cols / TILE_COLS;
    for (size_t i = 0; i < n_parts; i++)
        parts[i] = (struct part){
            .t = t + LOOKUP_TOKENS * i, .sums = rows->sums + i * rows->n_groups * TILE_ROWS, .first = true};
    memset(rows->sums, 0, n_parts * rows->n_groups * TILE_ROWS * sizeof *rows->sums);
    for (size_t k = 0; k < n_tiles; k += TILES) {
        for (size_t g = 0; g < rows->n_groups; g++)
            for (size_t i = 0; i < TILES; i++) {
                const uint8_t *tile = rows->tiles + (g * n_tiles + k + i) * TILE_BYTES;
                _mm_prefetch((const char *)tile + TILES * TILE_BYTES, _MM_HINT_T0);
                find_indices(tile, rows->indices + (g * TILES + i) * TILE_ROWS);
            }
        for (size_t i = 0; i < n_parts; i++)
            add_part(m, rows, &parts[i], k * TILE_COLS);
    }
    for (size_t i = 0; i < n_parts; i++)
        put_part(m, rows, &parts[i], true);
}

void lookup_tokens(struct matmul_tiles *m)
{
    size_t n_parts = m->n_tokens / LOOKUP_TOKENS, n;
    if (!n_parts || m->n_groups < LOOKUP_MIN_GROUPS)
        return;
    size_t n_blocks = (m->n_groups + MATMUL_SUMS_GROUPS - 1) / MATMUL_SUMS_GROUPS,
           block = (m->n_groups + n_blocks - 1) / n_blocks;
    for (size_t g = 0; g < m->n_groups; g += block) { /* their tiles stay in the third cache */
        struct rows rows = {.tiles = m->tiles + g * (m->n_cols / TILE_COLS) * TILE_BYTES,
                            .first_row = g * TILE_ROWS,
                            .n_groups = m->n_groups - g < block ? m->n_groups - g : block,
                            .sums = (__m256i *)m->scratch};
        rows.indices = (uint64_t *)(rows.sums + STRIPE * TILE_ROWS * rows.n_groups);
        for (size_t part = 0; part < n_parts; part += n) {
            n = n_parts - part < STRIPE ? n_parts - part : STRIPE;
            stripe(m, &rows, part * LOOKUP_TOKENS, n);
        }
    }
    n = n_parts * LOOKUP_TOKENS;
    m->q += n * m->q_stride;
    m->q_scale += n;
    m->q_sum += n;
    m->y += n * m->y_stride;
    m->n_tokens -= n;
}
