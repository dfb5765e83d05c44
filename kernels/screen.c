/* See screen.h for the bound. */
#include "kernels/screen.h"

#include "kernels/cpu.h"
#include "kernels/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BASE 254
#define LIMIT (127 * BASE + 126) /* one more would round up to 128 * BASE */
#define UP 1.000001 /* more than the rounding of a norm's double sum and of its float */

bool screen_open(struct screen *s, size_t n_rows, size_t n_cols)
{
    size_t stride = (n_cols + 63) / 64 * 64;
    *s = (struct screen){.n_rows = n_rows, .n_cols = n_cols, .stride = stride};
    s->q = memory_alloc_weights(n_rows * stride);
    s->scale = malloc(n_rows * sizeof *s->scale);
    s->error = malloc(n_rows * sizeof *s->error);
    s->norm = malloc(n_rows * sizeof *s->norm);
    s->memory_bytes = n_rows * (stride + 3 * sizeof(float));
    if (s->q && s->scale && s->error && s->norm)
        return true;
    screen_close(s);
    return false;
}

void screen_close(struct screen *s)
{
    memory_free_weights(s->q);
    free(s->scale);
    free(s->error);
    free(s->norm);
    *s = (struct screen){0};
}

bool screen_set_row(struct screen *s, size_t r, const float *w)
{
    int8_t *q = s->q + r * s->stride;
    float max = 0.0f;
    double error = 0, norm = 0;
    for (size_t i = 0; i < s->n_cols; i++) {
        float a = fabsf(w[i]);
        if (!(a < INFINITY))
            return false;
        max = a > max ? a : max;
    }
    float scale = max / 127.0f, inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    if (!(inverse < INFINITY)) /* a row of denormals: its error says all */
        scale = inverse = 0.0f;
    for (size_t i = 0; i < s->n_cols; i++) {
        int v = (int)rintf(w[i] * inverse);
        v = v > 127 ? 127 : v < -127 ? -127 : v;
        double d = (double)w[i] - (double)scale * v;
        error += d * d;
        norm += (double)(v * v);
        q[i] = (int8_t)v;
    }
    memset(q + s->n_cols, 0, s->stride - s->n_cols);
    s->scale[r] = scale;
    s->error[r] = (float)(sqrt(error) * UP);
    s->norm[r] = (float)(scale * sqrt(norm) * UP);
    return true;
}

void screen_finish(struct screen *s)
{
    s->max_error = s->max_norm = 0.0f;
    for (size_t r = 0; r < s->n_rows; r++) {
        s->max_error = s->error[r] > s->max_error ? s->error[r] : s->max_error;
        s->max_norm = s->norm[r] > s->max_norm ? s->norm[r] : s->max_norm;
    }
}

void screen_split(const struct screen *s, const float *x, struct screen_x *out)
{
    double max = 0, norm = 0, error = 0;
    for (size_t i = 0; i < s->n_cols; i++) {
        double a = fabs((double)x[i]);
        max = a > max || a != a ? a : max;
        norm += a * a;
    }
    out->finite = norm < INFINITY;
    out->scale = max > 0 ? max / LIMIT : 1.0;
    out->high_sum = out->low_sum = 0;
    for (size_t i = 0; i < s->stride; i++) {
        double value = i < s->n_cols && out->finite ? (double)x[i] : 0.0;
        int v = (int)rint(value / out->scale);
        int high = (int)rint((double)v / BASE), low = v - BASE * high;
        double d = value - out->scale * v;
        error += d * d;
        out->high[i] = (int8_t)high;
        out->low[i] = (int8_t)low;
        out->high_sum += high;
        out->low_sum += low;
    }
    out->norm = sqrt(norm) * UP;
    out->error = sqrt(error) * UP;
}

struct screen_bound screen_bound(const struct screen *s, const struct screen_x *x)
{
    double dot = (double)(s->n_cols + 64) * 0x1p-24 * x->norm; /* rounding of the exact dot product, over |w| <= norm + error */
    double kept = 0x1p-22 * x->norm;                           /* and of the estimate in float */
    return (struct screen_bound){.per_error = (x->norm + dot) * UP, .per_norm = (x->error + dot + kept) * UP};
}

/* Sums of rows of q times both halves. */
void screen_i8_portable(const int8_t *rows, size_t stride, size_t n_rows, const struct screen_x *x, int32_t *high, int32_t *low)
{
    for (size_t r = 0; r < n_rows; r++, rows += stride) {
        int32_t h = 0, l = 0;
        for (size_t i = 0; i < stride; i++) {
            h += rows[i] * x->high[i];
            l += rows[i] * x->low[i];
        }
        high[r] = h;
        low[r] = l;
    }
}
