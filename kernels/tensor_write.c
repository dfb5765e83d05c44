/*
 * Rows of weights as files have them, for tools that make files. What is ternary is written exactly; of floating-point weights, the types
 * with scales get the one of a few that leaves the least error.
 */
#include "kernels/arith.h"
#include "kernels/tensor.h"

#include <assert.h>
#include <math.h>

#define TRIES 9 /* scales on either side of the one that the largest weight asks for */

void tensor_read_row(const struct tensor_view *v, size_t row, float *out)
{
    const uint8_t *src = (const uint8_t *)v->data + row * tensor_bytes(v->type, 1, v->n_cols);
    switch (v->type) {
    case TENSOR_F16: tensor_row_f16(src, v->n_cols, out); break;
    case TENSOR_BF16: tensor_row_bf16(src, v->n_cols, out); break;
    case TENSOR_Q8_0: tensor_row_q8_0(src, v->n_cols, out); break;
    case TENSOR_Q6_K: tensor_row_q6_k(src, v->n_cols, out); break;
    case TENSOR_Q4_0: tensor_row_q4_0(src, v->n_cols, out); break;
    default: assert(v->type == TENSOR_F32); tensor_row_f32(src, v->n_cols, out); break;
    }
}

bool tensor_fits_f16(float value) { return arith_from_f16(arith_to_f16(value)) == value; }

static uint8_t *put_u16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
    return p + 2;
}

/* To nearest even; NaN stays one. */
static uint16_t to_bf16(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if (x != x)
        return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

static int rounded(float x, int min, int max)
{
    float r = nearbyintf(x);
    return r < (float)min ? min : r > (float)max ? max : (int)r;
}

static float largest(const float *x, size_t n)
{
    float best = 0.0f;
    for (size_t i = 0; i < n; i++)
        best = fabsf(x[i]) > fabsf(best) ? x[i] : best;
    return best;
}

/* The error of x as multiples of `scale` from -levels to levels - 1. */
static double error_of(const float *x, size_t n, float scale, int levels)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)x[i] - (double)(scale * (float)rounded(x[i] / scale, -levels, levels - 1));
        sum += d * d;
    }
    return sum;
}

/* A scale of x for integers of -levels to levels - 1, for which the largest weight is about -levels. 0 for zeros. */
static float best_scale(const float *x, size_t n, int levels)
{
    float max = largest(x, n), best = 0.0f;
    double least = INFINITY;
    for (int i = -TRIES; max != 0.0f && i <= TRIES; i++) {
        float scale = -max / ((float)levels + 0.1f * (float)i);
        double error = error_of(x, n, scale, levels);
        if (error < least) {
            least = error;
            best = scale;
        }
    }
    return best;
}

/* As it will be read: 0 where F16 has no such number. */
static float half_scale(float scale, uint16_t *half)
{
    *half = arith_to_f16(scale);
    return arith_from_f16(*half);
}

static void write_q8_0(const float *x, uint8_t *out)
{
    uint16_t half;
    float d = half_scale(fabsf(largest(x, 32)) / 127.0f, &half);
    out = put_u16(out, half);
    for (size_t i = 0; i < 32; i++)
        out[i] = (uint8_t)(int8_t)(d > 0.0f ? rounded(x[i] / d, -127, 127) : 0);
}

static void write_q4_0(const float *x, uint8_t *out)
{
    uint16_t half;
    float d = half_scale(best_scale(x, 32, 8), &half);
    out = put_u16(out, half);
    for (size_t i = 0; i < 16; i++) {
        int low = d != 0.0f ? rounded(x[i] / d, -8, 7) : 0, high = d != 0.0f ? rounded(x[16 + i] / d, -8, 7) : 0;
        out[i] = (uint8_t)((low + 8) | (high + 8) << 4);
    }
}

/* Sixteen scales of eight bits in units of one F16, then the weights in six bits. */
static void write_q6_k(const float *x, uint8_t *out)
{
    float scales[16];
    int8_t *units = (int8_t *)(out + 192);
    uint16_t half;
    for (size_t b = 0; b < 16; b++)
        scales[b] = best_scale(x + 16 * b, 16, 32);
    float d = half_scale(-largest(scales, 16) / 128.0f, &half);
    put_u16(out + 208, half);
    memset(out, 0, 192);
    for (size_t b = 0; b < 16; b++)
        units[b] = (int8_t)(d != 0.0f ? rounded(scales[b] / d, -128, 127) : 0);
    for (size_t i = 0; i < 256; i++) {
        float scale = d * (float)units[i / 16];
        int q = (scale != 0.0f ? rounded(x[i] / scale, -32, 31) : 0) + 32;
        size_t in_half = i % 128, quarter = in_half / 32, j = in_half % 32;
        out[64 * (i / 128) + j + 32 * (quarter % 2)] |= (uint8_t)((q & 15) << 4 * (quarter / 2));
        out[128 + 32 * (i / 128) + j] |= (uint8_t)(q >> 4 << 2 * quarter);
    }
}

void tensor_write_row(uint32_t type, const float *x, size_t n, void *dst)
{
    struct tensor_block block = tensor_block(type);
    uint8_t *out = dst;
    assert(tensor_type_is_dense(type) && n % block.n_weights == 0);
    for (size_t i = 0; i < n; i += block.n_weights, out += block.n_bytes)
        switch (type) {
        case TENSOR_F16: put_u16(out, arith_to_f16(x[i])); break;
        case TENSOR_BF16: put_u16(out, to_bf16(x[i])); break;
        case TENSOR_Q8_0: write_q8_0(x + i, out); break;
        case TENSOR_Q6_K: write_q6_k(x + i, out); break;
        case TENSOR_Q4_0: write_q4_0(x + i, out); break;
        default: memcpy(out, &x[i], sizeof *x); break;
        }
}

/* Trits `stride` apart, the first the most significant, as a fraction of 256 rounded up; of four a zero follows. */
static uint8_t pack_trits(const uint8_t *codes, size_t stride, size_t n)
{
    unsigned value = 0;
    for (size_t t = 0; t < 5; t++)
        value = value * 3 + (t < n ? codes[t * stride] : 0);
    return (uint8_t)((value * 256 + 242) / 243);
}

static void write_tq1_0(const uint8_t *codes, uint8_t *out)
{
    for (size_t i = 0; i < 32; i++)
        out[i] = pack_trits(codes + i, 32, 5);
    for (size_t i = 0; i < 16; i++)
        out[32 + i] = pack_trits(codes + 160 + i, 16, 5);
    for (size_t i = 0; i < 4; i++)
        out[48 + i] = pack_trits(codes + 240 + i, 4, 4);
}

static void write_tq2_0(const uint8_t *codes, uint8_t *out)
{
    for (size_t i = 0; i < 64; i++) {
        const uint8_t *c = codes + i / 32 * 128 + i % 32;
        out[i] = (uint8_t)(c[0] | c[32] << 2 | c[64] << 4 | c[96] << 6);
    }
}

void tensor_write_codes(uint32_t type, const uint8_t *codes, size_t n, float scale, void *dst)
{
    struct tensor_block block = tensor_block(type);
    uint8_t *out = dst;
    if (type == TENSOR_I2_S) {
        assert(n % TENSOR_PACK_COLS == 0);
        tensor_pack_codes(codes, n, out);
        return;
    }
    assert((type == TENSOR_TQ1_0 || type == TENSOR_TQ2_0) && n % block.n_weights == 0);
    for (size_t i = 0; i < n; i += block.n_weights, out += block.n_bytes) {
        if (type == TENSOR_TQ1_0)
            write_tq1_0(codes + i, out);
        else
            write_tq2_0(codes + i, out);
        put_u16(out + block.n_bytes - 2, arith_to_f16(scale));
    }
}
