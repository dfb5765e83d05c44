#include "engine/model/check.h"

#include "engine/model/gguf_text.h"
#include "engine/model/tensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LARGEST 1e6f       /* of a weight that is not ternary */
#define SCALE_RATIO 32.0   /* of a scale and the median of its kind */
#define LEAST_SHARE 0.01   /* of weights that are not 0, and of those that are not the same sign */
#define FIT_TRAINED 0.5    /* median fit of the layers from which on each must have half of it */

struct check {
    const struct gguf *g;
    const struct model_shape *s;
    enum i2s_order order;
    struct weights_summary *out;
    struct error *err;
    uint8_t *codes; /* [longest row] */
    float *values;  /* likewise */
    double *scales; /* [n_layers][n_layer_tensors] */
};

#define refuse(c, name, ...) error_set_param((c)->err, ERROR_MODEL_LOAD_FAILED, (name), __VA_ARGS__)

static enum error_code check_values(struct check *c, const struct gguf_tensor *t)
{
    struct tensor_view v = tensor_view_of(c->g, t, c->order);
    char name[GGUF_TEXT_BYTES];
    bool any = false;
    gguf_text(t->name, name);
    for (size_t r = 0; r < v.n_rows; r++) {
        tensor_read_row(&v, r, c->values);
        for (size_t i = 0; i < v.n_cols; i++) {
            if (!(fabsf(c->values[i]) < LARGEST))
                return refuse(c, name, "tensor %s: expected finite weights below %g, found %g at row %zu, column %zu", name,
                              (double)LARGEST, (double)c->values[i], r, i);
            any |= c->values[i] != 0.0f;
        }
    }
    c->out->n_weights += v.n_rows * v.n_cols;
    return any ? ERROR_NONE : refuse(c, name, "tensor %s: all of its weights are 0", name);
}

/* Codes and scale, and that a trained matrix could have such shares of -1, 0 and 1. */
static enum error_code check_ternary(struct check *c, size_t layer, size_t kind)
{
    char name[TENSOR_NAME_BYTES];
    const struct gguf_tensor *t = gguf_find_tensor(c->g, layer_tensor_name(layer, &layer_tensors[kind], name));
    struct tensor_view v = tensor_view_of(c->g, t, c->order);
    size_t n[4] = {0};
    float scale;
    enum error_code code = layer_scale(c->g, layer, &layer_tensors[kind], &v.factor, c->err);
    if (!code && (code = tensor_check_ternary(&v, &scale, c->err)))
        error_prefix(c->err, "tensor %s", name);
    if (code)
        return code;
    for (size_t r = 0; r < v.n_rows; r++) {
        size_t row[4] = {0};
        tensor_unpack_codes(&v, r, c->codes);
        for (size_t i = 0; i < v.n_cols; i++)
            row[c->codes[i] & 3]++;
        if (row[0] == v.n_cols || row[2] == v.n_cols) /* such are the zeros of a file that did not arrive whole */
            return refuse(c, name, "tensor %s: all weights of row %zu are %s1", name, r, row[0] ? "-" : "+");
        for (size_t i = 0; i < 3; i++)
            n[i] += row[i];
    }
    double all = (double)(v.n_rows * v.n_cols), least = (double)(n[0] < n[2] ? n[0] : n[2]) / all;
    if (least < LEAST_SHARE || (double)n[1] / all < LEAST_SHARE)
        return refuse(c, name, "tensor %s: expected some of each of -1, 0 and +1, found %.2f %%, %.2f %% and %.2f %%", name,
                      100 * (double)n[0] / all, 100 * (double)n[1] / all, 100 * (double)n[2] / all);
    c->out->n_weights += v.n_rows * v.n_cols;
    c->scales[layer * n_layer_tensors + kind] = (double)scale;
    return ERROR_NONE;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median of n values `stride` apart; NAN when memory is out. */
static double median(const double *values, size_t n, size_t stride)
{
    double *sorted = malloc(n * sizeof *sorted), result = (double)NAN;
    for (size_t i = 0; sorted && i < n; i++)
        sorted[i] = values[i * stride];
    if (sorted) {
        qsort(sorted, n, sizeof *sorted, ascending);
        result = sorted[n / 2];
    }
    free(sorted);
    return result;
}

/* A scale is the mean size of the weights that were rounded: of one kind of matrix they are of the same size in all layers. */
static enum error_code compare_scales(struct check *c)
{
    c->out->scale_min = (double)INFINITY;
    c->out->scale_max = 0;
    for (size_t kind = 0; kind < n_layer_tensors; kind++) {
        if (layer_tensors[kind].role != ROLE_TERNARY)
            continue;
        double middle = median(c->scales + kind, c->s->n_layers, n_layer_tensors);
        for (size_t layer = 0; layer < c->s->n_layers; layer++) {
            double scale = c->scales[layer * n_layer_tensors + kind];
            char name[TENSOR_NAME_BYTES];
            if (scale > middle * SCALE_RATIO || scale < middle / SCALE_RATIO) {
                layer_tensor_name(layer, &layer_tensors[kind], name);
                return refuse(c, name, "tensor %s: its scale %g is far from %g, the median of the %s tensors", name, scale,
                              middle, layer_tensors[kind].name);
            }
            c->out->scale_min = scale < c->out->scale_min ? scale : c->out->scale_min;
            c->out->scale_max = scale > c->out->scale_max ? scale : c->out->scale_max;
        }
    }
    return ERROR_NONE;
}

static enum error_code compare_ffn(struct check *c)
{
    double *fit = malloc(c->s->n_layers * sizeof *fit);
    if (!fit)
        return error_set(c->err, ERROR_MEMORY_EXHAUSTED, "no memory for %u layers", c->s->n_layers);
    for (size_t layer = 0; layer < c->s->n_layers; layer++)
        fit[layer] = model_ffn_fit(c->g, c->s, layer, c->order);
    enum error_code code = ERROR_NONE;
    c->out->ffn_fit = median(fit, c->s->n_layers, 1);
    for (size_t layer = 0; !code && layer < c->s->n_layers; layer++)
        if (c->out->ffn_fit > FIT_TRAINED && fit[layer] < c->out->ffn_fit / 2) {
            char name[TENSOR_NAME_BYTES];
            snprintf(name, sizeof name, "blk.%zu.ffn_down.weight", layer);
            code = refuse(c, name,
                          "tensor %s: its columns do not belong to the rows of ffn_gate and ffn_up: their densities "
                          "correlate by %.2f, in other layers by %.2f; tensors of different layers or models, or packed in "
                          "another order",
                          name, fit[layer], c->out->ffn_fit);
        }
    free(fit);
    return code;
}

static enum error_code check_tensors(struct check *c)
{
    enum error_code code = ERROR_NONE;
    for (size_t i = 0; !code && i < gguf_n_tensors(c->g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(c->g, i);
        if (tensor_type_is_dense(t->type))
            code = check_values(c, t);
    }
    for (size_t layer = 0; !code && layer < c->s->n_layers; layer++)
        for (size_t kind = 0; !code && kind < n_layer_tensors; kind++)
            if (layer_tensors[kind].role == ROLE_TERNARY)
                code = check_ternary(c, layer, kind);
    if (!code)
        code = compare_scales(c);
    return code ? code : compare_ffn(c);
}

enum error_code model_check_weights(const struct gguf *g, const struct model_shape *s, enum i2s_order order,
                                    struct weights_summary *out, struct error *err)
{
    size_t longest = 1;
    for (size_t i = 0; i < gguf_n_tensors(g); i++)
        longest = gguf_tensor_at(g, i)->dims[0] > longest ? (size_t)gguf_tensor_at(g, i)->dims[0] : longest;
    struct check c = {.g = g, .s = s, .order = order, .out = out, .err = err};
    *out = (struct weights_summary){0};
    c.codes = malloc(longest);
    c.values = malloc(longest * sizeof *c.values);
    c.scales = calloc(s->n_layers, n_layer_tensors * sizeof *c.scales);
    enum error_code code =
        c.codes && c.values && c.scales
            ? check_tensors(&c)
            : error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory to check rows of %zu weights", longest);
    free(c.codes);
    free(c.values);
    free(c.scales);
    return code;
}
