/*
 * Attention over one segment in SIMD, written once. An instruction set's file defines what follows, includes this and calls
 * attend_segment:
 *
 *   struct lanes         the 16 lanes of kernels/arith.h, and lanes_zero, lanes_load, lanes_store, lanes_all (one value in all lanes),
 *                        lanes_add, lanes_sub, lanes_mul, lanes_fma, lanes_sum, lanes_exp, lanes_max (where the first is NaN, the
 *                        second), lanes_most (the largest of 16)
 *   lanes_of             16 values of the cache, of a type, as f32
 *   load_query           a head of q in the form that dots reads, at most KERNELS_MAX_HEAD_DIM floats, zero beyond head_dim where it
 *                        matters; returns the factor that makes scores of dot products
 *   TILE, dots           dot products of H queries with TILE / H positions; asks for as many bytes at `next` as it reads, unless that is NULL
 *   COLUMN(H)            how many lanes of V's sums H queries may take at a time
 *   prefetch             asks for the cache lines of n bytes
 *
 * Everything goes in blocks of KV_BLOCK_SIZE positions, whose values lie together: all queries meet a block while it is in the
 * first cache, four at a time share the conversion of its values, and the first four ask for the block after it. Positions
 * behind the last one of a block are scored too and then left out; reads run up to KV_SLACK_BYTES past a position's values.
 */
#ifndef KERNELS_ATTENTION_LANES_H
#define KERNELS_ATTENTION_LANES_H

#define QUERIES 4 /* that share a conversion */
#define MAX_COLUMN 4

struct attention_work {
    const struct attention_segment *s;
    size_t n_queries, n_positions; /* positions: of the last row */
    size_t row_bytes, out_stride;
    float factor[CPU_MAX_QUERIES];
    _Alignas(64) float q[CPU_MAX_QUERIES][KERNELS_MAX_HEAD_DIM];
    _Alignas(64) float p[CPU_MAX_QUERIES][ARITH_SEGMENT]; /* scores, then weights */
};

static inline size_t positions_of(const struct attention_work *w, size_t query)
{
    size_t n = w->s->n_positions + query / w->s->n_heads;
    return n < ARITH_SEGMENT ? n : ARITH_SEGMENT;
}

/* Block b of K or V; NULL behind the last one. */
ALWAYS_INLINE const uint8_t *block_at(const struct attention_work *w, const void *base, size_t b, const enum kv_type T)
{
    if (b * KV_BLOCK_SIZE >= w->n_positions)
        return NULL;
    return (const uint8_t *)base + (size_t)w->s->blocks[b] * w->s->block_stride * KV_TYPE_BYTES(T);
}

/* Dot products of H queries with the positions of block b. */
ALWAYS_INLINE void score_block(struct attention_work *w, size_t query, size_t b, const int H, const enum kv_type T,
                               const uint8_t *next)
{
    const uint8_t *k = block_at(w, w->s->k, b, T);
    size_t left = positions_of(w, query + (size_t)H - 1), tile_bytes = TILE / (size_t)H * w->row_bytes;
    left = left > b * KV_BLOCK_SIZE ? left - b * KV_BLOCK_SIZE : 0;
    for (size_t j = 0; j < left && j < KV_BLOCK_SIZE; j += TILE / (size_t)H, k += tile_bytes) {
        dots(w->q[query], H, T, k, w->s->head_dim, w->p[query] + b * KV_BLOCK_SIZE + j, next);
        next = next ? next + tile_bytes : NULL;
    }
}

/* Adds positions begin .. end - 1 of a block, times their weights p, to W lanes of out for H queries. */
ALWAYS_INLINE void weigh_column(const uint8_t *v, size_t row_bytes, const float *p, size_t begin, size_t end,
                                float *out, size_t out_stride, const int H, const int W, const enum kv_type T,
                                const uint8_t *next)
{
    struct lanes sum[QUERIES][MAX_COLUMN];
#pragma GCC unroll 4
    for (int h = 0; h < H; h++)
#pragma GCC unroll 4
        for (int c = 0; c < W; c++)
            sum[h][c] = lanes_load(out + (size_t)h * out_stride + c * ARITH_LANES);
    for (size_t j = begin; j < end; j++) {
        struct lanes x[MAX_COLUMN];
        if (next)
            prefetch(next + j * row_bytes, (size_t)W * ARITH_LANES * KV_TYPE_BYTES(T));
#pragma GCC unroll 4
        for (int c = 0; c < W; c++)
            x[c] = lanes_of(v + j * row_bytes + (size_t)c * ARITH_LANES * KV_TYPE_BYTES(T), T);
#pragma GCC unroll 4
        for (int h = 0; h < H; h++) {
            struct lanes weight = lanes_all(p[(size_t)h * ARITH_SEGMENT + j]);
#pragma GCC unroll 4
            for (int c = 0; c < W; c++)
                sum[h][c] = lanes_fma(weight, x[c], sum[h][c]);
        }
    }
#pragma GCC unroll 4
    for (int h = 0; h < H; h++)
#pragma GCC unroll 4
        for (int c = 0; c < W; c++)
            lanes_store(out + (size_t)h * out_stride + c * ARITH_LANES, sum[h][c]);
}

ALWAYS_INLINE void weigh_range(const struct attention_work *w, size_t query, size_t b, size_t begin, size_t end,
                               const int H, const enum kv_type T, const uint8_t *next)
{
    const uint8_t *v = block_at(w, w->s->v, b, T);
    const float *p = w->p[query] + b * KV_BLOCK_SIZE;
    float *out = w->s->out + query * w->out_stride;
    size_t d = 0, step = COLUMN(H) * ARITH_LANES;
    for (; d + step <= w->out_stride; d += step)
        weigh_column(v + d * KV_TYPE_BYTES(T), w->row_bytes, p, begin, end, out + d, w->out_stride, H, COLUMN(H), T,
                     next ? next + d * KV_TYPE_BYTES(T) : NULL);
    for (; d < w->out_stride; d += ARITH_LANES)
        weigh_column(v + d * KV_TYPE_BYTES(T), w->row_bytes, p, begin, end, out + d, w->out_stride, H, 1, T,
                     next ? next + d * KV_TYPE_BYTES(T) : NULL);
}

/* Adds block b to out of H queries. Queries of later rows attend to a few positions more. */
ALWAYS_INLINE void weigh_block(const struct attention_work *w, size_t query, size_t b, const int H,
                               const enum kv_type T, const uint8_t *next)
{
    size_t first = b * KV_BLOCK_SIZE, shared = positions_of(w, query);
    shared = shared > first ? shared - first : 0;
    shared = shared < KV_BLOCK_SIZE ? shared : KV_BLOCK_SIZE;
    if (shared)
        weigh_range(w, query, b, 0, shared, H, T, next);
    for (size_t i = query + 1; i < query + (size_t)H; i++) {
        size_t n = positions_of(w, i);
        n = n > first ? n - first : 0;
        n = n < KV_BLOCK_SIZE ? n : KV_BLOCK_SIZE;
        if (n > shared)
            weigh_range(w, i, b, shared, n, 1, T, NULL);
    }
}

#define BLOCK_FN(name, H)                                                                                              \
    static void name##_##H(struct attention_work *w, size_t query, size_t b, enum kv_type type, const uint8_t *next)   \
    {                                                                                                                  \
        if (type == KV_F16)                                                                                            \
            name##_block(w, query, b, H, KV_F16, next);                                                                \
        else                                                                                                           \
            name##_block(w, query, b, H, KV_INT8, next);                                                               \
    }
BLOCK_FN(score, 4)
BLOCK_FN(score, 2)
BLOCK_FN(score, 1)
BLOCK_FN(weigh, 4)
BLOCK_FN(weigh, 2)
BLOCK_FN(weigh, 1)
#undef BLOCK_FN

typedef void block_fn(struct attention_work *w, size_t query, size_t b, enum kv_type type, const uint8_t *next);

/* One block for all queries, four, two or one at a time. */
static void for_queries(struct attention_work *w, size_t b, block_fn *four, block_fn *two, block_fn *one,
                        const uint8_t *next)
{
    enum kv_type type = w->s->type;
    size_t i = 0;
    for (; i + 4 <= w->n_queries; i += 4, next = NULL)
        four(w, i, b, type, next);
    if (i + 2 <= w->n_queries) {
        two(w, i, b, type, next);
        i += 2;
        next = NULL;
    }
    if (i < w->n_queries)
        one(w, i, b, type, next);
}

/* p[j] *= the scale of position j of K or V, for the 16 positions from j. */
ALWAYS_INLINE struct lanes scaled(const struct attention_segment *s, const float *scales, struct lanes p, size_t j)
{
    size_t block = (size_t)s->blocks[j / KV_BLOCK_SIZE] * (s->block_stride / s->head_dim);
    return lanes_mul(p, lanes_load(scales + block + j % KV_BLOCK_SIZE));
}

/* A query's dot products to weights exp(score - max), zero up to a multiple of 16; yields max and sum. */
static void soften(struct attention_work *w, size_t query)
{
    const struct attention_segment *s = w->s;
    size_t n = positions_of(w, query), padded = (n + ARITH_LANES - 1) & ~(size_t)(ARITH_LANES - 1);
    float *p = w->p[query];
    struct lanes factor = lanes_all(w->factor[query]), most = lanes_all(-INFINITY), sum = lanes_zero();
    for (size_t j = 0; j < padded; j += ARITH_LANES) {
        struct lanes x = lanes_mul(lanes_load(p + j), factor);
        lanes_store(p + j, s->type == KV_INT8 ? scaled(s, s->k_scale, x, j) : x);
    }
    for (size_t j = n; j < padded; j++)
        p[j] = -INFINITY;
    for (size_t j = 0; j < padded; j += ARITH_LANES)
        most = lanes_max(lanes_load(p + j), most);
    float max = lanes_most(most);
    most = lanes_all(max);
    for (size_t j = 0; j < padded; j += ARITH_LANES) {
        struct lanes x = lanes_exp(lanes_sub(lanes_load(p + j), most));
        sum = lanes_add(sum, x);
        lanes_store(p + j, s->type == KV_INT8 ? scaled(s, s->v_scale, x, j) : x);
    }
    s->max[query] = max;
    s->sum[query] = lanes_sum(sum);
}

static void attend_segment(const struct attention_segment *s)
{
    struct attention_work w;
    w.s = s;
    w.n_queries = s->n_rows * s->n_heads;
    w.n_positions = positions_of(&w, w.n_queries - 1);
    w.row_bytes = s->head_dim * KV_TYPE_BYTES(s->type);
    w.out_stride = CPU_HEAD_STRIDE(s->head_dim);
    for (size_t i = 0; i < w.n_queries; i++) {
        const float *q = s->q + i / s->n_heads * s->q_stride + i % s->n_heads * s->head_dim;
        w.factor[i] = load_query(q, s->head_dim, s->type, s->scale, w.q[i]);
    }
    memset(s->out, 0, w.n_queries * w.out_stride * sizeof *s->out);
    size_t n_blocks = (w.n_positions + KV_BLOCK_SIZE - 1) / KV_BLOCK_SIZE;
    for (size_t b = 0; b < n_blocks; b++) {
        const uint8_t *next = block_at(&w, s->k, b + 1, s->type);
        for_queries(&w, b, score_4, score_2, score_1, next ? next : block_at(&w, s->v, 0, s->type));
    }
    for (size_t i = 0; i < w.n_queries; i++)
        soften(&w, i);
    for (size_t b = 0; b < n_blocks; b++)
        for_queries(&w, b, weigh_4, weigh_2, weigh_1, block_at(&w, s->v, b + 1, s->type));
}

#endif
