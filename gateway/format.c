/* See format.h. */
#include "gateway/format.h"

#include <stdlib.h>
#include <string.h>

static bool is(const json_t *format, const char *type)
{
    const char *found = json_string_value(json_object_get(format, "type"));
    return found && strcmp(found, type) == 0;
}

bool format_check(const json_t *format, struct failure *f)
{
    if (!format || is(format, "text") || is(format, "json_object"))
        return true;
    if (!json_is_object(format))
        return fields_fault(f, ERROR_INVALID_REQUEST, "response_format", "an object", format);
    if (is(format, "regex")) {
        const json_t *pattern = json_object_get(format, "pattern");
        return json_is_string(pattern) ||
               fields_fault(f, ERROR_INVALID_REQUEST, "response_format.pattern", "a regular expression as a string",
                            pattern);
    }
    if (!is(format, "json_schema"))
        return fields_fault(f, ERROR_VALIDATION_FAILED, "response_format.type", "text, json_object, json_schema or regex",
                            json_object_get(format, "type"));
    const json_t *named = json_object_get(format, "json_schema"), *schema = json_object_get(named, "schema");
    if (!json_is_object(named))
        return fields_fault(f, ERROR_INVALID_REQUEST, "response_format.json_schema", "an object with a schema", named);
    return json_is_object(schema) || json_is_boolean(schema) ||
           fields_fault(f, ERROR_INVALID_REQUEST, "response_format.json_schema.schema", "a JSON Schema", schema);
}

bool format_fill(const json_t *format, Bitnet__V1__ResponseFormat *out, char **text, bool *ok)
{
    *text = NULL;
    *ok = true;
    if (!format || is(format, "text"))
        return false;
    if (is(format, "json_object")) {
        out->format_case = BITNET__V1__RESPONSE_FORMAT__FORMAT_JSON_OBJECT;
        out->json_object = true;
    } else if (is(format, "regex")) {
        out->format_case = BITNET__V1__RESPONSE_FORMAT__FORMAT_REGEX;
        out->regex = (char *)(uintptr_t)json_string_value(json_object_get(format, "pattern"));
    } else {
        const json_t *schema = json_object_get(json_object_get(format, "json_schema"), "schema");
        *text =
            json_dumps(schema, JSON_COMPACT | JSON_ENCODE_ANY); /* in the order of its keys, which the answer follows */
        *ok = *text != NULL;
        out->format_case = BITNET__V1__RESPONSE_FORMAT__FORMAT_JSON_SCHEMA;
        out->json_schema = *text;
    }
    return *ok;
}
