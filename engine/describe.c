/* What a model looks like from outside. */
#include "engine/describe.h"

#include "base/clock.h"
#include "engine/text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const format_names[] = {
    [TERNARY_AUTO] = "auto", [TERNARY_I2S] = "i2s", [TERNARY_TL1] = "tl1", [TERNARY_TL2] = "tl2"};

uint32_t model_context_length(const struct model *m, const struct engine_options *options)
{
    uint32_t own = m->shape.context_length;
    return options->context_length && options->context_length < own ? (uint32_t)options->context_length : own;
}

/* Letters of ASCII, with or without a space in front. */
static bool is_plain(const char *text, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++)
        if (!((text[i] | 32) >= 'a' && (text[i] | 32) <= 'z') && !(i == 0 && text[i] == ' ' && n_bytes > 1))
            return false;
    return true;
}

enum error_code model_null_choices(const struct model *m, struct error *err)
{
    const struct tokenizer *t = m->tokenizer;
    uint32_t n_tokens = m->shape.vocab_size, n = 0, *ids = calloc(n_tokens, sizeof *ids);
    for (uint32_t id = 0; ids && id < n_tokens; id++) {
        size_t n_bytes = 0;
        const char *text = tokenizer_text(t, id, &n_bytes);
        if (text && n_bytes > 0 && is_plain(text, n_bytes) && !tokenizer_is_eog(t, id))
            ids[n++] = id;
    }
    enum error_code code = ERROR_NONE;
    if (ids && n == 0)
        code = error_set(err, ERROR_MODEL_LOAD_FAILED, "expected a vocabulary with words for the null model, found none in %u tokens", n_tokens);
    else if (!ids || !backend_null_choices(m->backend, ids, n))
        code = error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the null model's %u tokens", n_tokens);
    free(ids);
    return code;
}

/* The given id, or the file's name without .gguf and with '-' for what an id may not have. */
void model_make_id(const struct engine_options *options, char id[MODEL_ID_BYTES])
{
    const size_t n = MODEL_ID_BYTES;
    if (options->model_id && options->model_id[0]) {
        snprintf(id, n, "%s", options->model_id);
        return;
    }
    if (options->null_model) {
        snprintf(id, n, ENGINE_NULL_MODEL_ID);
        return;
    }
    const char *slash = strrchr(options->model_path, '/');
    snprintf(id, n, "%s", slash ? slash + 1 : options->model_path);
    size_t length = strlen(id);
    if (length > 5 && strcmp(id + length - 5, ".gguf") == 0)
        id[length - 5] = '\0';
    for (char *c = id; *c; c++)
        if (!((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') || *c == '_'))
            *c = '-';
    if (!id[0])
        snprintf(id, n, "model");
}

static const char *format_reason(const struct model *m, enum ternary_format asked)
{
    if (asked == TERNARY_AUTO)
        return backend_info(m->backend)->auto_reason;
    return asked == m->format ? "asked for" : "the device has not the layout that was asked for";
}

void model_describe(const struct model *m, const struct engine_options *options, const char *fallback_reason,
                    struct model_description *out)
{
    const struct backend_info *info = backend_info(m->backend);
    const char *chat = tokenizer_chat_template(m->tokenizer);
    memset(out, 0, sizeof *out);
    model_make_id(options, out->id);
    snprintf(out->path, sizeof out->path, "%s", options->model_path);
    snprintf(out->fallback_reason, sizeof out->fallback_reason, "%s", fallback_reason ? fallback_reason : "");
    snprintf(out->chat_template, sizeof out->chat_template, "%s", chat ? chat : "");
    snprintf(out->architecture, sizeof out->architecture, "%s", m->shape.arch_name);
    snprintf(out->device, sizeof out->device, "%s", info->device);
    snprintf(out->device_name, sizeof out->device_name, "%s", info->name);
    snprintf(out->isa, sizeof out->isa, "%s", info->isa);
    out->model = (struct engine_model){
        .id = out->id,
        .path = out->path,
        .architecture = out->architecture,
        .device = out->device,
        .device_name = out->device_name,
        .isa = out->isa,
        .device_memory_bytes = info->memory_bytes,
        .n_threads = (uint32_t)info->n_threads,
        .quantization = format_names[m->format],
        .quantization_reason = format_reason(m, options->format),
        .chat_template = chat ? out->chat_template : NULL,
        .n_parameters = m->n_parameters,
        .file_bytes = gguf_file_bytes(m->gguf),
        .weight_bytes = m->weight_bytes,
        .vocab_size = m->shape.vocab_size,
        .embedding_size = m->shape.pooling != POOLING_NONE ? m->shape.dim : 0,
        .context_length = model_context_length(m, options),
        .kv_block_size = KV_BLOCK_SIZE,
        .created_unix = clock_wall_ns() / CLOCK_NS_PER_S,
        .fallback_reason = out->fallback_reason[0] ? out->fallback_reason : NULL,
    };
}
