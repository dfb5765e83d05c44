/*
 * Shapes: what a file says of its model, and whether its tensors agree, tensor by tensor, before anything is bound.
 * Keys and names are those of llama.cpp's gguf-py/gguf/constants.py. A tensor that the architecture does not know is
 * refused: results would be wrong if it were ignored (biases, separate scales, experts).
 */
#include "engine/model/tensors.h"

#include "engine/model/gguf_text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAYER_AS(name_, field, role_, cols_, rows_, where_)                                                            \
    {                                                                                                                  \
        name_, role_, cols_, rows_, offsetof(struct model_layer, field), where_                                        \
    }
#define NORM(name_, field, cols_, where_) LAYER_AS(name_, field, ROLE_VECTOR, cols_, SIZE_ONE, where_)
#define TERNARY(name_, field, cols_, rows_) LAYER_AS(name_, field, ROLE_TERNARY, cols_, rows_, IN_ALL)

/* What o and down read is normalised in the same place by both kinds of norms: they share a field. */
const struct layer_tensor layer_tensors[] = {
    NORM("attn_norm", attn_norm, SIZE_DIM, IN_ALL),
    NORM("attn_q_norm_in", q_norm, SIZE_DIM, IN_INPUT_NORMS),
    TERNARY("attn_q", q, SIZE_DIM, SIZE_Q),
    NORM("attn_k_norm_in", k_norm, SIZE_DIM, IN_INPUT_NORMS),
    TERNARY("attn_k", k, SIZE_DIM, SIZE_KV),
    NORM("attn_v_norm_in", v_norm, SIZE_DIM, IN_INPUT_NORMS),
    TERNARY("attn_v", v, SIZE_DIM, SIZE_KV),
    NORM("attn_q_norm", q_head_norm, SIZE_HEAD, IN_INPUT_NORMS),
    NORM("attn_k_norm", k_head_norm, SIZE_HEAD, IN_INPUT_NORMS),
    NORM("attn_sub_norm", attn_sub_norm, SIZE_Q, IN_SUB_NORMS),
    NORM("attn_output_norm_in", attn_sub_norm, SIZE_Q, IN_INPUT_NORMS),
    TERNARY("attn_output", o, SIZE_Q, SIZE_DIM),
    NORM("ffn_norm", ffn_norm, SIZE_DIM, IN_ALL),
    NORM("ffn_gate_norm_in", gate_norm, SIZE_DIM, IN_INPUT_NORMS),
    TERNARY("ffn_gate", gate, SIZE_DIM, SIZE_FFN),
    NORM("ffn_up_norm_in", up_norm, SIZE_DIM, IN_INPUT_NORMS),
    TERNARY("ffn_up", up, SIZE_DIM, SIZE_FFN),
    NORM("ffn_sub_norm", ffn_sub_norm, SIZE_FFN, IN_SUB_NORMS),
    NORM("ffn_down_norm_in", ffn_sub_norm, SIZE_FFN, IN_INPUT_NORMS),
    TERNARY("ffn_down", down, SIZE_FFN, SIZE_DIM),
};
const size_t n_layer_tensors = sizeof layer_tensors / sizeof layer_tensors[0];

/* bitnet-25 is the name that files of the 2B4T graph had first: bitnet.cpp runs it as bitnet-b1.58. llama's
 * converter permutes Q and K so that pairs are neighbours. */
static const struct {
    const char *name;
    enum model_arch arch;
    enum rope_style rope_style;
    enum ffn_act ffn_act;
    bool has_sub_norms, has_input_norms;
} architectures[] = {
    {"bitnet-b1.58", ARCH_BITNET_B158, ROPE_NEOX, FFN_RELU2, true, false},
    {"bitnet-25", ARCH_BITNET_B158, ROPE_NEOX, FFN_RELU2, true, false},
    {"bitnet", ARCH_BITNET, ROPE_NEOX, FFN_SILU, true, false},
    {"llama", ARCH_LLAMA, ROPE_NORM, FFN_SILU, false, false},
    {"qwen3", ARCH_QWEN3, ROPE_NEOX, FFN_SILU, false, true},
};

/* Of ternary models that are published, those that another block is missing for. */
static const struct {
    const char *name, *missing;
} not_served[] = {
    {"gemma3", "its GELU, its norms after attention and FFN, its scaled embedding and its sliding window are not there"},
};

bool layer_tensor_in(const struct model_shape *s, const struct layer_tensor *t)
{
    return t->where == IN_ALL || (t->where == IN_SUB_NORMS ? s->has_sub_norms : s->has_input_norms);
}

char *layer_tensor_name(size_t layer, const struct layer_tensor *t, char out[TENSOR_NAME_BYTES])
{
    snprintf(out, TENSOR_NAME_BYTES, "blk.%zu.%s.weight", layer, t->name);
    return out;
}

char *layer_scale_name(size_t layer, const struct layer_tensor *t, char out[TENSOR_NAME_BYTES])
{
    snprintf(out, TENSOR_NAME_BYTES, "blk.%zu.%s.scale", layer, t->name);
    return out;
}

enum error_code layer_scale(const struct gguf *g, size_t layer, const struct layer_tensor *t, float *out,
                            struct error *err)
{
    char name[TENSOR_NAME_BYTES], dims[GGUF_TEXT_BYTES];
    const struct gguf_tensor *scale =
        t->role == ROLE_TERNARY ? gguf_find_tensor(g, layer_scale_name(layer, t, name)) : NULL;
    *out = 1.0f;
    if (!scale)
        return ERROR_NONE;
    if (scale->type != TENSOR_F32 || scale->n_bytes != sizeof *out)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name,
                               "tensor %s: expected one F32 weight, found %s of type %" PRIu32, name,
                               gguf_dims_text(scale, dims), scale->type);
    memcpy(out, scale->data, sizeof *out);
    if (!(*out > 0.0f) || isinf(*out))
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name,
                               "tensor %s: expected a finite and positive scale, found %g", name, (double)*out);
    return ERROR_NONE;
}

size_t tensor_size(const struct model_shape *s, enum tensor_size size)
{
    switch (size) {
    case SIZE_ONE:
        return 1;
    case SIZE_DIM:
        return s->dim;
    case SIZE_HEAD:
        return s->head_dim;
    case SIZE_Q:
        return (size_t)s->n_heads * s->head_dim;
    case SIZE_KV:
        return (size_t)s->n_kv_heads * s->head_dim;
    case SIZE_FFN:
        return s->ffn_dim;
    case SIZE_VOCAB:
        return s->vocab_size;
    }
    return 0;
}

struct tensor_view tensor_view_of(const struct gguf *g, const struct gguf_tensor *t, enum i2s_order order)
{
    struct tensor_view v = {.type = (enum tensor_type)t->type,
                            .order = order,
                            .data = t->data,
                            .n_bytes = t->n_bytes,
                            .n_rows = (size_t)(t->dims[1] * t->dims[2] * t->dims[3]),
                            .n_cols = (size_t)t->dims[0]};
    v.mapped = gguf_file_of(g, t, &v.fd, &v.offset);
    return v;
}

/* ---- keys ------------------------------------------------------------------------------------------------------ */

static bool name_is(struct gguf_string name, const char *text)
{
    return name.n_bytes == strlen(text) && memcmp(name.data, text, name.n_bytes) == 0;
}

static enum error_code read_architecture(const struct gguf *g, struct model_shape *s, struct error *err)
{
    struct gguf_string name;
    struct error why = {0};
    char text[GGUF_TEXT_BYTES];
    if (!gguf_get_string(g, "general.architecture", &name, &why)) {
        if (why.code)
            return error_set_param(err, why.code, why.param, "%s", why.message);
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, "general.architecture",
                               "key general.architecture is missing");
    }
    for (size_t i = 0; i < sizeof architectures / sizeof architectures[0]; i++) {
        if (!name_is(name, architectures[i].name))
            continue;
        s->arch = architectures[i].arch;
        s->rope_style = architectures[i].rope_style;
        s->ffn_act = architectures[i].ffn_act;
        s->has_sub_norms = architectures[i].has_sub_norms;
        s->has_input_norms = architectures[i].has_input_norms;
        snprintf(s->arch_name, sizeof s->arch_name, "%s", architectures[i].name);
        return ERROR_NONE;
    }
    const char *missing = NULL;
    for (size_t i = 0; i < sizeof not_served / sizeof not_served[0]; i++)
        if (name_is(name, not_served[i].name))
            missing = not_served[i].missing;
    return error_set_param(err, ERROR_MODEL_LOAD_FAILED, "general.architecture",
                           "key general.architecture: expected bitnet-b1.58, bitnet-25, bitnet, llama or qwen3 (with "
                           "ternary weights), found %s%s%s",
                           gguf_text(name, text), missing ? ": " : "", missing ? missing : "");
}

/* A number of the architecture: "<arch>.<suffix>", required unless *out has a default, from min to max. */
struct number_rule {
    const char *suffix;
    uint32_t *out;
    uint32_t min, max;
    bool required;
};

static enum error_code read_u32s(const struct gguf *g, const char *arch, const struct number_rule *rules, size_t n,
                                 struct error *err)
{
    for (size_t i = 0; i < n; i++) {
        char name[96];
        struct error why = {0};
        snprintf(name, sizeof name, "%s.%s", arch, rules[i].suffix);
        bool found = gguf_get_u32(g, name, rules[i].out, &why);
        if (why.code)
            return error_set_param(err, why.code, name, "%s", why.message);
        if (!found && rules[i].required)
            return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name, "key %s is missing", name);
        if (*rules[i].out < rules[i].min || *rules[i].out > rules[i].max)
            return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name,
                                   "key %s: expected %" PRIu32 " to %" PRIu32 ", found %" PRIu32, name, rules[i].min,
                                   rules[i].max, *rules[i].out);
    }
    return ERROR_NONE;
}

/* *out is the default, or NAN when the key is required. */
static enum error_code read_f64(const struct gguf *g, const char *arch, const char *suffix, double min, double max,
                                double *out, struct error *err)
{
    char name[96];
    struct error why = {0};
    snprintf(name, sizeof name, "%s.%s", arch, suffix);
    gguf_get_f64(g, name, out, &why);
    if (why.code)
        return error_set_param(err, why.code, name, "%s", why.message);
    if (isnan(*out))
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name, "key %s is missing", name);
    if (!(*out >= min && *out <= max))
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name, "key %s: expected %g to %g, found %g", name, min,
                               max, *out);
    return ERROR_NONE;
}

/* Sizes; what follows from others is read after them. */
static enum error_code read_sizes(const struct gguf *g, struct model_shape *s, struct error *err)
{
    const struct number_rule first[] = {
        {"block_count", &s->n_layers, 1, 1024, true},
        {"embedding_length", &s->dim, 32, 1u << 16, true},
        {"feed_forward_length", &s->ffn_dim, 32, 1u << 20, true},
        {"context_length", &s->context_length, 1, 1u << 20, true},
        {"attention.head_count", &s->n_heads, 1, 1024, true},
    };
    enum error_code code = read_u32s(g, s->arch_name, first, sizeof first / sizeof first[0], err);
    if (code)
        return code;
    uint32_t key_length = s->dim / s->n_heads, value_length, n_experts = 0;
    s->n_kv_heads = s->n_heads;
    const struct number_rule second[] = {
        {"attention.head_count_kv", &s->n_kv_heads, 1, s->n_heads, false},
        {"attention.key_length", &key_length, 2, 256, false},
        {"expert_count", &n_experts, 0, 0, false},
    };
    if ((code = read_u32s(g, s->arch_name, second, sizeof second / sizeof second[0], err)))
        return code;
    s->head_dim = s->rope_dims = value_length = key_length;
    const struct number_rule third[] = {
        {"attention.value_length", &value_length, key_length, key_length, false},
        {"rope.dimension_count", &s->rope_dims, 2, key_length, false},
    };
    return read_u32s(g, s->arch_name, third, sizeof third / sizeof third[0], err);
}

static enum error_code check_sizes(const struct model_shape *s, struct error *err)
{
    if (s->n_heads % s->n_kv_heads)
        return error_set(err, ERROR_MODEL_LOAD_FAILED,
                         "%" PRIu32 " attention heads are no multiple of %" PRIu32 " KV heads", s->n_heads,
                         s->n_kv_heads);
    if (s->head_dim % 2 || s->rope_dims % 2)
        return error_set(err, ERROR_MODEL_LOAD_FAILED,
                         "head size %" PRIu32 " and rotated part %" PRIu32 ": expected even numbers", s->head_dim,
                         s->rope_dims);
    return ERROR_NONE;
}

static enum error_code read_scalars(const struct gguf *g, struct model_shape *s, struct error *err)
{
    double eps = (double)NAN;
    s->rope_freq_base = 10000.0;
    enum error_code code = read_f64(g, s->arch_name, "attention.layer_norm_rms_epsilon", 1e-12, 0.1, &eps, err);
    if (!code)
        code = read_f64(g, s->arch_name, "rope.freq_base", 1.0, 1e12, &s->rope_freq_base, err);
    s->norm_eps = (float)eps;
    return code;
}

/* A model that computes embeddings says how; one that is not causal can do nothing else. */
static enum error_code read_pooling(const struct gguf *g, struct model_shape *s, struct error *err)
{
    uint32_t pooling = POOLING_NONE;
    const struct number_rule rule = {"pooling_type", &pooling, POOLING_NONE, POOLING_LAST, false};
    char name[96];
    struct error why = {0};
    enum error_code code = read_u32s(g, s->arch_name, &rule, 1, err);
    if (code)
        return code;
    snprintf(name, sizeof name, "%s.attention.causal", s->arch_name);
    s->pooling = (enum pooling)pooling;
    s->causal = true;
    gguf_get_bool(g, name, &s->causal, &why);
    if (why.code)
        return error_set_param(err, why.code, name, "%s", why.message);
    if (s->causal || s->pooling != POOLING_NONE)
        return ERROR_NONE;
    return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name,
                           "key %s: expected true, as the model has no pooling_type and would generate, found false", name);
}

/* ---- tensors --------------------------------------------------------------------------------------------------- */

static enum error_code check_type(const struct gguf_tensor *t, const char *name, enum tensor_role role,
                                  struct error *err)
{
    const char *type = tensor_type_name(t->type);
    bool ternary = tensor_type_is_ternary(t->type);
    bool vector = t->type == TENSOR_F32 || t->type == TENSOR_F16 || t->type == TENSOR_BF16;
    if (role == ROLE_TERNARY && !ternary)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name,
                               "tensor %s: unsupported type %" PRIu32
                               " (%s): this server runs models with ternary weights "
                               "(I2_S, TL1, TL2, TQ1_0, TQ2_0, Q2_0) only",
                               name, t->type, type ? type : gguf_other_type_name(t->type));
    if ((role == ROLE_DENSE && (!type || ternary)) || (role == ROLE_VECTOR && !vector))
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name,
                               "tensor %s: unsupported type %" PRIu32 " (%s): expected %s", name, t->type,
                               type ? type : gguf_other_type_name(t->type),
                               role == ROLE_VECTOR ? "F32, F16 or BF16" : "F32, F16, BF16, Q8_0, Q6_K or Q4_0");
    return ERROR_NONE;
}

/* Presence, type and dimensions of one tensor; rows 1 for a vector. */
static enum error_code check_tensor(const struct gguf *g, const char *name, enum tensor_role role, size_t cols,
                                    size_t rows, struct error *err)
{
    const struct gguf_tensor *t = gguf_find_tensor(g, name);
    char found[GGUF_TEXT_BYTES];
    if (!t)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name, "tensor %s is missing", name);
    if (t->dims[0] == cols && t->dims[1] == rows && t->dims[2] == 1 && t->dims[3] == 1)
        return check_type(t, name, role, err);
    if (role == ROLE_VECTOR)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name, "tensor %s: expected %zu weights, found %s", name,
                               cols, gguf_dims_text(t, found));
    return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name,
                           "tensor %s: expected %zu x %zu (columns x rows), found %s", name, cols, rows,
                           gguf_dims_text(t, found));
}

/* The vocabulary's size is the embedding's number of rows: files pad it, and their vocab_size key is not always
 * right. */
static enum error_code read_vocab(const struct gguf *g, struct model_shape *s, struct error *err)
{
    const struct gguf_tensor *t = gguf_find_tensor(g, "token_embd.weight");
    if (!t)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, "token_embd.weight",
                               "tensor token_embd.weight is missing%s",
                               gguf_n_tensors(g) ? "" : " (the file has a vocabulary but no weights)");
    if (t->dims[1] > 1u << 24)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, "token_embd.weight",
                               "tensor token_embd.weight: a vocabulary of %" PRIu64 " tokens is too large", t->dims[1]);
    s->vocab_size = (uint32_t)t->dims[1];
    enum error_code code = check_tensor(g, "token_embd.weight", ROLE_DENSE, s->dim, s->vocab_size, err);
    if (!code && gguf_find_tensor(g, "output.weight"))
        code = check_tensor(g, "output.weight", ROLE_DENSE, s->dim, s->vocab_size, err);
    return code ? code : check_tensor(g, "output_norm.weight", ROLE_VECTOR, s->dim, 1, err);
}

static enum error_code check_layers(const struct gguf *g, const struct model_shape *s, struct error *err)
{
    for (size_t layer = 0; layer < s->n_layers; layer++) {
        for (size_t i = 0; i < n_layer_tensors; i++) {
            const struct layer_tensor *t = &layer_tensors[i];
            char name[TENSOR_NAME_BYTES];
            if (!layer_tensor_in(s, t))
                continue;
            float scale;
            enum error_code code = check_tensor(g, layer_tensor_name(layer, t, name), t->role, tensor_size(s, t->cols),
                                                tensor_size(s, t->rows), err);
            if (code || (code = layer_scale(g, layer, t, &scale, err)))
                return code;
        }
    }
    return ERROR_NONE;
}

static bool tensor_known(const struct model_shape *s, struct gguf_string name)
{
    static const char *const others[] = {"token_embd.weight", "output.weight", "output_norm.weight",
                                         "rope_freqs.weight"};
    char text[TENSOR_NAME_BYTES], expected[TENSOR_NAME_BYTES], *end;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (name_is(name, others[i]))
            return true;
    if (name.n_bytes >= sizeof text || name.n_bytes < 5 || memcmp(name.data, "blk.", 4) != 0)
        return false;
    memcpy(text, name.data, name.n_bytes);
    text[name.n_bytes] = '\0';
    unsigned long layer = strtoul(text + 4, &end, 10);
    if (layer >= s->n_layers)
        return false;
    for (size_t i = 0; i < n_layer_tensors; i++)
        if (layer_tensor_in(s, &layer_tensors[i]) &&
            (strcmp(text, layer_tensor_name(layer, &layer_tensors[i], expected)) == 0 ||
             (layer_tensors[i].role == ROLE_TERNARY &&
              strcmp(text, layer_scale_name(layer, &layer_tensors[i], expected)) == 0)))
            return true;
    return false;
}

static enum error_code check_extra(const struct gguf *g, const struct model_shape *s, struct error *err)
{
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        char name[GGUF_TEXT_BYTES];
        if (tensor_known(s, gguf_tensor_at(g, i)->name))
            continue;
        gguf_text(gguf_tensor_at(g, i)->name, name);
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name,
                               "tensor %s is not part of a %s model of %" PRIu32
                               " layers as this server runs it; results without it would be wrong",
                               name, s->arch_name, s->n_layers);
    }
    return ERROR_NONE;
}

static enum error_code check_split(const struct gguf *g, struct error *err)
{
    uint32_t n = 1;
    struct error why = {0};
    gguf_get_u32(g, "split.count", &n, &why);
    if (n > 1 && gguf_n_parts(g) != n)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, "split.count",
                               "the file is one of %" PRIu32 " parts of a model: open the first by its path", n);
    return ERROR_NONE;
}

enum error_code model_shape_read(const struct gguf *g, struct model_shape *out, struct error *err)
{
    float *factors = NULL;
    enum error_code code;
    memset(out, 0, sizeof *out);
    if ((code = check_split(g, err)) || (code = read_architecture(g, out, err)) || (code = read_sizes(g, out, err)) ||
        (code = check_sizes(out, err)) || (code = read_scalars(g, out, err)) || (code = read_pooling(g, out, err)) ||
        (code = read_vocab(g, out, err)) ||
        (code = check_layers(g, out, err)) || (code = check_extra(g, out, err)))
        return code;
    code = model_rope_factors(g, out, &factors, err);
    free(factors);
    return code;
}
