/* The parts of `bitnet convert`: one context from folder to GGUF. One thread. */
#ifndef TOOLS_CONVERT_H
#define TOOLS_CONVERT_H

#include "base/buffer.h"
#include "tools/command.h"
#include "tools/gguf_write.h"
#include "tools/json.h"
#include "tools/safetensors.h"

/* A JSON file of the checkpoint; NULL in `json` when there is none. */
struct convert_json {
    struct buffer text;
    struct json *json;
};

struct convert {
    const char *folder, *out, *name, *license, *description, *pre; /* as asked for; name may be NULL */
    struct safetensors *weights;
    struct convert_json config, tokenizer, tokenizer_config, pooling;
    struct gguf_writer *writer;
    struct progress progress;
    size_t n_used;                /* tensors of the checkpoint that are converted */
    /* Of the architecture, from config.json. */
    const char *arch;             /* GGUF's name */
    bool permute;                 /* rows of Q and K, for llama's rotation of neighbours */
    bool multiplies;              /* packed weights are multiplied by weight_scale, not divided */
    bool sub_norms, tied;
    bool input_norms;             /* a norm before each projection; weights are then rounded whatever they are, as such layers do */
    const char *prefix;           /* of names in the checkpoint: "model." or "" */
    size_t n_layers, dim, ffn_dim, n_heads, n_kv_heads, head_dim, vocab_size, context_length;
    double eps, rope_base;
};

/* What config.json says; MODEL_LOAD_FAILED names the member at fault. */
enum error_code convert_read_config(struct convert *c, struct error *err);
/* Keys of the model in the order of the bundled model's recipe, tokenizer included. */
enum error_code convert_write_keys(struct convert *c, struct error *err);
/* The token that ends each text, by the tokenizer's template; NULL = none. Lives as long as `c`. */
const char *convert_text_end(const struct convert *c);
/* tokenizer.ggml.* from tokenizer.json, and tokenizer.chat_template. */
enum error_code convert_write_vocab(struct convert *c, struct error *err);
/* Whether a text begins with BOS; false when the files do not say. */
bool convert_add_bos(const struct convert *c, bool *out);

/* Declares all tensors, then writes them. */
enum error_code convert_declare_tensors(struct convert *c, struct error *err);
enum error_code convert_write_tensors(struct convert *c, struct error *err);

/* A member that is a string, a whole number, a number or a bool; false when it is not there or of another kind. */
bool convert_string(const struct json_value *v, const char *name, const char **out);
bool convert_size(const struct json_value *v, const char *name, size_t *out);
bool convert_bool(const struct json_value *v, const char *name, bool *out);

#endif
