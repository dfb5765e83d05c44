/*
 * What a model that computes embeddings must show: a vector of length 1 for a text, the same one again to the bit, and another one for another
 * text. There are no tokens to compare with the reference, so nothing of that is measured.
 */
#include "engine/registry/ask.h"
#include "engine/registry/validation.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH_TOLERANCE 1e-3

/* The vector of the text's first n tokens, [embedding_size]. */
static enum error_code ask(struct validation *v, size_t n, float *out, struct error *err)
{
    return ask_embedding(v->engine, v->ids->ids, n, v->deadline_ns, out, err);
}

static enum error_code judge(struct validation *v, const float *whole, const float *again, const float *half,
                             size_t size, struct error *err)
{
    double square = 0;
    for (size_t i = 0; i < size; i++)
        square += (double)whole[i] * (double)whole[i];
    if (!(fabs(sqrt(square) - 1) < LENGTH_TOLERANCE))
        return validation_fail(v->results, err, ERROR_MODEL_LOAD_FAILED, "embeddings", "a vector of length 1",
                               "one of %g", sqrt(square));
    if (memcmp(whole, again, size * sizeof *whole) != 0)
        return validation_fail(v->results, err, ERROR_MODEL_LOAD_FAILED, "embeddings",
                               "the same vector for the same text", "another one");
    if (memcmp(whole, half, size * sizeof *whole) == 0)
        return validation_fail(v->results, err, ERROR_MODEL_LOAD_FAILED, "embeddings",
                               "another vector for another text", "the same one");
    return ERROR_NONE;
}

enum error_code validation_embeddings(struct validation *v, struct error *err)
{
    const struct engine_model *m = engine_model(v->engine);
    size_t size = m->embedding_size, n = v->ids->n < m->context_length ? v->ids->n : m->context_length;
    struct error why = {0};
    float *vectors = malloc(3 * size * sizeof *vectors);
    if (!vectors)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the vectors of a text");
    enum error_code code = ask(v, n, vectors, &why);
    if (!code)
        code = ask(v, n, vectors + size, &why);
    if (!code)
        code = ask(v, (n + 1) / 2, vectors + 2 * size, &why);
    if (code)
        code =
            validation_fail(v->results, err, ERROR_MODEL_LOAD_FAILED,
                            code == ERROR_DEADLINE_EXCEEDED ? "timeout" : "embeddings", "a vector", "%s", why.message);
    else
        code = judge(v, vectors, vectors + size, vectors + 2 * size, size, err);
    free(vectors);
    return code;
}
