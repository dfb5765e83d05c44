/* A model's weights for a second backend: what is made once a backend is made again, the rest is borrowed. */
#include "engine/model/tensors.h"

#include <stdlib.h>

static enum error_code open_table(struct model *view, const char *name, struct dense **out, struct error *err)
{
    struct tensor_view t = tensor_view_of(view->gguf, gguf_find_tensor(view->gguf, name), I2S_ORDER_128);
    return dense_open(view->backend, &t, out, err);
}

static bool share_layer(const struct model *view, const struct backend *owner, struct model_layer *layer)
{
    for (size_t i = 0; i < n_layer_tensors; i++)
        if (layer_tensors[i].role == ROLE_TERNARY &&
            !ternary_share(view->backend, owner, *(struct ternary **)(void *)((char *)layer + layer_tensors[i].offset)))
            return false;
    return true;
}

enum error_code model_view_open(const struct model *of, struct backend *be, struct model **out, struct error *err)
{
    struct model *view = malloc(sizeof *view);
    if (!view)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a view of a model");
    *view = *of;
    view->backend = be;
    view->embedding = view->head = NULL;
    enum error_code code = ERROR_NONE;
    for (size_t layer = 0; !code && layer < view->shape.n_layers; layer++)
        if (!share_layer(view, of->backend, &view->layers[layer]))
            code = error_set(err, ERROR_DEVICE_UNAVAILABLE, "the weights on device %s cannot be read by device %s",
                             backend_info(of->backend)->device, backend_info(be)->device);
    if (!code)
        code = open_table(view, "token_embd.weight", &view->embedding, err);
    view->head = view->embedding;
    if (!code && of->head != of->embedding)
        code = open_table(view, "output.weight", &view->head, err);
    if (code) {
        model_view_close(view);
        return code;
    }
    *out = view;
    return ERROR_NONE;
}

void model_view_close(struct model *view)
{
    if (!view)
        return;
    if (view->head != view->embedding)
        dense_close(view->backend, view->head);
    dense_close(view->backend, view->embedding);
    free(view);
}

void model_view_forget(const struct model *view)
{
    const struct gguf_tensor *t = gguf_find_tensor(view->gguf, "output.weight");
    if (view->head_screened)
        gguf_forget(view->gguf, t ? t : gguf_find_tensor(view->gguf, "token_embd.weight"));
}
