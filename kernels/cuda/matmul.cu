/*
 * The ternary matrix product, W2A8: codes 0, 1, 2 for -1, 0, +1 times int8 activations on tensor cores; the sum of a row's activations is
 * taken off at the end. Integers are exact in any order, so the batch's size chooses the kernel and how its work is split.
 *
 * Weights lie in tiles of TILE_ROWS x CHUNK columns, 512 bytes: 16 for each lane of a warp, which loads them at once and has the A fragments
 * of four mma_s8. Bits 2r of byte b of word f of lane l are the code of register r, byte b, of fragment f:
 *   row l / 4 + 8 (r % 2), column 64 (f / 2) + 16 (l % 4) + 8 (f % 2) + 4 (r / 2) + b.
 * This order of the columns lets a lane load its activations by 16 bytes, too. Tiles of the same rows follow one another.
 *
 * Up to SKINNY_TOKENS tokens the reading of the weights is what takes time. A block has one or two tiles of rows and all columns, split over
 * its warps, so that the loads of even a model's smallest matrices are under way all at once: 2560 x 2560 weights are 160 blocks of 10 KB.
 * Each block reads the activations anew from the second cache, for one token and one tile a quarter of its weights' bytes; two tiles share
 * them where there are blocks enough or tokens are more. One token, too, goes through an mma for 8: it takes the place of 16 dp4a and
 * of the shuffles behind them, and these weights are 97 mma a multiprocessor of 132.
 *
 * More tokens: the usual product of tiles. Weights are a quarter of the bytes of as many activations and go from the caches straight to
 * registers, so that a block has more rows than tokens; activations go through shared memory, STAGES chunks in turn.
 */
#include "kernels/cuda/device.h"

#include <limits.h>
#include <stdlib.h>

#define TILE_ROWS 16
#define CHUNK 128         /* columns of a tile */
#define MAX_MATS 4

#define STEPS 2           /* chunks of a warp at once; as many more are under way */
#define SKINNY_WARPS 16   /* at most */
#define SKINNY_TOKENS 64
#define MANY_ROWS 8192    /* of weights: two tiles a block are blocks enough */

#define GEMM_WARPS 8      /* 4 by rows, 2 by tokens: each has two tiles of rows and 32 tokens */
#define GEMM_ROWS 128
#define GEMM_TOKENS 64
#define STAGES 3          /* chunks of activations in shared memory */

struct matrix {
    const uint4 *tiles;
    float *y;
    float scale;
    int n_rows;
};

struct matmul_args {
    struct matrix mats[MAX_MATS];
    int first_block[MAX_MATS]; /* of each matrix in the grid's x; behind the last there is none */
    int n_chunks, n, stride, rows; /* rows of a block */
    const int8_t *q;
    const float *scale;
    const int32_t *sum;
};

/* ---- weights */

/* A thread: 16 bytes of a tile, from rows in I2S_ORDER_128. */
static __global__ void tile_kernel(const uint8_t *rows, int n_rows, int n_chunks, size_t n, uint4 *tiles)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x, tile = i / WARP;
    if (i >= n)
        return;
    int lane = (int)(i % WARP), part = lane % 4 / 2, first = (int)(tile / n_chunks) * TILE_ROWS + lane / 4;
    const uint8_t *from = rows + (tile % n_chunks) * (CHUNK / 4) + lane % 2 * 16;
    unsigned words[4];
    for (int f = 0; f < 4; f++) {
        words[f] = 0;
        for (int r = 0; r < 4; r++) {
            int row = first + 8 * (r % 2), at = 8 * (f % 2) + 4 * (r / 2);
            unsigned codes = 0x01010101u; /* zeros below the last row */
            if (row < n_rows)
                codes = *(const unsigned *)(from + (size_t)row * n_chunks * (CHUNK / 4) + at) >> (6 - 2 * (f / 2 * 2 + part)) & 0x03030303u;
            words[f] |= codes << 2 * r;
        }
    }
    tiles[i] = make_uint4(words[0], words[1], words[2], words[3]);
}

/* The packed rows through scratch memory into tiles. */
static enum error_code fill_tiles(struct backend *be, const struct ternary_packed *packed, int n_chunks, size_t n, uint4 *tiles, struct error *err)
{
    struct gpu *gpu = gpu_enter(be);
    size_t n_bytes = packed->row_bytes * packed->n_rows;
    uint8_t *rows = (uint8_t *)gpu_scratch(gpu, &gpu->floats, n_bytes);
    if (rows) {
        be->ops->upload(be, rows, packed->rows, n_bytes);
        gpu_launch(gpu, tile_kernel, gpu_blocks(n, 256), 256, (const uint8_t *)rows, (int)packed->n_rows, n_chunks, n, tiles);
    }
    return be->ops->sync(be, err);
}

enum error_code gpu_ternary_open(struct backend *be, const struct ternary_packed *packed, enum ternary_format format,
                                 struct ternary **out, struct error *err)
{
    (void)format; /* one layout serves all requests */
    size_t n_chunks = packed->row_bytes / (CHUNK / 4), n = (packed->n_rows + TILE_ROWS - 1) / TILE_ROWS * n_chunks * WARP;
    struct gpu_ternary *w = (struct gpu_ternary *)calloc(1, sizeof *w);
    uint4 *tiles = w ? (uint4 *)be->ops->alloc(be, n * sizeof *tiles) : NULL;
    enum error_code code = tiles ? fill_tiles(be, packed, (int)n_chunks, n, tiles, err)
                                 : gpu_no_memory(be, "weights", n * sizeof *tiles, err);
    if (code) {
        if (tiles)
            be->ops->free(be, tiles);
        free(w);
        return code;
    }
    free(packed->owned);
    w->base.format = TERNARY_I2S;
    w->base.n_rows = packed->n_rows;
    w->base.n_cols = packed->row_bytes * 4;
    w->base.scale = packed->scale;
    w->base.memory_bytes = n * sizeof *tiles;
    w->tiles = tiles;
    *out = &w->base;
    return ERROR_NONE;
}

void gpu_ternary_close(struct backend *be, struct ternary *w)
{
    be->ops->free(be, ((struct gpu_ternary *)w)->tiles);
    free(w);
}

/* ---- what both kernels do */

/* The matrix of a block, and the first of the block's rows. */
static __device__ inline struct matrix matrix_of(const struct matmul_args &a, int *first_row)
{
    int m = 0;
    while (m + 1 < MAX_MATS && (int)blockIdx.x >= a.first_block[m + 1])
        m++;
    *first_row = ((int)blockIdx.x - a.first_block[m]) * a.rows;
    return a.mats[m];
}

/* Where M tiles from `tile` on lie for a lane: the first, and how far behind it the others are. Behind the last of the matrix comes the
 * last again, whose results nobody takes. */
template <int M> struct tiles {
    const uint4 *first;
    int behind[M];
};

template <int M> static __device__ inline struct tiles<M> tiles_at(const struct matmul_args &a, const struct matrix &mat, int tile)
{
    struct tiles<M> found;
    int last = (mat.n_rows - 1) / TILE_ROWS, first = min(tile, last);
    found.first = mat.tiles + (size_t)first * a.n_chunks * WARP + threadIdx.x % WARP;
#pragma unroll
    for (int m = 0; m < M; m++)
        found.behind[m] = min(m, last - first) * a.n_chunks * WARP;
    return found;
}

/* The lane's words of a chunk. */
template <int M> static __device__ inline void load_tiles(const struct tiles<M> &tiles, int chunk, uint4 (&w)[M])
{
#pragma unroll
    for (int m = 0; m < M; m++)
        w[m] = __ldg(tiles.first + tiles.behind[m] + chunk * WARP);
}

/* The A fragments of half a chunk of M tiles. */
template <int M> static __device__ inline void unpack(const uint4 (&w)[M], int half, unsigned (&a)[2][M][4])
{
#pragma unroll
    for (int m = 0; m < M; m++) {
        const unsigned words[2] = {half ? w[m].z : w[m].x, half ? w[m].w : w[m].y};
#pragma unroll
        for (int f = 0; f < 2; f++)
#pragma unroll
            for (int r = 0; r < 4; r++)
                a[f][m][r] = words[f] >> 2 * r & 0x03030303u;
    }
}

/* Column j of acc += half a chunk of M tiles times 8 tokens. */
template <int M, int N>
static __device__ inline void multiply(int (&acc)[M][N][4], int j, const unsigned (&a)[2][M][4], const uint4 &q)
{
    const unsigned b[2][2] = {{q.x, q.y}, {q.z, q.w}};
#pragma unroll
    for (int f = 0; f < 2; f++)
#pragma unroll
        for (int m = 0; m < M; m++)
            mma_s8(acc[m][j], a[f][m], b[f]);
}

static __device__ inline void write_y(const struct matmul_args &a, const struct matrix &mat, int row, int token, int total)
{
    if (row < mat.n_rows && token < a.n)
        mat.y[(size_t)token * mat.n_rows + row] =
            __fmul_rn(__fdiv_rn((float)(total - a.sum[token]), a.scale[token]), mat.scale);
}

/* ---- few tokens */

/* A warp's next chunks: `first` and each n_warps-th behind it; zeros behind the last. */
template <int M>
static __device__ inline void load_steps(const struct tiles<M> &tiles, int first, int n_warps, int n_chunks, uint4 (&w)[STEPS][M])
{
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        if (first + s * n_warps < n_chunks)
            load_tiles(tiles, first + s * n_warps, w[s]);
        else
            memset(w[s], 0, sizeof w[s]);
    }
}

/* Block: x = M tiles of rows, y = 8 N tokens. */
template <int M, int N> static __global__ void __launch_bounds__(SKINNY_WARPS * WARP) skinny_kernel(struct matmul_args a)
{
    const int rows = TILE_ROWS * M, pitch = rows + 4; /* lanes of a warp add in different banks */
    __shared__ int total[8 * N * pitch];
    int first_row;
    const struct matrix mat = matrix_of(a, &first_row);
    const int tid = (int)threadIdx.x, n_warps = (int)blockDim.x / WARP, g = tid % WARP / 4, t = tid % 4;
    const int first_token = (int)blockIdx.y * 8 * N;
    const struct tiles<M> tiles = tiles_at<M>(a, mat, first_row / TILE_ROWS);
    const int8_t *q = a.q + (size_t)first_token * a.stride + 16 * t;
    int token[N], acc[M][N][4] = {};
    for (int j = 0; j < N; j++)
        token[j] = min(8 * j + g, a.n - 1 - first_token) * a.stride;
    uint4 next[STEPS][M];
    load_steps(tiles, tid / WARP, n_warps, a.n_chunks, next);
    for (int i = tid; i < 8 * N * pitch; i += (int)blockDim.x)
        total[i] = 0;
    for (int first = tid / WARP; first < a.n_chunks; first += STEPS * n_warps) {
        uint4 w[STEPS][M];
        memcpy(w, next, sizeof w);
        load_steps(tiles, first + STEPS * n_warps, n_warps, a.n_chunks, next);
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            const int8_t *x = q + min(first + s * n_warps, a.n_chunks - 1) * CHUNK;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                unsigned fragments[2][M][4];
                unpack(w[s], half, fragments);
#pragma unroll
                for (int j = 0; j < N; j++)
                    multiply(acc, j, fragments, *(const uint4 *)(x + token[j] + 64 * half));
            }
        }
    }
    __syncthreads();
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int j = 0; j < N; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                atomicAdd(&total[(8 * j + 2 * t + e % 2) * pitch + TILE_ROWS * m + g + e / 2 * 8], acc[m][j][e]);
    __syncthreads();
    for (int i = tid; i < 8 * N * rows; i += (int)blockDim.x)
        write_y(a, mat, first_row + i % rows, first_token + i / rows, total[i / rows * pitch + i % rows]);
}

/* ---- many tokens */

/* Starts to copy a chunk of the block's activations, of tokens behind the last again the last's. Of each second token the halves change
 * places: lanes then read from different banks. */
static __device__ inline void stage(const int8_t *q, int stride, int last, uint8_t *staged)
{
#pragma unroll
    for (int i = 0; i < GEMM_TOKENS * (CHUNK / 16); i += GEMM_WARPS * WARP) {
        int token = (i + (int)threadIdx.x) / (CHUNK / 16), unit = (int)threadIdx.x % (CHUNK / 16);
        copy_async16(staged + token * CHUNK + (unit ^ token % 2 * 4) * 16, q + min(token, last) * stride + unit * 16);
    }
}

/* Block: x = GEMM_ROWS rows, y = GEMM_TOKENS tokens. */
static __global__ void __launch_bounds__(GEMM_WARPS * WARP, 2) gemm_kernel(struct matmul_args a)
{
    const int N = GEMM_TOKENS / 16;
    __shared__ __align__(16) uint8_t staged[STAGES][GEMM_TOKENS * CHUNK];
    int first_row, acc[2][N][4] = {};
    const struct matrix mat = matrix_of(a, &first_row);
    const int warp = (int)threadIdx.x / WARP, g = (int)threadIdx.x % WARP / 4, t = (int)threadIdx.x % 4;
    const int first_token = (int)blockIdx.y * GEMM_TOKENS, warp_token = warp / 4 * (GEMM_TOKENS / 2);
    first_row += warp % 4 * 2 * TILE_ROWS;
    const struct tiles<2> tiles = tiles_at<2>(a, mat, first_row / TILE_ROWS);
    uint4 w[2];
    load_tiles(tiles, 0, w);
    const int8_t *q = a.q + (size_t)first_token * a.stride;
    const int last = a.n - 1 - first_token;
    for (int chunk = 0; chunk < STAGES - 1; chunk++) {
        if (chunk < a.n_chunks)
            stage(q + chunk * CHUNK, a.stride, last, staged[chunk]);
        copy_async_commit();
    }
    for (int chunk = 0; chunk < a.n_chunks; chunk++) {
        copy_async_wait<STAGES - 2>();
        __syncthreads(); /* this chunk is there for all, and all are done with the one before it */
        if (chunk + STAGES - 1 < a.n_chunks)
            stage(q + (chunk + STAGES - 1) * CHUNK, a.stride, last, staged[(chunk + STAGES - 1) % STAGES]);
        copy_async_commit();
        const uint8_t *x = staged[chunk % STAGES] + (warp_token + g) * CHUNK;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            unsigned fragments[2][2][4];
            unpack(w, half, fragments);
            if (half)
                load_tiles(tiles, min(chunk + 1, a.n_chunks - 1), w);
#pragma unroll
            for (int j = 0; j < N; j++)
                multiply(acc, j, fragments, *(const uint4 *)(x + j * 8 * CHUNK + ((half * 4 + t) ^ g % 2 * 4) * 16));
        }
    }
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int j = 0; j < N; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                write_y(a, mat, first_row + m * TILE_ROWS + g + e / 2 * 8, first_token + warp_token + 8 * j + 2 * t + e % 2, acc[m][j][e]);
}

/* ---- choice */

static void launch(struct gpu *gpu, void (*kernel)(struct matmul_args), struct matmul_args *a, unsigned rows, unsigned tokens, unsigned n_warps)
{
    unsigned n_blocks = 0;
    a->rows = (int)rows;
    for (int m = 0; m < MAX_MATS; m++) {
        a->first_block[m] = a->mats[m].n_rows ? (int)n_blocks : INT_MAX;
        n_blocks += gpu_blocks((size_t)a->mats[m].n_rows, rows);
    }
    gpu_launch(gpu, kernel, dim3(n_blocks, gpu_blocks((size_t)a->n, tokens)), n_warps * WARP, *a);
}

void gpu_matmul(struct backend *be, const struct ternary *const *w, float *const *y, size_t n_mats,
                const struct activations *act, size_t n)
{
    struct gpu *gpu = gpu_enter(be);
    struct matmul_args a = {};
    size_t n_rows = 0;
    for (size_t m = 0; m < n_mats; m++) {
        const struct gpu_ternary *g = (const struct gpu_ternary *)w[m];
        a.mats[m] = {g->tiles, y[m], g->base.scale, (int)g->base.n_rows};
        n_rows += g->base.n_rows;
    }
    a.n_chunks = (int)(w[0]->n_cols / CHUNK);
    a.n = (int)n;
    a.stride = (int)act->stride;
    a.q = act->q;
    a.scale = act->scale;
    a.sum = act->sum;
    unsigned n_warps = gpu_blocks((size_t)a.n_chunks, STEPS);
    n_warps = n_warps < SKINNY_WARPS ? n_warps : SKINNY_WARPS;
    if (n <= 8 && n_rows < MANY_ROWS)
        launch(gpu, skinny_kernel<1, 1>, &a, TILE_ROWS, 8, n_warps);
    else if (n <= 8)
        launch(gpu, skinny_kernel<2, 1>, &a, 2 * TILE_ROWS, 8, n_warps);
    else if (n <= 16)
        launch(gpu, skinny_kernel<2, 2>, &a, 2 * TILE_ROWS, 16, n_warps);
    else if (n <= SKINNY_TOKENS)
        launch(gpu, skinny_kernel<2, 4>, &a, 2 * TILE_ROWS, 32, n_warps);
    else
        launch(gpu, gemm_kernel, &a, GEMM_ROWS, GEMM_TOKENS, GEMM_WARPS);
}
