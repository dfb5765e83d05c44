/*
 * Logits of which it is known what will be read: all are computed, and those that matter leave the device.
 *
 *   screen    the largest quantity of each GROUP of rows of the table: the logit, for a draw logit + temperature * noise
 *   least     of each row of x: the count-th largest of these, less `within`. As many rows have a quantity of that size: one that is below
 *             is not needed
 *   collect   ids and logits of the rows that reach it, and of listed ones
 *
 * These go to the host in a copy or a few, and the rest of the host's logits is -infinity. A row of x is copied as a whole when all of it is
 * needed, when more than ROOM logits are, and when one is not finite, for the sampler to see.
 *
 * Noise is the host's to the bit: kernel_gumbel in the same operations. The host compares draws in double, float is off by 2^-24 of what is added:
 * `least` is lowered by SLACK of that. See kernels/logits.c for what listed and allowed rows are.
 */
#include "kernels/cuda/logits.h"

#include <stdlib.h>

#define GROUP (4 * WARP)        /* rows of the table that a warp looks at */
#define WARPS 4
#define LEAST_THREADS 256
#define ROOM 4096               /* logits of a row of x */
#define FIRST 1024              /* logits of all rows of x that come with their number */
#define MAX_NOISE 22.5f         /* see kernels/logits.c */
#define SLACK 0x1p-20f
#define TOO_MANY (INT32_MAX / 2)

/* What a row of x needs; in device memory as integers. */
struct need {
    int32_t count;      /* the largest `count`; 0: listed rows only; -1: none, it is copied as a whole */
    float within, temperature;
    uint32_t seed_low, seed_high, choice, position;
    int32_t mask;       /* which pair of masks: rows that take part, then listed ones; -1: all, none */
};

struct found {
    int32_t x, id;
    float logit;
};

struct needed_args {
    const float *logits; /* [n_x][n_rows] */
    const struct need *needs;
    const uint32_t *masks; /* [pairs][2][mask_words] */
    float *best;           /* [n_x][n_groups] */
    float *least;          /* [n_x] */
    int32_t *n_found;      /* of all, then [n_x] */
    struct found *found;
    int n_x, n_rows, n_groups, mask_words;
};

/* ---- noise, as in kernels/arith.h */

static __device__ inline void philox(uint32_t c[4], uint32_t k0, uint32_t k1)
{
    for (int round = 0; round < 10; round++) {
        uint32_t high_0 = __umulhi(0xD2511F53u, c[0]), low_0 = 0xD2511F53u * c[0];
        uint32_t high_2 = __umulhi(0xCD9E8D57u, c[2]), low_2 = 0xCD9E8D57u * c[2];
        c[0] = high_2 ^ c[1] ^ k0;
        c[1] = low_2;
        c[2] = high_0 ^ c[3] ^ k1;
        c[3] = low_0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

static __device__ inline float log_of(float x)
{
    uint32_t u = __float_as_uint(x);
    float e = (float)((int32_t)(u >> 23) - 126), m = __uint_as_float((u & 0x7fffffu) | 0x3f000000u);
    if (m < 0.707106781f) {
        e -= 1.0f;
        m = m + m;
    }
    m -= 1.0f;
    float z = m * m, p = 7.0376836292e-2f;
    p = fmaf(p, m, -1.1514610310e-1f);
    p = fmaf(p, m, 1.1676998740e-1f);
    p = fmaf(p, m, -1.2420140846e-1f);
    p = fmaf(p, m, 1.4249322787e-1f);
    p = fmaf(p, m, -1.6668057665e-1f);
    p = fmaf(p, m, 2.0000714765e-1f);
    p = fmaf(p, m, -2.4999993993e-1f);
    p = fmaf(p, m, 3.3333331174e-1f);
    p = __fmul_rn(__fmul_rn(p, m), z);
    p = fmaf(e, ARITH_LN2_LO, p);
    p = fmaf(z, -0.5f, p);
    return fmaf(e, ARITH_LN2_HI, __fadd_rn(m, p));
}

static __device__ inline float gumbel(uint32_t word)
{
    float v = __fmul_rn(__fadd_rn((float)(int32_t)(word >> 1), 0.5f), 0x1p-31f);
    v = v < 0x1.fffffep-1f ? v : 0x1.fffffep-1f;
    float y = __fsub_rn(1.0f, v);
    float e = y == 1.0f ? v : __fmul_rn(-log_of(y), __fdiv_rn(v, __fsub_rn(1.0f, y)));
    return -log_of(e);
}

/* ---- kernels */

/* Four rows of the table for one row of x. */
struct four {
    float logits[4], quantities[4];
    unsigned taking_part, listed; /* bits */
};

static __device__ inline struct four four_at(const struct needed_args &a, const struct need &need, int x, int r)
{
    struct four f = {};
    unsigned inside = r + 4 <= a.n_rows ? 15u : r < a.n_rows ? (1u << (a.n_rows - r)) - 1 : 0;
    f.taking_part = inside;
    if (need.mask >= 0 && inside) {
        const uint32_t *mask = a.masks + (size_t)need.mask * 2 * a.mask_words;
        f.taking_part = mask[r / 32] >> (r % 32) & inside;
        f.listed = mask[a.mask_words + r / 32] >> (r % 32) & inside;
    }
    f.taking_part = need.count ? f.taking_part : 0;
    uint32_t words[4] = {(uint32_t)r / 4, need.position, need.choice, 0};
    if (need.temperature > 0.0f)
        philox(words, need.seed_low, need.seed_high);
    for (int i = 0; i < 4; i++) {
        f.logits[i] = inside >> i & 1 ? a.logits[(size_t)x * a.n_rows + r + i] : 0.0f;
        f.quantities[i] = f.logits[i];
        if (need.temperature > 0.0f)
            f.quantities[i] = __fadd_rn(f.logits[i], __fmul_rn(need.temperature, gumbel(words[i])));
    }
    return f;
}

/* The group of a warp, and a lane's first row in it. */
static __device__ inline int group_of_warp() { return (int)blockIdx.x * WARPS + (int)threadIdx.x / WARP; }
static __device__ inline int row_of_lane() { return group_of_warp() * GROUP + (int)threadIdx.x % WARP * 4; }

/* Block: x = WARPS groups, y = row of x. */
static __global__ void screen_kernel(struct needed_args a)
{
    int x = (int)blockIdx.y;
    struct need need = a.needs[x];
    if (need.count <= 0 || group_of_warp() >= a.n_groups)
        return; /* the whole warp */
    struct four f = four_at(a, need, x, row_of_lane());
    float best = -INFINITY;
    bool bad = false;
    for (int i = 0; i < 4; i++)
        if (f.taking_part >> i & 1) {
            bad |= !(fabsf(f.quantities[i]) < INFINITY);
            best = fmaxf(best, f.quantities[i]);
        }
    best = warp_max(best);
    if (__any_sync(ALL_LANES, bad) && threadIdx.x % WARP == 0)
        atomicMax(&a.n_found[1 + x], TOO_MANY);
    if (threadIdx.x % WARP == 0)
        a.best[(size_t)x * a.n_groups + group_of_warp()] = best;
}

/* Floats in the order of unsigned integers, and back. */
static __device__ inline uint32_t order_of(float v)
{
    uint32_t u = __float_as_uint(v);
    return u >> 31 ? ~u : u | 0x80000000u;
}

static __device__ inline float float_of(uint32_t order) { return __uint_as_float(order >> 31 ? order & 0x7fffffffu : ~order); }

/* Block: a row of x. The largest number that `count` groups reach is found bit by bit. */
static __global__ void least_kernel(struct needed_args a)
{
    __shared__ int counts[LEAST_THREADS / WARP];
    struct need need = a.needs[blockIdx.x];
    const float *best = a.best + (size_t)blockIdx.x * a.n_groups;
    if (need.count <= 0)
        return; /* the whole block */
    uint32_t reached = 0;
    for (int bit = 31; bit >= 0; bit--) {
        uint32_t tried = reached | 1u << bit;
        int n = 0;
        for (int g = (int)threadIdx.x; g < a.n_groups; g += LEAST_THREADS)
            n += order_of(best[g]) >= tried;
        reached = block_sum(n, counts) >= need.count ? tried : reached;
    }
    float least = float_of(reached), size = fabsf(least) + need.within + need.temperature * MAX_NOISE;
    if (need.within > 0.0f || need.temperature > 0.0f)
        least = least - need.within - SLACK * size;
    if (threadIdx.x == 0)
        a.least[blockIdx.x] = least;
}

/* Block: x = WARPS groups, y = row of x. */
static __global__ void collect_kernel(struct needed_args a)
{
    int x = (int)blockIdx.y;
    struct need need = a.needs[x];
    if (need.count < 0 || group_of_warp() >= a.n_groups)
        return;
    float least = need.count ? a.least[x] : INFINITY;
    if (need.mask < 0 && a.best[(size_t)x * a.n_groups + group_of_warp()] < least)
        return;
    struct four f = four_at(a, need, x, row_of_lane());
    for (int i = 0; i < 4; i++) {
        if (!(f.listed >> i & 1) && !(f.taking_part >> i & 1 && !(f.quantities[i] < least)))
            continue;
        if (atomicAdd(&a.n_found[1 + x], 1) < ROOM)
            a.found[atomicAdd(&a.n_found[0], 1)] = {x, row_of_lane() + i, f.logits[i]};
    }
}

/* ---- the operation */

/* A chunk of rows of x. */
struct chunk {
    const struct dense *table;
    const int32_t *rows;
    const struct logits_need *needs;
    size_t n_x;
    float *logits;    /* host */
    int32_t *ints;    /* rows, needs, masks */
    size_t n_ints;
    int32_t *n_found; /* and the first of what was found */
};

static size_t n_groups_of(const struct dense *table) { return (table->n_rows + GROUP - 1) / GROUP; }
static size_t mask_words_of(const struct dense *table) { return (table->n_rows + 63) / 64 * 2; }

static size_t n_listed(const struct logits_need *n)
{
    size_t sum = 0;
    for (size_t l = 0; l < LOGITS_MAX_LISTS; l++)
        sum += n->lists[l].n;
    return sum;
}

static bool has_choice(const struct logits_need *n) { return n->top || n->within > 0 || n->temperature > 0; }

static bool is_whole(const struct dense *table, const struct logits_need *n)
{
    if (!has_choice(n))
        return !n->allowed || n->n_allowed > ROOM;
    return n->top > n_groups_of(table) / 2 || n_listed(n) > ROOM;
}

/* Rows that take part and, behind them, listed ones: those of lists, or all that are allowed where nothing is to be chosen. */
static void fill_masks(const struct dense *table, const struct logits_need *n, uint32_t *masks)
{
    size_t n_words = mask_words_of(table);
    uint32_t *listed = masks + n_words;
    memset(masks, 0xff, n_words * sizeof *masks);
    memset(listed, has_choice(n) ? 0 : 0xff, n_words * sizeof *listed);
    if (n->allowed)
        memcpy(masks, n->allowed, n_words * sizeof *masks);
    for (size_t l = 0; l < LOGITS_MAX_LISTS; l++)
        for (size_t i = 0; i < n->lists[l].n; i++) {
            uint32_t id = n->lists[l].ids[i * n->lists[l].stride];
            listed[id / 32] |= 1u << id % 32;
        }
    for (size_t i = 0; i < n_words; i++) {
        listed[i] &= masks[i];
        masks[i] &= ~listed[i];
    }
}

/* False when memory is out. */
static bool fill_ints(struct chunk *c)
{
    const size_t need_ints = sizeof(struct need) / sizeof(int32_t), pair = 2 * mask_words_of(c->table);
    size_t n_masks = 0;
    for (size_t j = 0; j < c->n_x; j++)
        n_masks += !is_whole(c->table, &c->needs[j]) && (c->needs[j].allowed || n_listed(&c->needs[j]));
    c->n_ints = c->n_x * (1 + need_ints) + n_masks * pair;
    c->ints = (int32_t *)malloc(c->n_ints * sizeof *c->ints);
    if (!c->ints)
        return false;
    memcpy(c->ints, c->rows, c->n_x * sizeof *c->rows);
    uint32_t *masks = (uint32_t *)c->ints + c->n_x * (1 + need_ints);
    n_masks = 0;
    for (size_t j = 0; j < c->n_x; j++) {
        const struct logits_need *n = &c->needs[j];
        struct need need = {-1, n->within, n->temperature, (uint32_t)n->seed, (uint32_t)(n->seed >> 32), n->choice, n->position, -1};
        if (!is_whole(c->table, n)) {
            need.count = !has_choice(n) ? 0 : n->top ? (int32_t)n->top : 1;
            if (n->allowed || n_listed(n)) {
                need.mask = (int32_t)n_masks;
                fill_masks(c->table, n, masks + n_masks++ * pair);
            }
        }
        memcpy(c->ints + c->n_x + j * need_ints, &need, sizeof need);
    }
    return true;
}

/* Has the device do everything. False when memory is out. */
static bool launch(struct gpu *gpu, const struct chunk *c, const float *x, struct needed_args *a)
{
    size_t n_scratch = logits_scratch(c->table, c->n_x), n_logits = c->n_x * c->table->n_rows, n_groups = n_groups_of(c->table), used = 0;
    size_t n_floats = n_scratch + n_logits + c->n_x * (n_groups + 1) + 1 + c->n_x + c->n_x * ROOM * sizeof(struct found) / sizeof(float);
    float *scratch = (float *)gpu_scratch(gpu, &gpu->floats, n_floats * sizeof *scratch);
    if (!scratch || !gpu_scratch(gpu, &gpu->ints, c->n_ints * sizeof *c->ints))
        return false;
    const int32_t *rows = gpu_push_ints(gpu, c->ints, c->n_ints, &used);
    float *logits = scratch + n_scratch;
    a->logits = logits;
    a->needs = (const struct need *)(rows + c->n_x);
    a->masks = (const uint32_t *)(a->needs + c->n_x);
    a->best = logits + n_logits;
    a->least = a->best + c->n_x * n_groups;
    a->n_found = (int32_t *)(a->least + c->n_x);
    a->found = (struct found *)(a->n_found + 1 + c->n_x);
    a->n_x = (int)c->n_x;
    a->n_rows = (int)c->table->n_rows;
    a->n_groups = (int)n_groups;
    a->mask_words = (int)mask_words_of(c->table);
    logits_product(gpu, c->table, x, rows, c->n_x, false, scratch, logits);
    gpu_check(gpu, cudaMemsetAsync(a->n_found, 0, (1 + c->n_x) * sizeof *a->n_found, gpu->stream));
    dim3 grid(gpu_blocks(n_groups, WARPS), (unsigned)c->n_x);
    gpu_launch(gpu, screen_kernel, grid, WARPS * WARP, *a);
    gpu_launch(gpu, least_kernel, (unsigned)c->n_x, LEAST_THREADS, *a);
    gpu_launch(gpu, collect_kernel, grid, WARPS * WARP, *a);
    return true;
}

/* Puts what was found in its places. */
static void place(const struct chunk *c, const struct found *found, size_t n)
{
    for (size_t i = 0; i < n; i++)
        c->logits[(size_t)found[i].x * c->table->n_rows + (size_t)found[i].id] = found[i].logit;
}

static void read_found(struct backend *be, const struct chunk *c, const struct needed_args *a)
{
    size_t n_rows = c->table->n_rows, n_head = 1 + c->n_x;
    struct found *found = (struct found *)(c->n_found + n_head);
    be->ops->download(be, c->n_found, a->n_found, n_head * sizeof *c->n_found + FIRST * sizeof *found);
    for (size_t at = 0, n_all = (size_t)c->n_found[0], n; at < n_all; at += n) {
        n = n_all - at < FIRST ? n_all - at : FIRST;
        if (at)
            be->ops->download(be, found, a->found + at, n * sizeof *found);
        place(c, found, n);
    }
    for (size_t j = 0; j < c->n_x; j++)
        if (c->n_found[1 + j] > ROOM || is_whole(c->table, &c->needs[j]))
            be->ops->download(be, c->logits + j * n_rows, a->logits + j * n_rows, n_rows * sizeof(float));
}

static void run_chunk(struct backend *be, struct chunk *c, const float *x)
{
    struct gpu *gpu = gpu_enter(be);
    struct needed_args a = {};
    c->n_found = (int32_t *)malloc((1 + c->n_x) * sizeof *c->n_found + FIRST * sizeof(struct found));
    bool launched = c->n_found && fill_ints(c) && launch(gpu, c, x, &a);
    for (size_t i = 0; i < c->n_x * c->table->n_rows; i++) /* while the device computes */
        c->logits[i] = -INFINITY;
    if (launched)
        read_found(be, c, &a);
    else
        gpu_check(gpu, cudaErrorMemoryAllocation); /* sync tells */
    free(c->ints);
    free(c->n_found);
}

void gpu_logits_needed(struct backend *be, const struct dense *table, const float *x, const int32_t *rows, size_t n_out,
                       const struct logits_need *needs, float *logits)
{
    for (size_t j = 0, n; j < n_out; j += n) {
        n = n_out - j < LOGITS_ROWS ? n_out - j : LOGITS_ROWS;
        struct chunk c = {table, rows + j, needs + j, n, logits + j * table->n_rows, NULL, 0, NULL};
        run_chunk(be, &c, x);
    }
}
