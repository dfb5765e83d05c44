/*
 * Writes JSON straight into a buffer. Commas come by themselves: one is put wherever the last byte ends a value.
 *
 *   emit_open(b, '{'); emit_key(b, "a"); emit_int(b, 1); emit_key(b, "b"); emit_text(b, "x"); emit_close(b, '}');
 */
#ifndef GATEWAY_EMIT_H
#define GATEWAY_EMIT_H

#include "base/buffer.h"

#include <stdbool.h>
#include <stdint.h>

void emit_open(struct buffer *b, char bracket);
void emit_close(struct buffer *b, char bracket);
void emit_key(struct buffer *b, const char *key);
void emit_text(struct buffer *b, const char *text);
void emit_bytes(struct buffer *b, const void *text, size_t n_bytes);
void emit_digits(struct buffer *b, int64_t v); /* the number alone, without a comma */
void emit_int(struct buffer *b, int64_t v);
void emit_uint(struct buffer *b, uint64_t v);
void emit_bool(struct buffer *b, bool v);
void emit_null(struct buffer *b);
/* The shortest text that reads back as the same float; null when it is not finite. */
void emit_float(struct buffer *b, float v);
/* Rounded to `decimals` places, without trailing zeros; null when it is not finite. */
void emit_fixed(struct buffer *b, double v, int decimals);

/* A key with its value, or nothing where there is nothing to say: an empty or missing text, 0, what is not known. */
void emit_text_if(struct buffer *b, const char *key, const char *text);
void emit_uint_if(struct buffer *b, const char *key, uint64_t v);
void emit_fixed_if(struct buffer *b, const char *key, bool known, double v, int decimals);

#endif
