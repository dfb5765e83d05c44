/*
 * Known answers: small operations on data made by a formula, against the definitions worked out on the host. A device that
 * computes something else is refused when it is opened. Integers must be exact, floating point within TOLERANCE.
 */
#include "kernels/cuda/device.h"

#include <stdlib.h>

#define TOLERANCE 1e-4
#define N 3        /* rows of activations */
#define DIM 256
#define ROWS 19    /* of weights */
#define POSITIONS 300
#define HEAD_DIM 64
#define HEADS 2

/* Evenly in [-1, 1), a function of i. */
static float value(uint32_t i)
{
    uint32_t c[4] = {i, 0, 0, 0};
    arith_philox(c, 7);
    return (float)(int32_t)c[0] * 0x1p-31f;
}

static uint8_t code(uint32_t row, uint32_t col) { return (uint8_t)(value(100000 + row * DIM + col) * 1.5f + 1.5f) % 3; }

/* y = x quantised times weights, as kernels/arith.h says. */
static void expected_matmul(const float *x, float *y)
{
    for (int t = 0; t < N; t++) {
        float max = 1e-5f;
        for (int i = 0; i < DIM; i++)
            max = fmaxf(max, fabsf(x[t * DIM + i]));
        float s = 127.0f / max;
        for (uint32_t r = 0; r < ROWS; r++) {
            int sum = 0;
            for (uint32_t i = 0; i < DIM; i++)
                sum += (int)rintf(x[t * DIM + i] * s) * (code(r, i) - 1);
            y[t * ROWS + r] = (float)sum / s * 0.5f;
        }
    }
}

static bool check_matmul(struct backend *be)
{
    static uint8_t packed_rows[ROWS * DIM / 4];
    float x[N * DIM], expected[N * ROWS], found[N * ROWS];
    for (uint32_t i = 0; i < N * DIM; i++)
        x[i] = value(i);
    memset(packed_rows, 0, sizeof packed_rows);
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t c = 0; c < DIM; c++)
            packed_rows[r * DIM / 4 + c / 128 * 32 + c % 32] |= (uint8_t)(code(r, c) << (6 - c % 128 / 32 * 2));
    expected_matmul(x, expected);
    struct ternary_packed packed = {packed_rows, DIM / 4, ROWS, DIM, 0.5f, NULL, 0};
    struct ternary *w = NULL;
    struct activations a = {};
    a.max_rows = N;
    a.max_cols = a.stride = DIM;
    a.q = (int8_t *)be->ops->alloc(be, N * DIM);
    a.scale = (float *)be->ops->alloc(be, N * sizeof(float));
    a.sum = (int32_t *)be->ops->alloc(be, N * sizeof(int32_t));
    float *dev_x = (float *)be->ops->alloc(be, sizeof x), *dev_y = (float *)be->ops->alloc(be, sizeof found);
    bool good = a.q && a.scale && a.sum && dev_x && dev_y && !be->ops->ternary_open(be, &packed, TERNARY_I2S, &w, NULL);
    if (good) {
        const struct ternary *mats[1] = {w};
        be->ops->upload(be, dev_x, x, sizeof x);
        be->ops->quantize(be, dev_x, N, DIM, &a);
        be->ops->matmul(be, mats, &dev_y, 1, &a, N);
        be->ops->download(be, found, dev_y, sizeof found);
        good = memcmp(expected, found, sizeof found) == 0;
    }
    if (w)
        be->ops->ternary_close(be, w);
    be->ops->free(be, a.q);
    be->ops->free(be, a.scale);
    be->ops->free(be, a.sum);
    be->ops->free(be, dev_x);
    be->ops->free(be, dev_y);
    return good;
}

static bool near(const float *found, const double *expected, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)found[i] - expected[i]) <= TOLERANCE * (1.0 + fabs(expected[i]))))
            return false;
    return true;
}

static bool check_norm_and_act(struct backend *be)
{
    float x[DIM], found[2 * DIM];
    double expected[2 * DIM], ss = 0;
    for (uint32_t i = 0; i < DIM; i++) {
        x[i] = value(5000 + i);
        ss += (double)x[i] * x[i];
    }
    for (int i = 0; i < DIM; i++) {
        expected[i] = x[i] / sqrt(ss / DIM + 1e-5) * x[i];
        expected[DIM + i] = x[i] / (1 + exp(-(double)x[i])) * x[i];
    }
    float *dev = (float *)be->ops->alloc(be, 3 * sizeof x);
    if (!dev)
        return false;
    be->ops->upload(be, dev, x, sizeof x);
    be->ops->rmsnorm(be, dev, dev, 1e-5f, 1, DIM, dev + DIM);
    be->ops->ffn_act(be, FFN_SILU, dev, dev, DIM, dev + 2 * DIM);
    be->ops->download(be, found, dev + DIM, sizeof found);
    be->ops->free(be, dev);
    return near(found, expected, 2 * DIM);
}

static float rounded(float x) { return arith_from_f16(arith_to_f16(x)); }

static void expected_attention(const float *q, const float *k, const float *v, double *y)
{
    static double p[POSITIONS];
    for (int h = 0; h < HEADS; h++) {
        double sum = 0;
        for (int j = 0; j < POSITIONS; j++) {
            double s = 0;
            for (int d = 0; d < HEAD_DIM; d++)
                s += (double)rounded(q[h * HEAD_DIM + d]) * rounded(k[j * HEAD_DIM + d]);
            p[j] = exp(s / sqrt((double)HEAD_DIM));
            sum += p[j];
        }
        for (int d = 0; d < HEAD_DIM; d++) {
            double out = 0;
            for (int j = 0; j < POSITIONS; j++)
                out += p[j] * rounded(v[j * HEAD_DIM + d]);
            y[h * HEAD_DIM + d] = out / sum;
        }
    }
}

/* Writes POSITIONS rows of K and V (k, then v, on the device) in blocks of reversed order, and attends from the last. */
static void run_attention(struct backend *be, const struct kv_cache *kv, const float *kv_rows, const float *q, float *y)
{
    int32_t positions[POSITIONS], sequences[POSITIONS] = {0}, table[(POSITIONS - 1) / KV_BLOCK_SIZE + 1];
    for (int32_t i = 0; i < POSITIONS; i++)
        positions[i] = i;
    for (size_t b = 0; b < kv->n_blocks; b++)
        table[b] = (int32_t)(kv->n_blocks - 1 - b);
    struct batch_view batch = {POSITIONS, positions, sequences, table, 1, kv->n_blocks};
    be->ops->kv_write(be, kv, 0, &batch, kv_rows, kv_rows + POSITIONS * HEAD_DIM);
    batch.n = 1;
    batch.positions = positions + POSITIONS - 1;
    be->ops->attention(be, kv, 0, &batch, q, HEADS, y);
}

static bool check_attention(struct backend *be)
{
    static float host[(2 * POSITIONS + HEADS) * HEAD_DIM]; /* k, v, q */
    float found[HEADS * HEAD_DIM];
    double expected[HEADS * HEAD_DIM];
    const size_t n_kv = POSITIONS * HEAD_DIM, n_blocks = (POSITIONS - 1) / KV_BLOCK_SIZE + 1;
    const size_t cache_bytes = n_blocks * KV_BLOCK_SIZE * HEAD_DIM * sizeof(uint16_t);
    for (uint32_t i = 0; i < sizeof host / sizeof *host; i++)
        host[i] = value(200000 + i) * 2.0f;
    expected_attention(host + 2 * n_kv, host, host + n_kv, expected);
    struct kv_cache kv = {};
    kv.n_layers = kv.n_kv_heads = 1;
    kv.n_blocks = n_blocks;
    kv.head_dim = HEAD_DIM;
    kv.k = (uint16_t *)be->ops->alloc(be, cache_bytes);
    kv.v = (uint16_t *)be->ops->alloc(be, cache_bytes);
    float *dev = (float *)be->ops->alloc(be, sizeof host), *y = (float *)be->ops->alloc(be, sizeof found);
    bool good = kv.k && kv.v && dev && y;
    if (good) {
        be->ops->upload(be, dev, host, sizeof host);
        run_attention(be, &kv, dev, dev + 2 * n_kv, y);
        be->ops->download(be, found, y, sizeof found);
        good = near(found, expected, HEADS * HEAD_DIM);
    }
    be->ops->free(be, kv.k);
    be->ops->free(be, kv.v);
    be->ops->free(be, dev);
    be->ops->free(be, y);
    return good;
}

static bool check_logits(struct backend *be)
{
    static uint16_t table[ROWS * DIM];
    const int32_t row = 1;
    float x[2 * DIM], found[ROWS];
    double expected[ROWS];
    for (uint32_t i = 0; i < 2 * DIM; i++)
        x[i] = value(300000 + i);
    for (uint32_t i = 0; i < ROWS * DIM; i++)
        table[i] = arith_to_f16(value(400000 + i));
    for (int r = 0; r < ROWS; r++) {
        expected[r] = 0;
        for (int c = 0; c < DIM; c++)
            expected[r] += (double)arith_from_f16(table[r * DIM + c]) * rounded(x[DIM + c]);
    }
    struct tensor_view view = {TENSOR_F16, I2S_ORDER_128, table, sizeof table, ROWS, DIM};
    struct dense *w = NULL;
    float *dev = (float *)be->ops->alloc(be, sizeof x);
    bool good = dev && !be->ops->dense_open(be, &view, &w, NULL);
    if (good) {
        be->ops->upload(be, dev, x, sizeof x);
        be->ops->logits(be, w, dev, &row, 1, true, found);
        good = near(found, expected, ROWS);
    }
    if (w)
        be->ops->dense_close(be, w);
    be->ops->free(be, dev);
    return good;
}

bool gpu_self_test(struct backend *be, const char **what)
{
    static const struct {
        const char *name;
        bool (*check)(struct backend *be);
    } checks[] = {{"ternary product", check_matmul},
                  {"norm and activation", check_norm_and_act},
                  {"attention", check_attention},
                  {"logits", check_logits}};
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        if (!checks[i].check(be)) {
            *what = checks[i].name;
            return false;
        }
    }
    return true;
}
