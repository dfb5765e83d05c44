/* Log-probabilities of the OpenAI API, in the forms of chats and of completions. */
#include "gateway/openai.h"

#include "base/utf8.h"
#include "gateway/emit.h"

#include <math.h>

/* ---- chats -------------------------------------------------------------------------------------------------------- */

/* "token", "logprob" and "bytes": the bytes say what the text cannot when a token is a part of a character. */
static void put_token(struct buffer *b, const ProtobufCBinaryData *token, float logprob)
{
    emit_key(b, "token");
    emit_bytes(b, token->data, token->len);
    emit_key(b, "logprob");
    emit_float(b, logprob);
    emit_key(b, "bytes");
    emit_open(b, '[');
    for (size_t i = 0; i < token->len; i++)
        emit_uint(b, token->data[i]);
    emit_close(b, ']');
}

void openai_chat_logprobs(struct buffer *b, Bitnet__V1__TokenLogprob *const *tokens, size_t n)
{
    emit_open(b, '{');
    emit_key(b, "content");
    emit_open(b, '[');
    for (size_t i = 0; i < n; i++) {
        emit_open(b, '{');
        put_token(b, &tokens[i]->token, tokens[i]->logprob);
        emit_key(b, "top_logprobs");
        emit_open(b, '[');
        for (size_t k = 0; k < tokens[i]->n_top; k++) {
            emit_open(b, '{');
            put_token(b, &tokens[i]->top[k]->token, tokens[i]->top[k]->logprob);
            emit_close(b, '}');
        }
        emit_close(b, ']');
        emit_close(b, '}');
    }
    emit_close(b, ']');
    emit_key(b, "refusal");
    emit_null(b);
    emit_close(b, '}');
}

/* ---- completions --------------------------------------------------------------------------------------------------- */

static const Bitnet__V1__TokenLogprob *token_at(const struct openai_tokens *t, size_t i)
{
    return i < t->n_prompt ? t->prompt[i] : t->answer[i - t->n_prompt];
}

/* A token as text; a part of a character as "bytes:\xe2\x80", so that no two tokens look alike. */
static void put_text(struct buffer *b, const ProtobufCBinaryData *token)
{
    struct buffer escaped;
    if (utf8_valid((const char *)token->data, token->len, NULL)) {
        emit_bytes(b, token->data, token->len);
        return;
    }
    buffer_init(&escaped, 4096);
    buffer_append_str(&escaped, "bytes:");
    for (size_t i = 0; i < token->len; i++)
        if (token->data[i] >= ' ' && token->data[i] < 0x7F)
            buffer_append_char(&escaped, (char)token->data[i]);
        else
            buffer_printf(&escaped, "\\x%02x", token->data[i]);
    emit_text(b, escaped.data ? escaped.data : "");
    buffer_fini(&escaped);
}

static void put_entry(struct buffer *b, const ProtobufCBinaryData *token, float logprob)
{
    put_text(b, token);
    buffer_append_char(b, ':');
    emit_float(b, logprob);
}

/* The best ones, and the token itself, which need not be one of them. */
static void put_top(struct buffer *b, const Bitnet__V1__TokenLogprob *token)
{
    bool listed = false;
    emit_open(b, '{');
    for (size_t k = 0; k < token->n_top; k++) {
        put_entry(b, &token->top[k]->token, token->top[k]->logprob);
        listed |= token->top[k]->token_id == token->token_id;
    }
    if (!listed)
        put_entry(b, &token->token, token->logprob);
    emit_close(b, '}');
}

/* Characters that a token's bytes begin; those of a text count each character once, however it is cut. */
static size_t n_begun(const Bitnet__V1__TokenLogprob *token)
{
    size_t n = 0;
    for (size_t i = 0; !token->special && i < token->token.len; i++)
        n += (token->token.data[i] & 0xC0) != 0x80;
    return n;
}

void openai_text_logprobs(struct buffer *b, const struct openai_tokens *tokens, size_t *offset)
{
    size_t n = tokens->n_prompt + tokens->n_answer;
    emit_open(b, '{');
    emit_key(b, "tokens");
    emit_open(b, '[');
    for (size_t i = 0; i < n; i++)
        put_text(b, &token_at(tokens, i)->token);
    emit_close(b, ']');
    emit_key(b, "token_logprobs");
    emit_open(b, '[');
    for (size_t i = 0; i < n; i++)
        emit_float(b, token_at(tokens, i)->logprob); /* null: nothing is before it */
    emit_close(b, ']');
    emit_key(b, "top_logprobs");
    emit_open(b, '[');
    for (size_t i = 0; i < n; i++)
        if (isnan(token_at(tokens, i)->logprob))
            emit_null(b);
        else
            put_top(b, token_at(tokens, i));
    emit_close(b, ']');
    emit_key(b, "text_offset");
    emit_open(b, '[');
    for (size_t i = 0; i < n; i++) {
        emit_uint(b, *offset);
        *offset += n_begun(token_at(tokens, i));
    }
    emit_close(b, ']');
    emit_close(b, '}');
}
