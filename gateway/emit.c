/* JSON text, value by value. */
#include "gateway/emit.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void comma(struct buffer *b)
{
    if (b->n_bytes == 0)
        return;
    unsigned char last = (unsigned char)b->data[b->n_bytes - 1];
    if (last == '"' || last == '}' || last == ']' || isalnum(last))
        buffer_append_char(b, ',');
}

void emit_open(struct buffer *b, char bracket)
{
    comma(b);
    buffer_append_char(b, bracket);
}

void emit_close(struct buffer *b, char bracket)
{
    buffer_append_char(b, bracket);
}

void emit_key(struct buffer *b, const char *key)
{
    emit_text(b, key);
    buffer_append_char(b, ':');
}

void emit_text(struct buffer *b, const char *text)
{
    emit_bytes(b, text, strlen(text));
}

void emit_bytes(struct buffer *b, const void *text, size_t n_bytes)
{
    comma(b);
    buffer_append_char(b, '"');
    buffer_append_json(b, text, n_bytes);
    buffer_append_char(b, '"');
}

/* By hand: a token's event has several numbers, and printf would take an eighth of the gateway's time. */
static void append_uint(struct buffer *b, uint64_t v)
{
    char text[20], *at = text + sizeof text;
    do
        *--at = (char)('0' + v % 10);
    while (v /= 10);
    buffer_append(b, at, (size_t)(text + sizeof text - at));
}

void emit_digits(struct buffer *b, int64_t v)
{
    if (v < 0)
        buffer_append_char(b, '-');
    append_uint(b, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
}

void emit_int(struct buffer *b, int64_t v)
{
    comma(b);
    emit_digits(b, v);
}

void emit_uint(struct buffer *b, uint64_t v)
{
    comma(b);
    append_uint(b, v);
}

void emit_bool(struct buffer *b, bool v)
{
    comma(b);
    buffer_append_str(b, v ? "true" : "false");
}

void emit_null(struct buffer *b)
{
    comma(b);
    buffer_append_str(b, "null");
}

void emit_float(struct buffer *b, float v)
{
    char text[32];
    if (!isfinite(v)) {
        emit_null(b);
        return;
    }
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)v);
        if (strtof(text, NULL) == v)
            break;
    }
    comma(b);
    buffer_append_str(b, text);
}

void emit_fixed(struct buffer *b, double v, int decimals)
{
    char text[352]; /* the largest double has 309 digits in front of the point */
    if (!isfinite(v)) {
        emit_null(b);
        return;
    }
    int n = snprintf(text, sizeof text, "%.*f", decimals, v);
    if (strchr(text, '.')) {
        while (n > 0 && text[n - 1] == '0')
            text[--n] = '\0';
        if (n > 0 && text[n - 1] == '.')
            text[--n] = '\0';
    }
    comma(b);
    buffer_append_str(b, strcmp(text, "-0") == 0 ? "0" : text);
}

void emit_text_if(struct buffer *b, const char *key, const char *text)
{
    if (!text || text[0] == '\0')
        return;
    emit_key(b, key);
    emit_text(b, text);
}

void emit_uint_if(struct buffer *b, const char *key, uint64_t v)
{
    if (v == 0)
        return;
    emit_key(b, key);
    emit_uint(b, v);
}

void emit_fixed_if(struct buffer *b, const char *key, bool known, double v, int decimals)
{
    if (!known)
        return;
    emit_key(b, key);
    emit_fixed(b, v, decimals);
}
