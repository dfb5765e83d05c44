/* Tables of floating-point weights: embedding and LM head. A row is converted to f32 and then met by all rows of x. */
#include "kernels/arith.h"
#include "kernels/cpu.h"
#include "kernels/memory.h"
#include "kernels/pool.h"

#include <stdlib.h>
#include <unistd.h>

#define RESIDENT_BYTES ((size_t)32 << 20) /* of a mapped table: a smaller one may come into memory as a whole */

static float dot_portable(const float *a, const float *b, size_t n)
{
    float lane[ARITH_LANES] = {0};
    size_t i = 0;
    for (; i + ARITH_LANES <= n; i += ARITH_LANES)
        for (size_t l = 0; l < ARITH_LANES; l++)
            lane[l] = arith_fma(a[i + l], b[i + l], lane[l]);
    if (i < n)
        for (size_t l = 0; l < ARITH_LANES; l++)
            lane[l] = arith_fma(i + l < n ? a[i + l] : 0.0f, i + l < n ? b[i + l] : 0.0f, lane[l]);
    return arith_tree(lane);
}

void dots_f32_portable(const float *row, const float *x, size_t x_stride, size_t n_x, size_t n, float *out, size_t out_stride)
{
    for (size_t j = 0; j < n_x; j++)
        out[j * out_stride] = dot_portable(row, x + j * x_stride, n);
}

static float dot_half(const uint8_t *row, const float *x, size_t n)
{
    float lane[ARITH_LANES] = {0}, w[ARITH_LANES], v[ARITH_LANES];
    for (size_t i = 0; i < n; i += ARITH_LANES) {
        size_t m = n - i < ARITH_LANES ? n - i : ARITH_LANES;
        tensor_row_f16(row + 2 * i, m, w);
        memcpy(v, x + i, m * sizeof *v);
        for (size_t l = m; l < ARITH_LANES; l++)
            w[l] = v[l] = 0.0f;
        for (size_t l = 0; l < ARITH_LANES; l++)
            lane[l] = arith_fma(w[l], v[l], lane[l]);
    }
    return arith_tree(lane);
}

void dots_f16_portable(const void *rows, size_t row_bytes, size_t n_rows, const float *x, size_t n, float *out)
{
    for (size_t r = 0; r < n_rows; r++)
        out[r] = dot_half((const uint8_t *)rows + r * row_bytes, x, n);
}

void row_f16_portable(const void *src, size_t n, float *out) { tensor_row_f16(src, n, out); }
void row_bf16_portable(const void *src, size_t n, float *out) { tensor_row_bf16(src, n, out); }
void row_q8_0_portable(const void *src, size_t n, float *out) { tensor_row_q8_0(src, n, out); }
void row_q6_k_portable(const void *src, size_t n, float *out) { tensor_row_q6_k(src, n, out); }

enum error_code cpu_dense_open(struct backend *be, const struct tensor_view *view, struct dense **out, struct error *err)
{
    size_t n_threads = (size_t)pool_size(be->pool);
    size_t file_row_bytes = tensor_bytes(view->type, 1, view->n_cols);
    bool from_file = view->mapped && view->n_rows * file_row_bytes > RESIDENT_BYTES;
    size_t raw_bytes = from_file ? n_threads * file_row_bytes : 0;
    size_t row_bytes = n_threads * view->n_cols * sizeof(float), x_bytes = CPU_LOGITS_ROWS * view->n_cols * sizeof(float);
    struct cpu_dense *w = calloc(1, sizeof *w);
    if (w) {
        w->row = backend_alloc(be, row_bytes);
        w->x = backend_alloc(be, x_bytes);
        w->raw = from_file ? backend_alloc(be, raw_bytes) : NULL;
    }
    if (!w || !w->row || !w->x || (from_file && !w->raw)) {
        if (w)
            cpu_dense_close(be, &w->base);
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a table of %zu columns", view->n_cols);
    }
    w->data = view->data;
    w->mapped = view->mapped;
    w->fd = view->fd;
    w->offset = view->offset;
    w->base = (struct dense){.type = view->type,
                             .n_rows = view->n_rows,
                             .n_cols = view->n_cols,
                             .row_bytes = file_row_bytes,
                             .memory_bytes = row_bytes + x_bytes + raw_bytes};
    *out = &w->base;
    return ERROR_NONE;
}

void cpu_dense_close(struct backend *be, struct dense *w)
{
    struct cpu_dense *d = (struct cpu_dense *)w;
    cpu_screen_free(d);
    backend_free(be, d->row);
    backend_free(be, d->x);
    backend_free(be, d->raw);
    free(d);
}

static void convert_row(const struct cpu *cpu, const struct cpu_dense *w, const uint8_t *src, float *out)
{
    size_t n = w->base.n_cols;
    switch (w->base.type) {
    case TENSOR_F16: cpu->kernels.row_f16(src, n, out); break;
    case TENSOR_BF16: cpu->kernels.row_bf16(src, n, out); break;
    case TENSOR_Q8_0: cpu->kernels.row_q8_0(src, n, out); break;
    case TENSOR_Q6_K: cpu->kernels.row_q6_k(src, n, out); break;
    case TENSOR_Q4_0: tensor_row_q4_0(src, n, out); break;
    default: tensor_row_f32(src, n, out); break;
    }
}

void cpu_dense_row(const struct cpu *cpu, const struct cpu_dense *w, size_t row, float *out)
{
    convert_row(cpu, w, w->data + row * w->base.row_bytes, out);
}

/* Reading a page that is not mapped maps 64 KB around it, and unmapping takes as long again: 6 us a row, where a read takes one. */
void cpu_dense_single_row(const struct cpu *cpu, const struct cpu_dense *w, size_t row, int thread, float *out)
{
    size_t n_bytes = w->base.row_bytes;
    const uint8_t *src = w->data + row * n_bytes;
    uint8_t *raw = w->raw ? w->raw + (size_t)thread * n_bytes : NULL;
    if (raw && pread(w->fd, raw, n_bytes, (off_t)(w->offset + row * n_bytes)) == (ssize_t)n_bytes)
        src = raw;
    convert_row(cpu, w, src, out);
}

void cpu_dense_drop(const struct cpu_dense *w, size_t begin, size_t end)
{
    if (w->mapped)
        memory_drop(w->data + begin * w->base.row_bytes, (end - begin) * w->base.row_bytes);
}

struct embed_call {
    const struct cpu_dense *table;
    const int32_t *ids;
    float *y;
};

static void embed_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct embed_call *c = call;
    for (size_t i = begin; i < end; i++)
        cpu_dense_single_row(cpu, c->table, (size_t)c->ids[i], thread, c->y + i * c->table->base.n_cols);
}

void cpu_op_embed(struct backend *be, const struct dense *table, const int32_t *ids, size_t n, float *y)
{
    struct embed_call call = {.table = (const struct cpu_dense *)table, .ids = ids, .y = y};
    cpu_for((struct cpu *)be, n, table->n_cols, embed_items, &call);
}

struct logits_call {
    const struct cpu_dense *table;
    size_t n_x;
    float *logits; /* [n_x][n_rows] */
};

static void logits_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct logits_call *c = call;
    const struct cpu_dense *w = c->table;
    size_t n = w->base.n_cols;
    float *row = w->row + (size_t)thread * n;
    if (w->base.type == TENSOR_F16 && c->n_x == 1) {
        cpu->kernels.dots_f16(w->data + begin * w->base.row_bytes, w->base.row_bytes, end - begin, w->x, n, c->logits + begin);
        return;
    }
    for (size_t r = begin; r < end; r++) {
        cpu_dense_row(cpu, w, r, row);
        cpu->kernels.dots_f32(row, w->x, n, c->n_x, n, c->logits + r, w->base.n_rows);
    }
}

/* Gathers a row of x, rounded to F16 and back when asked. */
static void gather(const struct cpu *cpu, const float *x, size_t n, bool round_f16, float *out)
{
    uint16_t half[256];
    if (!round_f16) {
        memcpy(out, x, n * sizeof *out);
        return;
    }
    for (size_t i = 0; i < n; i += 256) {
        size_t m = n - i < 256 ? n - i : 256;
        cpu->kernels.to_f16(x + i, m, half);
        cpu->kernels.row_f16(half, m, out + i);
    }
}

void cpu_op_logits(struct backend *be, const struct dense *table, const float *x, const int32_t *rows, size_t n_out,
                   bool round_f16, float *logits)
{
    struct cpu *cpu = (struct cpu *)be;
    const struct cpu_dense *w = (const struct cpu_dense *)table;
    size_t n = table->n_cols;
    for (size_t j = 0; j < n_out; j += CPU_LOGITS_ROWS) {
        size_t n_x = n_out - j < CPU_LOGITS_ROWS ? n_out - j : CPU_LOGITS_ROWS;
        for (size_t i = 0; i < n_x; i++)
            gather(cpu, x + (size_t)rows[j + i] * n, n, round_f16, w->x + i * n);
        struct logits_call call = {.table = w, .n_x = n_x, .logits = logits + j * table->n_rows};
        cpu_for(cpu, table->n_rows, n * n_x, logits_items, &call);
    }
}
