/* Checks of a ternary tensor and its repacking; the rows are worked on in parallel, an error names the first bad row. */
#include "kernels/arith.h"
#include "kernels/pool.h"
#include "kernels/tensor.h"

#include <stdatomic.h>
#include <stdlib.h>

#define MAX_COLS ((size_t)1 << 22) /* 2 * 128 * n_cols must fit an int32 sum */
#define NO_ROW SIZE_MAX

/* ERROR_MODEL_LOAD_FAILED with what was found. */
#define refuse(err, ...) error_set((err), ERROR_MODEL_LOAD_FAILED, __VA_ARGS__)

static enum error_code check_shape(const struct tensor_view *v, struct error *err)
{
    const char *name = tensor_type_name(v->type);
    if (!tensor_type_is_ternary(v->type))
        return refuse(err, "expected a ternary tensor (I2_S, TL1, TL2, TQ1_0, TQ2_0 or Q2_0), found type %d (%s)", (int)v->type,
                      name ? name : "unknown");
    size_t block = tensor_view_block(v).n_weights;
    if (!v->n_rows || !v->n_cols || v->n_cols % block || v->n_cols > MAX_COLS)
        return refuse(err, "expected %s rows of a multiple of %zu weights and at most %zu, found %zu rows of %zu", name,
                      block, MAX_COLS, v->n_rows, v->n_cols);
    size_t expected = tensor_bytes(v->type, v->n_rows, v->n_cols);
    if (!expected || v->n_bytes < expected)
        return refuse(err, "expected %zu bytes of %s for %zu x %zu weights, found %zu", expected, name, v->n_rows, v->n_cols,
                      v->n_bytes);
    size_t pack = v->order == I2S_ORDER_128 ? 128 : 64;
    if (v->type == TENSOR_I2_S && v->n_rows * v->n_cols % pack)
        return refuse(err, "expected a multiple of %zu weights in an I2_S tensor, found %zu x %zu", pack, v->n_rows,
                      v->n_cols);
    if ((v->type == TENSOR_TL1 || v->type == TENSOR_TL2) && !tensor_tl_known(v->type, v->n_rows, v->n_cols))
        return refuse(err,
                      "%s files are cut into tiles by the kernels they were made for, and those of %zu x %zu weights (rows x columns) are "
                      "not known (known: %s): convert the model again, as I2_S",
                      name, v->n_rows, v->n_cols, tensor_tl_shapes(v->type));
    return ERROR_NONE;
}

/* The types with an f16 scale in each block: behind the codes, or before them. */
static bool has_block_scales(const struct tensor_view *v)
{
    return v->type == TENSOR_TQ1_0 || v->type == TENSOR_TQ2_0 || v->type == TENSOR_Q2_0;
}

static float block_scale(const struct tensor_view *v, const uint8_t *block)
{
    const uint8_t *p = block + (v->type == TENSOR_Q2_0 ? 0 : tensor_view_block(v).n_bytes - 2);
    return arith_from_f16((uint16_t)(p[0] | p[1] << 8));
}

/* The one scale of the tensor. A block whose scale is 0 holds zero weights only and has no say. */
static float find_scale(const struct tensor_view *v)
{
    const uint8_t *data = v->data;
    float scale = 0.0f;
    if (!has_block_scales(v)) {
        memcpy(&scale, data + (v->type == TENSOR_I2_S ? v->n_rows * v->n_cols / 4 : tensor_tl_bytes(v->type, v->n_rows, v->n_cols)),
               sizeof scale);
        return scale;
    }
    struct tensor_block b = tensor_view_block(v);
    for (size_t n = v->n_rows * (v->n_cols / b.n_weights); n && scale == 0.0f; n--, data += b.n_bytes)
        scale = block_scale(v, data);
    return scale;
}

struct prepare {
    const struct tensor_view *view;
    struct ternary_packed *out;
    float file_scale;         /* without the view's factor */
    atomic_size_t bad_row;    /* the first row that is refused */
    atomic_bool memory_out;
};

static void mark_bad(struct prepare *p, size_t row)
{
    size_t seen = atomic_load(&p->bad_row);
    while (row < seen && !atomic_compare_exchange_weak(&p->bad_row, &seen, row)) {
    }
}

/* Both bits of a code set: 3. */
static bool has_code_3(const uint8_t *bytes, size_t n_bytes)
{
    uint64_t found = 0, word;
    for (; n_bytes >= sizeof word; bytes += sizeof word, n_bytes -= sizeof word) {
        memcpy(&word, bytes, sizeof word);
        found |= word & word >> 1 & UINT64_C(0x5555555555555555);
    }
    for (; n_bytes; bytes++, n_bytes--)
        found |= *bytes & *bytes >> 1 & 0x55u;
    return found != 0;
}

static void check_rows(void *arg, int thread, int n_threads)
{
    struct prepare *p = arg;
    const struct tensor_view *v = p->view;
    size_t begin, end, row_bytes = v->n_cols / 4;
    pool_range(v->n_rows, thread, n_threads, &begin, &end);
    for (size_t r = begin; r < end && r < atomic_load_explicit(&p->bad_row, memory_order_relaxed); r++)
        if (has_code_3((const uint8_t *)v->data + r * row_bytes, row_bytes))
            mark_bad(p, r);
}

/* The first column of a row whose code is 3, or whose block's scale is another; n_cols when all is well. */
static size_t bad_column(const struct tensor_view *v, float scale, size_t row, const uint8_t *codes)
{
    struct tensor_block b = tensor_view_block(v);
    const uint8_t *block = (const uint8_t *)v->data + row * (v->n_cols / b.n_weights) * b.n_bytes;
    for (size_t c = 0; c < v->n_cols; c++) {
        if (codes[c] > 2)
            return c;
        if (!has_block_scales(v))
            continue;
        float d = block_scale(v, block + c / b.n_weights * b.n_bytes);
        if (d != scale && (d != 0.0f || codes[c] != 1))
            return c;
    }
    return v->n_cols;
}

static bool row_is_good(const struct tensor_view *v, float scale, size_t row, const uint8_t *codes)
{
    struct tensor_block b = tensor_view_block(v);
    if (memchr(codes, 3, v->n_cols))
        return false;
    if (!has_block_scales(v))
        return true;
    const uint8_t *block = (const uint8_t *)v->data + row * (v->n_cols / b.n_weights) * b.n_bytes;
    for (size_t c = 0; c < v->n_cols; c += b.n_weights, block += b.n_bytes)
        if (block_scale(v, block) != scale)
            return bad_column(v, scale, row, codes) == v->n_cols;
    return true;
}

static void pack_rows(void *arg, int thread, int n_threads)
{
    struct prepare *p = arg;
    const struct tensor_view *v = p->view;
    size_t begin, end;
    pool_range(v->n_rows, thread, n_threads, &begin, &end);
    uint8_t *codes = malloc(v->n_cols);
    if (!codes) {
        atomic_store(&p->memory_out, true);
        return;
    }
    for (size_t r = begin; r < end; r++) {
        tensor_unpack_codes(v, r, codes);
        if (!row_is_good(v, p->file_scale, r, codes)) {
            mark_bad(p, r);
            break;
        }
        tensor_pack_codes(codes, v->n_cols, p->out->owned + r * p->out->row_bytes);
    }
    free(codes);
}

/* Says what is wrong with a bad row. */
static enum error_code refuse_row(const struct tensor_view *v, float scale, size_t row, struct error *err)
{
    uint8_t *codes = malloc(v->n_cols);
    if (!codes)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory to unpack a row of %zu weights", v->n_cols);
    tensor_unpack_codes(v, row, codes);
    size_t col = bad_column(v, scale, row, codes);
    bool code_3 = codes[col] == 3;
    free(codes);
    if (code_3)
        return refuse(err, "expected codes 0, 1 and 2, found 3 at row %zu, column %zu: damaged, or packed in another order",
                      row, col);
    return refuse(err, "expected one scale for all blocks (%g), found another at row %zu, column %zu", (double)scale, row,
                  col);
}

static bool readable_in_place(const struct tensor_view *v)
{
    return v->type == TENSOR_I2_S && v->order == I2S_ORDER_128 && v->n_cols % TENSOR_PACK_COLS == 0;
}

enum error_code ternary_prepare(struct pool *pool, const struct tensor_view *v, struct ternary_packed *out,
                                struct error *err)
{
    enum error_code code = check_shape(v, err);
    if (code)
        return code;
    float file_scale = find_scale(v), scale = v->factor != 0.0f ? file_scale * v->factor : file_scale;
    if (!(scale > 0.0f) || isinf(scale))
        return refuse(err, "expected a finite and positive scale, found %g", (double)scale);
    size_t padded = (v->n_cols + TENSOR_PACK_COLS - 1) / TENSOR_PACK_COLS * TENSOR_PACK_COLS;
    *out = (struct ternary_packed){
        .rows = v->data, .row_bytes = padded / 4, .n_rows = v->n_rows, .n_cols = v->n_cols, .scale = scale};
    struct prepare p = {.view = v, .out = out, .file_scale = file_scale};
    atomic_init(&p.bad_row, NO_ROW);
    atomic_init(&p.memory_out, false);
    if (readable_in_place(v)) {
        pool_run(pool, check_rows, &p);
    } else {
        out->owned_bytes = out->row_bytes * v->n_rows;
        out->owned = aligned_alloc(64, (out->owned_bytes + 63) / 64 * 64);
        if (!out->owned)
            return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for %zu bytes of repacked weights", out->owned_bytes);
        out->rows = out->owned;
        pool_run(pool, pack_rows, &p);
    }
    if (atomic_load(&p.memory_out))
        code = error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory to unpack a row of %zu weights", v->n_cols);
    else if (atomic_load(&p.bad_row) != NO_ROW)
        code = refuse_row(v, file_scale, atomic_load(&p.bad_row), err);
    if (code)
        free(out->owned);
    return code;
}

enum error_code tensor_check_ternary(const struct tensor_view *view, float *scale, struct error *err)
{
    struct ternary_packed packed;
    enum error_code code = ternary_prepare(NULL, view, &packed, err);
    if (code)
        return code;
    *scale = packed.scale;
    free(packed.owned);
    return ERROR_NONE;
}
