/* The checking of JSON objects by tables. */
#include "gateway/fields.h"

#include "base/utf8.h"

#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <string.h>

/* ---- text to JSON ---- */

/* Depth and number of values without building them: jansson recurses and allocates for each. */
static const char *measure(const char *body, size_t n_bytes)
{
    size_t depth = 0, n_values = 0;
    bool quoted = false;
    for (size_t i = 0; i < n_bytes; i++) {
        char c = body[i];
        if (quoted) {
            if (c == '\\')
                i++;
            else if (c == '"')
                quoted = false;
        } else if (c == '"') {
            quoted = true;
        } else if (c == '[' || c == '{') {
            n_values++;
            if (++depth > FIELDS_MAX_DEPTH)
                return "the JSON is nested more than 64 levels deep";
        } else if (c == ']' || c == '}') {
            depth -= depth > 0;
        } else if (c == ',') {
            n_values++;
        }
        if (n_values > FIELDS_MAX_VALUES)
            return "the JSON has more than 65536 values";
    }
    return NULL;
}

bool fields_object(const char *body, size_t n_bytes, json_t **root, struct failure *f)
{
    json_error_t why;
    *root = NULL;
    const char *fault = measure(body, n_bytes);
    if (fault) {
        error_set(&f->error, ERROR_INVALID_REQUEST, "%s", fault);
        return false;
    }
    json_t *j = json_loadb(body, n_bytes, JSON_REJECT_DUPLICATES, &why);
    if (!j) {
        /* jansson quotes what it found; a prompt has no place in an error, so only the place is told. */
        error_set(&f->error, ERROR_INVALID_REQUEST, "the body is not valid JSON (line %d, column %d)", why.line,
                  why.column);
        return false;
    }
    if (!json_is_object(j)) {
        error_set(&f->error, ERROR_INVALID_REQUEST, "the body must be a JSON object");
        json_decref(j);
        return false;
    }
    *root = j;
    return true;
}

const char *fields_describe(const json_t *v, char *out, size_t n_out)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        snprintf(out, n_out, "an object");
        break;
    case JSON_ARRAY:
        snprintf(out, n_out, "an array of %zu", json_array_size(v));
        break;
    case JSON_STRING: {
        size_t n = utf8_length(json_string_value(v), json_string_length(v));
        if (n <= 40)
            snprintf(out, n_out, "\"%s\"", json_string_value(v));
        else
            snprintf(out, n_out, "a string of %zu characters", n);
        break;
    }
    case JSON_INTEGER:
        snprintf(out, n_out, "%lld", (long long)json_integer_value(v));
        break;
    case JSON_REAL:
        snprintf(out, n_out, "%g", json_real_value(v));
        break;
    default:
        snprintf(out, n_out, "%s", json_is_null(v) ? "null" : json_is_true(v) ? "true" : "false");
    }
    return out;
}

/* ---- one field ---- */

#define NAME_BYTES 96

struct context {
    const struct field *field;
    const struct fields_rules *rules;
    const char *inside; /* name of the object that the field is in, NULL = the body itself */
    void *out;
    struct failure *f;
};

/* "object.field", or the field's name alone. */
static const char *full_name(const char *inside, const char *name, char out[NAME_BYTES])
{
    snprintf(out, NAME_BYTES, "%s%s%s", inside ? inside : "", inside ? "." : "", name);
    out[utf8_complete(out, strlen(out))] = '\0';
    return out;
}

/* `v` NULL: the field is absent and must not be. */
static bool fault(const struct context *c, enum error_code code, const json_t *v, const char *expected)
{
    char actual[224], name[NAME_BYTES];
    failure_add(c->f, v ? code : ERROR_VALIDATION_FAILED, full_name(c->inside, c->field->name, name), expected,
                v ? fields_describe(v, actual, sizeof actual) : "nothing");
    return false;
}

/* A pattern that cannot be compiled, for want of memory, lets nothing through. */
static bool matches(const char *pattern, const char *text)
{
    regex_t re;
    if (regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB) != 0)
        return false;
    bool found = regexec(&re, text, 0, NULL, 0) == 0;
    regfree(&re);
    return found;
}

static bool check_text(const struct context *c, const json_t *v, double min, double max, struct value *out)
{
    char expected[96];
    snprintf(expected, sizeof expected, "a string of %.0f..%.0f characters", min, max);
    if (!json_is_string(v))
        return fault(c, ERROR_INVALID_REQUEST, v, expected);
    size_t n = utf8_length(json_string_value(v), json_string_length(v));
    if ((double)n < min || (double)n > max)
        return fault(c, ERROR_VALIDATION_FAILED, v, expected);
    if (c->field->pattern && !matches(c->field->pattern, json_string_value(v)))
        return fault(c, ERROR_VALIDATION_FAILED, v, c->field->form);
    out->text = json_string_value(v);
    return true;
}

static bool check_name(const struct context *c, const json_t *v, struct value *out)
{
    const char *allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    char expected[96];
    snprintf(expected, sizeof expected, "a name of at most %.0f letters, digits, _ and -", c->field->max);
    if (!json_is_string(v))
        return fault(c, ERROR_INVALID_REQUEST, v, expected);
    const char *text = json_string_value(v);
    size_t n = json_string_length(v);
    if (n == 0 || (double)n > c->field->max || strspn(text, allowed) != n)
        return fault(c, ERROR_VALIDATION_FAILED, v, expected);
    out->text = text;
    return true;
}

static bool check_number(const struct context *c, const json_t *v, struct value *out)
{
    bool whole = c->field->type == FIELD_INT;
    char expected[96];
    snprintf(expected, sizeof expected, "%s from %.12g to %.12g", whole ? "an integer" : "a number", c->field->min,
             c->field->max);
    if (!json_is_number(v))
        return fault(c, ERROR_INVALID_REQUEST, v, expected);
    double number = json_number_value(v);
    if (whole && number != floor(number))
        return fault(c, ERROR_INVALID_REQUEST, v, expected);
    if (number < c->field->min || number > c->field->max)
        return fault(c, ERROR_VALIDATION_FAILED, v, expected);
    out->f = number;
    /* The bounds of all tables are exact as doubles; an integer's own value may not be. */
    out->i = json_is_integer(v) ? (int64_t)json_integer_value(v) : (int64_t)number;
    return true;
}

/* Index of `text` in "a|b|c", or -1. */
static int choice_index(const char *choices, const char *text)
{
    size_t n_text = strlen(text);
    int index = 0;
    for (const char *p = choices; *p; index++) {
        size_t n = strcspn(p, "|");
        if (n == n_text && memcmp(p, text, n) == 0)
            return index;
        p += n + (p[n] == '|');
    }
    return -1;
}

static bool check_choice(const struct context *c, const json_t *v, struct value *out)
{
    char expected[96];
    snprintf(expected, sizeof expected, "one of %s", c->field->choices);
    if (!json_is_string(v))
        return fault(c, ERROR_INVALID_REQUEST, v, expected);
    out->i = choice_index(c->field->choices, json_string_value(v));
    return out->i >= 0 || fault(c, ERROR_VALIDATION_FAILED, v, expected);
}

/* The words of a list as a set. A word that stands twice counts once. */
static bool check_words(const struct context *c, const json_t *v, struct value *out)
{
    char expected[96], word[32];
    snprintf(expected, sizeof expected, "words of %s, separated by commas", c->field->choices);
    if (!json_is_string(v))
        return fault(c, ERROR_INVALID_REQUEST, v, expected);
    out->i = 0;
    const char *p = json_string_value(v);
    for (bool more = true; more;) {
        size_t n = strcspn(p, ",");
        snprintf(word, sizeof word, "%.*s", (int)(n < sizeof word ? n : sizeof word - 1), p);
        int index = choice_index(c->field->choices, word);
        if (index < 0)
            return fault(c, ERROR_VALIDATION_FAILED, v, expected);
        out->i |= INT64_C(1) << index;
        more = p[n] == ',';
        p += n + more;
    }
    return true;
}

static bool check_texts(const struct context *c, const json_t *v, struct value *out)
{
    char expected[96];
    if (c->field->type == FIELD_TEXT_OR_TEXTS && json_is_string(v))
        return check_text(c, v, 1, c->field->each, out);
    snprintf(expected, sizeof expected, "at most %.0f strings of 1..%d characters", c->field->max, c->field->each);
    if (!json_is_array(v))
        return fault(c, ERROR_INVALID_REQUEST, v, expected);
    if ((double)json_array_size(v) > c->field->max)
        return fault(c, ERROR_VALIDATION_FAILED, v, expected);
    struct value ignored;
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!check_text(c, json_array_get(v, i), 1, c->field->each, &ignored))
            return false;
    return true;
}

/* Values that ask for nothing are let through: false, 0, an empty array, and the words in `choices`. */
static bool check_refused(const struct context *c, const json_t *v)
{
    if (json_is_false(v) || (json_is_array(v) && json_array_size(v) == 0) ||
        (json_is_integer(v) && json_integer_value(v) == 0) ||
        (json_is_string(v) && c->field->choices && choice_index(c->field->choices, json_string_value(v)) >= 0))
        return true;
    failure_add(c->f, ERROR_VALIDATION_FAILED, c->field->name, "this server does not offer it; leave it out", NULL);
    return false;
}

static bool parse(const struct field *table, const json_t *root, const struct fields_rules *rules, const char *inside,
                  void *out, struct failure *f);

static bool check_object(const struct context *c, const json_t *v)
{
    char name[NAME_BYTES];
    if (!json_is_object(v))
        return fault(c, ERROR_INVALID_REQUEST, v, "an object");
    return parse(c->field->fields, v, c->rules, full_name(c->inside, c->field->name, name), c->out, c->f);
}

static bool check(const struct context *c, const json_t *v, struct value *out)
{
    switch (c->field->type) {
    case FIELD_TEXT:
        return check_text(c, v, c->field->min, c->field->max, out);
    case FIELD_PROMPT:
        return check_text(c, v, 1, (double)c->rules->max_prompt_chars, out);
    case FIELD_NAME:
        return check_name(c, v, out);
    case FIELD_INT:
    case FIELD_FLOAT:
        return check_number(c, v, out);
    case FIELD_BOOL:
        out->truth = json_is_true(v);
        return json_is_boolean(v) || fault(c, ERROR_INVALID_REQUEST, v, "true or false");
    case FIELD_CHOICE:
        return check_choice(c, v, out);
    case FIELD_TEXTS:
    case FIELD_TEXT_OR_TEXTS:
        return check_texts(c, v, out);
    case FIELD_WORDS:
        return check_words(c, v, out);
    case FIELD_OBJECT:
        return check_object(c, v);
    case FIELD_REFUSED:
        return check_refused(c, v);
    case FIELD_JSON:
        return v || fault(c, ERROR_VALIDATION_FAILED, v, c->field->form);
    }
    return false;
}

/* ---- the object ---- */

static const struct field *find(const struct field *table, const char *name)
{
    for (const struct field *field = table; field->name; field++)
        if (strcmp(field->name, name) == 0)
            return field;
    return NULL;
}

static void check_unknown(const struct field *table, const json_t *root, const char *inside, struct failure *f)
{
    const char *key;
    json_t *v;
    char name[NAME_BYTES], actual[224];
    json_object_foreach((json_t *)(uintptr_t)root, key, v)
    {
        if (!find(table, key))
            failure_add(f, ERROR_VALIDATION_FAILED, full_name(inside, key, name), "no such field",
                        fields_describe(v, actual, sizeof actual));
    }
}

/* `root` NULL: the object is absent, and its fields take their presets. */
static bool parse(const struct field *table, const json_t *root, const struct fields_rules *rules, const char *inside,
                  void *out, struct failure *f)
{
    int n_before = f->n_violations;
    for (const struct field *field = table; field->name; field++) {
        struct value *value = (struct value *)((char *)out + field->offset);
        const struct context c = {field, rules, inside, out, f};
        const json_t *v = json_object_get(root, field->name);
        if (v && json_is_null(v) && !rules->strict)
            v = NULL;
        *value = (struct value){.f = field->preset, .i = (int64_t)field->preset, .json = v};
        value->truth = field->type == FIELD_BOOL && field->preset != 0;
        if (v)
            value->set = check(&c, v, value);
        else if (field->required && root)
            check(&c, NULL, value); /* says what it should be */
        else if (field->type == FIELD_OBJECT)
            parse(field->fields, NULL, rules, field->name, out, f);
    }
    if (rules->strict && root)
        check_unknown(table, root, inside, f);
    return f->n_violations == n_before;
}

bool fields_parse(const struct field *table, const json_t *root, const struct fields_rules *rules, void *out,
                  struct failure *f)
{
    return parse(table, root, rules, NULL, out, f);
}

const char *fields_rest_name(const struct field *table, const char *proto_name, char *out, size_t n_out)
{
    const char *dot = strrchr(proto_name, '.');
    snprintf(out, n_out, "%s", dot ? dot + 1 : proto_name);
    out[strcspn(out, "[")] = '\0';
    for (const struct field *field = table; field && field->name; field++)
        if (strcmp(field->proto ? field->proto : field->name, out) == 0)
            return field->name;
    return out;
}

bool fields_fault(struct failure *f, enum error_code code, const char *field, const char *expected, const json_t *v)
{
    char actual[224];
    failure_add(f, code, field, expected, v ? fields_describe(v, actual, sizeof actual) : "nothing");
    return false;
}
