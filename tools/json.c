/* See json.h. Values lie in one array, which is as long as the text could need; strings are decoded into one buffer, which is
 * never longer than the text. */
#include "tools/json.h"

#include "base/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BYTES ((size_t)64 << 20)
#define MAX_DEPTH 32

struct json {
    struct json_value *values;
    size_t n_values, max_values;
    char *text, *strings, *string_end;
};

struct reader {
    struct json *json;
    const char *at, *begin;
    const char *expected; /* what was not there; NULL = no error */
    int depth;
};

static bool fail(struct reader *r, const char *expected)
{
    if (!r->expected)
        r->expected = expected;
    return false;
}

static void skip_space(struct reader *r)
{
    r->at += strspn(r->at, " \t\r\n");
}

static bool take(struct reader *r, char c)
{
    skip_space(r);
    if (*r->at != c)
        return false;
    r->at++;
    return true;
}

/* Four hexadecimal digits, or -1. */
static long read_hex(const char *p)
{
    long v = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (digit < 0)
            return -1;
        v = 16 * v + digit;
    }
    return v;
}

static void put(struct reader *r, char byte)
{
    *r->json->string_end++ = byte;
}

/* Behind "\u"; a pair of surrogates is one character. */
static bool read_unicode(struct reader *r)
{
    long c = read_hex(r->at), low;
    if (c <= 0 || (c >= 0xdc00 && c < 0xe000))
        return fail(r, "four hexadecimal digits of a character");
    r->at += 4;
    if (c >= 0xd800 && c < 0xdc00) {
        low = r->at[0] == '\\' && r->at[1] == 'u' ? read_hex(r->at + 2) : -1;
        if (low < 0xdc00 || low >= 0xe000)
            return fail(r, "the second half of a surrogate pair");
        r->at += 6;
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    }
    r->json->string_end += utf8_encode((uint32_t)c, r->json->string_end);
    return true;
}

/* Behind the opening quote. */
static bool read_string(struct reader *r, const char **out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    *out = r->json->string_end;
    while (*r->at != '"') {
        if ((unsigned char)*r->at < 0x20)
            return fail(r, "the end of a string");
        if (*r->at != '\\') {
            put(r, *r->at++);
            continue;
        }
        char c = *++r->at;
        const char *found = c ? strchr(from, c) : NULL;
        if (!found && c != 'u')
            return fail(r, "an escape");
        r->at++;
        if (found)
            put(r, to[found - from]);
        else if (!read_unicode(r))
            return false;
    }
    r->at++;
    put(r, '\0');
    return true;
}

static size_t count_digits(const char *p)
{
    return strspn(p, "0123456789");
}

static bool read_number(struct reader *r, double *out)
{
    const char *p = r->at + (*r->at == '-');
    size_t n = count_digits(p);
    if (n == 0 || (n > 1 && *p == '0'))
        return fail(r, "a value");
    p += n;
    if (*p == '.') {
        if (!(n = count_digits(p + 1)))
            return fail(r, "digits behind a point");
        p += 1 + n;
    }
    if (*p == 'e' || *p == 'E') {
        p += 1 + (p[1] == '+' || p[1] == '-');
        if (!(n = count_digits(p)))
            return fail(r, "digits of an exponent");
        p += n;
    }
    *out = strtod(r->at, NULL);
    if (!isfinite(*out))
        return fail(r, "a number within a double's range");
    r->at = p;
    return true;
}

static bool read_value(struct reader *r, struct json_value *v);

/* Behind '[' or '{', up to and with `close`. */
static bool read_inside(struct reader *r, struct json_value *parent, char close)
{
    const struct json_value **link = &parent->first;
    if (++r->depth > MAX_DEPTH)
        return fail(r, "fewer levels");
    for (bool more = !take(r, close); more; more = !take(r, close)) {
        if (parent->first && !take(r, ','))
            return fail(r, close == ']' ? "',' or ']'" : "',' or '}'");
        struct json_value *v = &r->json->values[r->json->n_values++];
        const char *name = NULL;
        if (close == '}' && !(take(r, '"') ? read_string(r, &name) : fail(r, "a name in quotes")))
            return false;
        if (close == '}' && !take(r, ':'))
            return fail(r, "':'");
        if (!read_value(r, v))
            return false;
        v->name = name;
        *link = v;
        link = &v->next;
        parent->number++;
    }
    r->depth--;
    return true;
}

static bool read_word(struct reader *r, struct json_value *v)
{
    static const struct {
        const char *word;
        enum json_type type;
        double number;
    } words[] = {{"null", JSON_NULL, 0}, {"true", JSON_BOOL, 1}, {"false", JSON_BOOL, 0}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        size_t n = strlen(words[i].word);
        if (strncmp(r->at, words[i].word, n) == 0) {
            *v = (struct json_value){.type = words[i].type, .number = words[i].number};
            r->at += n;
            return true;
        }
    }
    return false;
}

static bool read_value(struct reader *r, struct json_value *v)
{
    skip_space(r);
    *v = (struct json_value){.type = JSON_NUMBER};
    if (take(r, '{')) {
        v->type = JSON_OBJECT;
        return read_inside(r, v, '}');
    }
    if (take(r, '[')) {
        v->type = JSON_ARRAY;
        return read_inside(r, v, ']');
    }
    if (take(r, '"')) {
        v->type = JSON_STRING;
        return read_string(r, &v->string);
    }
    return read_word(r, v) || read_number(r, &v->number);
}

/* A value takes a byte at least, and all but the first one a comma, bracket or brace before it. */
static struct json *alloc(const char *text, size_t n_bytes)
{
    struct json *j = calloc(1, sizeof *j);
    if (!j)
        return NULL;
    j->max_values = 1;
    for (size_t i = 0; i < n_bytes; i++)
        j->max_values += text[i] == ',' || text[i] == '[' || text[i] == '{';
    j->values = calloc(j->max_values, sizeof *j->values);
    j->text = malloc(n_bytes + 1);
    j->strings = j->string_end = malloc(n_bytes + 1);
    if (!j->values || !j->text || !j->strings) {
        json_close(j);
        return NULL;
    }
    memcpy(j->text, text, n_bytes);
    j->text[n_bytes] = '\0';
    return j;
}

enum error_code json_open(const char *text, size_t n_bytes, struct json **out, struct error *err)
{
    *out = NULL;
    if (n_bytes > MAX_BYTES || (n_bytes && memchr(text, 0, n_bytes)) || !utf8_valid(text, n_bytes, NULL))
        return error_set(err, ERROR_VALIDATION_FAILED, "expected at most %zu bytes of JSON in UTF-8 without NUL",
                         MAX_BYTES);
    struct json *j = alloc(text, n_bytes);
    if (!j)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory to read %zu bytes of JSON", n_bytes);
    struct reader r = {.json = j, .at = j->text, .begin = j->text};
    j->n_values = 1;
    if (read_value(&r, &j->values[0])) {
        skip_space(&r);
        if (*r.at)
            fail(&r, "nothing more");
    }
    if (r.expected) {
        size_t line = 1;
        for (const char *p = r.begin; p < r.at; p++)
            line += *p == '\n';
        json_close(j);
        return error_set(err, ERROR_VALIDATION_FAILED, "JSON: expected %s in line %zu", r.expected, line);
    }
    *out = j;
    return ERROR_NONE;
}

void json_close(struct json *j)
{
    if (!j)
        return;
    free(j->values);
    free(j->text);
    free(j->strings);
    free(j);
}

const struct json_value *json_root(const struct json *j)
{
    return &j->values[0];
}

const struct json_value *json_member(const struct json_value *v, const char *name)
{
    const struct json_value *m = v && v->type == JSON_OBJECT ? v->first : NULL;
    while (m && strcmp(m->name, name) != 0)
        m = m->next;
    return m;
}
