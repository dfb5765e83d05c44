/* Cases of the KV cache: what is stored, and attention to it. Everything that no row has written is NaN. */
#include "kernels/cuda/check.h"

#include <stdio.h>
#include <stdlib.h>

#define LAYERS 2
#define LAYER 1
#define SEQUENCES 2
#define MAX_ROWS 200

struct scene {
    size_t n_heads, n_kv_heads, head_dim, n_positions, max_blocks; /* positions of each sequence */
    enum kv_type type;
    float *q, *k, *v;         /* [SEQUENCES][n_positions][heads][head_dim] */
    int32_t *tables;
    struct twin cache[4];     /* k, v, k_scale, v_scale; the last two for int8 */
    struct kv_cache kv[2];
    size_t n;                 /* rows of the batch */
    int32_t positions[MAX_ROWS], sequences[MAX_ROWS];
    struct twin q_rows, y;    /* [n][n_heads][head_dim] */
};

static struct batch_view view_of(const struct scene *s, size_t first, size_t n)
{
    return (struct batch_view){n, s->positions + first, s->sequences + first, s->tables, SEQUENCES, s->max_blocks};
}

/* ---- the scene */

static void open_caches(struct check *c, struct scene *s)
{
    size_t n_blocks = SEQUENCES * s->max_blocks, n_places = LAYERS * n_blocks * s->n_kv_heads * KV_BLOCK_SIZE;
    size_t value_bytes = s->type == KV_F16 ? sizeof(uint16_t) : sizeof(int8_t), n_bytes = n_places * s->head_dim * value_bytes;
    uint8_t *unwritten = malloc(n_bytes + KV_SLACK_BYTES + n_places * sizeof(float));
    if (!unwritten)
        abort();
    memset(unwritten, 0xff, n_bytes + KV_SLACK_BYTES + n_places * sizeof(float));
    for (int i = 0; i < 2; i++) {
        s->cache[i] = twin_open(c, unwritten, n_bytes + KV_SLACK_BYTES);
        if (s->type == KV_INT8)
            s->cache[2 + i] = twin_open(c, unwritten, n_places * sizeof(float));
    }
    for (int which = REFERENCE; which <= DEVICE; which++)
        s->kv[which] = (struct kv_cache){.k = s->cache[0].at[which],
                                         .v = s->cache[1].at[which],
                                         .k_scale = s->cache[2].at[which],
                                         .v_scale = s->cache[3].at[which],
                                         .type = s->type,
                                         .n_layers = LAYERS,
                                         .n_blocks = n_blocks,
                                         .n_kv_heads = s->n_kv_heads,
                                         .head_dim = s->head_dim};
    free(unwritten);
}

/* Blocks of the sequences in one order by turns, from the last to the first. */
static void scene_open(struct check *c, struct scene *s, size_t n_heads, size_t n_kv_heads, size_t head_dim, size_t n_positions,
                       enum kv_type type, enum fill fill)
{
    *s = (struct scene){.n_heads = n_heads,
                        .n_kv_heads = n_kv_heads,
                        .head_dim = head_dim,
                        .n_positions = n_positions,
                        .max_blocks = (n_positions - 1) / KV_BLOCK_SIZE + 1,
                        .type = type};
    s->q = check_floats(c, SEQUENCES * n_positions * n_heads * head_dim, fill);
    s->k = check_floats(c, SEQUENCES * n_positions * n_kv_heads * head_dim, fill);
    s->v = check_floats(c, SEQUENCES * n_positions * n_kv_heads * head_dim, fill);
    s->tables = malloc(SEQUENCES * s->max_blocks * sizeof *s->tables);
    if (!s->tables)
        abort();
    for (size_t i = 0; i < SEQUENCES * s->max_blocks; i++)
        s->tables[i] = (int32_t)(SEQUENCES * (s->max_blocks - 1 - i % s->max_blocks) + i / s->max_blocks);
    open_caches(c, s);
}

/* Positions 0 .. n_positions - 1 of all sequences into the cache, in batches of unlike sizes. */
static void write_all(struct check *c, struct scene *s)
{
    size_t width = s->n_kv_heads * s->head_dim, all = SEQUENCES * s->n_positions;
    struct twin k = twin_open(c, s->k, all * width * sizeof(float)), v = twin_open(c, s->v, all * width * sizeof(float));
    for (int which = REFERENCE; which <= DEVICE; which++)
        for (size_t at = 0, n, turn = 0; at < all; at += n, turn++) {
            n = turn % 3 == 0 ? MAX_ROWS : turn % 3 == 1 ? 1 : 37;
            n = n < all - at ? n : all - at;
            for (size_t i = 0; i < n; i++) {
                s->positions[i] = (int32_t)((at + i) % s->n_positions);
                s->sequences[i] = (int32_t)((at + i) / s->n_positions);
            }
            struct batch_view batch = view_of(s, 0, n);
            op_kv_write(c->be[which], &s->kv[which], LAYER, &batch, (float *)k.at[which] + at * width, (float *)v.at[which] + at * width);
        }
    twin_close(c, "K", &k);
    twin_close(c, "V", &v);
}

static void scene_close(struct check *c, struct scene *s)
{
    for (int i = 0; i < (s->type == KV_INT8 ? 4 : 2); i++)
        twin_close(c, "cache", &s->cache[i]);
    free(s->q), free(s->k), free(s->v), free(s->tables);
}

/* ---- what is stored */

static void check_kv_write_of(struct check *c, size_t n_kv_heads, size_t head_dim, enum kv_type type, enum fill fill)
{
    static const char *const names[] = {"K", "V", "scales of K", "scales of V"};
    struct scene s;
    char what[100];
    scene_open(c, &s, n_kv_heads, n_kv_heads, head_dim, 100, type, fill);
    write_all(c, &s);
    for (int i = 0; i < (type == KV_INT8 ? 4 : 2); i++) {
        void *expected = twin_read(c, &s.cache[i], REFERENCE), *found = twin_read(c, &s.cache[i], DEVICE);
        snprintf(what, sizeof what, "%s of heads of %zu, %s", names[i], head_dim, check_fill_names[fill]);
        uint16_t *a = expected, *b = found; /* a NaN need only be one */
        for (size_t k = 0; type == KV_F16 && k < s.cache[i].n_bytes / sizeof *a; k++)
            if ((a[k] & 0x7fff) > 0x7c00 && (b[k] & 0x7fff) > 0x7c00)
                b[k] = a[k];
        check_same(c, what, expected, found, s.cache[i].n_bytes);
        free(expected), free(found);
    }
    scene_close(c, &s);
}

static bool has_int8(struct check *c) { return c->be[DEVICE]->ops->has_kv_int8; }

void check_kv_write(struct check *c)
{
    for (enum kv_type type = KV_F16; type <= (has_int8(c) ? KV_INT8 : KV_F16); type++) {
        check_kv_write_of(c, 5, 128, type, FILL_PLAIN);
        check_kv_write_of(c, 1, 7, type, FILL_PLAIN);
        check_kv_write_of(c, 2, 80, type, FILL_PLAIN);
        check_kv_write_of(c, 1, 256, type, FILL_PLAIN);
        for (enum fill fill = 0; fill < N_FILLS; fill++)
            check_kv_write_of(c, 2, 64, type, fill);
    }
}

/* ---- attention */

/* Rows as decodes and prompts make them: some of all sequences, then stretches that cross blocks and segments. */
static const int32_t decodes[][2] = {{0, 0},   {1, 1},   {0, 31},  {0, 32},  {0, 254}, {0, 255},
                                     {1, 256}, {0, 257}, {1, 300}, {1, 511}, {0, 512}, {1, 513}};
static const int32_t stretches[][3] = {{0, 195, 70}, {1, 0, 7}, {1, 508, 5}, {0, 30, 5}, {1, 0, 19}}; /* sequence, first, n */
#define LONGEST 514

static void add_row(struct scene *s, int32_t sequence, int32_t position)
{
    s->sequences[s->n] = sequence;
    s->positions[s->n++] = position;
}

static void usual_rows(struct scene *s, bool all)
{
    for (size_t i = 0; i < sizeof decodes / sizeof decodes[0]; i += all ? 1 : 2)
        add_row(s, decodes[i][0], decodes[i][1]);
    for (size_t i = 0; i < (all ? sizeof stretches / sizeof stretches[0] : 2); i++)
        for (int32_t j = 0; j < stretches[i][2]; j++)
            add_row(s, stretches[i][0], stretches[i][1] + j);
    for (int i = 0; i < 6; i++) /* as of a text whose tokens see all of it */
        add_row(s, 1, 40);
}

static void run_attention(struct backend *be, int which, const void *arg, size_t first, size_t n)
{
    const struct scene *s = arg;
    struct batch_view batch = view_of(s, first, n);
    size_t at = first * s->n_heads * s->head_dim;
    op_attention(be, &s->kv[which], LAYER, &batch, (const float *)s->q_rows.at[which] + at, s->n_heads, (float *)s->y.at[which] + at);
}

static float stored_half(float x) { return arith_from_f16(arith_to_f16(x)); }

/* Of the finite values. */
static double norm_of(const float *x, size_t n, bool half)
{
    double sum = 0;
    for (size_t d = 0; d < n; d++) {
        float value = half ? stored_half(x[d]) : x[d];
        sum += fabsf(value) < INFINITY ? (double)value * (double)value : 0;
    }
    return sqrt(sum);
}

/* What a value of a row and head may differ by: from the largest score that norms allow and the largest V that is read. */
static float bound_of(const struct scene *s, size_t row, size_t head)
{
    size_t dim = s->head_dim, kv_head = head / (s->n_heads / s->n_kv_heads), n = (size_t)s->positions[row] + 1;
    const float *q = s->q + row * s->n_heads * dim + head * dim;
    double k_most = 0, v_most = 0;
    for (size_t j = 0; j < n; j++) {
        size_t at = (((size_t)s->sequences[row] * s->n_positions + j) * s->n_kv_heads + kv_head) * dim;
        double k = norm_of(s->k + at, dim, s->type == KV_F16);
        k_most = k > k_most ? k : k_most;
        for (size_t d = 0; d < dim; d++) {
            double v = fabs((double)(s->type == KV_F16 ? stored_half(s->v[at + d]) : s->v[at + d]));
            v_most = v > v_most && v < (double)INFINITY ? v : v_most;
        }
    }
    double score = norm_of(q, dim, s->type == KV_F16) * k_most / sqrt((double)dim), share = ATTENTION_BOUND * (1 + score);
    return share < 1 ? (float)(share * v_most) + 0x1p-147f : INFINITY; /* infinite: any key may win */
}

static void check_batch(struct check *c, struct scene *s, const char *what)
{
    size_t width = s->n_heads * s->head_dim;
    float *bounds = malloc(s->n * width * sizeof *bounds);
    if (!bounds)
        abort();
    for (size_t i = 0; i < s->n; i++)
        for (size_t h = 0; h < s->n_heads; h++)
            for (size_t d = 0; d < s->head_dim; d++)
                bounds[i * width + h * s->head_dim + d] = d ? bounds[i * width + h * s->head_dim] : bound_of(s, i, h);
    s->q_rows = twin_open(c, s->q, s->n * width * sizeof(float)); /* of any positions: q is random */
    s->y = twin_open(c, NULL, s->n * width * sizeof(float));
    check_rows(c, what, &(struct row_check){run_attention, s, s->n, {{"y", &s->y, {NULL}, width * sizeof(float), true, bounds}}});
    twin_close(c, what, &s->q_rows);
    twin_close(c, what, &s->y);
    free(bounds);
}

static void check_shape(struct check *c, const size_t shape[3], enum kv_type type, enum fill fill, bool all)
{
    struct scene s;
    char what[100];
    scene_open(c, &s, shape[0], shape[1], shape[2], LONGEST, type, fill);
    write_all(c, &s);
    usual_rows(&s, all);
    snprintf(what, sizeof what, "attention of %zu heads of %zu, %zu of K and V, %s", shape[0], shape[2], shape[1], check_fill_names[fill]);
    check_batch(c, &s, what);
    scene_close(c, &s);
}

static void check_shapes(struct check *c, enum kv_type type)
{
    static const size_t shapes[][3] = {{1, 1, 64},  {4, 2, 32},  {4, 1, 128}, {3, 1, 100}, {4, 2, 80},
                                       {22, 2, 16}, {2, 1, 256}, {9, 1, 40},  {17, 1, 7}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        check_shape(c, shapes[i], type, FILL_PLAIN, i < 2);
}

void check_attention_f16(struct check *c) { check_shapes(c, KV_F16); }

void check_attention_int8(struct check *c)
{
    if (has_int8(c))
        check_shapes(c, KV_INT8);
}

/* V that is infinite behind what a row attends to, beside rows that do attend to it. */
static void check_poisoned(struct check *c, enum kv_type type)
{
    struct scene s;
    scene_open(c, &s, 4, 1, 64, LONGEST, type, FILL_PLAIN);
    for (size_t position = 3; position < LONGEST; position += 254)
        for (size_t d = 0; d < 64; d++)
            s.k[position * 64 + d] = s.v[position * 64 + d] = INFINITY;
    write_all(c, &s);
    for (int32_t i = 0; i < 9; i++) /* 3 and 257 are among them */
        add_row(&s, 0, i);
    for (int32_t i = 200; i < 270; i++)
        add_row(&s, 0, i);
    check_batch(c, &s, "attention before infinite values");
    scene_close(c, &s);
}

void check_attention_extremes(struct check *c)
{
    static const size_t shapes[][3] = {{4, 1, 64}, {5, 1, 16}};
    for (enum kv_type type = KV_F16; type <= (has_int8(c) ? KV_INT8 : KV_F16); type++) {
        for (enum fill fill = FILL_ZERO; fill < N_FILLS; fill++)
            check_shape(c, shapes[fill % 2], type, fill, false);
        check_poisoned(c, type);
    }
}

/* Many segments, alone and beside short ones. */
void check_attention_long(struct check *c)
{
    static const int32_t rows[] = {5000, 5, 90, 4863, 4864, 4865, 7, 513, 1, 2, 31};
    for (enum kv_type type = KV_F16; type <= (has_int8(c) ? KV_INT8 : KV_F16); type++) {
        struct scene s;
        scene_open(c, &s, 4, 2, 32, 5001, type, FILL_PLAIN);
        write_all(c, &s);
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
            add_row(&s, (int32_t)i % SEQUENCES, rows[i]);
        check_batch(c, &s, "attention to 5001 positions");
        scene_close(c, &s);
    }
}
