/*
 * Objects: their properties come in the order of the schema, required ones always, others or not; then, where the schema
 * says additionalProperties, any number of others. Where it lists properties and says nothing of others, there are none.
 *
 *   { ws  first(0) ws }                   nothing was written so far
 *   first(i) = property i, rest(i + 1)    or, when it may be left out, first(i + 1)
 *   rest(i)  = (, property i)? rest(i + 1)
 */
#include "service/schema_parts.h"

#include <stdlib.h>
#include <string.h>

#define MAX_PROPERTIES 1024
#define MAX_KEY_BYTES 256 /* of a name that other names have to differ from */

struct property {
    const char *name; /* borrowed */
    const json_t *schema;
    bool required;
    uint32_t member; /* an expression of name and value */
};

struct object {
    struct property properties[MAX_PROPERTIES];
    size_t n;
    const json_t *others; /* the schema of other properties; NULL: there are none */
};

uint32_t schema_next(struct schema *s, uint32_t e)
{
    uint32_t comma = grammar_sequence(s->b, schema_text(s, ","), schema_rule(s, RULE_SPACE));
    return grammar_sequence(s->b, comma, e);
}

/* key ':' ' '? value */
static uint32_t member(struct schema *s, uint32_t key, uint32_t value)
{
    uint32_t colon = grammar_sequence(s->b, schema_text(s, ":"), grammar_repeat(s->b, schema_text(s, " "), 0, 1));
    return grammar_sequence(s->b, grammar_sequence(s->b, key, colon), value);
}

/* ---- names of other properties ----------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static size_t character_bytes(const char *text)
{
    unsigned char c = (unsigned char)*text;
    return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

static uint32_t code_point(const char *text)
{
    static const unsigned char lead[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    size_t n = character_bytes(text);
    uint32_t c = (unsigned char)*text & lead[n];
    for (size_t i = 1; i < n; i++)
        c = c << 6 | ((unsigned char)text[i] & 0x3F);
    return c;
}

/* Characters that need no escape and are none of the n; so a name has one form, and what differs is another name. */
static uint32_t plain_except(struct schema *s, const uint32_t *characters, size_t n)
{
    static const struct char_range escaped[] = {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
    struct char_range *except = calloc(n + 3, sizeof *except);
    if (!except)
        return schema_fault(s, NULL, "out of memory");
    memcpy(except, escaped, sizeof escaped);
    for (size_t i = 0; i < n; i++)
        except[3 + i] = (struct char_range){characters[i], characters[i]};
    uint32_t e = grammar_chars(s->b, except, n + 3, true, false);
    free(except);
    return e;
}

/* Names that go on differently than names[0..n), sorted, which have `skip` bytes in common. */
static uint32_t other_names(struct schema *s, const char *const *names, size_t n, size_t skip)
{
    uint32_t anything = grammar_repeat(s->b, plain_except(s, NULL, 0), 0, GRAMMAR_UNBOUNDED);
    if (n == 0)
        return anything;
    bool taken = names[0][skip] == '\0';
    uint32_t *characters = calloc(n, sizeof *characters), e = GRAMMAR_EMPTY;
    size_t n_characters = 0;
    for (size_t i = taken ? 1 : 0, end; characters && i < n; i = end) {
        size_t n_bytes = character_bytes(names[i] + skip);
        for (end = i + 1; end < n && memcmp(names[i] + skip, names[end] + skip, n_bytes) == 0;)
            end++;
        uint32_t one = grammar_sequence(s->b, grammar_text(s->b, names[i] + skip, n_bytes),
                                        other_names(s, names + i, end - i, skip + n_bytes));
        e = n_characters ? grammar_choice(s->b, e, one) : one;
        characters[n_characters++] = code_point(names[i] + skip);
    }
    if (!characters)
        return schema_fault(s, NULL, "out of memory");
    uint32_t new = grammar_sequence(s->b, plain_except(s, characters, n_characters), anything);
    e = n_characters ? grammar_choice(s->b, e, new) : new;
    free(characters);
    return taken ? e : grammar_choice(s->b, e, GRAMMAR_EMPTY);
}

/* A member whose name is none of the object's. */
static uint32_t other_member(struct schema *s, const struct object *o)
{
    const char **names = calloc(o->n + 1, sizeof *names);
    uint32_t quote = schema_text(s, "\""), key = GRAMMAR_EMPTY;
    if (!names)
        return schema_fault(s, NULL, "out of memory");
    for (size_t i = 0; i < o->n; i++) {
        names[i] = o->properties[i].name;
        if (strlen(names[i]) > MAX_KEY_BYTES)
            schema_fault(s, "additionalProperties", "expected names of at most %d bytes beside it", MAX_KEY_BYTES);
    }
    qsort(names, o->n, sizeof *names, by_name);
    if (!s->code)
        key = grammar_sequence(s->b, grammar_sequence(s->b, quote, other_names(s, names, o->n, 0)), quote);
    free(names);
    size_t mark = schema_enter(s, "additionalProperties");
    uint32_t e = member(s, o->n ? key : schema_rule(s, RULE_STRING), schema_value_call(s, o->others));
    schema_leave(s, mark);
    return e;
}

/* ---- reading ------------------------------------------------------------------------------------------------------ */

static bool add_property(struct schema *s, struct object *o, const char *name, const json_t *schema, bool required)
{
    if (o->n == MAX_PROPERTIES) {
        schema_fault(s, "properties", "expected at most %d", MAX_PROPERTIES);
        return false;
    }
    o->properties[o->n++] = (struct property){.name = name, .schema = schema, .required = required};
    return true;
}

static bool is_required(const json_t *required, const char *name)
{
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *v = json_string_value(json_array_get(required, i));
        if (v && strcmp(v, name) == 0)
            return true;
    }
    return false;
}

/* Names that are required and not among the properties: their values are those of other properties. */
static void add_required(struct schema *s, struct object *o, const json_t *required, const json_t *others)
{
    for (size_t i = 0; i < json_array_size(required) && !s->code; i++) {
        const char *name = json_string_value(json_array_get(required, i));
        bool known = false;
        for (size_t k = 0; name && k < o->n && !known; k++)
            known = strcmp(o->properties[k].name, name) == 0;
        if (!name)
            schema_fault(s, "required", "expected an array of strings");
        else if (!known && json_is_false(others))
            schema_fault(s, "required", "\"%.60s\" is required and not allowed", name);
        else if (!known)
            add_property(s, o, name, others ? others : json_true(), true);
    }
}

/* Bounds on the number of properties are taken where they say nothing new. */
static void check_counts(struct schema *s, const struct object *o, const json_t *schema)
{
    size_t n_required = 0;
    for (size_t i = 0; i < o->n; i++)
        n_required += o->properties[i].required;
    if (schema_count(s, schema, "minProperties", 0) > n_required)
        schema_fault(s, "minProperties", "expected at most the number of required properties");
    uint32_t max = schema_count(s, schema, "maxProperties", GRAMMAR_UNBOUNDED);
    if (max < o->n || (max != GRAMMAR_UNBOUNDED && o->others))
        schema_fault(s, "maxProperties", "expected at least the number of properties, and no others to be allowed");
}

static void read_object(struct schema *s, struct object *o, const json_t *schema)
{
    const json_t *properties = json_object_get(schema, "properties"), *required = json_object_get(schema, "required");
    const json_t *others = json_object_get(schema, "additionalProperties");
    const char *name;
    json_t *v;
    if (properties && !json_is_object(properties))
        schema_fault(s, "properties", "expected an object");
    if (required && !json_is_array(required))
        schema_fault(s, "required", "expected an array of strings");
    json_object_foreach((json_t *)(uintptr_t)properties, name, v)
    {
        bool needed = is_required(required, name);
        if (json_is_false(v) && !needed)
            continue; /* it must not be there: see the names of others */
        if (s->code || !add_property(s, o, name, v, needed))
            return;
    }
    add_required(s, o, required, others);
    if (others ? !json_is_false(others) : !properties)
        o->others = others ? others : json_true();
    if (o->others && o->n < json_object_size(properties))
        schema_fault(s, "properties", "a property that is false cannot stand beside additionalProperties");
    check_counts(s, o, schema);
}

/* ---- expressions -------------------------------------------------------------------------------------------------- */

static void compile_members(struct schema *s, struct object *o)
{
    for (size_t i = 0; i < o->n && !s->code; i++) {
        struct property *p = &o->properties[i];
        json_t *name = json_string(p->name);
        size_t mark = schema_enter(s, "properties");
        schema_enter(s, p->name);
        p->member = member(s, schema_constant(s, name), schema_value(s, p->schema));
        schema_leave(s, mark);
        json_decref(name);
    }
}

static uint32_t as_rule(struct schema *s, uint32_t e)
{
    uint32_t rule = grammar_rule(s->b);
    grammar_rule_set(s->b, rule, e);
    return grammar_call(s->b, rule);
}

static uint32_t next_property(struct schema *s, const struct property *p)
{
    uint32_t e = schema_next(s, p->member);
    return p->required ? e : grammar_repeat(s->b, e, 0, 1);
}

/* What may stand between the braces. Properties up to the first that is required can each be the first one written, so they and what
 * follows each of them are rules; what comes later is a plain sequence. */
static uint32_t body(struct schema *s, struct object *o)
{
    uint32_t other = o->others ? as_rule(s, other_member(s, o)) : GRAMMAR_EMPTY;
    uint32_t others = o->others ? grammar_repeat(s->b, schema_next(s, other), 0, GRAMMAR_UNBOUNDED) : GRAMMAR_EMPTY;
    size_t first_required = 0;
    while (first_required < o->n && !o->properties[first_required].required)
        first_required++;
    uint32_t rest = GRAMMAR_EMPTY, e = GRAMMAR_EMPTY;
    for (size_t i = first_required + 1; i < o->n; i++)
        rest = grammar_sequence(s->b, rest, next_property(s, &o->properties[i]));
    rest = grammar_sequence(s->b, rest, others);
    if (first_required == o->n && o->others)
        e = grammar_sequence(s->b, other, others);
    bool any = first_required < o->n || o->others;
    for (size_t i = first_required < o->n ? first_required + 1 : o->n; i-- > 0;) {
        struct property *p = &o->properties[i];
        if (first_required > 0) {
            rest = as_rule(s, rest);
            p->member = as_rule(s, p->member);
        }
        uint32_t first = grammar_sequence(s->b, p->member, rest);
        e = i == first_required || (i + 1 == o->n && !any) ? first : grammar_choice(s->b, e, first);
        rest = grammar_sequence(s->b, next_property(s, p), rest);
    }
    e = grammar_sequence(s->b, e, o->n || o->others ? schema_rule(s, RULE_SPACE) : GRAMMAR_EMPTY);
    return first_required < o->n ? e : grammar_repeat(s->b, e, 0, 1);
}

uint32_t schema_object(struct schema *s, const json_t *schema)
{
    struct object *o = calloc(1, sizeof *o);
    if (!o)
        return schema_fault(s, NULL, "out of memory");
    read_object(s, o, schema);
    compile_members(s, o);
    uint32_t e = GRAMMAR_EMPTY;
    if (!s->code) {
        e = grammar_sequence(s->b, schema_text(s, "{"), schema_rule(s, RULE_SPACE));
        e = grammar_sequence(s->b, grammar_sequence(s->b, e, body(s, o)), schema_text(s, "}"));
    }
    free(o);
    return e;
}
