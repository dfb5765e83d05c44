/* Ids to text: whole, and token by token without ever splitting a character. */
#include "engine/text/vocab.h"

#include "base/utf8.h"

#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/* Tokens that stand for no text of their own. */
static bool is_silent(const struct tokenizer *t, uint32_t id)
{
    return t->kinds[id] == TOKEN_CONTROL || t->kinds[id] == TOKEN_UNKNOWN || t->kinds[id] == TOKEN_UNUSED;
}

const char *tokenizer_text(const struct tokenizer *t, uint32_t id, size_t *n_bytes)
{
    const char *piece = tokenizer_piece(t, id, n_bytes);
    return piece == NULL || t->kinds == NULL || is_silent(t, id) ? NULL : piece;
}

bool tokenizer_is_silent(const struct tokenizer *t, uint32_t id)
{
    size_t n_bytes;
    return tokenizer_text(t, id, &n_bytes) == NULL;
}

enum error_code tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t n, bool skip_special,
                                 struct buffer *out, struct error *err)
{
    bool strip = t->model == VOCAB_SPM && t->add_space_prefix; /* the space that encoding put in front of the text */
    for (size_t i = 0; i < n; i++) {
        size_t n_bytes;
        const char *piece = tokenizer_piece(t, ids[i], &n_bytes);
        if (piece == NULL)
            return error_set(err, ERROR_VALIDATION_FAILED, "expected token ids below %u, found %u at %zu", t->n, ids[i],
                             i);
        bool silent = is_silent(t, ids[i]);
        if (silent && skip_special)
            continue;
        if (strip && !silent) {
            if (n_bytes > 0 && *piece == ' ' && t->kinds[ids[i]] == TOKEN_NORMAL)
                piece++, n_bytes--;
            strip = false;
        }
        if (!buffer_append(out, piece, n_bytes))
            return error_set(err, ERROR_MEMORY_EXHAUSTED, "the text of %zu tokens does not fit %zu bytes", n,
                             out->max_bytes);
    }
    return ERROR_NONE;
}

/* Bytes at text[0..n) that one U+FFFD stands for: the longest beginning of a character, or one byte. */
static size_t bad_bytes(const char *text, size_t n)
{
    size_t length = n < 3 ? n : 3;
    while (length > 1 && utf8_complete(text, length) != 0)
        length--;
    return length;
}

/* Appends whole characters, and U+FFFD for what is none. */
static void append_clean(struct buffer *out, const char *text, size_t n_bytes)
{
    size_t bad;
    while (!utf8_valid(text, n_bytes, &bad)) {
        buffer_append(out, text, bad);
        buffer_append_str(out, REPLACEMENT);
        bad += bad_bytes(text + bad, n_bytes - bad);
        text += bad;
        n_bytes -= bad;
    }
    buffer_append(out, text, n_bytes);
}

/* Completes the held beginning of a character with bytes of `text`; returns how many it took. */
static size_t complete_held(struct detokenizer *d, const char *text, size_t n_bytes, struct buffer *out)
{
    size_t taken = 0;
    while (d->n_held > 0 && taken < n_bytes) {
        d->held[d->n_held] = text[taken];
        size_t n = (size_t)d->n_held + 1;
        uint32_t code_point;
        if (utf8_complete(d->held, n) == 0) { /* still only a beginning */
            d->n_held++;
            taken++;
        } else if (utf8_decode(d->held, n, &code_point) == n) {
            buffer_append(out, d->held, n);
            d->n_held = 0;
            taken++;
        } else { /* the new byte does not belong to it */
            buffer_append_str(out, REPLACEMENT);
            d->n_held = 0;
        }
    }
    return taken;
}

void detokenizer_push(struct detokenizer *d, const struct tokenizer *t, uint32_t id, struct buffer *out)
{
    size_t n_bytes;
    const char *piece = tokenizer_piece(t, id, &n_bytes);
    if (piece == NULL || is_silent(t, id))
        return;
    size_t taken = complete_held(d, piece, n_bytes, out);
    piece += taken;
    n_bytes -= taken;
    size_t whole = utf8_complete(piece, n_bytes);
    append_clean(out, piece, whole);
    if (d->n_held == 0 && n_bytes > whole) {
        memcpy(d->held, piece + whole, n_bytes - whole);
        d->n_held = (uint8_t)(n_bytes - whole);
    }
}

void detokenizer_finish(struct detokenizer *d, struct buffer *out)
{
    if (d->n_held > 0)
        buffer_append_str(out, REPLACEMENT);
    d->n_held = 0;
}
