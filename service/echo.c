/* See echo.h. */
#include "service/echo.h"

#include <stdlib.h>

void echo_init(struct echo *e)
{
    *e = (struct echo){0};
    buffer_init(&e->text, COLLECT_MAX_TEXT_BYTES);
}

void echo_fini(struct echo *e)
{
    buffer_fini(&e->text);
}

enum error_code echo_take(struct echo *e, const struct tokenizer *t, const Bitnet__V1__GenerateRequest *r,
                          struct error *err)
{
    enum error_code code = ERROR_NONE;
    struct buffer raw;
    if (!r->echo)
        return ERROR_NONE;
    buffer_init(&raw, COLLECT_MAX_TEXT_BYTES);
    if (r->input_case == BITNET__V1__GENERATE_REQUEST__INPUT_PROMPT)
        buffer_append_str(&raw, r->prompt);
    else
        code = tokenizer_decode(t, r->tokens->ids, r->tokens->n_ids, true, &raw, err);
    if (!message_text(&e->text, raw.data, raw.n_bytes) && !code)
        code = error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the echo");
    buffer_fini(&raw);
    return code;
}

/* The index of the token whose first byte is the space that encoding put in front of the text; n_tokens when there is none. */
static size_t added_space(const struct echo *e, const struct tokenizer *t)
{
    size_t n_bytes = 0, first = e->n_tokens, n;
    for (size_t i = 0; i < e->n_tokens; i++) {
        if (tokenizer_is_silent(t, e->tokens[i].id) || !tokenizer_piece(t, e->tokens[i].id, &n))
            continue;
        first = first == e->n_tokens ? i : first;
        n_bytes += n;
    }
    bool spaced = first < e->n_tokens && *tokenizer_piece(t, e->tokens[first].id, &n) == ' ' && e->text.n_bytes > 0;
    return spaced && n_bytes == e->text.n_bytes + 1 ? first : e->n_tokens;
}

/* Tokens first .. first + n - 1. */
static bool fill(const struct echo *e, const struct tokenizer *t, size_t first, size_t n, size_t n_top,
                 struct collect_room *room)
{
    size_t spaced = added_space(e, t);
    room->entry = calloc(n + 1, sizeof *room->entry);
    room->entry_list = calloc(n + 1, sizeof *room->entry_list);
    room->top = calloc(n * n_top + 1, sizeof *room->top);
    room->top_list = calloc(n * n_top + 1, sizeof *room->top_list);
    if (!room->entry || !room->entry_list || !room->top || !room->top_list)
        return false;
    for (size_t i = 0; i < n; i++) {
        const struct token *token = &e->tokens[first + i];
        Bitnet__V1__TokenLogprob *entry = &room->entry[i];
        collect_logprob(t, token->id, token->logprob, token->top, token->n_top, entry, room->top + i * n_top,
                        room->top_list + i * n_top);
        if (first + i == spaced) {
            entry->token.data++;
            entry->token.len--;
        }
        room->entry_list[i] = entry;
    }
    return true;
}

bool echo_fill(const struct echo *e, const struct tokenizer *t, size_t n_top, struct collect_room *room)
{
    return fill(e, t, 0, e->n_tokens, n_top, room);
}

bool echo_waits(const struct echo *e)
{
    return e->n_sent < e->n_tokens;
}

bool echo_send(struct echo *e, struct rpc_call *call, const struct tokenizer *t, const char *model, const char *fingerprint)
{
    struct collect_room room = {0};
    Bitnet__V1__PromptEvent event = BITNET__V1__PROMPT_EVENT__INIT;
    Bitnet__V1__StreamGenerateResponse response = BITNET__V1__STREAM_GENERATE_RESPONSE__INIT;
    size_t left = e->n_tokens - e->n_sent, n = collect_event_tokens(true, e->tokens[e->n_tokens - 1].n_top);
    n = left < n ? left : n;
    if (e->n_sent == 0) {
        event.text = e->text.data ? e->text.data : event.text;
        event.model = (char *)(uintptr_t)model;
        event.system_fingerprint = (char *)(uintptr_t)fingerprint;
    }
    bool filled = fill(e, t, e->n_sent, n, COLLECT_MAX_TOP, &room);
    event.n_tokens = n;
    event.tokens = room.entry_list;
    response.event_case = BITNET__V1__STREAM_GENERATE_RESPONSE__EVENT_PROMPT;
    response.prompt = &event;
    e->n_sent += n;
    bool sent = filled && message_send(call, &response.base);
    collect_room_free(&room);
    return sent;
}
