/*
 * What a served model looks like from outside, shared by engine and session. Any thread, one caller at a time.
 */
#ifndef ENGINE_DESCRIBE_H
#define ENGINE_DESCRIBE_H

#include "engine/devices.h"
#include "engine/model/model.h"

#define ENGINE_NULL_MODEL_ID "null-model"
#define MODEL_ID_BYTES 128

/* A description with the strings it points to. Must stay where it was filled: `model` points into it. */
struct model_description {
    struct engine_model model;
    struct model_description *previous; /* of the device that the model was on before; owned by the engine */
    char id[MODEL_ID_BYTES], path[4096], fallback_reason[DEVICE_REASON_BYTES], chat_template[64];
    char architecture[32], device[DEVICE_ID_BYTES], device_name[256], isa[16], lost_device[DEVICE_ID_BYTES];
};

/* The id of engine_options: the given one, else the null model's, else made of the file's name. */
void model_make_id(const struct engine_options *options, char id[MODEL_ID_BYTES]);

/* Fills `out` from an open model. The caller adds what it alone knows: kv_bytes, n_kv_blocks, scratch_bytes, load_seconds. context_length is
 * the smaller of the model's and the option's. */
void model_describe(const struct model *m, const struct engine_options *options, const char *fallback_reason,
                    struct model_description *out);

/* Gives the null backend of `m` the words of its vocabulary to choose from. MODEL_LOAD_FAILED when it has none. */
enum error_code model_null_choices(const struct model *m, struct error *err);

/* Context that will be served: the model's, or the option's when that is set and smaller. */
uint32_t model_context_length(const struct model *m, const struct engine_options *options);

#endif
