/* Cases of embedding and LM head. */
#include "kernels/cuda/check.h"

#include <stdio.h>
#include <stdlib.h>

static const enum tensor_type types[] = {TENSOR_F32, TENSOR_F16, TENSOR_BF16, TENSOR_Q8_0, TENSOR_Q6_K, TENSOR_Q4_0};
#define N_TYPES (sizeof types / sizeof types[0])
#define TOGETHER 131 /* rows: more than a device may take at once */

struct table {
    size_t n_rows, n_cols;
    uint8_t *data;            /* as in a file */
    struct dense *w[2];
    /* operations */
    const float *x;
    size_t n;
    struct twin x_rows, y;
    int32_t *rows;            /* of x, or ids */
    bool round_f16;
    float *logits[2];         /* [n][n_rows] */
};

/* Weights of `fill` times size; of row `nan_row` the first is NaN. */
static void table_open(struct check *c, struct table *t, enum tensor_type type, size_t n_rows, size_t n_cols, enum fill fill, float size,
                       size_t nan_row)
{
    struct error err = {0};
    size_t n_bytes = tensor_bytes(type, n_rows, n_cols), row_bytes = n_bytes / n_rows;
    float *values = check_floats(c, n_rows * n_cols, fill);
    *t = (struct table){.n_rows = n_rows, .n_cols = n_cols, .data = malloc(n_bytes)};
    if (!t->data)
        abort();
    for (size_t i = 0; i < n_rows * n_cols; i++)
        values[i] = i == nan_row * n_cols ? NAN : values[i] * size;
    for (size_t r = 0; r < n_rows; r++)
        tensor_write_row(type, values + r * n_cols, n_cols, t->data + r * row_bytes);
    struct tensor_view view = {.type = type, .data = t->data, .n_bytes = n_bytes, .n_rows = n_rows, .n_cols = n_cols};
    for (int which = REFERENCE; which <= DEVICE; which++)
        if (dense_open(c->be[which], &view, &t->w[which], &err))
            check_fail(c, "opening of %zu x %zu: %s", n_rows, n_cols, err.message);
    free(values);
}

static void table_close(struct check *c, struct table *t)
{
    for (int which = REFERENCE; which <= DEVICE; which++)
        dense_close(c->be[which], t->w[which]);
    free(t->data);
}

/* ---- embedding */

static void run_embed(struct backend *be, int which, const void *arg, size_t first, size_t n)
{
    const struct table *t = arg;
    op_embed(be, t->w[which], t->rows + first, n, (float *)t->y.at[which] + first * t->n_cols);
}

static void check_embed_of(struct check *c, enum tensor_type type, size_t n_rows, size_t n_cols, enum fill fill)
{
    enum { N = 40 };
    char what[80];
    struct table t;
    int32_t ids[N];
    table_open(c, &t, type, n_rows, n_cols, fill, 1.0f, n_rows);
    for (size_t i = 0; i < N; i++)
        ids[i] = i == 1 ? (int32_t)n_rows - 1 : (int32_t)(check_random(c) % n_rows);
    t.rows = ids;
    t.y = twin_open(c, NULL, N * n_cols * sizeof(float));
    snprintf(what, sizeof what, "embedding of %s, %s", tensor_type_name(type), check_fill_names[fill]);
    if (!c->failure[0])
        check_rows(c, what, &(struct row_check){run_embed, &t, N, {{"y", &t.y, {NULL}, n_cols * sizeof(float), true, NULL}}});
    twin_close(c, what, &t.y);
    table_close(c, &t);
}

void check_embed(struct check *c)
{
    for (size_t i = 0; i < N_TYPES; i++) {
        check_embed_of(c, types[i], 77, 512, FILL_PLAIN);
        check_embed_of(c, types[i], 3, 2560, FILL_OUTLIERS);
        if (tensor_bytes(types[i], 1, 1)) {
            check_embed_of(c, types[i], 5, 101, FILL_DENORMAL);
            check_embed_of(c, types[i], 5, 64, FILL_SPECIAL);
        }
    }
}

/* ---- logits */

static void run_logits(struct backend *be, int which, const void *arg, size_t first, size_t n)
{
    const struct table *t = arg;
    op_logits(be, t->w[which], t->x_rows.at[which], t->rows + first, n, t->round_f16, t->logits[which] + first * t->n_rows);
}

/* By the sum of |weight * x|; infinite where that may overflow. */
static float *logit_bounds(const struct table *t, enum tensor_type type)
{
    struct tensor_view view = {.type = type, .data = t->data, .n_rows = t->n_rows, .n_cols = t->n_cols};
    float *bounds = malloc(t->n * t->n_rows * sizeof *bounds), *row = malloc(t->n_cols * sizeof *row);
    if (!bounds || !row)
        abort();
    for (size_t r = 0; r < t->n_rows; r++) {
        tensor_read_row(&view, r, row);
        for (size_t j = 0; j < t->n; j++) {
            const float *x = t->x + (size_t)t->rows[j] * t->n_cols;
            double sum = 0;
            for (size_t i = 0; i < t->n_cols; i++) {
                double product = fabs((double)row[i] * (double)x[i]);
                sum += product < (double)INFINITY ? product : 0;
            }
            bounds[j * t->n_rows + r] = sum < 1e38 ? (float)(sum * (double)LOGITS_BOUND) + 0x1p-147f * (float)t->n_cols : INFINITY;
        }
    }
    free(row);
    return bounds;
}

static void check_logits_of(struct check *c, enum tensor_type type, size_t n_rows, size_t n_cols, size_t n, enum fill weights, float size,
                            enum fill fill)
{
    char what[100];
    struct table t;
    table_open(c, &t, type, n_rows, n_cols, weights, size, n_rows);
    float *x = check_floats(c, (n + 2) * n_cols, fill);
    t.x = x;
    t.n = n;
    t.rows = malloc(n * sizeof *t.rows);
    t.x_rows = twin_open(c, x, (n + 2) * n_cols * sizeof *x);
    t.logits[REFERENCE] = malloc(n * n_rows * sizeof(float));
    t.logits[DEVICE] = malloc(n * n_rows * sizeof(float));
    for (size_t j = 0; j < n; j++)
        t.rows[j] = (int32_t)(j % 3 ? check_random(c) % (n + 2) : n + 1 - j);
    float *bounds = logit_bounds(&t, type);
    for (int rounded = 0; rounded < (n < 10 ? 2 : 1) && !c->failure[0]; rounded++) {
        t.round_f16 = rounded;
        snprintf(what, sizeof what, "logits of %zu x %zu %s, %s%s", n_rows, n_cols, tensor_type_name(type), check_fill_names[fill],
                 rounded ? ", rounded" : "");
        struct output logits = {"logits", NULL, {t.logits[REFERENCE], t.logits[DEVICE]}, n_rows * sizeof(float), true, bounds};
        check_rows(c, what, &(struct row_check){run_logits, &t, n, {logits}});
    }
    twin_close(c, what, &t.x_rows);
    table_close(c, &t);
    free(x), free(bounds), free(t.rows), free(t.logits[REFERENCE]), free(t.logits[DEVICE]);
}

void check_logits(struct check *c)
{
    for (size_t i = 0; i < N_TYPES; i++) {
        check_logits_of(c, types[i], 77, 512, 9, FILL_PLAIN, 0.1f, FILL_PLAIN);
        check_logits_of(c, types[i], 9, 2560, 3, FILL_OUTLIERS, 0.1f, FILL_OUTLIERS);
        check_logits_of(c, types[i], 40, 256, 70, FILL_PLAIN, 0.1f, FILL_PLAIN);
        check_logits_of(c, types[i], 9, 256, TOGETHER, FILL_PLAIN, 0.1f, FILL_PLAIN);
        if (tensor_bytes(types[i], 1, 1)) {
            check_logits_of(c, types[i], 5, 100, 9, FILL_PLAIN, 0.1f, FILL_PLAIN);
            check_logits_of(c, types[i], 33, 7, 9, FILL_PLAIN, 0.1f, FILL_PLAIN);
        }
    }
}

void check_logits_extremes(struct check *c)
{
    for (size_t i = 0; i < N_TYPES; i++)
        for (enum fill fill = FILL_ZERO; fill < N_FILLS; fill++)
            check_logits_of(c, types[i], 20, 256, 9, FILL_PLAIN, 1.0f, fill);
    for (size_t i = 0; i < 3; i++) { /* weights of all sizes: F32, F16, BF16 */
        check_logits_of(c, types[i], 20, 256, 9, FILL_WILD, 1.0f, FILL_PLAIN);
        check_logits_of(c, types[i], 20, 256, 9, FILL_DENORMAL, 1.0f, FILL_OUTLIERS);
        check_logits_of(c, types[i], 20, 256, 9, FILL_SPECIAL, 1.0f, FILL_PLAIN);
        check_logits_of(c, types[i], 20, 256, 9, FILL_PLAIN, 1000.0f, FILL_WILD);
    }
}

/* ---- what is needed of them */

#define MANY_ROWS 6000 /* more than a device may list one by one */
#define FEW_ROWS 1000
#define NEED_X 5
#define MASK_WORDS (MANY_ROWS / 64 + 1)

static bool is_allowed(const struct logits_need *need, size_t r) { return !need->allowed || (need->allowed[r / 64] >> r % 64 & 1); }

static bool is_listed(const struct logits_need *need, size_t r)
{
    for (size_t l = 0; l < LOGITS_MAX_LISTS; l++)
        for (size_t i = 0; i < need->lists[l].n; i++)
            if (need->lists[l].ids[i * need->lists[l].stride] == r)
                return true;
    return false;
}

/* What a row counts for: its logit, or its score in a draw. */
static double quantity(const struct logits_need *need, const float *full, size_t r)
{
    if (!(need->temperature > 0))
        return (double)full[r];
    return (double)full[r] / (double)need->temperature + (double)kernel_gumbel(need->seed, need->choice, need->position, (uint32_t)r);
}

static int descending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* The least quantity of a row that is not listed and must be there. */
static double least_needed(const struct logits_need *need, const float *full, size_t n_rows)
{
    static double sorted[MANY_ROWS];
    size_t n = 0, count = need->top ? need->top : 1;
    for (size_t r = 0; r < n_rows; r++)
        if (is_allowed(need, r) && !is_listed(need, r))
            sorted[n++] = quantity(need, full, r);
    qsort(sorted, n, sizeof *sorted, descending);
    if (count > n || (!need->top && !(need->within > 0) && !(need->temperature > 0)))
        return -(double)INFINITY;
    return sorted[count - 1] - (double)need->within;
}

/* Each logit is that of op_logits or left out; what is needed is not left out. Of NaN all are needed, so that they are seen. */
static void check_found(struct check *c, const char *what, const struct logits_need *need, const float *full, const float *found, size_t n_rows)
{
    bool ordered = true;
    for (size_t r = 0; r < n_rows; r++)
        ordered &= full[r] == full[r];
    double least = ordered ? least_needed(need, full, n_rows) : (double)INFINITY;
    for (size_t r = 0; r < n_rows && !c->failure[0]; r++) {
        bool needed = is_allowed(need, r) && (is_listed(need, r) || !(quantity(need, full, r) < least));
        if (found[r] == -INFINITY ? needed && full[r] != -INFINITY : arith_bits(full[r]) != arith_bits(found[r]) && full[r] == full[r])
            check_fail(c, "%s: row %zu: expected %g, found %g", what, r, (double)full[r], (double)found[r]);
    }
}

/* Makes ids[0], ids[2] and ids[4] the best rows for x of need 0. */
static void find_best(struct check *c, const struct table *t, uint32_t *ids)
{
    float *full = malloc(t->n_rows * sizeof *full);
    if (!full)
        abort();
    op_logits(c->be[REFERENCE], t->w[REFERENCE], t->x_rows.at[REFERENCE], t->rows, 1, false, full);
    for (size_t i = 0; i < 3; i++) {
        size_t best = 0;
        for (size_t r = 1; r < t->n_rows; r++)
            best = full[r] > full[best] ? r : best;
        ids[2 * i] = (uint32_t)best;
        full[best] = -INFINITY;
    }
    free(full);
}

/* n of them together, in turns, and each alone. */
static void check_needs(struct check *c, const struct table *t, const char *what, const struct logits_need needs[NEED_X], size_t n)
{
    struct backend *be = c->be[DEVICE];
    size_t n_rows = t->n_rows;
    struct logits_need turns[TOGETHER];
    int32_t rows[TOGETHER] = {0};
    float *full = malloc(n * n_rows * sizeof *full), *found = malloc(n * n_rows * sizeof *found);
    char name[160];
    if (!full || !found)
        abort();
    for (size_t j = 0; j < n; j++) {
        turns[j] = needs[j % NEED_X];
        rows[j] = t->rows[j / 2 % NEED_X];
    }
    op_logits(be, t->w[DEVICE], t->x_rows.at[DEVICE], rows, n, false, full);
    op_logits_needed(be, t->w[DEVICE], t->x_rows.at[DEVICE], rows, n, turns, found);
    for (size_t j = 0; j < n; j++) {
        snprintf(name, sizeof name, "%s, need %zu together", what, j % NEED_X);
        check_found(c, name, &turns[j], full + j * n_rows, found + j * n_rows, n_rows);
    }
    for (size_t j = 0; j < NEED_X; j++) {
        op_logits_needed(be, t->w[DEVICE], t->x_rows.at[DEVICE], rows + j, 1, needs + j, found);
        snprintf(name, sizeof name, "%s, need %zu alone", what, j);
        check_found(c, name, &needs[j], full + j * n_rows, found, n_rows);
    }
    free(full), free(found);
}

static void allow(struct check *c, uint64_t mask[MASK_WORDS], size_t n_rows, uint32_t of_100, struct logits_need *need)
{
    memset(mask, 0, MASK_WORDS * sizeof *mask);
    for (size_t r = 0; r < n_rows; r++)
        if (check_random(c) % 100 < of_100) {
            mask[r / 64] |= (uint64_t)1 << r % 64;
            need->n_allowed++;
        }
    need->allowed = mask;
}

static void check_needs_of(struct check *c, enum tensor_type type, size_t n_rows, size_t nan_row, enum fill fill, size_t n)
{
    uint32_t ids[] = {17, 3, FEW_ROWS / 4, 3, 64, 200}; /* three will be the best rows of need 0 */
    static uint64_t masks[3][MASK_WORDS];
    char what[80];
    struct table t;
    int32_t rows[NEED_X] = {2, 0, 1, 4, 3};
    table_open(c, &t, type, n_rows, 32, FILL_PLAIN, 0.2f, nan_row);
    float *x = check_floats(c, NEED_X * t.n_cols, fill);
    t.rows = rows;
    t.x_rows = twin_open(c, x, NEED_X * t.n_cols * sizeof *x);
    snprintf(what, sizeof what, "needed logits of %s, %s", tensor_type_name(type), check_fill_names[fill]);
    find_best(c, &t, ids);
    struct logits_need tops[NEED_X] = {{.top = 2, .lists = {{ids, 5, 1}}},
                                       {.top = 21, .lists = {{ids, 3, 2}, {0}, {ids + 1, 5, 1}}},
                                       {.top = 64},
                                       {.top = 0},
                                       {.top = n_rows + 2}};
    check_needs(c, &t, what, tops, n);
    struct logits_need draws[NEED_X] = {{.within = 0.3f, .lists = {{ids, 6, 1}}},
                                        {.within = 1000.0f},
                                        {.temperature = 0.5f, .seed = 7, .choice = 1, .position = 9},
                                        {.temperature = 10.0f, .seed = UINT64_MAX, .position = 1u << 20, .lists = {{ids, 2, 1}}},
                                        {.temperature = 0.01f, .seed = 1}};
    check_needs(c, &t, what, draws, n);
    struct logits_need some[NEED_X] = {
        {.top = 5, .lists = {{ids, 6, 1}}}, {.temperature = 1.0f, .seed = 3}, {.within = 1.0f}, {.top = 0}, {.top = 50}};
    for (size_t j = 0; j < 3; j++)
        allow(c, masks[j], n_rows, j == 0 ? 98 : j == 1 ? 2 : 50, &some[j]);
    some[3].allowed = masks[1], some[3].n_allowed = some[1].n_allowed; /* all of the few */
    some[4].allowed = masks[1], some[4].n_allowed = some[1].n_allowed;
    check_needs(c, &t, what, some, n);
    twin_close(c, what, &t.x_rows);
    table_close(c, &t);
    free(x);
}

void check_logits_needed(struct check *c)
{
    check_needs_of(c, TENSOR_F16, MANY_ROWS, MANY_ROWS, FILL_PLAIN, 5);
    check_needs_of(c, TENSOR_F16, MANY_ROWS, 3333, FILL_PLAIN, 5);
    check_needs_of(c, TENSOR_F16, FEW_ROWS, FEW_ROWS, FILL_ZERO, 5); /* all tie */
    check_needs_of(c, TENSOR_F16, FEW_ROWS, FEW_ROWS, FILL_OUTLIERS, 5);
    check_needs_of(c, TENSOR_F16, FEW_ROWS, FEW_ROWS, FILL_SPECIAL, 5);
    check_needs_of(c, TENSOR_BF16, FEW_ROWS, FEW_ROWS, FILL_PLAIN, 9);
    check_needs_of(c, TENSOR_Q8_0, FEW_ROWS / 4 + 7, FEW_ROWS, FILL_PLAIN, TOGETHER);
}
