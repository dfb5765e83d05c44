/*
 * A growing byte buffer with a maximum that is set when it is made: nothing in the product grows without a bound.
 * Not thread-safe; one owner.
 */
#ifndef BASE_BUFFER_H
#define BASE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer {
    char *data; /* owned; always followed by a NUL that is not counted, once anything was appended */
    size_t n_bytes;
    size_t capacity;
    size_t max_bytes;
    bool failed; /* an append did not fit or memory ran out; sticky until buffer_clear */
};

/* Makes an empty buffer that never holds more than max_bytes. Allocates nothing yet. */
void buffer_init(struct buffer *b, size_t max_bytes);

/* Frees the memory; the buffer is as after buffer_init. */
void buffer_fini(struct buffer *b);

/* Empties it (keeps the memory) and clears `failed`. */
void buffer_clear(struct buffer *b);

/* Appends; on overflow of max_bytes or out of memory nothing is appended, `failed` is set and false returned. */
bool buffer_append(struct buffer *b, const void *data, size_t n_bytes);
bool buffer_append_str(struct buffer *b, const char *text);
bool buffer_append_char(struct buffer *b, char c);
bool buffer_printf(struct buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Appends `text` as the inside of a JSON string (quotes not included): escapes ", \, control characters, and replaces
 * invalid UTF-8 by U+FFFD. */
bool buffer_append_json(struct buffer *b, const char *text, size_t n_bytes);

/* Drops the first n_bytes (at most all). */
void buffer_consume(struct buffer *b, size_t n_bytes);

/* Makes room for n_bytes more and returns where they go, or NULL; the caller adds to b->n_bytes what it wrote. */
char *buffer_reserve(struct buffer *b, size_t n_bytes);

/* Gives the bytes away (NUL-terminated, to be freed with free) and empties the buffer; NULL when nothing was appended. */
char *buffer_steal(struct buffer *b);

#endif
