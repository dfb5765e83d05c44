/*
 * Writes GGUF v3 files in one pass: all keys and tensor headers first, kept in memory (a vocabulary is some
 * megabytes), then the tensors' data in order, streamed. The file appears under its name when it is whole and on
 * disk, or not at all; where the file system knows files without a name, nothing is left of a process that was killed either.
 *
 *   open -> keys, tensors -> data of each tensor in order -> finish -> close
 *
 * Errors stick: the first is kept and gguf_writer_finish reports it, so that calls need no checks. One thread.
 */
#ifndef TOOLS_GGUF_WRITE_H
#define TOOLS_GGUF_WRITE_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gguf_writer;

/* Opens a temporary file in the folder of `path`. ERROR_INTERNAL when it cannot be made. The caller closes it. */
enum error_code gguf_writer_open(const char *path, struct gguf_writer **out, struct error *err);
/* Removes what was not finished, frees all. */
void gguf_writer_close(struct gguf_writer *w);

/* Keys; names and values are copied. */
void gguf_write_u32(struct gguf_writer *w, const char *key, uint32_t value);
void gguf_write_f32(struct gguf_writer *w, const char *key, float value);
void gguf_write_bool(struct gguf_writer *w, const char *key, bool value);
void gguf_write_string(struct gguf_writer *w, const char *key, const char *value);
/* An array of n strings, given one by one by exactly n calls of gguf_write_element. */
void gguf_write_strings(struct gguf_writer *w, const char *key, uint64_t n);
void gguf_write_element(struct gguf_writer *w, const void *text, size_t n_bytes);
void gguf_write_i32s(struct gguf_writer *w, const char *key, const int32_t *values, uint64_t n);
void gguf_write_f32s(struct gguf_writer *w, const char *key, const float *values, uint64_t n);

/* A key as another file has it: type and value in the format's bytes (struct gguf_key's raw). */
void gguf_write_raw(struct gguf_writer *w, const void *key, size_t key_bytes, const void *raw, size_t raw_bytes);

/* Declares a tensor of n_bytes; dims[0] is contiguous. Before any data. */
void gguf_write_tensor(struct gguf_writer *w, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dims,
                       uint64_t n_bytes);
/* Appends data to the first tensor that is not complete; one call must not span two tensors. Padding is added by
 * itself. */
void gguf_write_data(struct gguf_writer *w, const void *data, size_t n_bytes);
/* Bytes of data that the declared tensors take, padding included; and that were written so far. */
uint64_t gguf_writer_data_bytes(const struct gguf_writer *w);
uint64_t gguf_writer_done_bytes(const struct gguf_writer *w);

/* Syncs and renames. Reports the first error of all calls; a tensor whose data did not come is one. */
enum error_code gguf_writer_finish(struct gguf_writer *w, struct error *err);

#endif
