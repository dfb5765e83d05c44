#include "kernels/tensor.h"

#include "kernels/arith.h"

#include <assert.h>

#define Q8_0_WEIGHTS 32
#define K_WEIGHTS 256 /* of a block of Q6_K, TQ1_0, TQ2_0 */
#define Q6_K_BYTES 210
#define Q4_0_BYTES 18
#define TQ1_0_BYTES 54
#define TQ2_0_BYTES 66
#define I2S_TAIL_BYTES 32

static const struct {
    uint32_t type;
    const char *name;
    struct tensor_block block;
} types[] = {
    {TENSOR_F32, "F32", {1, 4}},
    {TENSOR_F16, "F16", {1, 2}},
    {TENSOR_Q4_0, "Q4_0", {Q8_0_WEIGHTS, Q4_0_BYTES}},
    {TENSOR_Q8_0, "Q8_0", {Q8_0_WEIGHTS, 34}},
    {TENSOR_Q6_K, "Q6_K", {K_WEIGHTS, Q6_K_BYTES}},
    {TENSOR_BF16, "BF16", {1, 2}},
    {TENSOR_TQ1_0, "TQ1_0", {K_WEIGHTS, TQ1_0_BYTES}},
    {TENSOR_TQ2_0, "TQ2_0", {K_WEIGHTS, TQ2_0_BYTES}},
    {TENSOR_I2_S, "I2_S", {32, 8}}, /* a row's granularity; the packing runs across rows */
    {TENSOR_TL1, "TL1", {32, 8}},   /* likewise */
    {TENSOR_TL2, "TL2", {32, 0}},   /* likewise; see tensor_tl_bytes */
    {TENSOR_Q2_0, "Q2_0", {128, 34}},
};
#define N_TYPES (sizeof types / sizeof types[0])

const char *tensor_type_name(uint32_t type)
{
    for (size_t i = 0; i < N_TYPES; i++)
        if (types[i].type == type)
            return types[i].name;
    return NULL;
}

struct tensor_block tensor_block(uint32_t type)
{
    for (size_t i = 0; i < N_TYPES; i++)
        if (types[i].type == type)
            return types[i].block;
    return (struct tensor_block){0, 0};
}

size_t tensor_bytes(uint32_t type, size_t n_rows, size_t n_cols)
{
    struct tensor_block block = tensor_block(type);
    size_t n;
    if (type == TENSOR_Q2_0 && n_cols % 128)
        block = (struct tensor_block){64, 18};
    if (!block.n_weights || n_cols % block.n_weights)
        return 0;
    if (type == TENSOR_TL1 || type == TENSOR_TL2)
        return (n = tensor_tl_bytes(type, n_rows, n_cols)) ? n + I2S_TAIL_BYTES : 0;
    if (__builtin_mul_overflow(n_cols / block.n_weights, n_rows, &n) || __builtin_mul_overflow(n, block.n_bytes, &n))
        return 0;
    if (type == TENSOR_I2_S && __builtin_add_overflow(n, I2S_TAIL_BYTES, &n))
        return 0;
    return n;
}

bool tensor_type_is_ternary(uint32_t type)
{
    return type == TENSOR_I2_S || type == TENSOR_TQ1_0 || type == TENSOR_TQ2_0 || type == TENSOR_Q2_0 || type == TENSOR_TL1 ||
           type == TENSOR_TL2;
}

bool tensor_type_is_dense(uint32_t type)
{
    return tensor_type_name(type) && !tensor_type_is_ternary(type);
}

struct tensor_block tensor_view_block(const struct tensor_view *v)
{
    struct tensor_block block = tensor_block(v->type), half = {64, 18};
    if (v->type == TENSOR_Q2_0 && v->n_cols % 64 == 0 && v->n_bytes >= v->n_rows * (v->n_cols / 64) * half.n_bytes)
        return half;
    return block;
}

static uint16_t load_u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }

void tensor_row_f32(const void *src, size_t n, float *out) { memcpy(out, src, n * sizeof *out); }

void tensor_row_f16(const void *src, size_t n, float *out)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i++)
        out[i] = arith_from_f16(load_u16(p + 2 * i));
}

void tensor_row_bf16(const void *src, size_t n, float *out)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i++)
        out[i] = arith_from_bf16(load_u16(p + 2 * i));
}

void tensor_row_q8_0(const void *src, size_t n, float *out)
{
    const uint8_t *p = src;
    assert(n % Q8_0_WEIGHTS == 0);
    for (; n; n -= Q8_0_WEIGHTS, p += 2 + Q8_0_WEIGHTS) {
        float d = arith_from_f16(load_u16(p));
        for (size_t i = 0; i < Q8_0_WEIGHTS; i++)
            *out++ = d * (float)(int8_t)p[2 + i];
    }
}

/* Half a block: 128 weights from 64 low bytes, 32 high bytes and 8 scales; ggml-quants.c, dequantize_row_q6_K. */
static void row_q6_k_half(const uint8_t *low, const uint8_t *high, const int8_t *scale, float d, float *out)
{
    for (int i = 0; i < 32; i++) {
        const int8_t *s = scale + i / 16;
        int q0 = (low[i] & 15) | (high[i] & 3) << 4, q1 = (low[i + 32] & 15) | (high[i] >> 2 & 3) << 4;
        int q2 = (low[i] >> 4) | (high[i] >> 4 & 3) << 4, q3 = (low[i + 32] >> 4) | (high[i] >> 6) << 4;
        out[i] = d * (float)s[0] * (float)(q0 - 32);
        out[i + 32] = d * (float)s[2] * (float)(q1 - 32);
        out[i + 64] = d * (float)s[4] * (float)(q2 - 32);
        out[i + 96] = d * (float)s[6] * (float)(q3 - 32);
    }
}

void tensor_row_q6_k(const void *src, size_t n, float *out)
{
    const uint8_t *p = src;
    assert(n % K_WEIGHTS == 0);
    for (; n; n -= K_WEIGHTS, p += Q6_K_BYTES, out += K_WEIGHTS) {
        const int8_t *scale = (const int8_t *)(p + 192);
        float d = arith_from_f16(load_u16(p + 208));
        row_q6_k_half(p, p + 128, scale, d, out);
        row_q6_k_half(p + 64, p + 160, scale + 8, d, out + 128);
    }
}

void tensor_row_q4_0(const void *src, size_t n, float *out)
{
    const uint8_t *p = src;
    assert(n % Q8_0_WEIGHTS == 0);
    for (; n; n -= Q8_0_WEIGHTS, p += Q4_0_BYTES, out += Q8_0_WEIGHTS) {
        float d = arith_from_f16(load_u16(p));
        for (size_t i = 0; i < 16; i++) {
            out[i] = d * (float)((p[2 + i] & 15) - 8);
            out[16 + i] = d * (float)((p[2 + i] >> 4) - 8);
        }
    }
}

/* n_bytes bytes of 5 (or 4) trits each: trit t of all bytes first, then trit t + 1; ggml-quants.c, dequantize_row_tq1_0.
 * A byte holds ceil(value * 256 / 243): the top trit is (b * 3) >> 8, the next one that of b * 3 mod 256. */
static uint8_t *unpack_trits(const uint8_t *bytes, size_t n_bytes, int n_trits, uint8_t *out)
{
    unsigned power = 1;
    for (int t = 0; t < n_trits; t++, power *= 3)
        for (size_t i = 0; i < n_bytes; i++)
            *out++ = (uint8_t)((bytes[i] * power & 255u) * 3 >> 8);
    return out;
}

static void unpack_tq1_0(const uint8_t *block, uint8_t *out)
{
    out = unpack_trits(block, 32, 5, out);
    out = unpack_trits(block + 32, 16, 5, out);
    unpack_trits(block + 48, 4, 4, out);
}

static void unpack_tq2_0(const uint8_t *block, uint8_t *out)
{
    for (int half = 0; half < 2; half++)
        for (int shift = 0; shift < 8; shift += 2)
            for (int i = 0; i < 32; i++)
                *out++ = block[32 * half + i] >> shift & 3;
}

static void unpack_q2_0(const uint8_t *block, size_t n_weights, uint8_t *out)
{
    for (size_t i = 0; i < n_weights; i++)
        out[i] = block[2 + i / 4] >> (2 * (i % 4)) & 3;
}

/* Elements first .. first + n - 1 of an I2_S tensor; blocks of 4 * lane weights in `lane` bytes. */
static void unpack_i2s(const uint8_t *data, size_t lane, size_t first, size_t n, uint8_t *out)
{
    size_t e = first;
    for (; e % (4 * lane) == 0 && e + 4 * lane <= first + n; e += 4 * lane, out += 4 * lane)
        for (size_t part = 0; part < 4; part++)
            for (size_t i = 0; i < lane; i++)
                out[part * lane + i] = data[e / 4 + i] >> (6 - 2 * part) & 3;
    for (; e < first + n; e++) {
        size_t in_block = e % (4 * lane);
        *out++ = data[e / (4 * lane) * lane + in_block % lane] >> (6 - 2 * (in_block / lane)) & 3;
    }
}

void tensor_unpack_codes(const struct tensor_view *view, size_t row, uint8_t *codes)
{
    const uint8_t *data = view->data;
    size_t n = view->n_cols;
    if (view->type == TENSOR_I2_S) {
        unpack_i2s(data, view->order == I2S_ORDER_128 ? 32 : 16, row * n, n, codes);
        return;
    }
    if (view->type == TENSOR_TL1 || view->type == TENSOR_TL2) {
        tensor_tl_unpack(view, row, codes);
        return;
    }
    struct tensor_block block = tensor_view_block(view);
    data += row * (n / block.n_weights) * block.n_bytes;
    for (size_t i = 0; i < n; i += block.n_weights, data += block.n_bytes) {
        if (view->type == TENSOR_TQ1_0)
            unpack_tq1_0(data, codes + i);
        else if (view->type == TENSOR_Q2_0)
            unpack_q2_0(data, block.n_weights, codes + i);
        else
            unpack_tq2_0(data, codes + i);
    }
}

void tensor_pack_codes(const uint8_t *codes, size_t n_cols, uint8_t *out)
{
    for (size_t b = 0; b < n_cols; b += TENSOR_PACK_COLS, out += 32) {
        for (size_t i = 0; i < 32; i++) {
            unsigned byte = 0;
            for (size_t part = 0; part < 4; part++) {
                size_t e = b + 32 * part + i;
                byte = byte << 2 | (e < n_cols ? codes[e] : 1u);
            }
            out[i] = (uint8_t)byte;
        }
    }
}
