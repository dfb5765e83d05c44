/*
 * gzip (RFC 1952) for whole answers; streams are never compressed, because a token would wait for the next one.
 *
 * What compresses well tells a little of itself by its length. That matters where somebody else can make a browser send
 * requests with its user's secrets and add text of his own to them (BREACH): here nothing that identifies a client travels
 * by itself, as a cookie would, and no answer holds a credential.
 */
#ifndef GATEWAY_COMPRESS_H
#define GATEWAY_COMPRESS_H

#include "base/buffer.h"
#include "gateway/http.h"

#define COMPRESS_MIN_BYTES 1024      /* below it the headers cost what is saved */
#define COMPRESS_MAX_BYTES (1 << 20) /* above it the loop would stand still for too long */

/* Would an answer like this one be sent compressed to a client that takes it? By status, Content-Type and size; not when
 * it has a Content-Encoding or forbids transformation. `headers` may be NULL. Any thread. */
bool compress_suits(int status, const struct http_header *headers, size_t n_bytes);
/* Does Accept-Encoding (RFC 9110 section 12.5.3) take gzip, and not prefer the bytes as they are? Any thread. */
bool compress_accepted(const struct http_request *r);
/* Appends the gzip form of `data` to `out`. False when it would not be smaller or memory is out. Any thread. */
bool compress_gzip(const void *data, size_t n_bytes, struct buffer *out);

#endif
