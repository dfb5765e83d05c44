/*
 * The answers that tools allow, as a grammar.
 *
 *   REQUIRED   ' '? calls                    AUTO   words calls-behind-their-first-marker?     AUTO with a format   ' '? (format | calls)
 *   calls = call ('\n' call)*
 *   call  = '<tool_call>' '\n{"name": "' NAME '", "arguments": ' value of its schema '}\n</tool_call>'
 *
 * Words are any text without the marker: rule i of the words has read the first i bytes of it, as in Knuth, Morris and Pratt; its first
 * byte is in no other place of it, so what is not the next byte leads back to the beginning.
 */
#include "service/schema_parts.h"
#include "service/tools.h"

#include <string.h>

#define MARKER_BYTES (sizeof TOOLS_CALL_BEGIN - 1)

static uint32_t sequence3(struct schema *s, uint32_t a, uint32_t b, uint32_t c)
{
    return grammar_sequence(s->b, grammar_sequence(s->b, a, b), c);
}

/* ---- arguments ---------------------------------------------------------------------------------------------------- */

/* A schema that says of objects: one that says nothing of types is taken to. */
static uint32_t object_value(struct schema *s, const json_t *root)
{
    const json_t *type = json_object_get(root, "type");
    if (!json_is_object(root))
        return schema_fault(s, NULL, "expected a schema of an object");
    if (type && !(json_is_string(type) && strcmp(json_string_value(type), "object") == 0))
        return schema_fault(s, "type", "expected \"object\"");
    if (type || json_object_get(root, "$ref") || json_object_get(root, "anyOf") || json_object_get(root, "oneOf") ||
        json_object_get(root, "allOf"))
        return schema_value(s, root);
    json_t *object = json_copy((json_t *)(uintptr_t)root);
    if (!object || json_object_set_new(object, "type", json_string("object")) || json_array_append_new(s->made, object))
        return schema_fault(s, NULL, "out of memory");
    return schema_value(s, object);
}

/* The values of a tool's schema. Where it is not supported and need not be kept to: any object. */
static uint32_t arguments_of(struct schema *s, const Bitnet__V1__Tool *tool, size_t i)
{
    if (tool->parameters[0] == '\0')
        return schema_rule(s, RULE_OBJECT);
    json_t *root = schema_parse(s, tool->parameters, strlen(tool->parameters));
    bool is_json = root != NULL;
    uint32_t e = GRAMMAR_EMPTY;
    if (root && json_array_append_new(s->made, root)) /* references point into it */
        e = schema_fault(s, NULL, "out of memory");
    else if (root) {
        s->root = root;
        s->pointer[0] = '\0';
        e = object_value(s, root);
    }
    if (s->code == ERROR_VALIDATION_FAILED && is_json && !tool->strict) {
        *s->err = (struct error){0};
        s->code = ERROR_NONE;
        s->depth = 0;
        return schema_rule(s, RULE_OBJECT);
    }
    if (s->code)
        error_prefix(s->err, "tools[%zu].parameters", i);
    return e;
}

/* ---- calls -------------------------------------------------------------------------------------------------------- */

/* What follows the marker of a call. */
static uint32_t call_tail(struct schema *s, const Bitnet__V1__Tools *tools)
{
    uint32_t any = GRAMMAR_EMPTY;
    bool some = false;
    for (size_t i = 0; i < tools->n_tools && !s->code; i++) {
        const Bitnet__V1__Tool *tool = tools->tools[i];
        if (tools->name[0] != '\0' && strcmp(tool->name, tools->name) != 0)
            continue;
        uint32_t name = sequence3(s, schema_text(s, "\n{\"name\": \""), schema_text(s, tool->name),
                                  schema_text(s, "\", \"arguments\": "));
        uint32_t one = grammar_sequence(s->b, name, arguments_of(s, tool, i));
        any = some ? grammar_choice(s->b, any, one) : one;
        some = true;
    }
    return grammar_sequence(s->b, any, schema_text(s, "}\n" TOOLS_CALL_END));
}

/* Calls without the marker of the first. */
static uint32_t calls_tail(struct schema *s, const Bitnet__V1__Tools *tools)
{
    uint32_t tail = grammar_rule(s->b);
    grammar_rule_set(s->b, tail, call_tail(s, tools));
    uint32_t first = grammar_call(s->b, tail), next = grammar_sequence(s->b, schema_text(s, "\n" TOOLS_CALL_BEGIN), first);
    return tools->single ? first : grammar_sequence(s->b, first, grammar_repeat(s->b, next, 0, TOOLS_MAX_CALLS - 1));
}

/* Words, and what may follow a marker in them. */
static uint32_t words(struct schema *s, uint32_t tail)
{
    static const char marker[] = TOOLS_CALL_BEGIN;
    uint32_t rules[MARKER_BYTES];
    for (size_t i = 0; i < MARKER_BYTES; i++)
        rules[i] = grammar_rule(s->b);
    for (size_t i = 0; i < MARKER_BYTES; i++) {
        struct char_range known[2] = {{(unsigned char)marker[0], (unsigned char)marker[0]},
                                      {(unsigned char)marker[i], (unsigned char)marker[i]}};
        uint32_t next = i + 1 < MARKER_BYTES ? grammar_call(s->b, rules[i + 1]) : tail;
        uint32_t other = grammar_chars(s->b, known, i ? 2 : 1, true, false);
        uint32_t e = grammar_choice(s->b, GRAMMAR_EMPTY, grammar_sequence(s->b, other, grammar_call(s->b, rules[0])));
        e = grammar_choice(s->b, e, grammar_sequence(s->b, grammar_text(s->b, marker + i, 1), next));
        if (i > 0)
            e = grammar_choice(s->b, e, grammar_sequence(s->b, grammar_text(s->b, marker, 1), grammar_call(s->b, rules[1])));
        grammar_rule_set(s->b, rules[i], e);
    }
    return grammar_call(s->b, rules[0]);
}

/* ---- formats ------------------------------------------------------------------------------------------------------ */

/* What an answer without calls must be; false: any words. */
static bool format_value(struct schema *s, const Bitnet__V1__ResponseFormat *format, uint32_t *out)
{
    int kind = format ? (int)format->format_case : 0;
    if (kind == BITNET__V1__RESPONSE_FORMAT__FORMAT_JSON_OBJECT && format->json_object) {
        *out = schema_rule(s, RULE_OBJECT);
        return true;
    }
    s->param = "response_format";
    if (kind == BITNET__V1__RESPONSE_FORMAT__FORMAT_REGEX && !s->code)
        s->code = error_set_param(s->err, ERROR_VALIDATION_FAILED, s->param, "regex: not supported beside tools");
    if (kind != BITNET__V1__RESPONSE_FORMAT__FORMAT_JSON_SCHEMA || s->code) {
        s->param = "tools";
        return false;
    }
    json_t *root = schema_parse(s, format->json_schema, strlen(format->json_schema));
    if (root && json_array_append_new(s->made, root))
        schema_fault(s, NULL, "out of memory");
    s->root = root;
    s->pointer[0] = '\0';
    *out = s->code ? GRAMMAR_EMPTY : schema_value(s, root);
    s->param = "tools";
    return true;
}

enum error_code tools_grammar(const Bitnet__V1__Tools *tools, const Bitnet__V1__ResponseFormat *format,
                              struct grammar **out, struct error *err)
{
    struct schema s;
    uint32_t whole = GRAMMAR_EMPTY, value;
    if (schema_begin(&s, "tools", err)) {
        uint32_t tail = calls_tail(&s, tools), calls = grammar_sequence(s.b, schema_text(&s, TOOLS_CALL_BEGIN), tail);
        bool required = tools->mode == BITNET__V1__TOOL_MODE__TOOL_MODE_REQUIRED;
        if (required || format_value(&s, format, &value))
            whole = grammar_sequence(s.b, grammar_repeat(s.b, schema_text(&s, " "), 0, 1),
                                     required ? calls : grammar_choice(s.b, value, calls));
        else
            whole = words(&s, tail);
    }
    return schema_end(&s, whole, out);
}
