/*
 * Requests against tables: one table for each endpoint says of every field its type, bounds and default, and one function
 * checks a JSON object by it. All faults of a request are gathered, not only the first.
 */
#ifndef GATEWAY_FIELDS_H
#define GATEWAY_FIELDS_H

#include "gateway/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FIELDS_MAX_DEPTH 64     /* of arrays and objects in a request */
#define FIELDS_MAX_VALUES 65536 /* in a request, as commas and brackets tell */

enum field_type {
    FIELD_TEXT,   /* string; min..max characters, of the form `pattern` when there is one */
    FIELD_PROMPT, /* string; 1..the configured limit */
    FIELD_NAME,   /* string of A-Z a-z 0-9 _ -; at most max characters */
    FIELD_INT,    /* integer, min..max; 5.0 counts as 5 */
    FIELD_FLOAT,  /* number, min..max */
    FIELD_BOOL,
    FIELD_CHOICE,        /* string, one of `choices`; its index is stored */
    FIELD_TEXTS,         /* array of at most max strings of 1..each characters */
    FIELD_TEXT_OR_TEXTS, /* the same, or one such string */
    FIELD_WORDS,         /* string: words of `choices`, separated by commas; bit n of .i stands for word n */
    FIELD_OBJECT,        /* object, checked by the table `fields`, whose values go to the same struct */
    FIELD_JSON,          /* anything, `form` in words; the handler looks at it */
    FIELD_REFUSED,       /* defined by the API, not offered here: refused unless it says "off" as `choices` do */
};

/* Where a field's value goes. What is borrowed lives as long as the JSON. */
struct value {
    bool set; /* it was there (and not null) */
    bool truth;
    int64_t i; /* FIELD_INT, index of FIELD_CHOICE, set of FIELD_WORDS */
    double f;
    const char *text;
    const json_t *json;
};

struct field {
    const char *name; /* NULL ends the table */
    enum field_type type;
    size_t offset; /* of the struct value in the endpoint's struct */
    double min, max;
    double preset;       /* of numbers, FIELD_BOOL (0 or 1) and FIELD_CHOICE, when absent */
    const char *choices; /* "auto|cpu|gpu" */
    const char *proto;   /* the proto field's name where it differs; what stands behind the last dot counts */
    int each;
    bool required;
    const char *pattern; /* of FIELD_TEXT: a regular expression that POSIX (extended) and ECMA 262 read alike */
    const char *form;    /* what the pattern asks for, in words; of FIELD_JSON that is required: what it should be */
    const struct field *fields; /* of FIELD_OBJECT */
};

/* How a table is applied. */
struct fields_rules {
    bool strict; /* an unknown field is a fault; null is a wrong type. Else null means absent. */
    int64_t max_prompt_chars;
};

/* Parses a body into a JSON object (new reference in *root): type, depth, size, duplicate keys, UTF-8. */
bool fields_object(const char *body, size_t n_bytes, json_t **root, struct failure *f);
/* Checks `root` against the table and fills the struct of `struct value`s at `out`, which is zeroed here by field. Fields of objects are
 * named "object.field". */
bool fields_parse(const struct field *table, const json_t *root, const struct fields_rules *rules, void *out,
                  struct failure *f);
/* The name of the REST field for a proto field ("sampling.top_k" -> "top_k", "stop[2]" -> "stop_sequences"). Gives the
 * name itself (without path) when the table has none. `table` may be NULL. */
const char *fields_rest_name(const struct field *table, const char *proto_name, char *out, size_t n_out);
/* What a JSON value is, in a few words, for `actual`; never more than 40 characters of a string. */
const char *fields_describe(const json_t *v, char *out, size_t n_out);
/* A violation whose `actual` is v, or "nothing" where it is NULL; returns false. */
bool fields_fault(struct failure *f, enum error_code code, const char *field, const char *expected, const json_t *v);

#endif
