/* Tables that both kinds of vocabulary file need; see vocab.h. */
#include "engine/text/vocab.h"

#include <stdlib.h>
#include <string.h>

/* Special tokens that end a generation in the models we know, whatever the file's keys say. */
static const char *const EOG_TEXTS[] = {
    "<|eot_id|>", "<|eom_id|>",    "<|end_of_text|>", "<|endoftext|>", "<|im_end|>", "<|end|>",
    "</s>",       "<end_of_turn>", "<EOT>",           "[EOT]",         "<eos>",
};

struct tokenizer *vocab_new(enum vocab_model model, uint32_t n, size_t n_bytes)
{
    struct tokenizer *t = calloc(1, sizeof *t);
    if (t == NULL)
        return NULL;
    t->model = model;
    t->n = n;
    t->bos = t->eos = t->unknown = -1;
    memset(t->byte_ids, 0xff, sizeof t->byte_ids);
    t->bytes = malloc(n_bytes + 1);
    t->kinds = calloc((size_t)n + 1, sizeof *t->kinds);
    t->eog = calloc((size_t)n + 1, sizeof *t->eog);
    if (model != VOCAB_NONE)
        t->offsets = calloc((size_t)n + 1, sizeof *t->offsets);
    if (t->bytes == NULL || t->kinds == NULL || t->eog == NULL || (model != VOCAB_NONE && t->offsets == NULL)) {
        tokenizer_close(t);
        return NULL;
    }
    return t;
}

void tokenizer_close(struct tokenizer *t)
{
    if (t == NULL)
        return;
    pretokenizer_close(t->pre);
    specials_fini(&t->specials);
    merges_fini(&t->merges);
    strmap_fini(&t->by_piece);
    free(t->bytes);
    free(t->offsets);
    free(t->kinds);
    free(t->eog);
    free(t);
}

uint32_t tokenizer_n_tokens(const struct tokenizer *t)
{
    return t->n;
}

const char *tokenizer_piece(const struct tokenizer *t, uint32_t id, size_t *n_bytes)
{
    *n_bytes = 0;
    if (id >= t->n)
        return NULL;
    return t->offsets == NULL ? "" : vocab_piece(t, id, n_bytes);
}

bool tokenizer_is_eog(const struct tokenizer *t, uint32_t id)
{
    return id < t->n && t->eog[id];
}

int64_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

int64_t vocab_special(const struct tokenizer *t, const char *text)
{
    size_t n_bytes = strlen(text), at;
    const struct special *s = specials_find(&t->specials, text, n_bytes, 0, true, &at);
    return s != NULL && at == 0 && s->n_bytes == n_bytes ? (int64_t)s->id : -1;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool vocab_byte_text(const char *text, size_t n_bytes, uint8_t *byte)
{
    if (n_bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return false;
    int high = hex(text[3]), low = hex(text[4]);
    if (high < 0 || low < 0)
        return false;
    *byte = (uint8_t)(high << 4 | low);
    return true;
}

static bool is_eog_text(const char *piece, size_t n_bytes)
{
    for (size_t i = 0; i < sizeof EOG_TEXTS / sizeof EOG_TEXTS[0]; i++)
        if (strlen(EOG_TEXTS[i]) == n_bytes && memcmp(EOG_TEXTS[i], piece, n_bytes) == 0)
            return true;
    return false;
}

/* Only special tokens: "</s>" as a normal token is a piece of HTML. */
static void mark_eog(struct tokenizer *t)
{
    for (uint32_t id = 0; id < t->n; id++) {
        size_t n_bytes;
        const char *piece = vocab_piece(t, id, &n_bytes);
        if (t->kinds[id] == TOKEN_NORMAL || !is_eog_text(piece, n_bytes))
            continue;
        t->eog[id] = true;
        t->kinds[id] = TOKEN_CONTROL;
    }
}

static bool index_token(struct tokenizer *t, uint32_t id)
{
    size_t n_bytes;
    const char *piece = vocab_piece(t, id, &n_bytes);
    uint32_t found;
    switch (t->kinds[id]) {
    case TOKEN_NORMAL:
        return n_bytes == 0 || strmap_add(&t->by_piece, piece, n_bytes, id, &found);
    case TOKEN_CONTROL:
    case TOKEN_UNKNOWN:
        return specials_add(&t->specials, piece, n_bytes, id, false);
    case TOKEN_USER_DEFINED:
        return specials_add(&t->specials, piece, n_bytes, id, true);
    case TOKEN_BYTE:
        if (n_bytes == 1)
            t->byte_ids[(unsigned char)*piece] = id;
        return true;
    default:
        return true; /* unused tokens come from no text */
    }
}

enum error_code vocab_index(struct tokenizer *t, struct error *err)
{
    mark_eog(t);
    if (!strmap_init(&t->by_piece, t->n))
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the vocabulary");
    for (uint32_t id = 0; id < t->n; id++)
        if (!index_token(t, id))
            return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the vocabulary");
    specials_sort(&t->specials);
    for (int byte = 0; byte < 256; byte++) {
        char piece = (char)byte;
        if (t->byte_ids[byte] == STRMAP_NONE)
            t->byte_ids[byte] = strmap_get(&t->by_piece, &piece, 1);
    }
    return ERROR_NONE;
}

enum error_code vocab_merges_by_rank(struct tokenizer *t, const uint32_t *ranks, struct error *err)
{
    if (!merges_init(&t->merges, (size_t)t->n * 2))
        goto no_memory;
    for (uint32_t id = 0; id < t->n; id++) {
        size_t n_bytes;
        const char *piece = vocab_piece(t, id, &n_bytes);
        if (t->kinds[id] != TOKEN_NORMAL || n_bytes > VOCAB_MAX_MERGED_BYTES)
            continue;
        /* Of two tokens with one piece, texts give the first. */
        if (n_bytes == 0 || strmap_get(&t->by_piece, piece, n_bytes) != id)
            continue;
        for (size_t cut = 1; cut < n_bytes; cut++) {
            uint32_t left = strmap_get(&t->by_piece, piece, cut);
            if (left == STRMAP_NONE)
                continue;
            uint32_t right = strmap_get(&t->by_piece, piece + cut, n_bytes - cut);
            if (right == STRMAP_NONE)
                continue;
            if (!merges_add(&t->merges, left, right, ranks[id], id))
                goto no_memory;
        }
    }
    return ERROR_NONE;
no_memory:
    return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the vocabulary's merges");
}
