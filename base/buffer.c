/* The growing byte buffer of base/buffer.h. Capacity doubles, so appending is linear over time, and stops at the maximum. */
#include "base/buffer.h"

#include "base/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIN_CAPACITY 64

void buffer_init(struct buffer *b, size_t max_bytes)
{
    /* One byte less than SIZE_MAX, so that the NUL behind the bytes can always be counted. */
    *b = (struct buffer){.max_bytes = max_bytes < SIZE_MAX ? max_bytes : SIZE_MAX - 1};
}

void buffer_fini(struct buffer *b)
{
    free(b->data);
    buffer_init(b, b->max_bytes);
}

void buffer_clear(struct buffer *b)
{
    b->n_bytes = 0;
    b->failed = false;
    if (b->data)
        b->data[0] = '\0';
}

char *buffer_reserve(struct buffer *b, size_t n_bytes)
{
    if (n_bytes > b->max_bytes - b->n_bytes) {
        b->failed = true;
        return NULL;
    }
    size_t need = b->n_bytes + n_bytes + 1;
    if (need > b->capacity) {
        size_t capacity = b->capacity > SIZE_MAX / 2 ? need : 2 * b->capacity;
        if (capacity > b->max_bytes + 1)
            capacity = b->max_bytes + 1;
        if (capacity < MIN_CAPACITY)
            capacity = MIN_CAPACITY;
        if (capacity < need)
            capacity = need;
        char *data = realloc(b->data, capacity);
        if (!data) {
            b->failed = true;
            return NULL;
        }
        b->data = data;
        b->capacity = capacity;
    }
    b->data[b->n_bytes] = '\0';
    b->data[b->n_bytes + n_bytes] = '\0';
    return b->data + b->n_bytes;
}

bool buffer_append(struct buffer *b, const void *data, size_t n_bytes)
{
    char *to = buffer_reserve(b, n_bytes);
    if (!to)
        return false;
    if (n_bytes > 0)
        memcpy(to, data, n_bytes);
    b->n_bytes += n_bytes;
    return true;
}

bool buffer_append_str(struct buffer *b, const char *text)
{
    return buffer_append(b, text, strlen(text));
}

bool buffer_append_char(struct buffer *b, char c)
{
    return buffer_append(b, &c, 1);
}

bool buffer_printf(struct buffer *b, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0) {
        b->failed = true;
        return false;
    }
    char *to = buffer_reserve(b, (size_t)n);
    if (!to)
        return false;
    va_start(args, format);
    vsnprintf(to, (size_t)n + 1, format, args);
    va_end(args);
    b->n_bytes += (size_t)n;
    return true;
}

/* Length of the bytes at text[0..n_bytes) that may stand in a JSON string as they are. */
static size_t plain_run(const char *text, size_t n_bytes)
{
    size_t i = 0;
    while (i < n_bytes) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == '"' || c == '\\')
            break;
        size_t n = 1;
        if (c >= 0x80) {
            uint32_t code_point;
            n = utf8_decode(text + i, n_bytes - i, &code_point);
            if (n == 0)
                break;
        }
        i += n;
    }
    return i;
}

static bool append_escaped(struct buffer *b, unsigned char c)
{
    switch (c) {
    case '"':
        return buffer_append(b, "\\\"", 2);
    case '\\':
        return buffer_append(b, "\\\\", 2);
    case '\n':
        return buffer_append(b, "\\n", 2);
    case '\r':
        return buffer_append(b, "\\r", 2);
    case '\t':
        return buffer_append(b, "\\t", 2);
    default:
        if (c < 0x20)
            return buffer_printf(b, "\\u%04x", c);
        return buffer_append(b, "\xEF\xBF\xBD", 3); /* U+FFFD for each byte that is no UTF-8 */
    }
}

bool buffer_append_json(struct buffer *b, const char *text, size_t n_bytes)
{
    size_t before = b->n_bytes;
    bool ok = buffer_append(b, "", 0);
    for (size_t i = 0; ok && i < n_bytes;) {
        size_t run = plain_run(text + i, n_bytes - i);
        ok = buffer_append(b, text + i, run);
        i += run;
        if (ok && i < n_bytes)
            ok = append_escaped(b, (unsigned char)text[i++]);
    }
    if (!ok && b->data) {
        b->n_bytes = before;
        b->data[before] = '\0';
    }
    return ok;
}

void buffer_consume(struct buffer *b, size_t n_bytes)
{
    if (n_bytes > b->n_bytes)
        n_bytes = b->n_bytes;
    if (n_bytes == 0)
        return;
    b->n_bytes -= n_bytes;
    memmove(b->data, b->data + n_bytes, b->n_bytes);
    b->data[b->n_bytes] = '\0';
}

char *buffer_steal(struct buffer *b)
{
    char *data = b->data;
    if (data)
        data[b->n_bytes] = '\0'; /* what was reserved may have been filled in part only */
    buffer_init(b, b->max_bytes);
    return data;
}
