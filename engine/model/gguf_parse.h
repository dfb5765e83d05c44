/* An open GGUF file as reader and parser see it. */
#ifndef ENGINE_MODEL_GGUF_PARSE_H
#define ENGINE_MODEL_GGUF_PARSE_H

#include "engine/model/gguf.h"

struct gguf {
    const uint8_t *data;
    size_t n_bytes;
    int fd; /* of the mapped file; -1: bytes that were given */
    uint32_t version;
    size_t alignment, data_start;
    struct gguf_key *keys;       /* [n_keys] in file order */
    struct gguf_tensor *tensors; /* [n_tensors] in file order */
    const struct gguf_key **keys_by_name;
    const struct gguf_tensor **tensors_by_name;
    size_t n_keys, n_tensors;
    struct gguf **parts; /* [n_parts - 1] those behind the first, whose tensors are in the table too */
    size_t n_parts;      /* 0 counts as 1 */
};

/* Fills the tables from data, n_bytes. On failure they hold what gguf_close frees. */
enum error_code gguf_parse(struct gguf *g, struct error *err);

/* gguf_open of one file, which may be a part. */
enum error_code gguf_open_one(const struct file_opener *opener, const char *path, struct gguf **out, struct error *err);
/* Opens the parts behind the first, which `path` names, and takes their tensors. What it has opened is in g on failure too. */
enum error_code gguf_join(struct gguf *g, const struct file_opener *opener, const char *path, uint32_t n_parts, struct error *err);

/* Order by name, for qsort and bsearch over the tables by name. */
int gguf_compare_keys(const void *a, const void *b);
int gguf_compare_tensors(const void *a, const void *b);

#endif
