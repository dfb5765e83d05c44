/*
 * The LM head: a table of F16, BF16, Q8_0, Q6_K or Q4_0 times rows of x in f32, with tensor cores.
 *
 * A row of x is split into parts that an instruction takes: for BF16 three, which hold all its 24 bits; for the others two F16 values, 22 bits,
 * after a power of two has moved the largest to where F16 holds most. Weights go in as they are, F16 and BF16 by their bits, quantised ones as
 * the integers that they are, times the block's scale afterwards. A warp takes 16 rows of the table, goes along them in steps of 16 columns, and
 * has up to MAX_TILES tiles of 8 rows of x. Tensor cores cut sums off where f32 addition rounds them: they only add up a GROUP of steps (of
 * quantised types a step), and addition does the rest. The order is the same for any number of rows of x.
 *
 * The table is read once for up to 64 rows, from memory straight into fragments, the next group while one is multiplied; x comes from the
 * first-level cache. For 1 to 16 rows the 657 MB of a table of 128,256 x 2,560 in F16 are all that counts: 0.2 ms at 3.35 TB/s. Lane
 * t = lane % 4 has columns 4t .. 4t + 3 of a step in the fragment's places 2t, 2t + 1, 2t + 8, 2t + 9 (ptx.h): the order within a step is free.
 *
 * The difference to the exact logit is at most (2^-19 + n_cols / 128 * 2^-24) * sum |w x| where a tensor core keeps 23 bits of each sum; errors
 * have both signs and mostly cancel. A logit is not finite where a product is not. A table in F32 takes the plain way.
 */
#include "kernels/cuda/fragments.h"
#include "kernels/cuda/logits.h"

#define SPLIT_THREADS 256
#define WARPS 4      /* each 16 rows of the table */
#define GROUP 8      /* steps */
#define STEP 16      /* columns */
#define MAX_TILES 8
#define PLAIN_WARPS 8
#define PLAIN_ROWS 8 /* of x that a warp of the plain way keeps sums for */

struct head_args {
    const uint8_t *data;
    size_t row_bytes;
    int n_rows, n_cols, n_x, n_tiles, n_steps, n_passes; /* tiles of x */
    const float *x;      /* plain: [n_x][n_cols] */
    const uint2 *parts;  /* [tiles of x][n_steps][parts][WARP] */
    const float *back;   /* [n_x]: what the sums of a row of x are multiplied with */
    float *logits;       /* [n_x][n_rows] */
};

/* ---- x */

static __device__ inline float x_at(const float *row, int c, int n_cols, bool round_f16)
{
    return c >= n_cols ? 0.0f : round_f16 ? round_half(row[c]) : row[c];
}

/* The upper 16 bits of two floats. */
static __device__ inline unsigned pack_bf16(float x, float y) { return __float_as_uint(x) >> 16 | (__float_as_uint(y) & 0xffff0000u); }

static __device__ inline float cut_bf16(float x) { return __uint_as_float(__float_as_uint(x) & 0xffff0000u); }

/* Four values into `to`, `to` + WARP, ... */
template <int TYPE> static __device__ inline void store_parts(const float v[4], uint2 *to)
{
    if (TYPE == TENSOR_BF16) {
        float rest[4] = {v[0], v[1], v[2], v[3]};
        for (int part = 0; part < 3; part++) {
            to[part * WARP] = make_uint2(pack_bf16(rest[0], rest[1]), pack_bf16(rest[2], rest[3]));
            for (int i = 0; i < 4; i++)
                rest[i] -= cut_bf16(rest[i]);
        }
    } else {
        to[0] = make_uint2(pack_half(v[0], v[1]), pack_half(v[2], v[3]));
        to[WARP] = make_uint2(pack_half(v[0] - round_half(v[0]), v[1] - round_half(v[1])),
                              pack_half(v[2] - round_half(v[2]), v[3] - round_half(v[3])));
    }
}

/* Block: a row of x, or one of zeros behind the last. TENSOR_F16 stands for all but BF16. */
template <int TYPE>
static __global__ void split_x_kernel(const float *x, const int32_t *rows, int n_x, int n_cols, int n_steps, bool round_f16, uint2 *parts,
                                      float *back)
{
    constexpr int n_parts = TYPE == TENSOR_BF16 ? 3 : 2;
    __shared__ float shared[SPLIT_THREADS / WARP];
    int j = (int)blockIdx.x, width = j < n_x ? n_cols : 0;
    const float *row = x + (j < n_x ? (size_t)rows[j] * n_cols : 0);
    float max = 0.0f;
    for (int c = (int)threadIdx.x; c < width; c += SPLIT_THREADS) {
        float size = fabsf(x_at(row, c, width, round_f16));
        max = size < INFINITY ? fmaxf(max, size) : max;
    }
    max = block_max(max, shared);
    struct peak peak = peak_of(max);
    if (TYPE == TENSOR_BF16) /* which has f32's exponents: only the lowest would be lost */
        peak = max < 0x1p-64f ? (struct peak){0x1p64f, 0x1p-64f} : (struct peak){1.0f, 1.0f};
    if (threadIdx.x == 0)
        back[j] = peak.back;
    for (int i = (int)threadIdx.x; i < 4 * n_steps; i += SPLIT_THREADS) {
        float v[4];
        for (int k = 0; k < 4; k++)
            v[k] = __fmul_rn(x_at(row, 4 * i + k, width, round_f16), peak.factor);
        store_parts<TYPE>(v, parts + ((size_t)(j / 8) * n_steps + i / 4) * n_parts * WARP + j % 8 * 4 + i % 4);
    }
}

static __global__ void gather_kernel(const float *x, const int32_t *rows, int n_cols, bool round_f16, float *out)
{
    const float *from = x + (size_t)rows[blockIdx.x] * n_cols;
    for (int c = (int)threadIdx.x; c < n_cols; c += SPLIT_THREADS)
        out[(size_t)blockIdx.x * n_cols + c] = x_at(from, c, n_cols, round_f16);
}

/* ---- weights */

/* Four weights of a row, two 16-bit values a word, and what their sum is multiplied with. */
struct weights {
    unsigned words[2];
    float scale;
};

static __device__ inline unsigned load_bytes(const uint8_t *p)
{
    return *(const uint16_t *)p | (unsigned)*(const uint16_t *)(p + 2) << 16;
}

/* Bytes, less `centre`. */
static __device__ inline void set_bytes(struct weights &w, unsigned bytes, float centre)
{
    w.words[0] = half_from_bytes(bytes, false, centre);
    w.words[1] = half_from_bytes(bytes, true, centre);
}

/* Of lane t of a step. */
template <int TYPE, bool EXACT> static __device__ inline struct weights load_weights(const uint8_t *row, int step, int t, int row_bytes)
{
    struct weights w = {{0, 0}, 1.0f};
    if constexpr (TYPE == TENSOR_F16 || TYPE == TENSOR_BF16) {
        load_words<2, EXACT>(row, 2 * STEP * step + 8 * t, row_bytes, w.words);
    } else if constexpr (TYPE == TENSOR_Q8_0) {
        const uint8_t *block = row + step / 2 * 34;
        w.scale = __half2float(*(const __half *)block);
        set_bytes(w, load_bytes(block + 2 + step % 2 * STEP + 4 * t) ^ 0x80808080u, 128.0f);
    } else if constexpr (TYPE == TENSOR_Q4_0) {
        const uint8_t *block = row + step / 2 * 18;
        w.scale = __half2float(*(const __half *)block);
        set_bytes(w, load_bytes(block + 2 + 4 * t) >> (step % 2 * 4) & 0x0f0f0f0fu, 8.0f);
    } else {
        const uint8_t *block = row + step / STEP * 210;
        int half = step % STEP / 8, part = step % 8 / 2, i = step % 2 * STEP + 4 * t; /* 128 columns, 32 of them, the first of four */
        unsigned low = load_bytes(block + 64 * half + part % 2 * 32 + i) >> (part < 2 ? 0 : 4) & 0x0f0f0f0fu;
        unsigned high = load_bytes(block + 128 + 32 * half + i) >> (2 * part) & 0x03030303u;
        w.scale = __fmul_rn(__half2float(*(const __half *)(block + 208)), (float)((const int8_t *)block)[192 + step % STEP]);
        set_bytes(w, low | high << 4, 32.0f);
    }
    return w;
}

/* ---- the product */

/* Steps first .. first + GROUP - 1 of a lane's two rows; behind the last the last again. */
template <int TYPE, bool EXACT>
static __device__ inline void load_group(const struct head_args &a, const uint8_t *const row[2], int first, int t, struct weights out[GROUP][2])
{
#pragma unroll
    for (int s = 0; s < GROUP; s++)
#pragma unroll
        for (int e = 0; e < 2; e++)
            out[s][e] = load_weights<TYPE, EXACT>(row[e], min(first + s, a.n_steps - 1), t, (int)a.row_bytes);
}

template <int TYPE, int TILES>
static __device__ inline void multiply_group(const struct head_args &a, const struct weights w[GROUP][2], int first, const int tiles[TILES], int lane,
                                             float sum[TILES][4])
{
    constexpr bool by_group = TYPE == TENSOR_F16 || TYPE == TENSOR_BF16;
    constexpr int n_parts = TYPE == TENSOR_BF16 ? 3 : 2;
    float part[TILES][4] = {};
#pragma unroll
    for (int s = 0; s < GROUP; s++) {
        if (first + s >= a.n_steps)
            break;
        unsigned rows[4] = {w[s][0].words[0], w[s][1].words[0], w[s][0].words[1], w[s][1].words[1]};
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            const uint2 *x = a.parts + ((size_t)tiles[i] * a.n_steps + first + s) * n_parts * WARP + lane;
#pragma unroll
            for (int p = 0; p < n_parts; p++) {
                uint2 v = __ldg(x + p * WARP);
                unsigned columns[2] = {v.x, v.y};
                if (TYPE == TENSOR_BF16)
                    mma_bf16(part[i], rows, columns);
                else
                    mma_f16(part[i], rows, columns);
            }
#pragma unroll
            for (int e = 0; e < 4 && !by_group; e++) {
                sum[i][e] = fmaf(part[i][e], w[s][e / 2].scale, sum[i][e]);
                part[i][e] = 0.0f;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < TILES && by_group; i++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            sum[i][e] += part[i][e];
}

/* Block: WARPS times 16 rows of the table, and TILES tiles of x: passes over the same rows are neighbours. */
template <int TYPE, int TILES, bool EXACT> static __global__ void __launch_bounds__(WARPS * WARP) head_kernel(struct head_args a)
{
    int lane = (int)threadIdx.x % WARP, base = ((int)(blockIdx.x / a.n_passes) * WARPS + (int)threadIdx.x / WARP) * 16;
    if (base >= a.n_rows)
        return; /* a whole warp */
    int r[2] = {base + lane / 4, base + lane / 4 + 8}, tiles[TILES];
    const uint8_t *row[2];
    for (int e = 0; e < 2; e++)
        row[e] = a.data + (size_t)min(r[e], a.n_rows - 1) * a.row_bytes;
    for (int i = 0; i < TILES; i++)
        tiles[i] = min((int)(blockIdx.x % a.n_passes) * TILES + i, a.n_tiles - 1);
    float sum[TILES][4] = {};
    struct weights now[GROUP][2], next[GROUP][2];
    load_group<TYPE, EXACT>(a, row, 0, lane % 4, now);
    for (int first = 0; first < a.n_steps; first += GROUP) {
        load_group<TYPE, EXACT>(a, row, first + GROUP, lane % 4, next);
        multiply_group<TYPE, TILES>(a, now, first, tiles, lane, sum);
        memcpy(now, next, sizeof now);
    }
    for (int i = 0; i < TILES; i++)
        for (int e = 0; e < 4; e++) {
            int j = tiles[i] * 8 + lane % 4 * 2 + e % 2;
            if (j < a.n_x && r[e / 2] < a.n_rows)
                a.logits[(size_t)j * a.n_rows + r[e / 2]] = __fmul_rn(sum[i][e], a.back[j]);
        }
}

/* A table in F32. A warp: one row of it with up to PLAIN_ROWS rows of x. */
static __global__ void plain_kernel(struct head_args a)
{
    int r = (int)blockIdx.x * PLAIN_WARPS + (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    int first = (int)blockIdx.y * PLAIN_ROWS, n_x = min(PLAIN_ROWS, a.n_x - first);
    if (r >= a.n_rows)
        return; /* a whole warp */
    const float *row = (const float *)(a.data + (size_t)r * a.row_bytes), *x = a.x + (size_t)first * a.n_cols;
    float sum[PLAIN_ROWS] = {};
    for (int c = lane; c < a.n_cols; c += WARP)
#pragma unroll
        for (int j = 0; j < PLAIN_ROWS; j++)
            if (j < n_x)
                sum[j] = fmaf(row[c], x[(size_t)j * a.n_cols + c], sum[j]);
#pragma unroll
    for (int j = 0; j < PLAIN_ROWS; j++) {
        if (j >= n_x)
            break;
        float total = warp_sum(sum[j]);
        if (lane == 0)
            a.logits[(size_t)(first + j) * a.n_rows + r] = total;
    }
}

/* ---- operation */

static size_t n_tiles_of(size_t n_x) { return (n_x + 7) / 8; }
static size_t n_steps_of(const struct dense *table) { return (table->n_cols + STEP - 1) / STEP; }

size_t logits_scratch(const struct dense *table, size_t n_x)
{
    if (table->type == TENSOR_F32)
        return n_x * table->n_cols;
    size_t n_parts = table->type == TENSOR_BF16 ? 3 : 2;
    return n_tiles_of(n_x) * (n_steps_of(table) * n_parts * WARP * sizeof(uint2) / sizeof(float) + 8);
}

typedef void head_kernel_fn(struct head_args a);

template <int TYPE> static head_kernel_fn *choose(bool exact, int n_tiles)
{
    if constexpr (TYPE == TENSOR_F16 || TYPE == TENSOR_BF16)
        if (!exact)
            return head_kernel<TYPE, 1, false>;
    return n_tiles == 1 ? head_kernel<TYPE, 1, true> : n_tiles == 2 ? head_kernel<TYPE, 2, true>
         : n_tiles == 4 ? head_kernel<TYPE, 4, true> : head_kernel<TYPE, MAX_TILES, true>;
}

/* EXACT: rows are whole steps, and aligned; those of blocks are. */
static head_kernel_fn *choose(enum tensor_type type, bool exact, int n_tiles)
{
    switch (type) {
    case TENSOR_BF16: return choose<TENSOR_BF16>(exact, n_tiles);
    case TENSOR_Q8_0: return choose<TENSOR_Q8_0>(true, n_tiles);
    case TENSOR_Q6_K: return choose<TENSOR_Q6_K>(true, n_tiles);
    case TENSOR_Q4_0: return choose<TENSOR_Q4_0>(true, n_tiles);
    default: return choose<TENSOR_F16>(exact, n_tiles);
    }
}

void logits_product(struct gpu *gpu, const struct dense *table, const float *x, const int32_t *rows, size_t n_x, bool round_f16, float *scratch,
                    float *logits)
{
    struct head_args a = {};
    a.data = ((const struct gpu_dense *)table)->data;
    a.row_bytes = table->row_bytes;
    a.n_rows = (int)table->n_rows;
    a.n_cols = (int)table->n_cols;
    a.n_x = (int)n_x;
    a.logits = logits;
    if (table->type == TENSOR_F32) {
        a.x = scratch;
        gpu_launch(gpu, gather_kernel, (unsigned)n_x, SPLIT_THREADS, x, rows, a.n_cols, round_f16, scratch);
        gpu_launch(gpu, plain_kernel, dim3(gpu_blocks(table->n_rows, PLAIN_WARPS), gpu_blocks(n_x, PLAIN_ROWS)), PLAIN_WARPS * WARP, a);
        return;
    }
    bool exact = table->n_cols % STEP == 0;
    a.n_tiles = (int)n_tiles_of(n_x);
    int at_once = !exact ? 1 : a.n_tiles <= 2 ? a.n_tiles : a.n_tiles <= 4 ? 4 : MAX_TILES;
    float *back = scratch + logits_scratch(table, n_x) - 8 * n_tiles_of(n_x);
    a.n_steps = (int)n_steps_of(table);
    a.n_passes = (a.n_tiles + at_once - 1) / at_once;
    a.parts = (const uint2 *)scratch;
    a.back = back;
    gpu_launch(gpu, table->type == TENSOR_BF16 ? split_x_kernel<TENSOR_BF16> : split_x_kernel<TENSOR_F16>, (unsigned)(8 * a.n_tiles), SPLIT_THREADS,
               x, rows, a.n_x, a.n_cols, a.n_steps, round_f16, (uint2 *)scratch, back);
    gpu_launch(gpu, choose(table->type, exact, at_once), gpu_blocks(table->n_rows, 16 * WARPS) * (unsigned)a.n_passes, WARPS * WARP, a);
}

void gpu_logits(struct backend *be, const struct dense *table, const float *x, const int32_t *rows, size_t n_out,
                bool round_f16, float *logits)
{
    struct gpu *gpu = gpu_enter(be);
    for (size_t n; n_out; n_out -= n, rows += n, logits += n * table->n_rows) {
        n = n_out < LOGITS_ROWS ? n_out : LOGITS_ROWS;
        size_t n_scratch = logits_scratch(table, n), n_logits = n * table->n_rows, used = 0;
        float *scratch = (float *)gpu_scratch(gpu, &gpu->floats, (n_scratch + n_logits) * sizeof *scratch);
        if (!scratch || !gpu_scratch(gpu, &gpu->ints, n * sizeof *rows)) {
            memset(logits, 0, n_logits * sizeof *logits); /* sync tells */
            continue;
        }
        logits_product(gpu, table, x, gpu_push_ints(gpu, rows, n, &used), n, round_f16, scratch, scratch + n_scratch);
        be->ops->download(be, logits, scratch + n_scratch, n_logits * sizeof *logits);
    }
}
