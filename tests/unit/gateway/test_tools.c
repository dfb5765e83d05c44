/* Calls in the text of an answer: the same events, however the text is cut. */
#include "tests/suite.h"

#include "base/buffer.h"
#include "gateway/tools.h"

#include <string.h>

#define BEGIN "<tool_call>\n{\"name\": \""
#define ARGUMENTS "\", \"arguments\": "
#define END "}\n</tool_call>"

/* Events in one line: words as they are, [name: before the arguments, ] behind them. */
struct heard {
    struct buffer text;
    enum tool_event_type last;
    int n_calls;
};

static void hear(void *user, const struct tool_event *e)
{
    struct heard *h = user;
    ck_assert_uint_gt(e->n_bytes, 0);
    if (e->type == TOOL_CALL) {
        ck_assert_int_eq(e->call, h->n_calls++);
        buffer_printf(&h->text, "[%.*s:", (int)e->n_bytes, e->text);
    } else {
        ck_assert_int_eq(e->call, h->n_calls - 1);
        if (e->type == TOOL_TEXT && h->last != TOOL_TEXT)
            buffer_append_char(&h->text, ']');
        buffer_append(&h->text, e->text, e->n_bytes);
    }
    h->last = e->type;
}

/* Pushes the text in pieces of n bytes; whole characters are not looked after, as only ASCII decides. */
static void expect(const char *text, size_t n, const char *events)
{
    struct tool_parser p = {0};
    struct heard h = {.last = TOOL_TEXT};
    size_t n_text = strlen(text);
    buffer_init(&h.text, 1 << 20);
    for (size_t i = 0; i < n_text; i += n)
        tool_parser_push(&p, text + i, n_text - i < n ? n_text - i : n, hear, &h);
    tool_parser_finish(&p, hear, &h);
    ck_assert_msg(strcmp(h.text.data ? h.text.data : "", events) == 0, "%s in pieces of %zu: %s, expected %s", text, n,
                  h.text.data, events);
    buffer_fini(&h.text);
}

static const struct {
    const char *text, *events;
} rows[] = {
    {"", ""},
    {"Once upon a time", "Once upon a time"},
    {"a < b <tool <<tool_cal> <tool_calls>", "a < b <tool <<tool_cal> <tool_calls>"},
    {"  indented, and open \n", "  indented, and open \n"},
    {"ends in <tool_ca", "ends in <tool_ca"},
    {BEGIN "f" ARGUMENTS "{}" END, "[f:{}"},
    {" " BEGIN "f" ARGUMENTS "{\"a\": 1}" END, "[f:{\"a\": 1}"},
    {"Let me see.\n\n" BEGIN "f" ARGUMENTS "{}" END, "Let me see.[f:{}"},
    {"<<tool_call" BEGIN "f" ARGUMENTS "{}" END, "<<tool_call[f:{}"},
    {BEGIN "a-b_C9" ARGUMENTS "{\"s\": \"}\\\"}\\\\\", \"o\": {\"l\": [{}, \"]\"]}}" END "\n" BEGIN "g" ARGUMENTS "{\n }" END,
     "[a-b_C9:{\"s\": \"}\\\"}\\\\\", \"o\": {\"l\": [{}, \"]\"]}}[g:{\n }"},
    {BEGIN "f" ARGUMENTS "{\"t\": \"<tool_call> </tool_call>\"}" END, "[f:{\"t\": \"<tool_call> </tool_call>\"}"},
    {BEGIN "f" ARGUMENTS "{\"\xc3\xa9\": \"\xf0\x9f\x98\x80\"}" END "\n", "[f:{\"\xc3\xa9\": \"\xf0\x9f\x98\x80\"}"},
    {BEGIN "f" ARGUMENTS "{\"cut\": \"he", "[f:{\"cut\": \"he"},
    {BEGIN "f", ""},
    {"words\n" BEGIN "f" ARGUMENTS, "words[f:"},
    {BEGIN "f" ARGUMENTS "7" END, "[f:7"},
};

START_TEST(events_do_not_depend_on_cuts)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t n = 1; n <= strlen(rows[i].text) + 1; n++)
            expect(rows[i].text, n, rows[i].events);
}
END_TEST

/* Much white space is not held back for ever, and nothing of it is lost. */
START_TEST(long_white_space)
{
    char text[1200], events[1200];
    memset(text, ' ', 1000);
    strcpy(text + 1000, "x");
    for (size_t n = 1; n < 300; n += 37)
        expect(text, n, text);
    strcpy(text + 1000, BEGIN "f" ARGUMENTS "{}" END);
    struct tool_parser p = {0};
    struct heard h = {.last = TOOL_TEXT};
    buffer_init(&h.text, 1 << 20);
    tool_parser_push(&p, text, strlen(text), hear, &h);
    size_t n_spaces = strspn(h.text.data, " ");
    ck_assert_uint_ge(n_spaces, 1000 - TOOLS_HELD_BYTES);
    snprintf(events, sizeof events, "%*s[f:{}", (int)n_spaces, "");
    ck_assert_str_eq(h.text.data, events);
    buffer_fini(&h.text);
}
END_TEST

SUITE("tools", events_do_not_depend_on_cuts, long_white_space)
