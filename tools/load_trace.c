/* Lines to numbers, strictly: what is not understood is an error with its line, never skipped. */
#include "tools/load_trace.h"

#include "base/buffer.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILE_BYTES (1 << 30)
#define MAX_LINE_BYTES 256

static const char *skip(const char *p)
{
    while (*p == ' ' || *p == '\t' || *p == ',' || *p == '\r')
        p++;
    return p;
}

/* The next number of a line; false when there is none, or more of it than blanks and commas end. */
static bool number(const char **p, double *out)
{
    char *end;
    *p = skip(*p);
    if (!isdigit((unsigned char)**p) && **p != '.')
        return false;
    *out = strtod(*p, &end);
    bool ended = strchr(" \t,\r", *end) != NULL; /* the line's NUL too */
    *p = end;
    return ended && isfinite(*out);
}

static bool tokens(const char **p, uint32_t *out)
{
    double v;
    if (!number(p, &v) || v < 1 || v > LOAD_MAX_TOKENS || v != floor(v))
        return false;
    *out = (uint32_t)v;
    return true;
}

/* One line without its comment; an empty one leaves *empty set. */
static const char *parse_line(const char *line, struct load_arrival *out, bool *empty)
{
    const char *p = skip(line);
    *empty = *p == '\0';
    if (*empty)
        return NULL;
    if (!number(&p, &out->time_s) || out->time_s > LOAD_MAX_TRACE_SECONDS)
        return "a time of 0..1e6 seconds";
    if (!tokens(&p, &out->prompt_tokens))
        return "a prompt of 1..1048576 tokens after the time";
    if (!tokens(&p, &out->max_tokens))
        return "1..1048576 tokens to generate after the prompt's";
    return *skip(p) == '\0' ? NULL : "three numbers";
}

static enum error_code append(struct load_trace *t, const struct load_arrival *a, struct error *err)
{
    if (t->n_arrivals == LOAD_MAX_TRACE_LINES)
        return error_set(err, ERROR_VALIDATION_FAILED, "a trace has at most %d requests", LOAD_MAX_TRACE_LINES);
    if ((t->n_arrivals & (t->n_arrivals - 1)) == 0) { /* a power of two is full */
        size_t room = t->n_arrivals ? 2 * t->n_arrivals : 1;
        struct load_arrival *more = realloc(t->arrivals, room * sizeof *more);
        if (!more)
            return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a trace");
        t->arrivals = more;
    }
    t->arrivals[t->n_arrivals++] = *a;
    return ERROR_NONE;
}

enum error_code load_trace_parse(const char *text, size_t n_bytes, struct load_trace *out, struct error *err)
{
    const char *end = text + n_bytes;
    char line[MAX_LINE_BYTES];
    *out = (struct load_trace){0};
    for (size_t n = 1; text < end; n++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text)), *next = stop ? stop + 1 : end;
        const char *comment = memchr(text, '#', (size_t)(next - text));
        size_t length = (size_t)((comment ? comment : stop ? stop : end) - text);
        struct load_arrival a;
        bool empty;
        if (length >= sizeof line || memchr(text, '\0', length))
            return error_set(err, ERROR_VALIDATION_FAILED, "line %zu: expected text of at most %d characters", n,
                             MAX_LINE_BYTES - 1);
        memcpy(line, text, length);
        line[length] = '\0';
        const char *expected = parse_line(line, &a, &empty);
        if (!expected && !empty && out->n_arrivals && a.time_s < out->arrivals[out->n_arrivals - 1].time_s)
            expected = "a time that is not before the last line's";
        if (expected)
            return error_set(err, ERROR_VALIDATION_FAILED, "line %zu: expected %s, found '%s'", n, expected, line);
        enum error_code code = empty ? ERROR_NONE : append(out, &a, err);
        if (code)
            return code;
        text = next;
    }
    return out->n_arrivals ? ERROR_NONE
                           : error_set(err, ERROR_VALIDATION_FAILED, "expected at least one request, found none");
}

enum error_code load_trace_read(const char *path, struct load_trace *out, struct error *err)
{
    struct buffer text;
    char chunk[65536];
    size_t n;
    *out = (struct load_trace){0};
    FILE *f = fopen(path, "re");
    if (!f)
        return error_set(err, ERROR_NOT_FOUND, "cannot open %s: %s", path, strerror(errno));
    buffer_init(&text, MAX_FILE_BYTES);
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0 && buffer_append(&text, chunk, n))
        ;
    enum error_code code = ERROR_NONE;
    if (ferror(f) || text.failed)
        code = error_set(err, ERROR_INTERNAL, "cannot read %s: %s", path,
                         text.failed ? "it is too large" : strerror(errno));
    else if (load_trace_parse(text.data ? text.data : "", text.n_bytes, out, err))
        code = error_prefix(err, "%s", path);
    fclose(f);
    buffer_fini(&text);
    return code;
}

void load_trace_free(struct load_trace *t)
{
    free(t->arrivals);
    *t = (struct load_trace){0};
}
