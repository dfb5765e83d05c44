/*
 * Files: mapped read-only, parsed (gguf_parse.c), looked up by name. A file that another process cuts short while it is
 * mapped ends in SIGBUS: replace models by rename.
 */
#include "engine/model/gguf_parse.h"

#include "engine/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void unmap(const void *data, size_t n_bytes, int fd)
{
    if (fd < 0)
        return;
    munmap((void *)(uintptr_t)data, n_bytes);
    close(fd);
}

static enum error_code open_bytes(const void *data, size_t n_bytes, int fd, struct gguf **out, struct error *err)
{
    struct gguf *g = calloc(1, sizeof *g);
    if (!g) {
        unmap(data, n_bytes, fd);
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory to open a GGUF file");
    }
    g->data = data;
    g->n_bytes = n_bytes;
    g->fd = fd;
    enum error_code code = gguf_parse(g, err);
    if (code) {
        gguf_close(g);
        return code;
    }
    *out = g;
    return ERROR_NONE;
}

enum error_code gguf_open_memory(const void *data, size_t n_bytes, struct gguf **out, struct error *err)
{
    return open_bytes(data, n_bytes, -1, out, err);
}

/* O_NONBLOCK so that a FIFO without a writer is refused instead of waited for. */
static int open_path(const char *path, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        error_set(err, errno == ENOENT || errno == ENOTDIR ? ERROR_NOT_FOUND : ERROR_MODEL_LOAD_FAILED, "cannot open %s: %s", path,
                  strerror(errno));
    return fd;
}

/* Maps a regular file, which stays open. */
static enum error_code map_file(const struct file_opener *opener, const char *path, int *out, void **data, size_t *n_bytes, struct error *err)
{
    struct stat st;
    struct error why = {0};
    int fd = opener ? opener->open(opener->user, path, &why) : open_path(path, &why);
    if (fd < 0) {
        if (err)
            *err = why;
        return why.code;
    }
    enum error_code code = ERROR_NONE;
    if (fstat(fd, &st) != 0)
        code = error_set(err, ERROR_MODEL_LOAD_FAILED, "cannot examine %s: %s", path, strerror(errno));
    else if (S_ISDIR(st.st_mode))
        code = error_set(err, ERROR_MODEL_LOAD_FAILED, "%s is a directory, expected a GGUF file", path);
    else if (!S_ISREG(st.st_mode))
        code = error_set(err, ERROR_MODEL_LOAD_FAILED, "%s is no regular file, expected a GGUF file", path);
    else if (st.st_size == 0)
        code = error_set(err, ERROR_MODEL_LOAD_FAILED, "%s is empty, expected a GGUF file", path);
    else {
        *n_bytes = (size_t)st.st_size;
        *data = mmap(NULL, *n_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (*data == MAP_FAILED)
            code = error_set(err, ERROR_MODEL_LOAD_FAILED, "cannot map the %zu bytes of %s: %s", *n_bytes, path,
                             strerror(errno));
    }
    if (code)
        close(fd);
    *out = fd;
    return code;
}

enum error_code gguf_open_one(const struct file_opener *opener, const char *path, struct gguf **out, struct error *err)
{
    void *data = NULL;
    size_t n_bytes = 0;
    int fd;
    enum error_code code = map_file(opener, path, &fd, &data, &n_bytes, err);
    if (code)
        return code;
    code = open_bytes(data, n_bytes, fd, out, err);
    if (code)
        error_prefix(err, "%s", path);
    return code;
}

enum error_code gguf_open(const char *path, struct gguf **out, struct error *err)
{
    return gguf_open_by(NULL, path, out, err);
}

enum error_code gguf_open_by(const struct file_opener *opener, const char *path, struct gguf **out, struct error *err)
{
    enum error_code code = gguf_open_one(opener, path, out, err);
    uint32_t n_parts = 1;
    if (code)
        return code;
    gguf_get_u32(*out, "split.count", &n_parts, NULL);
    if (n_parts < 2 || !(code = gguf_join(*out, opener, path, n_parts, err)))
        return ERROR_NONE;
    error_prefix(err, "%s", path);
    gguf_close(*out);
    *out = NULL;
    return code;
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    for (size_t i = 0; g->keys && i < g->n_keys; i++)
        free(g->keys[i].strings);
    for (size_t i = 0; g->parts && i + 1 < g->n_parts; i++)
        gguf_close(g->parts[i]);
    free(g->parts);
    free(g->keys);
    free(g->tensors);
    free(g->keys_by_name);
    free(g->tensors_by_name);
    unmap(g->data, g->n_bytes, g->fd);
    free(g);
}

void gguf_forget(const struct gguf *g, const struct gguf_tensor *t)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)t->data, end = begin + t->n_bytes;
    begin = (begin + page - 1) / page * page; /* whole pages: a neighbour may share the ends */
    end = end / page * page;
    if (g->fd >= 0 && begin < end)
        madvise((void *)begin, end - begin, MADV_DONTNEED);
}

static bool holds(const struct gguf *g, const uint8_t *p)
{
    return p >= g->data && p < g->data + g->n_bytes;
}

bool gguf_file_of(const struct gguf *g, const struct gguf_tensor *t, int *fd, uint64_t *offset)
{
    const struct gguf *part = g;
    for (size_t i = 0; i + 1 < g->n_parts && !holds(part, t->data); i++)
        part = g->parts[i];
    if (part->fd < 0 || !holds(part, t->data))
        return false;
    *fd = part->fd;
    *offset = (uint64_t)((const uint8_t *)t->data - part->data);
    return true;
}

/* ---- tables ---------------------------------------------------------------------------------------------------- */

uint32_t gguf_version(const struct gguf *g)
{
    return g->version;
}
size_t gguf_file_bytes(const struct gguf *g)
{
    size_t n = g->n_bytes;
    for (size_t i = 0; i + 1 < g->n_parts; i++)
        n += g->parts[i]->n_bytes;
    return n;
}
size_t gguf_n_parts(const struct gguf *g)
{
    return g->n_parts ? g->n_parts : 1;
}
size_t gguf_n_keys(const struct gguf *g)
{
    return g->n_keys;
}
const struct gguf_key *gguf_key_at(const struct gguf *g, size_t i)
{
    return i < g->n_keys ? &g->keys[i] : NULL;
}
size_t gguf_n_tensors(const struct gguf *g)
{
    return g->n_tensors;
}
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i)
{
    return i < g->n_tensors ? &g->tensors[i] : NULL;
}

const struct gguf_key *gguf_find(const struct gguf *g, const char *name)
{
    const struct gguf_key wanted = {.name = {name, strlen(name)}}, *w = &wanted;
    const struct gguf_key **found = bsearch(&w, g->keys_by_name, g->n_keys, sizeof *g->keys_by_name, gguf_compare_keys);
    return found ? *found : NULL;
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name)
{
    const struct gguf_tensor wanted = {.name = {name, strlen(name)}}, *w = &wanted;
    const struct gguf_tensor **found =
        bsearch(&w, g->tensors_by_name, g->n_tensors, sizeof *g->tensors_by_name, gguf_compare_tensors);
    return found ? *found : NULL;
}
