/* Cases of operations on rows of values: norm, quantisation, both in one, addition, activations, rope, kept rows. */
#include "kernels/cuda/check.h"

#include <stdio.h>
#include <stdlib.h>

#define EPS 1e-5f

/* Widths as models have them, and odd ones. */
static const size_t dims[] = {128, 640, 2560, 6912, 8448, 1, 7, 100, 1031, 9001};
#define N_DIMS (sizeof dims / sizeof dims[0])

/* What an operation of this file gets; offsets of a part are in rows. */
struct values {
    size_t dim;
    const float *host[2];      /* x, or gate and up: set before an operation that changes them */
    struct twin x, y, weight;  /* weight may be none */
    struct activations a[2];
    enum ffn_act act;
    bool joint;                /* the operation that stands for others, or these */
    const struct rope *rope[2];
    const int32_t *positions;
    size_t n_heads;
};

static float *at(const struct twin *t, int which, size_t row, size_t dim) { return t->at[which] ? (float *)t->at[which] + row * dim : NULL; }

/* ---- norm, quantisation */

static void run_norm(struct backend *be, int which, const void *arg, size_t first, size_t n)
{
    const struct values *v = arg;
    op_rmsnorm(be, at(&v->x, which, first, v->dim), v->weight.at[which], EPS, n, v->dim, at(&v->y, which, first, v->dim));
}

static float *relative_bounds(struct check *c, const struct twin *y, float bound)
{
    float *expected = twin_read(c, y, REFERENCE);
    for (size_t i = 0; i < y->n_bytes / sizeof *expected; i++)
        expected[i] = fabsf(expected[i]) < INFINITY ? fabsf(expected[i]) * bound + 0x1p-147f : 0.0f;
    return expected;
}

static void check_norm_of(struct check *c, size_t dim, size_t n, enum fill fill)
{
    char what[80];
    struct values v = {.dim = dim};
    float *x = check_floats(c, n * dim, fill), *weight = check_floats(c, dim, FILL_PLAIN);
    v.x = twin_open(c, x, n * dim * sizeof *x);
    v.weight = twin_open(c, weight, dim * sizeof *weight);
    v.y = twin_open(c, NULL, n * dim * sizeof *x);
    snprintf(what, sizeof what, "norm of %zu %s", dim, check_fill_names[fill]);
    run_norm(c->be[REFERENCE], REFERENCE, &v, 0, n);
    float *bounds = relative_bounds(c, &v.y, NORM_BOUND);
    check_rows(c, what, &(struct row_check){run_norm, &v, n, {{"y", &v.y, {NULL}, dim * sizeof *x, true, bounds}}});
    twin_close(c, what, &v.x);
    twin_close(c, what, &v.weight);
    twin_close(c, what, &v.y);
    free(x), free(weight), free(bounds);
}

void check_norm(struct check *c)
{
    for (size_t d = 0; d < N_DIMS; d++)
        check_norm_of(c, dims[d], 7, FILL_PLAIN);
    for (enum fill fill = 0; fill < N_FILLS; fill++)
        check_norm_of(c, 640, 70, fill);
}

static void run_quantize(struct backend *be, int which, const void *arg, size_t first, size_t n)
{
    const struct values *v = arg;
    struct activations part = check_part(&v->a[which], first, n);
    op_quantize(be, at(&v->x, which, first, v->dim), n, v->dim, &part);
}

/* Activations of the memory of twins q, scale and sum. */
static void open_activations(struct check *c, size_t n, size_t dim, struct activations a[2], struct twin parts[3])
{
    size_t stride = (dim + 383) / 384 * 384;
    parts[0] = twin_open(c, NULL, n * stride);
    parts[1] = twin_open(c, NULL, n * sizeof(float));
    parts[2] = twin_open(c, NULL, n * sizeof(int32_t));
    for (int which = REFERENCE; which <= DEVICE; which++)
        a[which] = (struct activations){parts[0].at[which], parts[1].at[which], parts[2].at[which], n, dim, stride};
}

static void close_twins(struct check *c, const char *what, struct twin *twins, size_t n)
{
    for (size_t i = 0; i < n; i++)
        twin_close(c, what, &twins[i]);
}

static void check_quantize_of(struct check *c, size_t dim, size_t n, enum fill fill)
{
    char what[80];
    struct twin parts[3];
    struct values v = {.dim = dim};
    float *x = check_floats(c, n * dim, fill);
    v.x = twin_open(c, x, n * dim * sizeof *x);
    open_activations(c, n, dim, v.a, parts);
    snprintf(what, sizeof what, "quantisation of %zu %s", dim, check_fill_names[fill]);
    check_rows(c, what,
               &(struct row_check){run_quantize,
                                   &v,
                                   n,
                                   {{"q", &parts[0], {NULL}, v.a[0].stride, false, NULL},
                                    {"scales", &parts[1], {NULL}, sizeof(float), true, NULL},
                                    {"sums", &parts[2], {NULL}, sizeof(int32_t), false, NULL}}});
    twin_close(c, what, &v.x);
    close_twins(c, what, parts, 3);
    free(x);
}

void check_quantize(struct check *c)
{
    for (size_t d = 0; d < N_DIMS; d++)
        check_quantize_of(c, dims[d], 7, FILL_PLAIN);
    for (enum fill fill = 0; fill < N_FILLS; fill++)
        check_quantize_of(c, 640, 70, fill);
}

/* ---- operations that stand for others: on the device both ways, REFERENCE being one after the other */

static void run_norm_quantize(struct backend *be, int which, const void *arg, size_t first, size_t n)
{
    const struct values *v = arg;
    struct activations part = check_part(&v->a[which], first, n);
    float *x = at(&v->x, which, first, v->dim), *y = at(&v->y, which, first, v->dim), *weight = v->weight.at[which];
    if (v->joint) {
        op_norm_quantize(be, x, weight, EPS, n, v->dim, y, &part);
        return;
    }
    if (weight)
        op_rmsnorm(be, x, weight, EPS, n, v->dim, y);
    op_quantize(be, weight ? y : x, n, v->dim, &part);
}

static void run_ffn_quantize(struct backend *be, int which, const void *arg, size_t first, size_t n)
{
    const struct values *v = arg;
    struct activations part = check_part(&v->a[which], first, n);
    float *gate = at(&v->x, which, first, v->dim), *up = gate + v->x.n_bytes / sizeof(float) / 2, *weight = v->weight.at[which];
    float *y = v->y.at[which] ? at(&v->y, which, first, v->dim) : gate;
    if (!v->y.at[which])
        backend_upload(be, gate, v->host[0] + first * v->dim, n * v->dim * sizeof *gate);
    if (v->joint) {
        op_ffn_quantize(be, v->act, gate, up, weight, EPS, n, v->dim, y, &part);
        return;
    }
    op_ffn_act(be, v->act, gate, up, n * v->dim, y);
    if (weight)
        op_rmsnorm(be, y, weight, EPS, n, v->dim, y);
    op_quantize(be, y, n, v->dim, &part);
}

/* As a pass has it: y is what was added. */
static void run_add_norm_quantize(struct backend *be, int which, const void *arg, size_t first, size_t n)
{
    const struct values *v = arg;
    struct activations part = check_part(&v->a[which], first, n);
    float *x = at(&v->x, which, first, v->dim), *y = at(&v->y, which, first, v->dim), *weight = v->weight.at[which];
    backend_upload(be, x, v->host[0] + first * v->dim, n * v->dim * sizeof *x);
    backend_upload(be, y, v->host[1] + first * v->dim, n * v->dim * sizeof *y);
    if (v->joint) {
        op_add_norm_quantize(be, x, y, weight, EPS, n, v->dim, y, &part);
        return;
    }
    op_add(be, x, y, n * v->dim);
    if (weight)
        op_rmsnorm(be, x, weight, EPS, n, v->dim, y);
    op_quantize(be, weight ? y : x, n, v->dim, &part);
}

/* The device's joint operation gives what its separate ones do, whatever the part. */
static void check_joint(struct check *c, const char *what, struct values *v, const struct twin *y, struct twin parts[3], size_t n,
                        void (*run)(struct backend *be, int which, const void *arg, size_t first, size_t n))
{
    static const size_t sizes[] = {1, 2, 9, 17, 40};
    const struct twin *read[] = {y, &parts[0], &parts[1], &parts[2]};
    char name[160];
    v->joint = false;
    run(c->be[DEVICE], DEVICE, v, 0, n);
    void *expected[4];
    for (size_t i = 0; i < 4; i++)
        expected[i] = twin_read(c, read[i], DEVICE);
    v->joint = true;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        for (size_t first = 0, m; first < n; first += m) {
            m = sizes[s] < n - first ? sizes[s] : n - first;
            run(c->be[DEVICE], DEVICE, v, first, m);
        }
        snprintf(name, sizeof name, "%s, %zu rows at once", what, sizes[s]);
        for (size_t i = 0; i < 4; i++) {
            void *found = twin_read(c, read[i], DEVICE);
            if (i == 1 || i == 3)
                check_same(c, name, expected[i], found, read[i]->n_bytes);
            else
                check_near(c, name, expected[i], found, NULL, read[i]->n_bytes / sizeof(float));
            free(found);
        }
    }
    for (size_t i = 0; i < 4; i++)
        free(expected[i]);
}

static void check_fused_of(struct check *c, size_t dim, size_t n, enum fill fill, int way)
{
    bool with_weight = way & 1, ffn = way & 2, in_place = way & 4;
    char what[120];
    struct twin parts[3];
    struct values v = {.dim = dim, .act = way & 8 ? FFN_SILU : FFN_RELU2};
    float *x = check_floats(c, 2 * n * dim, fill), *weight = check_floats(c, dim, FILL_PLAIN);
    v.host[0] = x;
    v.x = twin_open(c, x, 2 * n * dim * sizeof *x);
    struct twin w = twin_open(c, weight, dim * sizeof *weight), y = twin_open(c, x, 2 * n * dim * sizeof *x);
    if (with_weight)
        v.weight = w;
    if (!ffn || !in_place)
        v.y = y;
    open_activations(c, n, dim, v.a, parts);
    snprintf(what, sizeof what, "%s and quantisation of %zu %s%s%s", !ffn ? "norm" : v.act == FFN_SILU ? "silu" : "squared relu", dim,
             check_fill_names[fill], with_weight ? "" : " without norm", in_place ? " in place" : "");
    check_joint(c, what, &v, ffn && in_place ? &v.x : &y, parts, n, ffn ? run_ffn_quantize : run_norm_quantize);
    twin_close(c, what, &v.x);
    twin_close(c, what, &w);
    twin_close(c, what, &y);
    close_twins(c, what, parts, 3);
    free(x), free(weight);
}

static void check_added_of(struct check *c, size_t dim, size_t n, enum fill fill, bool with_weight)
{
    char what[120];
    struct twin parts[3];
    struct values v = {.dim = dim};
    float *x = check_floats(c, 2 * n * dim, fill), *weight = check_floats(c, dim, FILL_PLAIN);
    v.host[0] = x;
    v.host[1] = x + n * dim;
    v.x = twin_open(c, x, n * dim * sizeof *x);
    v.y = twin_open(c, x, n * dim * sizeof *x);
    struct twin w = twin_open(c, weight, dim * sizeof *weight);
    if (with_weight)
        v.weight = w;
    open_activations(c, n, dim, v.a, parts);
    snprintf(what, sizeof what, "addition, norm and quantisation of %zu %s%s", dim, check_fill_names[fill], with_weight ? "" : " without norm");
    check_joint(c, what, &v, &v.y, parts, n, run_add_norm_quantize);
    check_joint(c, what, &v, &v.x, parts, n, run_add_norm_quantize);
    twin_close(c, what, &v.x);
    twin_close(c, what, &v.y);
    twin_close(c, what, &w);
    close_twins(c, what, parts, 3);
    free(x), free(weight);
}

void check_fused(struct check *c)
{
    for (size_t d = 0; d < N_DIMS; d++)
        check_added_of(c, dims[d], 5, FILL_PLAIN, d != 2);
    for (enum fill fill = 0; fill < N_FILLS; fill++)
        check_added_of(c, 256, 41, fill, true);
    for (int way = 0; way < 16; way++) {
        if (way & 2 || !(way & 12)) {
            for (size_t d = 0; d < N_DIMS; d++)
                check_fused_of(c, dims[d], 5, FILL_PLAIN, way);
            for (enum fill fill = 0; fill < N_FILLS; fill++)
                check_fused_of(c, 256, 41, fill, way);
        }
    }
}

/* ---- values one by one */

static void run_add(struct backend *be, int which, const void *arg, size_t first, size_t n)
{
    const struct values *v = arg;
    float *x = at(&v->y, which, first, v->dim);
    backend_upload(be, x, v->host[0] + first * v->dim, n * v->dim * sizeof *x);
    op_add(be, x, at(&v->x, which, first, v->dim), n * v->dim);
}

static void run_act(struct backend *be, int which, const void *arg, size_t first, size_t n)
{
    const struct values *v = arg;
    float *gate = at(&v->y, which, first, v->dim); /* in place */
    backend_upload(be, gate, v->host[0] + first * v->dim, n * v->dim * sizeof *gate);
    op_ffn_act(be, v->act, gate, at(&v->x, which, first, v->dim), n * v->dim, gate);
}

static void check_values_of(struct check *c, size_t dim, size_t n, enum fill fill)
{
    char what[80];
    struct values v = {.dim = dim};
    float *x = check_floats(c, n * dim, fill), *y = check_floats(c, n * dim, fill), *bounds;
    v.host[0] = x;
    v.x = twin_open(c, y, n * dim * sizeof *y);
    v.y = twin_open(c, x, n * dim * sizeof *y);
    struct row_check rows = {run_add, &v, n, {{"y", &v.y, {NULL}, dim * sizeof *y, true, NULL}}};
    snprintf(what, sizeof what, "addition of %s", check_fill_names[fill]);
    check_rows(c, what, &rows);
    rows.run = run_act;
    v.act = FFN_RELU2;
    snprintf(what, sizeof what, "squared relu of %s", check_fill_names[fill]);
    check_rows(c, what, &rows);
    v.act = FFN_SILU;
    snprintf(what, sizeof what, "silu of %s", check_fill_names[fill]);
    run_act(c->be[REFERENCE], REFERENCE, &v, 0, n);
    rows.outputs[0].bounds = bounds = relative_bounds(c, &v.y, SILU_BOUND);
    check_rows(c, what, &rows);
    twin_close(c, what, &v.x);
    twin_close(c, what, &v.y);
    free(x), free(y), free(bounds);
}

void check_values(struct check *c)
{
    for (enum fill fill = 0; fill < N_FILLS; fill++) {
        check_values_of(c, 1031, 3, fill);
        check_values_of(c, 256, 70, fill);
    }
}

/* ---- rope */

static void run_rope(struct backend *be, int which, const void *arg, size_t first, size_t n)
{
    const struct values *v = arg;
    float *x = at(&v->y, which, first, v->dim);
    backend_upload(be, x, v->host[0] + first * v->dim, n * v->dim * sizeof *x);
    op_rope(be, v->rope[which], x, n, v->n_heads, v->dim / v->n_heads, v->positions + first);
}

static void check_rope_of(struct check *c, enum rope_style style, size_t n_heads, size_t head_dim, size_t n_dims, enum fill fill)
{
    enum { N = 37, POSITIONS = 300 };
    char what[80];
    int32_t positions[N];
    struct values v = {.dim = n_heads * head_dim, .n_heads = n_heads, .positions = positions};
    float *x = check_floats(c, N * v.dim, fill), factors[KERNELS_MAX_HEAD_DIM / 2];
    struct rope *ropes[2];
    for (int i = 0; i < N; i++)
        positions[i] = (int32_t)(check_random(c) % POSITIONS);
    for (size_t i = 0; i < n_dims / 2; i++)
        factors[i] = 1.0f + (float)i;
    v.host[0] = x;
    v.y = twin_open(c, x, N * v.dim * sizeof *x);
    for (int which = REFERENCE; which <= DEVICE; which++)
        v.rope[which] = ropes[which] = rope_open(c->be[which], style, n_dims, POSITIONS, 500000.0, n_heads % 2 ? factors : NULL);
    snprintf(what, sizeof what, "rope %s of %zu of %zu, %s", style == ROPE_NEOX ? "neox" : "norm", n_dims, head_dim, check_fill_names[fill]);
    check_rows(c, what, &(struct row_check){run_rope, &v, N, {{"x", &v.y, {NULL}, v.dim * sizeof *x, true, NULL}}});
    for (int which = REFERENCE; which <= DEVICE; which++)
        rope_close(c->be[which], ropes[which]);
    twin_close(c, what, &v.y);
    free(x);
}

void check_rope(struct check *c)
{
    for (enum rope_style style = ROPE_NEOX; style <= ROPE_NORM; style++) {
        check_rope_of(c, style, 5, 128, 128, FILL_PLAIN);
        check_rope_of(c, style, 2, 64, 64, FILL_WILD);
        check_rope_of(c, style, 3, 80, 20, FILL_SPECIAL);
        check_rope_of(c, style, 1, 7, 6, FILL_DENORMAL);
        check_rope_of(c, style, 2, 256, 256, FILL_PLAIN);
    }
}

/* ---- kept rows */

void check_keep_rows(struct check *c)
{
    static const int32_t some[] = {1, 2, 5, 6, 30, 69}, first[] = {0}, last[] = {69}, all[] = {0, 1, 2, 3, 4, 5},
                         spread[] = {0, 9, 10, 40, 41, 42, 43};
    static const struct {
        const int32_t *rows;
        size_t n;
    } kept[] = {{some, 6}, {first, 1}, {last, 1}, {all, 6}, {spread, 7}};
    for (size_t d = 0; d < N_DIMS; d++) {
        float *x = check_floats(c, 70 * dims[d], FILL_PLAIN);
        for (size_t k = 0; k < sizeof kept / sizeof kept[0]; k++) {
            struct twin t = twin_open(c, x, 70 * dims[d] * sizeof *x);
            bool can = op_keep_rows(c->be[DEVICE], t.at[DEVICE], dims[d], kept[k].rows, kept[k].n);
            op_keep_rows(c->be[REFERENCE], t.at[REFERENCE], dims[d], kept[k].rows, kept[k].n);
            void *expected = twin_read(c, &t, can ? REFERENCE : DEVICE), *found = twin_read(c, &t, DEVICE);
            check_same(c, "kept rows", can ? expected : (const void *)x, found, (can ? kept[k].n : 70) * dims[d] * sizeof *x);
            twin_close(c, "kept rows", &t);
            free(expected), free(found);
        }
        free(x);
    }
}
