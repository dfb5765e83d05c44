/* From `a=b&c=d` to a JSON object that a table can check. */
#include "gateway/query.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

/* application/x-www-form-urlencoded: '+' is a space. NULL when an escape is broken, or what it stands for is no text. */
static char *decode(const char *text, size_t n)
{
    char *out = malloc(n + 1);
    size_t to = 0;
    for (size_t i = 0; out && i < n; i++) {
        char c = text[i] == '+' ? ' ' : text[i];
        if (c == '%') {
            int byte = http_percent(text + i, n - i);
            if (byte <= 0) {
                free(out);
                return NULL;
            }
            c = (char)byte;
            i += 2;
        }
        out[to++] = c;
    }
    if (out)
        out[to] = '\0';
    if (out && !utf8_valid(out, to, NULL)) {
        free(out);
        return NULL;
    }
    return out;
}

/* The value as the type that the table says, where its text can be one; else the text, which the table's check then names. */
static json_t *typed(const struct field *table, const char *name, const char *text)
{
    while (table->name && strcmp(table->name, name) != 0)
        table++;
    if (table->name && table->type == FIELD_BOOL && strcmp(text, "true") == 0)
        return json_true();
    if (table->name && table->type == FIELD_BOOL && strcmp(text, "false") == 0)
        return json_false();
    return json_string(text);
}

/* One `name=value`. */
static bool add(json_t *object, const struct field *table, const char *text, size_t n, struct failure *f)
{
    size_t n_name = 0;
    while (n_name < n && text[n_name] != '=')
        n_name++;
    char *name = decode(text, n_name);
    char *value = n_name < n ? decode(text + n_name + 1, n - n_name - 1) : strdup("");
    bool ok = false;
    if (!name || !value)
        error_set(&f->error, ERROR_INVALID_REQUEST, "the query is not percent-encoded UTF-8");
    else if (json_object_get(object, name))
        failure_add(f, ERROR_VALIDATION_FAILED, name, "given once", "more than one");
    else if (json_object_size(object) == QUERY_MAX_PARAMS)
        error_set(&f->error, ERROR_INVALID_REQUEST, "the query has more than %d parameters", QUERY_MAX_PARAMS);
    else
        ok = json_object_set_new(object, name, typed(table, name, value)) == 0 ||
             (error_set(&f->error, ERROR_INTERNAL, "out of memory"), false);
    free(name);
    free(value);
    return ok;
}

bool query_parse(const struct request *r, const struct field *table, void *out, json_t **holder, struct failure *f)
{
    const struct fields_rules rules = {.strict = true};
    json_t *object = *holder = json_object();
    const char *p = r->http->query;
    if (!object) {
        error_set(&f->error, ERROR_INTERNAL, "out of memory");
        return false;
    }
    while (*p) {
        size_t n = strcspn(p, "&");
        if (n > 0 && !add(object, table, p, n, f))
            return false;
        p += n + (p[n] == '&');
    }
    return fields_parse(table, object, &rules, out, f);
}

bool query_empty(struct request *r)
{
    static const struct field none[] = {{0}};
    struct failure f;
    json_t *holder = NULL;
    if (r->http->query[0] == '\0')
        return true;
    failure_init(&f);
    bool ok = query_parse(r, none, NULL, &holder, &f);
    if (!ok)
        error_respond(r, &f);
    json_decref(holder);
    failure_fini(&f);
    return ok;
}
