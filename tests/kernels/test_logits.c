/* Screened logits: whatever may be read is bit for bit what the full head gives, over many random states; what is left out is -infinity. */
#include "tests/kernels/support.h"

#include "kernels/memory.h"

#include <math.h>
#include <stdlib.h>

#define N_ROWS 3000

struct head {
    struct backend *be;
    struct dense *plain, *screened;
    uint16_t *weights; /* [N_ROWS][n_cols] */
    float *x;          /* [3][n_cols] */
    size_t n_cols;
};

/* Rows of unlike sizes; some are another row with one weight moved by a bit, so that their logits nearly tie. */
static void head_open(struct head *h, size_t n_cols, const char *isa, int threads)
{
    *h = (struct head){.be = open_backend(isa, threads), .n_cols = n_cols};
    h->weights = malloc(N_ROWS * n_cols * sizeof *h->weights);
    h->x = malloc(3 * n_cols * sizeof *h->x);
    for (size_t r = 0; r < N_ROWS; r++) {
        uint16_t *row = h->weights + r * n_cols;
        float size = r % 7 == 0 ? 0.2f : 0.05f;
        for (size_t i = 0; i < n_cols; i++)
            row[i] = arith_to_f16(random_float(size));
        if (r % 5 == 4) {
            memcpy(row, row - n_cols, n_cols * sizeof *row);
            row[random_next() % n_cols] ^= 1;
        }
        if (r == 17)
            memset(row, 0, n_cols * sizeof *row);
    }
    struct tensor_view view = {.type = TENSOR_F16, .data = h->weights, .n_bytes = N_ROWS * n_cols * 2, .n_rows = N_ROWS, .n_cols = n_cols};
    struct error err = {0};
    ck_assert(!dense_open(h->be, &view, &h->plain, &err) && !dense_open(h->be, &view, &h->screened, &err));
    ck_assert(dense_screen(h->be, h->screened));
}

static void head_close(struct head *h)
{
    dense_close(h->be, h->plain);
    dense_close(h->be, h->screened);
    backend_close(h->be);
    free(h->weights);
    free(h->x);
}

static void new_state(struct head *h, int kind)
{
    random_floats(h->x, 3 * h->n_cols, 2.0f);
    for (size_t i = 0; kind == 1 && i < 3 * h->n_cols; i += 61)
        h->x[i] *= 30.0f; /* outliers */
    if (kind == 2)
        memset(h->x, 0, 3 * h->n_cols * sizeof *h->x); /* all logits tie */
}

/* Each logit is exact or left out; the `top` largest and the wanted ids are not left out. */
static void check(const float *full, const float *found, const struct logits_need *need, size_t *n_kept)
{
    bool wanted[N_ROWS] = {false};
    for (size_t i = 0; i < need->lists[0].n; i++)
        wanted[need->lists[0].ids[i]] = true;
    for (size_t k = 0; k < need->top; k++) {
        size_t best = N_ROWS;
        for (size_t r = 0; r < N_ROWS; r++)
            if (!wanted[r] && (best == N_ROWS || full[r] > full[best]))
                best = r;
        wanted[best] = true;
        for (size_t r = best; k + 1 == need->top && r < N_ROWS; r++)
            wanted[r] |= full[r] == full[best]; /* of equal ones the lowest id counts, so all must be there */
    }
    for (size_t r = 0; r < N_ROWS; r++) {
        bool left_out = found[r] == -INFINITY;
        ck_assert_msg(left_out ? !wanted[r] : memcmp(&full[r], &found[r], sizeof *full) == 0,
                      "row %zu: expected %g, found %g", r, (double)full[r], (double)found[r]);
        *n_kept += !left_out;
    }
}

/* One state; returns how many logits were computed. */
static size_t compare(struct head *h, const struct logits_need needs[3])
{
    static float full[3 * N_ROWS], found[3 * N_ROWS];
    static const int32_t rows[3] = {2, 0, 1};
    size_t n_kept = 0;
    op_logits(h->be, h->plain, h->x, rows, 3, false, full);
    op_logits_needed(h->be, h->screened, h->x, rows, 3, needs, found);
    for (size_t j = 0; j < 3; j++) {
        const float *f = full + j * N_ROWS;
        check(f, found + j * N_ROWS, &needs[j], &n_kept);
    }
    return n_kept;
}

/* Sums of every instruction set, with random values and the ends of their range. */
START_TEST(screen_sums_are_exact)
{
    enum { MAX_STRIDE = 640, ROWS = 5 };
    int8_t *rows = memory_alloc(ROWS * MAX_STRIDE), *high = memory_alloc(MAX_STRIDE), *low = memory_alloc(MAX_STRIDE);
    for (size_t stride = 64; stride <= MAX_STRIDE; stride += 64)
        for (int kind = 0; kind < 4; kind++) {
            struct screen_x x = {.high = high, .low = low};
            for (size_t i = 0; i < ROWS * stride; i++)
                rows[i] = (int8_t)(kind & 1 ? 127 : (int)(random_next() >> 33) % 255 - 127);
            for (size_t i = 0; i < stride; i++) {
                high[i] = (int8_t)(kind & 2 ? -127 : (int)(random_next() >> 33) % 255 - 127);
                low[i] = (int8_t)(kind & 2 ? 127 : (int)(random_next() >> 33) % 255 - 127);
                x.high_sum += high[i];
                x.low_sum += low[i];
            }
            for (const struct cpu_level *l = cpu_levels; l->name; l++) {
                struct cpu_kernels k;
                int32_t expected[2][ROWS], found[2][ROWS];
                ck_assert_ptr_nonnull(cpu_kernels_init(&k, l->name));
                variants()->portable.screen_i8(rows, stride, ROWS, &x, expected[0], expected[1]);
                k.screen_i8(rows, stride, ROWS, &x, found[0], found[1]);
                expect_same(l->name, expected, found, sizeof found / sizeof found[0][0], sizeof found[0][0]);
            }
        }
    memory_free(rows), memory_free(high), memory_free(low);
}
END_TEST

START_TEST(what_is_needed_is_exact)
{
    static const size_t cols[] = {32, 100, 256, 640};
    static const uint32_t ids[] = {17, 3, 2999, 3};
    for (size_t c = 0; c < 4; c++)
        for (size_t i = 0; cpu_levels[i].name; i++) {
            struct head h;
            head_open(&h, cols[c], cpu_levels[i].name, 1 + (int)i);
            for (uint32_t state = 0; state < 12; state++) {
                new_state(&h, (int)state % 4);
                struct logits_need needs[3] = {
                    {.top = 1, .lists = {{ids, state % 5, 1}}},
                    {.top = 1 + state * 5, .lists = {{ids, state % 3, 1}}},
                    {.top = 64},
                };
                compare(&h, needs);
            }
            head_close(&h);
        }
}
END_TEST

START_TEST(most_rows_are_left_out)
{
    struct head h;
    struct logits_need greedy[3], top[3];
    for (int j = 0; j < 3; j++) {
        greedy[j] = (struct logits_need){.top = 1};
        top[j] = (struct logits_need){.top = 50};
    }
    head_open(&h, 640, NULL, 2);
    size_t n_greedy = 0, n_top = 0;
    for (int state = 0; state < 10; state++) {
        new_state(&h, 0);
        n_greedy += compare(&h, greedy);
        n_top += compare(&h, top);
    }
    ck_assert_uint_lt(n_greedy, 30 * N_ROWS / 50);
    ck_assert_uint_lt(n_top, 30 * N_ROWS / 10);
    head_close(&h);
}
END_TEST

START_TEST(all_logits_and_what_a_screen_cannot_hold_are_full)
{
    struct head h;
    head_open(&h, 64, NULL, 2);
    new_state(&h, 0);
    struct logits_need needs[3] = {{.top = 0}, {.top = N_ROWS}, {.top = 0}};
    static float full[3 * N_ROWS], found[3 * N_ROWS];
    static const int32_t rows[3] = {0, 1, 2};
    h.x[70] = NAN; /* the second row has no bound */
    op_logits(h.be, h.plain, h.x, rows, 3, false, full);
    op_logits_needed(h.be, h.screened, h.x, rows, 3, needs, found);
    expect_same("full", full, found, 3 * N_ROWS, sizeof *full);
    needs[1].top = 1;
    op_logits_needed(h.be, h.screened, h.x, rows, 3, needs, found);
    expect_same("not finite", full, found, 3 * N_ROWS, sizeof *full);
    head_close(&h);
}
END_TEST

START_TEST(what_is_read_is_the_screen_or_all)
{
    struct head h;
    head_open(&h, 640, NULL, 1);
    const size_t all = N_ROWS * 640 * sizeof *h.weights;
    const struct logits_need one = {.top = 1}, every = {.top = 0};
    ck_assert_uint_eq(dense_read_bytes(h.be, h.screened, NULL), all);
    ck_assert_uint_eq(dense_read_bytes(h.be, h.screened, &every), all);
    ck_assert_uint_eq(dense_read_bytes(h.be, h.plain, &one), all);
    size_t screened = dense_read_bytes(h.be, h.screened, &one);
    ck_assert(screened >= all / 2 && screened < all / 2 + all / 50);
    head_close(&h);
}
END_TEST

START_TEST(a_table_that_is_not_finite_has_no_screen)
{
    struct head h;
    head_open(&h, 64, NULL, 2);
    h.weights[1000] = 0x7c00; /* infinity */
    ck_assert(!dense_screen(h.be, h.plain));
    head_close(&h);
}
END_TEST

RUN_SUITE("kernels/logits", screen_sums_are_exact, what_is_needed_is_exact, most_rows_are_left_out, all_logits_and_what_a_screen_cannot_hold_are_full,
          what_is_read_is_the_screen_or_all, a_table_that_is_not_finite_has_no_screen)
