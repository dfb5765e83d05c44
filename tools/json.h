/*
 * A small strict reader of JSON (RFC 8259), for files that `bitnet` writes or converts: the whole text becomes a tree that is looked
 * up by name. Texts of up to 64 MB, 32 levels deep. Not for requests: the gateway has a library for those.
 */
#ifndef TOOLS_JSON_H
#define TOOLS_JSON_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

enum json_type { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json_value {
    enum json_type type;
    const char *name;   /* of a member of an object, else NULL */
    const char *string; /* JSON_STRING: UTF-8 without NUL inside */
    double number;      /* JSON_NUMBER; of JSON_BOOL 0 or 1; of the last two, how many there are in it */
    const struct json_value *first, *next; /* the first in it; the next beside it */
};

struct json;

/* Parses a text that is one value. VALIDATION_FAILED says at which line what was expected. The caller closes it. */
enum error_code json_open(const char *text, size_t n_bytes, struct json **out, struct error *err);
void json_close(struct json *j);
/* Borrowed, as all below it. */
const struct json_value *json_root(const struct json *j);

/* The member of an object; NULL when `v` is NULL or no object, or has none of that name. Of several the first. */
const struct json_value *json_member(const struct json_value *v, const char *name);

#endif
