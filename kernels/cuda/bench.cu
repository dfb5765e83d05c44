/*
 * The bench as a program: bench [ORDINAL [small]] prints what the parts of a pass take on a device, in the shapes of the 2B4T model, by CUDA
 * events; medians of ROUNDS. What an operation reads is cold: it takes turns on copies that are together several times the second-level cache.
 * `small` shows that it works, in small shapes. `make -C kernels gpu-bench` builds and runs it.
 */
#include "kernels/cuda/device.h"

#include <stdio.h>
#include <stdlib.h>

#define ROUNDS 7
#define CACHES 4         /* times the second-level cache that copies take */
#define MAX_COPIES 256
#define A100_GB_S 1555.0 /* of the A100-40 whose times bitnet.cpp's GPU kernel is published with */

extern "C" backend_cuda_open_fn bitnet_cuda_open;

struct bench {
    struct backend *be;
    struct gpu *gpu;
    size_t cold_bytes;
    bool small;
    double copy_gb_s;
    /* what is timed now */
    size_t n, n_copies;
    struct ternary *w[MAX_COPIES];
    struct activations a;
    float *x, *y, *weight;
    struct kv_cache kv;
    struct batch_view batch;
    size_t n_heads;
    struct dense *table;
    int32_t *rows;
    struct logits_need *needs;
    float *logits;
};

static void fail(struct bench *b, const char *what)
{
    struct error err = {};
    backend_sync(b->be, &err);
    fprintf(stderr, "bench: %s: %s\n", what, err.message[0] ? err.message : "no memory");
    exit(EXIT_FAILURE);
}

static float *alloc_floats(struct bench *b, size_t n)
{
    float *dev = (float *)backend_alloc(b->be, n * sizeof(float)), *host = (float *)malloc(n * sizeof(float));
    if (!dev || !host)
        fail(b, "values");
    for (size_t i = 0; i < n; i++)
        host[i] = (float)(i * 2654435761u % 2003) * 0x1p-10f - 1.0f;
    backend_upload(b->be, dev, host, n * sizeof(float));
    free(host);
    return dev;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Microseconds of one of n_turns that follow each other. */
static double median_us(struct bench *b, void (*run)(struct bench *b, size_t turn), size_t n_turns)
{
    cudaEvent_t begin, end;
    double us[ROUNDS];
    if (cudaEventCreate(&begin) != cudaSuccess || cudaEventCreate(&end) != cudaSuccess)
        fail(b, "events");
    for (int round = -1; round < ROUNDS; round++) { /* the first is not counted */
        float ms = 0;
        cudaEventRecord(begin, b->gpu->stream);
        for (size_t turn = 0; turn < n_turns; turn++)
            run(b, turn);
        cudaEventRecord(end, b->gpu->stream);
        if (cudaEventSynchronize(end) != cudaSuccess || cudaEventElapsedTime(&ms, begin, end) != cudaSuccess)
            fail(b, "measurement");
        if (round >= 0)
            us[round] = (double)ms * 1e3 / (double)n_turns;
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    qsort(us, ROUNDS, sizeof us[0], ascending);
    return us[ROUNDS / 2];
}

/* ---- copy */

static void copy_half(struct bench *b, size_t turn)
{
    (void)turn;
    cudaMemcpyAsync(b->y, b->x, b->n, cudaMemcpyDeviceToDevice, b->gpu->stream);
}

static void bench_copy(struct bench *b)
{
    b->n = b->small ? (size_t)1 << 20 : (size_t)512 << 20;
    b->x = (float *)backend_alloc(b->be, b->n);
    b->y = (float *)backend_alloc(b->be, b->n);
    if (!b->x || !b->y)
        fail(b, "copy");
    double us = median_us(b, copy_half, 4);
    b->copy_gb_s = 2.0 * (double)b->n / us * 1e-3;
    printf("\ncopy of %zu MiB: %.0f GB/s, read and written\n", b->n >> 20, b->copy_gb_s);
    backend_free(b->be, b->x);
    backend_free(b->be, b->y);
}

/* ---- ternary product */

/* Copies of a matrix with random codes. */
static void open_matrices(struct bench *b, size_t n_rows, size_t n_cols)
{
    size_t n_bytes = n_rows * n_cols / 4;
    uint8_t *packed_rows = (uint8_t *)malloc(n_bytes);
    uint32_t random = 1;
    if (!packed_rows)
        fail(b, "weights");
    b->n_copies = b->cold_bytes / n_bytes + 1 < MAX_COPIES ? b->cold_bytes / n_bytes + 1 : MAX_COPIES;
    for (size_t i = 0; i < n_bytes; i++) {
        random = random * 1664525u + 1013904223u;
        uint32_t r = random >> 16;
        packed_rows[i] = (uint8_t)(r % 3 | r / 3 % 3 << 2 | r / 9 % 3 << 4 | r / 27 % 3 << 6);
    }
    for (size_t i = 0; i < b->n_copies; i++) {
        struct ternary_packed packed = {packed_rows, n_cols / 4, n_rows, n_cols, 0.5f, NULL, 0};
        if (b->be->ops->ternary_open(b->be, &packed, TERNARY_I2S, &b->w[i], NULL))
            fail(b, "weights");
    }
    free(packed_rows);
}

static void multiply(struct bench *b, size_t turn)
{
    const struct ternary *w = b->w[turn % b->n_copies];
    op_matmul(b->be, &w, &b->y, 1, &b->a, b->n);
}

/* One shape: a line for each number of rows. The published times are those of one row on an A100; what an equal use of bandwidth would take
 * here is that times the ratio of its nominal bandwidth to our measured one. */
static void bench_matrix(struct bench *b, size_t n_rows, size_t n_cols, double a100_us)
{
    size_t most = b->small ? 64 : 2048;
    open_matrices(b, n_rows, n_cols);
    b->x = alloc_floats(b, most * n_cols);
    b->y = alloc_floats(b, most * n_rows);
    if (!activations_open(b->be, most, n_cols, &b->a))
        fail(b, "activations");
    op_quantize(b->be, b->x, most, n_cols, &b->a);
    printf("\nternary product, %zu x %zu\n%8s %10s %10s %10s %12s\n", n_rows, n_cols, "rows", "us", "weights", "TOPS", "as A100, us");
    for (b->n = 1; b->n <= most; b->n *= 2) {
        double us = median_us(b, multiply, b->n <= 64 ? b->n_copies : 4);
        printf("%8zu %10.2f %5.0f GB/s %10.1f", b->n, us, (double)(n_rows * n_cols / 4) / us * 1e-3,
               2.0 * (double)n_rows * (double)n_cols * (double)b->n / us * 1e-6);
        if (b->n == 1)
            printf(" %12.2f", a100_us * A100_GB_S / b->copy_gb_s);
        putchar('\n');
    }
    for (size_t i = 0; i < b->n_copies; i++)
        ternary_close(b->be, b->w[i]);
    activations_close(b->be, &b->a);
    backend_free(b->be, b->x);
    backend_free(b->be, b->y);
}

static void bench_matrices(struct bench *b)
{
    static const struct {
        size_t n_rows, n_cols;
        double a100_us;
    } shapes[] = {{2560, 2560, 13.32}, {3840, 2560, 14.90}, {13824, 2560, 18.75}, {2560, 6912, 14.49}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        bench_matrix(b, b->small ? shapes[i].n_rows / 20 : shapes[i].n_rows, b->small ? 256 : shapes[i].n_cols, shapes[i].a100_us);
}

/* ---- norm and quantisation */

static void normalise(struct bench *b, size_t turn)
{
    (void)turn;
    op_norm_quantize(b->be, b->x, b->weight, 1e-5f, b->n, b->a.max_cols, b->y, &b->a);
}

static void bench_norm(struct bench *b)
{
    size_t dim = b->small ? 256 : 2560, most = b->small ? 16 : 2048;
    b->x = alloc_floats(b, most * dim);
    b->y = alloc_floats(b, most * dim);
    b->weight = alloc_floats(b, dim);
    if (!activations_open(b->be, most, dim, &b->a))
        fail(b, "activations");
    printf("\nnorm and quantisation of %zu\n%8s %10s\n", dim, "rows", "us");
    for (b->n = 1; b->n <= most; b->n *= 4)
        printf("%8zu %10.2f\n", b->n, median_us(b, normalise, 32));
    activations_close(b->be, &b->a);
    backend_free(b->be, b->x);
    backend_free(b->be, b->y);
    backend_free(b->be, b->weight);
}

/* ---- attention */

static void attend(struct bench *b, size_t turn) { op_attention(b->be, &b->kv, turn % b->kv.n_layers, &b->batch, b->x, b->n_heads, b->y); }

/* K and V of all layers: numbers below 2, or bytes of any value, with scales of 1. */
static void fill_cache(struct bench *b)
{
    size_t n_scales = b->kv.n_layers * b->kv.n_blocks * b->kv.n_kv_heads * KV_BLOCK_SIZE, n = n_scales * b->kv.head_dim;
    uint16_t *values = (uint16_t *)malloc(n * sizeof *values);
    float *ones = (float *)malloc(n_scales * sizeof *ones);
    if (!values || !ones)
        fail(b, "cache");
    for (size_t i = 0; i < n; i++)
        values[i] = (uint16_t)(i * 2654435761u >> 7 & 0xbfff);
    for (size_t i = 0; i < n_scales; i++)
        ones[i] = 1.0f / 64;
    size_t n_bytes = n * (b->kv.type == KV_F16 ? 2 : 1);
    backend_upload(b->be, b->kv.k, values, n_bytes);
    backend_upload(b->be, b->kv.v, values, n_bytes);
    if (b->kv.type == KV_INT8) {
        backend_upload(b->be, b->kv.k_scale, ones, n_scales * sizeof *ones);
        backend_upload(b->be, b->kv.v_scale, ones, n_scales * sizeof *ones);
    }
    free(values);
    free(ones);
}

/* n_sequences rows that attend to n_positions each, or (prompt) all positions of one sequence, each to those up to its own. */
static void bench_attention_of(struct bench *b, enum kv_type type, size_t n_sequences, size_t n_positions, bool prompt)
{
    size_t n_heads = b->small ? 4 : 20, n_kv_heads = n_heads / 4, dim = b->small ? 64 : 128;
    size_t max_blocks = (n_positions - 1) / KV_BLOCK_SIZE + 1, n_blocks = n_sequences * max_blocks, n = prompt ? n_positions : n_sequences;
    size_t layer_bytes = kv_cache_block_bytes(type, 1, n_kv_heads, dim) * n_blocks, n_layers = b->cold_bytes / layer_bytes + 1;
    int32_t *ints = (int32_t *)malloc((2 * n + n_blocks) * sizeof *ints), *positions = ints, *sequences = ints + n, *tables = ints + 2 * n;
    struct error err;
    if (!ints || kv_cache_open(b->be, type, n_layers, n_blocks, n_kv_heads, dim, &b->kv, &err))
        fail(b, "cache");
    fill_cache(b);
    for (size_t i = 0; i < n; i++) {
        positions[i] = (int32_t)(prompt ? i : n_positions - 1);
        sequences[i] = (int32_t)(prompt ? 0 : i);
    }
    for (size_t i = 0; i < n_blocks; i++)
        tables[i] = (int32_t)(n_blocks - 1 - i);
    b->batch = {n, positions, sequences, tables, n_sequences, max_blocks};
    b->n_heads = n_heads;
    b->x = alloc_floats(b, n * n_heads * dim);
    b->y = alloc_floats(b, n * n_heads * dim);
    double us = median_us(b, attend, n_layers);
    double pairs = prompt ? (double)n_positions * (double)(n_positions + 1) / 2 : (double)n_sequences * (double)n_positions;
    printf("%8s %8s %8zu %10zu %10.2f %5.0f GB/s %10.2f\n", prompt ? "prompt" : "decode", type == KV_F16 ? "F16" : "int8", n, n_positions, us,
           (double)layer_bytes / us * 1e-3, 4.0 * pairs * (double)(n_heads * dim) / us * 1e-6);
    kv_cache_close(b->be, &b->kv);
    backend_free(b->be, b->x);
    backend_free(b->be, b->y);
    free(ints);
}

static void bench_attention(struct bench *b)
{
    static const size_t decodes[][2] = {{1, 512}, {1, 4096}, {32, 512}, {32, 2048}, {128, 512}}; /* sequences, positions */
    printf("\nattention\n%8s %8s %8s %10s %10s %10s %10s\n", "", "KV", "rows", "positions", "us", "K and V", "TFLOPS");
    for (int type = KV_F16; type <= (b->be->ops->has_kv_int8 ? KV_INT8 : KV_F16); type++) {
        for (size_t i = 0; i < sizeof decodes / sizeof decodes[0]; i++) {
            size_t n_sequences = b->small ? decodes[i][0] / 16 + 1 : decodes[i][0], n_positions = b->small ? decodes[i][1] / 8 : decodes[i][1];
            bench_attention_of(b, (enum kv_type)type, n_sequences, n_positions, false);
        }
        bench_attention_of(b, (enum kv_type)type, 1, b->small ? 100 : 2048, true);
    }
}

/* ---- head */

static void logits_whole(struct bench *b, size_t turn)
{
    (void)turn;
    op_logits(b->be, b->table, b->x, b->rows, b->n, false, b->logits);
}

static void logits_needed(struct bench *b, size_t turn)
{
    (void)turn;
    op_logits_needed(b->be, b->table, b->x, b->rows, b->n, b->needs, b->logits);
}

/* With the way of the logits to the host: all, and what a greedy choice and one at temperature 1 need. */
static void bench_head(struct bench *b)
{
    size_t n_rows = b->small ? 1000 : 128256, dim = b->small ? 256 : 2560, most = b->small ? 8 : 128, n_bytes = n_rows * dim * 2;
    uint16_t *data = (uint16_t *)malloc(n_bytes);
    struct error err;
    b->x = alloc_floats(b, most * dim);
    b->logits = (float *)malloc(most * n_rows * sizeof *b->logits);
    b->rows = (int32_t *)malloc(most * sizeof *b->rows);
    b->needs = (struct logits_need *)calloc(most, sizeof *b->needs);
    if (!data || !b->logits || !b->rows || !b->needs)
        fail(b, "head");
    for (size_t i = 0; i < n_rows * dim; i++)
        data[i] = (uint16_t)(i * 2654435761u >> 9 & 0xafff);
    struct tensor_view view = {};
    view.type = TENSOR_F16, view.data = data, view.n_bytes = n_bytes, view.n_rows = n_rows, view.n_cols = dim;
    if (dense_open(b->be, &view, &b->table, &err))
        fail(b, "head");
    printf("\nhead, %zu x %zu F16\n%8s %10s %10s %10s %10s\n", n_rows, dim, "rows", "all, us", "table", "greedy", "sampled");
    for (b->n = 1; b->n <= most; b->n *= b->n < 8 ? 8 : 4) {
        double us[3];
        for (size_t j = 0; j < b->n; j++)
            b->rows[j] = (int32_t)j;
        us[0] = median_us(b, logits_whole, 2);
        for (int way = 1; way <= 2; way++) {
            for (size_t j = 0; j < b->n; j++) {
                b->needs[j] = {};
                b->needs[j].top = way == 1;
                b->needs[j].temperature = way == 1 ? 0.0f : 1.0f;
                b->needs[j].position = (uint32_t)j;
            }
            us[way] = median_us(b, logits_needed, 2);
        }
        printf("%8zu %10.1f %5.0f GB/s %10.1f %10.1f\n", b->n, us[0], (double)n_bytes / us[0] * 1e-3, us[1], us[2]);
    }
    dense_close(b->be, b->table);
    backend_free(b->be, b->x);
    free(data), free(b->logits), free(b->rows), free(b->needs);
}

int main(int argc, char **argv)
{
    struct bench b = {};
    struct error err = {};
    struct cudaDeviceProp properties;
    int ordinal = argc > 1 ? atoi(argv[1]) : 0;
    b.small = argc > 2 && strcmp(argv[2], "small") == 0;
    if (bitnet_cuda_open(BACKEND_ABI, ordinal, &b.be, &err)) {
        fprintf(stderr, "bench: %s\n", err.message);
        return EXIT_FAILURE;
    }
    b.gpu = (struct gpu *)b.be;
    if (cudaGetDeviceProperties(&properties, ordinal) != cudaSuccess)
        fail(&b, "properties");
    b.cold_bytes = b.small ? 100000 : CACHES * (size_t)properties.l2CacheSize;
    printf("%s: %s, %s, %d multiprocessors, second-level cache of %d MiB\n", backend_info(b.be)->device, backend_info(b.be)->name,
           backend_info(b.be)->isa, properties.multiProcessorCount, properties.l2CacheSize >> 20);
    bench_copy(&b);
    bench_matrices(&b);
    bench_norm(&b);
    bench_attention(&b);
    bench_head(&b);
    if (backend_sync(b.be, &err))
        fail(&b, "end");
    backend_close(b.be);
    return EXIT_SUCCESS;
}
