/*
 * HTTP/2 frames by hand, and what was sent by frames; header blocks use literals without indexing (RFC 7541 section 6.2.2),
 * names and values of at most 126 bytes.
 */
#ifndef TESTS_UNIT_GATEWAY_FRAMES_H
#define TESTS_UNIT_GATEWAY_FRAMES_H

#include "tests/unit/gateway/memory.h"

#include <check.h>

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

enum {
    DATA = 0,
    HEADERS = 1,
    RST_STREAM = 3,
    SETTINGS = 4,
    PUSH_PROMISE = 5,
    PING = 6,
    GOAWAY = 7,
    WINDOW_UPDATE = 8,
    CONTINUATION = 9
};
enum { END_STREAM = 1, END_HEADERS = 4 };

static inline void frame(struct buffer *b, int type, int flags, uint32_t stream, const void *data, size_t n)
{
    const unsigned char head[9] = {
        (unsigned char)(n >> 16),      (unsigned char)(n >> 8),      (unsigned char)n,
        (unsigned char)type,           (unsigned char)flags,         (unsigned char)(stream >> 24),
        (unsigned char)(stream >> 16), (unsigned char)(stream >> 8), (unsigned char)stream};
    buffer_append(b, head, sizeof head);
    buffer_append(b, data, n);
}

static inline void field(struct buffer *b, const char *name, const char *value)
{
    buffer_append_char(b, 0);
    buffer_append_char(b, (char)strlen(name));
    buffer_append_str(b, name);
    buffer_append_char(b, (char)strlen(value));
    buffer_append_str(b, value);
}

static inline void headers(struct buffer *b, uint32_t stream, int flags, const char *method, const char *path,
                           const char *name, const char *value)
{
    struct buffer block;
    buffer_init(&block, 65536);
    field(&block, ":method", method);
    field(&block, ":scheme", "http");
    field(&block, ":authority", "a");
    field(&block, ":path", path);
    if (name)
        field(&block, name, value);
    frame(b, HEADERS, flags | END_HEADERS, stream, block.data, block.n_bytes);
    buffer_fini(&block);
}

static inline void begin(struct buffer *b)
{
    buffer_init(b, 16 << 20);
    buffer_append_str(b, PREFACE);
    frame(b, SETTINGS, 0, 0, "", 0);
}

/* The n-th frame of this type and stream in what was sent; its payload and length. */
static inline const unsigned char *find(const struct memory *m, int type, uint32_t stream, int nth, size_t *n,
                                        int *flags)
{
    const unsigned char *d = (const unsigned char *)m->out.data;
    for (size_t at = 0; at + 9 <= m->out.n_bytes;) {
        size_t length = ((size_t)d[at] << 16) | ((size_t)d[at + 1] << 8) | d[at + 2];
        uint32_t id =
            ((uint32_t)d[at + 5] << 24) | ((uint32_t)d[at + 6] << 16) | ((uint32_t)d[at + 7] << 8) | d[at + 8];
        if (d[at + 3] == type && id == stream && nth-- == 0) {
            *n = length;
            *flags = d[at + 4];
            return d + at + 9;
        }
        at += 9 + length;
    }
    return NULL;
}

static inline void check_data(const struct memory *m, uint32_t stream, const char *text)
{
    size_t n = 0;
    int flags = 0;
    const unsigned char *data = find(m, DATA, stream, 0, &n, &flags);
    ck_assert_msg(data && n == strlen(text) && memcmp(data, text, n) == 0, "%.*s", (int)n,
                  data ? (const char *)data : "");
}

#endif
