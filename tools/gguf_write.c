/* The writer: two buffers for the head, then a stream of data that knows which tensor it is in. */
#include "tools/gguf_write.h"

#include "base/buffer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ALIGNMENT 32u /* the format's default: no key needed */
#define MAX_HEAD_BYTES ((size_t)256 << 20)
#define OUTPUT_BYTES ((size_t)1 << 20)

enum { TYPE_U32 = 4, TYPE_I32 = 5, TYPE_F32 = 6, TYPE_BOOL = 7, TYPE_STRING = 8, TYPE_ARRAY = 9 };

struct gguf_writer {
    char *path, *temporary; /* owned */
    bool named;             /* the temporary file has a name */
    FILE *file;
    struct buffer keys, tensors; /* as they go into the file, without the counts */
    uint64_t n_keys, n_tensors;
    uint64_t *sizes; /* [n_tensors] bytes of each tensor */
    size_t capacity;
    uint64_t offset;                  /* of the next tensor */
    uint64_t open_elements;           /* of the string array that is being written */
    uint64_t tensor, in_tensor, done; /* the tensor that gets data, its bytes so far, all bytes so far */
    bool head_written, finished;
    struct error error; /* the first */
};

static uint64_t padded(uint64_t n)
{
    return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void fail(struct gguf_writer *w, const char *what)
{
    if (!w->error.code)
        error_set(&w->error, ERROR_INTERNAL, "cannot write %s: %s", w->path, what);
}

/* A file without a name, which is gone with the process; where there is no such thing, one beside the path. */
static int open_temporary(struct gguf_writer *w)
{
    const char *slash = strrchr(w->path, '/');
    char *folder = slash ? strndup(w->path, (size_t)(slash - w->path) + 1) : strdup(".");
    int fd = folder ? open(folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0644) : -1;
    free(folder);
    if (fd >= 0)
        return fd;
    fd = mkstemp(w->temporary);
    w->named = fd >= 0;
    if (fd >= 0)
        fchmod(fd, 0644); /* mkstemp gives 0600 */
    return fd;
}

/* Gives the finished file its name. rename() replaces what is there, which linkat() cannot. */
static bool name_file(struct gguf_writer *w)
{
    char from[64];
    if (!w->named) {
        snprintf(from, sizeof from, "/proc/self/fd/%d", fileno(w->file));
        int fd = mkstemp(w->temporary); /* a name that nobody has */
        if (fd < 0)
            return false;
        close(fd);
        unlink(w->temporary);
        if (linkat(AT_FDCWD, from, AT_FDCWD, w->temporary, AT_SYMLINK_FOLLOW) != 0)
            return false;
        w->named = true;
    }
    return rename(w->temporary, w->path) == 0;
}

enum error_code gguf_writer_open(const char *path, struct gguf_writer **out, struct error *err)
{
    struct gguf_writer *w = calloc(1, sizeof *w);
    size_t n = strlen(path) + sizeof ".XXXXXX";
    int fd = -1;
    if (!w || !(w->path = strdup(path)) || !(w->temporary = malloc(n)))
        goto fail_memory;
    snprintf(w->temporary, n, "%s.XXXXXX", path);
    buffer_init(&w->keys, MAX_HEAD_BYTES);
    buffer_init(&w->tensors, MAX_HEAD_BYTES);
    fd = open_temporary(w);
    if (fd < 0)
        goto fail_file;
    w->file = fdopen(fd, "wb");
    if (!w->file)
        goto fail_file;
    setvbuf(w->file, NULL, _IOFBF, OUTPUT_BYTES);
    *out = w;
    return ERROR_NONE;

fail_file:
    error_set(err, ERROR_INTERNAL, "cannot write %s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    if (w->named)
        unlink(w->temporary);
    free(w->temporary);
    free(w->path);
    free(w);
    return ERROR_INTERNAL;
fail_memory:
    if (w)
        free(w->path);
    free(w);
    return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory to write %s", path);
}

void gguf_writer_close(struct gguf_writer *w)
{
    if (!w)
        return;
    if (w->file)
        fclose(w->file);
    if (!w->finished && w->named)
        unlink(w->temporary);
    buffer_fini(&w->keys);
    buffer_fini(&w->tensors);
    free(w->sizes);
    free(w->temporary);
    free(w->path);
    free(w);
}

/* ---- keys ------------------------------------------------------------------------------------------------------ */

static void put_string(struct buffer *b, const void *text, size_t n_bytes)
{
    uint64_t n = n_bytes;
    buffer_append(b, &n, sizeof n);
    buffer_append(b, text, n_bytes);
}

static void begin_key(struct gguf_writer *w, const char *key, uint32_t type)
{
    if (w->head_written || w->open_elements)
        fail(w, "a key in the wrong place");
    put_string(&w->keys, key, strlen(key));
    buffer_append(&w->keys, &type, sizeof type);
    w->n_keys++;
}

void gguf_write_raw(struct gguf_writer *w, const void *key, size_t key_bytes, const void *raw, size_t raw_bytes)
{
    if (w->head_written || w->open_elements)
        fail(w, "a key in the wrong place");
    put_string(&w->keys, key, key_bytes);
    buffer_append(&w->keys, raw, raw_bytes);
    w->n_keys++;
}

static void write_array(struct gguf_writer *w, const char *key, uint32_t element, const void *data, size_t size,
                        uint64_t n)
{
    begin_key(w, key, TYPE_ARRAY);
    buffer_append(&w->keys, &element, sizeof element);
    buffer_append(&w->keys, &n, sizeof n);
    buffer_append(&w->keys, data, size * n);
}

void gguf_write_u32(struct gguf_writer *w, const char *key, uint32_t value)
{
    begin_key(w, key, TYPE_U32);
    buffer_append(&w->keys, &value, sizeof value);
}

void gguf_write_f32(struct gguf_writer *w, const char *key, float value)
{
    begin_key(w, key, TYPE_F32);
    buffer_append(&w->keys, &value, sizeof value);
}

void gguf_write_bool(struct gguf_writer *w, const char *key, bool value)
{
    begin_key(w, key, TYPE_BOOL);
    buffer_append_char(&w->keys, value ? 1 : 0);
}

void gguf_write_string(struct gguf_writer *w, const char *key, const char *value)
{
    begin_key(w, key, TYPE_STRING);
    put_string(&w->keys, value, strlen(value));
}

void gguf_write_strings(struct gguf_writer *w, const char *key, uint64_t n)
{
    write_array(w, key, TYPE_STRING, "", 0, n);
    w->open_elements = n;
}

void gguf_write_element(struct gguf_writer *w, const void *text, size_t n_bytes)
{
    if (!w->open_elements) {
        fail(w, "an element in the wrong place");
        return;
    }
    w->open_elements--;
    put_string(&w->keys, text, n_bytes);
}

void gguf_write_i32s(struct gguf_writer *w, const char *key, const int32_t *values, uint64_t n)
{
    write_array(w, key, TYPE_I32, values, sizeof *values, n);
}

void gguf_write_f32s(struct gguf_writer *w, const char *key, const float *values, uint64_t n)
{
    write_array(w, key, TYPE_F32, values, sizeof *values, n);
}

/* ---- tensors --------------------------------------------------------------------------------------------------- */

static bool grow(struct gguf_writer *w)
{
    if (w->n_tensors < w->capacity)
        return true;
    size_t capacity = w->capacity ? 2 * w->capacity : 64;
    uint64_t *sizes = realloc(w->sizes, capacity * sizeof *sizes);
    if (!sizes)
        return false;
    w->sizes = sizes;
    w->capacity = capacity;
    return true;
}

void gguf_write_tensor(struct gguf_writer *w, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dims,
                       uint64_t n_bytes)
{
    if (w->head_written || !grow(w)) {
        fail(w, w->head_written ? "a tensor in the wrong place" : "no memory");
        return;
    }
    put_string(&w->tensors, name, strlen(name));
    buffer_append(&w->tensors, &n_dims, sizeof n_dims);
    buffer_append(&w->tensors, dims, n_dims * sizeof *dims);
    buffer_append(&w->tensors, &type, sizeof type);
    buffer_append(&w->tensors, &w->offset, sizeof w->offset);
    w->sizes[w->n_tensors++] = n_bytes;
    w->offset += padded(n_bytes);
}

static void put(struct gguf_writer *w, const void *data, size_t n_bytes)
{
    if (!w->error.code && n_bytes && fwrite(data, 1, n_bytes, w->file) != n_bytes)
        fail(w, strerror(errno));
}

static void pad(struct gguf_writer *w, uint64_t n_written)
{
    static const char zeros[ALIGNMENT];
    put(w, zeros, (size_t)(padded(n_written) - n_written));
}

static void write_head(struct gguf_writer *w)
{
    static const uint32_t version = 3;
    if (w->keys.failed || w->tensors.failed || w->open_elements)
        fail(w, w->open_elements ? "elements of an array are missing" : "keys and tensors take too much memory");
    put(w, "GGUF", 4);
    put(w, &version, sizeof version);
    put(w, &w->n_tensors, sizeof w->n_tensors);
    put(w, &w->n_keys, sizeof w->n_keys);
    put(w, w->keys.data, w->keys.n_bytes);
    put(w, w->tensors.data, w->tensors.n_bytes);
    pad(w, 24 + w->keys.n_bytes + w->tensors.n_bytes);
    w->head_written = true;
}

void gguf_write_data(struct gguf_writer *w, const void *data, size_t n_bytes)
{
    if (!w->head_written)
        write_head(w);
    if (w->tensor >= w->n_tensors || n_bytes > w->sizes[w->tensor] - w->in_tensor) {
        fail(w, "more data than the tensors take");
        return;
    }
    put(w, data, n_bytes);
    w->in_tensor += n_bytes;
    w->done += n_bytes;
    if (w->in_tensor < w->sizes[w->tensor])
        return;
    pad(w, w->in_tensor);
    w->done += padded(w->in_tensor) - w->in_tensor;
    w->tensor++;
    w->in_tensor = 0;
}

uint64_t gguf_writer_data_bytes(const struct gguf_writer *w)
{
    return w->offset;
}
uint64_t gguf_writer_done_bytes(const struct gguf_writer *w)
{
    return w->done;
}

enum error_code gguf_writer_finish(struct gguf_writer *w, struct error *err)
{
    if (!w->head_written)
        write_head(w);
    if (w->tensor != w->n_tensors)
        fail(w, "data of a tensor is missing");
    if (!w->error.code && (fflush(w->file) != 0 || fsync(fileno(w->file)) != 0 || !name_file(w)))
        fail(w, strerror(errno));
    w->finished = !w->error.code;
    if (w->error.code && err)
        *err = w->error;
    return w->error.code;
}
