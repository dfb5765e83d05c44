/* A GGUF file in memory, to be changed and written again: keys and tensors in the file's order. */
#ifndef TESTS_UNIT_ENGINE_MODEL_REWRITE_H
#define TESTS_UNIT_ENGINE_MODEL_REWRITE_H

#include "engine/model/gguf.h"
#include "tools/gguf_write.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct rw_tensor {
    char name[96];
    uint32_t type, n_dims;
    uint64_t dims[4];
    uint8_t *data; /* owned */
    size_t n_bytes;
    bool drop;
};

struct rw_key {
    const struct gguf_key *key;
    uint8_t *raw; /* owned: type and value */
    size_t raw_bytes;
    bool drop;
};

struct rw_file {
    struct gguf *g;
    struct rw_tensor *tensors;
    struct rw_key *keys;
    size_t n_tensors, n_keys;
};

static inline void *rw_copy(const void *data, size_t n)
{
    void *copy = malloc(n + 1);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, data, n);
    return copy;
}

static inline struct rw_file *rw_open(const char *path)
{
    struct rw_file *f = calloc(1, sizeof *f);
    struct error err = {0};
    ck_assert_msg(!gguf_open(path, &f->g, &err), "%s", err.message);
    f->n_tensors = gguf_n_tensors(f->g);
    f->n_keys = gguf_n_keys(f->g);
    f->tensors = calloc(f->n_tensors, sizeof *f->tensors);
    f->keys = calloc(f->n_keys, sizeof *f->keys);
    for (size_t i = 0; i < f->n_tensors; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(f->g, i);
        struct rw_tensor *r = &f->tensors[i];
        *r = (struct rw_tensor){.type = t->type, .n_dims = t->n_dims, .n_bytes = t->n_bytes};
        snprintf(r->name, sizeof r->name, "%.*s", (int)t->name.n_bytes, t->name.data);
        memcpy(r->dims, t->dims, sizeof r->dims);
        r->data = rw_copy(t->data, t->n_bytes);
    }
    for (size_t i = 0; i < f->n_keys; i++) {
        const struct gguf_key *k = gguf_key_at(f->g, i);
        f->keys[i] = (struct rw_key){.key = k, .raw = rw_copy(k->raw, k->raw_bytes), .raw_bytes = k->raw_bytes};
    }
    return f;
}

static inline void rw_close(struct rw_file *f)
{
    for (size_t i = 0; i < f->n_tensors; i++)
        free(f->tensors[i].data);
    for (size_t i = 0; i < f->n_keys; i++)
        free(f->keys[i].raw);
    gguf_close(f->g);
    free(f->tensors);
    free(f->keys);
    free(f);
}

static inline struct rw_tensor *rw_tensor(struct rw_file *f, const char *name)
{
    for (size_t i = 0; i < f->n_tensors; i++)
        if (strcmp(f->tensors[i].name, name) == 0)
            return &f->tensors[i];
    ck_abort_msg("no tensor %s", name);
    return NULL;
}

static inline bool rw_key_is(const struct rw_key *k, const char *name)
{
    return k->key->name.n_bytes == strlen(name) && memcmp(k->key->name.data, name, k->key->name.n_bytes) == 0;
}

static inline struct rw_key *rw_key(struct rw_file *f, const char *name)
{
    for (size_t i = 0; i < f->n_keys; i++)
        if (rw_key_is(&f->keys[i], name))
            return &f->keys[i];
    ck_abort_msg("no key %s", name);
    return NULL;
}

/* Tensors first .. first + n - 1 with all keys or none, and three keys of a part when n_parts is not 0. */
static inline void rw_save_part(const struct rw_file *f, const char *path, bool keys, size_t first, size_t n, uint32_t no,
                                uint32_t n_parts, uint32_t n_all)
{
    struct gguf_writer *w;
    struct error err = {0};
    ck_assert_msg(!gguf_writer_open(path, &w, &err), "%s", err.message);
    for (size_t i = 0; keys && i < f->n_keys; i++)
        if (!f->keys[i].drop)
            gguf_write_raw(w, f->keys[i].key->name.data, f->keys[i].key->name.n_bytes, f->keys[i].raw, f->keys[i].raw_bytes);
    if (n_parts) {
        gguf_write_u32(w, "split.no", no);
        gguf_write_u32(w, "split.count", n_parts);
        gguf_write_u32(w, "split.tensors.count", n_all);
    }
    for (size_t i = first; i < first + n; i++)
        if (!f->tensors[i].drop)
            gguf_write_tensor(w, f->tensors[i].name, f->tensors[i].type, f->tensors[i].n_dims, f->tensors[i].dims,
                              f->tensors[i].n_bytes);
    for (size_t i = first; i < first + n; i++)
        if (!f->tensors[i].drop)
            gguf_write_data(w, f->tensors[i].data, f->tensors[i].n_bytes);
    ck_assert_msg(!gguf_writer_finish(w, &err), "%s", err.message);
    gguf_writer_close(w);
}

static inline void rw_save(const struct rw_file *f, const char *path)
{
    rw_save_part(f, path, true, 0, f->n_tensors, 0, 0, 0);
}

static inline void rw_swap(struct rw_file *f, const char *a, const char *b)
{
    struct rw_tensor *x = rw_tensor(f, a), *y = rw_tensor(f, b);
    ck_assert_uint_eq(x->n_bytes, y->n_bytes);
    uint8_t *data = x->data;
    x->data = y->data;
    y->data = data;
}

/* "NAME" in the folder for temporary files, with this process's number; several are kept apart by name. */
static inline const char *rw_path(const char *name)
{
    static char paths[8][256];
    static unsigned next;
    const char *folder = getenv("TMPDIR");
    char *path = paths[next++ % 8];
    snprintf(path, 256, "%s/bitnet-rewrite-%ld-%s", folder ? folder : "/tmp", (long)getpid(), name);
    return path;
}

#endif
