/* What the files of the schema compiler share. */
#ifndef SERVICE_SCHEMA_PARTS_H
#define SERVICE_SCHEMA_PARTS_H

#include "service/schema.h"

#include <jansson.h>

#define SCHEMA_MAX_BYTES 131072
#define SCHEMA_MAX_DEPTH 64    /* of schemas inside of each other, references followed */
#define SCHEMA_MAX_PARTS 4000  /* schemas that are compiled, each as often as it is */
#define SCHEMA_MAX_COUNT 16384 /* of characters; longer strings are not made */
#define SCHEMA_MAX_ITEMS 2048  /* likewise of items */
#define SCHEMA_POINTER_BYTES 320

/* Rules that are made when they are first wanted. */
enum schema_rule {
    RULE_SPACE,
    RULE_STRING,
    RULE_NUMBER,
    RULE_INTEGER,
    RULE_VALUE,
    RULE_OBJECT,
    RULE_ARRAY,
    N_SCHEMA_RULES
};

struct schema_reference {
    const json_t *target;
    uint32_t rule;
};

struct schema {
    struct grammar_builder *b;
    const json_t *root;
    json_t *made; /* array: schemas that were put together of others */
    struct schema_reference *references;
    size_t n_references, references_capacity;
    uint32_t rules[N_SCHEMA_RULES];
    bool has_rule[N_SCHEMA_RULES];
    int depth;
    size_t n_parts;
    char pointer[SCHEMA_POINTER_BYTES]; /* of the schema at hand */
    const char *param; /* the request's field, for faults */
    struct error *err;
    enum error_code code; /* the first fault */
};

/* Notes the first fault, at `keyword` (may be NULL) of the schema at hand. Returns GRAMMAR_EMPTY. */
uint32_t schema_fault(struct schema *s, const char *keyword, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Goes to a part of the schema at hand and comes back: what schema_enter returns is given to schema_leave. */
size_t schema_enter(struct schema *s, const char *part);
size_t schema_enter_index(struct schema *s, const char *keyword, size_t i);
void schema_leave(struct schema *s, size_t mark);

/* Begins with an empty builder; false when memory is out, which is noted as a fault. Ended by schema_end. */
bool schema_begin(struct schema *s, const char *param, struct error *err);
/* Compiles `whole` unless there was a fault, frees what s holds, and returns the fault's code. */
enum error_code schema_end(struct schema *s, uint32_t whole, struct grammar **out);
/* The text of a schema; NULL after a fault. New reference. */
json_t *schema_parse(struct schema *s, const char *text, size_t n_bytes);

/* The expression of the values of a schema. */
uint32_t schema_value(struct schema *s, const json_t *schema);
/* A call of a rule of its values, for schemas that stand in several places. */
uint32_t schema_value_call(struct schema *s, const json_t *schema);

/* ---- combination (schema_merge.c) ---- */

bool schema_is_annotation(const char *keyword);
/* The schema itself, or what it refers to when it is nothing but a reference. NULL after a fault. */
const json_t *schema_resolve(struct schema *s, const json_t *schema);
/* The schema that a reference names; NULL after a fault. */
const json_t *schema_find(struct schema *s, const char *reference);
/* What both allow, as one schema, which s owns; NULL after a fault. */
const json_t *schema_merge(struct schema *s, const json_t *x, const json_t *y);
/* A copy without a keyword, which s owns; *any gets whether something is left that restricts values. */
const json_t *schema_without(struct schema *s, const json_t *schema, const char *keyword, bool *any);

/* ---- values (schema_values.c) ---- */

uint32_t schema_rule(struct schema *s, enum schema_rule rule); /* a call of it */
uint32_t schema_string(struct schema *s, const json_t *schema);
uint32_t schema_integer(struct schema *s, const json_t *schema);
uint32_t schema_number(struct schema *s, const json_t *schema);
/* One fixed value. */
uint32_t schema_constant(struct schema *s, const json_t *value);
uint32_t schema_text(struct schema *s, const char *text);
/* A number of things: the keyword's value, or `preset` where it is absent. */
uint32_t schema_count(struct schema *s, const json_t *schema, const char *keyword, uint32_t preset);

/* ---- objects and arrays (schema_object.c, schema_array.c) ---- */

uint32_t schema_object(struct schema *s, const json_t *schema);
uint32_t schema_array(struct schema *s, const json_t *schema);
/* An expression with a comma and white space in front. */
uint32_t schema_next(struct schema *s, uint32_t e);

#endif
