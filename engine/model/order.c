/*
 * Which packing of I2_S the weights fit. A wrong one permutes the columns of every matrix within blocks of 128, the same way in all rows: no
 * code is impossible, and the model speaks fluent nonsense. But rows stay in place, so what is known of a row of gate and up must be seen in
 * the same column of down: the share of weights that are not 0. bitnet.cpp writes the same type number for both packings.
 */
#include "engine/model/tensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_NEURONS 1024u  /* of a layer that are looked at; a multiple of every block */
#define MAX_ROWS 1024u     /* of down that are counted */
#define N_LAYERS 3u        /* looked at: the first, the middle, the last */
#define FITS 0.3           /* correlation of an order that is believed */
#define BETTER 0.2         /* by which it is above the other one */

static const struct gguf_tensor *layer_find(const struct gguf *g, size_t layer, const char *name)
{
    for (size_t i = 0; i < n_layer_tensors; i++) {
        char text[TENSOR_NAME_BYTES];
        if (strcmp(layer_tensors[i].name, name) == 0)
            return gguf_find_tensor(g, layer_tensor_name(layer, &layer_tensors[i], text));
    }
    return NULL;
}

static bool can_read(const struct tensor_view *v)
{
    float scale;
    if (v->type == TENSOR_TL1 || v->type == TENSOR_TL2) { /* cheap to ask of one of their shapes only */
        struct error why = {0};
        return tensor_check_ternary(v, &scale, &why) == ERROR_NONE;
    }
    return v->data && tensor_type_is_ternary(v->type) && v->n_rows * v->n_cols % 128 == 0;
}

/* Weights that are not 0 in the first n rows, added to density[]. */
static void count_rows(const struct tensor_view *v, size_t n, uint8_t *codes, double *density)
{
    for (size_t r = 0; r < n; r++) {
        tensor_unpack_codes(v, r, codes);
        for (size_t c = 0; c < v->n_cols; c++)
            density[r] += codes[c] != 1;
    }
}

static void count_columns(const struct tensor_view *v, size_t n, uint8_t *codes, double *density)
{
    size_t step = (v->n_rows + MAX_ROWS - 1) / MAX_ROWS;
    for (size_t r = 0; r < v->n_rows; r += step) {
        tensor_unpack_codes(v, r, codes);
        for (size_t c = 0; c < n; c++)
            density[c] += codes[c] != 1;
    }
}

static double correlation(const double *x, const double *y, size_t n)
{
    double mx = 0, my = 0, xx = 0, yy = 0, xy = 0;
    for (size_t i = 0; i < n; i++) {
        mx += x[i] / (double)n;
        my += y[i] / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        xx += (x[i] - mx) * (x[i] - mx);
        yy += (y[i] - my) * (y[i] - my);
        xy += (x[i] - mx) * (y[i] - my);
    }
    return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : 0;
}

double model_ffn_fit(const struct gguf *g, const struct model_shape *s, size_t layer, enum i2s_order order)
{
    const struct gguf_tensor *gate = layer_find(g, layer, "ffn_gate"), *up = layer_find(g, layer, "ffn_up"),
                             *down = layer_find(g, layer, "ffn_down");
    struct tensor_view g_view = tensor_view_of(g, gate, order), u_view = tensor_view_of(g, up, order),
                       d_view = tensor_view_of(g, down, order);
    size_t n = s->ffn_dim < MAX_NEURONS ? s->ffn_dim : MAX_NEURONS, longest = s->dim > s->ffn_dim ? s->dim : s->ffn_dim;
    double fit = 0, *rows = calloc(2 * MAX_NEURONS, sizeof *rows), *columns = rows ? rows + MAX_NEURONS : NULL;
    uint8_t *codes = malloc(longest);
    if (rows && codes && can_read(&g_view) && can_read(&u_view) && can_read(&d_view)) {
        count_rows(&g_view, n, codes, rows);
        count_rows(&u_view, n, codes, rows);
        count_columns(&d_view, n, codes, columns);
        fit = correlation(rows, columns, n);
    }
    free(codes);
    free(rows);
    return fit;
}

enum error_code model_file_order(const char *path, enum i2s_order *out, struct error *err)
{
    struct gguf *g;
    struct model_shape shape;
    enum order_evidence evidence;
    enum error_code code = gguf_open(path, &g, err);
    if (code)
        return code;
    code = model_shape_read(g, &shape, err);
    if (!code)
        *out = model_i2s_order(g, &shape, &evidence);
    else
        error_prefix(err, "%s", path);
    gguf_close(g);
    return code;
}

enum i2s_order model_i2s_order(const struct gguf *g, const struct model_shape *s, enum order_evidence *evidence)
{
    double fit[2] = {0};
    size_t n = s->n_layers < N_LAYERS ? s->n_layers : N_LAYERS;
    *evidence = ORDER_UNKNOWN;
    for (size_t i = 0; i < n; i++) {
        size_t layer = n > 1 ? i * (s->n_layers - 1) / (n - 1) : 0;
        const struct gguf_tensor *down = layer_find(g, layer, "ffn_down");
        if (down->type != TENSOR_I2_S)
            return I2S_ORDER_128;
        fit[I2S_ORDER_128] += model_ffn_fit(g, s, layer, I2S_ORDER_128) / (double)n;
        fit[I2S_ORDER_64] += model_ffn_fit(g, s, layer, I2S_ORDER_64) / (double)n;
    }
    enum i2s_order best = fit[I2S_ORDER_64] > fit[I2S_ORDER_128] ? I2S_ORDER_64 : I2S_ORDER_128;
    if (fit[best] < FITS || fit[best] - fit[1 - best] < BETTER)
        return I2S_ORDER_128;
    *evidence = ORDER_SEEN;
    return best;
}
