/*
 * One HTTP/1.1 request over a connection of its own: what `bitnet` needs to ask a reference server or for health, as it links no HTTP library. Plain
 * http only. Everything is bounded: the answer's bytes by the caller's buffer, time by a deadline for the whole exchange.
 */
#ifndef TOOLS_HTTP_CLIENT_H
#define TOOLS_HTTP_CLIENT_H

#include "base/buffer.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

struct http_url { char host[256], port[8], path[512]; }; /* path: in front of what is asked for, without a '/' at its end */

/* "http://host[:port][/path]", host a name, an IPv4 address or an IPv6 address in brackets. */
bool http_url_parse(const char *text, struct http_url *out, struct error *err);

/* Reads an answer from the bytes that came so far; `ended`: no more come. Its body goes to `body` (emptied first), its status to
 * *status. */
enum http_progress { HTTP_MORE, HTTP_DONE, HTTP_BAD };
enum http_progress http_response_parse(const char *bytes, size_t n_bytes, bool ended, int *status, struct buffer *body,
                                       struct error *err);

/* POSTs JSON; key: a Bearer token or NULL. The body of an answer of any status goes to `out`, whose maximum holds for the raw answer too.
 * False with *err set when there is no whole answer within timeout_ms. */
bool http_post_json(const struct http_url *url, const char *path, const char *key, const struct buffer *body, int timeout_ms,
                    int *status, struct buffer *out, struct error *err);

/* GETs, likewise. */
bool http_get(const struct http_url *url, const char *path, int timeout_ms, int *status, struct buffer *out, struct error *err);

#endif
