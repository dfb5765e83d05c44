/* Small helpers that the GGUF reader shares with those who report on a file. */
#ifndef ENGINE_MODEL_GGUF_TEXT_H
#define ENGINE_MODEL_GGUF_TEXT_H

#include "base/buffer.h"
#include "engine/model/gguf.h"

#define GGUF_TEXT_BYTES 80

/* A name or value for messages: printable ASCII, other bytes as '?', cut with "..." ; returns `out`. */
char *gguf_text(struct gguf_string s, char out[GGUF_TEXT_BYTES]);
/* "u32", "string", ...; "?" for what is no type. */
const char *gguf_type_name(enum gguf_type type);
/* Bytes of one number or bool; 0 for strings and arrays. */
size_t gguf_type_bytes(enum gguf_type type);
/* Name of a tensor type that is known to exist but not understood ("Q4_K"); "unknown" for others. */
const char *gguf_other_type_name(uint32_t type);
/* "2560 x 6912": columns x rows, as dims stand in the file; returns `out`. */
char *gguf_dims_text(const struct gguf_tensor *t, char out[GGUF_TEXT_BYTES]);
/* The string of a scalar string key, or of element i of a string array. */
struct gguf_string gguf_key_string(const struct gguf_key *key, uint64_t i);

#endif
