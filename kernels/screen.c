/* See screen.h for the bound. */
#include "kernels/screen.h"

#include "kernels/arith.h"
#include "kernels/cpu.h"
#include "kernels/memory.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK 256
#define BASE 254
#define SIZE_BITS 0x7fffffffu    /* of a float: all but the sign */
#define LIMIT (127 * BASE + 126) /* one more would round up to 128 * BASE */
/* More than the rounding of sums of squares in float lanes, of a root, and of what is made of them. */
#define UP 1.0001f

bool screen_open(struct screen *s, const void *owner, size_t n_rows, size_t n_cols)
{
    size_t stride = (n_cols + BLOCK - 1) / BLOCK * BLOCK,
           padded = (n_rows + SCREEN_CHUNK - 1) / SCREEN_CHUNK * SCREEN_CHUNK;
    *s = (struct screen){.n_rows = n_rows, .n_cols = n_cols, .stride = stride};
    s->high = memory_alloc_weights(owner, padded * screen_high_bytes(stride));
    s->low = memory_alloc_weights(owner, padded * screen_low_bytes(stride));
    s->scale = calloc(padded, sizeof *s->scale);
    s->coarse_error = calloc(padded, sizeof *s->coarse_error);
    s->error = calloc(padded, sizeof *s->error);
    s->norm = calloc(padded, sizeof *s->norm);
    s->memory_bytes = padded * (stride + 4 * sizeof(float));
    if (!s->high || !s->low || !s->scale || !s->coarse_error || !s->error || !s->norm) {
        screen_close(s);
        return false;
    }
    memset(s->high + n_rows * screen_high_bytes(stride), 0, (padded - n_rows) * screen_high_bytes(stride));
    memset(s->low + n_rows * screen_low_bytes(stride), 0, (padded - n_rows) * screen_low_bytes(stride));
    return true;
}

void screen_close(struct screen *s)
{
    memory_free_weights(s->high);
    memory_free_weights(s->low);
    free(s->scale);
    free(s->coarse_error);
    free(s->error);
    free(s->norm);
    *s = (struct screen){0};
}

/* Squares in lanes, in units of the row's scale. */
struct row_sums {
    float weights[ARITH_LANES]; /* the scaled weights themselves */
    float coarse_error[ARITH_LANES], error[ARITH_LANES];
    float coarse[ARITH_LANES], fine[ARITH_LANES]; /* what stands for them */
};

/* |w| * inverse is at most 127 and a rounding, so fine is within +-127. */
static void quantize_block(const float *restrict w, float inverse, uint8_t *restrict u, struct row_sums *restrict sums)
{
    for (size_t i = 0; i < BLOCK; i += ARITH_LANES)
        for (size_t l = 0; l < ARITH_LANES; l++) {
            float v = w[i + l] * inverse, fine = rintf(v);
            int32_t code = (int32_t)fine + 128;
            float coarse = (float)(code & ~3) - 126.5f, d = v - fine, coarse_d = v - coarse;
            sums->weights[l] += v * v;
            sums->error[l] += d * d;
            sums->coarse_error[l] += coarse_d * coarse_d;
            sums->fine[l] += fine * fine;
            sums->coarse[l] += coarse * coarse;
            u[i + l] = (uint8_t)code;
        }
}

static void pack_block(const uint8_t *restrict u, uint8_t *restrict high, uint8_t *restrict low)
{
    for (size_t i = 0; i < 64; i++) {
        unsigned a = u[i], b = u[64 + i], c = u[128 + i], d = u[192 + i];
        high[i] = (uint8_t)(a >> 2 | (d & 0x0c) << 4);
        high[64 + i] = (uint8_t)(b >> 2 | (d & 0x30) << 2);
        high[128 + i] = (uint8_t)(c >> 2 | (d & 0xc0));
        low[i] = (uint8_t)((a & 3) | (b & 3) << 2 | (c & 3) << 4 | (d & 3) << 6);
    }
}

static float root_of_lanes(const float lane[ARITH_LANES])
{
    float sum = 0.0f;
    for (size_t l = 0; l < ARITH_LANES; l++)
        sum += lane[l];
    return sqrtf(sum) * UP;
}

/* The largest size, infinity or NaN when a value is not finite. Sizes are in the order of their bits. */
static float max_size(const float *w, size_t n)
{
    uint32_t lane[ARITH_LANES] = {0}, bits[ARITH_LANES], max = 0;
    size_t i = 0;
    float size;
    for (; i + ARITH_LANES <= n; i += ARITH_LANES) {
        memcpy(bits, w + i, sizeof bits);
        for (size_t l = 0; l < ARITH_LANES; l++)
            lane[l] = (bits[l] & SIZE_BITS) > lane[l] ? bits[l] & SIZE_BITS : lane[l];
    }
    for (; i < n; i++) {
        memcpy(bits, w + i, sizeof *bits);
        max = (bits[0] & SIZE_BITS) > max ? bits[0] & SIZE_BITS : max;
    }
    for (size_t l = 0; l < ARITH_LANES; l++)
        max = lane[l] > max ? lane[l] : max;
    memcpy(&size, &max, sizeof size);
    return size;
}

bool screen_set_row(struct screen *s, size_t r, const float *w)
{
    uint8_t *high = s->high + r * screen_high_bytes(s->stride), *low = s->low + r * screen_low_bytes(s->stride),
            u[BLOCK];
    float max = max_size(w, s->n_cols), scale = max / 127.0f, inverse = 1.0f / scale, tail[BLOCK] = {0};
    struct row_sums sums = {0};
    if (!(max < INFINITY))
        return false;
    if (scale < 1e-30f) /* zeros or next to it: all of it is error, so that nothing here is denormal */
        scale = inverse = 0.0f;
    for (size_t i = 0; i < s->n_cols; i += BLOCK, high += BLOCK / 4 * 3, low += BLOCK / 4) {
        size_t n = s->n_cols - i;
        if (n < BLOCK)
            memcpy(tail, w + i, n * sizeof *w);
        quantize_block(n < BLOCK ? tail : w + i, inverse, u, &sums);
        pack_block(u, high, low);
    }
    float rest = root_of_lanes(sums.weights) * 0x1p-20f; /* rounding of w * inverse */
    float coarse = root_of_lanes(sums.coarse), fine = root_of_lanes(sums.fine);
    s->scale[r] = scale;
    s->coarse_error[r] = scale * (root_of_lanes(sums.coarse_error) + rest) * UP;
    s->error[r] = scale * (root_of_lanes(sums.error) + rest) * UP;
    s->norm[r] = scale * (coarse > fine ? coarse : fine) * UP;
    if (scale == 0.0f)
        s->coarse_error[r] = s->error[r] = max * sqrtf((float)s->n_cols) * UP + 0x1p-126f;
    return true;
}

void screen_finish(struct screen *s)
{
    s->max_size = 0.0f;
    for (size_t r = 0; r < s->n_rows; r++) {
        float size = s->norm[r] + s->coarse_error[r] + s->error[r];
        s->max_size = size > s->max_size ? size : s->max_size;
    }
}

void screen_split(const struct screen *s, const float *x, int8_t *high, int8_t *low, struct screen_x *out)
{
    double max = 0, norm = 0, error = 0, coarse_error = 0;
    for (size_t i = 0; i < s->n_cols; i++) {
        double a = fabs((double)x[i]);
        max = a > max || a != a ? a : max;
        norm += a * a;
    }
    norm = sqrt(norm) * (double)UP;
    out->usable = norm * ((double)s->max_size + 1) < 1e30 && (max == 0 || max > 1e-20);
    out->scale = max > 0 && out->usable ? max / LIMIT : 1.0;
    out->high_sum = out->low_sum = 0;
    memset(high, 0, s->stride);
    memset(low, 0, s->stride);
    for (size_t i = 0; i < s->n_cols && out->usable; i++) {
        int v = (int)rint((double)x[i] / out->scale), h = (int)rint((double)v / BASE), l = v - BASE * h;
        double coarse_d = (double)x[i] - out->scale * (BASE * h), d = (double)x[i] - out->scale * v;
        error += d * d;
        coarse_error += coarse_d * coarse_d;
        high[i] = (int8_t)h;
        low[i] = (int8_t)l;
        out->high_sum += h;
        out->low_sum += l;
    }
    out->norm = norm;
    out->error = sqrt(error) * (double)UP;
    out->coarse_error = sqrt(coarse_error) * (double)UP;
}

struct screen_bound screen_bound(const struct screen *s, const struct screen_x *x, bool all_bits, bool both_halves)
{
    double dot =
        (double)(s->n_cols + 64) * 0x1p-24 * x->norm; /* rounding of the exact dot product, over |w| <= |v| + |e| */
    double estimate = 0x1p-18 * x->norm;              /* and of the estimate and its bounds */
    double d = both_halves ? x->error : x->coarse_error;
    return (struct screen_bound){.factor = (float)(x->scale / 2),
                                 .centre = all_bits ? 256 : 253,
                                 .error = all_bits ? s->error : s->coarse_error,
                                 .per_error = (float)(x->norm + dot + estimate) * UP,
                                 .per_norm = (float)(d + dot + estimate) * UP,
                                 .constant = 1e-30f}; /* underflow */
}

/* Weight i of a row as far as the planes are there. */
static int weight(const struct screen_tile *t, size_t r, size_t i)
{
    size_t block = i / BLOCK, k = i % BLOCK / 64, at = i % 64;
    int u = 0;
    if (t->high) {
        const uint8_t *high = t->high + r * screen_high_bytes(t->stride) + block * (BLOCK / 4 * 3);
        u = k < 3 ? (high[64 * k + at] & 0x3f) << 2
                  : high[at] >> 6 << 2 | high[64 + at] >> 6 << 4 | high[128 + at] >> 6 << 6;
    }
    if (t->low)
        u |= t->low[r * screen_low_bytes(t->stride) + block * (BLOCK / 4) + at] >> (2 * k) & 3;
    return u;
}

void screen_i8_portable(const struct screen_tile *t)
{
    for (size_t r = 0; r < t->n_rows; r++) {
        for (size_t v = 0; v < t->n_x; v++)
            t->sums[v * SCREEN_CHUNK + r] = 0;
        for (size_t i = 0; i < t->stride; i++) {
            int32_t u = weight(t, r, i);
            for (size_t v = 0; v < t->n_x; v++)
                t->sums[v * SCREEN_CHUNK + r] += u * t->x[v * t->x_stride + i];
        }
    }
}

void screen_bounds_portable(const struct screen_chunk *c)
{
    const struct screen_bound *b = c->bound;
    for (size_t g = 0; g < SCREEN_CHUNK / SCREEN_GROUP; g++) {
        float most_lower = -INFINITY, most_upper = -INFINITY;
        for (size_t r = g * SCREEN_GROUP; r < (g + 1) * SCREEN_GROUP; r++) {
            float q = 254.0f * (float)(2 * c->high[r] - c->high_centre);
            if (c->low)
                q += (float)(2 * c->low[r] - c->low_centre);
            q *= b->factor * c->scale[r];
            if (c->noise)
                q += c->noise[r];
            c->quantity[r] = q;
            if (c->aside >> r & 1)
                continue;
            float slack = b->per_error * c->error[r] + b->per_norm * c->norm[r] + b->constant;
            most_lower = q - slack > most_lower ? q - slack : most_lower;
            most_upper = q + slack > most_upper ? q + slack : most_upper;
        }
        c->lower[g] = most_lower;
        c->upper[g] = most_upper;
    }
}

uint64_t screen_reaching_portable(const struct screen_chunk *c, float least)
{
    const struct screen_bound *b = c->bound;
    uint64_t found = 0;
    for (size_t r = 0; r < SCREEN_CHUNK; r++) {
        float slack = b->per_error * c->error[r] + b->per_norm * c->norm[r] + b->constant;
        if (c->upper[r / SCREEN_GROUP] >= least && c->quantity[r] + slack >= least)
            found |= UINT64_C(1) << r;
    }
    return found & ~c->aside;
}
