/* Messages of chats, whole and as deltas, with words and calls. */
#include "gateway/openai.h"

#include "base/id.h"
#include "gateway/emit.h"

#include <stdio.h>
#include <string.h>

/* "id", "type" and the opening of "function" with its name; a stranger cannot guess an id, and no two are alike. */
static void call_begin(struct buffer *b, const struct tool_event *e)
{
    char id[48];
    snprintf(id, sizeof id, "call_%016llx%08llx", (unsigned long long)id_random_u64(),
             (unsigned long long)(id_random_u64() & 0xFFFFFFFF));
    emit_key(b, "id");
    emit_text(b, id);
    emit_key(b, "type");
    emit_text(b, "function");
    emit_key(b, "function");
    emit_open(b, '{');
    emit_key(b, "name");
    emit_bytes(b, e->text, e->n_bytes);
}

/* ---- whole ---------------------------------------------------------------------------------------------------------- */

struct message {
    struct buffer words, calls;
    bool open; /* a call whose arguments are not closed */
};

static void close_call(struct message *m)
{
    if (m->open)
        buffer_append_str(&m->calls, "\"}}");
    m->open = false;
}

static void take_event(void *user, const struct tool_event *e)
{
    struct message *m = user;
    switch (e->type) {
    case TOOL_TEXT:
        buffer_append(&m->words, e->text, e->n_bytes);
        break;
    case TOOL_CALL:
        close_call(m);
        emit_open(&m->calls, '{');
        call_begin(&m->calls, e);
        emit_key(&m->calls, "arguments");
        buffer_append_char(&m->calls, '"'); /* the string that pieces follow in */
        m->open = true;
        break;
    case TOOL_ARGUMENTS:
        buffer_append_json(&m->calls, e->text, e->n_bytes);
        break;
    }
}

static void put_words(struct buffer *b, const struct message *m, bool called)
{
    emit_key(b, "content");
    if (m->words.n_bytes > 0 || !called)
        emit_bytes(b, m->words.data ? m->words.data : "", m->words.n_bytes);
    else
        emit_null(b);
    emit_key(b, "refusal");
    emit_null(b);
    if (!called)
        return;
    emit_key(b, "tool_calls");
    emit_open(b, '[');
    buffer_append(b, m->calls.data, m->calls.n_bytes);
    emit_close(b, ']');
}

void openai_message(struct buffer *b, const struct openai *o, const Bitnet__V1__Choice *c)
{
    struct tool_parser parser = {0};
    struct message m = {0};
    buffer_init(&m.words, SIZE_MAX / 2);
    buffer_init(&m.calls, SIZE_MAX / 2);
    if (o->tools) {
        tool_parser_push(&parser, c->text, strlen(c->text), take_event, &m);
        tool_parser_finish(&parser, take_event, &m);
        close_call(&m);
    } else {
        buffer_append_str(&m.words, c->text);
    }
    emit_key(b, "message");
    emit_open(b, '{');
    emit_key(b, "role");
    emit_text(b, "assistant");
    put_words(b, &m, parser.n_calls > 0);
    emit_close(b, '}');
    emit_key(b, "logprobs");
    if (o->logprobs)
        openai_chat_logprobs(b, c->logprobs, c->n_logprobs);
    else
        emit_null(b);
    openai_finish_reason(b, (int)c->finish_reason, parser.n_calls > 0);
    buffer_fini(&m.words);
    buffer_fini(&m.calls);
}

/* ---- deltas --------------------------------------------------------------------------------------------------------- */

/* What one chunk says of one choice; what is NULL or 0 is left out. */
struct delta {
    bool role;
    const struct tool_event *event;
    const Bitnet__V1__Token *token; /* whose log-probability goes with it */
    int reason;
    bool called;
};

static void put_event(struct buffer *b, const struct tool_event *e)
{
    if (e->type == TOOL_TEXT) {
        emit_key(b, "content");
        emit_bytes(b, e->text, e->n_bytes);
        return;
    }
    emit_key(b, "tool_calls");
    emit_open(b, '[');
    emit_open(b, '{');
    emit_key(b, "index");
    emit_int(b, e->call);
    if (e->type == TOOL_CALL) {
        call_begin(b, e);
        emit_key(b, "arguments");
        emit_text(b, "");
    } else {
        emit_key(b, "function");
        emit_open(b, '{');
        emit_key(b, "arguments");
        emit_bytes(b, e->text, e->n_bytes);
    }
    emit_close(b, '}');
    emit_close(b, '}');
    emit_close(b, ']');
}

static void put_delta(struct job *j, uint32_t choice, const struct delta *d)
{
    const struct openai *o = j->state;
    struct buffer *b = &j->out;
    openai_chunk_begin(j);
    emit_key(b, "choices");
    emit_open(b, '[');
    emit_open(b, '{');
    emit_key(b, "index");
    emit_uint(b, choice);
    emit_key(b, "delta");
    emit_open(b, '{');
    if (d->role) {
        emit_key(b, "role");
        emit_text(b, "assistant");
        emit_key(b, "content");
        if (o->must_call)
            emit_null(b);
        else
            emit_text(b, "");
    }
    if (d->event)
        put_event(b, d->event);
    emit_close(b, '}');
    emit_key(b, "logprobs");
    if (o->logprobs && d->token && d->token->logprob)
        openai_chat_logprobs(b, &d->token->logprob, 1);
    else
        emit_null(b);
    openai_finish_reason(b, d->reason, d->called);
    emit_close(b, '}');
    emit_close(b, ']');
    openai_chunk_end(j);
}

void openai_begin_deltas(struct job *j)
{
    struct openai *o = j->state;
    for (int c = 0; c < o->n_choices && !o->begun; c++)
        put_delta(j, (uint32_t)c, &(struct delta){.role = true});
    o->begun = true;
}

/* The events of one token; its log-probability goes with the first. */
struct deltas {
    struct job *job;
    uint32_t choice;
    const Bitnet__V1__Token *token;
};

static void on_event(void *user, const struct tool_event *e)
{
    struct deltas *d = user;
    put_delta(d->job, d->choice, &(struct delta){.event = e, .token = d->token});
    d->token = NULL;
}

void openai_token_deltas(struct job *j, uint32_t choice, const Bitnet__V1__Token *token)
{
    struct openai *o = j->state;
    struct deltas d = {j, choice, token};
    const struct tool_event words = {TOOL_TEXT, 0, token->text, strlen(token->text)};
    if (o->tools)
        tool_parser_push(&o->parsers[choice % OPENAI_MAX_CHOICES], token->text, words.n_bytes, on_event, &d);
    else if (words.n_bytes > 0)
        on_event(&d, &words);
    if (d.token && o->logprobs) /* nothing was said yet */
        put_delta(j, choice, &(struct delta){.token = token});
}

void openai_end_deltas(struct job *j, uint32_t choice, int reason)
{
    struct openai *o = j->state;
    struct tool_parser *parser = &o->parsers[choice % OPENAI_MAX_CHOICES];
    struct deltas d = {j, choice, NULL};
    if (o->tools)
        tool_parser_finish(parser, on_event, &d);
    put_delta(j, choice, &(struct delta){.reason = reason, .called = parser->n_calls > 0});
}
