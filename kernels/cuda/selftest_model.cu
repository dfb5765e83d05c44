/* Known answers of what reads tables and caches: embedding, logits, attention. */
#include "kernels/cuda/selftest.h"

#define COLS 256
#define ROWS 35        /* of a table */
#define MAX_OUT 70

static float rounded(float x) { return arith_from_f16(arith_to_f16(x)); }

/* ---- tables */

static const struct {
    enum tensor_type type;
    size_t row_bytes;
} tables[] = {{TENSOR_F32, COLS * 4},        {TENSOR_F16, COLS * 2},  {TENSOR_BF16, COLS * 2}, {TENSOR_Q8_0, COLS / 32 * 34},
              {TENSOR_Q4_0, COLS / 32 * 18}, {TENSOR_Q6_K, 210}};

static void put_f16(uint8_t *to, float value)
{
    uint16_t bits = arith_to_f16(value);
    memcpy(to, &bits, sizeof bits);
}

/* Fills a row of a table with any weights, and says which they are. */
static void fill_row(enum tensor_type type, uint32_t row, uint8_t *out, float *values)
{
    for (uint32_t c = 0; c < COLS; c++) {
        float v = test_value(400000 + row * COLS + c), scale = 0.03125f * (1.0f + (float)(row % 3));
        int q = (int)floorf(v * 127.0f), q4 = q >> 4, q6 = q >> 2;
        switch (type) {
        case TENSOR_F32: memcpy(out + 4 * c, &v, 4); break;
        case TENSOR_F16: put_f16(out + 2 * c, v), v = rounded(v); break;
        case TENSOR_BF16: {
            uint16_t bits = (uint16_t)(arith_bits(v) >> 16);
            memcpy(out + 2 * c, &bits, sizeof bits);
            v = arith_from_bf16(bits);
            break;
        }
        case TENSOR_Q8_0:
            put_f16(out + c / 32 * 34, scale);
            out[c / 32 * 34 + 2 + c % 32] = (uint8_t)q;
            v = scale * (float)q;
            break;
        case TENSOR_Q4_0:
            put_f16(out + c / 32 * 18, scale);
            out[c / 32 * 18 + 2 + c % 16] |= (uint8_t)((q4 + 8) << (c % 32 / 16 * 4));
            v = scale * (float)q4;
            break;
        default: /* Q6_K */
            put_f16(out + 208, scale);
            out[192 + c / 16] = (uint8_t)(int8_t)(c / 16 % 5 - 2);
            out[c / 128 * 64 + c % 64] |= (uint8_t)((q6 + 32) % 16 << (c % 128 / 64 * 4));
            out[128 + c / 128 * 32 + c % 32] |= (uint8_t)((q6 + 32) / 16 << (c % 128 / 32 * 2));
            v = scale * (float)((int)(c / 16 % 5) - 2) * (float)q6;
            break;
        }
        values[c] = v;
    }
}

/* Opens a table; its weights. */
static struct dense *open_table(struct test *t, size_t which, float values[ROWS][COLS])
{
    static uint8_t data[ROWS * COLS * 4];
    struct dense *w = NULL;
    memset(data, 0, sizeof data);
    for (uint32_t r = 0; r < ROWS; r++)
        fill_row(tables[which].type, r, data + r * tables[which].row_bytes, values[r]);
    struct tensor_view view = {};
    view.type = tables[which].type;
    view.data = data;
    view.n_bytes = ROWS * tables[which].row_bytes;
    view.n_rows = ROWS;
    view.n_cols = COLS;
    return t->be->ops->dense_open(t->be, &view, &w, NULL) ? NULL : w;
}

bool test_embedding(struct test *t)
{
    static float values[ROWS][COLS], found[3][COLS];
    static const int32_t ids[3] = {ROWS - 1, 0, 5};
    float *y = test_take<float>(t, NULL, 3 * COLS);
    bool good = t->good;
    for (size_t i = 0; good && i < sizeof tables / sizeof tables[0]; i++) {
        struct dense *w = open_table(t, i, values);
        if (!w)
            return false;
        t->be->ops->embed(t->be, w, ids, 3, y);
        test_read(t, found[0], y, 3 * COLS);
        for (int r = 0; r < 3; r++)
            good = good && memcmp(found[r], values[ids[r]], sizeof found[r]) == 0;
        t->be->ops->dense_close(t->be, w);
    }
    return good;
}

static bool logits_are_near(const float *found, const float values[ROWS][COLS], const float *x, bool round_f16)
{
    double expected[ROWS];
    for (int r = 0; r < ROWS; r++) {
        expected[r] = 0;
        for (int c = 0; c < COLS; c++)
            expected[r] += (double)values[r][c] * (round_f16 ? rounded(x[c]) : x[c]);
    }
    return test_near(found, expected, ROWS);
}

/* The largest three, with what one list says. */
static bool needed_are_same(struct test *t, const struct dense *w, const float *x, const int32_t *rows, size_t n, const float *all)
{
    static float found[MAX_OUT * ROWS];
    static struct logits_need needs[MAX_OUT];
    static const uint32_t listed = 17;
    for (size_t i = 0; i < n; i++) {
        needs[i] = {};
        needs[i].top = 3;
        needs[i].lists[0] = {&listed, 1, 1};
    }
    t->be->ops->logits_needed(t->be, w, x, rows, n, needs, found);
    for (size_t i = 0; i < n * ROWS; i++) {
        int larger = 0;
        for (size_t r = i / ROWS * ROWS; r < i / ROWS * ROWS + ROWS; r++)
            larger += all[r] > all[i];
        bool needed = larger < 3 || i % ROWS == listed;
        if (found[i] != all[i] && (needed || found[i] != -INFINITY))
            return false;
    }
    return true;
}

/* Some rows at once; one of them alone is the same to the bit. */
static bool logits_of(struct test *t, const struct dense *w, const float values[ROWS][COLS], const float *x, const float *dev, size_t n)
{
    static float found[MAX_OUT * ROWS], alone[ROWS];
    static int32_t rows[MAX_OUT];
    for (size_t i = 0; i < n; i++)
        rows[i] = (int32_t)(n - 1 - i);
    t->be->ops->logits(t->be, w, dev, rows, n, n == 1, found);
    t->be->ops->logits(t->be, w, dev, rows + n / 2, 1, n == 1, alone);
    bool good = memcmp(alone, found + n / 2 * ROWS, sizeof alone) == 0 && (n == 1 || needed_are_same(t, w, dev, rows, n, found));
    for (size_t i = 0; good && i < n; i += 5)
        good = logits_are_near(found + i * ROWS, values, x + (size_t)rows[i] * COLS, n == 1);
    return good;
}

bool test_logits(struct test *t)
{
    static const size_t sizes[] = {1, 11, 30, MAX_OUT};
    static float values[ROWS][COLS], x[MAX_OUT * COLS];
    for (uint32_t i = 0; i < MAX_OUT * COLS; i++)
        x[i] = test_value(300000 + i);
    float *dev = test_take(t, x, MAX_OUT * COLS);
    bool good = t->good;
    for (size_t i = 0; good && i < sizeof tables / sizeof tables[0]; i++) {
        struct dense *w = open_table(t, i, values);
        if (!w)
            return false;
        for (size_t n : sizes)
            good = good && ((n == MAX_OUT && tables[i].type != TENSOR_F16) || logits_of(t, w, values, x, dev, n));
        t->be->ops->dense_close(t->be, w);
    }
    return good;
}

/* ---- attention: positions of one sequence, and rows that attend to them */

#define POSITIONS 530 /* three segments */
#define HEADS 4
#define KV_HEADS 2
#define STRETCH 66    /* rows that follow one another, from FIRST on into the second segment */
#define FIRST 200
#define MAX_HEAD 256

struct cache_data {
    size_t head_dim;
    enum kv_type type;
    float *k, *v, *q; /* [POSITIONS][KV_HEADS][head_dim], q [POSITIONS][HEADS][head_dim] */
};

/* What attention makes of K or V (one head of a position), as kernels/arith.h says. */
static void as_cached(enum kv_type type, const float *x, size_t dim, double *out)
{
    int8_t q[MAX_HEAD];
    float s = test_quantize(x, dim, q);
    for (size_t d = 0; d < dim; d++)
        out[d] = type == KV_INT8 ? (double)q[d] * (1.0f / s) : rounded(x[d]);
}

static void expected_row(const struct cache_data *c, int position, int head, double *y)
{
    double p[POSITIONS], cached[MAX_HEAD], sum = 0, dim = (double)c->head_dim;
    const float *q = c->q + ((size_t)position * HEADS + head) * c->head_dim;
    size_t kv_head = (size_t)head / (HEADS / KV_HEADS);
    for (size_t d = 0; d < c->head_dim; d++)
        y[d] = 0;
    for (int j = 0; j <= position; j++) {
        double s = 0;
        as_cached(c->type, c->k + ((size_t)j * KV_HEADS + kv_head) * c->head_dim, c->head_dim, cached);
        for (size_t d = 0; d < c->head_dim; d++)
            s += (c->type == KV_INT8 ? q[d] : rounded(q[d])) * cached[d];
        p[j] = exp(s / sqrt(dim));
        sum += p[j];
        as_cached(c->type, c->v + ((size_t)j * KV_HEADS + kv_head) * c->head_dim, c->head_dim, cached);
        for (size_t d = 0; d < c->head_dim; d++)
            y[d] += p[j] * cached[d];
    }
    for (size_t d = 0; d < c->head_dim; d++)
        y[d] /= sum;
}

static bool row_is_near(const struct cache_data *c, int position, const float *found)
{
    double expected[MAX_HEAD];
    bool good = true;
    for (int head = 0; good && head < HEADS; head++) {
        expected_row(c, position, head, expected);
        good = test_near(found + (size_t)head * c->head_dim, expected, c->head_dim);
    }
    return good;
}

static bool open_cache(struct test *t, const struct cache_data *c, struct kv_cache *kv)
{
    *kv = {};
    kv->type = c->type;
    kv->n_layers = 1;
    kv->n_kv_heads = KV_HEADS;
    kv->head_dim = c->head_dim;
    kv->n_blocks = (POSITIONS - 1) / KV_BLOCK_SIZE + 1;
    size_t n = kv->n_blocks * KV_HEADS * KV_BLOCK_SIZE, n_bytes = n * c->head_dim * (c->type == KV_INT8 ? 1 : 2) + KV_SLACK_BYTES;
    kv->k = test_take<uint8_t>(t, NULL, n_bytes);
    kv->v = test_take<uint8_t>(t, NULL, n_bytes);
    if (c->type == KV_INT8) {
        kv->k_scale = test_take<float>(t, NULL, n);
        kv->v_scale = test_take<float>(t, NULL, n);
    }
    return t->good;
}

/* Rows that follow one another; one of them alone, which is the same to the bit; the last of all. */
static bool attends(struct test *t, const struct cache_data *c)
{
    static float found[STRETCH * HEADS * MAX_HEAD], alone[HEADS * MAX_HEAD];
    int32_t positions[POSITIONS], sequences[POSITIONS] = {}, table[(POSITIONS - 1) / KV_BLOCK_SIZE + 1];
    struct kv_cache kv;
    const size_t n_kv = KV_HEADS * c->head_dim, n_q = HEADS * c->head_dim;
    float *k = test_take(t, c->k, POSITIONS * n_kv), *v = test_take(t, c->v, POSITIONS * n_kv), *q = test_take(t, c->q, POSITIONS * n_q);
    float *y = test_take<float>(t, NULL, STRETCH * n_q);
    if (!open_cache(t, c, &kv))
        return false;
    for (int32_t i = 0; i < POSITIONS; i++)
        positions[i] = i;
    for (size_t b = 0; b < kv.n_blocks; b++)
        table[b] = (int32_t)(kv.n_blocks - 1 - b);
    struct batch_view batch = {POSITIONS, positions, sequences, table, 1, kv.n_blocks};
    t->be->ops->kv_write(t->be, &kv, 0, &batch, k, v);
    batch.n = STRETCH;
    batch.positions = positions + FIRST;
    t->be->ops->attention(t->be, &kv, 0, &batch, q + FIRST * n_q, HEADS, y);
    test_read(t, found, y, STRETCH * n_q);
    bool good = row_is_near(c, FIRST, found) && row_is_near(c, FIRST + STRETCH - 1, found + (STRETCH - 1) * n_q);
    batch.n = 1;
    batch.positions = positions + FIRST + 60;
    t->be->ops->attention(t->be, &kv, 0, &batch, q + (FIRST + 60) * n_q, HEADS, y);
    test_read(t, alone, y, n_q);
    good = good && memcmp(alone, found + 60 * n_q, n_q * sizeof *alone) == 0;
    batch.positions = positions + POSITIONS - 1;
    t->be->ops->attention(t->be, &kv, 0, &batch, q + (POSITIONS - 1) * n_q, HEADS, y);
    test_read(t, alone, y, n_q);
    return good && row_is_near(c, POSITIONS - 1, alone);
}

bool test_attention(struct test *t)
{
    static float k[POSITIONS * KV_HEADS * MAX_HEAD], v[POSITIONS * KV_HEADS * MAX_HEAD], q[POSITIONS * HEADS * MAX_HEAD];
    static const struct {
        size_t head_dim;
        enum kv_type type;
    } cases[] = {{64, KV_F16}, {128, KV_INT8}, {72, KV_F16}, {256, KV_F16}};
    for (uint32_t i = 0; i < sizeof q / sizeof *q; i++)
        q[i] = test_value(1000000 + i) * 2.0f;
    for (uint32_t i = 0; i < sizeof k / sizeof *k; i++) {
        k[i] = test_value(2000000 + i) * 2.0f;
        v[i] = test_value(3000000 + i) * 2.0f;
    }
    for (auto &c : cases) {
        struct cache_data data = {c.head_dim, c.type, k, v, q};
        if (!attends(t, &data))
            return false;
    }
    return true;
}
