/* config.json: which architecture a checkpoint is of, its shape, and the keys that say so in GGUF. */
#include "tools/convert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG "config.json: "

bool convert_string(const struct json_value *v, const char *name, const char **out)
{
    const struct json_value *m = json_member(v, name);
    if (!m || m->type != JSON_STRING)
        return false;
    *out = m->string;
    return true;
}

bool convert_size(const struct json_value *v, const char *name, size_t *out)
{
    const struct json_value *m = json_member(v, name);
    if (!m || m->type != JSON_NUMBER || !(m->number >= 0 && m->number <= 4294967295.0) || m->number != floor(m->number))
        return false;
    *out = (size_t)m->number;
    return true;
}

bool convert_bool(const struct json_value *v, const char *name, bool *out)
{
    const struct json_value *m = json_member(v, name);
    if (!m || m->type != JSON_BOOL)
        return false;
    *out = m->number != 0;
    return true;
}

#define refuse(err, ...) error_set((err), ERROR_MODEL_LOAD_FAILED, __VA_ARGS__)

/* The first of "architectures". The two that are called BitNet differ in the activation of the FFN. */
static enum error_code read_architecture(struct convert *c, const struct json_value *config, struct error *err)
{
    const struct json_value *list = json_member(config, "architectures"), *first = list && list->type == JSON_ARRAY ? list->first : NULL;
    const char *name = first && first->type == JSON_STRING ? first->string : "none", *act = "silu", *type = "none";
    convert_string(config, "hidden_act", &act);
    convert_string(config, "model_type", &type);
    if (strcmp(type, "qwen3") == 0) { /* its classes have many names */
        if (strcmp(act, "silu") != 0)
            return refuse(err, CONFIG "hidden_act: expected silu of a Qwen3 model, found %.40s", act);
        c->arch = "qwen3";
        c->input_norms = true;
    } else if (strcmp(name, "BitNetForCausalLM") == 0 || strcmp(name, "BitnetForCausalLM") == 0) {
        if (strcmp(act, "relu2") != 0 && strcmp(act, "silu") != 0)
            return refuse(err, CONFIG "hidden_act: expected relu2 or silu, found %.40s", act);
        c->arch = strcmp(act, "relu2") == 0 ? "bitnet-b1.58" : "bitnet";
        c->sub_norms = true;
    } else if (strcmp(name, "LlamaForCausalLM") == 0) {
        if (strcmp(act, "silu") != 0)
            return refuse(err, CONFIG "hidden_act: expected silu of a Llama model, found %.40s", act);
        c->arch = "llama";
        c->permute = true;
    } else {
        return refuse(err, CONFIG "architectures: expected BitNetForCausalLM, BitnetForCausalLM or LlamaForCausalLM, or model_type qwen3, found %.60s", name);
    }
    return ERROR_NONE;
}

/* transformers' BitLinear divides its result by weight_scale, AutoBitLinear multiplies with it. */
static enum error_code read_quantization(struct convert *c, const struct json_value *config, struct error *err)
{
    const struct json_value *q = json_member(config, "quantization_config");
    const char *method = "bitnet", *linear = "bitlinear";
    convert_string(q, "quant_method", &method);
    convert_string(q, "linear_class", &linear);
    if (strcmp(method, "bitnet") != 0)
        return refuse(err, CONFIG "quantization_config.quant_method: expected bitnet, found %.40s", method);
    if (strcmp(linear, "bitlinear") != 0 && strcmp(linear, "autobitlinear") != 0)
        return refuse(err, CONFIG "quantization_config.linear_class: expected bitlinear or autobitlinear, found %.40s", linear);
    c->multiplies = strcmp(linear, "autobitlinear") == 0;
    return ERROR_NONE;
}

static enum error_code read_sizes(struct convert *c, const struct json_value *config, struct error *err)
{
    const struct {
        const char *name;
        size_t *out, max;
    } sizes[] = {{"num_hidden_layers", &c->n_layers, 1024}, {"hidden_size", &c->dim, 1 << 16},
                 {"intermediate_size", &c->ffn_dim, 1 << 20}, {"num_attention_heads", &c->n_heads, 1024},
                 {"vocab_size", &c->vocab_size, 1 << 24}, {"max_position_embeddings", &c->context_length, 1 << 20}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (!convert_size(config, sizes[i].name, sizes[i].out) || *sizes[i].out < 1 || *sizes[i].out > sizes[i].max)
            return refuse(err, CONFIG "%s: expected a whole number from 1 to %zu", sizes[i].name, sizes[i].max);
    c->n_kv_heads = c->n_heads;
    c->head_dim = c->dim / c->n_heads;
    convert_size(config, "num_key_value_heads", &c->n_kv_heads);
    convert_size(config, "head_dim", &c->head_dim);
    if (c->n_kv_heads < 1 || c->n_heads % c->n_kv_heads || c->head_dim < 2 || c->head_dim > 256 || c->head_dim % 2)
        return refuse(err, CONFIG "%zu heads of %zu with %zu KV heads are no shape that can be served", c->n_heads, c->head_dim, c->n_kv_heads);
    return ERROR_NONE;
}

static enum error_code read_numbers(struct convert *c, const struct json_value *config, struct error *err)
{
    const struct json_value *eps = json_member(config, "rms_norm_eps"), *base = json_member(config, "rope_theta"),
                            *scaling = json_member(config, "rope_scaling");
    c->eps = eps && eps->type == JSON_NUMBER ? eps->number : 0;
    c->rope_base = base && base->type == JSON_NUMBER ? base->number : 10000.0;
    if (!(c->eps >= 1e-12 && c->eps <= 0.1))
        return refuse(err, CONFIG "rms_norm_eps: expected a number from 1e-12 to 0.1");
    if (!(c->rope_base >= 1.0 && c->rope_base <= 1e12))
        return refuse(err, CONFIG "rope_theta: expected a number from 1 to 1e12");
    if (scaling && scaling->type != JSON_NULL)
        return refuse(err, CONFIG "rope_scaling: expected null: scaled rotation is not converted");
    return ERROR_NONE;
}

enum error_code convert_read_config(struct convert *c, struct error *err)
{
    if (!c->config.json)
        return error_set(err, ERROR_NOT_FOUND, "%s/config.json is not there", c->folder);
    const struct json_value *config = json_root(c->config.json);
    enum error_code code = read_architecture(c, config, err);
    if (!code)
        code = read_quantization(c, config, err);
    if (!code)
        code = read_sizes(c, config, err);
    if (!code)
        code = read_numbers(c, config, err);
    c->prefix = safetensors_find(c->weights, "embed_tokens.weight") ? "" : "model.";
    c->tied = safetensors_find(c->weights, "lm_head.weight") == NULL;
    convert_bool(config, "tie_word_embeddings", &c->tied);
    return code;
}

static void write_number(struct convert *c, const char *suffix, size_t value)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", c->arch, suffix);
    gguf_write_u32(c->writer, key, (uint32_t)value);
}

static void write_real(struct convert *c, const char *suffix, double value)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", c->arch, suffix);
    gguf_write_f32(c->writer, key, (float)value);
}

/* The folder's name, when none was given. */
static void write_name(struct convert *c)
{
    char *path = realpath(c->folder, NULL);
    const char *slash = path ? strrchr(path, '/') : NULL;
    gguf_write_string(c->writer, "general.name", c->name ? c->name : slash ? slash + 1 : c->folder);
    free(path);
}

/* How hidden states become a vector, where sentence-transformers' folder says so. */
static enum error_code write_pooling(struct convert *c, struct error *err)
{
    static const char *const modes[] = {"mean_tokens", "cls_token", "lasttoken"}; /* GGUF's 1, 2, 3 */
    const struct json_value *pooling = c->pooling.json ? json_root(c->pooling.json) : NULL;
    for (size_t i = 0; pooling && i < sizeof modes / sizeof modes[0]; i++) {
        char name[64];
        bool on = false;
        snprintf(name, sizeof name, "pooling_mode_%s", modes[i]);
        if (!convert_bool(pooling, name, &on) || !on)
            continue;
        write_number(c, "pooling_type", i + 1);
        return ERROR_NONE;
    }
    return pooling ? refuse(err, "1_Pooling/config.json: expected pooling_mode_mean_tokens, _cls_token or _lasttoken to be true") : ERROR_NONE;
}

enum error_code convert_write_keys(struct convert *c, struct error *err)
{
    bool add_bos;
    enum error_code code;
    gguf_write_string(c->writer, "general.architecture", c->arch);
    write_name(c);
    if (c->license)
        gguf_write_string(c->writer, "general.license", c->license);
    if (c->description)
        gguf_write_string(c->writer, "general.description", c->description);
    write_number(c, "vocab_size", c->vocab_size);
    write_number(c, "context_length", c->context_length);
    write_number(c, "embedding_length", c->dim);
    write_number(c, "block_count", c->n_layers);
    write_number(c, "feed_forward_length", c->ffn_dim);
    write_number(c, "rope.dimension_count", c->head_dim);
    write_number(c, "attention.head_count", c->n_heads);
    write_number(c, "attention.head_count_kv", c->n_kv_heads);
    if (c->head_dim * c->n_heads != c->dim) {
        write_number(c, "attention.key_length", c->head_dim);
        write_number(c, "attention.value_length", c->head_dim);
    }
    if (convert_add_bos(c, &add_bos))
        gguf_write_bool(c->writer, "tokenizer.ggml.add_bos_token", add_bos);
    if (convert_text_end(c))
        gguf_write_bool(c->writer, "tokenizer.ggml.add_eos_token", true);
    if ((code = write_pooling(c, err)))
        return code;
    write_real(c, "attention.layer_norm_rms_epsilon", c->eps);
    write_real(c, "rope.freq_base", c->rope_base);
    gguf_write_u32(c->writer, "general.file_type", 40); /* mostly I2_S, in Microsoft's fork */
    code = convert_write_vocab(c, err);
    gguf_write_u32(c->writer, "general.quantization_version", 2);
    return code;
}
