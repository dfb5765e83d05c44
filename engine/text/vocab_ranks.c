/*
 * tiktoken rank files: a line per token, its bytes in base64, a space, its rank, which is its id. The Llama-3 tokenizer is
 * such a file; its pattern and its special tokens are in no file but in Meta's code (llama3/tokenizer.py), so they are here.
 */
#include "engine/text/vocab.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_SPECIALS 256
#define SPECIAL_MAX_BYTES 40

static const char *const FIRST_SPECIALS[] = {
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|reserved_special_token_2|>",
    "<|reserved_special_token_3|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|reserved_special_token_4|>",
    "<|eot_id|>",
};
#define N_FIRST_SPECIALS (sizeof FIRST_SPECIALS / sizeof FIRST_SPECIALS[0])

static int sextet(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decodes up to n_bytes of base64 in place and returns the number of bytes, 0 when it is not base64. */
static size_t decode_base64(char *text, size_t n_bytes)
{
    size_t n = 0;
    uint32_t bits = 0;
    int n_bits = 0;
    while (n_bytes > 0 && text[n_bytes - 1] == '=')
        n_bytes--;
    for (size_t i = 0; i < n_bytes; i++) {
        int value = sextet(text[i]);
        if (value < 0)
            return 0;
        bits = bits << 6 | (uint32_t)value;
        n_bits += 6;
        if (n_bits < 8)
            continue;
        n_bits -= 8;
        text[n++] = (char)(bits >> n_bits & 0xff);
    }
    return n;
}

/* All of a file, with a NUL behind it; at most VOCAB_MAX_BYTES. */
static enum error_code read_file(const char *path, char **out, size_t *n_bytes, struct error *err)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        return error_set(err, ERROR_MODEL_LOAD_FAILED, "%s: %m", path);
    struct buffer b;
    buffer_init(&b, VOCAB_MAX_BYTES);
    enum error_code code = ERROR_NONE;
    char chunk[65536];
    for (size_t n; code == ERROR_NONE && (n = fread(chunk, 1, sizeof chunk, f)) > 0;)
        if (!buffer_append(&b, chunk, n))
            code = error_set(err, ERROR_MODEL_LOAD_FAILED, "%s: neither a GGUF nor a rank file of up to %u bytes", path,
                             VOCAB_MAX_BYTES);
    if (code == ERROR_NONE && ferror(f))
        code = error_set(err, ERROR_MODEL_LOAD_FAILED, "%s: cannot be read", path);
    fclose(f);
    *n_bytes = b.n_bytes;
    *out = buffer_steal(&b);
    if (code == ERROR_NONE && *out == NULL)
        code = error_set(err, ERROR_MODEL_LOAD_FAILED, "%s: is empty", path);
    if (code != ERROR_NONE) {
        free(*out);
        *out = NULL;
    }
    buffer_fini(&b);
    return code;
}

static uint32_t count_lines(const char *text)
{
    uint32_t n = 0;
    for (; *text != '\0'; text++)
        n += *text == '\n' || text[1] == '\0';
    return n;
}

/* Reads the line of token `id` from *at, which moves behind it; its bytes are appended to the vocabulary. */
static bool read_line(struct tokenizer *t, uint32_t id, char **at)
{
    char *line = *at, *end = line + strcspn(line, "\n"), *space = memchr(line, ' ', (size_t)(end - line)), *rest;
    *at = *end == '\n' ? end + 1 : end;
    if (space == NULL || space[1] < '0' || space[1] > '9')
        return false;
    unsigned long rank = strtoul(space + 1, &rest, 10);
    if (rest < end && *rest == '\r')
        rest++;
    size_t n_bytes = decode_base64(line, (size_t)(space - line));
    if (rest != end || rank != id || n_bytes == 0 || n_bytes > VOCAB_MAX_MERGED_BYTES)
        return false;
    memcpy(t->bytes + t->offsets[id], line, n_bytes);
    t->offsets[id + 1] = t->offsets[id] + (uint32_t)n_bytes;
    t->kinds[id] = TOKEN_NORMAL;
    return true;
}

static void add_specials(struct tokenizer *t, uint32_t first)
{
    for (uint32_t i = 0; i < N_SPECIALS; i++) {
        char *at = t->bytes + t->offsets[first + i];
        int n = i < N_FIRST_SPECIALS ? snprintf(at, SPECIAL_MAX_BYTES, "%s", FIRST_SPECIALS[i])
                                     : snprintf(at, SPECIAL_MAX_BYTES, "<|reserved_special_token_%" PRIu32 "|>",
                                                i - (uint32_t)N_FIRST_SPECIALS + 5);
        t->offsets[first + i + 1] = t->offsets[first + i] + (uint32_t)n;
        t->kinds[first + i] = TOKEN_CONTROL;
    }
    t->bos = first;
    t->eos = first + 1;
    t->eog[t->eos] = true;
    t->add_bos = true;
}

/* Maps and merges; each byte must be a token, and no token may come twice. */
static enum error_code finish(struct tokenizer *t, uint32_t n_ranks, const char *path, struct error *err)
{
    enum error_code code = vocab_index(t, err);
    if (code != ERROR_NONE)
        return code;
    for (int byte = 0; byte < 256; byte++)
        if (t->byte_ids[byte] == STRMAP_NONE)
            return error_set(err, ERROR_MODEL_LOAD_FAILED, "%s: has no token for the byte 0x%02x", path, byte);
    if (t->by_piece.n != n_ranks)
        return error_set(err, ERROR_MODEL_LOAD_FAILED, "%s: some token comes twice", path);
    uint32_t *ranks = malloc((size_t)t->n * sizeof *ranks);
    if (ranks == NULL)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the vocabulary");
    for (uint32_t id = 0; id < t->n; id++)
        ranks[id] = id;
    code = vocab_merges_by_rank(t, ranks, err);
    free(ranks);
    if (code != ERROR_NONE)
        return code;
    t->pre_def = pretokenizer_find("llama-bpe", 9);
    t->chat = chat_template_choose(t, NULL, 0, NULL, 0);
    return pretokenizer_open(t->pre_def, &t->pre, err);
}

enum error_code vocab_from_ranks(const char *path, struct tokenizer **out, struct error *err)
{
    char *text, *at;
    size_t n_bytes;
    enum error_code code = read_file(path, &text, &n_bytes, err);
    if (code != ERROR_NONE)
        return code;
    uint32_t n_ranks = count_lines(text);
    struct tokenizer *t = NULL;
    if (n_ranks > VOCAB_MAX_TOKENS - N_SPECIALS)
        code = error_set(err, ERROR_MODEL_LOAD_FAILED, "%s: expected at most %u ranks", path,
                         VOCAB_MAX_TOKENS - N_SPECIALS);
    else if ((t = vocab_new(VOCAB_BPE, n_ranks + N_SPECIALS, n_bytes + N_SPECIALS * SPECIAL_MAX_BYTES)) == NULL)
        code = error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a vocabulary of %u tokens", n_ranks);
    at = text;
    for (uint32_t id = 0; id < n_ranks && code == ERROR_NONE; id++)
        if (!read_line(t, id, &at))
            code =
                error_set(err, ERROR_MODEL_LOAD_FAILED,
                          "%s: neither a GGUF nor a rank file: line %u is not base64 of 1 to %d bytes, a space and %u",
                          path, id + 1, VOCAB_MAX_MERGED_BYTES, id);
    free(text);
    if (code == ERROR_NONE) {
        add_specials(t, n_ranks);
        code = finish(t, n_ranks, path, err);
    }
    if (code != ERROR_NONE)
        tokenizer_close(t);
    else
        *out = t;
    return code;
}
