/*
 * The tensors of a model, one table: what shape.c checks, model.c binds and compat.c counts.
 * `struct model_shape` gives the sizes that the table names.
 */
#ifndef ENGINE_MODEL_TENSORS_H
#define ENGINE_MODEL_TENSORS_H

#include "engine/model/model.h"

enum tensor_size { SIZE_ONE, SIZE_DIM, SIZE_Q, SIZE_KV, SIZE_FFN, SIZE_VOCAB };
enum tensor_role { ROLE_VECTOR, ROLE_TERNARY, ROLE_DENSE };

/* A tensor of every layer: blk.N.<name>.weight. */
struct layer_tensor {
    const char *name;
    enum tensor_role role;
    enum tensor_size cols, rows; /* rows SIZE_ONE for vectors */
    size_t offset;               /* of the pointer in struct model_layer */
    bool sub_norm;               /* only where the shape has sub norms */
};
extern const struct layer_tensor layer_tensors[];
extern const size_t n_layer_tensors;

#define TENSOR_NAME_BYTES 64
/* Writes "blk.N.<name>.weight"; returns `out`. */
char *layer_tensor_name(size_t layer, const struct layer_tensor *t, char out[TENSOR_NAME_BYTES]);
size_t tensor_size(const struct model_shape *s, enum tensor_size size);

/* The view of a tensor that model_shape_read accepted. */
struct tensor_view tensor_view_of(const struct gguf *g, const struct gguf_tensor *t, enum i2s_order order);

/* Rotation frequencies' divisors [rope_dims / 2] from rope_freqs.weight and linear scaling, or NULL in *out when
 * there are none; *out is freed with free(). */
enum error_code model_rope_factors(const struct gguf *g, const struct model_shape *s, float **out, struct error *err);

#endif
