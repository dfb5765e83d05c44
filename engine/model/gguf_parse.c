/*
 * Bounds first, use after. A cursor walks the header once and stops at the first thing that does not hold; what it
 * leaves are tables of keys and tensors that point into the file, and for each table an index sorted by name.
 *
 *   magic version n_tensors n_keys | keys | tensor infos | padding | data (each tensor at a multiple of the alignment)
 *
 * Counts are believed only as far as the bytes that are left could hold them, so that a small file never makes a large
 * allocation.
 */
#include "engine/model/gguf_parse.h"

#include "engine/model/gguf_text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_ALIGNMENT 32u
#define MAX_ALIGNMENT (1u << 20)
#define MAX_NAME_BYTES 1024u
#define MIN_KEY_BYTES 13u    /* length, empty name, type, one byte */
#define MIN_TENSOR_BYTES 32u /* length, empty name, one dimension, type, offset */

struct cursor {
    const uint8_t *data;
    size_t n_bytes, at;
};

static size_t left(const struct cursor *c)
{
    return c->n_bytes - c->at;
}

static bool read_u32(struct cursor *c, uint32_t *out)
{
    if (left(c) < sizeof *out)
        return false;
    memcpy(out, c->data + c->at, sizeof *out);
    c->at += sizeof *out;
    return true;
}

static bool read_u64(struct cursor *c, uint64_t *out)
{
    if (left(c) < sizeof *out)
        return false;
    memcpy(out, c->data + c->at, sizeof *out);
    c->at += sizeof *out;
    return true;
}

static bool read_string(struct cursor *c, struct gguf_string *out)
{
    uint64_t n;
    if (!read_u64(c, &n) || n > left(c))
        return false;
    *out = (struct gguf_string){(const char *)c->data + c->at, (size_t)n};
    c->at += (size_t)n;
    return true;
}

static int compare_names(const struct gguf_string *a, const struct gguf_string *b)
{
    size_t n = a->n_bytes < b->n_bytes ? a->n_bytes : b->n_bytes;
    int order = n ? memcmp(a->data, b->data, n) : 0;
    return order ? order : (a->n_bytes > b->n_bytes) - (a->n_bytes < b->n_bytes);
}

int gguf_compare_keys(const void *a, const void *b)
{
    return compare_names(&(*(const struct gguf_key *const *)a)->name, &(*(const struct gguf_key *const *)b)->name);
}

int gguf_compare_tensors(const void *a, const void *b)
{
    return compare_names(&(*(const struct gguf_tensor *const *)a)->name,
                         &(*(const struct gguf_tensor *const *)b)->name);
}

static int compare_offsets(const void *a, const void *b)
{
    const struct gguf_tensor *x = *(const struct gguf_tensor *const *)a, *y = *(const struct gguf_tensor *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* ---- header ---------------------------------------------------------------------------------------------------- */

static enum error_code read_header(struct gguf *g, struct cursor *c, struct error *err)
{
    uint32_t magic, version;
    uint64_t n_tensors, n_keys;
    if (!read_u32(c, &magic) || !read_u32(c, &version))
        return error_set(err, ERROR_MODEL_LOAD_FAILED, "not a GGUF file: only %zu bytes long", c->n_bytes);
    if (memcmp(c->data, "GGUF", 4) != 0)
        return error_set(err, ERROR_MODEL_LOAD_FAILED,
                         "not a GGUF file: expected the magic \"GGUF\" (47 47 55 46), found %02x %02x %02x %02x",
                         c->data[0], c->data[1], c->data[2], c->data[3]);
    if (version && !(version & 0xffffu))
        return error_set(err, ERROR_MODEL_LOAD_FAILED, "big-endian GGUF files are not supported");
    if (version != 2 && version != 3)
        return error_set(err, ERROR_MODEL_LOAD_FAILED, "GGUF version: expected 2 or 3, found %" PRIu32, version);
    if (!read_u64(c, &n_tensors) || !read_u64(c, &n_keys))
        return error_set(err, ERROR_MODEL_LOAD_FAILED, "file ends inside the header, at byte %zu", c->n_bytes);
    if (n_keys > left(c) / MIN_KEY_BYTES)
        return error_set(err, ERROR_MODEL_LOAD_FAILED,
                         "key count %" PRIu64 ": the %zu bytes that follow hold at most %zu", n_keys, left(c),
                         left(c) / MIN_KEY_BYTES);
    if (n_tensors > left(c) / MIN_TENSOR_BYTES)
        return error_set(err, ERROR_MODEL_LOAD_FAILED,
                         "tensor count %" PRIu64 ": the %zu bytes that follow hold at most %zu", n_tensors, left(c),
                         left(c) / MIN_TENSOR_BYTES);
    g->version = version;
    g->n_keys = (size_t)n_keys;
    g->n_tensors = (size_t)n_tensors;
    g->keys = calloc(g->n_keys + 1, sizeof *g->keys);
    g->tensors = calloc(g->n_tensors + 1, sizeof *g->tensors);
    g->keys_by_name = calloc(g->n_keys + 1, sizeof *g->keys_by_name);
    g->tensors_by_name = calloc(g->n_tensors + 1, sizeof *g->tensors_by_name);
    if (!g->keys || !g->tensors || !g->keys_by_name || !g->tensors_by_name)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the tables of %zu keys and %zu tensors", g->n_keys,
                         g->n_tensors);
    return ERROR_NONE;
}

/* A key's or tensor's name: `what` and its index are for the message. */
static enum error_code read_name(struct cursor *c, const char *what, size_t i, struct gguf_string *out,
                                 struct error *err)
{
    size_t at = c->at;
    if (!read_string(c, out))
        return error_set(err, ERROR_MODEL_LOAD_FAILED, "%s %zu: its name at byte %zu runs beyond the file of %zu bytes",
                         what, i, at, c->n_bytes);
    if (out->n_bytes == 0 || out->n_bytes > MAX_NAME_BYTES)
        return error_set(err, ERROR_MODEL_LOAD_FAILED, "%s %zu at byte %zu: its name has %zu bytes, expected 1 to %u",
                         what, i, at, out->n_bytes, MAX_NAME_BYTES);
    return ERROR_NONE;
}

/* ---- keys ------------------------------------------------------------------------------------------------------ */

static enum error_code key_error(struct error *err, const struct gguf_key *key, size_t at, const char *found)
{
    char name[GGUF_TEXT_BYTES];
    gguf_text(key->name, name);
    return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name, "key %s at byte %zu: %s", name, at, found);
}

static enum error_code read_strings(struct cursor *c, struct gguf_key *key, struct error *err)
{
    key->strings = calloc((size_t)key->n + 1, sizeof *key->strings);
    if (!key->strings)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for an array of %" PRIu64 " strings", key->n);
    for (uint64_t i = 0; i < key->n; i++) {
        size_t at = c->at;
        if (!read_string(c, &key->strings[i]))
            return key_error(err, key, at, "a string of the array runs beyond the end of the file");
    }
    return ERROR_NONE;
}

static enum error_code read_array(struct cursor *c, struct gguf_key *key, struct error *err)
{
    size_t at = c->at, size;
    uint32_t type;
    if (!read_u32(c, &type) || !read_u64(c, &key->n))
        return key_error(err, key, at, "the file ends inside the array's header");
    if (type == GGUF_ARRAY)
        return key_error(err, key, at, "arrays of arrays are not supported");
    if (type >= GGUF_N_TYPES)
        return key_error(err, key, at, "unknown element type of an array");
    key->element_type = (enum gguf_type)type;
    size = type == GGUF_STRING ? 8 : gguf_type_bytes(key->element_type);
    if (key->n > left(c) / size)
        return key_error(err, key, at, "the array has more elements than the rest of the file can hold");
    key->data = c->data + c->at;
    if (type == GGUF_STRING)
        return read_strings(c, key, err);
    c->at += (size_t)key->n * size;
    return ERROR_NONE;
}

static enum error_code read_key(struct cursor *c, size_t i, struct gguf_key *key, struct error *err)
{
    uint32_t type;
    enum error_code code = read_name(c, "key", i, &key->name, err);
    if (code)
        return code;
    size_t at = c->at;
    key->raw = c->data + at;
    if (!read_u32(c, &type))
        return key_error(err, key, at, "the file ends before its type");
    if (type >= GGUF_N_TYPES)
        return key_error(err, key, at, "unknown value type");
    key->type = key->element_type = (enum gguf_type)type;
    if (type == GGUF_ARRAY)
        return read_array(c, key, err);
    key->n = 1;
    key->data = c->data + c->at;
    at = c->at;
    if (type == GGUF_STRING) {
        struct gguf_string s;
        return read_string(c, &s) ? ERROR_NONE : key_error(err, key, at, "its string runs beyond the end of the file");
    }
    if (left(c) < gguf_type_bytes(key->type))
        return key_error(err, key, at, "the file ends inside its value");
    c->at += gguf_type_bytes(key->type);
    return ERROR_NONE;
}

static enum error_code read_keys(struct gguf *g, struct cursor *c, struct error *err)
{
    for (size_t i = 0; i < g->n_keys; i++) {
        enum error_code code = read_key(c, i, &g->keys[i], err);
        if (code)
            return code;
        g->keys[i].raw_bytes = (size_t)(c->data + c->at - (const uint8_t *)g->keys[i].raw);
        g->keys_by_name[i] = &g->keys[i];
    }
    qsort(g->keys_by_name, g->n_keys, sizeof *g->keys_by_name, gguf_compare_keys);
    for (size_t i = 1; i < g->n_keys; i++) {
        const struct gguf_key *a = g->keys_by_name[i - 1], *b = g->keys_by_name[i];
        const uint8_t *second = (const uint8_t *)(a > b ? a : b)->name.data;
        if (compare_names(&a->name, &b->name) == 0)
            return key_error(err, b, (size_t)(second - g->data), "the file has this key twice");
    }
    return ERROR_NONE;
}

static enum error_code read_alignment(struct gguf *g, struct error *err)
{
    uint32_t alignment = DEFAULT_ALIGNMENT;
    struct error why = {0};
    if (!gguf_get_u32(g, "general.alignment", &alignment, &why) && why.code) {
        if (err)
            *err = why;
        return why.code;
    }
    /* 8 is the least the format allows, and what reading floats in place needs. */
    if (alignment < 8 || alignment > MAX_ALIGNMENT || (alignment & (alignment - 1)))
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, "general.alignment",
                               "key general.alignment: expected a power of two from 8 to %u, found %" PRIu32,
                               MAX_ALIGNMENT, alignment);
    g->alignment = alignment;
    return ERROR_NONE;
}

/* ---- tensors --------------------------------------------------------------------------------------------------- */

static enum error_code read_tensor(struct cursor *c, size_t i, struct gguf_tensor *t, struct error *err)
{
    enum error_code code = read_name(c, "tensor", i, &t->name, err);
    if (code)
        return code;
    size_t at = c->at;
    char name[GGUF_TEXT_BYTES];
    gguf_text(t->name, name);
    if (!read_u32(c, &t->n_dims))
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name,
                               "tensor %s: the file ends at byte %zu, inside its header", name, at);
    if (t->n_dims < 1 || t->n_dims > 4)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name,
                               "tensor %s at byte %zu: expected 1 to 4 dimensions, found %" PRIu32, name, at,
                               t->n_dims);
    uint64_t product = 1;
    for (uint32_t d = 0; d < 4; d++) {
        t->dims[d] = 1;
        if (d < t->n_dims && !read_u64(c, &t->dims[d]))
            return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name, "tensor %s: the file ends inside its dimensions",
                                   name);
        if (t->dims[d] == 0 || t->dims[d] > (uint64_t)INT64_MAX / product)
            return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name,
                                   "tensor %s: dimension %" PRIu32 " is %" PRIu64 ", which is zero or too large", name,
                                   d, t->dims[d]);
        product *= t->dims[d];
    }
    if (!read_u32(c, &t->type) || !read_u64(c, &t->offset))
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name, "tensor %s: the file ends inside its type or offset",
                               name);
    return ERROR_NONE;
}

/* Finds the tensor's bytes in the data section of `room` bytes. */
static enum error_code place_tensor(const struct gguf *g, size_t room, struct gguf_tensor *t, struct error *err)
{
    char name[GGUF_TEXT_BYTES];
    gguf_text(t->name, name);
    if (t->offset % g->alignment)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name,
                               "tensor %s: offset %" PRIu64 " is no multiple of the alignment %zu", name, t->offset,
                               g->alignment);
    if (t->offset > room)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name,
                               "tensor %s: offset %" PRIu64 " is beyond the data of %zu bytes (is the file complete?)",
                               name, t->offset, room);
    if (!tensor_type_name(t->type))
        return ERROR_NONE;
    size_t rows = (size_t)(t->dims[1] * t->dims[2] * t->dims[3]); /* read_tensor bounded the product */
    t->n_bytes = tensor_bytes(t->type, rows, (size_t)t->dims[0]);
    if (t->n_bytes == 0)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name,
                               "tensor %s: %" PRIu64 " columns do not fit the blocks of type %s", name, t->dims[0],
                               tensor_type_name(t->type));
    if (t->n_bytes > room - t->offset)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name,
                               "tensor %s: expected %zu bytes at byte %zu, found %zu until the end of the file (is it "
                               "complete?)",
                               name, t->n_bytes, g->data_start + (size_t)t->offset, (size_t)(room - t->offset));
    t->data = g->data + g->data_start + t->offset;
    return ERROR_NONE;
}

/* Type 42 means blocks of 128 weights in some files, of 64 in others: the room up to the next tensor says which. `order` is by offset. */
static void resolve_q2_0(const struct gguf *g, const struct gguf_tensor *const *order, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct gguf_tensor *t = (struct gguf_tensor *)(uintptr_t)order[i];
        size_t end = i + 1 < n ? (size_t)order[i + 1]->offset : g->n_bytes - g->data_start, room = end - (size_t)t->offset;
        size_t of_64 = (size_t)(t->dims[0] / 64 * t->dims[1] * t->dims[2] * t->dims[3]) * 18;
        size_t padded = (t->n_bytes + g->alignment - 1) / g->alignment * g->alignment;
        if (t->type == TENSOR_Q2_0 && padded < of_64 && of_64 <= room)
            t->n_bytes = of_64;
    }
}

/* `order` is any permutation of the tensors; it is left sorted by offset. */
static enum error_code check_overlap(const struct gguf_tensor **order, size_t n, struct error *err)
{
    qsort(order, n, sizeof *order, compare_offsets);
    for (size_t i = 1; i < n; i++) {
        const struct gguf_tensor *a = order[i - 1], *b = order[i];
        size_t least = a->n_bytes ? a->n_bytes : 1;
        if (b->offset - a->offset >= least)
            continue;
        char name_a[GGUF_TEXT_BYTES], name_b[GGUF_TEXT_BYTES];
        gguf_text(a->name, name_a);
        gguf_text(b->name, name_b);
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name_b,
                               "tensor %s: its data at offset %" PRIu64 " overlaps tensor %s", name_b, b->offset,
                               name_a);
    }
    return ERROR_NONE;
}

static enum error_code read_tensors(struct gguf *g, struct cursor *c, struct error *err)
{
    enum error_code code;
    for (size_t i = 0; i < g->n_tensors; i++) {
        if ((code = read_tensor(c, i, &g->tensors[i], err)))
            return code;
        g->tensors_by_name[i] = &g->tensors[i];
    }
    /* A file of a vocabulary alone may end without padding. */
    size_t padding = (g->alignment - c->at % g->alignment) % g->alignment;
    g->data_start = padding < left(c) ? c->at + padding : c->n_bytes;
    for (size_t i = 0; i < g->n_tensors; i++)
        if ((code = place_tensor(g, g->n_bytes - g->data_start, &g->tensors[i], err)))
            return code;
    if ((code = check_overlap(g->tensors_by_name, g->n_tensors, err)))
        return code;
    resolve_q2_0(g, g->tensors_by_name, g->n_tensors);
    qsort(g->tensors_by_name, g->n_tensors, sizeof *g->tensors_by_name, gguf_compare_tensors);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (gguf_compare_tensors(&g->tensors_by_name[i - 1], &g->tensors_by_name[i]) == 0) {
            char name[GGUF_TEXT_BYTES];
            gguf_text(g->tensors_by_name[i]->name, name);
            return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name, "tensor %s: the file has this tensor twice",
                                   name);
        }
    return ERROR_NONE;
}

enum error_code gguf_parse(struct gguf *g, struct error *err)
{
    struct cursor c = {g->data, g->n_bytes, 0};
    enum error_code code = read_header(g, &c, err);
    if (!code)
        code = read_keys(g, &c, err);
    if (!code)
        code = read_alignment(g, err);
    return code ? code : read_tensors(g, &c, err);
}
