/*
 * Known answers: each operation, in the sizes that take another kernel each, on data made by a formula, against the definitions worked out on the
 * host. A device that computes something else is refused when it is opened. Integers must be exact, as must be operations that stand for
 * others.
 */
#include "kernels/cuda/selftest.h"

#include <stdlib.h>

#define MAX_WEIGHTS (8200 * 128) /* of a matrix */
#define MAX_COLS 384
#define MAX_TOKENS 140
#define MAX_Y (8200 * 5)
#define MAX_DIM 9000

static bool open_activations(struct test *t, size_t n, size_t dim, struct activations *a)
{
    *a = {};
    a->max_rows = n;
    a->max_cols = dim;
    a->stride = (dim + 127) / 128 * 128;
    a->q = test_take<int8_t>(t, NULL, n * a->stride);
    a->scale = test_take<float>(t, NULL, n);
    a->sum = test_take<int32_t>(t, NULL, n);
    return t->good;
}

/* ---- the ternary product */

static int8_t codes[MAX_WEIGHTS]; /* -1, 0, 1: of each matrix from the first on */

static void fill_codes()
{
    for (uint32_t i = 0; i < MAX_WEIGHTS; i++)
        codes[i] = (int8_t)((i * 2654435761u >> 16) % 3 - 1);
}

static struct ternary *open_ternary(struct test *t, size_t n_rows, size_t n_cols, float scale)
{
    static uint8_t rows[MAX_WEIGHTS / 4];
    struct ternary *w = NULL;
    memset(rows, 0, sizeof rows);
    for (size_t r = 0; r < n_rows; r++)
        for (size_t c = 0; c < n_cols; c++)
            rows[r * n_cols / 4 + c / 128 * 32 + c % 32] |= (uint8_t)((codes[r * n_cols + c] + 1) << (6 - c % 128 / 32 * 2));
    struct ternary_packed packed = {rows, n_cols / 4, n_rows, n_cols, scale, NULL, 0};
    return t->be->ops->ternary_open(t->be, &packed, TERNARY_I2S, &w, NULL) ? NULL : w;
}

static bool product_is_exact(const float *found, const float *x, size_t n_rows, size_t n_cols, float scale, size_t n)
{
    int8_t q[MAX_COLS];
    for (size_t i = 0; i < n; i++) {
        float s = test_quantize(x + i * n_cols, n_cols, q);
        for (size_t r = 0; r < n_rows; r++) {
            int sum = 0;
            for (size_t c = 0; c < n_cols; c++)
                sum += q[c] * codes[r * n_cols + c];
            if (found[i * n_rows + r] != (float)sum / s * scale)
                return false;
        }
    }
    return true;
}

/* Rows of which one is zero and one has no number. */
static void fill_tokens(float *x, size_t n_cols)
{
    for (uint32_t i = 0; i < MAX_TOKENS * n_cols; i++)
        x[i] = test_value(i);
    memset(x + n_cols, 0, n_cols * sizeof *x);
    x[2 * n_cols + 5] = NAN;
    x[2 * n_cols + 100] = -INFINITY;
}

/* Two matrices at once, of which the second may be empty, for batches of some sizes (0: no more). */
struct shape {
    size_t n_rows[2], n_cols, sizes[5];
};

static bool products_of(struct test *t, const struct shape *shape)
{
    static float x[MAX_TOKENS * MAX_COLS], found[MAX_Y];
    struct activations a;
    size_t n_mats = shape->n_rows[1] ? 2 : 1;
    fill_tokens(x, shape->n_cols);
    bool good = open_activations(t, MAX_TOKENS, shape->n_cols, &a);
    float *dev_x = test_take(t, x, MAX_TOKENS * shape->n_cols), *y[2];
    struct ternary *w[2] = {};
    for (size_t m = 0; good && m < n_mats; m++) {
        y[m] = test_take<float>(t, NULL, MAX_Y);
        w[m] = open_ternary(t, shape->n_rows[m], shape->n_cols, 0.5f + (float)m);
        good = t->good && w[m];
    }
    for (size_t n : shape->sizes) {
        if (!good || !n)
            break;
        t->be->ops->quantize(t->be, dev_x, n, shape->n_cols, &a);
        t->be->ops->matmul(t->be, w, y, n_mats, &a, n);
        for (size_t m = 0; good && m < n_mats; m++) {
            test_read(t, found, y[m], n * shape->n_rows[m]);
            good = product_is_exact(found, x, shape->n_rows[m], shape->n_cols, 0.5f + (float)m, n);
        }
    }
    for (struct ternary *one : w)
        if (one)
            t->be->ops->ternary_close(t->be, one);
    return good;
}

static bool test_product(struct test *t)
{
    static const struct shape shapes[] = {{{130, 19}, 384, {1, 3, 12, 40, MAX_TOKENS}}, {{8200, 0}, 128, {5}}};
    fill_codes();
    return products_of(t, &shapes[0]) && products_of(t, &shapes[1]);
}

/* ---- rows and values */

static bool same_activations(struct test *t, const struct activations *a, const struct activations *b, size_t n)
{
    static int8_t q[2][2 * (MAX_DIM + 128)];
    float scale[2][2];
    int32_t sum[2][2];
    const struct activations *both[] = {a, b};
    for (int i = 0; i < 2; i++) {
        test_read(t, q[i], both[i]->q, n * a->stride);
        test_read(t, scale[i], both[i]->scale, n);
        test_read(t, sum[i], both[i]->sum, n);
    }
    return memcmp(q[0], q[1], n * a->stride) == 0 && memcmp(scale[0], scale[1], n * sizeof(float)) == 0 &&
           memcmp(sum[0], sum[1], n * sizeof(int32_t)) == 0;
}

static bool norm_is_near(const float *found, const float *x, const float *weight, size_t dim)
{
    static double expected[MAX_DIM];
    double ss = 0;
    for (size_t i = 0; i < dim; i++)
        ss += (double)x[i] * x[i];
    for (size_t i = 0; i < dim; i++)
        expected[i] = x[i] / sqrt(ss / (double)dim + 1e-5) * weight[i];
    return test_near(found, expected, dim);
}

static bool norms_of(struct test *t, size_t dim)
{
    static float host[3 * MAX_DIM], y[2][2 * MAX_DIM]; /* two rows and weights */
    const struct backend_ops *ops = t->be->ops;
    struct activations a, b;
    for (uint32_t i = 0; i < 3 * dim; i++)
        host[i] = test_value(600000 + i);
    float *x = test_take(t, host, 3 * dim), *first = test_take<float>(t, NULL, 2 * dim), *second = test_take<float>(t, NULL, 2 * dim);
    if (!open_activations(t, 2, dim, &a) || !open_activations(t, 2, dim, &b))
        return false;
    ops->rmsnorm(t->be, x, x + 2 * dim, 1e-5f, 2, dim, first);
    ops->quantize(t->be, first, 2, dim, &a);
    ops->norm_quantize(t->be, x, x + 2 * dim, 1e-5f, 2, dim, second, &b);
    test_read(t, y[0], first, 2 * dim);
    test_read(t, y[1], second, 2 * dim);
    return norm_is_near(y[0], host, host + 2 * dim, dim) && norm_is_near(y[0] + dim, host + dim, host + 2 * dim, dim) &&
           memcmp(y[0], y[1], 2 * dim * sizeof(float)) == 0 && same_activations(t, &a, &b, 2);
}

static bool test_norm(struct test *t) { return norms_of(t, 100) && norms_of(t, 2560) && norms_of(t, MAX_DIM); }

/* The activation, and with or without a norm the operation that stands for it and what follows. */
static bool ffn_of(struct test *t, enum ffn_act act, bool has_norm, size_t dim)
{
    static float host[3 * MAX_DIM], y[2][MAX_DIM];
    static double expected[MAX_DIM];
    const struct backend_ops *ops = t->be->ops;
    struct activations a, b;
    for (uint32_t i = 0; i < 3 * dim; i++)
        host[i] = test_value(700000 + i) * 2.0f;
    for (size_t i = 0; i < dim; i++) {
        double g = host[i], r = g > 0 ? g : 0;
        expected[i] = (act == FFN_SILU ? g / (1 + exp(-g)) : r * r) * host[dim + i];
    }
    float *gate = test_take(t, host, 3 * dim), *weight = has_norm ? gate + 2 * dim : NULL;
    float *first = test_take<float>(t, NULL, dim), *second = test_take<float>(t, NULL, dim);
    if (!open_activations(t, 1, dim, &a) || !open_activations(t, 1, dim, &b))
        return false;
    ops->ffn_act(t->be, act, gate, gate + dim, dim, first);
    test_read(t, y[0], first, dim);
    ops->norm_quantize(t->be, first, weight, 1e-5f, 1, dim, first, &a);
    ops->ffn_quantize(t->be, act, gate, gate + dim, weight, 1e-5f, 1, dim, second, &b);
    bool good = test_near(y[0], expected, dim) && same_activations(t, &a, &b, 1);
    test_read(t, y[0], first, dim);
    test_read(t, y[1], second, dim);
    return good && (!has_norm || memcmp(y[0], y[1], dim * sizeof(float)) == 0);
}

static bool test_ffn(struct test *t)
{
    return ffn_of(t, FFN_RELU2, true, 640) && ffn_of(t, FFN_SILU, false, 100) && ffn_of(t, FFN_RELU2, true, MAX_DIM);
}

static bool rope_of(struct test *t, enum rope_style style)
{
    enum { ROWS = 3, HEADS = 2, DIM = 64, DIMS = 48, POSITIONS = 5 };
    static float x[ROWS * HEADS * DIM], found[ROWS * HEADS * DIM], table[POSITIONS * DIMS];
    static double expected[ROWS * HEADS * DIM];
    static const int32_t positions[ROWS] = {4, 0, 3};
    for (uint32_t i = 0; i < ROWS * HEADS * DIM; i++)
        expected[i] = x[i] = test_value(800000 + i);
    for (uint32_t i = 0; i < POSITIONS * DIMS; i++)
        table[i] = test_value(810000 + i); /* any numbers: cos, then sin */
    for (int h = 0; h < ROWS * HEADS; h++)
        for (int i = 0; i < DIMS / 2; i++) {
            int i0 = h * DIM + (style == ROPE_NEOX ? i : 2 * i), i1 = style == ROPE_NEOX ? i0 + DIMS / 2 : i0 + 1;
            const float *cos = table + positions[h / HEADS] * DIMS + i, *sin = cos + DIMS / 2;
            expected[i0] = (double)x[i0] * *cos - (double)x[i1] * *sin;
            expected[i1] = (double)x[i0] * *sin + (double)x[i1] * *cos;
        }
    struct rope r = {style, DIMS, POSITIONS, test_take(t, table, POSITIONS * DIMS)};
    float *dev = test_take(t, x, ROWS * HEADS * DIM);
    if (!t->good)
        return false;
    t->be->ops->rope(t->be, &r, dev, ROWS, HEADS, DIM, positions);
    test_read(t, found, dev, ROWS * HEADS * DIM);
    return test_near(found, expected, ROWS * HEADS * DIM);
}

static bool test_rope(struct test *t) { return rope_of(t, ROPE_NEOX) && rope_of(t, ROPE_NORM); }

/* Adding, and the keeping of every third row. */
static bool test_values(struct test *t)
{
    enum { ROWS = 40, DIM = 100, KEPT = 13 };
    static float x[ROWS * DIM], found[KEPT * DIM];
    int32_t rows[KEPT];
    for (uint32_t i = 0; i < ROWS * DIM; i++)
        x[i] = test_value(900000 + i);
    for (int32_t i = 0; i < KEPT; i++)
        rows[i] = 3 * i + 1;
    float *a = test_take(t, x, ROWS * DIM), *b = test_take(t, x, ROWS * DIM);
    if (!t->good)
        return false;
    t->be->ops->add(t->be, a, b, ROWS * DIM);
    t->be->ops->keep_rows(t->be, a, DIM, rows, KEPT);
    test_read(t, found, a, KEPT * DIM);
    for (size_t i = 0; i < KEPT * DIM; i++)
        if (found[i] != 2.0f * x[(size_t)rows[i / DIM] * DIM + i % DIM])
            return false;
    return true;
}

bool gpu_self_test(struct backend *be, const char **what)
{
    static const struct {
        const char *name;
        bool (*passes)(struct test *t);
    } tests[] = {{"ternary product", test_product}, {"norm", test_norm},           {"activation", test_ffn}, {"rope", test_rope},
                 {"values", test_values},           {"embedding", test_embedding}, {"logits", test_logits},  {"attention", test_attention}};
    bool good = true;
    for (size_t i = 0; good && i < sizeof tests / sizeof tests[0]; i++) {
        struct test t = {};
        t.be = be;
        t.good = true;
        *what = tests[i].name;
        good = tests[i].passes(&t);
        for (size_t b = 0; b < t.n_blocks; b++)
            be->ops->free(be, t.blocks[b]);
    }
    return good;
}
