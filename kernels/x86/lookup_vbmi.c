/*
 * Three weights are one of 13 triples, the negative of one, or zeros. So the sums of a token's three activations under all triples are 14
 * bytes and their negatives, and those of four triples (a quad: 12 columns) one register: vpermb looks them up for 16 rows, and vpdpbusd
 * multiplies them by the triples' signs and adds the four of each row. Two instructions, which can run side by side, do 192 products, where
 * vpdpbusd alone does 64. Bytes are sum + 128; what that is too much in a row depends on the signs only, so that it is the same for all
 * tokens. Sums that do not fit a byte (of normally distributed activations, some of 12 % of the triples) wrap around, and the 256 that those
 * then lack or have too much, a carry, is looked up by itself, of one triple and 64 rows.
 *
 *   for a stripe of tokens, for each chunk of 288 columns:
 *     for each 4 tokens:       tables     [quad][4 tokens][64]                                                   second cache
 *                              carries    [of a token's large triples][32]
 *     for each band of 64 rows:
 *       its weights            [quad][4 groups][64 places in a table, 64 signs], [triple][64 rows]               first cache
 *       for each 4 tokens:     sums in registers, added to those that lie where y will be;
 *                              a part of the next band is asked for
 */
#include "kernels/x86/lookup_vbmi.h"

#include "kernels/x86/ask.h"
#include "kernels/x86/triples_block.h"

#define BAND_ROWS 64
#define BAND_GROUPS (BAND_ROWS / TILE_ROWS)
#define BLOCK_TRIPLES (TRIPLES_COLS / 3)
#define CHUNK_BLOCKS 3 /* weights of a band and tables of four tokens: the first cache */
#define CHUNK_QUADS (CHUNK_BLOCKS * TRIPLES_VECTORS)
#define CHUNK_TRIPLES (CHUNK_BLOCKS * BLOCK_TRIPLES)
#define TOKENS 4       /* that meet a vector of weights */
#define STRIPE 128     /* tokens whose operands are in the second cache */
#define MAX_CARRIES (STRIPE * CHUNK_TRIPLES)
#define NEGATIVES 0x1fffu /* indices 0 .. 12 of triples; 26 - n is the negative of n, 13 are zeros */

/* Blocks of columns that are taken together. */
struct chunk {
    size_t begin, n_blocks;
    bool first, last;
};

/* A band's weights of a chunk. */
struct weights {
    _Alignas(64) uint8_t quads[CHUNK_QUADS][BAND_GROUPS][2][64];
    uint8_t triples[CHUNK_TRIPLES][BAND_ROWS]; /* bytes 4 r .. 4 r + 3: indices of rows r, 32 + r, 16 + r, 48 + r */
    int32_t start[BAND_GROUPS][TILE_ROWS];     /* of sums: takes off what bytes are too much */
};

/* What tokens t .. t + n_tokens - 1 bring to a chunk. */
struct operands {
    size_t t, n_tokens;
    size_t carries_end[TOKENS]; /* of each token's; they begin where those of the token before it end */
    _Alignas(64) uint8_t tables[CHUNK_QUADS][TOKENS][64];
};

/* What lies in the scratch. */
struct stripe {
    struct weights weights;
    struct operands operands[STRIPE / TOKENS];
    uint8_t carry_of[MAX_CARRIES + BLOCK_TRIPLES]; /* which of the chunk's triples; those of a block are stored at once */
    _Alignas(32) int8_t carries[MAX_CARRIES][32];  /* -1, 0 or 1 by index: a token's sum is at most CHUNK_TRIPLES */
};
_Static_assert(sizeof(struct stripe) <= MATMUL_LOOKUP_BYTES && CHUNK_TRIPLES <= INT8_MAX, "scratch, carries");

/* The place of index n in a table: 2 |n - 13|, as a quad's tables are interlaced by twos. */
#define PLACES 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 0, 0, 0, 0, 0
static const _Alignas(64) uint8_t places[64] = {PLACES, PLACES};
#define TABLES_OF_QUAD 0x21200100 /* where the tables of its four triples begin */

#define SIGNS -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1
static const _Alignas(64) int8_t signs[64] = {SIGNS, SIGNS};

/* Byte 4 r + 2 j + b: of row r in vector b of two, triple j or 2 + j. */
#define PICK(r, j) 4 * (r) + (j), 64 + 4 * (r) + (j), 4 * (r) + (j) + 1, 64 + 4 * (r) + (j) + 1
#define PICK4(r, j) PICK(r, j), PICK(r + 1, j), PICK(r + 2, j), PICK(r + 3, j)
#define PICK16(j) PICK4(0, j), PICK4(4, j), PICK4(8, j), PICK4(12, j)
static const _Alignas(64) uint8_t pick_triples[2][64] = {{PICK16(0)}, {PICK16(2)}};

/* Two triples of 64 rows, of which v has a group's four each; bits 5 to 7 are others', and lookups do not read them. */
ALWAYS_INLINE void gather_triples(const __m512i *v, const uint8_t *pick_bytes, uint8_t (*out)[BAND_ROWS])
{
    const __mmask32 odd = 0xaaaaaaaa;
    __m512i pick = _mm512_load_si512(pick_bytes);
    __m512i low = _mm512_permutex2var_epi8(v[0], pick, v[2]), high = _mm512_permutex2var_epi8(v[1], pick, v[3]);
    _mm512_store_si512(out[0], _mm512_mask_blend_epi16(odd, low, _mm512_slli_epi32(high, 16)));
    _mm512_store_si512(out[1], _mm512_mask_blend_epi16(odd, _mm512_srli_epi32(low, 16), high));
}

/* A band's blocks. */
static void gather_weights(const uint8_t *blocks, size_t group_bytes, size_t n_blocks, struct weights *w)
{
    const __m512i place = _mm512_load_si512(places), sign = _mm512_load_si512(signs), table = _mm512_set1_epi32(TABLES_OF_QUAD);
    __m512i start[BAND_GROUPS] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
    for (size_t b = 0; b < n_blocks; b++, blocks += TRIPLES_BYTES) {
        uint8_t (*quads)[BAND_GROUPS][2][64] = w->quads + b * TRIPLES_VECTORS;
#pragma GCC unroll 8
        for (int i = 0; i < TRIPLES_VECTORS; i++) {
            __m512i v[BAND_GROUPS];
#pragma GCC unroll 4
            for (size_t g = 0; g < BAND_GROUPS; g++) {
                v[g] = block_vector(blocks + g * group_bytes, i);
                __m512i s = _mm512_permutexvar_epi8(v[g], sign);
                _mm512_store_si512(quads[i][g][0], _mm512_or_si512(_mm512_permutexvar_epi8(v[g], place), table));
                _mm512_store_si512(quads[i][g][1], s);
                start[g] = _mm512_dpbusd_epi32(start[g], _mm512_set1_epi8(-128), s);
            }
            for (int j = 0; j < 2; j++)
                gather_triples(v, pick_triples[j], w->triples + b * BLOCK_TRIPLES + 4 * i + 2 * j);
        }
    }
    for (size_t g = 0; g < BAND_GROUPS; g++)
        _mm512_store_si512(w->start[g], _mm512_sub_epi32(_mm512_setzero_si512(), start[g]));
}

/* What a block's tables are made of, as bytes of q + 128: a triple's first two activations, and its third beside a 0. */
struct triple_sources {
    uint32_t pairs[BLOCK_TRIPLES / 2], thirds[BLOCK_TRIPLES / 2]; /* of two triples each */
    uint32_t large;                                               /* bit k: sums of triple k may not fit a byte */
};

#define HALF_COLS (TRIPLES_COLS / 2)
#define PAIR4(k) 12 * (k), 12 * (k) + 4, 12 * (k) + 1, 12 * (k) + 5, 12 * (k) + 2, 12 * (k) + 6, 12 * (k) + 3, 12 * (k) + 7
#define THIRD4(k) 12 * (k) + 8, HALF_COLS, 12 * (k) + 9, HALF_COLS, 12 * (k) + 10, HALF_COLS, 12 * (k) + 11, HALF_COLS
static const _Alignas(64) uint8_t pick_sources[64] = {PAIR4(0),  PAIR4(1),  PAIR4(2),  PAIR4(3),
                                                      THIRD4(0), THIRD4(1), THIRD4(2), THIRD4(3)};

/* The activations of a block by triple, and which triples are large. */
static void sort_triples(const int8_t *q, struct triple_sources *s)
{
    const __m512i pick = _mm512_load_si512(pick_sources), fours = _mm512_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21, 0, 0, 0, 0, 0, 0, 0, 0);
    for (size_t h = 0; h < 2; h++) {
        __m512i x = _mm512_xor_si512(_mm512_maskz_loadu_epi8(0xffffffffffff, q + h * HALF_COLS), _mm512_set1_epi8(-128));
        x = _mm512_permutexvar_epi8(pick, x);
        _mm256_storeu_si256((__m256i *)(s->pairs + h * BLOCK_TRIPLES / 4), _mm512_castsi512_si256(x));
        _mm256_storeu_si256((__m256i *)(s->thirds + h * BLOCK_TRIPLES / 4), _mm512_extracti64x4_epi64(x, 1));
    }
    __m512i low = _mm512_abs_epi8(_mm512_loadu_si512(q)), high = _mm512_abs_epi8(_mm512_maskz_loadu_epi8(0xffffffff, q + 64));
    __m512i sum = _mm512_permutex2var_epi32(low, fours, high);
    sum = _mm512_adds_epu8(sum, _mm512_permutex2var_epi32(low, _mm512_add_epi32(fours, _mm512_set1_epi32(1)), high));
    sum = _mm512_adds_epu8(sum, _mm512_permutex2var_epi32(low, _mm512_add_epi32(fours, _mm512_set1_epi32(2)), high));
    s->large = (uint32_t)_mm512_movepi8_mask(sum);
}

/* Weights of triples in words of two bytes: of the first and the second column; of the third, and what takes off the excess: as activations
 * are 128 too much, the 128 of the 0 beside the third is taken off once for each weight. */
struct triple_weights {
    __m512i pair, rest;
};

#define FROM(n) (n), (n) + 1, (n) + 2, (n) + 3, (n) + 4, (n) + 5, (n) + 6, (n) + 7
#define TWICE(n) (n), (n), (n) + 1, (n) + 1, (n) + 2, (n) + 2, (n) + 3, (n) + 3
static const _Alignas(32) uint8_t all_triples[32] = {FROM(0), FROM(8), FROM(16), FROM(24)};
static const _Alignas(32) uint8_t table_triples[32] = {TWICE(13), TWICE(17), TWICE(21), TWICE(25)}; /* of two tables, word by word */

static inline struct triple_weights triple_weights(const uint8_t *indices)
{
    const __m512i index = _mm512_cvtepu8_epi16(_mm256_load_si256((const __m256i *)indices));
    const __m512i one = _mm512_set1_epi16(1), low = _mm512_set1_epi16(0xff);
    __m512i w[3];
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++)
        w[i] = _mm512_sub_epi16(_mm512_and_si512(_mm512_permutexvar_epi8(index, _mm512_load_si512(triples_codes[i])), low), one);
    __m512i minus_all = _mm512_sub_epi16(_mm512_sub_epi16(_mm512_sub_epi16(_mm512_setzero_si512(), w[0]), w[1]), w[2]);
    return (struct triple_weights){.pair = _mm512_or_si512(_mm512_and_si512(w[0], low), _mm512_slli_epi16(w[1], 8)),
                                   .rest = _mm512_or_si512(_mm512_and_si512(w[2], low), _mm512_slli_epi16(minus_all, 8))};
}

/* The sums of triples' activations, as words. */
ALWAYS_INLINE __m512i triple_sums(const struct triple_weights *w, __m512i pair, __m512i third)
{
    return _mm512_add_epi16(_mm512_maddubs_epi16(pair, w->pair), _mm512_maddubs_epi16(third, w->rest));
}

ALWAYS_INLINE __m512i broadcast(const uint32_t *p) { return _mm512_set1_epi32((int32_t)*p); }

/* What the sums of all indices of triple k carry beyond a byte, as tables have the sums of positive triples. */
ALWAYS_INLINE void put_carries(const struct triple_weights *w, const struct triple_sources *s, size_t k, int8_t *out)
{
    const __m512i zero = _mm512_setzero_si512();
    int16_t pair = (int16_t)(s->pairs[k / 2] >> k % 2 * 16), third = (int16_t)(s->thirds[k / 2] >> k % 2 * 16);
    __m512i x = triple_sums(w, _mm512_set1_epi16(pair), _mm512_set1_epi16(third));
    x = _mm512_mask_sub_epi16(x, NEGATIVES, zero, x);
    x = _mm512_srai_epi16(_mm512_add_epi16(x, _mm512_set1_epi16(128)), 8);
    x = _mm512_mask_sub_epi16(x, NEGATIVES, zero, x);
    _mm256_store_si256((__m256i *)out, _mm512_cvtepi16_epi8(x));
}

#define EVEN8(n) (n), (n) + 2, (n) + 4, (n) + 6, (n) + 8, (n) + 10, (n) + 12, (n) + 14
static const _Alignas(64) uint8_t low_bytes[64] = {EVEN8(0), EVEN8(16), EVEN8(32), EVEN8(48), EVEN8(64), EVEN8(80), EVEN8(96), EVEN8(112)};

/* Token i's tables, and its carries from the n-th on; returns their end. */
static size_t make_tables(const struct chunk *c, const int8_t *q, size_t i, struct operands *o, struct stripe *s, size_t n)
{
    const struct triple_weights all = triple_weights(all_triples), of_table = triple_weights(table_triples);
    const __m512i pick = _mm512_load_si512(low_bytes);
    struct triple_sources src[CHUNK_BLOCKS];
    size_t begin = n;
    for (size_t b = 0; b < c->n_blocks; b++, q += TRIPLES_COLS) {
        sort_triples(q, &src[b]);
        __asm__("" : "+m"(src[b])); /* broadcasts load: gcc would take words out of registers */
#pragma GCC unroll 8
        for (size_t k = 0; k < TRIPLES_VECTORS; k++) {
            __m512i low = triple_sums(&of_table, broadcast(&src[b].pairs[2 * k]), broadcast(&src[b].thirds[2 * k]));
            __m512i high = triple_sums(&of_table, broadcast(&src[b].pairs[2 * k + 1]), broadcast(&src[b].thirds[2 * k + 1]));
            __m512i bytes = _mm512_permutex2var_epi8(low, pick, high);
            _mm512_store_si512(o->tables[b * TRIPLES_VECTORS + k][i], _mm512_xor_si512(bytes, _mm512_set1_epi8(-128)));
        }
        __m256i which = _mm256_add_epi8(_mm256_load_si256((const __m256i *)all_triples), _mm256_set1_epi8((char)(b * BLOCK_TRIPLES)));
        _mm256_storeu_si256((__m256i *)(s->carry_of + n), _mm256_maskz_compress_epi8(src[b].large, which));
        n += (size_t)__builtin_popcount(src[b].large);
    }
    for (size_t k = begin; k < n; k++)
        put_carries(&all, &src[s->carry_of[k] / BLOCK_TRIPLES], s->carry_of[k] % BLOCK_TRIPLES, s->carries[k]);
    return n;
}

static void make_operands(const struct matmul_tiles *m, const struct chunk *c, size_t t, size_t n_tokens, struct operands *o, struct stripe *s,
                          size_t n)
{
    o->t = t;
    o->n_tokens = n_tokens;
    for (size_t i = 0; i < n_tokens; i++) {
        const int8_t *q = m->q + (t + i) * m->q_stride + c->begin;
        for (size_t k = 0; k < c->n_blocks * TRIPLES_COLS; k += 64)
            _mm_prefetch((const char *)q + TOKENS * m->q_stride + k, _MM_HINT_T0);
        n = o->carries_end[i] = make_tables(c, q, i, o, s, n);
    }
}

/* A token's sums of a band start with its carries, from .. to - 1. */
ALWAYS_INLINE void start_sums(const struct stripe *s, size_t from, size_t to, __m512i *sums)
{
    const __m512i even = _mm512_set1_epi32(1), odd = _mm512_set1_epi32(1 << 16);
    __m512i carry = _mm512_setzero_si512();
    for (size_t k = from; k < to; k++) {
        __m512i table = _mm512_broadcast_i64x4(_mm256_load_si256((const __m256i *)s->carries[k]));
        carry = _mm512_add_epi8(carry, _mm512_permutexvar_epi8(_mm512_load_si512(s->weights.triples[s->carry_of[k]]), table));
    }
    __m512i low = _mm512_slli_epi16(carry, 8), high = _mm512_and_si512(carry, _mm512_set1_epi16((int16_t)0xff00)); /* times 256 */
    sums[0] = _mm512_dpwssd_epi32(_mm512_load_si512(s->weights.start[0]), low, even);
    sums[1] = _mm512_dpwssd_epi32(_mm512_load_si512(s->weights.start[1]), low, odd);
    sums[2] = _mm512_dpwssd_epi32(_mm512_load_si512(s->weights.start[2]), high, even);
    sums[3] = _mm512_dpwssd_epi32(_mm512_load_si512(s->weights.start[3]), high, odd);
}

/* Adds a token's sums of a chunk to what is at y; after the last chunk, y = sum / s * scale. */
ALWAYS_INLINE void put(const struct matmul_tiles *m, const struct chunk *c, size_t t, const __m512i *sums, float *y)
{
#pragma GCC unroll 4
    for (int g = 0; g < BAND_GROUPS; g++, y += TILE_ROWS) {
        __m512i sum = c->first ? sums[g] : _mm512_add_epi32(sums[g], _mm512_loadu_si512(y));
        if (c->last)
            _mm512_storeu_ps(y, scaled(m, t, sum));
        else
            _mm512_storeu_si512(y, sum);
    }
}

/* A band's rows, from y on for the first of T tokens, whose first carry is the n-th. */
ALWAYS_INLINE void band_tokens(const struct matmul_tiles *m, const struct chunk *c, const struct stripe *s, const struct operands *o, size_t n,
                               float *y, const int T)
{
    size_t n_quads = c->n_blocks * TRIPLES_VECTORS;
    __m512i sums[TOKENS][BAND_GROUPS];
#pragma GCC unroll 4
    for (int i = 0; i < T; i++)
        start_sums(s, i ? o->carries_end[i - 1] : n, o->carries_end[i], sums[i]);
    for (size_t k = 0; k < n_quads; k++) {
        __m512i tables[TOKENS];
#pragma GCC unroll 4
        for (int i = 0; i < T; i++)
            tables[i] = _mm512_load_si512(o->tables[k][i]);
#pragma GCC unroll 4
        for (int g = 0; g < BAND_GROUPS; g++) {
            __m512i place = _mm512_load_si512(s->weights.quads[k][g][0]), sign = _mm512_load_si512(s->weights.quads[k][g][1]);
#pragma GCC unroll 4
            for (int i = 0; i < T; i++) {
                sums[i][g] = _mm512_dpbusd_epi32(sums[i][g], _mm512_permutexvar_epi8(place, tables[i]), sign);
                __asm__("" : "+v"(sums[i][g])); /* stays in its register: gcc would copy it to another and, with many, to memory */
            }
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < T; i++, y += m->y_stride)
        put(m, c, o->t + (size_t)i, sums[i], y);
}

static void band(const struct matmul_tiles *m, const struct chunk *c, const struct stripe *s, const struct operands *o, size_t n, float *y)
{
    switch (o->n_tokens) {
    case 4: band_tokens(m, c, s, o, n, y, 4); break;
    case 3: band_tokens(m, c, s, o, n, y, 3); break;
    case 2: band_tokens(m, c, s, o, n, y, 2); break;
    default: band_tokens(m, c, s, o, n, y, 1); break;
    }
}

/* Asks for a part of a band's blocks of a chunk. */
ALWAYS_INLINE void ask_for_band(const uint8_t *blocks, size_t group_bytes, size_t part, size_t n_parts)
{
    for (size_t g = 0; g < BAND_GROUPS; g++, blocks += group_bytes)
        ask(blocks, CHUNK_BLOCKS * TRIPLES_BYTES, part, part + 1, n_parts, FIRST_CACHE);
}

/* A chunk's operands of tokens begin .. end - 1; returns how many. */
static size_t make_all_operands(const struct matmul_tiles *m, const struct chunk *c, size_t begin, size_t end, struct stripe *s)
{
    size_t n = 0, n_carries = 0;
    for (size_t t = begin; t < end; t += TOKENS) {
        struct operands *o = &s->operands[n++];
        make_operands(m, c, t, end - t < TOKENS ? end - t : TOKENS, o, s, n_carries);
        n_carries = o->carries_end[o->n_tokens - 1];
    }
    return n;
}

/* Tokens begin .. end - 1, and then others if there are `more`. */
static void stripe(const struct matmul_tiles *m, size_t n_bands, size_t begin, size_t end, bool more)
{
    struct stripe *s = (struct stripe *)m->scratch;
    size_t n_blocks = m->n_cols / TRIPLES_COLS, group_bytes = n_blocks * TRIPLES_BYTES, band_bytes = BAND_GROUPS * group_bytes;
    for (size_t b = 0; b < n_blocks; b += CHUNK_BLOCKS) {
        size_t left = n_blocks - b < CHUNK_BLOCKS ? n_blocks - b : CHUNK_BLOCKS;
        struct chunk c = {b * TRIPLES_COLS, left, b == 0, b + left == n_blocks};
        const uint8_t *blocks = m->tiles + b * TRIPLES_BYTES, *of_next_chunk = blocks + CHUNK_BLOCKS * TRIPLES_BYTES;
        const uint8_t *after = !c.last ? of_next_chunk : more ? m->tiles : NULL;
        size_t n_operands = make_all_operands(m, &c, begin, end, s);
        for (size_t i = 0; i < n_bands; i++, blocks += band_bytes) {
            const uint8_t *next = i + 1 < n_bands ? blocks + band_bytes : after;
            float *y = m->y + begin * m->y_stride + i * BAND_ROWS;
            size_t n = 0;
            gather_weights(blocks, group_bytes, left, &s->weights);
            for (size_t k = 0; k < n_operands; k++, y += TOKENS * m->y_stride) {
                const struct operands *o = &s->operands[k];
                if (next)
                    ask_for_band(next, group_bytes, k, n_operands);
                band(m, &c, s, o, n, y);
                n = o->carries_end[o->n_tokens - 1];
            }
        }
    }
}

void lookup_bands(struct matmul_tiles *m)
{
    size_t n_bands = m->n_rows / BAND_ROWS, n = m->n_tokens;
    if (!n_bands)
        return;
    for (size_t t = 0; t < n; t += STRIPE)
        stripe(m, n_bands, t, n - t < STRIPE ? n : t + STRIPE, n - t > STRIPE);
    m->tiles += n_bands * BAND_GROUPS * (m->n_cols / TRIPLES_COLS) * TRIPLES_BYTES;
    m->y += n_bands * BAND_ROWS;
    m->n_rows -= n_bands * BAND_ROWS;
    m->n_groups -= n_bands * BAND_GROUPS;
}
