/* Text to ids: special tokens are cut out, the rest goes through byte-level BPE or SentencePiece merging. */
#include "engine/text/vocab.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

#define LOWER_BLOCK "\xe2\x96\x81" /* U+2581, SentencePiece's space */

void encoder_init(struct encoder *e, const struct tokenizer *t, struct token_list *out)
{
    *e = (struct encoder){.t = t, .out = out};
    buffer_init(&e->text, SIZE_MAX / 2);
}

void encoder_fini(struct encoder *e)
{
    merges_work_fini(&e->work);
    buffer_fini(&e->text);
}

static enum error_code out_of_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory to tokenise the text");
}

enum error_code encoder_push(struct encoder *e, uint32_t id, struct error *err)
{
    struct token_list *list = e->out;
    if (list->n == list->capacity) {
        size_t capacity = list->capacity == 0 ? 64 : list->capacity * 2;
        if (capacity > SIZE_MAX / sizeof *list->ids)
            return out_of_memory(err);
        uint32_t *ids = realloc(list->ids, capacity * sizeof *ids);
        if (ids == NULL)
            return out_of_memory(err);
        list->ids = ids;
        list->capacity = capacity;
    }
    list->ids[list->n++] = id;
    return ERROR_NONE;
}

/* Bytes that no token covers: a token each, or the unknown token for all of them. */
static enum error_code push_bytes(struct encoder *e, const char *text, size_t n_bytes, struct error *err)
{
    const struct tokenizer *t = e->t;
    bool known = true;
    for (size_t i = 0; i < n_bytes; i++)
        known = known && t->byte_ids[(unsigned char)text[i]] != STRMAP_NONE;
    if (!known && t->unknown >= 0)
        return encoder_push(e, (uint32_t)t->unknown, err);
    if (!known)
        return error_set(err, ERROR_VALIDATION_FAILED, "the model's vocabulary has no token for the character \"%.*s\"",
                         (int)n_bytes, text);
    enum error_code code = ERROR_NONE;
    for (size_t i = 0; i < n_bytes && code == ERROR_NONE; i++)
        code = encoder_push(e, t->byte_ids[(unsigned char)text[i]], err);
    return code;
}

/* Merges the symbols of one piece of text and appends what they became. */
static enum error_code merge_symbols(struct encoder *e, const char *text, size_t n_bytes, struct error *err)
{
    if (e->work.n == 0)
        return ERROR_NONE;
    if (!merges_apply(&e->t->merges, &e->work))
        return out_of_memory(err);
    enum error_code code = ERROR_NONE;
    for (uint32_t i = 0; i != UINT32_MAX && code == ERROR_NONE;) {
        const struct symbol *s = &e->work.symbols[i];
        size_t end = s->next == UINT32_MAX ? n_bytes : e->work.symbols[s->next].start;
        code = s->id < e->t->n ? encoder_push(e, s->id, err) : push_bytes(e, text + s->start, end - s->start, err);
        i = s->next;
    }
    return code;
}

static enum error_code encode_bpe_piece(void *user, const char *text, size_t n_bytes, struct error *err)
{
    struct encoder *e = user;
    const struct tokenizer *t = e->t;
    if (t->pre_def->whole_words) {
        uint32_t id = strmap_get(&t->by_piece, text, n_bytes);
        if (id != STRMAP_NONE)
            return encoder_push(e, id, err);
    }
    if (n_bytes > INT32_MAX)
        return error_set(err, ERROR_VALIDATION_FAILED, "a word of over 2 GiB cannot be tokenised");
    e->work.n = 0;
    for (size_t i = 0; i < n_bytes; i++)
        if (!merges_push(&e->work, t->byte_ids[(unsigned char)text[i]], (uint32_t)i))
            return out_of_memory(err);
    return merge_symbols(e, text, n_bytes, err);
}

static enum error_code encode_spm_word(struct encoder *e, const char *text, size_t n_bytes, struct error *err)
{
    if (n_bytes > INT32_MAX)
        return error_set(err, ERROR_VALIDATION_FAILED, "a text of over 2 GiB cannot be tokenised");
    e->work.n = 0;
    for (size_t i = 0; i < n_bytes;) {
        uint32_t code_point;
        size_t length = utf8_decode(text + i, n_bytes - i, &code_point);
        if (length == 0)
            length = 1;
        if (!merges_push(&e->work, strmap_get(&e->t->by_piece, text + i, length), (uint32_t)i))
            return out_of_memory(err);
        i += length;
    }
    return merge_symbols(e, text, n_bytes, err);
}

/* The end of the word that begins at `from`: before the next space that follows another character. */
static size_t word_end(const char *text, size_t n_bytes, size_t from)
{
    size_t i = from;
    while (i < n_bytes && text[i] == ' ')
        i++;
    while (i < n_bytes && text[i] != ' ')
        i++;
    return i;
}

/* SentencePiece text: a space in front, and U+2581 counts as one. */
static enum error_code encode_spm(struct encoder *e, const char *text, size_t n_bytes, bool prefix, struct error *err)
{
    buffer_clear(&e->text);
    if (prefix)
        buffer_append_char(&e->text, ' ');
    while (n_bytes > 0) {
        const char *block = memmem(text, n_bytes, LOWER_BLOCK, 3);
        size_t n = block == NULL ? n_bytes : (size_t)(block - text);
        buffer_append(&e->text, text, n);
        if (block == NULL)
            break;
        buffer_append_char(&e->text, ' ');
        text += n + 3;
        n_bytes -= n + 3;
    }
    if (e->text.failed)
        return out_of_memory(err);
    enum error_code code = ERROR_NONE;
    for (size_t from = 0; from < e->text.n_bytes && code == ERROR_NONE;) {
        size_t end = e->t->space_starts_word ? word_end(e->text.data, e->text.n_bytes, from) : e->text.n_bytes;
        code = encode_spm_word(e, e->text.data + from, end - from, err);
        from = end;
    }
    return code;
}

/* Text without special tokens. SentencePiece puts its space in front of what begins the text or follows a special token. */
static enum error_code encode_plain(struct encoder *e, const char *text, size_t n_bytes, struct error *err)
{
    if (e->t->model == VOCAB_SPM)
        return encode_spm(e, text, n_bytes, e->t->add_space_prefix, err);
    return pretokenizer_split(e->t->pre, text, n_bytes, encode_bpe_piece, e, err);
}

enum error_code encoder_text(struct encoder *e, const char *text, size_t n_bytes, bool parse_special, struct error *err)
{
    enum error_code code = ERROR_NONE;
    for (size_t from = 0; from < n_bytes && code == ERROR_NONE;) {
        size_t at = n_bytes;
        const struct special *s = specials_find(&e->t->specials, text, n_bytes, from, parse_special, &at);
        if (at > from)
            code = encode_plain(e, text + from, at - from, err);
        if (s == NULL)
            break;
        if (code == ERROR_NONE)
            code = encoder_push(e, s->id, err);
        from = at + s->n_bytes;
    }
    return code;
}

enum error_code encoder_check(const struct tokenizer *t, const char *text, size_t n_bytes, struct error *err)
{
    size_t bad = 0;
    if (t->model == VOCAB_NONE)
        return error_set(err, ERROR_VALIDATION_FAILED,
                         "the model's file has no vocabulary: only token ids are accepted");
    if (!utf8_valid(text, n_bytes, &bad))
        return error_set(err, ERROR_VALIDATION_FAILED, "the text is not valid UTF-8 at byte %zu", bad);
    return ERROR_NONE;
}

enum error_code tokenizer_encode(const struct tokenizer *t, const char *text, size_t n_bytes, bool add_special,
                                 bool parse_special, struct token_list *out, struct error *err)
{
    enum error_code code = encoder_check(t, text, n_bytes, err);
    if (code != ERROR_NONE)
        return code;
    struct encoder e;
    encoder_init(&e, t, out);
    if (add_special && t->add_bos)
        code = encoder_push(&e, (uint32_t)t->bos, err);
    if (code == ERROR_NONE)
        code = encoder_text(&e, text, n_bytes, parse_special, err);
    if (code == ERROR_NONE && add_special && t->add_eos)
        code = encoder_push(&e, (uint32_t)t->eos, err);
    encoder_fini(&e);
    return code;
}
