/*
 * safetensors files (github.com/huggingface/safetensors): eight bytes with the length of a JSON header, the header, the tensors' data. A
 * checkpoint is one file or several shards in a folder. Every offset, shape and size is checked before use; data stay mapped.
 *
 *   { "model.norm.weight": {"dtype": "BF16", "shape": [2560], "data_offsets": [0, 5120]}, ..., "__metadata__": {...} }
 *
 * Immutable once open; one thread.
 */
#ifndef TOOLS_SAFETENSORS_H
#define TOOLS_SAFETENSORS_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

enum safetensors_type { ST_U8, ST_F16, ST_BF16, ST_F32 };

struct safetensor {
    const char *name;
    enum safetensors_type type;
    size_t n_dims, dims[4]; /* dims[n_dims - 1] is contiguous */
    const uint8_t *data;
    size_t n_bytes;
};

struct safetensors;

/* Opens model.safetensors of a folder, or all of its model-00001-of-0000N.safetensors. MODEL_LOAD_FAILED names file and tensor. */
enum error_code safetensors_open(const char *folder, struct safetensors **out, struct error *err);
/* One file's bytes, borrowed. */
enum error_code safetensors_open_memory(const void *data, size_t n_bytes, struct safetensors **out, struct error *err);
void safetensors_close(struct safetensors *s);

size_t safetensors_n(const struct safetensors *s);
const struct safetensor *safetensors_at(const struct safetensors *s, size_t i); /* by name, ascending */
const struct safetensor *safetensors_find(const struct safetensors *s, const char *name);

size_t safetensor_count(const struct safetensor *t); /* elements */
/* Element i as f32, exactly; of U8 its number. */
float safetensor_value(const struct safetensor *t, size_t i);

#endif
