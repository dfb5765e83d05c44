/*
 * TL1 and TL2, the files of bitnet.cpp's lookup kernels (its utils/codegen_tl1.py, codegen_tl2.py and converter): weights of a
 * column run together into table indices, and these lie in the order in which the kernels of one shape read them. M x K weights are cut into
 * tiles of BM rows and BK columns, a tile into strips of bm rows; in a strip the columns come in steps. The file does not say BM, BK and
 * bm: they follow from the shape, as the kernels were made for few.
 *
 *   TL1    step of 256 / bm columns. Each 16 rows take 16 bytes for 4 columns: byte m holds row m's first pair in the high bits, its second in
 *          the low ones. A pair (a, b) is 3 a + b + 4: 0 to 8.
 *   TL2    step of 6 columns, bm = 32. 32 bytes, one a row: the first triple high, the second low; a triple (a, b, c) is |9 a + 3 b + c|: 0 to
 *          13. Rows 8-15 and 16-23 are exchanged. Then, after all indices, their signs: for 24 columns of a strip 16 words of 16 bits, word m of
 *          rows m and 16 + m, the triples' bits from the high end, row m's before row 16 + m's.
 *          The K % BK last columns follow as pairs, 4 columns in 32 bytes with rows exchanged likewise, in tiles of 32 columns.
 */
#include "kernels/tensor.h"

#include <assert.h>

#define STRIP 32       /* TL2's bm */
#define TL2_STEP 6     /* columns of 32 bytes of indices */
#define SIGN_COLS 24   /* columns of 32 bytes of signs */
#define PAIR_TILE 32   /* columns of a tile of TL2's pairs */
#define RESERVED 256   /* columns that TL2's size counts as pairs, whatever K is */

static const struct tiling {
    uint32_t type;
    size_t n_rows, n_cols;
    size_t tile_rows, tile_cols, strip_rows; /* BM, BK, bm */
} tilings[] = {
    /* bitnet_b1_58-large, 0.7B */
    {TENSOR_TL1, 1536, 4096, 256, 128, 32},
    {TENSOR_TL1, 1536, 1536, 128, 64, 64},
    {TENSOR_TL1, 4096, 1536, 256, 128, 32},
    {TENSOR_TL2, 1536, 4096, 256, 96, STRIP},
    {TENSOR_TL2, 1536, 1536, 128, 192, STRIP},
    {TENSOR_TL2, 4096, 1536, 256, 96, STRIP},
    /* bitnet_b1_58-3B */
    {TENSOR_TL1, 3200, 8640, 160, 64, 32},
    {TENSOR_TL1, 3200, 3200, 320, 128, 64},
    {TENSOR_TL1, 8640, 3200, 320, 64, 32},
    {TENSOR_TL2, 3200, 8640, 160, 96, STRIP},
    {TENSOR_TL2, 3200, 3200, 320, 96, STRIP},
    {TENSOR_TL2, 8640, 3200, 320, 96, STRIP},
    /* Llama3-8B-1.58 */
    {TENSOR_TL1, 14336, 4096, 256, 128, 32},
    {TENSOR_TL1, 4096, 14336, 128, 64, 64},
    {TENSOR_TL1, 1024, 4096, 256, 128, 32},
    {TENSOR_TL1, 4096, 4096, 128, 64, 64},
    {TENSOR_TL2, 14336, 4096, 256, 96, STRIP},
    {TENSOR_TL2, 4096, 14336, 128, 96, STRIP},
    {TENSOR_TL2, 1024, 4096, 256, 96, STRIP},
    {TENSOR_TL2, 4096, 4096, 128, 96, STRIP},
};

static const struct tiling *find(uint32_t type, size_t n_rows, size_t n_cols)
{
    for (size_t i = 0; i < sizeof tilings / sizeof tilings[0]; i++)
        if (tilings[i].type == type && tilings[i].n_rows == n_rows && tilings[i].n_cols == n_cols)
            return &tilings[i];
    return NULL;
}

bool tensor_tl_known(uint32_t type, size_t n_rows, size_t n_cols) { return find(type, n_rows, n_cols) != NULL; }

const char *tensor_tl_shapes(uint32_t type)
{
    (void)type; /* the same for both */
    return "1536 x 4096, 1536 x 1536, 4096 x 1536, 3200 x 8640, 3200 x 3200, 8640 x 3200, 14336 x 4096, 4096 x 14336, 1024 x 4096, 4096 x "
           "4096";
}

size_t tensor_tl_bytes(uint32_t type, size_t n_rows, size_t n_cols)
{
    size_t n;
    if (__builtin_mul_overflow(n_rows, n_cols, &n) || n > SIZE_MAX / 8)
        return 0;
    if (type == TENSOR_TL1)
        return n % 4 ? 0 : n / 4;
    if (n_cols < RESERVED)
        return 0;
    n = (n_cols - RESERVED) * n_rows / 3 * 5 / 8 + RESERVED * n_rows / 2 * 4 / 8;
    return (n + 31) / 32 * 32;
}

/* A pair's index as two codes; of an index that no pair has, 3. */
static void unpack_pair(unsigned index, uint8_t *codes)
{
    codes[0] = index > 8 ? 3 : (uint8_t)(index / 3);
    codes[1] = index > 8 ? 3 : (uint8_t)(index % 3);
}

/* The codes' number in base 3 is 13 + the triple's value. */
static void unpack_triple(unsigned index, bool negative, uint8_t *codes)
{
    if (index > 13) {
        codes[0] = codes[1] = codes[2] = 3;
        return;
    }
    unsigned value = negative ? 13 - index : 13 + index;
    codes[0] = (uint8_t)(value / 9);
    codes[1] = (uint8_t)(value / 3 % 3);
    codes[2] = (uint8_t)(value % 3);
}

static void unpack_tl1(const struct tiling *t, const uint8_t *data, size_t row, uint8_t *codes)
{
    size_t step = 256 / t->strip_rows, tile_bytes = t->tile_rows * t->tile_cols / 4;
    size_t in_tile = row % t->tile_rows, strip = in_tile / t->strip_rows, in_strip = in_tile % t->strip_rows;
    size_t strip_bytes = t->strip_rows * t->tile_cols / 4, step_bytes = t->strip_rows * step / 4;
    const uint8_t *tile = data + row / t->tile_rows * (t->n_cols / t->tile_cols) * tile_bytes + strip * strip_bytes +
                          in_strip / 16 * 16 * (step / 4) + in_strip % 16;
    for (size_t c = 0; c < t->n_cols; c += t->tile_cols, tile += tile_bytes)
        for (size_t s = 0; s < t->tile_cols; s += 4) {
            unsigned byte = tile[s / step * step_bytes + s % step / 4 * 16];
            unpack_pair(byte >> 4, codes + c + s);
            unpack_pair(byte & 15, codes + c + s + 2);
        }
}

/* Where a row of a strip of 32 lies: groups 1 and 2 of 8 rows are exchanged. */
static size_t exchanged(size_t m)
{
    size_t group = m / 8;
    return (group == 1 ? 2 : group == 2 ? 1 : group) * 8 + m % 8;
}

/* Triples of the first n columns, a multiple of the tile's. */
static void unpack_triples(const struct tiling *t, const uint8_t *indices, const uint8_t *signs, size_t n, size_t row, uint8_t *codes)
{
    size_t in_tile = row % t->tile_rows, m = in_tile % STRIP, n_tiles = n / t->tile_cols;
    size_t strip = (row / t->tile_rows * n_tiles * t->tile_rows + in_tile / STRIP * STRIP) * t->tile_cols; /* weights before it */
    for (size_t c = 0; c < n; c += t->tile_cols, strip += t->tile_rows * t->tile_cols)
        for (size_t k = 0; k < t->tile_cols; k += TL2_STEP) {
            unsigned byte = indices[strip / 6 + k / TL2_STEP * STRIP + exchanged(m)];
            const uint8_t *word = signs + strip / 24 + k / SIGN_COLS * STRIP + m % 16 * 2;
            unsigned bits = (unsigned)(word[0] | word[1] << 8) << (k % SIGN_COLS / 3 * 2 + m / 16);
            unpack_triple(byte >> 4, bits & 0x8000u, codes + c + k);
            unpack_triple(byte & 15, bits << 2 & 0x8000u, codes + c + k + 3);
        }
}

/* Pairs of the n columns behind the triples. */
static void unpack_pairs(const struct tiling *t, const uint8_t *indices, size_t n, size_t row, uint8_t *codes)
{
    size_t in_tile = row % t->tile_rows, m = in_tile % STRIP;
    size_t at = (row / t->tile_rows * (n / PAIR_TILE) * t->tile_rows + in_tile / STRIP * STRIP) * PAIR_TILE / 4;
    for (size_t c = 0; c < n; c += PAIR_TILE, at += t->tile_rows * PAIR_TILE / 4)
        for (size_t k = 0; k < PAIR_TILE; k += 4) {
            unsigned byte = indices[at + k / 4 * STRIP + exchanged(m)];
            unpack_pair(byte >> 4, codes + c + k);
            unpack_pair(byte & 15, codes + c + k + 2);
        }
}

void tensor_tl_unpack(const struct tensor_view *v, size_t row, uint8_t *codes)
{
    const struct tiling *t = find(v->type, v->n_rows, v->n_cols);
    const uint8_t *data = v->data;
    assert(t);
    if (t->type == TENSOR_TL1) {
        unpack_tl1(t, data, row, codes);
        return;
    }
    size_t n_pairs = t->n_cols % t->tile_cols, n_triples = t->n_cols - n_pairs, n = t->n_rows * n_triples;
    unpack_triples(t, data, data + n / 6, n_triples, row, codes);
    unpack_pairs(t, data + n / 6 + n / 24, n_pairs, row, codes + n_triples);
}
