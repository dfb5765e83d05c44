/* What a model is told of tools. See tools.h. */
#include "service/tools.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TEXT_BYTES (8 << 20) /* of one message */

static const char intro[] = "# Tools\n\n"
                            "You may call one or more functions to assist with the user query.\n\n"
                            "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n";
static const char outro[] = "</tools>\n\n"
                            "For each function call, return a json object with function name and arguments within " TOOLS_CALL_BEGIN
                            TOOLS_CALL_END " XML tags:\n" TOOLS_CALL_BEGIN
                            "\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n" TOOLS_CALL_END;

bool tools_in_use(const Bitnet__V1__Tools *tools)
{
    return tools && tools->n_tools > 0 && tools->mode != BITNET__V1__TOOL_MODE__TOOL_MODE_NONE;
}

static bool name_valid(const char *name)
{
    size_t n = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-");
    return n > 0 && n <= TOOLS_MAX_NAME && name[n] == '\0';
}

enum error_code tools_check(const Bitnet__V1__Tools *tools, struct error *err)
{
    bool found = !tools || tools->name[0] == '\0';
    if (tools && tools->n_tools > TOOLS_MAX)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "tools", "tools: expected at most %d, found %zu", TOOLS_MAX,
                               tools->n_tools);
    for (size_t i = 0; tools && i < tools->n_tools; i++) {
        const char *name = tools->tools[i]->name;
        if (!name_valid(name))
            return error_set_param(err, ERROR_VALIDATION_FAILED, "tools",
                                   "tools[%zu].name: expected 1 to %d of A-Z a-z 0-9 _ and -, found \"%.80s\"", i,
                                   TOOLS_MAX_NAME, name);
        found |= strcmp(name, tools->name) == 0;
    }
    if (!found)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "tools", "tools: expected one of the name \"%.80s\", found none",
                               tools->name);
    if (tools && tools->mode == BITNET__V1__TOOL_MODE__TOOL_MODE_REQUIRED && tools->n_tools == 0)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "tools", "tools: expected at least one to be called, found none");
    return ERROR_NONE;
}

/* ---- texts -------------------------------------------------------------------------------------------------------- */

static void put_string(struct buffer *b, const char *text)
{
    buffer_append_char(b, '"');
    buffer_append_json(b, text, strlen(text));
    buffer_append_char(b, '"');
}

static void put_tools(struct buffer *b, const Bitnet__V1__Tools *tools)
{
    buffer_append_str(b, intro);
    for (size_t i = 0; i < tools->n_tools; i++) {
        const Bitnet__V1__Tool *tool = tools->tools[i];
        buffer_append_str(b, "{\"type\": \"function\", \"function\": {\"name\": ");
        put_string(b, tool->name);
        if (tool->description[0] != '\0') {
            buffer_append_str(b, ", \"description\": ");
            put_string(b, tool->description);
        }
        buffer_append_str(b, ", \"parameters\": ");
        buffer_append_str(b, tool->parameters[0] != '\0' ? tool->parameters : "{\"type\": \"object\"}");
        buffer_append_str(b, "}}\n");
    }
    buffer_append_str(b, outro);
}

/* Arguments are JSON as they are; what is none, as of a call that was cut, is told as a string. */
static void put_arguments(struct buffer *b, const char *arguments)
{
    json_t *value = json_loads(arguments, JSON_DECODE_ANY, NULL);
    if (value)
        buffer_append_str(b, arguments);
    else
        put_string(b, arguments);
    json_decref(value);
}

static void put_calls(struct buffer *b, const Bitnet__V1__Message *m)
{
    buffer_append_str(b, m->content);
    for (size_t i = 0; i < m->n_tool_calls; i++) {
        buffer_append_str(b, b->n_bytes > 0 ? "\n" TOOLS_CALL_BEGIN "\n{\"name\": " : TOOLS_CALL_BEGIN "\n{\"name\": ");
        put_string(b, m->tool_calls[i]->name);
        buffer_append_str(b, ", \"arguments\": ");
        put_arguments(b, m->tool_calls[i]->arguments);
        buffer_append_str(b, "}\n" TOOLS_CALL_END);
    }
}

/* ---- messages ----------------------------------------------------------------------------------------------------- */

/* Gives message i the text that was written. */
static enum error_code take_text(struct tools_chat *c, size_t i, struct buffer *text, struct error *err)
{
    bool failed = text->failed;
    free(c->texts[i]);
    c->texts[i] = buffer_steal(text);
    buffer_fini(text);
    if (failed || !c->texts[i])
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the text of message %zu", i);
    c->messages[i].content = c->texts[i];
    return ERROR_NONE;
}

/* The tools go behind the system's words; where there is no such message, into one of their own; where the template has none, in front of
 * the first message. */
static enum error_code render_tools(struct tools_chat *c, const Bitnet__V1__Tools *tools, struct tools_roles roles,
                                    struct error *err)
{
    struct buffer text;
    buffer_init(&text, MAX_TEXT_BYTES);
    if (strcmp(c->messages[0].role, "system") == 0) {
        buffer_printf(&text, "%s\n\n", c->messages[0].content);
        put_tools(&text, tools);
    } else if (roles.system) {
        memmove(c->messages + 1, c->messages, c->n * sizeof *c->messages);
        memmove(c->texts + 1, c->texts, c->n * sizeof *c->texts);
        c->messages[0].role = "system";
        c->texts[0] = NULL;
        c->n++;
        put_tools(&text, tools);
    } else {
        put_tools(&text, tools);
        buffer_printf(&text, "\n\n%s", c->messages[0].content);
    }
    return take_text(c, 0, &text, err);
}

/* What a tool answered, where the template has no such role: a user's message in a frame. */
static enum error_code render_result(struct tools_chat *c, size_t i, struct error *err)
{
    struct buffer text;
    buffer_init(&text, MAX_TEXT_BYTES);
    buffer_printf(&text, "<tool_response>\n%s\n</tool_response>", c->messages[i].content);
    c->messages[i].role = "user";
    return take_text(c, i, &text, err);
}

static enum error_code render_message(struct tools_chat *c, size_t i, const Bitnet__V1__Message *m,
                                      struct tools_roles roles, struct error *err)
{
    struct buffer text;
    c->messages[i] = (struct chat_message){m->role, m->content};
    if (m->n_tool_calls > 0) {
        buffer_init(&text, MAX_TEXT_BYTES);
        put_calls(&text, m);
        return take_text(c, i, &text, err);
    }
    if (strcmp(m->role, "tool") == 0 && !roles.tool)
        return render_result(c, i, err);
    return ERROR_NONE;
}

struct tools_roles tools_roles_of(const struct tokenizer *t)
{
    return (struct tools_roles){tokenizer_chat_has_role(t, "system"), tokenizer_chat_has_role(t, "tool")};
}

enum error_code tools_render(const Bitnet__V1__Chat *chat, const Bitnet__V1__Tools *tools, struct tools_roles roles,
                             struct tools_chat *out, struct error *err)
{
    size_t n = chat->n_messages;
    *out = (struct tools_chat){.messages = calloc(n + 1, sizeof *out->messages), .texts = calloc(n + 1, sizeof *out->texts)};
    if (!out->messages || !out->texts)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for %zu messages", n);
    enum error_code code = ERROR_NONE;
    for (; out->n < n && !code; out->n++)
        code = render_message(out, out->n, chat->messages[out->n], roles, err);
    if (!code && n > 0 && tools_in_use(tools))
        code = render_tools(out, tools, roles, err);
    return code;
}

void tools_chat_fini(struct tools_chat *c)
{
    for (size_t i = 0; c->texts && i < c->n; i++)
        free(c->texts[i]);
    free(c->texts);
    free(c->messages);
    *c = (struct tools_chat){0};
}
