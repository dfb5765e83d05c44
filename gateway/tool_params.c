/* See tool_params.h. */
#include "gateway/tool_params.h"

#include "gateway/tools.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TOOLS 128
#define FIELD_BYTES 96

/* protobuf-c's strings are not const; packing only reads them. */
static char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return (char *)(uintptr_t)(text ? text : "");
}

static bool is(const json_t *v, const char *text)
{
    return json_is_string(v) && strcmp(json_string_value(v), text) == 0;
}

static bool is_absent(const json_t *v)
{
    return !v || json_is_null(v);
}

static bool name_valid(const json_t *v)
{
    const char *name = json_string_value(v);
    size_t n = name ? strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") : 0;
    return n > 0 && n <= TOOLS_MAX_NAME && name[n] == '\0';
}

/* ---- tools and tool_choice ----------------------------------------------------------------------------------------- */

static const json_t *function_of(const json_t *tool)
{
    return json_object_get(tool, "function");
}

/* The name of the function that tool_choice asks for, or NULL. */
static const json_t *chosen_name(const struct params *p)
{
    return json_object_get(function_of(p->tool_choice.json), "name");
}

bool tool_params_in_use(const struct params *p)
{
    return json_array_size(p->tools.json) > 0 && !is(p->tool_choice.json, "none");
}

bool tool_params_required(const struct params *p)
{
    return tool_params_in_use(p) && (is(p->tool_choice.json, "required") || json_is_object(p->tool_choice.json));
}

static bool check_tool(const json_t *tool, size_t i, struct failure *f)
{
    char field[FIELD_BYTES];
    const json_t *function = function_of(tool), *description = json_object_get(function, "description"),
                 *parameters = json_object_get(function, "parameters"), *strict = json_object_get(function, "strict");
    snprintf(field, sizeof field, "tools[%zu].type", i);
    if (!is(json_object_get(tool, "type"), "function"))
        return fields_fault(f, ERROR_VALIDATION_FAILED, field, "\"function\"", json_object_get(tool, "type"));
    snprintf(field, sizeof field, "tools[%zu].function", i);
    if (!json_is_object(function))
        return fields_fault(f, ERROR_INVALID_REQUEST, field, "an object with a name", function);
    snprintf(field, sizeof field, "tools[%zu].function.name", i);
    if (!name_valid(json_object_get(function, "name")))
        return fields_fault(f, ERROR_VALIDATION_FAILED, field, "1..64 of A-Z a-z 0-9 _ and -",
                            json_object_get(function, "name"));
    snprintf(field, sizeof field, "tools[%zu].function.description", i);
    if (!is_absent(description) && !json_is_string(description))
        return fields_fault(f, ERROR_INVALID_REQUEST, field, "a string", description);
    snprintf(field, sizeof field, "tools[%zu].function.parameters", i);
    if (!is_absent(parameters) && !json_is_object(parameters))
        return fields_fault(f, ERROR_INVALID_REQUEST, field, "a JSON Schema of an object", parameters);
    snprintf(field, sizeof field, "tools[%zu].function.strict", i);
    return is_absent(strict) || json_is_boolean(strict) ||
           fields_fault(f, ERROR_INVALID_REQUEST, field, "true or false", strict);
}

static bool check_choice(const struct params *p, struct failure *f)
{
    const json_t *choice = p->tool_choice.json, *name = chosen_name(p);
    bool any = json_array_size(p->tools.json) > 0;
    if (is_absent(choice) || is(choice, "none") || is(choice, "auto"))
        return true;
    if (!is(choice, "required") && !(is(json_object_get(choice, "type"), "function") && json_is_string(name)))
        return fields_fault(f, ERROR_VALIDATION_FAILED, "tool_choice",
                            "none, auto, required or {\"type\": \"function\", \"function\": {\"name\": ..}}", choice);
    if (!any) {
        failure_add(f, ERROR_VALIDATION_FAILED, "tool_choice", "only together with tools", NULL);
        return false;
    }
    for (size_t i = 0; name && i < json_array_size(p->tools.json); i++)
        if (json_equal(json_object_get(function_of(json_array_get(p->tools.json, i)), "name"), name))
            return true;
    return !name || fields_fault(f, ERROR_VALIDATION_FAILED, "tool_choice", "the name of one of the tools", name);
}

bool tool_params_check(const struct params *p, struct failure *f)
{
    const json_t *tools = p->tools.json;
    if (!is_absent(tools) && !json_is_array(tools))
        return fields_fault(f, ERROR_INVALID_REQUEST, "tools", "an array of tools", tools);
    if (json_array_size(tools) > MAX_TOOLS)
        return fields_fault(f, ERROR_VALIDATION_FAILED, "tools", "at most 128 tools", tools);
    for (size_t i = 0; i < json_array_size(tools); i++)
        if (!check_tool(json_array_get(tools, i), i, f))
            return false;
    return check_choice(p, f);
}

bool tool_params_fill(const struct params *p, struct tool_room *room)
{
    Bitnet__V1__Tools *out = &room->tools;
    size_t n = json_array_size(p->tools.json);
    bitnet__v1__tools__init(out);
    room->tool = calloc(n + 1, sizeof *room->tool);
    room->list = calloc(n + 1, sizeof *room->list);
    for (size_t i = 0; room->tool && room->list && i < n; i++) {
        const json_t *function = function_of(json_array_get(p->tools.json, i)),
                     *parameters = json_object_get(function, "parameters");
        Bitnet__V1__Tool *tool = room->list[i] = &room->tool[i];
        bitnet__v1__tool__init(tool);
        tool->name = text_of(function, "name");
        tool->description = text_of(function, "description");
        tool->strict = json_is_true(json_object_get(function, "strict"));
        /* In the order of its keys, which the arguments follow. */
        tool->parameters = is_absent(parameters) ? strdup("") : json_dumps(parameters, JSON_COMPACT);
        out->n_tools = i + 1;
        if (!tool->parameters)
            return false;
    }
    out->tools = room->list;
    out->mode = tool_params_required(p) ? BITNET__V1__TOOL_MODE__TOOL_MODE_REQUIRED : BITNET__V1__TOOL_MODE__TOOL_MODE_AUTO;
    out->name = text_of(function_of(p->tool_choice.json), "name");
    out->single = !p->parallel_tool_calls.truth;
    return room->tool && room->list;
}

void tool_room_fini(struct tool_room *room)
{
    for (size_t i = 0; i < room->tools.n_tools; i++)
        free(room->tool[i].parameters);
    free(room->tool);
    free(room->list);
}

/* ---- messages ------------------------------------------------------------------------------------------------------ */

static bool check_calls(const json_t *message, size_t i, struct failure *f)
{
    const json_t *calls = json_object_get(message, "tool_calls");
    char field[FIELD_BYTES];
    snprintf(field, sizeof field, "messages[%zu].tool_calls", i);
    if (is_absent(calls))
        return true;
    if (!json_is_array(calls))
        return fields_fault(f, ERROR_INVALID_REQUEST, field, "an array of calls", calls);
    if (json_array_size(calls) > 0 && !is(json_object_get(message, "role"), "assistant"))
        return fields_fault(f, ERROR_VALIDATION_FAILED, field, "calls of an assistant only", calls);
    for (size_t k = 0; k < json_array_size(calls); k++) {
        const json_t *call = json_array_get(calls, k), *function = function_of(call);
        snprintf(field, sizeof field, "messages[%zu].tool_calls[%zu]", i, k);
        if (!is(json_object_get(call, "type"), "function") || !json_is_string(json_object_get(call, "id")) ||
            !name_valid(json_object_get(function, "name")) || !json_is_string(json_object_get(function, "arguments")))
            return fields_fault(f, ERROR_VALIDATION_FAILED, field,
                                "{\"id\", \"type\": \"function\", \"function\": {\"name\", \"arguments\": a string}}", call);
    }
    return true;
}

static bool has_call(const json_t *message, const json_t *id)
{
    const json_t *calls = json_object_get(message, "tool_calls");
    for (size_t k = 0; k < json_array_size(calls); k++)
        if (json_equal(json_object_get(json_array_get(calls, k), "id"), id))
            return true;
    return false;
}

bool tool_params_check_message(const json_t *messages, size_t i, struct failure *f)
{
    const json_t *message = json_array_get(messages, i), *id = json_object_get(message, "tool_call_id");
    char field[FIELD_BYTES];
    if (!check_calls(message, i, f))
        return false;
    if (!is(json_object_get(message, "role"), "tool"))
        return true;
    snprintf(field, sizeof field, "messages[%zu].tool_call_id", i);
    if (!json_is_string(id))
        return fields_fault(f, ERROR_INVALID_REQUEST, field, "the id of a call", id);
    for (size_t k = 0; k < i; k++)
        if (has_call(json_array_get(messages, k), id))
            return true;
    return fields_fault(f, ERROR_VALIDATION_FAILED, field, "the id of a call in an earlier message", id);
}

bool tool_params_fill_calls(const json_t *message, Bitnet__V1__Message *out)
{
    const json_t *calls = json_object_get(message, "tool_calls");
    size_t n = json_array_size(calls);
    if (n == 0)
        return true;
    out->tool_calls = calloc(n, sizeof *out->tool_calls);
    for (size_t k = 0; out->tool_calls && k < n; k++) {
        const json_t *call = json_array_get(calls, k);
        Bitnet__V1__ToolCall *c = out->tool_calls[k] = malloc(sizeof *c);
        if (!c)
            return false;
        bitnet__v1__tool_call__init(c);
        c->id = text_of(call, "id");
        c->name = text_of(function_of(call), "name");
        c->arguments = text_of(function_of(call), "arguments");
        out->n_tool_calls = k + 1;
    }
    return out->tool_calls != NULL;
}

void tool_params_free_calls(Bitnet__V1__Message *m)
{
    for (size_t k = 0; k < m->n_tool_calls; k++)
        free(m->tool_calls[k]);
    free(m->tool_calls);
}
