/*
 * Three activations of a token have 27 possible sums: one register. Indexed by the triples of 32 rows, vpermw yields 96 products at once,
 * where vpdpbusd yields 64; as they use other ports, half of the columns are looked up and half multiplied, side by side. Rows go in bands
 * of 64, columns in chunks of 288, of which 144 are looked up: their sums fit 16 bits (48 x 3 x 128 < 2^15).
 *
 *   for a stripe of tokens, for some bands, for each chunk:
 *     for each 4 tokens:       operands                                                                   second cache
 *       tables of sums         [2 halves][block][8 triples][4 tokens][32]
 *       activations            [block][12][4 tokens][4 columns]
 *     for each band:
 *       its weights            [2 halves][block][4 units]                                                 first cache
 *       for each 4 tokens:     sums in registers, added to the 32-bit ones that lie where y will be;
 *                              a part of the next band is asked for
 *
 * Of a block's vectors of triples the first four are looked up, the last four multiplied. A unit has the indices of two triples of 64 rows,
 * bytes 4 r .. 4 r + 3 those of rows r, 32 + r, 16 + r, 48 + r, and the codes of 32 rows, a half's, x 12 columns: [3][2 groups][16 rows][4].
 * So a half multiplies for half of the rows, and looks half of the triples up for all.
 */
#include "kernels/x86/lookup_vbmi.h"

#include "kernels/x86/ask.h"
#include "kernels/x86/triples_block.h"

#define BAND_ROWS 64
#define BAND_GROUPS (BAND_ROWS / TILE_ROWS)
#define CHUNK_BLOCKS 3                                       /* weights of a band and tables of four tokens: the first cache */
#define BLOCK_TRIPLES 16                                     /* that are looked up */
#define HALF_TRIPLES (BLOCK_TRIPLES / 2)
#define LOOKED_UP (BLOCK_TRIPLES * 3)                        /* columns of a block; the others are multiplied */
#define BLOCK_WORDS ((TRIPLES_COLS - LOOKED_UP) / 4)         /* of four activations */
#define UNITS 4                                              /* of a half of a block */
#define UNIT_WORDS (BLOCK_WORDS / UNITS)
#define UNIT_INDEX_BYTES (2 * BAND_ROWS)
#define UNIT_BYTES (UNIT_INDEX_BYTES + UNIT_WORDS * 2 * 64)
#define HALF_BYTES (UNITS * UNIT_BYTES)                      /* of a block */
#define BAND_BYTES (CHUNK_BLOCKS * 2 * HALF_BYTES)
#define TOKENS 4                                             /* that meet a vector of weights */
#define STRIPE 64                                            /* tokens whose operands share the second cache */
#define Y_BYTES ((size_t)384 * 1024)                         /* of y, beside them */
#define ODD_WORDS 0xaaaaaaaau

/* Blocks of columns that are taken together. */
struct chunk {
    size_t begin, n_blocks;
    bool first, last;
};

/* What tokens t .. t + n_tokens - 1 bring to a chunk. */
struct operands {
    size_t t, n_tokens;
    int32_t sums[TOKENS]; /* of the activations that are multiplied */
    int32_t words[CHUNK_BLOCKS * BLOCK_WORDS * TOKENS];
    _Alignas(64) int16_t tables[CHUNK_BLOCKS * BLOCK_TRIPLES * TOKENS * 32];
};

/* Byte 4 r + 2 j + b: of row r in vector b of two, triple j or 2 + j. */
#define PICK(r, j) 4 * (r) + (j), 64 + 4 * (r) + (j), 4 * (r) + (j) + 1, 64 + 4 * (r) + (j) + 1
#define PICK4(r, j) PICK(r, j), PICK(r + 1, j), PICK(r + 2, j), PICK(r + 3, j)
#define PICK16(j) PICK4(0, j), PICK4(4, j), PICK4(8, j), PICK4(12, j)
static const _Alignas(64) uint8_t pick_triples[2][64] = {{PICK16(0)}, {PICK16(2)}};

/* The indices of two triples of 64 rows, of which v has a group's each; bits 5 to 7 are others', and vpermw does not read them. */
ALWAYS_INLINE void gather_indices(const __m512i *v, const uint8_t *pick_bytes, uint8_t *unit)
{
    __m512i pick = _mm512_load_si512(pick_bytes);
    __m512i low = _mm512_permutex2var_epi8(v[0], pick, v[2]), high = _mm512_permutex2var_epi8(v[1], pick, v[3]);
    _mm512_store_si512(unit, _mm512_mask_blend_epi16(ODD_WORDS, low, _mm512_slli_epi32(high, 16)));
    _mm512_store_si512(unit + 64, _mm512_mask_blend_epi16(ODD_WORDS, _mm512_srli_epi32(low, 16), high));
}

/* The weights of a band's blocks, half by half. */
static void gather_weights(const uint8_t *blocks, size_t group_bytes, size_t n_blocks, uint8_t *out)
{
    const __m512i codes[3] = {_mm512_load_si512(triples_codes[0]), _mm512_load_si512(triples_codes[1]), _mm512_load_si512(triples_codes[2])};
    size_t half_bytes = n_blocks * HALF_BYTES;
    for (size_t b = 0; b < n_blocks; b++, blocks += TRIPLES_BYTES, out += HALF_BYTES) {
        __m512i indices[LOOKED_UP / TRIPLES_STEP][BAND_GROUPS];
#pragma GCC unroll 4
        for (size_t g = 0; g < BAND_GROUPS; g++) {
            __m512i v[TRIPLES_VECTORS];
            uint8_t *to = out + g / 2 * half_bytes + UNIT_INDEX_BYTES + 64 * (g % 2);
            load_block(blocks + g * group_bytes, 0, v);
#pragma GCC unroll 4
            for (int u = 0; u < UNITS; u++) {
                indices[u][g] = v[u];
#pragma GCC unroll 3
                for (int w = 0; w < UNIT_WORDS; w++)
                    _mm512_store_si512(to + u * UNIT_BYTES + 128 * w, _mm512_permutexvar_epi8(v[UNITS + u], codes[w]));
            }
        }
#pragma GCC unroll 8
        for (int u = 0; u < 2 * UNITS; u++)
            gather_indices(indices[u / 2], pick_triples[u % 2], out + (u < UNITS ? 0 : half_bytes) + u % UNITS * UNIT_BYTES);
    }
}

/* What a block's tables are made of, as bytes of q + 128: a triple's first two activations, and its third beside a 0. */
struct triple_sources {
    int16_t pair[BLOCK_TRIPLES], third[BLOCK_TRIPLES];
};

#define PAIR4(k) 12 * (k), 12 * (k) + 4, 12 * (k) + 1, 12 * (k) + 5, 12 * (k) + 2, 12 * (k) + 6, 12 * (k) + 3, 12 * (k) + 7
#define THIRD4(k) 12 * (k) + 8, LOOKED_UP, 12 * (k) + 9, LOOKED_UP, 12 * (k) + 10, LOOKED_UP, 12 * (k) + 11, LOOKED_UP
static const _Alignas(64) uint8_t pick_sources[64] = {PAIR4(0),  PAIR4(1),  PAIR4(2),  PAIR4(3),
                                                      THIRD4(0), THIRD4(1), THIRD4(2), THIRD4(3)};

static void sort_triples(const int8_t *q, struct triple_sources *s)
{
    __m512i x = _mm512_xor_si512(_mm512_maskz_loadu_epi8(0xffffffffffff, q), _mm512_set1_epi8(-128));
    x = _mm512_permutexvar_epi8(_mm512_load_si512(pick_sources), x);
    _mm256_storeu_si256((__m256i *)s->pair, _mm512_castsi512_si256(x));
    _mm256_storeu_si256((__m256i *)s->third, _mm512_extracti64x4_epi64(x, 1));
}

/* Words of the codes of indices 0 .. 31. */
static __m512i codes_of(int place) { return _mm512_cvtepu8_epi16(_mm256_load_si256((const __m256i *)triples_codes[place])); }

/* Token i's tables: sum n of a triple is that of the weights of index n. As bytes are 128 too much, the 128 of the 0 beside the third is
 * taken off once for each weight. */
static void make_tables(const struct chunk *c, const int8_t *q, size_t i, struct operands *o)
{
    const __m512i one = _mm512_set1_epi16(1), low = _mm512_set1_epi16(0xff);
    __m512i first = _mm512_sub_epi16(codes_of(0), one), second = _mm512_sub_epi16(codes_of(1), one), third = _mm512_sub_epi16(codes_of(2), one);
    const __m512i all = _mm512_add_epi16(_mm512_add_epi16(first, second), third);
    const __m512i pair = _mm512_or_si512(_mm512_and_si512(first, low), _mm512_slli_epi16(second, 8));
    int16_t *to[2] = {o->tables + i * 32, o->tables + (c->n_blocks * HALF_TRIPLES * TOKENS + i) * 32};
    const __m512i rest = _mm512_or_si512(_mm512_and_si512(third, low), _mm512_slli_epi16(_mm512_sub_epi16(_mm512_setzero_si512(), all), 8));
    for (size_t b = 0; b < c->n_blocks; b++, q += TRIPLES_COLS) {
        struct triple_sources s;
        sort_triples(q, &s);
        __asm__("" : "+m"(s)); /* broadcasts load: gcc would take words out of registers */
#pragma GCC unroll 16
        for (size_t k = 0; k < BLOCK_TRIPLES; k++) {
            __m512i two = _mm512_maddubs_epi16(_mm512_set1_epi16(s.pair[k]), pair), one_more = _mm512_maddubs_epi16(_mm512_set1_epi16(s.third[k]), rest);
            _mm512_store_si512(to[k / HALF_TRIPLES] + (b * HALF_TRIPLES + k % HALF_TRIPLES) * TOKENS * 32, _mm512_add_epi16(two, one_more));
        }
    }
}

/* Token i's activations that are multiplied, and their sum: as codes are weights + 1, that much too much. */
static void copy_words(const struct chunk *c, const int8_t *q, size_t i, struct operands *o)
{
    __m512i sum = _mm512_setzero_si512();
    for (size_t b = 0; b < c->n_blocks; b++, q += TRIPLES_COLS) {
        int32_t words[16];
        __m512i x = _mm512_maskz_loadu_epi8(0xffffffffffff, q + LOOKED_UP);
        sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), x);
        _mm512_storeu_si512(words, x);
        for (size_t w = 0; w < BLOCK_WORDS; w++)
            o->words[(b * BLOCK_WORDS + w) * TOKENS + i] = words[w];
    }
    o->sums[i] = _mm512_reduce_add_epi32(sum);
}

static void make_operands(const struct matmul_tiles *m, const struct chunk *c, size_t t, size_t n_tokens, struct operands *o)
{
    o->t = t;
    o->n_tokens = n_tokens;
    for (size_t i = 0; i < n_tokens; i++) {
        const int8_t *q = m->q + (t + i) * m->q_stride + c->begin;
        for (size_t k = 0; k < c->n_blocks * TRIPLES_COLS; k += 64)
            _mm_prefetch((const char *)q + TOKENS * m->q_stride + k, _MM_HINT_T0);
        make_tables(c, q, i, o);
        copy_words(c, q, i, o);
    }
}

/* Adds 32 rows of a chunk, the even words and the odd words of `sums` and two groups' products, to what is at y; after the last one,
 * y = sum / s * scale. */
ALWAYS_INLINE void put(const struct matmul_tiles *m, const struct chunk *c, size_t t, __m512i sums, __m512i low, __m512i high, float *y)
{
    low = _mm512_dpwssd_epi32(low, sums, _mm512_set1_epi32(1));
    high = _mm512_dpwssd_epi32(high, sums, _mm512_set1_epi32(1 << 16));
    if (!c->first) {
        low = _mm512_add_epi32(low, _mm512_loadu_si512(y));
        high = _mm512_add_epi32(high, _mm512_loadu_si512(y + 16));
    }
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

ALWAYS_INLINE void multiply(__m512i codes, __m512i word, __m512i *sums)
{
    *sums = _mm512_dpbusd_epi32(*sums, codes, word);
    __asm__("" : "+v"(*sums));
}

/* A half's units: adds to the sums of 2 x 32 rows that are looked up, and sets those of 2 groups that are multiplied. */
ALWAYS_INLINE void half_band(const struct operands *o, size_t n_blocks, int half, const uint8_t *unit, __m512i *look_low, __m512i *look_high,
                             __m512i *low, __m512i *high, const int T)
{
    size_t n_units = n_blocks * UNITS;
    const int16_t *table_at = o->tables + (size_t)half * n_units * 2 * 32 * TOKENS;
    const int32_t *word_at = o->words;
#pragma GCC unroll 4
    for (int i = 0; i < T; i++)
        low[i] = high[i] = _mm512_set1_epi32(-o->sums[i]);
    for (size_t u = 0; u < n_units; u++, unit += UNIT_BYTES) {
#pragma GCC unroll 2
        for (int k = 0; k < 2; k++, table_at += 32 * TOKENS) {
            __m512i even = _mm512_load_si512(unit + BAND_ROWS * k), odd = _mm512_srli_epi16(even, 8);
#pragma GCC unroll 4
            for (int i = 0; i < T; i++) {
                __m512i table = _mm512_load_si512(table_at + 32 * i);
                __asm__("" : "+v"(table)); /* loaded once */
                look_up(table, even, &look_low[i]);
                look_up(table, odd, &look_high[i]);
            }
        }
#pragma GCC unroll 3
        for (int w = 0; w < UNIT_WORDS; w++, word_at += TOKENS) {
            __m512i a = _mm512_load_si512(unit + UNIT_INDEX_BYTES + 128 * w), b = _mm512_load_si512(unit + UNIT_INDEX_BYTES + 128 * w + 64);
#pragma GCC unroll 4
            for (int i = 0; i < T; i++) {
                __m512i word = _mm512_set1_epi32(word_at[i]);
                multiply(a, word, &low[i]);
                multiply(b, word, &high[i]);
            }
        }
    }
}

/* A band's rows, from y on for the first of T tokens. */
ALWAYS_INLINE void band_tokens(const struct matmul_tiles *m, const struct chunk *c, const uint8_t *weights, const struct operands *o, float *y,
                               const int T)
{
    __m512i look_low[TOKENS], look_high[TOKENS], sums[BAND_GROUPS][TOKENS];
#pragma GCC unroll 4
    for (int i = 0; i < T; i++)
        look_low[i] = look_high[i] = _mm512_setzero_si512();
    half_band(o, c->n_blocks, 0, weights, look_low, look_high, sums[0], sums[1], T);
    half_band(o, c->n_blocks, 1, weights + c->n_blocks * HALF_BYTES, look_low, look_high, sums[2], sums[3], T);
#pragma GCC unroll 4
    for (int i = 0; i < T; i++, y += m->y_stride) {
        put(m, c, o->t + (size_t)i, look_low[i], sums[0][i], sums[1][i], y);
        put(m, c, o->t + (size_t)i, look_high[i], sums[2][i], sums[3][i], y + 32);
    }
}

static void band(const struct matmul_tiles *m, const struct chunk *c, const uint8_t *weights, const struct operands *o, float *y)
{
    switch (o->n_tokens) {
    case 4: band_tokens(m, c, weights, o, y, 4); break;
    case 3: band_tokens(m, c, weights, o, y, 3); break;
    case 2: band_tokens(m, c, weights, o, y, 2); break;
    default: band_tokens(m, c, weights, o, y, 1); break;
    }
}

/* Asks for a part of a band's blocks of a chunk. */
ALWAYS_INLINE void ask_for_band(const uint8_t *blocks, size_t group_bytes, size_t part, size_t n_parts)
{
    for (size_t g = 0; g < BAND_GROUPS; g++, blocks += group_bytes)
        ask(blocks, CHUNK_BLOCKS * TRIPLES_BYTES, part, part + 1, n_parts, FIRST_CACHE);
}

/* What lies in the scratch. */
struct stripe {
    _Alignas(64) uint8_t weights[BAND_BYTES];
    struct operands operands[STRIPE / TOKENS];
};
_Static_assert(sizeof(struct stripe) <= MATMUL_LOOKUP_BYTES, "scratch");

/* Bands whose y stays in the second cache while chunk after chunk is added to it. */
struct bands {
    size_t first, n;
    const uint8_t *next; /* the blocks of the band that comes then; NULL: none */
};

/* A chunk's operands of tokens begin .. end - 1; returns how many. */
static size_t make_all_operands(const struct matmul_tiles *m, const struct chunk *c, size_t begin, size_t end, struct operands *o)
{
    size_t n = 0;
    for (size_t t = begin; t < end; t += TOKENS)
        make_operands(m, c, t, end - t < TOKENS ? end - t : TOKENS, &o[n++]);
    return n;
}

/* Tokens begin .. end - 1. */
static void stripe(const struct matmul_tiles *m, const struct bands *p, size_t begin, size_t end)
{
    struct stripe *s = (struct stripe *)m->scratch;
    size_t n_blocks = m->n_cols / TRIPLES_COLS, group_bytes = n_blocks * TRIPLES_BYTES, band_bytes = BAND_GROUPS * group_bytes;
    const uint8_t *first = m->tiles + p->first * band_bytes;
    for (size_t b = 0; b < n_blocks; b += CHUNK_BLOCKS, first += CHUNK_BLOCKS * TRIPLES_BYTES) {
        size_t left = n_blocks - b < CHUNK_BLOCKS ? n_blocks - b : CHUNK_BLOCKS;
        struct chunk c = {b * TRIPLES_COLS, left, b == 0, b + left == n_blocks};
        size_t n_operands = make_all_operands(m, &c, begin, end, s->operands);
        for (size_t i = 0; i < p->n; i++) {
            const uint8_t *blocks = first + i * band_bytes, *after = c.last ? p->next : first + CHUNK_BLOCKS * TRIPLES_BYTES;
            const uint8_t *next = i + 1 < p->n ? blocks + band_bytes : after;
            float *y = m->y + begin * m->y_stride + (p->first + i) * BAND_ROWS;
            gather_weights(blocks, group_bytes, left, s->weights);
            for (size_t k = 0; k < n_operands; k++, y += TOKENS * m->y_stride) {
                if (next)
                    ask_for_band(next, group_bytes, k, n_operands);
                band(m, &c, s->weights, &s->operands[k], y);
            }
        }
    }
}

void lookup_bands(struct matmul_tiles *m)
{
    size_t n_bands = m->n_rows / BAND_ROWS, n_at_once = m->n_tokens < STRIPE ? m->n_tokens : STRIPE;
    if (!n_bands)
        return;
    size_t room = Y_BYTES / (BAND_ROWS * sizeof(float) * n_at_once);
    size_t n_parts = (n_bands + room - 1) / room, part = (n_bands + n_parts - 1) / n_parts;
    size_t band_bytes = BAND_GROUPS * (m->n_cols / TRIPLES_COLS) * TRIPLES_BYTES;
    for (size_t t = 0; t < m->n_tokens; t += STRIPE)
        for (size_t first = 0; first < n_bands; first += part) {
            size_t n = n_bands - first < part ? n_bands - first : part;
            bool last = first + n == n_bands;
            struct bands p = {first, n, !last ? m->tiles + (first + n) * band_bytes : t + STRIPE < m->n_tokens ? m->tiles : NULL};
            stripe(m, &p, t, m->n_tokens - t < STRIPE ? m->n_tokens : t + STRIPE);
        }
    m->tiles += n_bands * band_bytes;
    m->y += n_bands * BAND_ROWS;
    m->n_rows -= n_bands * BAND_ROWS;
    m->n_groups -= n_bands * BAND_GROUPS;
}
