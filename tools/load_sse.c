/* Lines, their fields, and JSON by its strings: whatever else a text holds, a member's name is a string with a colon behind it. */
#include "tools/load_sse.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void load_sse_init(struct load_sse *s, void *user,
                   bool (*on_event)(void *user, const char *name, const char *data, size_t n_bytes))
{
    *s = (struct load_sse){.user = user, .on_event = on_event};
    buffer_init(&s->line, LOAD_SSE_MAX_EVENT_BYTES);
    buffer_init(&s->data, LOAD_SSE_MAX_EVENT_BYTES);
}

void load_sse_fini(struct load_sse *s)
{
    buffer_fini(&s->line);
    buffer_fini(&s->data);
}

void load_sse_reset(struct load_sse *s)
{
    s->name[0] = '\0';
    s->after_cr = s->has_data = false;
    buffer_clear(&s->line);
    buffer_clear(&s->data);
}

static bool dispatch(struct load_sse *s)
{
    bool go_on = !s->has_data || s->on_event(s->user, s->name, s->data.data ? s->data.data : "", s->data.n_bytes);
    s->name[0] = '\0';
    s->has_data = false;
    buffer_clear(&s->data);
    return go_on;
}

/* A field's value when the line has that name. */
static bool field(const char *line, size_t n, const char *name, const char **value, size_t *n_value)
{
    size_t n_name = strlen(name);
    if (n < n_name || memcmp(line, name, n_name) != 0 || (n > n_name && line[n_name] != ':'))
        return false;
    size_t at = n > n_name ? n_name + 1 : n;
    at += at < n && line[at] == ' ';
    *value = line + at;
    *n_value = n - at;
    return true;
}

static bool take_line(struct load_sse *s, const char *line, size_t n)
{
    const char *value;
    size_t n_value;
    if (n == 0)
        return dispatch(s);
    if (field(line, n, "data", &value, &n_value)) {
        if (s->has_data)
            buffer_append_char(&s->data, '\n');
        s->has_data = true;
        if (n_value > 0)
            buffer_append(&s->data, value, n_value);
    } else if (field(line, n, "event", &value, &n_value)) {
        snprintf(s->name, sizeof s->name, "%.*s", (int)(n_value < sizeof s->name ? n_value : sizeof s->name), value);
    } /* comments, ids and what else there may be say nothing here */
    return !s->data.failed;
}

bool load_sse_feed(struct load_sse *s, const char *bytes, size_t n_bytes)
{
    const char *end = bytes + n_bytes;
    while (bytes < end) {
        if (s->after_cr && *bytes == '\n') { /* the second half of a line's end */
            s->after_cr = false;
            bytes++;
            continue;
        }
        s->after_cr = false;
        const char *stop = bytes;
        while (stop < end && *stop != '\n' && *stop != '\r')
            stop++;
        if (stop == end)
            return buffer_append(&s->line, bytes, (size_t)(end - bytes));
        s->after_cr = *stop == '\r';
        bool whole = s->line.n_bytes == 0; /* most lines need no copy */
        if (!whole && stop > bytes && !buffer_append(&s->line, bytes, (size_t)(stop - bytes)))
            return false;
        bool go_on = whole ? take_line(s, bytes, (size_t)(stop - bytes)) : take_line(s, s->line.data, s->line.n_bytes);
        buffer_clear(&s->line);
        if (!go_on)
            return false;
        bytes = stop + 1;
    }
    return true;
}

/* ---- JSON ---- */

/* The closing quote of the string whose inside begins at p, or NULL. */
static const char *string_end(const char *p, const char *end)
{
    for (; p < end && *p != '"'; p++)
        if (*p == '\\' && p + 1 < end)
            p++;
    return p < end ? p : NULL;
}

static const char *blanks(const char *p, const char *end)
{
    while (p < end && isspace((unsigned char)*p))
        p++;
    return p;
}

/* Where the value of the next member called `name` begins, from p on, or NULL. */
static const char *member(const char *p, const char *end, const char *name)
{
    size_t n_name = strlen(name);
    while (p < end && (p = memchr(p, '"', (size_t)(end - p)))) {
        const char *from = p + 1, *stop = string_end(from, end);
        if (!stop)
            return NULL;
        p = blanks(stop + 1, end);
        if (p < end && *p == ':' && (size_t)(stop - from) == n_name && memcmp(from, name, n_name) == 0)
            return blanks(p + 1, end);
    }
    return NULL;
}

bool load_json_string(const char *json, size_t n_bytes, const char *name, const char **value, size_t *n_value)
{
    const char *end = json + n_bytes;
    for (const char *p = json; (p = member(p, end, name));) {
        const char *stop = p < end && *p == '"' ? string_end(p + 1, end) : NULL;
        if (!stop)
            continue;
        *value = p + 1;
        *n_value = (size_t)(stop - p - 1);
        return true;
    }
    return false;
}

bool load_json_number(const char *json, size_t n_bytes, const char *name, double *value)
{
    const char *end = json + n_bytes;
    for (const char *p = json; (p = member(p, end, name));) {
        char text[32] = "", *stop;
        memcpy(text, p, (size_t)(end - p) < sizeof text - 1 ? (size_t)(end - p) : sizeof text - 1);
        *value = strtod(text, &stop);
        if (p < end && (isdigit((unsigned char)*p) || *p == '-') && stop > text)
            return true;
    }
    return false;
}
