/* Paged attention: variants, threads and batches give the same bits; one row is checked in double precision. */
#include "tests/kernels/support.h"

#define MAX_POSITIONS 736 /* 23 blocks, 3 segments */
#define MAX_BLOCKS (MAX_POSITIONS / KV_BLOCK_SIZE)
#define N_SEQUENCES 2
#define N_LAYERS 2

/* Two sequences in a cache whose blocks are shuffled. */
struct scene {
    size_t n_heads, n_kv_heads, head_dim;
    int32_t tables[N_SEQUENCES * MAX_BLOCKS];
    float *q, *k, *v; /* [N_SEQUENCES][MAX_POSITIONS][heads][head_dim] */
};

static void scene_open(struct scene *s, size_t n_heads, size_t n_kv_heads, size_t head_dim)
{
    size_t n_q = N_SEQUENCES * MAX_POSITIONS * n_heads * head_dim, n_kv = n_q / n_heads * n_kv_heads;
    *s = (struct scene){.n_heads = n_heads, .n_kv_heads = n_kv_heads, .head_dim = head_dim};
    s->q = malloc(n_q * 4);
    s->k = malloc(n_kv * 4);
    s->v = malloc(n_kv * 4);
    random_floats(s->q, n_q, 2.0f);
    random_floats(s->k, n_kv, 2.0f);
    random_floats(s->v, n_kv, 1.0f);
    for (int32_t i = 0; i < N_SEQUENCES * MAX_BLOCKS; i++)
        s->tables[i] = i;
    for (size_t i = N_SEQUENCES * MAX_BLOCKS - 1; i > 0; i--) {
        size_t j = random_next() % (i + 1);
        int32_t t = s->tables[i];
        s->tables[i] = s->tables[j];
        s->tables[j] = t;
    }
}

static void scene_close(struct scene *s)
{
    free(s->q), free(s->k), free(s->v);
}

/* Row i of a batch: a sequence and a position. */
struct place {
    int32_t sequence, position;
};

static size_t index_of(struct place p)
{
    return (size_t)p.sequence * MAX_POSITIONS + (size_t)p.position;
}

/* Gathers the rows of `from` [..][width] at the places. */
static float *gather(const float *from, const struct place *places, size_t n, size_t width)
{
    float *out = guarded_alloc(n * width * 4, 4);
    for (size_t i = 0; i < n; i++)
        memcpy(out + i * width, from + index_of(places[i]) * width, width * 4);
    return out;
}

static void view_of(const struct scene *s, const struct place *places, size_t n, int32_t *positions, int32_t *sequences,
                    struct batch_view *out)
{
    for (size_t i = 0; i < n; i++) {
        positions[i] = places[i].position;
        sequences[i] = places[i].sequence;
    }
    *out = (struct batch_view){.n = n,
                               .positions = positions,
                               .sequences = sequences,
                               .block_tables = s->tables,
                               .n_sequences = N_SEQUENCES,
                               .max_blocks = MAX_BLOCKS};
}

/* Writes K and V of all positions of layer 1. */
static void write_all(struct backend *be, const struct scene *s, const struct kv_cache *kv)
{
    static struct place all[N_SEQUENCES * MAX_POSITIONS];
    static int32_t positions[N_SEQUENCES * MAX_POSITIONS], sequences[N_SEQUENCES * MAX_POSITIONS];
    struct batch_view batch;
    for (int32_t i = 0; i < N_SEQUENCES * MAX_POSITIONS; i++)
        all[i] = (struct place){i / MAX_POSITIONS, i % MAX_POSITIONS};
    view_of(s, all, N_SEQUENCES * MAX_POSITIONS, positions, sequences, &batch);
    op_kv_write(be, kv, 1, &batch, s->k, s->v);
}

#define MAX_PLACES 96

/* NaN is one value here: which one is not defined. */
static void attend(struct backend *be, const struct scene *s, const struct kv_cache *kv, const struct place *at,
                   size_t n, float *y)
{
    int32_t positions[MAX_PLACES], sequences[MAX_PLACES];
    struct batch_view batch;
    size_t width = s->n_heads * s->head_dim;
    float *q = gather(s->q, at, n, width), *out = guarded_alloc(n * width * 4, 4);
    view_of(s, at, n, positions, sequences, &batch);
    op_attention(be, kv, 1, &batch, q, s->n_heads, out);
    for (size_t i = 0; i < n * width; i++)
        y[i] = out[i] == out[i] ? out[i] : NAN;
    guarded_free(q);
    guarded_free(out);
}

/* Rows as decodes and prompts make them: some of all sequences, then stretches that cross blocks and segments. */
static const struct place decodes[] = {{0, 0},   {1, 1},   {0, 31},  {0, 32},  {1, 15},  {0, 254}, {0, 255}, {1, 256},
                                       {0, 257}, {1, 300}, {1, 511}, {0, 512}, {0, 513}, {1, 640}, {1, 700}, {0, 735}};
#define N_DECODES (sizeof decodes / sizeof decodes[0])
static const struct {
    struct place from;
    size_t n;
} stretches[] = {{{0, 236}, 40}, {{1, 0}, 7}, {{1, 508}, 9}, {{0, 30}, 5}};

static size_t make_places(struct place *out)
{
    size_t n = N_DECODES;
    memcpy(out, decodes, sizeof decodes);
    for (size_t i = 0; i < sizeof stretches / sizeof stretches[0]; i++)
        for (size_t j = 0; j < stretches[i].n; j++)
            out[n++] = (struct place){stretches[i].from.sequence, stretches[i].from.position + (int32_t)j};
    return n;
}

static struct backend *open_with_cache(const struct scene *s, enum kv_type type, const char *isa, int threads,
                                       struct kv_cache *kv)
{
    struct backend *be = open_backend(isa, threads);
    struct error err = {0};
    ck_assert_msg(!kv_cache_open(be, type, N_LAYERS, N_SEQUENCES * MAX_BLOCKS, s->n_kv_heads, s->head_dim, kv, &err),
                  "%s", err.message);
    write_all(be, s, kv);
    return be;
}

static void close_with_cache(struct backend *be, struct kv_cache *kv)
{
    kv_cache_close(be, kv);
    backend_close(be);
}

/* One variant: the whole batch, parts of it, and rows alone. */
static void compare_variant(const struct scene *s, enum kv_type type, const char *isa, int threads,
                            const struct place *at, size_t n, const float *expected, float *found)
{
    struct kv_cache kv;
    struct backend *be = open_with_cache(s, type, isa, threads, &kv);
    size_t width = s->n_heads * s->head_dim;
    attend(be, s, &kv, at, n, found);
    expect_same(isa, expected, found, n * width, 4);
    for (size_t i = 0, part = 1; i < n; i += part, part = part % 33 + 6) {
        part = part < n - i ? part : n - i;
        attend(be, s, &kv, at + i, part, found);
        expect_same("part of a batch", expected + i * width, found, part * width, 4);
    }
    for (size_t i = 0; i < N_DECODES; i++) {
        attend(be, s, &kv, at + i, 1, found);
        expect_same("single row", expected + i * width, found, width, 4);
    }
    close_with_cache(be, &kv);
}

/* The reference goes row by row; every instruction set that this CPU has is compared with it. */
static void compare_all(const struct scene *s, enum kv_type type)
{
    struct place at[MAX_PLACES];
    struct kv_cache kv;
    size_t n = make_places(at), width = s->n_heads * s->head_dim;
    float *expected = malloc(n * width * 4), *found = malloc(n * width * 4);
    struct backend *be = open_with_cache(s, type, "portable", 1, &kv);
    for (size_t i = 0; i < n; i++)
        attend(be, s, &kv, at + i, 1, expected + i * width);
    close_with_cache(be, &kv);
    for (size_t level = quick() ? cpu_best_level() : 0; level <= cpu_best_level(); level++)
        for (int threads = level && !quick() ? 1 : 3; threads <= 3; threads++)
            compare_variant(s, type, cpu_levels[level].name, threads, at, n, expected, found);
    free(expected);
    free(found);
}

static void compare_shape(size_t n_heads, size_t n_kv_heads, size_t head_dim, enum kv_type type)
{
    struct scene s;
    scene_open(&s, n_heads, n_kv_heads, head_dim);
    compare_all(&s, type);
    scene_close(&s);
}

static void compare_shapes(enum kv_type type)
{
    static const size_t shapes[][3] = {{1, 1, 64},  {8, 2, 32}, {3, 1, 100}, {4, 2, 80},  {22, 2, 16},
                                       {2, 2, 256}, {5, 1, 24}, {9, 1, 40},  {5, 1, 128}, {17, 1, 7}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        compare_shape(shapes[i][0], shapes[i][1], shapes[i][2], type);
}

START_TEST(variants_threads_and_batches_agree)
{
    compare_shapes(KV_F16);
}
END_TEST

START_TEST(variants_threads_and_batches_agree_on_int8)
{
    compare_shapes(KV_INT8);
}
END_TEST

/* Zeros, denormals, what F16 cannot hold, infinities and NaN: in all of K, V and q, or in one of them. */
static void compare_wild(enum kv_type type, bool with_specials, int which)
{
    struct scene s;
    scene_open(&s, 5, 1, 36);
    size_t n_kv = N_SEQUENCES * MAX_POSITIONS * 36;
    if (which != 1)
        wild_floats(s.q, 5 * n_kv, with_specials);
    if (which != 2)
        wild_floats(s.k, n_kv, with_specials);
    if (which != 3)
        wild_floats(s.v, n_kv, with_specials);
    compare_all(&s, type);
    scene_close(&s);
}

START_TEST(extreme_values_agree)
{
    for (int which = 0; which <= 3; which++) {
        compare_wild(KV_F16, false, which);
        compare_wild(KV_INT8, false, which);
    }
    compare_wild(KV_F16, true, 0);
    compare_wild(KV_INT8, true, 0);
}
END_TEST

/* Infinity at the position after a row's, whose values a kernel may read with those of the last one. */
static void compare_poisoned(enum kv_type type)
{
    static const struct place poison[] = {{0, 514}, {1, 510}};
    struct scene s;
    scene_open(&s, 5, 1, 36);
    for (size_t i = 0; i < sizeof poison / sizeof poison[0]; i++)
        for (size_t d = 0; d < 36; d++)
            s.k[index_of(poison[i]) * 36 + d] = s.v[index_of(poison[i]) * 36 + d] = INFINITY;
    compare_all(&s, type);
    scene_close(&s);
}

START_TEST(what_lies_behind_a_row_is_not_used)
{
    compare_poisoned(KV_F16);
    compare_poisoned(KV_INT8);
}
END_TEST

/* Sums of products as large as they get. */
START_TEST(full_range_of_int8_agrees)
{
    struct scene s;
    scene_open(&s, 4, 1, 256);
    for (size_t i = 0; i < N_SEQUENCES * MAX_POSITIONS * 256; i++) {
        s.k[i] = i / 256 % 3 ? 5.0f : -5.0f;
        for (size_t h = 0; h < 4; h++)
            s.q[4 * i + h] = h == 3 ? -0.01f : 0.01f;
    }
    compare_all(&s, KV_INT8);
    scene_close(&s);
}
END_TEST

/* Column d of a head as the cache gives it back. */
static double stored(const float *row, size_t dim, size_t d, enum kv_type type)
{
    if (type == KV_F16)
        return (double)arith_from_f16(arith_to_f16(row[d]));
    float max = 1e-5f;
    for (size_t i = 0; i < dim; i++)
        max = fabsf(row[i]) < INFINITY && fabsf(row[i]) > max ? fabsf(row[i]) : max;
    float s = 127.0f / max;
    return (fabsf(row[d]) < INFINITY ? (double)rintf(row[d] * s) : 0.0) * (double)(1.0f / s);
}

/* Softmax and weighted sum in double precision over what the cache holds. */
static void in_double(const struct scene *s, enum kv_type type, struct place p, size_t head, double *y)
{
    size_t dim = s->head_dim, kv_head = head / (s->n_heads / s->n_kv_heads), n = (size_t)p.position + 1;
    static double score[MAX_POSITIONS];
    double max = -1e300, sum = 0;
    const float *q = s->q + (index_of(p) * s->n_heads + head) * dim;
    for (size_t j = 0; j < n; j++) {
        const float *k = s->k + (((size_t)p.sequence * MAX_POSITIONS + j) * s->n_kv_heads + kv_head) * dim;
        score[j] = 0;
        for (size_t d = 0; d < dim; d++)
            score[j] += (double)(type == KV_F16 ? arith_from_f16(arith_to_f16(q[d])) : q[d]) * stored(k, dim, d, type);
        score[j] /= sqrt((double)dim);
        max = score[j] > max ? score[j] : max;
    }
    for (size_t d = 0; d < dim; d++)
        y[d] = 0;
    for (size_t j = 0; j < n; j++) {
        const float *v = s->v + (((size_t)p.sequence * MAX_POSITIONS + j) * s->n_kv_heads + kv_head) * dim;
        double w = exp(score[j] - max);
        sum += w;
        for (size_t d = 0; d < dim; d++)
            y[d] += w * stored(v, dim, d, type);
    }
    for (size_t d = 0; d < dim; d++)
        y[d] /= sum;
}

static void compare_to_double(size_t n_heads, size_t n_kv_heads, size_t dim, enum kv_type type)
{
    struct scene s;
    struct kv_cache kv;
    scene_open(&s, n_heads, n_kv_heads, dim);
    struct backend *be = open_with_cache(&s, type, NULL, 2, &kv);
    float *y = malloc(n_heads * dim * sizeof *y);
    double expected[KERNELS_MAX_HEAD_DIM];
    for (size_t i = 0; i < N_DECODES; i++) {
        attend(be, &s, &kv, decodes + i, 1, y);
        for (size_t h = 0; h < n_heads; h++) {
            in_double(&s, type, decodes[i], h, expected);
            for (size_t d = 0; d < dim; d++)
                ck_assert_double_eq_tol(y[h * dim + d], expected[d],
                                        type == KV_F16 ? 2e-5 : 2e-4); /* int8: q has 16 bits */
        }
    }
    free(y);
    close_with_cache(be, &kv);
    scene_close(&s);
}

START_TEST(attention_is_what_it_says)
{
    compare_to_double(6, 2, 64, KV_F16);
    compare_to_double(34, 2, 20, KV_F16); /* groups of more heads than a unit holds */
    compare_to_double(6, 2, 64, KV_INT8);
    compare_to_double(34, 2, 20, KV_INT8);
}
END_TEST

/* Of a mean of values within [-1, 1]: half a step of V, 1/254, and what the rounding of K moves the weights by. */
START_TEST(int8_is_near_f16)
{
    struct scene s;
    struct kv_cache f16, int8;
    scene_open(&s, 8, 2, 128);
    struct backend *a = open_with_cache(&s, KV_F16, NULL, 1, &f16), *b = open_with_cache(&s, KV_INT8, NULL, 1, &int8);
    static float expected[8 * 128], found[8 * 128];
    for (size_t i = 0; i < N_DECODES; i++) {
        attend(a, &s, &f16, decodes + i, 1, expected);
        attend(b, &s, &int8, decodes + i, 1, found);
        for (size_t d = 0; d < 8 * 128; d++)
            ck_assert_double_eq_tol(found[d], expected[d], 0.01);
    }
    close_with_cache(a, &f16);
    close_with_cache(b, &int8);
    scene_close(&s);
}
END_TEST

/* Where position i of all sequences' lies in layer 1, for one of 2 KV heads. */
static size_t place_in_cache(const struct scene *s, const struct kv_cache *kv, size_t i, size_t head)
{
    size_t position = i % MAX_POSITIONS,
           block = (size_t)s->tables[i / MAX_POSITIONS * MAX_BLOCKS + position / KV_BLOCK_SIZE];
    return ((kv->n_blocks + block) * 2 + head) * KV_BLOCK_SIZE + position % KV_BLOCK_SIZE;
}

START_TEST(cache_holds_rounded_values_where_they_belong)
{
    struct scene s;
    struct kv_cache kv;
    scene_open(&s, 2, 2, 24);
    struct backend *be = open_with_cache(&s, KV_F16, NULL, 3, &kv);
    ck_assert_uint_eq(kv_cache_block_bytes(KV_F16, N_LAYERS, 2, 24), 2u * N_LAYERS * 2 * 24 * KV_BLOCK_SIZE * 2);
    const uint16_t *k = kv.k, *v = kv.v;
    for (size_t i = 0; i < N_SEQUENCES * MAX_POSITIONS; i++)
        for (size_t h = 0; h < 2; h++)
            for (size_t d = 0; d < 24; d++) {
                size_t at = place_in_cache(&s, &kv, i, h) * 24 + d;
                ck_assert_uint_eq(k[at], arith_to_f16(s.k[(i * 2 + h) * 24 + d]));
                ck_assert_uint_eq(v[at], arith_to_f16(s.v[(i * 2 + h) * 24 + d]));
                ck_assert_uint_eq(k[at - kv.n_blocks * 2 * KV_BLOCK_SIZE * 24], 0); /* layer 0 */
            }
    close_with_cache(be, &kv);
    scene_close(&s);
}
END_TEST

START_TEST(int8_cache_holds_values_and_scales)
{
    struct scene s;
    struct kv_cache kv;
    scene_open(&s, 2, 2, 24);
    memset(s.k + 24, 0, 24 * sizeof *s.k); /* position 0, head 1: zeros, and what counts as zero */
    s.k[24 + 3] = INFINITY;
    s.k[24 + 7] = NAN;
    struct backend *be = open_with_cache(&s, KV_INT8, NULL, 3, &kv);
    const int8_t *k = kv.k, *v = kv.v;
    for (size_t i = 0; i < N_SEQUENCES * MAX_POSITIONS; i++)
        for (size_t h = 0; h < 2; h++)
            for (size_t d = 0; d < 24; d++) {
                size_t at = place_in_cache(&s, &kv, i, h), row = (i * 2 + h) * 24;
                ck_assert_double_eq((double)k[at * 24 + d] * (double)kv.k_scale[at], stored(s.k + row, 24, d, KV_INT8));
                ck_assert_double_eq((double)v[at * 24 + d] * (double)kv.v_scale[at], stored(s.v + row, 24, d, KV_INT8));
                ck_assert(kv.k_scale[at - kv.n_blocks * 2 * KV_BLOCK_SIZE] == 0.0f); /* layer 0 */
            }
    for (size_t d = 0; d < 24; d++)
        ck_assert_int_eq(k[place_in_cache(&s, &kv, 0, 1) * 24 + d], 0);
    close_with_cache(be, &kv);
    scene_close(&s);
}
END_TEST

/* One long row is cut into its segments, alone and beside short ones that are not. */
START_TEST(long_contexts_go_in_pieces)
{
    enum { SEGMENTS = 65, BLOCKS = SEGMENTS * ARITH_SEGMENT / KV_BLOCK_SIZE + 1, ROWS = 9, DIM = 32 };
    static int32_t table[BLOCKS];
    int32_t positions[ROWS] = {SEGMENTS * ARITH_SEGMENT + 3, 5, 90, 300, 7, 513, 1, 2, 31}, sequences[ROWS] = {0};
    float q[ROWS * DIM], y[4][ROWS * DIM];
    for (int32_t i = 0; i < BLOCKS; i++)
        table[i] = BLOCKS - 1 - i;
    random_floats(q, ROWS * DIM, 3.0f);
    for (int threads = 0; threads <= 3; threads++) { /* 0: one, and row by row */
        struct kv_cache kv;
        struct error err;
        struct backend *be = open_backend(NULL, threads ? threads : 1);
        ck_assert(!kv_cache_open(be, KV_F16, 1, BLOCKS, 1, DIM, &kv, &err));
        uint16_t *k = kv.k, *v = kv.v;
        for (size_t i = 0; i < BLOCKS * KV_BLOCK_SIZE * DIM; i++) {
            k[i] = (uint16_t)(0x3400 + i * 7919 % 2048);
            v[i] = (uint16_t)(0x3400 + i * 104729 % 2048);
        }
        for (size_t row = 0, n = threads ? ROWS : 1; row < ROWS; row += n) {
            struct batch_view batch = {.n = n,
                                       .positions = positions + row,
                                       .sequences = sequences,
                                       .block_tables = table,
                                       .n_sequences = 1,
                                       .max_blocks = BLOCKS};
            op_attention(be, &kv, 0, &batch, q + row * DIM, 1, y[threads] + row * DIM);
            op_attention(be, &kv, 0, &batch, q + row * DIM, 1, y[threads] + row * DIM); /* counters are as they were */
        }
        close_with_cache(be, &kv);
    }
    for (int threads = 1; threads <= 3; threads++)
        expect_same("rows together", y[0], y[threads], ROWS * DIM, 4);
}
END_TEST

RUN_SUITE("kernels/attention", variants_threads_and_batches_agree, variants_threads_and_batches_agree_on_int8,
          extreme_values_agree, what_lies_behind_a_row_is_not_used, full_range_of_int8_agrees,
          attention_is_what_it_says, int8_is_near_f16, cache_holds_rounded_values_where_they_belong,
          int8_cache_holds_values_and_scales, long_contexts_go_in_pieces)
