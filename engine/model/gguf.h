/*
 * GGUF v2 and v3, little-endian, over mmap: header, keys, tensor infos (ggml's docs/gguf.md). Every offset, count, string,
 * dimension and alignment is checked against the file before use; nothing is copied but small index tables.
 * Immutable once open; any thread may read.
 */
#ifndef ENGINE_MODEL_GGUF_H
#define ENGINE_MODEL_GGUF_H

#include "base/error.h"
#include "kernels/kernels.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum gguf_type {
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY,
    GGUF_U64, GGUF_I64, GGUF_F64, GGUF_N_TYPES
};

struct gguf;
struct file_opener;

struct gguf_string { const char *data; size_t n_bytes; }; /* borrowed from the mapping, not NUL-terminated */

struct gguf_key {
    struct gguf_string name;
    enum gguf_type type;
    enum gguf_type element_type; /* of arrays; arrays of arrays are refused */
    uint64_t n;                  /* elements; 1 for scalars */
    const void *data;            /* first byte of the value, unaligned; string arrays: first length */
    struct gguf_string *strings; /* string arrays: [n], made at open */
    const void *raw;             /* type and value as they stand in the file, raw_bytes of them */
    size_t raw_bytes;
};

struct gguf_tensor {
    struct gguf_string name;
    uint32_t type;               /* as in the file; perhaps none that we know */
    uint32_t n_dims;
    uint64_t dims[4];            /* dims[0] is contiguous; 1 beyond n_dims */
    uint64_t offset;             /* from the start of the data section */
    const void *data;            /* NULL when the type's size is not known, else n_bytes lie in the file */
    size_t n_bytes;
};

/* Opens by path, or from memory (borrowed; for tests and fuzzing). The path of the first of several parts (name-00001-of-00003.gguf, key
 * split.count) opens all of them as one file, with the keys of the first. Refuses what does not hold, naming key or tensor:
 * wrong magic, other versions or big-endian, counts beyond the file, duplicates, bad alignment (not a power of two, or over
 * 1 MiB), tensors beyond the end, overlapping or misaligned, a part that is missing or of another model. A tensor of unknown type is kept with data NULL. */
enum error_code gguf_open(const char *path, struct gguf **out, struct error *err);
/* The same; each file is opened by `opener` (see engine.h; NULL = open(2)). */
enum error_code gguf_open_by(const struct file_opener *opener, const char *path, struct gguf **out, struct error *err);
enum error_code gguf_open_memory(const void *data, size_t n_bytes, struct gguf **out, struct error *err);
void gguf_close(struct gguf *g);

/* Says that the bytes of a tensor will hardly be read again: a mapped file's pages leave resident memory, and come back from the file
 * when they are read after all. */
void gguf_forget(const struct gguf *g, const struct gguf_tensor *t);

/* The file that a tensor lies in, open until gguf_close, and where; false when it was opened from memory. */
bool gguf_file_of(const struct gguf *g, const struct gguf_tensor *t, int *fd, uint64_t *offset);

uint32_t gguf_version(const struct gguf *g);
size_t gguf_file_bytes(const struct gguf *g); /* of all parts */
size_t gguf_n_parts(const struct gguf *g);    /* 1 unless it was opened by path and is split */
size_t gguf_n_keys(const struct gguf *g);
const struct gguf_key *gguf_key_at(const struct gguf *g, size_t i);
size_t gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i);

/* By name; NULL when there is none. */
const struct gguf_key *gguf_find(const struct gguf *g, const char *name);
const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name);

/* Typed access. An absent key leaves *out as it is and returns false; a key of another type, or a value that does not fit, is an
 * error in *err (code set). Integers of any width are accepted for u32 and i64 when they fit, floats for f64. */
bool gguf_get_u32(const struct gguf *g, const char *name, uint32_t *out, struct error *err);
bool gguf_get_f64(const struct gguf *g, const char *name, double *out, struct error *err);
bool gguf_get_bool(const struct gguf *g, const char *name, bool *out, struct error *err);
bool gguf_get_string(const struct gguf *g, const char *name, struct gguf_string *out, struct error *err);
/* An array of strings, or of any numbers read one by one. NULL when absent; wrong element type is an error. */
const struct gguf_key *gguf_get_strings(const struct gguf *g, const char *name, struct error *err);
const struct gguf_key *gguf_get_numbers(const struct gguf *g, const char *name, struct error *err);
double gguf_number(const struct gguf_key *key, uint64_t i); /* element i of a numeric array as double */

#endif
