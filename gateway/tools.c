/* See tools.h. */
#include "gateway/tools.h"

#include "base/buffer.h"

#include <string.h>

static const char begin_marker[] = "<tool_call>", end_marker[] = "</tool_call>";
static const char name_begin[] = "{\"name\": \"", name_end[] = "\", \"arguments\": ";

/* What a push has found and not told yet: a run of one type. */
struct run {
    struct tool_parser *p;
    struct buffer text;
    void (*on_event)(void *user, const struct tool_event *e);
    void *user;
};

static void tell(struct run *r, enum tool_event_type type, const char *text, size_t n_bytes)
{
    const struct tool_event e = {type, r->p->n_calls - 1, text, n_bytes};
    if (n_bytes > 0)
        r->on_event(r->user, &e);
}

static void flush(struct run *r)
{
    tell(r, r->p->state == TOOLS_ARGUMENTS ? TOOL_ARGUMENTS : TOOL_TEXT, r->text.data, r->text.n_bytes);
    buffer_clear(&r->text);
}

static void release_held(struct run *r)
{
    buffer_append(&r->text, r->p->held, r->p->n_held);
    r->p->n_held = r->p->n_matched = 0;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static void enter(struct run *r, int state)
{
    flush(r);
    r->p->state = state;
    r->p->n_held = r->p->n_matched = 0;
}

static void take_word(struct run *r, char c)
{
    struct tool_parser *p = r->p;
    if (p->n_matched > 0 && c != begin_marker[p->n_matched])
        release_held(r);
    if (c == begin_marker[p->n_matched]) {
        p->held[p->n_held++] = c;
        if (++p->n_matched == sizeof begin_marker - 1)
            enter(r, TOOLS_HEAD);
    } else if (is_space(c)) {
        if (p->n_held + sizeof begin_marker > sizeof p->held) /* room for a marker is left */
            release_held(r);
        p->held[p->n_held++] = c;
    } else {
        release_held(r);
        buffer_append_char(&r->text, c);
    }
}

static void take_head(struct run *r, char c)
{
    struct tool_parser *p = r->p;
    const size_t n_end = sizeof name_end - 1;
    if (p->n_held < sizeof p->held)
        p->held[p->n_held++] = c;
    if (p->n_held < n_end || memcmp(p->held + p->n_held - n_end, name_end, n_end) != 0)
        return;
    const char *name = memmem(p->held, p->n_held, name_begin, sizeof name_begin - 1);
    p->n_calls++;
    if (name) {
        name += sizeof name_begin - 1;
        tell(r, TOOL_CALL, name, p->n_held - n_end - (size_t)(name - p->held));
    }
    enter(r, TOOLS_ARGUMENTS);
    p->depth = 0;
    p->in_string = p->escaped = false;
}

static void take_argument(struct run *r, char c)
{
    struct tool_parser *p = r->p;
    if (p->in_string) {
        p->in_string = p->escaped || c != '"';
        p->escaped = !p->escaped && c == '\\';
    } else if (c == '}' && p->depth == 0) { /* the call's own */
        enter(r, TOOLS_TAIL);
        return;
    } else {
        p->in_string = c == '"';
        p->depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    }
    buffer_append_char(&r->text, c);
}

static void take_tail(struct run *r, char c)
{
    struct tool_parser *p = r->p;
    p->n_matched = c == end_marker[p->n_matched] ? p->n_matched + 1 : c == end_marker[0];
    if (p->n_matched == sizeof end_marker - 1)
        enter(r, TOOLS_TEXT);
}

void tool_parser_push(struct tool_parser *p, const char *text, size_t n_bytes,
                      void (*on_event)(void *user, const struct tool_event *e), void *user)
{
    static void (*const takes[])(struct run *r, char c) = {
        [TOOLS_TEXT] = take_word, [TOOLS_HEAD] = take_head, [TOOLS_ARGUMENTS] = take_argument, [TOOLS_TAIL] = take_tail};
    struct run r = {.p = p, .on_event = on_event, .user = user};
    buffer_init(&r.text, n_bytes + TOOLS_HELD_BYTES);
    for (size_t i = 0; i < n_bytes; i++)
        takes[p->state](&r, text[i]);
    flush(&r);
    buffer_fini(&r.text);
}

void tool_parser_finish(struct tool_parser *p, void (*on_event)(void *user, const struct tool_event *e), void *user)
{
    struct run r = {.p = p, .on_event = on_event, .user = user};
    if (p->state != TOOLS_TEXT || (p->n_calls > 0 && p->n_matched == 0))
        return; /* a call that was cut, or white space behind calls */
    tell(&r, TOOL_TEXT, p->held, p->n_held);
    p->n_held = p->n_matched = 0;
}
