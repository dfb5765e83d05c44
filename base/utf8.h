/* UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF. Any thread. */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* True when all n_bytes are valid; else false and the offset of the first bad byte in `*bad` (may be NULL). */
bool utf8_valid(const char *text, size_t n_bytes, size_t *bad);

/* How many of the n_bytes are whole characters (or bytes that can never become one): the rest, at most 3 bytes, is the
 * beginning of a character whose end has not come yet. */
size_t utf8_complete(const char *text, size_t n_bytes);

/* Number of code points in valid UTF-8. */
size_t utf8_length(const char *text, size_t n_bytes);

/* Decodes the character at text[0..n_bytes); returns its length in bytes, 0 when it is invalid or n_bytes is 0. */
size_t utf8_decode(const char *text, size_t n_bytes, uint32_t *code_point);

/* Encodes a code point (below 0x110000, no surrogate); returns the number of bytes written, 1..4. */
size_t utf8_encode(uint32_t code_point, char out[4]);

#endif
