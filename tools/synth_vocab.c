/*
 * A tiktoken file has a token (base64) and its rank a line, and no merges: a merge of two tokens is possible wherever
 * their concatenation is a token, and its priority is the rank of the result. GGUF wants merges listed in that order,
 * with bytes as GPT-2's printable characters.
 */
#include "tools/synth_vocab.h"

#include "base/buffer.h"
#include "base/utf8.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TOKEN_BYTES 256
#define MAX_TEXT_BYTES ((size_t)64 << 20)

enum { KIND_NORMAL = 1, KIND_CONTROL = 3 };

struct merge {
    uint32_t left, right;
};

struct vocab {
    uint32_t n;         /* ranks */
    struct buffer text; /* the bytes of all ranks, one after the other */
    size_t *start;      /* [n + 1] into text */
    uint32_t *table;    /* hash table of rank + 1, 0 = free */
    size_t table_size;  /* a power of two */
    struct merge *merges;
    size_t n_merges, merge_capacity;
};

static size_t hash_bytes(const char *text, size_t n)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (size_t i = 0; i < n; i++)
        h = (h ^ (uint8_t)text[i]) * UINT64_C(0x100000001b3);
    return (size_t)(h ^ h >> 32);
}

static const char *token_text(const struct vocab *v, uint32_t rank, size_t *n)
{
    *n = v->start[rank + 1] - v->start[rank];
    return v->text.data + v->start[rank];
}

/* The slot of these bytes, or the free one where they belong. */
static uint32_t *find_slot(const struct vocab *v, const char *text, size_t n)
{
    for (size_t i = hash_bytes(text, n) & (v->table_size - 1);; i = (i + 1) & (v->table_size - 1)) {
        size_t n_other;
        if (!v->table[i])
            return &v->table[i];
        const char *other = token_text(v, v->table[i] - 1, &n_other);
        if (n == n_other && memcmp(text, other, n) == 0)
            return &v->table[i];
    }
}

static bool vocab_init(struct vocab *v, uint32_t n)
{
    *v = (struct vocab){.n = n, .table_size = 1024};
    while (v->table_size < 2 * (size_t)n)
        v->table_size *= 2;
    buffer_init(&v->text, MAX_TEXT_BYTES);
    v->start = calloc((size_t)n + 1, sizeof *v->start);
    v->table = calloc(v->table_size, sizeof *v->table);
    return v->start && v->table;
}

static void vocab_fini(struct vocab *v)
{
    buffer_fini(&v->text);
    free(v->start);
    free(v->table);
    free(v->merges);
}

/* Adds the next rank; false when it is there already or memory is out. */
static bool add_token(struct vocab *v, uint32_t rank, const char *text, size_t n)
{
    if (!buffer_append(&v->text, text, n))
        return false;
    v->start[rank + 1] = v->text.n_bytes;
    uint32_t *slot = find_slot(v, text, n);
    if (*slot)
        return false;
    *slot = rank + 1;
    return true;
}

/* ---- rank file ------------------------------------------------------------------------------------------------- */

static int base64_value(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *found = c ? strchr(digits, c) : NULL;
    return found ? (int)(found - digits) : -1;
}

/* Decodes up to the first character that is no digit; returns the number of bytes, 0 when there are none or too
 * many. */
static size_t base64_decode(const char *text, char *out, size_t max)
{
    unsigned bits = 0, n_bits = 0;
    size_t n = 0;
    for (; base64_value(*text) >= 0; text++) {
        bits = bits << 6 | (unsigned)base64_value(*text);
        n_bits += 6;
        if (n_bits < 8)
            continue;
        n_bits -= 8;
        if (n == max)
            return 0;
        out[n++] = (char)(bits >> n_bits & 255u);
    }
    return n;
}

static enum error_code read_ranks(struct vocab *v, const char *path, struct error *err)
{
    char line[2 * MAX_TOKEN_BYTES], token[MAX_TOKEN_BYTES];
    enum error_code code = ERROR_NONE;
    FILE *file = fopen(path, "rb");
    if (!file)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "vocab", "cannot open %s: %s", path, strerror(errno));
    for (uint32_t rank = 0; rank < v->n && !code; rank++) {
        const char *space = fgets(line, sizeof line, file) ? strchr(line, ' ') : NULL;
        size_t n = space ? base64_decode(line, token, sizeof token) : 0;
        if (!n || strtoul(space + 1, NULL, 10) != rank || !add_token(v, rank, token, n))
            code = error_set_param(err, ERROR_VALIDATION_FAILED, "vocab",
                                   "%s line %u: expected a new token in base64 and its rank %u", path, rank + 1, rank);
    }
    fclose(file);
    return code;
}

/* Bytes, then words that no text is ever encoded to, as there are no merges. */
static enum error_code make_placeholders(struct vocab *v, struct error *err)
{
    char text[16];
    for (uint32_t rank = 0; rank < v->n; rank++) {
        int n = 1;
        text[0] = (char)rank;
        if (rank >= 256)
            n = snprintf(text, sizeof text, " t%u", rank);
        if (!add_token(v, rank, text, (size_t)n))
            return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a vocabulary of %u tokens", v->n);
    }
    return ERROR_NONE;
}

/* ---- merges ---------------------------------------------------------------------------------------------------- */

static bool add_merge(struct vocab *v, uint32_t left, uint32_t right)
{
    if (v->n_merges == v->merge_capacity) {
        size_t capacity = v->merge_capacity ? 2 * v->merge_capacity : 1024;
        struct merge *merges = realloc(v->merges, capacity * sizeof *merges);
        if (!merges)
            return false;
        v->merges = merges;
        v->merge_capacity = capacity;
    }
    v->merges[v->n_merges++] = (struct merge){left, right};
    return true;
}

static int compare_merges(const void *a, const void *b)
{
    const struct merge *x = a, *y = b;
    if (x->left != y->left)
        return x->left < y->left ? -1 : 1;
    return (x->right > y->right) - (x->right < y->right);
}

/* All splits of each token in two tokens: by the result's rank, then by the parts' ranks. */
static bool find_merges(struct vocab *v)
{
    for (uint32_t rank = 0; rank < v->n; rank++) {
        size_t n, first = v->n_merges;
        const char *text = token_text(v, rank, &n);
        for (size_t cut = 1; cut < n; cut++) {
            uint32_t left = *find_slot(v, text, cut), right = *find_slot(v, text + cut, n - cut);
            if (left && right && !add_merge(v, left - 1, right - 1))
                return false;
        }
        if (v->n_merges > first)
            qsort(v->merges + first, v->n_merges - first, sizeof *v->merges, compare_merges);
    }
    return true;
}

/* ---- GGUF ------------------------------------------------------------------------------------------------------ */

/* GPT-2's alphabet: printable bytes stand for themselves, the others for U+0100 and on, in order. */
static void make_alphabet(uint32_t alphabet[256])
{
    uint32_t next = 256;
    for (uint32_t b = 0; b < 256; b++) {
        bool keep = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        alphabet[b] = keep ? b : next++;
    }
}

static size_t spell(const struct vocab *v, const uint32_t alphabet[256], uint32_t rank, char *out)
{
    size_t n, at = 0;
    const char *text = token_text(v, rank, &n);
    for (size_t i = 0; i < n; i++)
        at += utf8_encode(alphabet[(uint8_t)text[i]], out + at);
    return at;
}

/* Name of special i as in Llama 3: five have a meaning, the others are reserved, numbered without gaps. */
static void special_name(uint32_t i, char *out, size_t n)
{
    static const char *const named[10] = {
        [0] = "begin_of_text", [1] = "end_of_text", [6] = "start_header_id", [7] = "end_header_id", [9] = "eot_id"};
    if (i < 10 && named[i])
        snprintf(out, n, "<|%s|>", named[i]);
    else
        snprintf(out, n, "<|reserved_special_token_%u|>", i < 6 ? i - 2 : i < 9 ? i - 4 : i - 5);
}

static void write_tokens(struct gguf_writer *w, const struct vocab *v, const uint32_t alphabet[256])
{
    char text[4 * MAX_TOKEN_BYTES];
    gguf_write_strings(w, "tokenizer.ggml.tokens", (uint64_t)v->n + SYNTH_N_SPECIALS);
    for (uint32_t rank = 0; rank < v->n; rank++)
        gguf_write_element(w, text, spell(v, alphabet, rank, text));
    for (uint32_t i = 0; i < SYNTH_N_SPECIALS; i++) {
        special_name(i, text, sizeof text);
        gguf_write_element(w, text, strlen(text));
    }
}

static void write_merges(struct gguf_writer *w, const struct vocab *v, const uint32_t alphabet[256])
{
    char text[8 * MAX_TOKEN_BYTES];
    gguf_write_strings(w, "tokenizer.ggml.merges", v->n_merges);
    for (size_t i = 0; i < v->n_merges; i++) {
        size_t n = spell(v, alphabet, v->merges[i].left, text);
        text[n++] = ' ';
        n += spell(v, alphabet, v->merges[i].right, text + n);
        gguf_write_element(w, text, n);
    }
}

static bool write_types(struct gguf_writer *w, uint32_t n_ranks)
{
    uint32_t n = n_ranks + SYNTH_N_SPECIALS;
    int32_t *kinds = malloc(n * sizeof *kinds);
    if (!kinds)
        return false;
    for (uint32_t i = 0; i < n; i++)
        kinds[i] = i < n_ranks ? KIND_NORMAL : KIND_CONTROL;
    gguf_write_i32s(w, "tokenizer.ggml.token_type", kinds, n);
    free(kinds);
    return true;
}

enum error_code synth_write_vocab(struct gguf_writer *w, const char *path, const char *pre, uint32_t n_vocab,
                                  struct error *err)
{
    struct vocab v;
    uint32_t alphabet[256], n_ranks = n_vocab - SYNTH_N_SPECIALS;
    enum error_code code = ERROR_MEMORY_EXHAUSTED;
    make_alphabet(alphabet);
    if (!vocab_init(&v, n_ranks))
        goto fail_memory;
    code = path ? read_ranks(&v, path, err) : make_placeholders(&v, err);
    if (code)
        goto done;
    gguf_write_string(w, "tokenizer.ggml.model", "gpt2");
    gguf_write_string(w, "tokenizer.ggml.pre", pre);
    write_tokens(w, &v, alphabet);
    if ((path && !find_merges(&v)) || !write_types(w, n_ranks))
        goto fail_memory;
    write_merges(w, &v, alphabet);
    gguf_write_bool(w, "tokenizer.ggml.add_bos_token", strcmp(pre, "llama-bpe") == 0);
    gguf_write_u32(w, "tokenizer.ggml.bos_token_id", n_ranks);
    gguf_write_u32(w, "tokenizer.ggml.eos_token_id", n_ranks + 1);
    gguf_write_u32(w, "tokenizer.ggml.padding_token_id", n_ranks + 1);
    gguf_write_u32(w, "tokenizer.ggml.eot_token_id", n_ranks + 9);
    goto done;
fail_memory:
    code = error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a vocabulary of %u tokens", n_vocab);
done:
    vocab_fini(&v);
    return code;
}
