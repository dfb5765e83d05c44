/* What servers answer, from their JSON. See crossval.h. */
#include "tools/crossval.h"

#include "tools/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- tokens by their bytes --------------------------------------------------------------------------------------- */

struct crossval_pieces {
    const struct tokenizer *tokenizer;
    uint32_t *ids; /* [n] in order of their bytes, then of themselves */
    size_t n;
};

static int compare_bytes(const char *a, size_t n_a, const char *b, size_t n_b)
{
    int order = memcmp(a, b, n_a < n_b ? n_a : n_b);
    return order ? order : (n_a > n_b) - (n_a < n_b);
}

static int by_bytes(const void *a, const void *b, void *tokenizer)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    size_t n_x, n_y;
    const char *p = tokenizer_piece(tokenizer, x, &n_x), *q = tokenizer_piece(tokenizer, y, &n_y);
    int order = compare_bytes(p, n_x, q, n_y);
    return order ? order : (x > y) - (x < y);
}

struct crossval_pieces *crossval_pieces_open(const struct tokenizer *t)
{
    struct crossval_pieces *p = calloc(1, sizeof *p);
    if (!p || !(p->ids = malloc((tokenizer_n_tokens(t) + 1) * sizeof *p->ids))) {
        free(p);
        return NULL;
    }
    p->tokenizer = t;
    p->n = tokenizer_n_tokens(t);
    for (size_t i = 0; i < p->n; i++)
        p->ids[i] = (uint32_t)i;
    qsort_r(p->ids, p->n, sizeof *p->ids, by_bytes, (void *)(uintptr_t)t);
    return p;
}

void crossval_pieces_close(struct crossval_pieces *p)
{
    if (p)
        free(p->ids);
    free(p);
}

/* The number of bytes that bytes:\xe2\x80 (OpenAI) or "byte: \xe2" (llama.cpp) stands for, or SIZE_MAX where the text is of neither form. */
static size_t decode_bytes(const char *text, char *out, size_t max)
{
    size_t n = 0;
    if (strncmp(text, "bytes:", 6) != 0 && strncmp(text, "byte: ", 6) != 0)
        return SIZE_MAX;
    for (text += 6; *text; text += 4) {
        unsigned value;
        if (n == max || strncmp(text, "\\x", 2) != 0 || strspn(text + 2, "0123456789abcdefABCDEF") < 2 || sscanf(text + 2, "%2x", &value) != 1)
            return SIZE_MAX;
        out[n++] = (char)value;
    }
    return n > 0 ? n : SIZE_MAX;
}

int64_t crossval_pieces_find(const struct crossval_pieces *p, const char *text)
{
    char bytes[256];
    size_t n = decode_bytes(text, bytes, sizeof bytes), low = 0, high = p->n, n_piece = 0;
    const char *wanted = n == SIZE_MAX ? text : bytes;
    n = n == SIZE_MAX ? strlen(text) : n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const char *piece = tokenizer_piece(p->tokenizer, p->ids[middle], &n_piece);
        if (compare_bytes(piece, n_piece, wanted, n) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    const char *piece = low < p->n ? tokenizer_piece(p->tokenizer, p->ids[low], &n_piece) : NULL;
    return piece && compare_bytes(piece, n_piece, wanted, n) == 0 ? (int64_t)p->ids[low] : -1;
}

/* ---- lists ------------------------------------------------------------------------------------------------------- */

static int by_logprob(const void *a, const void *b)
{
    const struct crossval_entry *x = a, *y = b;
    return x->logprob != y->logprob ? (x->logprob < y->logprob) - (x->logprob > y->logprob) : (x->id > y->id) - (x->id < y->id);
}

static const struct json_value *number(const struct json_value *v)
{
    return v && v->type == JSON_NUMBER ? v : NULL;
}

static const struct json_value *first(const struct json_value *v)
{
    return v ? v->first : NULL;
}

/* Two tokens of the same text are one to look-ups, so the second is left out. */
static bool has_entry(const struct crossval_row *row, int64_t id)
{
    for (size_t i = 0; i < row->n_entries; i++)
        if (row->entries[i].id == id)
            return true;
    return false;
}

static bool sort_entries(struct crossval_row *row, struct crossval_entry *entries, const char *expected, struct error *err)
{
    if (row->n_entries == 0) {
        error_set(err, ERROR_VALIDATION_FAILED, "the server's answer: expected %s, found none", expected);
        return false;
    }
    qsort(entries, row->n_entries, sizeof *entries, by_logprob);
    return true;
}

/* One of a list: {id, logprob}, or {tok_str, prob}. False when it is neither; *id -1: a text that is no token. */
static bool read_entry(const struct json_value *v, const struct crossval_pieces *pieces, size_t n_vocab, int64_t *id, double *logprob)
{
    const struct json_value *given = number(json_member(v, "id")), *value = number(json_member(v, "logprob"));
    if (given && value && given->number >= 0 && given->number < (double)n_vocab) {
        *id = (int64_t)given->number;
        *logprob = value->number;
        return true;
    }
    const struct json_value *text = json_member(v, "tok_str");
    value = number(json_member(v, "prob"));
    if (!text || text->type != JSON_STRING || !value || value->number < 0)
        return false;
    *id = pieces ? crossval_pieces_find(pieces, text->string) : -1;
    *logprob = log(value->number > 1e-300 ? value->number : 1e-300);
    return true;
}

bool crossval_read_llama(const struct json_value *root, const struct crossval_pieces *pieces, size_t n_vocab, int64_t target,
                         struct crossval_entry *entries, size_t max_entries, struct crossval_row *out, struct error *err)
{
    const struct json_value *choice = first(json_member(root, "choices"));
    const struct json_value *position = first(json_member(json_member(choice, "logprobs"), "content"));
    position = position ? position : first(json_member(root, "completion_probabilities"));
    const struct json_value *list = json_member(position, "top_logprobs"), *probs = json_member(position, "probs");
    *out = (struct crossval_row){.entries = entries, .target = NAN};
    for (const struct json_value *v = first(list ? list : probs); v && out->n_entries < max_entries; v = v->next) {
        int64_t id;
        double logprob;
        if (!read_entry(v, pieces, n_vocab, &id, &logprob)) {
            error_set(err, ERROR_VALIDATION_FAILED, "the server's answer: expected token ids below %zu, each with a logprob, or tok_str with prob",
                      n_vocab);
            return false;
        }
        if (id < 0 || (!list && has_entry(out, id)))
            continue;
        entries[out->n_entries++] = (struct crossval_entry){(uint32_t)id, logprob};
        out->target = id == target ? logprob : out->target;
    }
    return sort_entries(out, entries, "top_logprobs of choices[0].logprobs.content[0] or of completion_probabilities[0]", err);
}

bool crossval_read_openai(const struct json_value *top, const struct json_value *own, const struct crossval_pieces *pieces,
                          struct crossval_entry *entries, size_t max_entries, struct crossval_row *out, struct error *err)
{
    *out = (struct crossval_row){.entries = entries, .target = number(own) ? own->number : NAN};
    for (const struct json_value *v = first(top); v && out->n_entries < max_entries; v = v->next) {
        int64_t id = v->name && number(v) ? crossval_pieces_find(pieces, v->name) : -1;
        if (id >= 0 && !has_entry(out, id))
            entries[out->n_entries++] = (struct crossval_entry){(uint32_t)id, v->number};
    }
    return sort_entries(out, entries, "top_logprobs of texts that are the model's tokens", err);
}

void crossval_replace_nul(char *text)
{
    for (char *p = text; (p = strchr(p, '\\')) && p[1]; p += 2)
        if (strncmp(p, "\\u0000", 6) == 0)
            memcpy(p + 2, "fffd", 4);
}
