/*
 * The tensors of a model, one table: what shape.c checks, model.c binds and compat.c counts.
 * `struct model_shape` gives the sizes that the table names.
 */
#ifndef ENGINE_MODEL_TENSORS_H
#define ENGINE_MODEL_TENSORS_H

#include "engine/model/model.h"

enum tensor_size { SIZE_ONE, SIZE_DIM, SIZE_HEAD, SIZE_Q, SIZE_KV, SIZE_FFN, SIZE_VOCAB };
enum tensor_role { ROLE_VECTOR, ROLE_TERNARY, ROLE_DENSE };
/* Which shapes have a tensor: all, those with sub norms, those with a norm before each projection. */
enum tensor_where { IN_ALL, IN_SUB_NORMS, IN_INPUT_NORMS };

/* A tensor of every layer: blk.N.<name>.weight. */
struct layer_tensor {
    const char *name;
    enum tensor_role role;
    enum tensor_size cols, rows; /* rows SIZE_ONE for vectors */
    size_t offset;               /* of the pointer in struct model_layer */
    enum tensor_where where;
};
extern const struct layer_tensor layer_tensors[];
extern const size_t n_layer_tensors;

/* Whether layers of this shape have the tensor. */
bool layer_tensor_in(const struct model_shape *s, const struct layer_tensor *t);

#define TENSOR_NAME_BYTES 64
/* Writes "blk.N.<name>.weight"; returns `out`. */
char *layer_tensor_name(size_t layer, const struct layer_tensor *t, char out[TENSOR_NAME_BYTES]);
size_t tensor_size(const struct model_shape *s, enum tensor_size size);
/* Some files keep the scale of a ternary tensor beside it, in "blk.N.<name>.scale": what its own is multiplied with, or 1. Refused unless it
 * is one F32, finite and positive. */
char *layer_scale_name(size_t layer, const struct layer_tensor *t, char out[TENSOR_NAME_BYTES]);
enum error_code layer_scale(const struct gguf *g, size_t layer, const struct layer_tensor *t, float *out,
                            struct error *err);

/* The view of a tensor that model_shape_read accepted. */
struct tensor_view tensor_view_of(const struct gguf *g, const struct gguf_tensor *t, enum i2s_order order);

/* How I2_S tensors are packed, which files do not say. A neuron of the FFN that is dense in gate and up is dense in down too: of rows and
 * columns that belong together the densities correlate in trained models (0.8 to 1), of wrongly unpacked ones they do not. */
enum order_evidence { ORDER_UNKNOWN, ORDER_SEEN };
/* The order that fits, or I2S_ORDER_128 with ORDER_UNKNOWN when the weights say nothing (random ones, or no I2_S). Reads some megabytes. */
enum i2s_order model_i2s_order(const struct gguf *g, const struct model_shape *s, enum order_evidence *evidence);
/* The correlation in one layer, from -1 to 1, with tensors of I2_S unpacked by `order`; 0 also when memory is out. */
double model_ffn_fit(const struct gguf *g, const struct model_shape *s, size_t layer, enum i2s_order order);

/* Rotation frequencies' divisors [rope_dims / 2] from rope_freqs.weight and linear scaling, or NULL in *out when
 * there are none; *out is freed with free(). */
enum error_code model_rope_factors(const struct gguf *g, const struct model_shape *s, float **out, struct error *err);

#endif
