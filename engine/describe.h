/*
 * What engine and session share when they open: the choice of a device, and the description of what is served.
 * Any thread, one caller at a time.
 */
#ifndef ENGINE_DESCRIBE_H
#define ENGINE_DESCRIBE_H

#include "engine/engine.h"
#include "engine/model/model.h"

#define ENGINE_FALLBACK_BYTES 256

#define ENGINE_NULL_MODEL_ID "null-model"
#define MODEL_ID_BYTES 128

/* Opens the backend that options->device asks for, or the null one. "auto" (or NULL) and "gpu" try cuda:0 and fall back to the CPU: then
 * fallback_reason [n] says why (and is logged), else it is "". "cpu" and "cuda:N" are opened or are an error;
 * ERROR_VALIDATION_FAILED (param "device") for other words. The caller closes *out. */
enum error_code engine_backend_open(const struct engine_options *options, struct backend **out, char *fallback_reason,
                                    size_t n, struct error *err);

/* A description with the strings it points to. Must stay where it was filled: `model` points into it. */
struct model_description {
    struct engine_model model;
    char id[MODEL_ID_BYTES], path[4096], fallback_reason[ENGINE_FALLBACK_BYTES], chat_template[64];
    char architecture[32];
};

/* The id of engine_options: the given one, else the null model's, else made of the file's name. */
void model_make_id(const struct engine_options *options, char id[MODEL_ID_BYTES]);

/* Fills `out` from an open model. Device strings borrow the backend, all others are copied. The caller adds what
 * it alone knows: kv_bytes, n_kv_blocks, scratch_bytes, load_seconds. context_length is the smaller of the model's
 * and the option's. */
void model_describe(const struct model *m, const struct engine_options *options, const char *fallback_reason,
                    struct model_description *out);

/* Gives the null backend of `m` the words of its vocabulary to choose from. MODEL_LOAD_FAILED when it has none. */
enum error_code model_null_choices(const struct model *m, struct error *err);

/* Context that will be served: the model's, or the option's when that is set and smaller. */
uint32_t model_context_length(const struct model *m, const struct engine_options *options);

#endif
