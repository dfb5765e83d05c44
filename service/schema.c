/* Schemas by their keywords: references, combinations, types. See schema.h. */
#include "service/schema_parts.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- faults and places --------------------------------------------------------------------------------------------- */

uint32_t schema_fault(struct schema *s, const char *keyword, const char *format, ...)
{
    char what[256];
    va_list args;
    if (s->code)
        return GRAMMAR_EMPTY;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    s->code = error_set_param(s->err, ERROR_VALIDATION_FAILED, s->param, "schema at #%s%s%s: %s", s->pointer,
                              keyword ? "/" : "", keyword ? keyword : "", what);
    return GRAMMAR_EMPTY;
}

size_t schema_enter(struct schema *s, const char *part)
{
    size_t mark = strlen(s->pointer), n = mark;
    if (n + 1 < sizeof s->pointer)
        s->pointer[n++] = '/';
    for (; *part && n + 3 < sizeof s->pointer; part++) {
        if (*part == '~' || *part == '/') {
            s->pointer[n++] = '~';
            s->pointer[n++] = *part == '~' ? '0' : '1';
        } else {
            s->pointer[n++] = *part;
        }
    }
    s->pointer[n] = '\0';
    return mark;
}

size_t schema_enter_index(struct schema *s, const char *keyword, size_t i)
{
    char index[24];
    size_t mark = schema_enter(s, keyword);
    snprintf(index, sizeof index, "%zu", i);
    schema_enter(s, index);
    return mark;
}

void schema_leave(struct schema *s, size_t mark)
{
    s->pointer[mark] = '\0';
}

/* ---- types --------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    uint32_t (*compile)(struct schema *s, const json_t *schema);
    const char *keywords; /* that restrict values of this type, each between spaces */
} types[] = {
    {"object", schema_object, " properties required additionalProperties minProperties maxProperties "},
    {"array", schema_array, " items prefixItems minItems maxItems uniqueItems "},
    {"string", schema_string, " minLength maxLength pattern format "},
    {"number", schema_number, " minimum maximum exclusiveMinimum exclusiveMaximum "},
    {"integer", schema_integer, ""},
    {"boolean", NULL, ""},
    {"null", NULL, ""},
};
#define N_TYPES (sizeof types / sizeof *types)

static bool has_word(const char *words, const char *word)
{
    char spaced[64];
    return snprintf(spaced, sizeof spaced, " %s ", word) < (int)sizeof spaced && strstr(words, spaced);
}

/* Every keyword is one that is understood. */
static void check_keywords(struct schema *s, const json_t *schema)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)schema, key, v)
    {
        bool known = schema_is_annotation(key) || has_word(" $ref allOf anyOf oneOf enum const type nullable ", key);
        for (size_t i = 0; i < N_TYPES && !known; i++)
            known = has_word(types[i].keywords, key);
        if (!known)
            schema_fault(s, key, "this keyword is not supported");
    }
}

/* The types that a schema allows, as bits of types[]. Without `type`, those that its other keywords speak of; 0 = any. */
static unsigned types_of(struct schema *s, const json_t *schema)
{
    const json_t *type = json_object_get(schema, "type");
    unsigned found = 0;
    for (size_t i = 0; i < (type ? json_is_array(type) ? json_array_size(type) : 1 : 0); i++) {
        const char *name = json_string_value(json_is_array(type) ? json_array_get(type, i) : type);
        size_t t = 0;
        while (t < N_TYPES && (!name || strcmp(types[t].name, name) != 0))
            t++;
        if (t == N_TYPES)
            schema_fault(s, "type", "expected names of JSON types");
        else
            found |= 1u << t;
    }
    if (type && !found)
        schema_fault(s, "type", "expected at least one type");
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)(type ? NULL : schema), key, v) for (size_t t = 0; t < N_TYPES; t++)
        found |= has_word(types[t].keywords, key) ? 1u << t : 0;
    return found & (found & 8u ? ~16u : ~0u); /* integers are numbers */
}

static uint32_t compile_type(struct schema *s, const json_t *schema, size_t t)
{
    if (types[t].compile)
        return types[t].compile(s, schema);
    if (strcmp(types[t].name, "null") == 0)
        return schema_text(s, "null");
    return grammar_choice(s->b, schema_text(s, "true"), schema_text(s, "false"));
}

static uint32_t compile_types(struct schema *s, const json_t *schema)
{
    unsigned found = types_of(s, schema);
    uint32_t e = GRAMMAR_EMPTY;
    bool any = false, nullable = json_is_true(json_object_get(schema, "nullable"));
    if (!found && !s->code)
        return schema_rule(s, RULE_VALUE);
    for (size_t t = 0; t < N_TYPES && !s->code; t++) {
        if (!(found >> t & 1))
            continue;
        uint32_t one = compile_type(s, schema, t);
        e = any ? grammar_choice(s->b, e, one) : one;
        any = true;
    }
    return nullable && !(found >> 6 & 1) ? grammar_choice(s->b, e, schema_text(s, "null")) : e;
}

/* ---- fixed values ------------------------------------------------------------------------------------------------- */

static bool has_type(unsigned allowed, const json_t *v)
{
    static const unsigned bits[] = {[JSON_OBJECT] = 1, [JSON_ARRAY] = 2, [JSON_STRING] = 4, [JSON_INTEGER] = 8 | 16,
                                    [JSON_REAL] = 8,   [JSON_TRUE] = 32, [JSON_FALSE] = 32, [JSON_NULL] = 64};
    return !allowed || (bits[json_typeof(v)] & allowed);
}

/* enum and const. Of what stands beside, only the type is looked at. */
static uint32_t compile_fixed(struct schema *s, const json_t *schema)
{
    const json_t *list = json_object_get(schema, "enum"), *constant = json_object_get(schema, "const");
    unsigned allowed = json_object_get(schema, "type") ? types_of(s, schema) : 0;
    if (json_is_true(json_object_get(schema, "nullable")) && allowed)
        allowed |= 64;
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)schema, key,
                        v) if (!schema_is_annotation(key) && !has_word(" enum const type nullable ", key))
        schema_fault(s, key, "not supported beside enum or const");
    if (list && !json_is_array(list))
        schema_fault(s, "enum", "expected an array");
    uint32_t e = GRAMMAR_EMPTY;
    bool any = false;
    for (size_t i = 0; i < (list ? json_array_size(list) : 1) && !s->code; i++) {
        const json_t *value = list ? json_array_get(list, i) : constant;
        if (!has_type(allowed, value) || (constant && !json_equal(value, constant)))
            continue;
        uint32_t one = schema_constant(s, value);
        e = any ? grammar_choice(s->b, e, one) : one;
        any = true;
    }
    return any ? e : schema_fault(s, list ? "enum" : "const", "no value is possible");
}

/* ---- combinations -------------------------------------------------------------------------------------------------- */

static uint32_t compile_reference(struct schema *s, const json_t *schema)
{
    bool any;
    const char *name = json_string_value(json_object_get(schema, "$ref"));
    const json_t *rest = schema_without(s, schema, "$ref", &any);
    const json_t *target = name && !s->code ? schema_find(s, name) : NULL;
    if (!name)
        return schema_fault(s, "$ref", "expected a string");
    if (target && any)
        target = schema_merge(s, rest, target);
    if (!target)
        return GRAMMAR_EMPTY;
    if (any)
        return schema_value(s, target);
    char saved[SCHEMA_POINTER_BYTES]; /* faults are told where they are */
    strcpy(saved, s->pointer);
    snprintf(s->pointer, sizeof s->pointer, "%s", name + 1);
    uint32_t e = schema_value_call(s, target);
    strcpy(s->pointer, saved);
    return e;
}

static uint32_t compile_all_of(struct schema *s, const json_t *schema)
{
    bool any;
    const json_t *parts = json_object_get(schema, "allOf"), *merged = schema_without(s, schema, "allOf", &any);
    if (json_array_size(parts) == 0)
        return schema_fault(s, "allOf", "expected an array of at least one schema");
    for (size_t i = 0; i < json_array_size(parts) && merged; i++) {
        size_t mark = schema_enter_index(s, "allOf", i);
        const json_t *part = schema_resolve(s, json_array_get(parts, i));
        merged = part ? schema_merge(s, merged, part) : NULL;
        schema_leave(s, mark);
    }
    return merged ? schema_value(s, merged) : GRAMMAR_EMPTY;
}

/* Of anyOf and oneOf one must hold; that no second one of oneOf does is left to the schema's author. */
static uint32_t compile_any_of(struct schema *s, const json_t *schema, const char *keyword)
{
    bool any;
    const json_t *parts = json_object_get(schema, keyword), *rest = schema_without(s, schema, keyword, &any);
    uint32_t e = GRAMMAR_EMPTY;
    if (json_array_size(parts) == 0)
        return schema_fault(s, keyword, "expected an array of at least one schema");
    for (size_t i = 0; i < json_array_size(parts) && !s->code; i++) {
        size_t mark = schema_enter_index(s, keyword, i);
        const json_t *part = json_array_get(parts, i);
        if (any && (part = schema_resolve(s, part)))
            part = schema_merge(s, rest, part);
        uint32_t one = part ? schema_value(s, part) : GRAMMAR_EMPTY;
        e = i ? grammar_choice(s->b, e, one) : one;
        schema_leave(s, mark);
    }
    return e;
}

static uint32_t compile_keywords(struct schema *s, const json_t *schema)
{
    check_keywords(s, schema);
    if (s->code)
        return GRAMMAR_EMPTY;
    if (json_object_get(schema, "$ref"))
        return compile_reference(s, schema);
    if (json_object_get(schema, "allOf"))
        return compile_all_of(s, schema);
    if (json_object_get(schema, "anyOf"))
        return compile_any_of(s, schema, "anyOf");
    if (json_object_get(schema, "oneOf"))
        return compile_any_of(s, schema, "oneOf");
    if (json_object_get(schema, "enum") || json_object_get(schema, "const"))
        return compile_fixed(s, schema);
    return compile_types(s, schema);
}

uint32_t schema_value(struct schema *s, const json_t *schema)
{
    if (s->code)
        return GRAMMAR_EMPTY;
    if (json_is_true(schema))
        return schema_rule(s, RULE_VALUE);
    if (json_is_false(schema))
        return schema_fault(s, NULL, "no value is possible");
    if (!json_is_object(schema))
        return schema_fault(s, NULL, "expected a schema: an object, true or false");
    if (s->depth >= SCHEMA_MAX_DEPTH)
        return schema_fault(s, NULL, "expected at most %d schemas inside of each other", SCHEMA_MAX_DEPTH);
    if (++s->n_parts > SCHEMA_MAX_PARTS)
        return schema_fault(s, NULL, "expected at most %d schemas together", SCHEMA_MAX_PARTS);
    s->depth++;
    uint32_t e = compile_keywords(s, schema);
    s->depth--;
    return e;
}

uint32_t schema_value_call(struct schema *s, const json_t *schema)
{
    for (size_t i = 0; i < s->n_references; i++)
        if (s->references[i].target == schema)
            return grammar_call(s->b, s->references[i].rule);
    if (s->n_references == s->references_capacity) {
        size_t capacity = s->references_capacity ? 2 * s->references_capacity : 16;
        void *more = realloc(s->references, capacity * sizeof *s->references);
        if (!more)
            return schema_fault(s, NULL, "out of memory");
        s->references = more;
        s->references_capacity = capacity;
    }
    uint32_t rule = grammar_rule(s->b);
    s->references[s->n_references++] = (struct schema_reference){schema, rule};
    grammar_rule_set(s->b, rule, schema_value(s, schema));
    return grammar_call(s->b, rule);
}

/* ---- whole --------------------------------------------------------------------------------------------------------- */

bool schema_begin(struct schema *s, const char *param, struct error *err)
{
    *s = (struct schema){.b = grammar_builder_open(), .made = json_array(), .param = param, .err = err};
    if (!s->b || !s->made)
        s->code = error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a grammar");
    return !s->code;
}

enum error_code schema_end(struct schema *s, uint32_t whole, struct grammar **out)
{
    if (!s->code) {
        uint32_t rule = grammar_rule(s->b);
        grammar_rule_set(s->b, rule, whole);
        s->code = grammar_compile(s->b, rule, out, s->err);
        if (s->code) {
            error_prefix(s->err, "schema");
            snprintf(s->err->param, sizeof s->err->param, "%s", s->param);
        }
    }
    free(s->references);
    json_decref(s->made);
    grammar_builder_close(s->b);
    return s->code;
}

json_t *schema_parse(struct schema *s, const char *text, size_t n_bytes)
{
    json_error_t why;
    json_t *root = NULL;
    if (n_bytes > SCHEMA_MAX_BYTES)
        s->code = error_set_param(s->err, ERROR_VALIDATION_FAILED, s->param,
                                  "schema: expected at most %d bytes, found %zu", SCHEMA_MAX_BYTES, n_bytes);
    else if (!(root = json_loadb(text, n_bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why)))
        s->code = error_set_param(s->err, ERROR_VALIDATION_FAILED, s->param,
                                  "schema: expected JSON, found at byte %d: %s", why.position, why.text);
    return root;
}

/* The values of a schema, which may have one space in front: SentencePiece vocabularies begin words with it. */
static uint32_t spaced(struct schema *s, const json_t *root)
{
    s->root = root;
    return grammar_sequence(s->b, grammar_repeat(s->b, schema_text(s, " "), 0, 1), schema_value(s, root));
}

enum error_code schema_compile(const char *text, size_t n_bytes, struct grammar **out, struct error *err)
{
    struct schema s;
    json_t *root = schema_begin(&s, "response_format", err) ? schema_parse(&s, text, n_bytes) : NULL;
    enum error_code code = schema_end(&s, root ? spaced(&s, root) : GRAMMAR_EMPTY, out);
    json_decref(root);
    return code;
}

enum error_code schema_any_object(struct grammar **out, struct error *err)
{
    struct schema s;
    uint32_t e = GRAMMAR_EMPTY;
    if (schema_begin(&s, "response_format", err))
        e = grammar_sequence(s.b, grammar_repeat(s.b, schema_text(&s, " "), 0, 1), schema_rule(&s, RULE_OBJECT));
    return schema_end(&s, e, out);
}
