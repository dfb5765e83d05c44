#include "tools/safetensors.h"

#include "kernels/kernels.h"
#include "tools/json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_SHARDS 1000
#define MAX_TENSORS 100000
#define PATH_BYTES 4096

struct shard {
    void *mapped; /* NULL: borrowed */
    size_t n_bytes;
    struct json *header; /* owns the names */
};

struct safetensors {
    struct shard *shards;
    struct safetensor *tensors; /* by name */
    size_t n_shards, n_tensors;
};

static const struct {
    const char *name;
    size_t n_bytes;
} types[] = {[ST_U8] = {"U8", 1}, [ST_F16] = {"F16", 2}, [ST_BF16] = {"BF16", 2}, [ST_F32] = {"F32", 4}};

#define refuse(err, ...) error_set((err), ERROR_MODEL_LOAD_FAILED, __VA_ARGS__)

/* A whole number from 0 to 2^53; false for anything else. */
static bool whole(const struct json_value *v, size_t *out)
{
    if (!v || v->type != JSON_NUMBER || !(v->number >= 0 && v->number <= 9007199254740992.0) || v->number != (double)(uint64_t)v->number)
        return false;
    *out = (size_t)v->number;
    return true;
}

static enum error_code read_type(const struct json_value *v, struct safetensor *t, struct error *err)
{
    const struct json_value *name = json_member(v, "dtype");
    for (size_t i = 0; name && name->type == JSON_STRING && i < sizeof types / sizeof types[0]; i++)
        if (strcmp(name->string, types[i].name) == 0) {
            t->type = (enum safetensors_type)i;
            return ERROR_NONE;
        }
    return refuse(err, "tensor %.80s: expected dtype U8, F16, BF16 or F32, found %.16s", t->name,
                  name && name->type == JSON_STRING ? name->string : "none");
}

/* Type, shape and place of one tensor in `room` bytes of data. */
static enum error_code read_tensor(const struct json_value *v, const uint8_t *data, size_t room, struct safetensor *t, struct error *err)
{
    const struct json_value *shape = json_member(v, "shape"), *offsets = json_member(v, "data_offsets");
    size_t begin, end, n = 1;
    t->name = v->name;
    enum error_code code = read_type(v, t, err);
    if (code)
        return code;
    if (!shape || shape->type != JSON_ARRAY || shape->number > 4)
        return refuse(err, "tensor %.80s: expected a shape of at most 4 dimensions", t->name);
    for (const struct json_value *d = shape->first; d; d = d->next) {
        if (!whole(d, &t->dims[t->n_dims]) || __builtin_mul_overflow(n, t->dims[t->n_dims], &n))
            return refuse(err, "tensor %.80s: dimension %zu is no size", t->name, t->n_dims);
        t->n_dims++;
    }
    if (!offsets || offsets->type != JSON_ARRAY || offsets->number != 2 || !whole(offsets->first, &begin) ||
        !whole(offsets->first->next, &end) || begin > end || end > room)
        return refuse(err, "tensor %.80s: its data_offsets are not in the %zu bytes of data (is the file complete?)", t->name, room);
    if (__builtin_mul_overflow(n, types[t->type].n_bytes, &n) || n != end - begin)
        return refuse(err, "tensor %.80s: expected %zu bytes of %s for its shape, found %zu", t->name, n, types[t->type].name, end - begin);
    t->data = data + begin;
    t->n_bytes = n;
    return ERROR_NONE;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct safetensor *)a)->name, ((const struct safetensor *)b)->name);
}

/* Adds a file's tensors; its header becomes the next shard's. */
static enum error_code add_file(struct safetensors *s, const uint8_t *data, size_t n_bytes, struct error *err)
{
    uint64_t length;
    if (n_bytes < sizeof length)
        return refuse(err, "not a safetensors file: only %zu bytes long", n_bytes);
    memcpy(&length, data, sizeof length);
    if (length > n_bytes - sizeof length)
        return refuse(err, "not a safetensors file: a header of %llu bytes does not fit its %zu bytes", (unsigned long long)length, n_bytes);
    struct json **header = &s->shards[s->n_shards - 1].header;
    enum error_code code = json_open((const char *)data + sizeof length, (size_t)length, header, err);
    if (code) {
        error_prefix(err, "header");
        return err ? (err->code = ERROR_MODEL_LOAD_FAILED) : ERROR_MODEL_LOAD_FAILED;
    }
    const struct json_value *root = json_root(*header);
    if (root->type != JSON_OBJECT || root->number > MAX_TENSORS)
        return refuse(err, "header: expected an object of at most %d tensors", MAX_TENSORS);
    struct safetensor *tensors = realloc(s->tensors, (s->n_tensors + (size_t)root->number + 1) * sizeof *tensors);
    if (!tensors)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for %zu tensors", (size_t)root->number);
    s->tensors = tensors;
    for (const struct json_value *v = root->first; v; v = v->next) {
        struct safetensor t = {0};
        if (strcmp(v->name, "__metadata__") == 0)
            continue;
        if ((code = read_tensor(v, data + sizeof length + length, n_bytes - sizeof length - (size_t)length, &t, err)))
            return code;
        tensors[s->n_tensors++] = t;
    }
    return ERROR_NONE;
}

static enum error_code add_path(struct safetensors *s, const char *path, struct error *err)
{
    struct stat st;
    struct shard *shard = &s->shards[s->n_shards];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size == 0) {
        enum error_code code = error_set(err, fd < 0 && errno == ENOENT ? ERROR_NOT_FOUND : ERROR_MODEL_LOAD_FAILED, "cannot open %s: %s",
                                         path, fd < 0 ? strerror(errno) : "no regular file, or empty");
        if (fd >= 0)
            close(fd);
        return code;
    }
    void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (data == MAP_FAILED)
        return refuse(err, "cannot map %s: %s", path, strerror(errno));
    *shard = (struct shard){.mapped = data, .n_bytes = (size_t)st.st_size};
    s->n_shards++;
    enum error_code code = add_file(s, data, shard->n_bytes, err);
    if (code)
        error_prefix(err, "%s", path);
    return code;
}

/* Sorted, and each name once. */
static enum error_code finish(struct safetensors *s, struct error *err)
{
    if (s->n_tensors)
        qsort(s->tensors, s->n_tensors, sizeof *s->tensors, by_name);
    for (size_t i = 1; i < s->n_tensors; i++)
        if (by_name(&s->tensors[i - 1], &s->tensors[i]) == 0)
            return refuse(err, "tensor %.80s: the checkpoint has it twice", s->tensors[i].name);
    return ERROR_NONE;
}

static struct safetensors *new_set(size_t max_shards)
{
    struct safetensors *s = calloc(1, sizeof *s);
    if (s && !(s->shards = calloc(max_shards, sizeof *s->shards))) {
        free(s);
        return NULL;
    }
    return s;
}

/* Shards of the folder: how many its first says; 0 when there is none. */
static unsigned count_shards(const char *folder)
{
    char path[PATH_BYTES];
    for (unsigned n = 1; n <= MAX_SHARDS; n++) {
        snprintf(path, sizeof path, "%s/model-00001-of-%05u.safetensors", folder, n);
        if (access(path, F_OK) == 0)
            return n;
    }
    return 0;
}

enum error_code safetensors_open(const char *folder, struct safetensors **out, struct error *err)
{
    char path[PATH_BYTES];
    struct safetensors *s = new_set(MAX_SHARDS);
    if (!s)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory to open a checkpoint");
    enum error_code code = ERROR_NONE;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    unsigned n = access(path, F_OK) == 0 ? 0 : count_shards(folder);
    if (n == 0)
        code = add_path(s, path, err);
    for (unsigned i = 1; !code && i <= n; i++) {
        snprintf(path, sizeof path, "%s/model-%05u-of-%05u.safetensors", folder, i, n);
        code = add_path(s, path, err);
    }
    if (!code)
        code = finish(s, err);
    if (code)
        safetensors_close(s);
    else
        *out = s;
    return code;
}

enum error_code safetensors_open_memory(const void *data, size_t n_bytes, struct safetensors **out, struct error *err)
{
    struct safetensors *s = new_set(1);
    if (!s)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory to open a checkpoint");
    s->n_shards = 1;
    enum error_code code = add_file(s, data, n_bytes, err);
    if (!code)
        code = finish(s, err);
    if (code)
        safetensors_close(s);
    else
        *out = s;
    return code;
}

void safetensors_close(struct safetensors *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n_shards; i++) {
        json_close(s->shards[i].header);
        if (s->shards[i].mapped)
            munmap(s->shards[i].mapped, s->shards[i].n_bytes);
    }
    free(s->shards);
    free(s->tensors);
    free(s);
}

size_t safetensors_n(const struct safetensors *s)
{
    return s->n_tensors;
}

const struct safetensor *safetensors_at(const struct safetensors *s, size_t i)
{
    return i < s->n_tensors ? &s->tensors[i] : NULL;
}

const struct safetensor *safetensors_find(const struct safetensors *s, const char *name)
{
    const struct safetensor wanted = {.name = name};
    return s->n_tensors ? bsearch(&wanted, s->tensors, s->n_tensors, sizeof *s->tensors, by_name) : NULL;
}

size_t safetensor_count(const struct safetensor *t)
{
    return t->n_bytes / types[t->type].n_bytes;
}

float safetensor_value(const struct safetensor *t, size_t i)
{
    const uint8_t *p = t->data + i * types[t->type].n_bytes;
    uint32_t bits;
    float value = 0;
    switch (t->type) {
    case ST_U8: return (float)*p;
    case ST_F32: memcpy(&value, p, sizeof value); return value;
    case ST_BF16:
        bits = (uint32_t)(p[0] | p[1] << 8) << 16;
        memcpy(&value, &bits, sizeof value);
        return value;
    case ST_F16: {
        struct tensor_view view = {.type = TENSOR_F16, .data = p, .n_bytes = 2, .n_rows = 1, .n_cols = 1};
        tensor_read_row(&view, 0, &value);
        return value;
    }
    }
    return value;
}
