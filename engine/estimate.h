/*
 * estimate: how much memory an engine takes, from its options and its file's shapes, so that it is known before anything is loaded. What opens
 * an engine sizes it by the same functions. Any thread.
 */
#ifndef ENGINE_ESTIMATE_H
#define ENGINE_ESTIMATE_H

#include "engine/engine.h"
#include "engine/model/model.h"

/* Options with their defaults. */
size_t engine_max_sequences(const struct engine_options *o);
size_t engine_max_rows(const struct engine_options *o); /* of a step */
size_t engine_max_out(const struct engine_options *o);  /* rows of a step that get logits */

/* Blocks of the KV cache: as told, or for max_sequences of average length in at most a quarter of the device's memory, but one whole context at
 * least; never more than all sequences could use. 0: less than one block was told. */
size_t engine_kv_blocks(const struct model_shape *s, const struct engine_options *o, size_t context_length, size_t memory_bytes);

/* Bytes of weights, KV cache and scratch, as engine_model tells them once it is open; up to a fifth more where the layout packs weights denser
 * than two bits. memory_bytes: of the device. */
uint64_t engine_estimate_bytes(const struct gguf *g, const struct model_shape *s, const struct engine_options *o, size_t memory_bytes);

#endif
