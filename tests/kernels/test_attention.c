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

static void scene_close(struct scene *s) { free(s->q), free(s->k), free(s->v); }

/* Row i of a batch: a sequence and a position. */
struct place {
    int32_t sequence, position;
};

static size_t index_of(struct place p) { return (size_t)p.sequence * MAX_POSITIONS + (size_t)p.position; }

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
    static struct place places[N_SEQUENCES * MAX_POSITIONS];
    static int32_t positions[N_SEQUENCES * MAX_POSITIONS], sequences[N_SEQUENCES * MAX_POSITIONS];
    struct batch_view batch;
    for (int32_t i = 0; i < N_SEQUENCES * MAX_POSITIONS; i++)
        places[i] = (struct place){i / MAX_POSITIONS, i % MAX_POSITIONS};
    view_of(s, places, N_SEQUENCES * MAX_POSITIONS, positions, sequences, &batch);
    op_kv_write(be, kv, 1, &batch, s->k, s->v);
}

static void attend(struct backend *be, const struct scene *s, const struct kv_cache *kv, const struct place *places, size_t n,
                   float *y)
{
    int32_t positions[64], sequences[64];
    struct batch_view batch;
    size_t width = s->n_heads * s->head_dim;
    float *q = gather(s->q, places, n, width), *out = guarded_alloc(n * width * 4, 4);
    view_of(s, places, n, positions, sequences, &batch);
    op_attention(be, kv, 1, &batch, q, s->n_heads, out);
    memcpy(y, out, n * width * 4);
    guarded_free(q);
    guarded_free(out);
}

static const struct place places[] = {{0, 0},   {1, 1},   {0, 31},  {0, 32},  {1, 15},  {0, 254}, {0, 255}, {1, 256},
                                      {0, 257}, {1, 300}, {1, 511}, {0, 512}, {0, 513}, {1, 640}, {1, 700}, {0, 735}};
#define N_PLACES (sizeof places / sizeof places[0])

static struct backend *open_with_cache(const struct scene *s, const char *isa, int threads, struct kv_cache *kv)
{
    struct backend *be = open_backend(isa, threads);
    ck_assert(kv_cache_open(be, N_LAYERS, N_SEQUENCES * MAX_BLOCKS, s->n_kv_heads, s->head_dim, kv));
    write_all(be, s, kv);
    return be;
}

static void close_with_cache(struct backend *be, struct kv_cache *kv)
{
    kv_cache_close(be, kv);
    backend_close(be);
}

static void compare_shape(size_t n_heads, size_t n_kv_heads, size_t head_dim)
{
    struct scene s;
    struct kv_cache kv;
    scene_open(&s, n_heads, n_kv_heads, head_dim);
    size_t width = n_heads * head_dim, n = N_PLACES * width;
    float *expected = malloc(n * 4), *found = malloc(n * 4);
    struct backend *be = open_with_cache(&s, "portable", 1, &kv);
    attend(be, &s, &kv, places, N_PLACES, expected);
    close_with_cache(be, &kv);
    for (int threads = 1; threads <= 3; threads++) {
        be = open_with_cache(&s, NULL, threads, &kv);
        attend(be, &s, &kv, places, N_PLACES, found);
        expect_same("batch", expected, found, n, 4);
        for (size_t i = 0; i < N_PLACES; i++) { /* one by one: the segments become the items */
            attend(be, &s, &kv, places + i, 1, found);
            expect_same("single row", expected + i * width, found, width, 4);
        }
        close_with_cache(be, &kv);
    }
    free(expected);
    free(found);
    scene_close(&s);
}

START_TEST(variants_threads_and_batches_agree)
{
    compare_shape(1, 1, 64);
    compare_shape(8, 2, 128);
    compare_shape(3, 1, 100);
    compare_shape(14, 2, 80);
    compare_shape(22, 2, 16);
    compare_shape(2, 2, 256);
    compare_shape(5, 1, 24);
}
END_TEST

/* Softmax and weighted sum in double precision over what the cache holds. */
static void in_double(const struct scene *s, struct place p, size_t head, double *y)
{
    size_t dim = s->head_dim, kv_head = head / (s->n_heads / s->n_kv_heads), n = (size_t)p.position + 1;
    static double score[MAX_POSITIONS];
    double max = -1e300, sum = 0;
    const float *q = s->q + (index_of(p) * s->n_heads + head) * dim;
    for (size_t j = 0; j < n; j++) {
        const float *k = s->k + (((size_t)p.sequence * MAX_POSITIONS + j) * s->n_kv_heads + kv_head) * dim;
        score[j] = 0;
        for (size_t d = 0; d < dim; d++)
            score[j] += (double)arith_from_f16(arith_to_f16(q[d])) * (double)arith_from_f16(arith_to_f16(k[d]));
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
            y[d] += w * (double)arith_from_f16(arith_to_f16(v[d]));
    }
    for (size_t d = 0; d < dim; d++)
        y[d] /= sum;
}

static void compare_to_double(size_t n_heads, size_t n_kv_heads, size_t dim)
{
    struct scene s;
    struct kv_cache kv;
    scene_open(&s, n_heads, n_kv_heads, dim);
    struct backend *be = open_with_cache(&s, NULL, 2, &kv);
    float *y = malloc(n_heads * dim * sizeof *y);
    double expected[KERNELS_MAX_HEAD_DIM];
    for (size_t i = 0; i < N_PLACES; i++) {
        attend(be, &s, &kv, places + i, 1, y);
        for (size_t h = 0; h < n_heads; h++) {
            in_double(&s, places[i], h, expected);
            for (size_t d = 0; d < dim; d++)
                ck_assert_double_eq_tol(y[h * dim + d], expected[d], 2e-5);
        }
    }
    free(y);
    close_with_cache(be, &kv);
    scene_close(&s);
}

START_TEST(attention_is_what_it_says)
{
    compare_to_double(6, 2, 64);
    compare_to_double(22, 2, 20); /* groups of more heads than a unit holds */
}
END_TEST

START_TEST(cache_holds_rounded_values_where_they_belong)
{
    struct scene s;
    struct kv_cache kv;
    scene_open(&s, 2, 2, 24);
    struct backend *be = open_with_cache(&s, NULL, 3, &kv);
    ck_assert_uint_eq(kv_cache_block_bytes(N_LAYERS, 2, 24), 2u * N_LAYERS * 2 * 24 * KV_BLOCK_SIZE * 2);
    for (size_t i = 0; i < N_SEQUENCES * MAX_POSITIONS; i++)
        for (size_t h = 0; h < 2; h++)
            for (size_t d = 0; d < 24; d++) {
                size_t position = i % MAX_POSITIONS;
                size_t block = (size_t)s.tables[i / MAX_POSITIONS * MAX_BLOCKS + position / KV_BLOCK_SIZE];
                size_t at = (((kv.n_blocks + block) * 2 + h) * KV_BLOCK_SIZE + position % KV_BLOCK_SIZE) * 24 + d;
                ck_assert_uint_eq(kv.k[at], arith_to_f16(s.k[(i * 2 + h) * 24 + d]));
                ck_assert_uint_eq(kv.v[at], arith_to_f16(s.v[(i * 2 + h) * 24 + d]));
                ck_assert_uint_eq(kv.k[at - kv.n_blocks * 2 * KV_BLOCK_SIZE * 24], 0); /* layer 0 */
            }
    close_with_cache(be, &kv);
    scene_close(&s);
}
END_TEST

/* More segments than one wave of partial results takes. */
START_TEST(very_long_contexts_go_in_waves)
{
    enum { BLOCKS = 65 * ARITH_SEGMENT / KV_BLOCK_SIZE + 1, POSITION = 65 * ARITH_SEGMENT + 3 };
    static int32_t table[BLOCKS];
    int32_t position = POSITION, sequence = 0;
    float q[32], y[3][32];
    for (int32_t i = 0; i < BLOCKS; i++)
        table[i] = BLOCKS - 1 - i;
    random_floats(q, 32, 3.0f);
    for (int threads = 1; threads <= 3; threads++) {
        struct kv_cache kv;
        struct backend *be = open_backend(NULL, threads);
        struct batch_view batch = {.n = 1,
                                   .positions = &position,
                                   .sequences = &sequence,
                                   .block_tables = table,
                                   .n_sequences = 1,
                                   .max_blocks = BLOCKS};
        ck_assert(kv_cache_open(be, 1, BLOCKS, 1, 32, &kv));
        for (size_t i = 0; i < BLOCKS * KV_BLOCK_SIZE * 32; i++) {
            kv.k[i] = (uint16_t)(0x3400 + i * 7919 % 2048);
            kv.v[i] = (uint16_t)(0x3400 + i * 104729 % 2048);
        }
        op_attention(be, &kv, 0, &batch, q, 1, y[threads - 1]);
        close_with_cache(be, &kv);
    }
    expect_same("2 threads", y[0], y[1], 32, 4);
    expect_same("3 threads", y[0], y[2], 32, 4);
}
END_TEST

RUN_SUITE("kernels/attention", variants_threads_and_batches_agree, attention_is_what_it_says,
          cache_holds_rounded_values_where_they_belong, very_long_contexts_go_in_waves)
