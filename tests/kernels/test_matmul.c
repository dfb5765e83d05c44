/* Ternary matmul: every variant against exact integers, formats against each other, batches against single rows. */
#include "tests/kernels/support.h"

#include "kernels/layout.h"

#include <stdio.h>
#include <stdlib.h>

#define MAX_TOKENS 33

static const size_t token_counts[] = {1, 2, 3, 4, 5, 8, 33};
#define N_TOKEN_COUNTS (sizeof token_counts / sizeof token_counts[0])

/* What weights are repacked to. */
static const struct {
    const char *name;
    enum ternary_format format;
    const struct cpu_layout *layout;
} layouts[] = {{"tiles", TERNARY_I2S, &layout_tiles},
               {"tl1", TERNARY_TL1, &layout_tl1},
               {"triples", TERNARY_TL2, &layout_triples}};
#define N_LAYOUTS (sizeof layouts / sizeof layouts[0])

/* Fillings of activations: random, and the ends of their range. */
enum filling { FILL_RANDOM, FILL_MAX, FILL_MIN, FILL_LOWEST, FILL_ZERO, FILL_OVERFLOW, N_FILLINGS };

/* Codes of all weights: random (-1), one of the three, or random and in the last row 2. */
#define LAST_ROW 3

static int8_t filled(enum filling filling)
{
    switch (filling) {
    case FILL_MAX: return 127;
    case FILL_MIN: return -127;
    case FILL_LOWEST: return -128;
    case FILL_ZERO: return 0;
    case FILL_OVERFLOW: return (int8_t)(103 + (random_next() >> 32) % 25);
    default: return (int8_t)(random_next() >> 56);
    }
}

struct problem {
    size_t n_rows, n_cols, n_tokens, q_stride;
    uint8_t *codes, *rows; /* rows: packed, at an odd address */
    int8_t *q;
    float *q_scale;
    int32_t *q_sum;
};

static void problem_open(struct problem *p, size_t n_rows, size_t n_cols, size_t n_tokens, enum filling filling, int code)
{
    *p = (struct problem){.n_rows = n_rows, .n_cols = n_cols, .n_tokens = n_tokens, .q_stride = (n_cols + 383) / 384 * 384 + 64};
    p->codes = make_codes(n_rows, n_cols);
    if (code == LAST_ROW)
        memset(p->codes + (n_rows - 1) * n_cols, 2, n_cols);
    else if (code >= 0)
        memset(p->codes, code, n_rows * n_cols);
    p->rows = guarded_alloc(n_rows * n_cols / 4, 1);
    for (size_t r = 0; r < n_rows; r++)
        tensor_pack_codes(p->codes + r * n_cols, n_cols, p->rows + r * n_cols / 4);
    p->q = guarded_alloc(n_tokens * p->q_stride, 1);
    p->q_scale = guarded_alloc(n_tokens * sizeof *p->q_scale, 4);
    p->q_sum = guarded_alloc(n_tokens * sizeof *p->q_sum, 4);
    for (size_t t = 0; t < n_tokens; t++) {
        p->q_sum[t] = 0;
        p->q_scale[t] = 1.0f + fabsf(random_float(99.0f));
        memset(p->q + t * p->q_stride + n_cols, 0, p->q_stride - n_cols);
        for (size_t i = 0; i < n_cols; i++) {
            p->q[t * p->q_stride + i] = filled(filling);
            p->q_sum[t] += p->q[t * p->q_stride + i];
        }
    }
}

static void problem_close(struct problem *p)
{
    guarded_free(p->rows);
    guarded_free(p->q);
    guarded_free(p->q_scale);
    guarded_free(p->q_sum);
    free(p->codes);
}

static void run(matmul_i2s_i8_fn *kernel, const struct problem *p, float *y)
{
    struct matmul_tile tile = {.rows = p->rows,
                               .row_bytes = p->n_cols / 4,
                               .n_rows = p->n_rows,
                               .q = p->q,
                               .q_stride = p->q_stride,
                               .q_scale = p->q_scale,
                               .q_sum = p->q_sum,
                               .n_tokens = p->n_tokens,
                               .scale = 0.37f,
                               .y = y,
                               .y_stride = p->n_rows};
    kernel(&tile);
}

/* The same from a repacked layout, by the kernel of one instruction set. */
static void run_layout(const struct cpu_layout *layout, const char *isa, const struct problem *p, float *y)
{
    struct ternary_packed packed = {.rows = p->rows, .row_bytes = p->n_cols / 4, .n_rows = p->n_rows, .n_cols = p->n_cols};
    uint8_t *data = guarded_alloc(layout->bytes(p->n_rows, p->n_cols), 64);
    uint8_t *scratch = guarded_alloc(layout->scratch_bytes(p->n_cols), 64);
    struct cpu cpu = {0};
    struct cpu_ternary w = {.base = {.n_rows = p->n_rows, .n_cols = p->n_cols, .scale = 0.37f}, .layout = layout, .data = data};
    struct activations a = {.q = p->q, .scale = p->q_scale, .sum = p->q_sum, .stride = p->q_stride};
    struct matmul_call call = {.w = (const struct ternary *const[]){&w.base}, .y = (float *const[]){y}, .n_mats = 1, .a = &a, .n = p->n_tokens};
    ck_assert_ptr_nonnull(cpu_kernels_init(&cpu.kernels, isa));
    layout->pack(NULL, &packed, data);
    if (layout->prepare)
        layout->prepare(&cpu, &call, scratch);
    layout->multiply(&cpu, &call, 0, 0, layout_n_groups(layout, p->n_rows), scratch);
    guarded_free(data);
    guarded_free(scratch);
}

static void exact(const struct problem *p, float *y)
{
    for (size_t t = 0; t < p->n_tokens; t++)
        for (size_t r = 0; r < p->n_rows; r++) {
            int64_t sum = 0;
            for (size_t i = 0; i < p->n_cols; i++)
                sum += (p->codes[r * p->n_cols + i] - 1) * p->q[t * p->q_stride + i];
            ck_assert(sum >= INT32_MIN && sum <= INT32_MAX);
            y[t * p->n_rows + r] = (float)sum / p->q_scale[t] * 0.37f;
        }
}

static void compare(size_t n_rows, size_t n_cols, size_t n_tokens, enum filling filling, int code)
{
    struct problem p;
    problem_open(&p, n_rows, n_cols, n_tokens, filling, code);
    size_t n = n_rows * n_tokens;
    float *expected = malloc(n * sizeof *expected), *found = guarded_alloc(n * sizeof *found, 4);
    char what[96];
    snprintf(what, sizeof what, "%zu rows, %zu cols, %zu tokens, filling %d, code %d", n_rows, n_cols, n_tokens,
             (int)filling, code);
    exact(&p, expected);
    run(variants()->portable.matmul_i2s_i8, &p, found);
    expect_same(what, expected, found, n, sizeof *found);
    memset(found, 0xff, n * sizeof *found);
    run(variants()->best.matmul_i2s_i8, &p, found);
    expect_same(what, expected, found, n, sizeof *found);
    for (const struct cpu_level *l = cpu_levels; l->name; l++)
        for (size_t i = 0; i < N_LAYOUTS; i++) {
            char which[160];
            snprintf(which, sizeof which, "%s, %s: %s", layouts[i].name, l->name, what);
            memset(found, 0xff, n * sizeof *found);
            run_layout(layouts[i].layout, l->name, &p, found);
            expect_same(which, expected, found, n, sizeof *found);
        }
    free(expected);
    guarded_free(found);
    problem_close(&p);
}

/* Groups of 16 rows, whole and not; stripes of 48 tokens and blocks of 16 and of 32 with all that may be left. */
START_TEST(layouts_give_the_exact_sums)
{
    static const size_t rows[] = {1, 15, 16, 17, 31, 32, 33, 48, 70}, tokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 79, 97};
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++)
        for (size_t t = 0; t < sizeof tokens / sizeof tokens[0]; t++)
            compare(rows[r], 128 + 128 * (r % 3), tokens[t], FILL_RANDOM, -1);
    compare(1100, 256, 1, FILL_RANDOM, -1); /* more groups than lookups take together */
    compare(300, 384, 3, FILL_RANDOM, -1);  /* and than they unpack together */
    compare(64, 128, 9, FILL_RANDOM, -1);   /* a band that is looked up, of one block, one and a half, two and a half chunks */
    compare(128, 256, 65, FILL_RANDOM, -1);
    compare(200, 384, 67, FILL_RANDOM, -1);
    compare(2250, 512, 10, FILL_RANDOM, -1); /* more bands than scratch has room for */
    compare(17, 8192, 75, FILL_RANDOM, -1); /* more activations than a kernel keeps in cache at once */
    compare(515, 256, 16, FILL_RANDOM, -1); /* rows and tokens enough to look sums of four columns up, and others left */
    compare(517, 384, 33, FILL_RANDOM, -1);
    compare(2250, 128, 63, FILL_RANDOM, -1); /* more rows than their scratch has room for */
}
END_TEST

START_TEST(kernels_give_the_exact_sums)
{
    static const size_t rows[] = {1, 2, 3, 4, 5, 6, 7, 9}, cols[] = {128, 256, 384, 1920, 2048, 2176, 4096, 4224};
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++)
        for (size_t c = 0; c < sizeof cols / sizeof cols[0]; c++)
            for (size_t t = 0; t < N_TOKEN_COUNTS; t++)
                compare(rows[r], cols[c], token_counts[t], FILL_RANDOM, -1);
}
END_TEST

START_TEST(extreme_values_do_not_overflow)
{
    static const size_t cols[] = {128, 2048, 2560, 6912}, tokens[] = {1, 2, 3, 4, 5, 6, 9, 13, 17};
    for (int f = 0; f < N_FILLINGS; f++)
        for (int code = -1; code < 3; code++)
            for (size_t c = 0; c < sizeof cols / sizeof cols[0]; c++)
                for (size_t t = 0; t < sizeof tokens / sizeof tokens[0]; t++)
                    compare(9, cols[c], tokens[t], (enum filling)f, code); /* rows in both halves of a group */
    for (int f = 0; f < N_FILLINGS; f++)
        for (int code = -1; code < 3; code++)
            compare(64, 512, 9, (enum filling)f, code); /* a band of lookups, of whole chunks */
    for (int f = 0; f < N_FILLINGS; f++)
        for (int code = 0; code <= LAST_ROW; code++)
            compare(519, 640, 16, (enum filling)f, code); /* lookups of four columns */
}
END_TEST

/* The weights of three matrices, and the values of x that all backends are given. */
struct layer {
    struct tensor_view views[3];
    uint8_t *data[3];
    float *x;
    size_t n_cols, n_rows;
};

static void layer_open(struct layer *l, size_t n_cols, const size_t rows[3])
{
    *l = (struct layer){.n_cols = n_cols};
    for (int m = 0; m < 3; m++) {
        uint8_t *codes = make_codes(rows[m], n_cols);
        l->data[m] = make_i2s(codes, rows[m], n_cols, I2S_ORDER_128, 0.5f + (float)m, &l->views[m]);
        l->n_rows += rows[m];
        free(codes);
    }
    l->x = malloc(MAX_TOKENS * n_cols * sizeof *l->x);
    random_floats(l->x, MAX_TOKENS * n_cols, 3.0f);
}

static void layer_close(struct layer *l)
{
    for (int m = 0; m < 3; m++)
        free(l->data[m]);
    free(l->x);
}

/* A backend that reads weights where they lie. */
static struct backend *open_mapped(void)
{
    struct backend_options options = {.n_threads = 2, .map_weights = true};
    struct backend *be;
    struct error err = {0};
    ck_assert_msg(backend_open(&options, &be, &err) == ERROR_NONE, "%s", err.message);
    return be;
}

/* Rows first .. first + n - 1 of x through the three matrices; y: [3] one after the other, each [n][rows]. */
static void forward(struct backend *be, const struct layer *l, enum ternary_format format, size_t first, size_t n,
                    float *out)
{
    struct ternary *w[3];
    struct activations a;
    struct error err = {0};
    float *x = backend_alloc(be, n * l->n_cols * sizeof *x), *y[3];
    ck_assert(activations_open(be, n, l->n_cols, &a));
    for (int m = 0; m < 3; m++) {
        ck_assert_msg(ternary_open(be, &l->views[m], format, &w[m], &err) == ERROR_NONE, "%s", err.message);
        y[m] = backend_alloc(be, n * l->views[m].n_rows * sizeof **y);
    }
    backend_upload(be, x, l->x + first * l->n_cols, n * l->n_cols * sizeof *x);
    op_quantize(be, x, n, l->n_cols, &a);
    op_matmul(be, (const struct ternary *const *)w, y, 3, &a, n);
    ck_assert(backend_sync(be, &err) == ERROR_NONE);
    for (int m = 0; m < 3; m++) {
        size_t count = n * l->views[m].n_rows;
        backend_download(be, out, y[m], count * sizeof *out);
        out += count;
        backend_free(be, y[m]);
        ternary_close(be, w[m]);
    }
    backend_free(be, x);
    activations_close(be, &a);
}

START_TEST(threads_and_instruction_sets_give_the_same_bits)
{
    static const size_t rows[3] = {70, 33, 129};
    struct layer l;
    layer_open(&l, 2560, rows);
    size_t n = MAX_TOKENS * l.n_rows;
    float *expected = malloc(n * sizeof *expected), *found = malloc(n * sizeof *found);
    struct backend *be = open_backend("portable", 1);
    forward(be, &l, TERNARY_I2S, 0, MAX_TOKENS, expected);
    backend_close(be);
    for (int threads = 1; threads <= 3; threads++)
        for (const struct cpu_level *level = cpu_levels; level->name; level++) {
            be = open_backend(level->name, threads);
            for (size_t i = 0; i < N_LAYOUTS; i++) {
                forward(be, &l, layouts[i].format, 0, MAX_TOKENS, found);
                expect_same(level->name, expected, found, n, sizeof *found);
            }
            backend_close(be);
        }
    be = open_mapped();
    forward(be, &l, TERNARY_AUTO, 0, MAX_TOKENS, found);
    expect_same("mapped", expected, found, n, sizeof *found);
    backend_close(be);
    free(expected);
    free(found);
    layer_close(&l);
}
END_TEST

START_TEST(a_batch_gives_what_single_rows_give)
{
    static const size_t rows[3] = {40, 8, 31};
    struct layer l;
    layer_open(&l, 384, rows);
    struct backend *be = open_backend(NULL, 2);
    float *batch = malloc(MAX_TOKENS * l.n_rows * sizeof *batch), single[40 + 8 + 31];
    for (size_t c = 0; c < N_TOKEN_COUNTS * N_LAYOUTS; c++) {
        enum ternary_format format = layouts[c / N_TOKEN_COUNTS].format;
        size_t n = token_counts[c % N_TOKEN_COUNTS];
        forward(be, &l, format, 0, n, batch);
        for (size_t i = 0; i < n; i++) {
            const float *in_batch = batch, *alone = single;
            forward(be, &l, format, i, 1, single);
            for (int m = 0; m < 3; m++) {
                expect_same("row of a batch", alone, in_batch + i * rows[m], rows[m], sizeof *alone);
                in_batch += n * rows[m];
                alone += rows[m];
            }
        }
    }
    backend_close(be);
    free(batch);
    layer_close(&l);
}
END_TEST

/* One matrix [n_rows][n_cols] times two rows of fixed activations. */
static void multiply(struct backend *be, const struct tensor_view *view, enum ternary_format format,
                     enum ternary_format expected, float *out, size_t *memory_bytes)
{
    struct error err = {0};
    struct ternary *w;
    struct activations a;
    size_t n_x = 2 * view->n_cols, n_y = 2 * view->n_rows;
    float *x = backend_alloc(be, n_x * sizeof *x), *y = backend_alloc(be, n_y * sizeof *y);
    for (size_t i = 0; i < n_x; i++)
        x[i] = sinf((float)(i % 1000));
    ck_assert(activations_open(be, 2, view->n_cols, &a));
    ck_assert_msg(ternary_open(be, view, format, &w, &err) == ERROR_NONE, "%s", err.message);
    ck_assert_int_eq(ternary_format(w), expected);
    *memory_bytes = ternary_memory_bytes(w);
    op_quantize(be, x, 2, view->n_cols, &a);
    op_matmul(be, (const struct ternary *const[]){w}, (float *const[]){y}, 1, &a, 2);
    memcpy(out, y, n_y * sizeof *out);
    ternary_close(be, w);
    activations_close(be, &a);
    backend_free(be, x);
    backend_free(be, y);
}

/* Codes as TQ2_0 holds them, with scale 0.5. */
static uint8_t *make_tq2_0(const uint8_t *codes, size_t n_rows, size_t n_cols, struct tensor_view *view)
{
    size_t n_blocks = n_rows * n_cols / 256;
    uint8_t *data = calloc(n_blocks, 66);
    for (size_t b = 0; b < n_blocks; b++) {
        uint8_t *block = data + 66 * b;
        for (size_t i = 0; i < 256; i++)
            block[i / 128 * 32 + i % 32] |= (uint8_t)(codes[256 * b + i] << (i / 32 % 4 * 2));
        block[65] = 0x38; /* 0.5 */
    }
    *view = (struct tensor_view){
        .type = TENSOR_TQ2_0, .data = data, .n_bytes = n_blocks * 66, .n_rows = n_rows, .n_cols = n_cols};
    return data;
}

START_TEST(formats_give_the_same_integers)
{
    static const struct {
        size_t n_rows, n_cols;
    } shapes[] = {{5, 256}, {7, 2560}, {4, 6912}, {4, 8640}, {8, 160}};
    struct backend *be = open_mapped();
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        size_t n_rows = shapes[s].n_rows, n_cols = shapes[s].n_cols, memory;
        uint8_t *codes = make_codes(n_rows, n_cols), *data;
        struct tensor_view view;
        float expected[16], found[16];
        data = make_i2s(codes, n_rows, n_cols, I2S_ORDER_128, 0.5f, &view);
        multiply(be, &view, TERNARY_AUTO, TERNARY_I2S, expected, &memory);
        ck_assert_uint_eq(memory, n_cols % 128 ? n_rows * ((n_cols + 127) / 128 * 32) : 0);
        multiply(be, &view, TERNARY_TL2, TERNARY_I2S, found, &memory);
        expect_same("TL2 asked", expected, found, 2 * n_rows, sizeof *found);
        free(data);
        data = make_i2s(codes, n_rows, n_cols, I2S_ORDER_64, 0.5f, &view);
        multiply(be, &view, TERNARY_AUTO, TERNARY_I2S, found, &memory);
        ck_assert_uint_gt(memory, 0);
        expect_same("order 64", expected, found, 2 * n_rows, sizeof *found);
        free(data);
        if (n_cols % 256 == 0) {
            data = make_tq2_0(codes, n_rows, n_cols, &view);
            multiply(be, &view, TERNARY_AUTO, TERNARY_I2S, found, &memory);
            expect_same("TQ2_0", expected, found, 2 * n_rows, sizeof *found);
            free(data);
        }
        free(codes);
    }
    backend_close(be);
}
END_TEST

START_TEST(a_matrix_has_the_format_that_was_asked_for)
{
    static const struct {
        size_t n_rows, n_cols;
    } shapes[] = {{5, 256}, {7, 2560}, {17, 6912}, {33, 8640}, {8, 160}, {2, 32}};
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        size_t n_rows = shapes[s].n_rows, n_cols = shapes[s].n_cols, memory;
        uint8_t *codes = make_codes(n_rows, n_cols);
        struct tensor_view view;
        uint8_t *data = make_i2s(codes, n_rows, n_cols, n_cols % 128 ? I2S_ORDER_64 : I2S_ORDER_128, 0.5f, &view);
        float expected[2 * 33], found[2 * 33];
        struct backend *be = open_mapped();
        multiply(be, &view, TERNARY_AUTO, TERNARY_I2S, expected, &memory);
        backend_close(be);
        be = open_backend(NULL, 2);
        for (size_t i = 0; i < N_LAYOUTS; i++) {
            multiply(be, &view, layouts[i].format, layouts[i].format, found, &memory);
            expect_same(layouts[i].name, expected, found, 2 * n_rows, sizeof *found);
            ck_assert_uint_eq(memory, layouts[i].layout->bytes(n_rows, (n_cols + 127) / 128 * 128));
        }
        backend_close(be);
        free(data);
        free(codes);
    }
}
END_TEST

RUN_SUITE("kernels/matmul", kernels_give_the_exact_sums, layouts_give_the_exact_sums, extreme_values_do_not_overflow,
          threads_and_instruction_sets_give_the_same_bits, a_batch_gives_what_single_rows_give,
          formats_give_the_same_integers, a_matrix_has_the_format_that_was_asked_for)
