/* Embedding and LM head. */
#include "tests/kernels/support.h"

#include <stdio.h>
#include <unistd.h>

static const size_t sizes[] = {1, 5, 15, 16, 17, 31, 32, 100, 256, 2560, 2561};
#define N_SIZES (sizeof sizes / sizeof sizes[0])

START_TEST(dot_products_agree)
{
    for (size_t s = 0; s < N_SIZES; s++)
        for (size_t n_x = 1; n_x <= 9; n_x++) {
            size_t n = sizes[s], stride = n + 3;
            float *row = guarded_alloc(4 * n, 4), *x = guarded_alloc(4 * n_x * stride, 4), *a = guarded_alloc(8 * n_x, 4),
                  *b = guarded_alloc(8 * n_x, 4);
            random_floats(row, n, 1.0f);
            random_floats(x, n_x * stride, 1.0f);
            if (n_x == 9)
                wild_floats(row, n, false);
            variants()->portable.dots_f32(row, x, stride, n_x, n, a, 2);
            variants()->best.dots_f32(row, x, stride, n_x, n, b, 2);
            for (size_t j = 0; j < n_x; j++)
                expect_same("dots_f32", a + 2 * j, b + 2 * j, 1, 4);
            guarded_free(row), guarded_free(x), guarded_free(a), guarded_free(b);
        }
}
END_TEST

START_TEST(dot_products_of_half_rows_agree)
{
    for (size_t s = 0; s < N_SIZES; s++)
        for (size_t n_rows = 1; n_rows <= 9; n_rows++) {
            size_t n = sizes[s];
            uint16_t *rows = guarded_alloc(2 * n * n_rows, 2);
            float *x = guarded_alloc(4 * n, 4), *a = guarded_alloc(4 * n_rows, 4), *b = guarded_alloc(4 * n_rows, 4);
            random_floats(x, n, 1.0f);
            for (size_t i = 0; i < n * n_rows; i++)
                rows[i] = arith_to_f16(random_float(1.0f));
            variants()->portable.dots_f16(rows, 2 * n, n_rows, x, n, a);
            variants()->best.dots_f16(rows, 2 * n, n_rows, x, n, b);
            expect_same("dots_f16", a, b, n_rows, 4);
            guarded_free(rows), guarded_free(x), guarded_free(a), guarded_free(b);
        }
}
END_TEST

/* The definition, written out: lanes and tree. */
START_TEST(a_dot_product_is_16_lanes_and_a_tree)
{
    float a[35], b[35], lane[16] = {0}, found;
    random_floats(a, 35, 1.0f);
    random_floats(b, 35, 1.0f);
    for (int i = 0; i < 35; i++)
        lane[i % 16] = fmaf(a[i], b[i], lane[i % 16]);
    for (int width = 8; width; width /= 2)
        for (int l = 0; l < width; l++)
            lane[l] += lane[l + width];
    variants()->best.dots_f32(a, b, 0, 1, 35, &found, 1);
    expect_same("dot", lane, &found, 1, 4);
}
END_TEST

#define N_ROWS 77
#define N_COLS 512
#define N_X 21

struct table {
    struct tensor_view view;
    uint8_t *data;
    float *values; /* [N_ROWS][N_COLS] as f32 */
};

static void table_open(struct table *t, enum tensor_type type)
{
    size_t n_bytes = tensor_bytes(type, N_ROWS, N_COLS), row_bytes = n_bytes / N_ROWS;
    t->data = guarded_alloc(n_bytes, 1);
    t->values = malloc(N_ROWS * N_COLS * sizeof *t->values);
    t->view = (struct tensor_view){.type = type, .data = t->data, .n_bytes = n_bytes, .n_rows = N_ROWS, .n_cols = N_COLS};
    for (size_t i = 0; i < n_bytes; i++)
        t->data[i] = (uint8_t)(random_next() >> 40);
    size_t block = type == TENSOR_Q8_0 ? 34 : type == TENSOR_Q4_0 ? 18 : type == TENSOR_Q6_K ? 210 : type == TENSOR_F32 ? 4 : 2;
    for (size_t i = 0; i < n_bytes; i += block) /* scales and values near 1 */
        t->data[i + (type == TENSOR_Q8_0 || type == TENSOR_Q4_0 ? 1 : block - 1)] &= 0xbf;
    for (size_t r = 0; r < N_ROWS; r++) {
        float *out = t->values + r * N_COLS;
        const uint8_t *row = t->data + r * row_bytes;
        switch (type) {
        case TENSOR_F16: tensor_row_f16(row, N_COLS, out); break;
        case TENSOR_BF16: tensor_row_bf16(row, N_COLS, out); break;
        case TENSOR_Q8_0: tensor_row_q8_0(row, N_COLS, out); break;
        case TENSOR_Q6_K: tensor_row_q6_k(row, N_COLS, out); break;
        case TENSOR_Q4_0: tensor_row_q4_0(row, N_COLS, out); break;
        default: tensor_row_f32(row, N_COLS, out); break;
        }
    }
}

static void table_close(struct table *t)
{
    guarded_free(t->data);
    free(t->values);
}

static const enum tensor_type table_types[] = {TENSOR_F32, TENSOR_F16, TENSOR_BF16, TENSOR_Q8_0, TENSOR_Q6_K, TENSOR_Q4_0};

static struct dense *open_table(struct backend *be, const struct table *t)
{
    struct dense *w;
    struct error err = {0};
    ck_assert_msg(dense_open(be, &t->view, &w, &err) == ERROR_NONE, "%s", err.message);
    return w;
}

START_TEST(embedding_takes_rows)
{
    const int32_t ids[] = {0, 76, 3, 3, 50};
    struct backend *be = open_backend(NULL, 3);
    for (size_t k = 0; k < 5; k++) {
        struct table t;
        table_open(&t, table_types[k]);
        struct dense *w = open_table(be, &t);
        float *y = guarded_alloc(5 * N_COLS * 4, 4);
        op_embed(be, w, ids, 5, y);
        for (size_t i = 0; i < 5; i++)
            expect_same(tensor_type_name(table_types[k]), t.values + (size_t)ids[i] * N_COLS, y + i * N_COLS, N_COLS, 4);
        guarded_free(y);
        dense_close(be, w);
        table_close(&t);
    }
    backend_close(be);
}
END_TEST

/* Single rows of a large mapped table come from its file, where the data begins at an offset; where that cannot be read, from the mapping. Those
 * of a small one are read in place. */
START_TEST(single_rows_of_a_mapped_table_are_read_from_the_file)
{
    enum { LARGE = 40000, OFFSET = 77 };
    const int32_t ids[] = {LARGE - 1, 0, 31};
    size_t row_bytes = 2 * N_COLS, n_bytes = LARGE * row_bytes;
    FILE *file = tmpfile();
    struct backend *be = open_backend(NULL, 2);
    uint16_t *mapping = calloc(LARGE, row_bytes), row[N_COLS];
    float in_file[N_COLS], in_mapping[N_COLS] = {0}, *y = guarded_alloc(3 * N_COLS * 4, 4);
    random_floats(in_file, N_COLS, 1.0f);
    for (size_t i = 0; i < N_COLS; i++)
        in_file[i] = arith_from_f16(row[i] = arith_to_f16(in_file[i]));
    for (size_t i = 0; i < 3; i++)
        ck_assert_int_eq(pwrite(fileno(file), row, row_bytes, OFFSET + (off_t)((size_t)ids[i] * row_bytes)), (ssize_t)row_bytes);
    static const struct {
        size_t n_rows;
        uint64_t offset;
        size_t n_from_file; /* of the ids */
    } cases[] = {{LARGE, OFFSET, 3}, {LARGE, OFFSET + 1, 0}, {32, OFFSET, 0}};
    for (size_t k = 0; k < 3; k++) {
        const struct tensor_view view = {.type = TENSOR_F16, .data = mapping, .n_bytes = cases[k].n_rows * row_bytes, .n_rows = cases[k].n_rows, .n_cols = N_COLS,
                                         .mapped = true, .fd = fileno(file), .offset = cases[k].offset};
        struct error err = {0};
        struct dense *w;
        size_t first = cases[k].n_rows == LARGE ? 0 : 1, n = cases[k].n_from_file ? 3 : 1; /* a byte too few for the last row */
        ck_assert(view.n_bytes <= n_bytes);
        ck_assert_msg(dense_open(be, &view, &w, &err) == ERROR_NONE, "%s", err.message);
        op_embed(be, w, ids + first, n, y);
        for (size_t i = 0; i < n; i++)
            expect_same("row", cases[k].n_from_file ? in_file : in_mapping, y + i * N_COLS, N_COLS, 4);
        dense_close(be, w);
    }
    guarded_free(y);
    free(mapping);
    fclose(file);
    backend_close(be);
}
END_TEST

/* Each logit is a dot product of the converted row, whatever the batch and the threads. */
static void check_logits(const struct table *t, const char *isa, int threads, size_t n_out, bool round)
{
    struct backend *be = open_backend(isa, threads);
    struct dense *w = open_table(be, t);
    float *x = backend_alloc(be, N_X * N_COLS * 4), *logits = guarded_alloc(n_out * N_ROWS * 4, 4);
    int32_t rows[N_X];
    random_floats(x, N_X * N_COLS, 2.0f);
    for (size_t j = 0; j < n_out; j++)
        rows[j] = (int32_t)((j * 8 + 5) % N_X);
    op_logits(be, w, x, rows, n_out, round, logits);
    for (size_t j = 0; j < n_out; j++) {
        float v[N_COLS], expected[N_ROWS];
        for (size_t i = 0; i < N_COLS; i++) {
            v[i] = x[(size_t)rows[j] * N_COLS + i];
            v[i] = round ? arith_from_f16(arith_to_f16(v[i])) : v[i];
        }
        for (size_t r = 0; r < N_ROWS; r++)
            variants()->portable.dots_f32(t->values + r * N_COLS, v, 0, 1, N_COLS, &expected[r], 1);
        expect_same("logits", expected, logits + j * N_ROWS, N_ROWS, 4);
    }
    guarded_free(logits);
    backend_free(be, x);
    dense_close(be, w);
    backend_close(be);
}

START_TEST(logits_do_not_depend_on_batch_or_threads)
{
    for (size_t k = 0; k < 5; k++) {
        struct table t;
        table_open(&t, table_types[k]);
        for (int threads = 1; threads <= 3; threads++) {
            check_logits(&t, NULL, threads, 1, true);
            check_logits(&t, NULL, threads, 2, false);
            check_logits(&t, NULL, threads, N_X, threads == 2);
        }
        check_logits(&t, "portable", 2, 3, true);
        table_close(&t);
    }
}
END_TEST

RUN_SUITE("kernels/dense", dot_products_agree, dot_products_of_half_rows_agree, a_dot_product_is_16_lanes_and_a_tree,
          embedding_takes_rows, single_rows_of_a_mapped_table_are_read_from_the_file, logits_do_not_depend_on_batch_or_threads)
