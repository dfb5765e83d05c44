/*
 * A checkpoint's tensors as a GGUF's, in the order of the published files. Ternary ones come packed (transformers' bitnet: row r of R is bits
 * 2 (r / (R / 4)) of byte row r % (R / 4), with a weight_scale) or as floating-point weights: those that are ternary already keep their values,
 * others are rounded to the mean of their sizes, as in training.
 */
#include "tools/convert.h"

#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_BYTES 128
#define BLOCK 128 /* weights of I2_S that are packed together, across rows */
#define CHECKPOINT "model.safetensors: "

enum role { ROLE_NORM, ROLE_TERNARY, ROLE_TABLE };
/* Which architectures have a tensor: all, those with sub norms, those with a norm before each projection. */
enum where { IN_ALL, IN_SUB_NORMS, IN_INPUT_NORMS };
enum size { SIZE_DIM, SIZE_HEAD, SIZE_Q, SIZE_KV, SIZE_FFN, SIZE_VOCAB, SIZE_NONE };

struct row {
    const char *name, *from, *or_from; /* in GGUF; in a checkpoint; or so */
    enum role role;
    enum size cols, rows;
    enum where where;
    bool rotated; /* rows are heads that are rotated */
};

static const struct row layer_rows[] = {
    {"attn_norm", "input_layernorm", NULL, ROLE_NORM, SIZE_DIM, SIZE_NONE, IN_ALL, false},
    {"ffn_down", "mlp.down_proj", NULL, ROLE_TERNARY, SIZE_FFN, SIZE_DIM, IN_ALL, false},
    {"ffn_sub_norm", "mlp.ffn_sub_norm", "mlp.ffn_layernorm", ROLE_NORM, SIZE_FFN, SIZE_NONE, IN_SUB_NORMS, false},
    {"ffn_gate", "mlp.gate_proj", NULL, ROLE_TERNARY, SIZE_DIM, SIZE_FFN, IN_ALL, false},
    {"ffn_up", "mlp.up_proj", NULL, ROLE_TERNARY, SIZE_DIM, SIZE_FFN, IN_ALL, false},
    {"ffn_norm", "post_attention_layernorm", NULL, ROLE_NORM, SIZE_DIM, SIZE_NONE, IN_ALL, false},
    {"attn_sub_norm", "self_attn.attn_sub_norm", "self_attn.inner_attn_ln", ROLE_NORM, SIZE_Q, SIZE_NONE, IN_SUB_NORMS, false},
    {"attn_k", "self_attn.k_proj", NULL, ROLE_TERNARY, SIZE_DIM, SIZE_KV, IN_ALL, true},
    {"attn_output", "self_attn.o_proj", NULL, ROLE_TERNARY, SIZE_Q, SIZE_DIM, IN_ALL, false},
    {"attn_q", "self_attn.q_proj", NULL, ROLE_TERNARY, SIZE_DIM, SIZE_Q, IN_ALL, true},
    {"attn_v", "self_attn.v_proj", NULL, ROLE_TERNARY, SIZE_DIM, SIZE_KV, IN_ALL, false},
    {"attn_q_norm", "self_attn.q_norm", NULL, ROLE_NORM, SIZE_HEAD, SIZE_NONE, IN_INPUT_NORMS, false},
    {"attn_k_norm", "self_attn.k_norm", NULL, ROLE_NORM, SIZE_HEAD, SIZE_NONE, IN_INPUT_NORMS, false},
    {"attn_q_norm_in", "self_attn.q_proj.norm", NULL, ROLE_NORM, SIZE_DIM, SIZE_NONE, IN_INPUT_NORMS, false},
    {"attn_k_norm_in", "self_attn.k_proj.norm", NULL, ROLE_NORM, SIZE_DIM, SIZE_NONE, IN_INPUT_NORMS, false},
    {"attn_v_norm_in", "self_attn.v_proj.norm", NULL, ROLE_NORM, SIZE_DIM, SIZE_NONE, IN_INPUT_NORMS, false},
    {"attn_output_norm_in", "self_attn.o_proj.norm", NULL, ROLE_NORM, SIZE_Q, SIZE_NONE, IN_INPUT_NORMS, false},
    {"ffn_gate_norm_in", "mlp.gate_proj.norm", NULL, ROLE_NORM, SIZE_DIM, SIZE_NONE, IN_INPUT_NORMS, false},
    {"ffn_up_norm_in", "mlp.up_proj.norm", NULL, ROLE_NORM, SIZE_DIM, SIZE_NONE, IN_INPUT_NORMS, false},
    {"ffn_down_norm_in", "mlp.down_proj.norm", NULL, ROLE_NORM, SIZE_FFN, SIZE_NONE, IN_INPUT_NORMS, false},
};
#define N_LAYER_ROWS (sizeof layer_rows / sizeof layer_rows[0])

static const struct row first = {"token_embd", "embed_tokens", NULL, ROLE_TABLE, SIZE_DIM, SIZE_VOCAB, IN_ALL, false},
                        norm = {"output_norm", "norm", NULL, ROLE_NORM, SIZE_DIM, SIZE_NONE, IN_ALL, false},
                        head = {"output", "lm_head", NULL, ROLE_TABLE, SIZE_DIM, SIZE_VOCAB, IN_ALL, false};

/* A tensor on its way. */
struct item {
    char name[NAME_BYTES];
    const struct safetensor *t, *scale; /* scale: of packed weights, else NULL */
    size_t cols, rows;                  /* rows 1 of norms */
    enum role role;
    bool permute;
};

#define refuse(err, name, ...) error_set_param((err), ERROR_MODEL_LOAD_FAILED, (name), CHECKPOINT __VA_ARGS__)

static size_t size_of(const struct convert *c, enum size size)
{
    switch (size) {
    case SIZE_DIM: return c->dim;
    case SIZE_HEAD: return c->head_dim;
    case SIZE_Q: return c->n_heads * c->head_dim;
    case SIZE_KV: return c->n_kv_heads * c->head_dim;
    case SIZE_FFN: return c->ffn_dim;
    case SIZE_VOCAB: return c->vocab_size;
    case SIZE_NONE: break;
    }
    return 1;
}

static const struct safetensor *lookup(const struct convert *c, const char *prefix, const char *from, const char *suffix)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s%s.%s", prefix, from, suffix);
    return safetensors_find(c->weights, name);
}

/* Finds and checks one tensor. layer < 0: one of the ends. */
static enum error_code find(const struct convert *c, const struct row *r, long layer, struct item *out, struct error *err)
{
    char prefix[64] = "", block[32] = "";
    const char *from = r->from;
    if (layer < 0 && r != &head)
        snprintf(prefix, sizeof prefix, "%s", c->prefix);
    if (layer >= 0) {
        snprintf(prefix, sizeof prefix, "%slayers.%ld.", c->prefix, layer);
        snprintf(block, sizeof block, "blk.%ld.", layer);
    }
    *out = (struct item){.cols = size_of(c, r->cols), .rows = size_of(c, r->rows), .role = r->role, .permute = r->rotated && c->permute};
    snprintf(out->name, sizeof out->name, "%s%s.weight", block, r->name);
    out->t = lookup(c, prefix, from, "weight");
    if (!out->t && r->or_from)
        out->t = lookup(c, prefix, from = r->or_from, "weight");
    if (!out->t)
        return refuse(err, out->name, "tensor %s%s.weight is missing", prefix, r->from);
    out->scale = r->role == ROLE_TERNARY ? lookup(c, prefix, from, "weight_scale") : NULL;
    bool packed = out->t->type == ST_U8;
    size_t rows = packed ? out->rows / 4 : out->rows;
    bool fits = r->role == ROLE_NORM ? out->t->n_dims == 1 && out->t->dims[0] == out->cols
                                     : out->t->n_dims == 2 && out->t->dims[0] == rows && out->t->dims[1] == out->cols;
    if (!fits)
        return refuse(err, out->t->name, "tensor %s: expected %zu x %zu, found %zu dimensions of %zu and %zu", out->t->name, rows, out->cols,
                      out->t->n_dims, out->t->dims[0], out->t->dims[1]);
    if (packed && (r->role != ROLE_TERNARY || out->rows % 4))
        return refuse(err, out->t->name, "tensor %s: expected floating-point weights, found U8", out->t->name);
    if (packed && (!out->scale || out->scale->type == ST_U8 || safetensor_count(out->scale) != 1))
        return refuse(err, out->t->name, "tensor %s: expected its weight_scale beside it, one number", out->t->name);
    if (r->role == ROLE_TERNARY && out->rows * out->cols % BLOCK)
        return refuse(err, out->t->name, "tensor %s: %zu x %zu weights do not fit I2_S, which has blocks of %d", out->t->name, out->rows,
                      out->cols, BLOCK);
    return ERROR_NONE;
}

/* Calls `visit` for each tensor in the order of the file. */
typedef enum error_code visitor(struct convert *c, const struct item *item, struct error *err);

static enum error_code visit_all(struct convert *c, visitor *visit, struct error *err)
{
    struct item item;
    enum error_code code = find(c, &first, -1, &item, err);
    if (!code)
        code = visit(c, &item, err);
    for (size_t layer = 0; !code && layer < c->n_layers; layer++)
        for (size_t i = 0; !code && i < N_LAYER_ROWS; i++) {
            enum where where = layer_rows[i].where;
            if (where != IN_ALL && !(where == IN_SUB_NORMS ? c->sub_norms : c->input_norms))
                continue;
            if (!(code = find(c, &layer_rows[i], (long)layer, &item, err)))
                code = visit(c, &item, err);
        }
    if (!code && !(code = find(c, &norm, -1, &item, err)))
        code = visit(c, &item, err);
    if (!code && !c->tied && !(code = find(c, &head, -1, &item, err)))
        code = visit(c, &item, err);
    return code;
}

static enum error_code declare(struct convert *c, const struct item *item, struct error *err)
{
    static const uint32_t types[] = {[ROLE_NORM] = TENSOR_F32, [ROLE_TERNARY] = TENSOR_I2_S, [ROLE_TABLE] = TENSOR_F16};
    uint64_t dims[2] = {item->cols, item->rows};
    size_t n_bytes = tensor_bytes(types[item->role], item->rows, item->cols);
    if (!n_bytes)
        return refuse(err, item->t->name, "tensor %s: rows of %zu weights do not fit %s", item->t->name, item->cols,
                      tensor_type_name(types[item->role]));
    gguf_write_tensor(c->writer, item->name, types[item->role], item->role == ROLE_NORM ? 1 : 2, dims, n_bytes);
    c->n_used += 1 + (item->scale != NULL);
    return ERROR_NONE;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* A tensor of the checkpoint that nothing asks for would change the results: refused, but for tables that follow from the configuration. */
static enum error_code check_rest(struct convert *c, struct error *err)
{
    size_t n = 0;
    const char *strange = NULL;
    for (size_t i = 0; i < safetensors_n(c->weights); i++) {
        const char *name = safetensors_at(c->weights, i)->name;
        if (ends_with(name, "rotary_emb.inv_freq") || (c->tied && strcmp(name, "lm_head.weight") == 0))
            continue;
        n++;
        if (!ends_with(name, ".weight") && !ends_with(name, ".weight_scale"))
            strange = strange ? strange : name;
    }
    if (n == c->n_used)
        return ERROR_NONE;
    return refuse(err, strange ? strange : "", "%zu tensors are no part of a %s model as it is converted%s%s", n - c->n_used, c->arch,
                  strange ? ", such as " : "", strange ? strange : "");
}

enum error_code convert_declare_tensors(struct convert *c, struct error *err)
{
    enum error_code code = visit_all(c, declare, err);
    return code ? code : check_rest(c, err);
}

/* ---- data */

static void advance(struct convert *c)
{
    progress_show(&c->progress, "convert", (double)gguf_writer_done_bytes(c->writer) / 1e6, (double)gguf_writer_data_bytes(c->writer) / 1e6,
                  "MB");
}

/* As F32, or F16 of a table. */
static enum error_code write_values(struct convert *c, const struct item *item, struct error *err)
{
    uint32_t type = item->role == ROLE_TABLE ? TENSOR_F16 : TENSOR_F32;
    size_t n_bytes = tensor_bytes(type, 1, item->cols);
    float *values = malloc(item->cols * sizeof *values);
    uint8_t *out = malloc(n_bytes);
    enum error_code code = values && out ? ERROR_NONE : error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a row of %zu weights", item->cols);
    for (size_t r = 0; !code && r < item->rows; r++) {
        for (size_t i = 0; !code && i < item->cols; i++) {
            values[i] = safetensor_value(item->t, r * item->cols + i);
            if (!isfinite(values[i]) || (type == TENSOR_F16 && fabsf(values[i]) > 65504.0f))
                code = refuse(err, item->t->name, "tensor %s: expected finite weights%s, found %g at row %zu, column %zu", item->t->name,
                              type == TENSOR_F16 ? " that F16 can hold" : "", (double)values[i], r, i);
        }
        if (!code) {
            tensor_write_row(type, values, item->cols, out);
            gguf_write_data(c->writer, out, n_bytes);
            advance(c);
        }
    }
    free(values);
    free(out);
    return code;
}

/* A scale as the checkpoint's type would hold it, which is what its own arithmetic has. */
static float as_stored(float scale, enum safetensors_type type)
{
    uint8_t bytes[2];
    struct tensor_view v = {.type = type == ST_BF16 ? TENSOR_BF16 : TENSOR_F16, .data = bytes, .n_bytes = 2, .n_rows = 1, .n_cols = 1};
    if (type != ST_BF16 && type != ST_F16)
        return scale;
    tensor_write_row(v.type, &scale, 1, bytes);
    tensor_read_row(&v, 0, &scale);
    return scale;
}

/* The scale, and *divisor: what weights are divided by before they are rounded. */
static enum error_code find_scale(const struct convert *c, const struct item *item, float *scale, float *divisor, struct error *err)
{
    size_t n = item->rows * item->cols;
    if (item->scale) {
        float s = safetensor_value(item->scale, 0);
        *scale = c->multiplies ? s : 1.0f / s;
    } else {
        float size = 0;
        bool ternary = !c->input_norms;
        double sum = 0;
        for (size_t i = 0; i < n; i++) {
            float v = fabsf(safetensor_value(item->t, i));
            if (!isfinite(v))
                return refuse(err, item->t->name, "tensor %s: weight %zu is not finite", item->t->name, i);
            sum += (double)v;
            size = v != 0.0f && size == 0.0f ? v : size;
            ternary &= v == 0.0f || v == size;
        }
        float mean = (float)(sum / (double)n);
        *divisor = ternary ? size : mean > 1e-5f ? mean : 1e-5f;
        *scale = ternary ? size : as_stored(*divisor, item->t->type);
    }
    if (!(*scale > 0.0f) || isinf(*scale))
        return refuse(err, item->t->name, "tensor %s: expected a finite and positive scale, found %g", item->t->name, (double)*scale);
    return ERROR_NONE;
}

/* The row of the checkpoint that is row r: llama.cpp's order of rotated heads has the two of a pair beside each other. */
static size_t row_from(const struct convert *c, const struct item *item, size_t r)
{
    size_t in_head = r % c->head_dim;
    return item->permute ? r - in_head + in_head % 2 * (c->head_dim / 2) + in_head / 2 : r;
}

static enum error_code read_codes(const struct item *item, size_t from, float divisor, uint8_t *codes, struct error *err)
{
    size_t quarter = item->rows / 4;
    for (size_t i = 0; i < item->cols; i++) {
        if (!item->scale || item->t->type != ST_U8) {
            float v = nearbyintf(safetensor_value(item->t, from * item->cols + i) / divisor);
            codes[i] = (uint8_t)(v > 0.0f ? 2 : v < 0.0f ? 0 : 1);
            continue;
        }
        codes[i] = item->t->data[from % quarter * item->cols + i] >> (2 * (from / quarter)) & 3;
        if (codes[i] == 3)
            return refuse(err, item->t->name, "tensor %s: expected codes 0, 1 and 2, found 3 at row %zu, column %zu", item->t->name, from, i);
    }
    return ERROR_NONE;
}

static enum error_code write_ternary(struct convert *c, const struct item *item, struct error *err)
{
    float tail[8] = {0}, divisor = 1.0f;
    size_t pending = 0; /* codes that wait for a whole block */
    enum error_code code = find_scale(c, item, &tail[0], &divisor, err);
    if (code)
        return code;
    uint8_t *codes = malloc(item->cols + BLOCK), *out = malloc(item->cols / 4 + BLOCK / 4);
    if (!codes || !out)
        code = error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a row of %zu weights", item->cols);
    for (size_t r = 0; !code && r < item->rows; r++) {
        if ((code = read_codes(item, row_from(c, item, r), divisor, codes + pending, err)))
            break;
        size_t n = pending + item->cols, whole = n / BLOCK * BLOCK;
        tensor_write_codes(TENSOR_I2_S, codes, whole, tail[0], out);
        gguf_write_data(c->writer, out, whole / 4);
        pending = n - whole;
        memmove(codes, codes + whole, pending);
        advance(c);
    }
    if (!code)
        gguf_write_data(c->writer, tail, sizeof tail);
    free(codes);
    free(out);
    return code;
}

static enum error_code write_item(struct convert *c, const struct item *item, struct error *err)
{
    return item->role == ROLE_TERNARY ? write_ternary(c, item, err) : write_values(c, item, err);
}

enum error_code convert_write_tensors(struct convert *c, struct error *err)
{
    return visit_all(c, write_item, err);
}
