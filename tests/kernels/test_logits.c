/* Screened logits: whatever may be read is bit for bit what the full head gives, over many random states; what is left out is -infinity. */
#include "tests/kernels/support.h"

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
            row[i] = arith_to_f16(r % 11 == 3 && i == 0 ? 1.5f : random_float(size)); /* some with an outlier and so a large scale */
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
    for (size_t i = 0; kind == 3 && i < 3 * h->n_cols; i++)
        h->x[i] = fabsf(h->x[i]); /* sums of x are far from 0 */
}

/* What a row counts for: its logit, or its score in a draw. */
static double quantity(const struct logits_need *need, const float *full, size_t r)
{
    if (!(need->temperature > 0))
        return (double)full[r];
    return (double)full[r] / (double)need->temperature + (double)kernel_gumbel(need->seed, need->choice, need->position, (uint32_t)r);
}

static bool is_allowed(const struct logits_need *need, size_t r)
{
    return !need->allowed || (need->allowed[r / 64] >> r % 64 & 1);
}

/* Each logit is exact or left out; what is needed is not left out. */
static void check(const float *full, const float *found, const struct logits_need *need, size_t *n_kept)
{
    bool listed[N_ROWS] = {false}, wanted[N_ROWS];
    size_t count = need->top ? need->top : 1;
    double last = INFINITY;
    for (size_t l = 0; l < LOGITS_MAX_LISTS; l++)
        for (size_t i = 0; i < need->lists[l].n; i++)
            listed[need->lists[l].ids[i * need->lists[l].stride]] = true;
    for (size_t r = 0; r < N_ROWS; r++)
        wanted[r] = listed[r] || !is_allowed(need, r);
    for (size_t k = 0; k < count; k++) {
        size_t best = N_ROWS;
        for (size_t r = 0; r < N_ROWS; r++)
            if (!wanted[r] && (best == N_ROWS || quantity(need, full, r) > quantity(need, full, best)))
                best = r;
        if (best == N_ROWS) { /* fewer are allowed: all are needed */
            last = -INFINITY;
            break;
        }
        wanted[best] = true;
        last = quantity(need, full, best);
    }
    for (size_t r = 0; r < N_ROWS; r++) { /* of equal ones the lowest id counts, so all must be there */
        bool left_out = found[r] == -INFINITY, needed = is_allowed(need, r) && (listed[r] || quantity(need, full, r) >= last - (double)need->within);
        ck_assert_msg(left_out ? !needed : memcmp(&full[r], &found[r], sizeof *full) == 0,
                      "row %zu: expected %g, found %g", r, (double)full[r], (double)found[r]);
        *n_kept += !left_out;
    }
}

/* One state, n rows of x; returns how many logits were computed. */
static size_t compare(struct head *h, const struct logits_need *needs, size_t n)
{
    static float full[3 * N_ROWS], found[3 * N_ROWS];
    static const int32_t rows[3] = {2, 0, 1};
    size_t n_kept = 0;
    op_logits(h->be, h->plain, h->x, rows, n, false, full);
    op_logits_needed(h->be, h->screened, h->x, rows, n, needs, found);
    for (size_t j = 0; j < n; j++) {
        const float *f = full + j * N_ROWS;
        check(f, found + j * N_ROWS, &needs[j], &n_kept);
    }
    return n_kept;
}

/* Together, and each alone, as one row of x is screened in another way. */
static void compare_all(struct head *h, const struct logits_need needs[3])
{
    compare(h, needs, 3);
    for (size_t j = 0; j < 3; j++)
        compare(h, needs + j, 1);
}

static void needed_is_exact(size_t n_cols)
{
    static const uint32_t ids[] = {17, 3, 2999, 3, 64, 1000};
    for (size_t i = 0; cpu_levels[i].name; i++) {
        struct head h;
        head_open(&h, n_cols, cpu_levels[i].name, 1 + (int)i);
        for (uint32_t state = 0; state < 12; state++) {
            new_state(&h, (int)state % 4);
            struct logits_need needs[3] = {
                {.top = 1, .lists = {{ids, state % 5, 1}}},
                {.top = 1 + state * 5, .lists = {{ids, state % 3, 2}, {0}, {ids + 1, state % 6, 1}}},
                {.top = 64},
            };
            compare_all(&h, needs);
            needs[0] = (struct logits_need){.within = 0.3f * (float)state + 1e-6f, .lists = {{ids, state % 5, 1}}};
            needs[1] = (struct logits_need){.temperature = 0.5f, .seed = state, .choice = 1, .position = state};
            needs[2] = (struct logits_need){.temperature = 10.0f, .seed = 1, .position = state, .lists = {{ids, state % 3, 1}}};
            compare_all(&h, needs);
        }
        head_close(&h);
    }
}

START_TEST(what_is_needed_is_exact)
{
    needed_is_exact(32);
    needed_is_exact(100);
    needed_is_exact(256);
}
END_TEST

/* By itself: under emulation each takes a good part of a test's minute. */
START_TEST(what_is_needed_of_long_rows_is_exact)
{
    needed_is_exact(640);
}
END_TEST

/* Of rows that are not allowed nothing is needed, and the largest are those of the others: many or few, with and without other rows of x. */
START_TEST(rows_that_are_not_allowed_do_not_count)
{
    static const uint32_t ids[] = {17, 3, 2999, 64, 1000};
    static uint64_t masks[3][(N_ROWS + 63) / 64];
    for (size_t i = 0; cpu_levels[i].name; i++) {
        struct head h;
        head_open(&h, 256, cpu_levels[i].name, 2);
        for (uint32_t state = 0; state < 12; state++) {
            new_state(&h, (int)state % 4);
            size_t n_allowed[3] = {0};
            memset(masks, 0, sizeof masks);
            for (int m = 0; m < 3; m++) /* nearly all, a few, half */
                for (size_t r = 0; r < N_ROWS; r++) {
                    bool allowed = random_next() % 40 < (m == 0 ? 39u : m == 1 ? 1u : 20u);
                    masks[m][r / 64] |= (uint64_t)allowed << r % 64;
                    n_allowed[m] += allowed;
                }
            struct logits_need needs[3] = {
                {.top = 1 + state, .lists = {{ids, state % 5, 1}}, .allowed = masks[0], .n_allowed = n_allowed[0]},
                {.top = state % 2 ? 5000 : 1, .lists = {{ids, state % 5, 1}}, .allowed = masks[1], .n_allowed = n_allowed[1]},
                {.temperature = 2.0f, .seed = state, .allowed = masks[2], .n_allowed = n_allowed[2]},
            };
            compare_all(&h, needs);
            needs[0] = (struct logits_need){.within = 0.5f, .allowed = masks[2], .n_allowed = n_allowed[2]};
            needs[1].top = 0; /* all of the few */
            needs[2].allowed = NULL;
            compare_all(&h, needs);
        }
        head_close(&h);
    }
}
END_TEST

START_TEST(many_rows_are_screened_together)
{
    struct head h;
    enum { MANY = 2 * CPU_LOGITS_ROWS + 3 };
    struct logits_need needs[MANY];
    int32_t rows[MANY];
    float *full = malloc(MANY * N_ROWS * sizeof *full), *found = malloc(MANY * N_ROWS * sizeof *found);
    size_t n_kept = 0;
    head_open(&h, 256, NULL, 2);
    new_state(&h, 0);
    for (size_t j = 0; j < MANY; j++) {
        rows[j] = (int32_t)(j % 3);
        needs[j] = (struct logits_need){.top = j == 7 ? 0 : 1 + j % 4}; /* one that needs all is between */
    }
    op_logits(h.be, h.plain, h.x, rows, MANY, false, full);
    op_logits_needed(h.be, h.screened, h.x, rows, MANY, needs, found);
    for (size_t j = 0; j < MANY; j++)
        if (needs[j].top)
            check(full + j * N_ROWS, found + j * N_ROWS, &needs[j], &n_kept);
    expect_same("all", full + 7 * N_ROWS, found + 7 * N_ROWS, N_ROWS, sizeof *full);
    ck_assert_uint_lt(n_kept, MANY * N_ROWS / 5);
    free(full), free(found);
    head_close(&h);
}
END_TEST

/* Sums of each kind against the portable ones: all weights at their ends, vectors at theirs, odd counts. */
START_TEST(sums_of_a_screen_agree)
{
    enum { STRIDE = 768, MAX_X = 11 };
    uint8_t *high = aligned_alloc(64, SCREEN_CHUNK * screen_high_bytes(STRIDE)), *low = aligned_alloc(64, SCREEN_CHUNK * screen_low_bytes(STRIDE));
    int8_t *x = aligned_alloc(64, MAX_X * STRIDE);
    static int32_t expected[MAX_X * SCREEN_CHUNK], found[MAX_X * SCREEN_CHUNK];
    for (int kind = 0; kind < 4; kind++)
        for (size_t i = 0; i < 3 * 2 * 3 * 5; i++) {
            static const size_t counts[] = {1, 2, 4, 7, MAX_X}, n_rows[] = {1, SCREEN_CHUNK, 6};
            for (size_t k = 0; k < SCREEN_CHUNK * screen_high_bytes(STRIDE); k++)
                high[k] = kind == 0 ? (uint8_t)(random_next() >> 32) : kind == 1 ? 0 : 0xff;
            for (size_t k = 0; k < SCREEN_CHUNK * screen_low_bytes(STRIDE); k++)
                low[k] = kind == 0 ? (uint8_t)(random_next() >> 32) : kind == 1 ? 0 : 0xff;
            for (size_t k = 0; k < MAX_X * STRIDE; k++)
                x[k] = kind == 0 ? (int8_t)(random_next() >> 32) : kind == 2 ? 127 : -127;
            for (size_t k = 0; k < MAX_X * STRIDE; k++)
                x[k] = x[k] == -128 ? 127 : x[k];
            struct screen_tile t = {.high = i % 3 == 2 ? NULL : high, .low = i % 3 == 1 ? NULL : low, .stride = STRIDE, .n_rows = n_rows[i / 3 % 3],
                                    .x = x, .n_x = counts[i % 5], .x_stride = STRIDE, .sums = expected};
            memset(expected, 0, sizeof expected);
            memset(found, 0, sizeof found);
            variants()->portable.screen_i8(&t);
            t.sums = found;
            for (const struct cpu_level *l = cpu_levels; l->name; l++) {
                struct cpu_kernels kernels;
                ck_assert_ptr_nonnull(cpu_kernels_init(&kernels, l->name));
                kernels.screen_i8(&t);
                expect_same(l->name, expected, found, MAX_X * SCREEN_CHUNK, sizeof *found);
            }
        }
    free(high), free(low), free(x);
}
END_TEST

/* Estimates and bounds of each kind: with the low half and without, with noise and without, no row, some and all set aside. */
START_TEST(bounds_of_a_screen_agree)
{
    enum { GROUPS = SCREEN_CHUNK / SCREEN_GROUP };
    int32_t high[SCREEN_CHUNK], low[SCREEN_CHUNK];
    float scale[SCREEN_CHUNK], error[SCREEN_CHUNK], norm[SCREEN_CHUNK], noise[SCREEN_CHUNK], expected[SCREEN_CHUNK + 2 * GROUPS], found[SCREEN_CHUNK + 2 * GROUPS];
    for (int i = 0; i < 3000; i++) {
        for (int r = 0; r < SCREEN_CHUNK; r++) {
            high[r] = (int32_t)(random_next() >> 40) - (1 << 23);
            low[r] = (int32_t)(random_next() >> 40) - (1 << 23);
            scale[r] = (float)(random_next() >> 40) * 0x1p-24f;
            error[r] = (float)(random_next() >> 40) * 0x1p-20f;
            norm[r] = (float)(random_next() >> 40) * 0x1p-14f;
            noise[r] = (float)(random_next() >> 40) * 0x1p-10f;
        }
        struct screen_bound b = {.factor = 0x1.8p-9f, .per_error = 3.7f, .per_norm = 0x1.1p-18f, .constant = 0.001f};
        struct screen_chunk c = {.high = high, .low = i % 2 ? low : NULL, .high_centre = 77777 * (i % 100), .low_centre = -55555 * (i % 100), .bound = &b,
                                 .scale = scale, .error = error, .norm = norm, .noise = i % 3 ? noise : NULL,
                                 .aside = i % 5 == 0 ? 0 : i % 5 == 1 ? UINT64_MAX : i % 5 == 2 ? 0xffff0000u : random_next(),
                                 .quantity = expected, .lower = expected + SCREEN_CHUNK, .upper = expected + SCREEN_CHUNK + GROUPS};
        memset(expected, 0, sizeof expected);
        memset(found, 0, sizeof found);
        variants()->portable.screen_bounds(&c);
        float least = expected[random_next() % SCREEN_CHUNK], least_upper = c.upper[random_next() % GROUPS];
        uint64_t reaching = variants()->portable.screen_reaching(&c, least), at_bound = variants()->portable.screen_reaching(&c, least_upper);
        c.quantity = found;
        c.lower = found + SCREEN_CHUNK;
        c.upper = found + SCREEN_CHUNK + GROUPS;
        for (const struct cpu_level *l = cpu_levels; l->name; l++) {
            struct cpu_kernels kernels;
            ck_assert_ptr_nonnull(cpu_kernels_init(&kernels, l->name));
            kernels.screen_bounds(&c);
            expect_same(l->name, expected, found, SCREEN_CHUNK + 2 * GROUPS, sizeof *found);
            ck_assert_uint_eq(kernels.screen_reaching(&c, least), reaching);
            ck_assert_uint_eq(kernels.screen_reaching(&c, least_upper), at_bound);
        }
        ck_assert_uint_eq(reaching & c.aside, 0);
        ck_assert(c.aside == UINT64_MAX || !isfinite(least_upper) || at_bound); /* a group's bound is that of one of its rows */
    }
}
END_TEST

START_TEST(noise_agrees)
{
    float expected[KERNEL_GUMBELS], found[KERNEL_GUMBELS];
    for (uint32_t i = 0; i < 20000; i++) {
        uint64_t seed = random_next();
        uint32_t choice = (uint32_t)(random_next() >> 40), position = (uint32_t)(random_next() >> 32), first = (uint32_t)(random_next() >> 34) * 4;
        variants()->portable.gumbels(seed, choice, position, first, expected);
        for (const struct cpu_level *l = cpu_levels; l->name; l++) {
            struct cpu_kernels kernels;
            ck_assert_ptr_nonnull(cpu_kernels_init(&kernels, l->name));
            kernels.gumbels(seed, choice, position, first, found);
            expect_same(l->name, expected, found, KERNEL_GUMBELS, sizeof *found);
        }
        ck_assert(expected[5] == kernel_gumbel(seed, choice, position, first + 5));
        kernel_gumbels(seed, choice, position, first, found);
        expect_same("noise", expected, found, KERNEL_GUMBELS, sizeof *found);
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
        n_greedy += compare(&h, greedy, 3);
        n_top += compare(&h, top, 3);
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
    head_open(&h, 512, NULL, 1);
    const size_t all = N_ROWS * 512 * sizeof *h.weights;
    const struct logits_need one = {.top = 1}, every = {.top = 0};
    ck_assert_uint_eq(dense_read_bytes(h.be, h.screened, NULL), all);
    ck_assert_uint_eq(dense_read_bytes(h.be, h.screened, &every), all);
    ck_assert_uint_eq(dense_read_bytes(h.be, h.plain, &one), all);
    size_t screened = dense_read_bytes(h.be, h.screened, &one);
    ck_assert(screened >= all / 8 * 3 && screened < all / 8 * 3 + all / 50);
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

RUN_SUITE("kernels/logits", what_is_needed_is_exact, what_is_needed_of_long_rows_is_exact, rows_that_are_not_allowed_do_not_count, many_rows_are_screened_together, sums_of_a_screen_agree, bounds_of_a_screen_agree, noise_agrees, most_rows_are_left_out, all_logits_and_what_a_screen_cannot_hold_are_full,
          what_is_read_is_the_screen_or_all, a_table_that_is_not_finite_has_no_screen)
