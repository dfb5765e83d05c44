/*
 * Small vocabularies for tests, written as GGUF files in memory. A byte-level BPE one has the 256 bytes as ids 0..255, then
 * what the merges make, then user-defined tokens, then control tokens; a SentencePiece one is given token by token.
 * Everything is static, so that a fuzzer can include it too.
 */
#ifndef TESTS_UNIT_ENGINE_TEXT_VOCABULARY_H
#define TESTS_UNIT_ENGINE_TEXT_VOCABULARY_H

#include "base/buffer.h"
#include "base/utf8.h"
#include "engine/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#define VOCABULARY_MAX 512

/* Runs of a case that cuts words, which a build without PCRE2 cannot: 0 there. */
#ifdef HAVE_PCRE2
#define BPE_RUNS(n) ((int)(n))
#else
#define BPE_RUNS(n) ((int)(n)*0)
#endif

struct vocabulary {
    struct buffer keys; /* the encoded keys */
    uint64_t n_keys;
};

static inline void put_u32(struct buffer *b, uint32_t v)
{
    buffer_append(b, &v, sizeof v);
}

static inline void put_string(struct buffer *b, const char *text)
{
    uint64_t n = strlen(text);
    buffer_append(b, &n, sizeof n);
    buffer_append(b, text, n);
}

static inline void vocabulary_init(struct vocabulary *v)
{
    *v = (struct vocabulary){0};
    buffer_init(&v->keys, 16u << 20);
}

static inline void vocabulary_fini(struct vocabulary *v)
{
    buffer_fini(&v->keys);
}

static inline void key_begin(struct vocabulary *v, const char *name, uint32_t type)
{
    put_string(&v->keys, name);
    put_u32(&v->keys, type);
    v->n_keys++;
}

static inline void key_string(struct vocabulary *v, const char *name, const char *value)
{
    key_begin(v, name, GGUF_STRING);
    put_string(&v->keys, value);
}

static inline void key_u32(struct vocabulary *v, const char *name, uint32_t value)
{
    key_begin(v, name, GGUF_U32);
    put_u32(&v->keys, value);
}

static inline void key_bool(struct vocabulary *v, const char *name, bool value)
{
    key_begin(v, name, GGUF_BOOL);
    buffer_append_char(&v->keys, value ? 1 : 0);
}

static inline void key_array(struct vocabulary *v, const char *name, uint32_t element_type, uint64_t n)
{
    key_begin(v, name, GGUF_ARRAY);
    put_u32(&v->keys, element_type);
    buffer_append(&v->keys, &n, sizeof n);
}

static inline void key_strings(struct vocabulary *v, const char *name, const char *const *values, size_t n)
{
    key_array(v, name, GGUF_STRING, n);
    for (size_t i = 0; i < n; i++)
        put_string(&v->keys, values[i]);
}

static inline void key_numbers(struct vocabulary *v, const char *name, uint32_t element_type, const void *values,
                               size_t n)
{
    key_array(v, name, element_type, n);
    buffer_append(&v->keys, values, n * 4);
}

/* The file; `out` is initialised here and finished by the caller. */
static inline void vocabulary_file(const struct vocabulary *v, struct buffer *out)
{
    const uint64_t n_tensors = 0;
    buffer_init(out, 32u << 20);
    buffer_append(out, "GGUF", 4);
    put_u32(out, 3);
    buffer_append(out, &n_tensors, sizeof n_tensors);
    buffer_append(out, &v->n_keys, sizeof v->n_keys);
    buffer_append(out, v->keys.data, v->keys.n_bytes);
    while (out->n_bytes % 32 != 0)
        buffer_append_char(out, 0);
}

/* The tokenizer of a vocabulary, which is finished; NULL and *err when it is refused. */
static inline struct tokenizer *vocabulary_open(struct vocabulary *v, uint32_t n_vocab, struct error *err)
{
    struct buffer file;
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    vocabulary_file(v, &file);
    vocabulary_fini(v);
    if (gguf_open_memory(file.data, file.n_bytes, &g, err) == ERROR_NONE) {
        tokenizer_from_gguf(g, n_vocab, &t, err);
        gguf_close(g);
    }
    buffer_fini(&file);
    return t;
}

/* GPT-2's printable character for a byte, as UTF-8. */
static inline void byte_character(int byte, char out[5])
{
    int extra = 0;
    for (int b = 0; b < byte; b++)
        extra += b < 33 || (b > 126 && b < 161) || b == 173;
    bool hidden = byte < 33 || (byte > 126 && byte < 161) || byte == 173;
    out[utf8_encode((uint32_t)(hidden ? 256 + extra : byte), out)] = '\0';
}

struct bpe_spec {
    const char *pre;            /* NULL = no key */
    const char *const *merges;  /* "left right" in GPT-2's alphabet, NULL-terminated; each makes a token */
    const char *const *user;    /* user-defined tokens, NULL-terminated or NULL */
    const char *const *control; /* control tokens, likewise; the first is BOS, the second EOS */
    const char *chat_template, *architecture;
};

/* Adds the keys of a byte-level BPE vocabulary; returns its number of tokens. */
static inline uint32_t bpe_keys(struct vocabulary *v, const struct bpe_spec *s)
{
    static char bytes[256][5], joined[VOCABULARY_MAX][64];
    const char *tokens[VOCABULARY_MAX];
    int32_t types[VOCABULARY_MAX];
    uint32_t n = 0, n_merges = 0;
    for (int byte = 0; byte < 256; byte++, n++) {
        byte_character(byte, bytes[byte]);
        tokens[n] = bytes[byte];
        types[n] = 1;
    }
    for (; s->merges[n_merges] != NULL; n_merges++, n++) {
        const char *space = strchr(s->merges[n_merges] + 1, ' ');
        size_t n_left = (size_t)(space - s->merges[n_merges]);
        memcpy(joined[n_merges], s->merges[n_merges], n_left);
        strcpy(joined[n_merges] + n_left, space + 1);
        tokens[n] = joined[n_merges];
        types[n] = 1;
    }
    for (size_t i = 0; s->user != NULL && s->user[i] != NULL; i++, n++) {
        tokens[n] = s->user[i];
        types[n] = 4;
    }
    uint32_t first_control = n;
    for (size_t i = 0; s->control != NULL && s->control[i] != NULL; i++, n++) {
        tokens[n] = s->control[i];
        types[n] = 3;
    }
    key_string(v, "general.architecture", s->architecture == NULL ? "llama" : s->architecture);
    key_string(v, "tokenizer.ggml.model", "gpt2");
    if (s->pre != NULL)
        key_string(v, "tokenizer.ggml.pre", s->pre);
    key_strings(v, "tokenizer.ggml.tokens", tokens, n);
    key_numbers(v, "tokenizer.ggml.token_type", GGUF_I32, types, n);
    key_strings(v, "tokenizer.ggml.merges", s->merges, n_merges);
    if (n > first_control)
        key_u32(v, "tokenizer.ggml.bos_token_id", first_control);
    if (n > first_control + 1)
        key_u32(v, "tokenizer.ggml.eos_token_id", first_control + 1);
    if (s->chat_template != NULL)
        key_string(v, "tokenizer.chat_template", s->chat_template);
    return n;
}

struct spm_token {
    const char *text;
    float score;
    int32_t type;
};

/* <unk>, <s>, </s> as 0, 1, 2; the 256 bytes as 3..258; then the tokens given. */
static inline uint32_t spm_keys(struct vocabulary *v, const struct spm_token *given, size_t n_given)
{
    static char bytes[256][8];
    const char *tokens[VOCABULARY_MAX] = {"<unk>", "<s>", "</s>"};
    float scores[VOCABULARY_MAX] = {0};
    int32_t types[VOCABULARY_MAX] = {2, 3, 3};
    uint32_t n = 3;
    for (int byte = 0; byte < 256; byte++, n++) {
        memcpy(bytes[byte], "<0x00>", 7);
        bytes[byte][3] = "0123456789ABCDEF"[byte >> 4];
        bytes[byte][4] = "0123456789ABCDEF"[byte & 15];
        tokens[n] = bytes[byte];
        types[n] = 6;
    }
    for (size_t i = 0; i < n_given; i++, n++) {
        tokens[n] = given[i].text;
        scores[n] = given[i].score;
        types[n] = given[i].type;
    }
    key_string(v, "general.architecture", "bitnet");
    key_string(v, "tokenizer.ggml.model", "llama");
    key_strings(v, "tokenizer.ggml.tokens", tokens, n);
    key_numbers(v, "tokenizer.ggml.scores", GGUF_F32, scores, n);
    key_numbers(v, "tokenizer.ggml.token_type", GGUF_I32, types, n);
    return n;
}

#endif
