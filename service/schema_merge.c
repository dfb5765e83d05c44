/* References, and schemas that are put together of several: what allOf, and anyOf beside other keywords, come to. */
#include "service/schema_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool schema_is_annotation(const char *keyword)
{
    static const char *const names[] = {"$schema",  "$id",           "id",
                                        "$comment", "$defs",         "definitions",
                                        "title",    "default",       "description",
                                        "examples", "example",       "deprecated",
                                        "readOnly", "writeOnly",     "contentMediaType",
                                        "$anchor",  "discriminator", "contentEncoding"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], keyword) == 0)
            return true;
    return strncmp(keyword, "x-", 2) == 0;
}

/* ---- references --------------------------------------------------------------------------------------------------- */

static int hex_value(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* The next part of a JSON pointer in a URI: up to '/', with ~0 ~1 and %XX decoded. */
static const char *pointer_part(const char *at, char *out, size_t n_out)
{
    size_t n = 0;
    for (; *at && *at != '/' && n + 1 < n_out; at++) {
        char c = *at;
        if (c == '%' && hex_value(at[1]) >= 0 && hex_value(at[2]) >= 0) {
            c = (char)(hex_value(at[1]) * 16 + hex_value(at[2]));
            at += 2;
        } else if (c == '~' && (at[1] == '0' || at[1] == '1')) {
            c = *++at == '0' ? '~' : '/';
        }
        out[n++] = c;
    }
    out[n] = '\0';
    return at;
}

const json_t *schema_find(struct schema *s, const char *reference)
{
    const json_t *at = s->root;
    const char *p = reference + 1;
    char part[256];
    if (reference[0] != '#' || (*p && *p != '/')) {
        schema_fault(s, "$ref", "expected a reference into this schema (\"#\" or \"#/..\"), found \"%.60s\"",
                     reference);
        return NULL;
    }
    while (at && *p == '/') {
        p = pointer_part(p + 1, part, sizeof part);
        at = json_is_array(at) ? json_array_get(at, strtoul(part, NULL, 10)) : json_object_get(at, part);
    }
    if (!at || *p)
        schema_fault(s, "$ref", "found nothing at \"%.60s\"", reference);
    return *p ? NULL : at;
}

const json_t *schema_resolve(struct schema *s, const json_t *schema)
{
    bool any;
    for (int i = 0; schema && json_object_get(schema, "$ref") && !s->code; i++) {
        const char *name = json_string_value(json_object_get(schema, "$ref"));
        schema_without(s, schema, "$ref", &any);
        if (any)
            return schema; /* more than a reference: merged with the rest later */
        if (!name || i == SCHEMA_MAX_DEPTH) {
            schema_fault(s, "$ref", name ? "expected no circle of references" : "expected a string");
            return NULL;
        }
        schema = schema_find(s, name);
    }
    return s->code ? NULL : schema;
}

/* ---- merging ------------------------------------------------------------------------------------------------------ */

static json_t *keep(struct schema *s, json_t *made)
{
    s->n_parts += json_object_size(made) / 16; /* copies count as what they cost */
    if (!made || json_array_append_new(s->made, made)) {
        schema_fault(s, NULL, "out of memory");
        return NULL;
    }
    return made;
}

const json_t *schema_without(struct schema *s, const json_t *schema, const char *keyword, bool *any)
{
    json_t *made = keep(s, json_copy((json_t *)(uintptr_t)schema)), *v;
    const char *key;
    *any = false;
    json_object_del(made, keyword);
    json_object_foreach(made, key, v) *any |= !schema_is_annotation(key);
    return made;
}

/* What both lists have (`both`), or one of them. */
static json_t *join_lists(const json_t *x, const json_t *y, bool both)
{
    json_t *out = json_array(), *v;
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)x, i, v)
    {
        bool found = false;
        for (size_t k = 0; k < json_array_size(y); k++)
            found |= json_equal(v, json_array_get(y, k));
        if (found || !both)
            json_array_append(out, v);
    }
    for (i = 0; i < json_array_size(y) && !both; i++) {
        bool found = false;
        for (size_t k = 0; k < json_array_size(x); k++)
            found |= json_equal(json_array_get(y, i), json_array_get(x, k));
        if (!found)
            json_array_append(out, json_array_get(y, i));
    }
    return out;
}

static json_t *as_list(const json_t *v)
{
    json_t *list = json_array();
    if (json_is_array(v))
        json_array_extend(list, (json_t *)(uintptr_t)v);
    else
        json_array_append(list, (json_t *)(uintptr_t)v);
    return list;
}

/* Types that both have; a number and an integer have the integer in common. */
static json_t *join_types(const json_t *x, const json_t *y)
{
    json_t *a = as_list(x), *b = as_list(y), *number = json_string("number"), *integer = json_string("integer"), *v;
    json_t *out = join_lists(a, b, true), *lists[] = {a, b};
    for (int k = 0; k < 2; k++) {
        bool has_number = false, has_integer = false;
        size_t i;
        json_array_foreach(lists[k], i, v) has_number |= json_equal(v, number);
        json_array_foreach(lists[1 - k], i, v) has_integer |= json_equal(v, integer);
        if (has_number && has_integer)
            json_array_append(out, integer);
    }
    json_decref(a);
    json_decref(b);
    json_decref(number);
    json_decref(integer);
    return out;
}

/* Properties of both; one that both have must suit both. What one of them, being closed, does not name goes. */
static json_t *join_properties(const json_t *x, const json_t *y, bool x_closed, bool y_closed)
{
    json_t *out = json_object(), *v;
    const char *key;
    json_object_foreach((json_t *)(uintptr_t)x, key, v)
    {
        json_t *other = json_object_get(y, key);
        if (other && !json_equal(v, other))
            json_object_set_new(out, key, json_pack("{s:[O,O]}", "allOf", v, other));
        else if (other || !y_closed)
            json_object_set(out, key, v);
    }
    json_object_foreach((json_t *)(uintptr_t)y, key, v) if (!json_object_get(x, key) && !x_closed)
        json_object_set(out, key, v);
    return out;
}

/* The value of a keyword that both have, as a new reference; NULL when that cannot be said in one. */
static json_t *join_keyword(const char *key, json_t *x, json_t *y)
{
    bool least = strncmp(key, "max", 3) == 0 || strcmp(key, "exclusiveMaximum") == 0;
    bool most = strncmp(key, "min", 3) == 0 || strcmp(key, "exclusiveMinimum") == 0;
    if (json_equal(x, y) || schema_is_annotation(key))
        return json_incref(x);
    if ((least || most) && json_is_number(x) && json_is_number(y))
        return json_incref((json_number_value(x) > json_number_value(y)) == most ? x : y);
    if (strcmp(key, "required") == 0)
        return join_lists(x, y, false);
    if (strcmp(key, "enum") == 0)
        return join_lists(x, y, true);
    if (strcmp(key, "type") == 0)
        return join_types(x, y);
    return NULL;
}

const json_t *schema_merge(struct schema *s, const json_t *x, const json_t *y)
{
    json_t *out, *v;
    const char *key;
    if (json_is_true(x) || json_is_true(y))
        return json_is_true(x) ? y : x;
    if (!json_is_object(x) || !json_is_object(y) || !(out = keep(s, json_copy((json_t *)(uintptr_t)x)))) {
        schema_fault(s, NULL, "expected an object as a schema that is combined with others");
        return NULL;
    }
    const json_t *closes_x = json_object_get(x, "additionalProperties"),
                 *closes_y = json_object_get(y, "additionalProperties");
    json_object_foreach((json_t *)(uintptr_t)y, key, v)
    {
        json_t *other = json_object_get(out, key);
        if (strcmp(key, "additionalProperties") == 0 || strcmp(key, "properties") == 0)
            continue;
        s->n_parts += json_array_size(other) * json_array_size(v) / 256;
        json_t *joined = other ? join_keyword(key, other, v) : json_incref(v);
        if (!joined)
            schema_fault(s, key, "cannot be combined with another %s", key);
        json_object_set_new(out, key, joined);
    }
    if (!json_is_true(json_object_get(x, "nullable")) || !json_is_true(json_object_get(y, "nullable")))
        json_object_del(out, "nullable");
    if ((closes_x && !json_is_boolean(closes_x)) || (closes_y && !json_is_boolean(closes_y))) {
        schema_fault(s, "additionalProperties", "expected true or false in schemas that are combined");
    } else if (closes_x || closes_y) {
        bool closed = json_is_false(closes_x) || json_is_false(closes_y);
        json_object_set_new(out, "additionalProperties", json_boolean(!closed));
    }
    if (json_object_get(x, "properties") || json_object_get(y, "properties"))
        json_object_set_new(out, "properties",
                            join_properties(json_object_get(x, "properties"), json_object_get(y, "properties"),
                                            json_is_false(closes_x), json_is_false(closes_y)));
    return s->code ? NULL : out;
}
