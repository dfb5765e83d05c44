/* Token texts as files have them, and the bytes that they stand for; see vocab_pieces.h. */
#include "engine/text/vocab_pieces.h"

#include "base/utf8.h"

#include <string.h>

/* GPT-2's alphabet writes each byte as a printable character: itself where that is printable in Latin-1, else the next of
 * U+0100... (github.com/openai/gpt-2, encoder.py, bytes_to_unicode). */
#define ALPHABET_END 324

static void fill_alphabet(int16_t byte_of[ALPHABET_END])
{
    for (int c = 0; c < ALPHABET_END; c++)
        byte_of[c] = -1;
    int extra = 256;
    for (int byte = 0; byte < 256; byte++) {
        bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
        byte_of[printable ? byte : extra++] = (int16_t)byte;
    }
}

/* Decodes the alphabet; a text that is not written in it stands for itself. Never longer than the text. */
static size_t bpe_piece(const int16_t byte_of[ALPHABET_END], const char *text, size_t n_bytes, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < n_bytes;) {
        uint32_t c = 0;
        size_t length = utf8_decode(text + i, n_bytes - i, &c);
        if (length == 0 || c >= ALPHABET_END || byte_of[c] < 0) {
            memcpy(out, text, n_bytes);
            return n_bytes;
        }
        out[n++] = (char)byte_of[c];
        i += length;
    }
    return n;
}

static size_t spm_piece(const char *text, size_t n_bytes, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < n_bytes;) {
        bool space = n_bytes - i >= 3 && memcmp(text + i, "\xe2\x96\x81", 3) == 0;
        out[n++] = space ? ' ' : text[i];
        i += space ? 3 : 1;
    }
    return n;
}

static size_t write_piece(const struct tokenizer *t, const int16_t byte_of[ALPHABET_END], enum token_kind kind,
                          struct gguf_string text, char *out)
{
    uint8_t byte;
    if (kind == TOKEN_BYTE && vocab_byte_text(text.data, text.n_bytes, &byte)) {
        *out = (char)byte;
        return 1;
    }
    if (kind == TOKEN_NORMAL && t->model == VOCAB_BPE)
        return bpe_piece(byte_of, text.data, text.n_bytes, out);
    if (kind == TOKEN_NORMAL)
        return spm_piece(text.data, text.n_bytes, out);
    if (text.n_bytes > 0)
        memcpy(out, text.data, text.n_bytes);
    return text.n_bytes;
}

/* "<|im_start|>" and the like. */
static bool is_marker(struct gguf_string s)
{
    return s.n_bytes > 4 && memcmp(s.data, "<|", 2) == 0 && memcmp(s.data + s.n_bytes - 2, "|>", 2) == 0 &&
           ((s.data[2] | 0x20) >= 'a' && (s.data[2] | 0x20) <= 'z');
}

/* The kind that the file gives, or what the text looks like in a file without kinds. Markers count as control tokens
 * whatever the file says: as user-defined ones they would be read in any text, and messages could forge turns. */
static enum token_kind kind_of(enum vocab_model model, const struct gguf_key *types, uint32_t id,
                               struct gguf_string text)
{
    uint8_t byte;
    if (is_marker(text))
        return TOKEN_CONTROL;
    if (types == NULL)
        return model == VOCAB_SPM && vocab_byte_text(text.data, text.n_bytes, &byte) ? TOKEN_BYTE : TOKEN_NORMAL;
    double type = gguf_number(types, id);
    return type >= TOKEN_NORMAL && type <= TOKEN_BYTE ? (enum token_kind)(int)type : TOKEN_NORMAL;
}

static enum error_code check_sizes(const struct gguf_key *tokens, const struct gguf_key *types, size_t *n_bytes,
                                   struct error *err)
{
    if (tokens->n == 0 || tokens->n > VOCAB_MAX_TOKENS)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, KEY_TOKENS,
                               KEY_TOKENS ": expected 1 to %u tokens, found %llu", VOCAB_MAX_TOKENS,
                               (unsigned long long)tokens->n);
    for (uint64_t i = 0; i < tokens->n; i++) {
        if (tokens->strings[i].n_bytes > VOCAB_MAX_BYTES - *n_bytes)
            return error_set_param(err, ERROR_MODEL_LOAD_FAILED, KEY_TOKENS,
                                   KEY_TOKENS ": the texts take over %u bytes", VOCAB_MAX_BYTES);
        *n_bytes += tokens->strings[i].n_bytes;
    }
    if (types != NULL && types->n != tokens->n)
        return error_set_param(err, ERROR_MODEL_LOAD_FAILED, KEY_TOKEN_TYPE,
                               KEY_TOKEN_TYPE ": expected %llu elements, found %llu", (unsigned long long)tokens->n,
                               (unsigned long long)types->n);
    return ERROR_NONE;
}

enum error_code vocab_read_pieces(const struct gguf *g, enum vocab_model model, const struct gguf_key *tokens,
                                  struct tokenizer **out, struct strmap *texts, struct error *err)
{
    const struct gguf_key *types = gguf_get_numbers(g, KEY_TOKEN_TYPE, err);
    if (err->code != ERROR_NONE)
        return err->code;
    size_t n_bytes = 0;
    if (check_sizes(tokens, types, &n_bytes, err) != ERROR_NONE)
        return err->code;
    struct tokenizer *t = *out = vocab_new(model, (uint32_t)tokens->n, n_bytes);
    if (t == NULL || !strmap_init(texts, tokens->n))
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a vocabulary of %llu tokens",
                         (unsigned long long)tokens->n);
    int16_t byte_of[ALPHABET_END];
    fill_alphabet(byte_of);
    for (uint32_t id = 0; id < t->n; id++) {
        struct gguf_string text = tokens->strings[id];
        t->kinds[id] = (uint8_t)kind_of(model, types, id, text);
        t->offsets[id + 1] =
            t->offsets[id] + (uint32_t)write_piece(t, byte_of, t->kinds[id], text, t->bytes + t->offsets[id]);
        uint32_t first = id;
        if (text.n_bytes > 0 && !strmap_add(texts, text.data, text.n_bytes, id, &first))
            return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the vocabulary");
        if (first != id)
            return error_set_param(err, ERROR_MODEL_LOAD_FAILED, KEY_TOKENS,
                                   KEY_TOKENS ": tokens %u and %u have the same text", first, id);
    }
    return ERROR_NONE;
}
