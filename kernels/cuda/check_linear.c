/* Cases of the ternary product. */
#include "kernels/cuda/check.h"

#include <stdio.h>
#include <stdlib.h>

#define MAX_MATS 4

enum weights { WEIGHTS_RANDOM, WEIGHTS_PLUS, WEIGHTS_MINUS, WEIGHTS_ZERO };
enum input { INPUT_RANDOM, INPUT_HIGH, INPUT_LOW, INPUT_ZERO }; /* 127, -128 throughout */

struct product {
    size_t n_mats, n_rows[MAX_MATS];
    struct ternary *w[2][MAX_MATS];
    struct twin y[MAX_MATS], parts[3]; /* of the activations: q, scale, sum */
    struct activations a[2];
};

static void run_matmul(struct backend *be, int which, const void *arg, size_t first, size_t n)
{
    const struct product *p = arg;
    struct activations part = check_part(&p->a[which], first, n);
    float *y[MAX_MATS];
    for (size_t m = 0; m < p->n_mats; m++)
        y[m] = (float *)p->y[m].at[which] + first * p->n_rows[m];
    op_matmul(be, (const struct ternary *const *)p->w[which], y, p->n_mats, &part, n);
}

/* An I2_S matrix of whole blocks, on both sides. */
static void open_matrix(struct check *c, size_t n_rows, size_t n_cols, enum weights kind, struct product *p, size_t m)
{
    size_t n = n_rows * n_cols;
    float scale = 0.25f + fabsf(check_float(c, 1.0f));
    uint8_t *codes = malloc(n), *data = calloc(1, n / 4 + 32);
    struct error err = {0};
    if (!codes || !data)
        abort();
    for (size_t i = 0; i < n; i++)
        codes[i] = kind == WEIGHTS_RANDOM ? (uint8_t)(check_random(c) % 3) : kind == WEIGHTS_PLUS ? 2 : kind == WEIGHTS_MINUS ? 0 : 1;
    tensor_write_codes(TENSOR_I2_S, codes, n, 0.0f, data);
    memcpy(data + n / 4, &scale, sizeof scale);
    struct tensor_view view = {.type = TENSOR_I2_S, .data = data, .n_bytes = n / 4 + 32, .n_rows = n_rows, .n_cols = n_cols};
    for (int which = REFERENCE; which <= DEVICE; which++)
        if (ternary_open(c->be[which], &view, TERNARY_AUTO, &p->w[which][m], &err))
            check_fail(c, "opening of %zu x %zu: %s", n_rows, n_cols, err.message);
    p->n_rows[m] = n_rows;
    free(codes), free(data);
}

static void open_input(struct check *c, size_t n, size_t n_cols, enum input kind, struct product *p)
{
    size_t stride = (n_cols + 383) / 384 * 384;
    int8_t *q = calloc(n, stride);
    float *scale = malloc(n * sizeof *scale);
    int32_t *sum = calloc(n, sizeof *sum);
    if (!q || !scale || !sum)
        abort();
    for (size_t t = 0; t < n; t++) {
        scale[t] = 0.01f + fabsf(check_float(c, 100.0f));
        for (size_t i = 0; i < n_cols; i++) {
            int8_t *at = &q[t * stride + i];
            *at = (int8_t)(kind == INPUT_RANDOM ? (int)(check_random(c) % 256) - 128 : kind == INPUT_HIGH ? 127 : kind == INPUT_LOW ? -128 : 0);
            sum[t] += *at;
        }
    }
    p->parts[0] = twin_open(c, q, n * stride);
    p->parts[1] = twin_open(c, scale, n * sizeof *scale);
    p->parts[2] = twin_open(c, sum, n * sizeof *sum);
    for (int which = REFERENCE; which <= DEVICE; which++)
        p->a[which] = (struct activations){p->parts[0].at[which], p->parts[1].at[which], p->parts[2].at[which], n, n_cols, stride};
    free(q), free(scale), free(sum);
}

static void check_product(struct check *c, const size_t *n_rows, size_t n_mats, size_t n_cols, size_t n, enum weights weights, enum input input)
{
    char what[80];
    struct product p = {.n_mats = n_mats};
    struct row_check rows = {run_matmul, &p, n, {{0}}};
    snprintf(what, sizeof what, "product of %zu x %zu%s", n_rows[0], n_cols, n_mats > 1 ? ", .." : "");
    open_input(c, n, n_cols, input, &p);
    for (size_t m = 0; m < n_mats; m++) {
        open_matrix(c, n_rows[m], n_cols, weights, &p, m);
        p.y[m] = twin_open(c, NULL, n * n_rows[m] * sizeof(float));
        rows.outputs[m] = (struct output){"y", &p.y[m], {NULL}, n_rows[m] * sizeof(float), true, NULL};
    }
    if (!c->failure[0])
        check_rows(c, what, &rows);
    for (size_t m = 0; m < n_mats; m++) {
        for (int which = REFERENCE; which <= DEVICE; which++)
            ternary_close(c->be[which], p.w[which][m]);
        twin_close(c, what, &p.y[m]);
    }
    for (size_t i = 0; i < 3; i++)
        twin_close(c, what, &p.parts[i]);
}

void check_matmul(struct check *c)
{
    static const struct {
        size_t n_rows, n_cols, n;
    } shapes[] = {{5, 128, 70},  {16, 256, 130}, {4, 96, 3},   {64, 640, 17},  {32, 160, 16}, {129, 384, 70}, {640, 256, 9},
                  {20, 2560, 70}, {16, 6912, 20}, {17, 2048, 1}, {31, 1280, 8}, {256, 128, 200}, {8200, 128, 9}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        check_product(c, &shapes[i].n_rows, 1, shapes[i].n_cols, shapes[i].n, WEIGHTS_RANDOM, INPUT_RANDOM);
}

void check_matmul_extremes(struct check *c)
{
    static const size_t n_rows = 17;
    for (enum weights weights = WEIGHTS_PLUS; weights <= WEIGHTS_ZERO; weights++)
        for (enum input input = INPUT_RANDOM; input <= INPUT_ZERO; input++)
            check_product(c, &n_rows, 1, weights == WEIGHTS_ZERO ? 256 : 6912, 18, weights, input);
}

void check_matmul_joint(struct check *c)
{
    static const size_t qkv[] = {40, 10, 10}, gate_up[] = {130, 130}, four[] = {1, 16, 5, 33};
    check_product(c, qkv, 3, 640, 35, WEIGHTS_RANDOM, INPUT_RANDOM);
    check_product(c, gate_up, 2, 256, 70, WEIGHTS_RANDOM, INPUT_RANDOM);
    check_product(c, four, 4, 128, 19, WEIGHTS_RANDOM, INPUT_RANDOM);
}
