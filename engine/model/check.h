/*
 * Checks of the weights of a whole file, beyond what loading refuses: values that are not finite, scales and matrices that no trained model
 * has, FFN tensors that do not belong together. Caller's thread.
 */
#ifndef ENGINE_MODEL_CHECK_H
#define ENGINE_MODEL_CHECK_H

#include "engine/model/model.h"

struct weights_summary {
    uint64_t n_weights;        /* of all tensors */
    double scale_min, scale_max; /* of ternary tensors */
    double ffn_fit;            /* median over layers; see model_ffn_fit */
};

/* Reads every weight. `order` of I2_S tensors. MODEL_LOAD_FAILED names the first tensor that is wrong; `out` is whole only when all are right. */
enum error_code model_check_weights(const struct gguf *g, const struct model_shape *s, enum i2s_order order,
                                    struct weights_summary *out, struct error *err);

#endif
