/*
 * bitnet quantize: a model's weights in other types of the same file format. Ternary weights stay the weights they are: only their packing
 * changes. TQ1_0 and TQ2_0 hold F16 scales; one that is no F16 number goes into a tensor beside (blk.N.attn_q.scale), the blocks have 1.
 * Embedding and head may be rounded, as their type says. Norms and keys are copied. Memory stays at a row; the output is there when it is
 * whole.
 */
#include "tools/command.h"

#include "engine/model/gguf.h"
#include "tools/gguf_write.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_BYTES 128 /* of a tensor, with the end of the string */

struct config {
    const char *type, *embedding, *i2s_order;
};

static const struct option_def defs[] = {
    {.name = "type", .type = OPTION_CHOICE, .offset = offsetof(struct config, type), .default_value = "keep", .choices = "keep|i2_s|tq1_0|tq2_0",
     .help = "of ternary tensors; keep = as in the file"},
    {.name = "embedding", .type = OPTION_CHOICE, .offset = offsetof(struct config, embedding), .default_value = "keep",
     .choices = "keep|f16|q8_0|q6_k|q4_0", .help = "of the embedding and of a head of its own"},
    {.name = "i2s-order", .type = OPTION_CHOICE, .offset = offsetof(struct config, i2s_order), .default_value = "auto",
     .choices = "auto|128|64", .help = "packing of I2_S tensors in the file that is read; 128 is written"},
    {.name = NULL}};

static const struct option_table table = {"bitnet quantize", "usage: bitnet quantize IN.gguf OUT.gguf [--type i2_s] [--embedding q6_k]\n", defs};

/* What becomes of a tensor. */
enum action { COPY, REPACK, CONVERT, LEAVE_OUT };

struct job {
    const struct gguf *in;
    struct gguf_writer *out;
    uint32_t ternary, dense; /* UINT32_MAX = as they are */
    enum i2s_order order;
    float *scales; /* [tensors of in] of those that are repacked */
    struct progress progress;
};

static uint32_t type_of(const char *name)
{
    static const struct {
        const char *name;
        uint32_t type;
    } types[] = {{"i2_s", TENSOR_I2_S}, {"tq1_0", TENSOR_TQ1_0}, {"tq2_0", TENSOR_TQ2_0}, {"f16", TENSOR_F16},
                 {"q8_0", TENSOR_Q8_0}, {"q6_k", TENSOR_Q6_K},   {"q4_0", TENSOR_Q4_0}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(name, types[i].name) == 0)
            return types[i].type;
    return UINT32_MAX;
}

/* The tensor's name as a string; false when it is too long or has a NUL in it. */
static bool name_of(const struct gguf_tensor *t, char out[NAME_BYTES])
{
    if (t->name.n_bytes >= NAME_BYTES || memchr(t->name.data, 0, t->name.n_bytes))
        return false;
    memcpy(out, t->name.data, t->name.n_bytes);
    out[t->name.n_bytes] = '\0';
    return true;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* The scale beside a ternary tensor: "blk.0.attn_q.scale" of "blk.0.attn_q.weight". */
static const struct gguf_tensor *scale_beside(const struct gguf *g, const char *name)
{
    char other[NAME_BYTES];
    if (!ends_with(name, ".weight"))
        return NULL;
    snprintf(other, sizeof other, "%.*s.scale", (int)(strlen(name) - strlen(".weight")), name);
    return gguf_find_tensor(g, other);
}

static struct tensor_view view_of(const struct job *j, const struct gguf_tensor *t)
{
    return (struct tensor_view){.type = (enum tensor_type)t->type, .order = j->order, .data = t->data, .n_bytes = t->n_bytes,
                                .n_rows = (size_t)(t->dims[1] * t->dims[2] * t->dims[3]), .n_cols = (size_t)t->dims[0]};
}

static enum action action_of(const struct job *j, const struct gguf_tensor *t, const char *name, uint32_t *type)
{
    *type = t->type;
    if (tensor_type_is_ternary(t->type) && j->ternary != UINT32_MAX) {
        *type = j->ternary;
        return REPACK;
    }
    if (j->dense != UINT32_MAX && (strcmp(name, "token_embd.weight") == 0 || strcmp(name, "output.weight") == 0)) {
        *type = j->dense;
        return t->type == j->dense ? COPY : CONVERT;
    }
    if (j->ternary != UINT32_MAX && ends_with(name, ".scale")) {
        char weight[NAME_BYTES];
        snprintf(weight, sizeof weight, "%.*s.weight", (int)(strlen(name) - strlen(".scale")), name);
        const struct gguf_tensor *of = gguf_find_tensor(j->in, weight);
        if (of && tensor_type_is_ternary(of->type))
            return LEAVE_OUT; /* goes into the tensor */
    }
    return COPY;
}

/* Whether the scale of a repacked tensor goes beside it. */
static bool writes_beside(uint32_t type, float scale)
{
    return type != TENSOR_I2_S && !tensor_fits_f16(scale);
}

/* Checks a tensor that will be repacked and finds its scale. */
static enum error_code check_ternary(struct job *j, const struct gguf_tensor *t, const char *name, float *scale, struct error *err)
{
    struct tensor_view v = view_of(j, t);
    const struct gguf_tensor *beside = scale_beside(j->in, name);
    if (beside && beside->type == TENSOR_F32 && beside->n_bytes == sizeof v.factor)
        memcpy(&v.factor, beside->data, sizeof v.factor);
    enum error_code code = tensor_check_ternary(&v, scale, err);
    if (code)
        error_prefix(err, "tensor %s", name);
    return code;
}

static enum error_code declare(struct job *j, size_t i, struct error *err)
{
    const struct gguf_tensor *t = gguf_tensor_at(j->in, i);
    char name[NAME_BYTES];
    uint32_t type;
    enum error_code code;
    if (!name_of(t, name))
        return error_set(err, ERROR_MODEL_LOAD_FAILED, "a tensor's name is longer than %d bytes", NAME_BYTES - 1);
    if (!t->data)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name, "tensor %s: type %" PRIu32 " is not known", name, t->type);
    enum action action = action_of(j, t, name, &type);
    if (action == LEAVE_OUT)
        return ERROR_NONE;
    struct tensor_view v = view_of(j, t);
    size_t n_bytes = action == COPY ? t->n_bytes : tensor_bytes(type, v.n_rows, v.n_cols);
    bool fits = n_bytes && (type != TENSOR_I2_S || action == COPY || v.n_cols % 128 == 0);
    if (!fits)
        return error_set_param(err, ERROR_VALIDATION_FAILED, name, "tensor %s: rows of %zu weights do not fit %s, which has blocks of %d",
                               name, v.n_cols, tensor_type_name(type),
                               type == TENSOR_I2_S ? 128 : type == TENSOR_Q8_0 || type == TENSOR_Q4_0 ? 32 : 256);
    if (action == CONVERT && !tensor_type_is_dense(t->type))
        return error_set_param(err, ERROR_VALIDATION_FAILED, name, "tensor %s: type %s is not of floating-point weights", name,
                               tensor_type_name(t->type));
    if (action == REPACK && (code = check_ternary(j, t, name, &j->scales[i], err)))
        return code;
    gguf_write_tensor(j->out, name, type, t->n_dims, t->dims, n_bytes);
    if (action == REPACK && writes_beside(type, j->scales[i])) {
        const uint64_t one = 1;
        snprintf(name + strlen(name) - strlen(".weight"), sizeof ".scale", ".scale");
        gguf_write_tensor(j->out, name, TENSOR_F32, 1, &one, sizeof(float));
    }
    return ERROR_NONE;
}

static void advance(struct job *j, const char *what)
{
    progress_show(&j->progress, what, (double)gguf_writer_done_bytes(j->out) / 1e6, (double)gguf_writer_data_bytes(j->out) / 1e6, "MB");
}

static enum error_code repack(struct job *j, const struct gguf_tensor *t, float scale, uint32_t type, struct error *err)
{
    struct tensor_view v = view_of(j, t);
    const float tail[8] = {scale};
    bool beside = writes_beside(type, scale);
    size_t row_bytes = type == TENSOR_I2_S ? v.n_cols / 4 : tensor_bytes(type, 1, v.n_cols);
    uint8_t *codes = malloc(v.n_cols), *row = malloc(row_bytes);
    for (size_t r = 0; codes && row && r < v.n_rows; r++) {
        tensor_unpack_codes(&v, r, codes);
        tensor_write_codes(type, codes, v.n_cols, beside ? 1.0f : scale, row);
        gguf_write_data(j->out, row, row_bytes);
        advance(j, "quantize");
    }
    if (type == TENSOR_I2_S)
        gguf_write_data(j->out, tail, sizeof tail);
    if (beside)
        gguf_write_data(j->out, &scale, sizeof scale);
    enum error_code code = codes && row ? ERROR_NONE : error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a row of %zu weights", v.n_cols);
    free(codes);
    free(row);
    return code;
}

static enum error_code convert(struct job *j, const struct gguf_tensor *t, uint32_t type, struct error *err)
{
    struct tensor_view v = view_of(j, t);
    size_t row_bytes = tensor_bytes(type, 1, v.n_cols);
    float *values = malloc(v.n_cols * sizeof *values);
    uint8_t *row = malloc(row_bytes);
    for (size_t r = 0; values && row && r < v.n_rows; r++) {
        tensor_read_row(&v, r, values);
        tensor_write_row(type, values, v.n_cols, row);
        gguf_write_data(j->out, row, row_bytes);
        advance(j, "quantize");
    }
    enum error_code code = values && row ? ERROR_NONE : error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a row of %zu weights", v.n_cols);
    free(values);
    free(row);
    return code;
}

static enum error_code write_tensor(struct job *j, size_t i, struct error *err)
{
    const struct gguf_tensor *t = gguf_tensor_at(j->in, i);
    char name[NAME_BYTES];
    uint32_t type;
    name_of(t, name);
    switch (action_of(j, t, name, &type)) {
    case REPACK: return repack(j, t, j->scales[i], type, err);
    case CONVERT: return convert(j, t, type, err);
    case COPY: gguf_write_data(j->out, t->data, t->n_bytes); break;
    case LEAVE_OUT: break;
    }
    advance(j, "quantize");
    return ERROR_NONE;
}

static bool key_is(const struct gguf_key *key, const char *name)
{
    return key->name.n_bytes == strlen(name) && memcmp(key->name.data, name, key->name.n_bytes) == 0;
}

/* All but what speaks of the file that is read: its parts, its alignment, its type. */
static void write_keys(struct job *j)
{
    for (size_t i = 0; i < gguf_n_keys(j->in); i++) {
        const struct gguf_key *key = gguf_key_at(j->in, i);
        if (key_is(key, "split.no") || key_is(key, "split.count") || key_is(key, "split.tensors.count") || key_is(key, "general.alignment"))
            continue;
        if (key_is(key, "general.file_type") && j->ternary != UINT32_MAX)
            gguf_write_u32(j->out, "general.file_type", j->ternary == TENSOR_I2_S ? 40 : j->ternary == TENSOR_TQ1_0 ? 36 : 37);
        else
            gguf_write_raw(j->out, key->name.data, key->name.n_bytes, key->raw, key->raw_bytes);
    }
}

static enum error_code run(struct job *j, struct error *err)
{
    enum error_code code = ERROR_NONE;
    j->scales = calloc(gguf_n_tensors(j->in) + 1, sizeof *j->scales);
    if (!j->scales)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for %zu scales", gguf_n_tensors(j->in));
    write_keys(j);
    for (size_t i = 0; !code && i < gguf_n_tensors(j->in); i++)
        code = declare(j, i, err);
    for (size_t i = 0; !code && i < gguf_n_tensors(j->in); i++)
        code = write_tensor(j, i, err);
    return code ? code : gguf_writer_finish(j->out, err);
}

int command_quantize(int argc, char **argv)
{
    struct config c = {0};
    struct option_result result = {0};
    struct error err = {0};
    struct gguf *in = NULL;
    struct job j = {0};
    command_parse(&table, argc, argv, &c, &result);
    if (result.n_args != 2) {
        fprintf(stderr, "bitnet quantize: expected the files IN and OUT, found %d arguments\n", result.n_args);
        return 2;
    }
    enum error_code code = gguf_open(result.args[0], &in, &err);
    if (!code)
        code = gguf_writer_open(result.args[1], &j.out, &err);
    if (!code) {
        j.in = in;
        j.ternary = type_of(c.type);
        j.dense = type_of(c.embedding);
        j.order = strcmp(c.i2s_order, "64") == 0 ? I2S_ORDER_64 : I2S_ORDER_128;
        if (strcmp(c.i2s_order, "auto") == 0)
            model_file_order(result.args[0], &j.order, NULL); /* stays 128 where the file is no model that could tell */
        code = run(&j, &err);
        progress_end(&j.progress);
    }
    gguf_writer_close(j.out);
    free(j.scales);
    gguf_close(in);
    option_free(&table, &c);
    return code ? command_fail(&err) : 0;
}
