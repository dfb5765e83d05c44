/*
 * Tiles and triples of ternary weights times int8 activations, AMX. Two groups (32 rows) are unpacked to a byte a code once, which is the layout
 * that tdpbsud wants of its second operand: 16 tile rows of 4 columns x 16 weight rows. Then all tokens pass, 32 at a time: four
 * products a step, each of 16 tokens x 16 rows x 64 columns. Few tokens are left to AVX-512.
 *
 *   tmm0 tmm1   sums of tokens 0..15  with group 0, group 1          tmm4 tmm5   activations of tokens 0..15, 16..31
 *   tmm2 tmm3   sums of tokens 16..31 with group 0, group 1          tmm6 tmm7   codes of group 0, group 1
 */
#include "kernels/cpu.h"
#include "kernels/triples.h"

#include <immintrin.h>
#include <string.h>

#define MIN_TOKENS 16
#define STEP 64 /* columns of a product */

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* Tiles for blocks of `low` + `high` tokens. */
static void configure(size_t low, size_t high)
{
    const uint8_t rows[8] = {(uint8_t)low, (uint8_t)low, (uint8_t)high, (uint8_t)high, (uint8_t)low, (uint8_t)high, 16, 16};
    struct tile_config c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        c.rows[i] = rows[i] ? rows[i] : 1; /* an empty half is loaded by nobody */
        c.row_bytes[i] = 64;
    }
    _tile_loadconfig(&c);
}

/* A byte for each code of one group: [n_cols / 4][16 rows][4 columns]. */
typedef void unpack_fn(const uint8_t *group, size_t n_cols, uint8_t *panel);

static void unpack_tiles(const uint8_t *tiles, size_t n_cols, uint8_t *panel)
{
    const __m512i mask = _mm512_set1_epi8(3);
    for (size_t k = 0; k < n_cols; k += TILE_COLS, tiles += TILE_BYTES, panel += 256) {
        __m512i v = _mm512_load_si512(tiles);
        _mm512_store_si512(panel, _mm512_and_si512(v, mask));
        _mm512_store_si512(panel + 64, _mm512_and_si512(_mm512_srli_epi32(v, 2), mask));
        _mm512_store_si512(panel + 128, _mm512_and_si512(_mm512_srli_epi32(v, 4), mask));
        _mm512_store_si512(panel + 192, _mm512_and_si512(_mm512_srli_epi32(v, 6), mask));
    }
}

static void finish(const struct matmul_tiles *m, size_t g, size_t t, size_t n_tokens, const int32_t (*sums)[TILE_ROWS])
{
    size_t row = g * TILE_ROWS, n = m->n_rows - row < TILE_ROWS ? m->n_rows - row : TILE_ROWS;
    __mmask16 in = (__mmask16)((1u << n) - 1);
    for (size_t i = 0; i < n_tokens; i++) {
        __m512i sum = _mm512_sub_epi32(_mm512_load_si512(sums[i]), _mm512_set1_epi32(m->q_sum[t + i]));
        __m512 y = _mm512_div_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(m->q_scale[t + i]));
        _mm512_mask_storeu_ps(m->y + (t + i) * m->y_stride + row, in, _mm512_mul_ps(y, _mm512_set1_ps(m->scale)));
    }
}

/* Two groups times `low` + `high` tokens from t on; without high only the upper half of the tiles works. */
static void block(const struct matmul_tiles *m, size_t g, bool two_groups, size_t t, size_t low, size_t high)
{
    int32_t sums[TILE_ROWS][TILE_ROWS] __attribute__((aligned(64)));
    const uint8_t *panel0 = m->scratch, *panel1 = m->scratch + TILE_ROWS * m->n_cols;
    const int8_t *q0 = m->q + t * m->q_stride, *q1 = q0 + low * m->q_stride;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t k = 0; k < m->n_cols; k += STEP) {
        _tile_loadd(6, panel0 + k * TILE_ROWS, 64);
        _tile_loadd(7, panel1 + k * TILE_ROWS, 64);
        _tile_loadd(4, q0 + k, (long)m->q_stride);
        _tile_dpbsud(0, 4, 6);
        _tile_dpbsud(1, 4, 7);
        if (!high)
            continue;
        _tile_loadd(5, q1 + k, (long)m->q_stride);
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
    }
    _tile_stored(0, sums, 64);
    finish(m, g, t, low, (const int32_t(*)[TILE_ROWS])sums);
    if (two_groups) {
        _tile_stored(1, sums, 64);
        finish(m, g + 1, t, low, (const int32_t(*)[TILE_ROWS])sums);
    }
    if (!high)
        return;
    _tile_stored(2, sums, 64);
    finish(m, g, t + low, high, (const int32_t(*)[TILE_ROWS])sums);
    if (two_groups) {
        _tile_stored(3, sums, 64);
        finish(m, g + 1, t + low, high, (const int32_t(*)[TILE_ROWS])sums);
    }
}

/* All tokens: whole blocks of 32, then what is left in one block of two nearly equal halves. */
static void all_tokens(const struct matmul_tiles *m, size_t g, bool two_groups)
{
    size_t t = 0, rest = m->n_tokens % 32;
    configure(16, 16);
    for (; t + 32 <= m->n_tokens; t += 32)
        block(m, g, two_groups, t, 16, 16);
    if (rest) {
        size_t low = rest < 16 ? rest : 16;
        configure(low, rest - low);
        block(m, g, two_groups, t, low, rest - low);
    }
}

/* Pairs of groups, group_bytes each; m->n_cols is a multiple of STEP. */
static void all_groups(const struct matmul_tiles *m, size_t group_bytes, unpack_fn *unpack)
{
    for (size_t g = 0; g < m->n_groups; g += 2) {
        bool two_groups = g + 2 <= m->n_groups;
        unpack(m->tiles + g * group_bytes, m->n_cols, m->scratch);
        if (two_groups)
            unpack(m->tiles + (g + 1) * group_bytes, m->n_cols, m->scratch + TILE_ROWS * m->n_cols);
        all_tokens(m, g, two_groups);
    }
    _tile_release();
}

void matmul_tiles_i8_amx(const struct matmul_tiles *m)
{
    if (m->n_tokens < MIN_TOKENS)
        matmul_tiles_i8_avx512(m);
    else
        all_groups(m, m->n_cols / TILE_COLS * TILE_BYTES, unpack_tiles);
}

/* Blocks of 96 columns are followed by weights 0 up to a whole step. */
void matmul_triples_i8_amx(const struct matmul_tiles *m)
{
    if (m->n_tokens < MIN_TOKENS) {
        matmul_triples_i8_vbmi(m);
        return;
    }
    struct matmul_tiles padded = *m;
    padded.n_cols = (m->n_cols + STEP - 1) / STEP * STEP;
    all_groups(&padded, m->n_cols / TRIPLES_COLS * TRIPLES_BYTES, triples_unpack_vbmi);
}
