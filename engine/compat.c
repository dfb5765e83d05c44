/*
 * What a file holds and whether it can be served, from its headers: no backend is opened, and of the weights only those are read that tell
 * how I2_S is packed. The tensors' contents (codes, scales) are checked when a model is loaded, and by engine/verify.c. Caller's thread.
 */
#include "engine/engine.h"

#include "engine/model/gguf_text.h"
#include "engine/model/tensors.h"
#include "engine/text/tokenizer.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define SHOWN_ELEMENTS 8 /* of an array */
#define MAX_TYPES 16

#define MAX_WARNINGS 4

static const char order_note[] =
    "128 weights in 32 bytes, as x86 builds write it: assumed, as neither file nor weights say; files of some ARM builds need "
    "i2s-order 64, and the wrong one yields fluent nonsense";

struct report {
    const char *path;
    struct gguf *gguf; /* NULL when it could not be opened */
    bool has_shape;
    struct model_shape shape;
    struct tokenizer *tokenizer; /* NULL when there is none */
    struct {
        uint32_t type;
        size_t n;
    } types[MAX_TYPES];
    size_t n_types;
    uint64_t n_parameters, tensor_bytes;
    bool has_i2s;
    enum i2s_order order;
    enum order_evidence evidence;
    const char *warnings[MAX_WARNINGS]; /* what is guessed, or will not work */
    size_t n_warnings;
    enum error_code code;
    struct error error;
};

static void count_types(struct report *r)
{
    for (size_t i = 0; i < gguf_n_tensors(r->gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(r->gguf, i);
        size_t slot = 0;
        while (slot < r->n_types && r->types[slot].type != t->type)
            slot++;
        if (slot < MAX_TYPES) {
            r->types[slot].type = t->type;
            r->types[slot].n++;
            r->n_types = slot < r->n_types ? r->n_types : slot + 1;
        }
        r->n_parameters += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
        r->tensor_bytes += t->n_bytes;
        r->has_i2s |= t->type == TENSOR_I2_S;
    }
}

static void warn(struct report *r, bool condition, const char *what)
{
    if (condition && r->n_warnings < MAX_WARNINGS)
        r->warnings[r->n_warnings++] = what;
}

static void find_warnings(struct report *r)
{
    bool has_vocab = gguf_find(r->gguf, "tokenizer.ggml.model") && gguf_find(r->gguf, "tokenizer.ggml.tokens");
    warn(r, r->has_i2s && r->evidence == ORDER_UNKNOWN, "the packing of I2_S tensors is assumed: the weights do not tell it");
    warn(r, !has_vocab, "the file has no tokenizer: token ids only");
    warn(r, has_vocab && !gguf_find(r->gguf, "tokenizer.ggml.pre"), "tokenizer.ggml.pre is missing: how words are cut is guessed");
    warn(r, !tokenizer_chat_template(r->tokenizer), "no chat template that is known: no chat completions");
}

static void examine(struct report *r, bool strict)
{
    r->code = gguf_open(r->path, &r->gguf, &r->error);
    if (r->code)
        return;
    count_types(r);
    r->code = model_shape_read(r->gguf, &r->shape, &r->error);
    r->has_shape = r->code == ERROR_NONE;
    if (r->has_shape)
        r->code = tokenizer_from_gguf(r->gguf, r->shape.vocab_size, &r->tokenizer, &r->error);
    if (r->code)
        return;
    r->order = model_i2s_order(r->gguf, &r->shape, &r->evidence);
    find_warnings(r);
    if (strict && r->n_warnings)
        r->code = error_set(&r->error, ERROR_MODEL_LOAD_FAILED, "strictly: %s", r->warnings[0]);
}

static const char *order_text(const struct report *r)
{
    if (r->evidence == ORDER_UNKNOWN)
        return order_note;
    return r->order == I2S_ORDER_64 ? "64 weights in 16 bytes, as the weights tell" : "128 weights in 32 bytes, as the weights tell";
}

static size_t kv_position_bytes(const struct model_shape *s)
{
    return kv_cache_block_bytes(KV_F16, s->n_layers, s->n_kv_heads, s->head_dim) / KV_BLOCK_SIZE;
}

static const char *type_name(uint32_t type)
{
    const char *name = tensor_type_name(type);
    return name ? name : gguf_other_type_name(type);
}

static const char *act_name(enum ffn_act act)
{
    return act == FFN_RELU2 ? "relu2" : "silu";
}
static const char *rope_name(enum rope_style style)
{
    return style == ROPE_NEOX ? "neox" : "norm";
}

static const char *pooling_name(enum pooling pooling)
{
    static const char *const names[] = {[POOLING_NONE] = "none", [POOLING_MEAN] = "mean", [POOLING_CLS] = "cls", [POOLING_LAST] = "last"};
    return names[pooling];
}

/* Text of a string key, or `missing`. */
static const char *string_key(const struct gguf *g, const char *name, char text[GGUF_TEXT_BYTES], const char *missing)
{
    struct gguf_string s;
    return gguf_get_string(g, name, &s, NULL) ? gguf_text(s, text) : missing;
}

/* ---- values of keys, as JSON; text shows the same -------------------------------------------------------------- */

static void append_element(struct buffer *out, const struct gguf_key *key, uint64_t i)
{
    double value;
    if (key->element_type == GGUF_STRING) {
        struct gguf_string s = gguf_key_string(key, i);
        buffer_append_char(out, '"');
        buffer_append_json(out, s.data, s.n_bytes < 4096 ? s.n_bytes : 4096);
        buffer_append_char(out, '"');
        return;
    }
    value = gguf_number(key, i);
    if (key->element_type == GGUF_BOOL)
        buffer_append_str(out, value != 0 ? "true" : "false");
    else if (!isfinite(value))
        buffer_append_str(out, "null");
    else if (key->element_type == GGUF_F32 || key->element_type == GGUF_F64)
        buffer_printf(out, "%.9g", value);
    else
        buffer_printf(out, "%.0f", value);
}

static void append_value(struct buffer *out, const struct gguf_key *key)
{
    if (key->type != GGUF_ARRAY) {
        append_element(out, key, 0);
        return;
    }
    buffer_append_char(out, '[');
    for (uint64_t i = 0; i < key->n && i < SHOWN_ELEMENTS; i++) {
        buffer_append_str(out, i ? ", " : "");
        append_element(out, key, i);
    }
    buffer_append_char(out, ']');
}

/* ---- text ------------------------------------------------------------------------------------------------------ */

static void text_model(const struct report *r, struct buffer *out)
{
    const struct model_shape *s = &r->shape;
    buffer_printf(out, "  architecture  %s\n", s->arch_name);
    buffer_printf(out, "  shape         %u layers of %u, FFN %u (%s), vocabulary %u, context %u\n", s->n_layers, s->dim,
                  s->ffn_dim, act_name(s->ffn_act), s->vocab_size, s->context_length);
    buffer_printf(out, "  attention     %u heads of %u, %u KV heads; rotation %s over %u, base %g\n", s->n_heads,
                  s->head_dim, s->n_kv_heads, rope_name(s->rope_style), s->rope_dims, s->rope_freq_base);
    if (s->pooling != POOLING_NONE)
        buffer_printf(out, "  embeddings    pooled by %s%s; it generates nothing\n", pooling_name(s->pooling),
                      s->causal ? "" : ", each token sees the whole text");
    buffer_printf(out, "  memory        weights %.1f MB, KV cache %.1f KB a position\n", (double)r->tensor_bytes / 1e6,
                  (double)kv_position_bytes(s) / 1e3);
}

static void text_tokenizer(const struct report *r, struct buffer *out)
{
    char model[GGUF_TEXT_BYTES], pre[GGUF_TEXT_BYTES];
    const char *chat = tokenizer_chat_template(r->tokenizer);
    buffer_printf(out, "  tokenizer     %s, pre-tokenizer %s, %u tokens, chat template %s\n",
                  string_key(r->gguf, "tokenizer.ggml.model", model, "none: token ids only"),
                  string_key(r->gguf, "tokenizer.ggml.pre", pre, "not named"), tokenizer_n_tokens(r->tokenizer),
                  chat ? chat : "none that is known");
}

static void text_keys(const struct gguf *g, struct buffer *out)
{
    buffer_append_str(out, "  keys\n");
    for (size_t i = 0; i < gguf_n_keys(g); i++) {
        const struct gguf_key *key = gguf_key_at(g, i);
        char name[GGUF_TEXT_BYTES];
        buffer_printf(out, "    %s = ", gguf_text(key->name, name));
        append_value(out, key);
        if (key->type == GGUF_ARRAY)
            buffer_printf(out, " (%" PRIu64 " of %s)", key->n, gguf_type_name(key->element_type));
        buffer_append_char(out, '\n');
    }
}

static void write_text(const struct report *r, bool show_keys, struct buffer *out)
{
    buffer_printf(out, "%s: %s\n", r->path, r->code ? "cannot be served" : "can be served");
    if (r->code)
        buffer_printf(out, "  reason        %s\n", r->error.message);
    if (!r->gguf)
        return;
    buffer_printf(out, "  file          GGUF v%u, %.1f MB, %zu tensors, %zu keys, %.2f M weights\n",
                  gguf_version(r->gguf), (double)gguf_file_bytes(r->gguf) / 1e6, gguf_n_tensors(r->gguf),
                  gguf_n_keys(r->gguf), (double)r->n_parameters / 1e6);
    buffer_append_str(out, "  tensor types  ");
    for (size_t i = 0; i < r->n_types; i++)
        buffer_printf(out, "%s%zu of %s (%u)", i ? ", " : "", r->types[i].n, type_name(r->types[i].type),
                      r->types[i].type);
    buffer_append_str(out, r->n_types ? "\n" : "none\n");
    if (r->has_i2s)
        buffer_printf(out, "  I2_S order    %s\n", order_text(r));
    if (r->has_shape)
        text_model(r, out);
    if (r->tokenizer)
        text_tokenizer(r, out);
    for (size_t i = 0; i < r->n_warnings; i++)
        buffer_printf(out, "  warning       %s\n", r->warnings[i]);
    if (show_keys)
        text_keys(r->gguf, out);
}

/* ---- JSON ------------------------------------------------------------------------------------------------------ */

/* "name":"value", with a comma in front unless it is the first. */
static void json_string(struct buffer *out, bool first, const char *name, const char *value)
{
    buffer_printf(out, "%s\"%s\":", first ? "" : ",", name);
    if (!value) {
        buffer_append_str(out, "null");
        return;
    }
    buffer_append_char(out, '"');
    buffer_append_json(out, value, strlen(value));
    buffer_append_char(out, '"');
}

static void json_file(const struct report *r, struct buffer *out)
{
    buffer_printf(out,
                  ",\"file\":{\"version\":%u,\"bytes\":%zu,\"n_tensors\":%zu,\"n_keys\":%zu,\"n_parameters\":%" PRIu64
                  ",\"tensor_types\":[",
                  gguf_version(r->gguf), gguf_file_bytes(r->gguf), gguf_n_tensors(r->gguf), gguf_n_keys(r->gguf),
                  r->n_parameters);
    for (size_t i = 0; i < r->n_types; i++)
        buffer_printf(out, "%s{\"type\":%u,\"name\":\"%s\",\"n\":%zu}", i ? "," : "", r->types[i].type,
                      type_name(r->types[i].type), r->types[i].n);
    buffer_append_char(out, ']');
    if (r->has_i2s)
        buffer_printf(out, ",\"i2s_order\":%d,\"i2s_order_assumed\":%s", r->order == I2S_ORDER_64 ? 64 : 128,
                      r->evidence == ORDER_UNKNOWN ? "true" : "false");
    buffer_printf(out, ",\"n_parts\":%zu}", gguf_n_parts(r->gguf));
}

static void json_model(const struct report *r, struct buffer *out)
{
    const struct model_shape *s = &r->shape;
    buffer_append_str(out, ",\"model\":{");
    json_string(out, true, "architecture", s->arch_name);
    buffer_printf(
        out,
        ",\"n_layers\":%u,\"embedding_length\":%u,\"feed_forward_length\":%u,\"n_heads\":%u,\"n_kv_heads\":%u,"
        "\"head_length\":%u,\"vocab_size\":%u,\"context_length\":%u,\"rope_freq_base\":%.9g,\"rope_dims\":%u",
        s->n_layers, s->dim, s->ffn_dim, s->n_heads, s->n_kv_heads, s->head_dim, s->vocab_size, s->context_length,
        s->rope_freq_base, s->rope_dims);
    json_string(out, false, "rope_style", rope_name(s->rope_style));
    json_string(out, false, "ffn_activation", act_name(s->ffn_act));
    json_string(out, false, "pooling", pooling_name(s->pooling));
    buffer_printf(out, ",\"sub_norms\":%s,\"weight_bytes\":%" PRIu64 ",\"kv_bytes_per_position\":%zu}",
                  s->has_sub_norms ? "true" : "false", r->tensor_bytes, kv_position_bytes(s));
}

static void json_tokenizer(const struct report *r, struct buffer *out)
{
    char text[GGUF_TEXT_BYTES];
    buffer_append_str(out, ",\"tokenizer\":{");
    json_string(out, true, "model", string_key(r->gguf, "tokenizer.ggml.model", text, NULL));
    json_string(out, false, "pre", string_key(r->gguf, "tokenizer.ggml.pre", text, NULL));
    json_string(out, false, "chat_template", tokenizer_chat_template(r->tokenizer));
    buffer_printf(out, ",\"n_tokens\":%u}", tokenizer_n_tokens(r->tokenizer));
}

static void json_keys(const struct gguf *g, struct buffer *out)
{
    buffer_append_str(out, ",\"keys\":[");
    for (size_t i = 0; i < gguf_n_keys(g); i++) {
        const struct gguf_key *key = gguf_key_at(g, i);
        buffer_append_str(out, i ? ",{\"name\":\"" : "{\"name\":\"");
        buffer_append_json(out, key->name.data, key->name.n_bytes);
        buffer_printf(out, "\",\"type\":\"%s\"", gguf_type_name(key->type));
        if (key->type == GGUF_ARRAY)
            buffer_printf(out, ",\"element_type\":\"%s\",\"n\":%" PRIu64, gguf_type_name(key->element_type), key->n);
        buffer_append_str(out, key->type == GGUF_ARRAY ? ",\"first\":" : ",\"value\":");
        append_value(out, key);
        buffer_append_char(out, '}');
    }
    buffer_append_char(out, ']');
}

static void write_json(const struct report *r, bool show_keys, struct buffer *out)
{
    buffer_append_char(out, '{');
    json_string(out, true, "path", r->path);
    buffer_printf(out, ",\"servable\":%s", r->code ? "false" : "true");
    if (r->code) {
        buffer_append_str(out, ",\"error\":{");
        json_string(out, true, "code", error_info(r->code)->name);
        json_string(out, false, "message", r->error.message);
        json_string(out, false, "param", r->error.param[0] ? r->error.param : NULL);
        buffer_append_char(out, '}');
    }
    if (r->gguf)
        json_file(r, out);
    if (r->has_shape)
        json_model(r, out);
    if (r->tokenizer)
        json_tokenizer(r, out);
    buffer_append_str(out, ",\"warnings\":[");
    for (size_t i = 0; i < r->n_warnings; i++)
        buffer_printf(out, "%s\"%s\"", i ? "," : "", r->warnings[i]);
    buffer_append_char(out, ']');
    if (r->gguf && show_keys)
        json_keys(r->gguf, out);
    buffer_append_str(out, "}\n");
}

enum error_code model_compat_check(const char *path, bool json, bool show_keys, bool strict, struct buffer *out,
                                   struct error *err)
{
    struct report r = {.path = path};
    examine(&r, strict);
    if (json)
        write_json(&r, show_keys, out);
    else
        write_text(&r, show_keys, out);
    tokenizer_close(r.tokenizer);
    gguf_close(r.gguf);
    if (out->failed && !r.code)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "the report on %s does not fit", path);
    if (r.code && err)
        *err = r.error;
    return r.code;
}
