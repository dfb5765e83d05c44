/*
 * Open, bind, close. Order: the file, its shapes, the tokenizer, then weights layer by layer. model_unbind and model_close take any
 * state that binding and opening may stop in, so failing needs no unwinding of its own.
 */
#include "engine/model/tensors.h"

#include "base/log.h"
#include "engine/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

static const struct gguf_tensor *find(const struct model *m, const char *name)
{
    return gguf_find_tensor(m->gguf, name); /* model_shape_read found them all */
}

/* Prefixes what the kernels say with the tensor's name. */
static enum error_code tensor_error(struct error *err, const char *name)
{
    enum error_code code = error_prefix(err, "tensor %s", name);
    if (err) {
        size_t n = strlen(name) < sizeof err->param ? strlen(name) : sizeof err->param - 1;
        memcpy(err->param, name, n);
        err->param[n] = '\0';
    }
    return code;
}

static void count_weight(struct model *m, const struct gguf_tensor *t, size_t n_bytes)
{
    m->weight_bytes += n_bytes;
    m->n_parameters += t->dims[0] * t->dims[1];
}

static enum error_code bind_vector(struct model *m, const char *name, float **out, struct error *err)
{
    const struct gguf_tensor *t = find(m, name);
    struct tensor_view view = tensor_view_of(m->gguf, t, I2S_ORDER_128);
    enum error_code code = vector_open(m->backend, &view, out, err);
    if (code) {
        tensor_error(err, name);
        return code;
    }
    count_weight(m, t, (size_t)t->dims[0] * sizeof **out);
    m->layers_bytes += (size_t)t->dims[0] * sizeof **out;
    return ERROR_NONE;
}

static enum error_code bind_dense(struct model *m, const char *name, struct dense **out, struct error *err)
{
    const struct gguf_tensor *t = find(m, name);
    struct tensor_view view = tensor_view_of(m->gguf, t, I2S_ORDER_128);
    enum error_code code = dense_open(m->backend, &view, out, err);
    if (code) {
        tensor_error(err, name);
        return code;
    }
    count_weight(m, t, t->n_bytes + dense_memory_bytes(*out)); /* read in place, with scratch beside it */
    return ERROR_NONE;
}

static enum error_code bind_ternary(struct model *m, const char *name, float scale, struct ternary **out, struct error *err)
{
    const struct gguf_tensor *t = find(m, name);
    struct tensor_view view = tensor_view_of(m->gguf, t, m->i2s_order);
    view.factor = scale;
    enum error_code code = ternary_open(m->backend, &view, m->asked, out, err);
    if (code) {
        tensor_error(err, name);
        return code;
    }
    size_t repacked = ternary_memory_bytes(*out);
    if (repacked)
        gguf_forget(m->gguf, t);
    size_t n_bytes = repacked ? repacked : t->n_bytes;
    count_weight(m, t, n_bytes);
    m->layers_bytes += n_bytes;
    m->n_ternary += t->dims[0] * t->dims[1];
    return ERROR_NONE;
}

static enum error_code bind_layer(struct model *m, size_t layer, struct error *err)
{
    for (size_t i = 0; i < n_layer_tensors; i++) {
        const struct layer_tensor *t = &layer_tensors[i];
        char *slot = (char *)&m->layers[layer] + t->offset;
        char name[TENSOR_NAME_BYTES];
        enum error_code code;
        if (!layer_tensor_in(&m->shape, t))
            continue;
        layer_tensor_name(layer, t, name);
        if (t->role == ROLE_VECTOR)
            code = bind_vector(m, name, (float **)(void *)slot, err);
        else {
            float scale;
            layer_scale(m->gguf, layer, t, &scale, NULL); /* model_shape_read accepted it */
            code = bind_ternary(m, name, scale, (struct ternary **)(void *)slot, err);
        }
        if (code)
            return code;
    }
    return ERROR_NONE;
}

/* Of the whole head, which is read once for it; then single rows are read where the file lies. */
static void screen_head(struct model *m)
{
    size_t before = dense_memory_bytes(m->head);
    m->head_screened = dense_screen(m->backend, m->head);
    if (m->head_screened)
        m->weight_bytes += dense_memory_bytes(m->head) - before;
}

static enum error_code bind_ends(struct model *m, struct error *err)
{
    enum error_code code = bind_dense(m, "token_embd.weight", &m->embedding, err);
    if (!code)
        code = bind_vector(m, "output_norm.weight", &m->output_norm, err);
    m->head = m->embedding;
    if (!code && find(m, "output.weight")) {
        m->head = NULL;
        code = bind_dense(m, "output.weight", &m->head, err);
    }
    if (!code && m->screens_head && m->shape.pooling == POOLING_NONE)
        screen_head(m);
    return code;
}

static enum error_code bind_rope(struct model *m, struct error *err)
{
    const struct model_shape *s = &m->shape;
    size_t n = m->context_length && m->context_length < s->context_length ? m->context_length : s->context_length;
    float *factors;
    enum error_code code = model_rope_factors(m->gguf, s, &factors, err);
    if (code)
        return code;
    m->rope = rope_open(m->backend, s->rope_style, s->rope_dims, n, s->rope_freq_base, factors);
    free(factors);
    return m->rope ? ERROR_NONE
                   : error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the rotation table of %zu positions", n);
}

/* As asked for, or as the weights say. */
static void choose_order(struct model *m, const struct model_options *options)
{
    enum order_evidence evidence;
    enum i2s_order fits = model_i2s_order(m->gguf, &m->shape, &evidence);
    m->i2s_order = options->i2s_order < 0 ? fits : (enum i2s_order)options->i2s_order;
    if (evidence == ORDER_SEEN && m->i2s_order != fits)
        log_warn("engine", "the weights are packed in another order than was asked for: results will be nonsense",
                 LOG_INT("asked_for", m->i2s_order == I2S_ORDER_64 ? 64 : 128),
                 LOG_INT("fits", fits == I2S_ORDER_64 ? 64 : 128));
    else if (options->i2s_order < 0 && fits == I2S_ORDER_64)
        log_info("engine", "the weights are packed 64 to a block, as ARM builds write them", LOG_INT("i2s_order", 64));
}

static enum error_code bind_layers(struct model *m, load_progress *on_load, void *user, struct error *err)
{
    enum error_code code = ERROR_NONE;
    for (size_t layer = 0; !code && layer < m->shape.n_layers; layer++) {
        if (on_load && !on_load(user, (double)layer / m->shape.n_layers))
            return error_set(err, ERROR_CANCELLED, "loading was ended at layer %zu of %u", layer, m->shape.n_layers);
        code = bind_layer(m, layer, err);
    }
    return code;
}

enum error_code model_bind(struct model *m, struct backend *be, load_progress *on_load, void *user, struct error *err)
{
    m->backend = be;
    enum error_code code = bind_ends(m, err);
    if (!code)
        code = bind_layers(m, on_load, user, err);
    if (!code)
        code = bind_rope(m, err);
    if (code) {
        error_prefix(err, "%s", m->path);
        model_unbind(m);
        return code;
    }
    m->format = ternary_format(m->layers[0].q);
    return ERROR_NONE;
}

/* All but the weights. */
static enum error_code read_file(struct model *m, const struct model_options *options, struct error *err)
{
    enum error_code code = model_shape_read(m->gguf, &m->shape, err);
    if (code)
        return code;
    choose_order(m, options);
    m->context_length = options->context_length;
    m->asked = options->format;
    m->screens_head = options->screen_head;
    m->layers = calloc(m->shape.n_layers, sizeof *m->layers);
    m->path = strdup(options->path);
    if (!m->layers || !m->path)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for %u layers", m->shape.n_layers);
    return tokenizer_from_gguf(m->gguf, m->shape.vocab_size, &m->tokenizer, err);
}

enum error_code model_open(const struct model_options *options, struct backend *be, struct model **out,
                           struct error *err)
{
    struct gguf *g;
    enum error_code code = gguf_open_by(options->opener, options->path, &g, err);
    if (code)
        return code;
    struct model *m = calloc(1, sizeof *m);
    if (!m) {
        gguf_close(g);
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory to open a model");
    }
    m->gguf = g;
    code = read_file(m, options, err);
    if (code)
        error_prefix(err, "%s", options->path);
    else if (be)
        code = model_bind(m, be, NULL, NULL, err);
    if (code) {
        model_close(m);
        return code;
    }
    *out = m;
    return ERROR_NONE;
}

static void close_layer(struct model *m, struct model_layer *layer)
{
    for (size_t i = 0; i < n_layer_tensors; i++) {
        void *slot = (char *)layer + layer_tensors[i].offset;
        if (!layer_tensor_in(&m->shape, &layer_tensors[i]))
            continue;
        if (layer_tensors[i].role == ROLE_VECTOR)
            backend_free(m->backend, *(float **)slot);
        else if (*(struct ternary **)slot)
            ternary_close(m->backend, *(struct ternary **)slot);
    }
}

void model_unbind(struct model *m)
{
    if (m->rope)
        rope_close(m->backend, m->rope);
    for (size_t layer = 0; m->layers && layer < m->shape.n_layers; layer++)
        close_layer(m, &m->layers[layer]);
    if (m->layers)
        memset(m->layers, 0, m->shape.n_layers * sizeof *m->layers);
    backend_free(m->backend, m->output_norm);
    if (m->head && m->head != m->embedding)
        dense_close(m->backend, m->head);
    if (m->embedding)
        dense_close(m->backend, m->embedding);
    m->rope = NULL;
    m->output_norm = NULL;
    m->head = m->embedding = NULL;
    m->head_screened = false;
    m->weight_bytes = m->layers_bytes = 0;
    m->n_parameters = m->n_ternary = 0;
}

void model_close(struct model *m)
{
    if (!m)
        return;
    tokenizer_close(m->tokenizer);
    model_unbind(m);
    free(m->layers);
    free(m->path);
    gguf_close(m->gguf);
    free(m);
}
