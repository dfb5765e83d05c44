/*
 * Three activations of a token have 27 possible sums: one register. Indexed by the triples of 32 rows, vpermw yields 96 products at once,
 * where vpdpbusd yields 64. Rows go in bands of 64, columns in chunks of 192, whose sums fit 16 bits (64 x 3 x 128 < 2^15):
 *
 *   for a stripe of tokens, for some bands, for each chunk:
 *     indices of the bands   [band][64 triples][64 bytes]: bytes 4 r .. 4 r + 3 are rows r, 32 + r, 16 + r, 48 + r     second cache
 *     for each 4 tokens:
 *       their tables         [64 triples][4 tokens][32 sums]                                              first cache
 *       for each band:       16-bit sums in registers, added to the 32-bit ones that lie where y will be
 */
#include "kernels/x86/lookup_vbmi.h"

#include "kernels/x86/triples_block.h"

#define BAND_ROWS 64
#define BAND_GROUPS (BAND_ROWS / TILE_ROWS)
#define CHUNK_BLOCKS 2
#define CHUNK_COLS (CHUNK_BLOCKS * TRIPLES_COLS)
#define CHUNK_TRIPLES (CHUNK_COLS / 3)
#define BAND_BYTES (CHUNK_TRIPLES * BAND_ROWS)
#define MAX_BANDS 32 /* whose indices and sums share the second cache */
#define STRIPE 64    /* tokens */
#define TOKENS 4     /* whose tables share the first cache */
#define ODD_WORDS 0xaaaaaaaau

/* Where columns begin, as seen from a band. */
struct chunk {
    size_t begin, n_triples;
    bool first, last;
};

/* Byte 4 r + 2 j + b: of row r in vector b of two, triple j or 2 + j. */
#define PICK(r, j) 4 * (r) + (j), 64 + 4 * (r) + (j), 4 * (r) + (j) + 1, 64 + 4 * (r) + (j) + 1
#define PICK4(r, j) PICK(r, j), PICK(r + 1, j), PICK(r + 2, j), PICK(r + 3, j)
#define PICK16(j) PICK4(0, j), PICK4(4, j), PICK4(8, j), PICK4(12, j)
static const _Alignas(64) uint8_t pick_triples[2][64] = {{PICK16(0)}, {PICK16(2)}};

/* The indices of a band's blocks; bits 5 to 7 are others', and vpermw does not read them. */
static void gather_indices(const uint8_t *blocks, size_t group_bytes, size_t n_blocks, uint8_t *out)
{
    for (size_t b = 0; b < n_blocks; b++, blocks += TRIPLES_BYTES) {
        __m512i v[BAND_GROUPS][TRIPLES_VECTORS];
        for (size_t g = 0; g < BAND_GROUPS; g++)
            load_block(blocks + g * group_bytes, CHUNK_BLOCKS * TRIPLES_BYTES, v[g]); /* asks for the next chunk's */
        for (int i = 0; i < TRIPLES_VECTORS; i++)
            for (int half = 0; half < 2; half++, out += 128) {
                __m512i pick = _mm512_load_si512(pick_triples[half]);
                __m512i low = _mm512_permutex2var_epi8(v[0][i], pick, v[2][i]), high = _mm512_permutex2var_epi8(v[1][i], pick, v[3][i]);
                _mm512_store_si512(out, _mm512_mask_blend_epi16(ODD_WORDS, low, _mm512_slli_epi32(high, 16)));
                _mm512_store_si512(out + 64, _mm512_mask_blend_epi16(ODD_WORDS, _mm512_srli_epi32(low, 16), high));
            }
    }
}

/* What a table is made of, as bytes of q + 128: the triple's first two activations, and its third. */
struct triple_sources {
    int16_t pair[CHUNK_TRIPLES], third[CHUNK_TRIPLES];
};

#define PAIR4(k) 12 * (k), 12 * (k) + 4, 12 * (k) + 1, 12 * (k) + 5, 12 * (k) + 2, 12 * (k) + 6, 12 * (k) + 3, 12 * (k) + 7
#define THIRD4(k) 12 * (k) + 8, 0, 12 * (k) + 9, 0, 12 * (k) + 10, 0, 12 * (k) + 11, 0
static const _Alignas(64) uint8_t pick_sources[64] = {PAIR4(0),  PAIR4(1),  PAIR4(2),  PAIR4(3),
                                                      THIRD4(0), THIRD4(1), THIRD4(2), THIRD4(3)};
#define SOURCE_BYTES 0x55555555ffffffffull /* all but the zeros beside the thirds */

static void sort_triples(const int8_t *q, size_t n_triples, struct triple_sources *s)
{
    for (size_t k = 0; k < n_triples; k += 16, q += 4 * TRIPLES_STEP) {
        __m512i x = _mm512_xor_si512(_mm512_maskz_loadu_epi8(0xffffffffffff, q), _mm512_set1_epi8(-128));
        x = _mm512_maskz_permutexvar_epi8(SOURCE_BYTES, _mm512_load_si512(pick_sources), x);
        _mm256_storeu_si256((__m256i *)(s->pair + k), _mm512_castsi512_si256(x));
        _mm256_storeu_si256((__m256i *)(s->third + k), _mm512_extracti64x4_epi64(x, 1));
    }
}

/* Words of the codes of indices 0 .. 31. */
static __m512i codes_of(int place) { return _mm512_cvtepu8_epi16(_mm256_load_si256((const __m256i *)triples_codes[place])); }

/* [n_triples][n_tokens][32]: sum i is that of the weights of index i. */
static void make_tables(const struct matmul_tiles *m, const struct chunk *c, size_t t, size_t n_tokens, int16_t *tables)
{
    const __m512i one = _mm512_set1_epi16(1), low = _mm512_set1_epi16(0xff);
    __m512i first = _mm512_sub_epi16(codes_of(0), one), second = _mm512_sub_epi16(codes_of(1), one), third = _mm512_sub_epi16(codes_of(2), one);
    const __m512i excess = _mm512_slli_epi16(_mm512_add_epi16(_mm512_add_epi16(first, second), third), 7); /* 128 a weight */
    const __m512i pair = _mm512_or_si512(_mm512_and_si512(first, low), _mm512_slli_epi16(second, 8));
    third = _mm512_and_si512(third, low);
    for (size_t i = 0; i < n_tokens; i++) {
        struct triple_sources s;
        const int8_t *q = m->q + (t + i) * m->q_stride + c->begin;
        for (size_t k = 0; k < CHUNK_COLS; k += 64)
            _mm_prefetch((const char *)q + TOKENS * m->q_stride + k, _MM_HINT_T0);
        sort_triples(q, c->n_triples, &s);
        for (size_t k = 0; k < c->n_triples; k++) {
            __m512i sums = _mm512_sub_epi16(_mm512_maddubs_epi16(_mm512_set1_epi16(s.pair[k]), pair), excess);
            sums = _mm512_add_epi16(sums, _mm512_maddubs_epi16(_mm512_set1_epi16(s.third[k]), third));
            _mm512_store_si512(tables + (k * n_tokens + i) * 32, sums);
        }
    }
}

/* Adds 32 rows of a chunk, the even words and the odd words of `sums`, to what is at y; after the last one, y = sum / s * scale. */
ALWAYS_INLINE void put(const struct matmul_tiles *m, const struct chunk *c, size_t t, __m512i sums, float *y)
{
    const __m512i even = _mm512_set1_epi32(1), odd = _mm512_set1_epi32(1 << 16), zero = _mm512_setzero_si512();
    __m512i low = _mm512_dpwssd_epi32(c->first ? zero : _mm512_loadu_si512(y), sums, even);
    __m512i high = _mm512_dpwssd_epi32(c->first ? zero : _mm512_loadu_si512(y + 16), sums, odd);
    if (!c->last) {
        _mm512_storeu_si512(y, low);
        _mm512_storeu_si512(y + 16, high);
        return;
    }
    _mm512_storeu_ps(y, scaled(m, t, low));
    _mm512_storeu_ps(y + 16, scaled(m, t, high));
}

/* *sums += 32 looked up; the sums stay in their register: gcc would copy them to another and, with many, to memory. */
ALWAYS_INLINE void look_up(__m512i table, __m512i indices, __m512i *sums)
{
    *sums = _mm512_add_epi16(*sums, _mm512_permutexvar_epi16(indices, table));
    __asm__("" : "+v"(*sums));
}

/* A band's rows, from y on for the first of T tokens. */
ALWAYS_INLINE void band_tokens(const struct matmul_tiles *m, const struct chunk *c, const uint8_t *indices, const int16_t *tables, size_t t,
                               float *y, const int T)
{
    __m512i low[TOKENS], high[TOKENS];
#pragma GCC unroll 4
    for (int i = 0; i < T; i++)
        low[i] = high[i] = _mm512_setzero_si512();
    for (size_t k = 0; k < c->n_triples; k++, indices += BAND_ROWS, tables += 32 * T) {
        __m512i even = _mm512_load_si512(indices), odd = _mm512_srli_epi16(even, 8);
#pragma GCC unroll 4
        for (int i = 0; i < T; i++) {
            __m512i table = _mm512_load_si512(tables + 32 * i);
            __asm__("" : "+v"(table)); /* loaded once */
            look_up(table, even, &low[i]);
            look_up(table, odd, &high[i]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < T; i++, y += m->y_stride) {
        put(m, c, t + (size_t)i, low[i], y);
        put(m, c, t + (size_t)i, high[i], y + 32);
    }
}

static void band(const struct matmul_tiles *m, const struct chunk *c, const uint8_t *indices, const int16_t *tables, size_t t, size_t n_tokens,
                 float *y)
{
    switch (n_tokens) {
    case 4: band_tokens(m, c, indices, tables, t, y, 4); break;
    case 3: band_tokens(m, c, indices, tables, t, y, 3); break;
    case 2: band_tokens(m, c, indices, tables, t, y, 2); break;
    default: band_tokens(m, c, indices, tables, t, y, 1); break;
    }
}

/* Tokens t .. end - 1 of bands whose indices fit the scratch. */
static void stripe(const struct matmul_tiles *m, size_t first_band, size_t n_bands, size_t begin, size_t end)
{
    _Alignas(64) int16_t tables[CHUNK_TRIPLES * TOKENS * 32];
    size_t n_blocks = m->n_cols / TRIPLES_COLS, group_bytes = n_blocks * TRIPLES_BYTES;
    const uint8_t *groups = m->tiles + first_band * BAND_GROUPS * group_bytes;
    for (size_t b = 0; b < n_blocks; b += CHUNK_BLOCKS) {
        size_t left = n_blocks - b < CHUNK_BLOCKS ? n_blocks - b : CHUNK_BLOCKS, n;
        struct chunk c = {b * TRIPLES_COLS, left * TRIPLES_COLS / 3, b == 0, b + left == n_blocks};
        for (size_t i = 0; i < n_bands; i++)
            gather_indices(groups + i * BAND_GROUPS * group_bytes + b * TRIPLES_BYTES, group_bytes, left, m->scratch + i * BAND_BYTES);
        for (size_t t = begin; t < end; t += n) {
            n = end - t < TOKENS ? end - t : TOKENS;
            make_tables(m, &c, t, n, tables);
            for (size_t i = 0; i < n_bands; i++)
                band(m, &c, m->scratch + i * BAND_BYTES, tables, t, n, m->y + t * m->y_stride + (first_band + i) * BAND_ROWS);
        }
    }
}

void lookup_bands(struct matmul_tiles *m)
{
    size_t n_bands = m->n_rows / BAND_ROWS, room = matmul_scratch_bytes(m->n_cols) / BAND_BYTES;
    if (!n_bands || !room)
        return;
    room = room < MAX_BANDS ? room : MAX_BANDS;
    size_t n_parts = (n_bands + room - 1) / room, part = (n_bands + n_parts - 1) / n_parts;
    for (size_t t = 0; t < m->n_tokens; t += STRIPE)
        for (size_t first = 0; first < n_bands; first += part)
            stripe(m, first, n_bands - first < part ? n_bands - first : part, t, m->n_tokens - t < STRIPE ? m->n_tokens : t + STRIPE);
    m->tiles += n_bands * BAND_GROUPS * (m->n_cols / TRIPLES_COLS) * TRIPLES_BYTES;
    m->y += n_bands * BAND_ROWS;
    m->n_rows -= n_bands * BAND_ROWS;
    m->n_groups -= n_bands * BAND_GROUPS;
}
