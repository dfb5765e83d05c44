/* Tools: what is told of them, which answers they allow, what is refused. */
#include "tests/suite.h"

#include "service/formats.h"
#include "service/tools.h"

#define CALL(name, arguments) "<tool_call>\n{\"name\": \"" name "\", \"arguments\": " arguments "}\n</tool_call>"
#define WEATHER "{\"type\":\"object\",\"properties\":{\"city\":{\"$ref\":\"#/$defs/city\"},\"days\":{\"type\":\"integer\"}},\"required\":[\"city\"],\"$defs\":{\"city\":{\"enum\":[\"Rome\",\"Oslo\"]}}}"

static char *text(const char *s)
{
    return (char *)(uintptr_t)s;
}

/* weather, with a schema; clock, without; loose, with one that is not supported. */
struct fixture {
    Bitnet__V1__Tool tool[3], *list[3];
    Bitnet__V1__Tools tools;
};

static void fill(struct fixture *x)
{
    static const char *const names[] = {"weather", "clock", "loose"};
    static const char *const schemas[] = {WEATHER, "", "{\"type\":\"object\",\"properties\":{\"a\":{\"not\":{}}}}"};
    bitnet__v1__tools__init(&x->tools);
    for (size_t i = 0; i < 3; i++) {
        bitnet__v1__tool__init(&x->tool[i]);
        x->tool[i].name = text(names[i]);
        x->tool[i].parameters = text(schemas[i]);
        x->list[i] = &x->tool[i];
    }
    x->tool[0].description = text("The \"weather\" of a city");
    x->tools.n_tools = 3;
    x->tools.tools = x->list;
}

/* ---- answers ---- */

enum { AUTO, REQUIRED, NAMED, SINGLE, FORMAT, N_MODES };

static const struct {
    const char *text;
    char match[N_MODES + 1]; /* w whole, b the beginning of one, - neither; in each mode */
} answers[] = {
    {"", "wbbwb"},
    {"Once upon a time", "w--w-"},
    {"a <tool_cal> b", "w--w-"},
    {"<tool_ca", "wbbwb"},
    {"<tool_call>", "bbbbb"},
    {"<tool_call> ", "-----"},
    {CALL("clock", "{}"), "ww-ww"},
    {" " CALL("clock", "{}"), "ww-ww"},
    {"So: " CALL("clock", "{}"), "w--w-"},
    {CALL("clock", "{}") " ", "-----"},
    {CALL("clock", "{}") "\n" CALL("clock", "{\"any\": [1]}"), "ww--w"},
    {CALL("weather", "{\"city\": \"Rome\"}"), "wwwww"},
    {CALL("weather", "{\"city\":\"Oslo\",\"days\":3}"), "wwwww"},
    {CALL("weather", "{\"city\": \"Paris\"}"), "-----"},
    {CALL("weather", "{}"), "-----"},
    {CALL("clock", "7"), "-----"},
    {CALL("loose", "{\"b\": null}"), "ww-ww"},
    {CALL("other", "{}"), "-----"},
    {"<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"ci", "bbbbb"},
    {"{\"x\":1}", "w--ww"},
};

static char match_of(struct grammar *g, const char *s)
{
    enum grammar_match m = grammar_match(g, s, strlen(s));
    return m == GRAMMAR_WHOLE ? 'w' : m == GRAMMAR_BEGINS ? 'b' : '-';
}

static struct grammar *grammar_in(int mode)
{
    struct fixture x;
    struct grammar *g = NULL;
    struct error err = {0};
    Bitnet__V1__ResponseFormat format = BITNET__V1__RESPONSE_FORMAT__INIT;
    fill(&x);
    x.tools.mode = mode == REQUIRED || mode == NAMED ? BITNET__V1__TOOL_MODE__TOOL_MODE_REQUIRED : BITNET__V1__TOOL_MODE__TOOL_MODE_AUTO;
    x.tools.name = text(mode == NAMED ? "weather" : "");
    x.tools.single = mode == SINGLE;
    format.format_case = BITNET__V1__RESPONSE_FORMAT__FORMAT_JSON_SCHEMA;
    format.json_schema = text("{\"type\":\"object\",\"properties\":{\"x\":{\"type\":\"integer\"}},\"required\":[\"x\"]}");
    ck_assert_msg(!tools_grammar(&x.tools, mode == FORMAT ? &format : NULL, &g, &err), "%s", err.message);
    return g;
}

START_TEST(answers_that_are_allowed)
{
    for (int mode = 0; mode < N_MODES; mode++) {
        struct grammar *g = grammar_in(mode);
        for (size_t i = 0; i < sizeof answers / sizeof *answers; i++)
            ck_assert_msg(match_of(g, answers[i].text) == answers[i].match[mode], "mode %d: %s: expected %c, found %c", mode,
                          answers[i].text, answers[i].match[mode], match_of(g, answers[i].text));
        grammar_release(g);
    }
}
END_TEST

START_TEST(calls_have_a_bound)
{
    struct grammar *g = grammar_in(REQUIRED);
    struct buffer b;
    buffer_init(&b, 1 << 20);
    for (int i = 0; i < TOOLS_MAX_CALLS; i++) {
        buffer_append_str(&b, i ? "\n" CALL("clock", "{}") : CALL("clock", "{}"));
        ck_assert_int_eq(match_of(g, b.data), 'w');
    }
    buffer_append_char(&b, '\n');
    ck_assert_int_eq(match_of(g, b.data), '-');
    buffer_fini(&b);
    grammar_release(g);
}
END_TEST

START_TEST(faults)
{
    static const struct {
        const char *name, *parameters, *message;
        bool strict;
    } rows[] = {
        {"a b", "", "tools[1].name: expected 1 to 64", false},
        {"", "", "tools[1].name", false},
        {"f", "{", "tools[1].parameters: schema: expected JSON", false},
        {"f", "{\"type\":\"object\",\"properties\":{\"a\":{\"not\":{}}}}", "tools[1].parameters: schema at #/properties/a/not", true},
        {"f", "{\"type\":\"array\"}", "tools[1].parameters: schema at #/type: expected \"object\"", true},
        {"f", "[]", "tools[1].parameters: schema at #: expected a schema of an object", true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct fixture x;
        struct grammar *g = NULL;
        struct error err = {0};
        fill(&x);
        x.tool[1].name = text(rows[i].name);
        x.tool[1].parameters = text(rows[i].parameters);
        x.tool[1].strict = rows[i].strict;
        enum error_code code = tools_check(&x.tools, &err);
        if (!code)
            code = tools_grammar(&x.tools, NULL, &g, &err);
        ck_assert_msg(code == ERROR_VALIDATION_FAILED, "%s", rows[i].message);
        ck_assert_str_eq(err.param, "tools");
        ck_assert_msg(strncmp(err.message, rows[i].message, strlen(rows[i].message)) == 0, "%s", err.message);
    }
}
END_TEST

START_TEST(modes_are_checked)
{
    struct fixture x;
    struct error err = {0};
    fill(&x);
    ck_assert(!tools_check(NULL, &err) && !tools_check(&x.tools, &err) && tools_in_use(&x.tools) && !tools_in_use(NULL));
    x.tools.name = text("none of them");
    ck_assert_int_eq(tools_check(&x.tools, &err), ERROR_VALIDATION_FAILED);
    x.tools.name = text("");
    x.tools.mode = BITNET__V1__TOOL_MODE__TOOL_MODE_REQUIRED;
    x.tools.n_tools = 0;
    ck_assert_int_eq(tools_check(&x.tools, &err), ERROR_VALIDATION_FAILED);
    x.tools.n_tools = TOOLS_MAX + 1;
    ck_assert_int_eq(tools_check(&x.tools, &err), ERROR_VALIDATION_FAILED);
}
END_TEST

/* The cache tells tools and formats apart, and finds the same again. */
START_TEST(grammars_are_kept)
{
    struct fixture x;
    struct formats *f = formats_open();
    struct grammar *first, *again, *named, *none;
    struct error err = {0};
    fill(&x);
    ck_assert(!formats_get(f, NULL, &x.tools, &first, &err) && !formats_get(f, NULL, &x.tools, &again, &err));
    ck_assert_ptr_eq(first, again);
    x.tools.single = true;
    ck_assert(!formats_get(f, NULL, &x.tools, &named, &err));
    ck_assert_ptr_ne(first, named);
    Bitnet__V1__ResponseFormat regex = BITNET__V1__RESPONSE_FORMAT__INIT;
    regex.format_case = BITNET__V1__RESPONSE_FORMAT__FORMAT_REGEX;
    regex.regex = text("a");
    ck_assert_int_eq(formats_get(f, &regex, &x.tools, &none, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "response_format");
    x.tools.mode = BITNET__V1__TOOL_MODE__TOOL_MODE_NONE;
    ck_assert(!formats_get(f, NULL, &x.tools, &none, &err));
    ck_assert_ptr_null(none);
    grammar_release(first);
    grammar_release(again);
    grammar_release(named);
    formats_close(f);
}
END_TEST

/* ---- messages ---- */

struct chat {
    Bitnet__V1__Message message[4], *list[4];
    Bitnet__V1__ToolCall call[2], *calls[2];
    Bitnet__V1__Chat chat;
};

static void add(struct chat *c, const char *role, const char *content)
{
    Bitnet__V1__Message *m = c->list[c->chat.n_messages] = &c->message[c->chat.n_messages];
    bitnet__v1__message__init(m);
    m->role = text(role);
    m->content = text(content);
    c->chat.messages = c->list;
    c->chat.n_messages++;
}

/* A user asks, the assistant calls twice, one result comes. */
static void converse(struct chat *c, const char *words)
{
    bitnet__v1__chat__init(&c->chat);
    add(c, "user", "How is it?");
    add(c, "assistant", words);
    add(c, "tool", "sunny");
    for (int i = 0; i < 2; i++) {
        bitnet__v1__tool_call__init(&c->call[i]);
        c->calls[i] = &c->call[i];
    }
    c->call[0].name = text("weather");
    c->call[0].arguments = text("{\"city\":\"Rome\"}");
    c->call[1].name = text("clock");
    c->call[1].arguments = text("{\"cut");
    c->message[1].n_tool_calls = 2;
    c->message[1].tool_calls = c->calls;
}

static void render(const struct chat *c, const Bitnet__V1__Tools *tools, bool system, bool tool, struct tools_chat *out)
{
    struct error err = {0};
    ck_assert_msg(!tools_render(&c->chat, tools, (struct tools_roles){system, tool}, out, &err), "%s", err.message);
}

#define CALLS "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\":\"Rome\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"clock\", \"arguments\": \"{\\\"cut\"}\n</tool_call>"

START_TEST(calls_and_results_as_text)
{
    struct chat c;
    struct tools_chat out;
    converse(&c, "Let me see.");
    render(&c, NULL, true, true, &out);
    ck_assert_uint_eq(out.n, 3);
    ck_assert_str_eq(out.messages[0].content, "How is it?");
    ck_assert_str_eq(out.messages[1].content, "Let me see.\n" CALLS);
    ck_assert_str_eq(out.messages[2].role, "tool");
    ck_assert_str_eq(out.messages[2].content, "sunny");
    tools_chat_fini(&out);
    converse(&c, "");
    render(&c, NULL, true, false, &out);
    ck_assert_str_eq(out.messages[1].content, CALLS);
    ck_assert_str_eq(out.messages[2].role, "user");
    ck_assert_str_eq(out.messages[2].content, "<tool_response>\nsunny\n</tool_response>");
    tools_chat_fini(&out);
}
END_TEST

START_TEST(tools_are_told)
{
    static const char told[] =
        "{\"type\": \"function\", \"function\": {\"name\": \"weather\", \"description\": \"The \\\"weather\\\" of a city\", "
        "\"parameters\": " WEATHER "}}\n{\"type\": \"function\", \"function\": {\"name\": \"clock\", \"parameters\": {\"type\": \"object\"}}}\n";
    struct fixture x;
    struct chat c;
    struct tools_chat out;
    fill(&x);
    converse(&c, "");
    render(&c, &x.tools, true, true, &out); /* a message of its own */
    ck_assert_uint_eq(out.n, 4);
    ck_assert_str_eq(out.messages[0].role, "system");
    ck_assert_ptr_nonnull(strstr(out.messages[0].content, told));
    ck_assert_str_eq(out.messages[1].content, "How is it?");
    ck_assert_str_eq(out.messages[2].content, CALLS);
    tools_chat_fini(&out);
    render(&c, &x.tools, false, true, &out); /* in front of the first */
    ck_assert_uint_eq(out.n, 3);
    ck_assert_str_eq(out.messages[0].role, "user");
    ck_assert_ptr_nonnull(strstr(out.messages[0].content, told));
    ck_assert_ptr_nonnull(strstr(out.messages[0].content, "</tool_call>\n\nHow is it?"));
    tools_chat_fini(&out);
    c.message[0].role = text("system");
    c.message[0].content = text("Be brief.");
    render(&c, &x.tools, true, true, &out); /* behind the system's words */
    ck_assert_uint_eq(out.n, 3);
    ck_assert_int_eq(strncmp(out.messages[0].content, "Be brief.\n\n# Tools\n", 19), 0);
    tools_chat_fini(&out);
}
END_TEST

SUITE("tools", answers_that_are_allowed, calls_have_a_bound, faults, modes_are_checked, grammars_are_kept, calls_and_results_as_text,
      tools_are_told)
