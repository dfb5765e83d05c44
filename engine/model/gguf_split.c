/*
 * Models in several files, as llama.cpp's gguf-split writes them: name-00001-of-00003.gguf, the first with all keys, each with some of the
 * tensors and three keys of its own: split.no from 0, split.count and split.tensors.count, which counts those of all parts.
 */
#include "engine/model/gguf_parse.h"

#include "engine/model/gguf_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PARTS 1000u
#define SUFFIX_BYTES sizeof "-00001-of-00003.gguf" /* with the end of the string */

/* The path of part `no` (from 1), from that of the first; NULL when the first is not named as one. Freed by the caller. */
static char *part_path(const char *first, uint32_t no, uint32_t n_parts)
{
    size_t n = strlen(first);
    char suffix[SUFFIX_BYTES + 16];
    snprintf(suffix, sizeof suffix, "-%05" PRIu32 "-of-%05" PRIu32 ".gguf", 1u, n_parts);
    if (n < SUFFIX_BYTES || strcmp(first + n - (SUFFIX_BYTES - 1), suffix) != 0)
        return NULL;
    char *path = malloc(n + 1);
    if (path) {
        memcpy(path, first, n - (SUFFIX_BYTES - 1));
        snprintf(path + n - (SUFFIX_BYTES - 1), SUFFIX_BYTES, "-%05u-of-%05u.gguf", no % 100000u, n_parts % 100000u);
    }
    return path;
}

static uint32_t number(const struct gguf *g, const char *key)
{
    uint32_t value = UINT32_MAX;
    gguf_get_u32(g, key, &value, NULL);
    return value;
}

static bool same_text(const struct gguf *a, const struct gguf *b, const char *key)
{
    struct gguf_string x, y;
    if (!gguf_get_string(a, key, &x, NULL) || !gguf_get_string(b, key, &y, NULL))
        return true; /* parts need not repeat it */
    return x.n_bytes == y.n_bytes && memcmp(x.data, y.data, x.n_bytes) == 0;
}

/* Whether `part` says that it is number `no`, from 0, of the model that `g` begins. */
static enum error_code check_part(const struct gguf *g, const struct gguf *part, const char *path, uint32_t no,
                                  struct error *err)
{
    static const char *const counts[] = {"split.count", "split.tensors.count"};
    for (size_t i = 0; i < 2; i++)
        if (number(part, counts[i]) != number(g, counts[i]))
            return error_set_param(err, ERROR_MODEL_LOAD_FAILED, counts[i],
                                   "part %s: expected %s %" PRIu32 " as in the first part, found %" PRIu32
                                   ": it is of another model",
                                   path, counts[i], number(g, counts[i]), number(part, counts[i]));
    if (number(part, "split.no") != no)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, "split.no",
                               "part %s: expected split.no %" PRIu32 ", found %" PRIu32
                               ": it is another part than its name says",
                               path, no, number(part, "split.no"));
    if (!same_text(g, part, "general.architecture") || !same_text(g, part, "general.name"))
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, "general.name",
                               "part %s: its name or architecture is not the first part's: it is of another model", path);
    return ERROR_NONE;
}

static enum error_code open_part(struct gguf *g, const struct file_opener *opener, const char *first, uint32_t no, uint32_t n_parts, struct error *err)
{
    char *path = part_path(first, no, n_parts);
    struct gguf *part;
    struct error why = {0};
    if (!path)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory to open part %" PRIu32, no);
    enum error_code code = gguf_open_one(opener, path, &part, &why);
    if (code) {
        code = error_set(err, ERROR_MODEL_LOAD_FAILED, "part %" PRIu32 " of %" PRIu32 ": %s", no, n_parts, why.message);
    } else {
        g->parts[g->n_parts++ - 1] = part;
        code = check_part(g, part, path, no - 1, err);
    }
    free(path);
    return code;
}

/* One table of the tensors of all parts, in the order of the parts. */
static enum error_code merge(struct gguf *g, uint32_t expected, struct error *err)
{
    size_t n = g->n_tensors, at = g->n_tensors;
    for (size_t i = 0; i + 1 < g->n_parts; i++)
        n += g->parts[i]->n_tensors;
    if (n != expected)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, "split.tensors.count",
                               "expected %" PRIu32 " tensors in all parts, found %zu", expected, n);
    struct gguf_tensor *tensors = realloc(g->tensors, n * sizeof *tensors);
    if (tensors)
        g->tensors = tensors;
    const struct gguf_tensor **by_name = realloc(g->tensors_by_name, n * sizeof *by_name);
    if (by_name)
        g->tensors_by_name = by_name;
    if (!tensors || !by_name)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the table of %zu tensors", n);
    for (size_t i = 0; i + 1 < g->n_parts; i++) {
        memcpy(g->tensors + at, g->parts[i]->tensors, g->parts[i]->n_tensors * sizeof *tensors);
        at += g->parts[i]->n_tensors;
    }
    g->n_tensors = n;
    for (size_t i = 0; i < n; i++)
        by_name[i] = &g->tensors[i];
    qsort(by_name, n, sizeof *by_name, gguf_compare_tensors);
    for (size_t i = 1; i < n; i++)
        if (gguf_compare_tensors(&by_name[i - 1], &by_name[i]) == 0) {
            char name[GGUF_TEXT_BYTES];
            gguf_text(by_name[i]->name, name);
            return error_set_param(err, ERROR_MODEL_LOAD_FAILED, name, "tensor %s: two parts have this tensor", name);
        }
    return ERROR_NONE;
}

enum error_code gguf_join(struct gguf *g, const struct file_opener *opener, const char *path, uint32_t n_parts, struct error *err)
{
    enum error_code code;
    if (n_parts > MAX_PARTS)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, "split.count", "expected at most %u parts, found %" PRIu32,
                               MAX_PARTS, n_parts);
    if (number(g, "split.no") != 0)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, "split.no",
                               "it is part %" PRIu32 " of %" PRIu32 ": open the first part, whose name ends in "
                               "-00001-of-%05" PRIu32 ".gguf",
                               number(g, "split.no") + 1, n_parts, n_parts);
    char *own = part_path(path, 1, n_parts);
    if (!own)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, "split.count",
                               "it is the first of %" PRIu32 " parts, and the others are found by its name: expected "
                               "one that ends in -00001-of-%05" PRIu32 ".gguf",
                               n_parts, n_parts);
    free(own);
    g->parts = calloc(n_parts, sizeof *g->parts);
    if (!g->parts)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for %" PRIu32 " parts", n_parts);
    g->n_parts = 1;
    for (uint32_t no = 2; no <= n_parts; no++)
        if ((code = open_part(g, opener, path, no, n_parts, err)))
            return code;
    return merge(g, number(g, "split.tensors.count"), err);
}
