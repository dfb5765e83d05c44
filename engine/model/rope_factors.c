/* Divisors of the rotation frequencies: llama 3.1's table, and linear scaling, which divides all by one factor. */
#include "engine/model/tensors.h"

#include "engine/model/gguf_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* *factor: what positions are divided by. Other kinds of scaling than linear are refused. */
static enum error_code read_scaling(const struct gguf *g, const struct model_shape *s, double *factor,
                                    struct error *err)
{
    char name[96], text[GGUF_TEXT_BYTES] = "linear";
    struct gguf_string type;
    struct error why = {0};
    *factor = 1.0;
    snprintf(name, sizeof name, "%s.rope.scaling.type", s->arch_name);
    if (gguf_get_string(g, name, &type, &why))
        gguf_text(type, text);
    if (!why.code && strcmp(text, "linear") != 0 && strcmp(text, "none") != 0)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name, "key %s: expected none or linear, found %s", name,
                               text);
    snprintf(name, sizeof name, "%s.rope.scaling.factor", s->arch_name);
    if (!why.code)
        gguf_get_f64(g, name, factor, &why);
    if (why.code)
        return error_set_param(err, why.code, why.param, "%s", why.message);
    if (strcmp(text, "none") == 0 || *factor == 0.0) /* 0 is how converters write that there is none */
        *factor = 1.0;
    if (!(*factor >= 1e-3 && *factor <= 1e6))
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name, "key %s: expected 0.001 to 1000000, found %g", name,
                               *factor);
    return ERROR_NONE;
}

static enum error_code check_factors(const float *factors, size_t n, struct error *err)
{
    for (size_t i = 0; i < n; i++)
        if (!(factors[i] > 0.0f) || !isfinite(factors[i]))
            return error_set_param(err, ERROR_MODEL_LOAD_FAILED, "rope_freqs.weight",
                                   "tensor rope_freqs.weight: expected finite, positive factors, found %g at %zu",
                                   (double)factors[i], i);
    return ERROR_NONE;
}

enum error_code model_rope_factors(const struct gguf *g, const struct model_shape *s, float **out, struct error *err)
{
    const struct gguf_tensor *t = gguf_find_tensor(g, "rope_freqs.weight");
    size_t n = s->rope_dims / 2;
    double scale;
    enum error_code code = read_scaling(g, s, &scale, err);
    *out = NULL;
    if (code || (!t && scale == 1.0))
        return code;
    if (t && (t->type != TENSOR_F32 || t->n_dims != 1 || t->dims[0] != n))
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, "rope_freqs.weight",
                               "tensor rope_freqs.weight: expected %zu weights of type F32", n);
    float *factors = calloc(n, sizeof *factors);
    if (!factors)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for %zu rotation factors", n);
    if (t)
        memcpy(factors, t->data, n * sizeof *factors);
    for (size_t i = 0; i < n; i++)
        factors[i] = (float)((t ? (double)factors[i] : 1.0) * scale);
    code = check_factors(factors, n, err);
    if (code)
        free(factors);
    else
        *out = factors;
    return code;
}
