/*
 * What a request's head must satisfy beyond the grammar that llhttp and nghttp2 check. Wherever two readers of one head
 * could disagree about where a request ends or whom it is for, the request is refused: a proxy in front may be the other
 * reader (RFC 9112 section 11.2).
 */
#include "gateway/http_internal.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define DIGITS "0123456789"
#define LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

static const struct http_fault none = {0, NULL};

static struct http_fault bad(const char *reason)
{
    return (struct http_fault){400, reason};
}

/* The last value of a header and how often it is there. */
static const char *only_value(const struct http_request *r, const char *name, int *n)
{
    const char *value = NULL;
    *n = 0;
    for (size_t i = 0; i < r->n_headers; i++)
        if (strcmp(r->headers[i].name, name) == 0) {
            value = r->headers[i].value;
            ++*n;
        }
    return value;
}

/* uri-host [":" port] of RFC 9110 section 4.2.1; a list, a path or a user would mean that somebody in front reads it
 * differently. */
bool http_host_valid(const char *host, size_t n_bytes)
{
    const char *end = host + n_bytes;
    char text[256];
    if (n_bytes >= sizeof text || memchr(host, '\0', n_bytes))
        return false;
    memcpy(text, host, n_bytes);
    text[end - host] = '\0';
    const char *p = text;
    if (*p == '[') {
        size_t n = strspn(p + 1, DIGITS "abcdefABCDEF:.");
        if (n == 0 || p[n + 1] != ']')
            return false;
        p += n + 2;
    } else {
        p += strspn(p, LETTERS DIGITS "-._~%!$&'()*+;=");
    }
    if (*p == ':') {
        size_t n = strspn(p + 1, DIGITS);
        if (n > 5 || atoi(p + 1) > 65535)
            return false;
        p += n + 1;
    }
    return *p == '\0';
}

static struct http_fault check_host(const struct http_request *r)
{
    int n;
    const char *host = only_value(r, "host", &n), *first = http_header(r, "host");
    /* In HTTP/2 `:authority` counts as one; a Host beside it has to say the same. */
    if (n > (r->version == 20 ? 2 : 1) || (n == 0 && r->version != 10) || (n == 2 && strcasecmp(host, first) != 0))
        return bad("expected exactly one Host header");
    if (host && !http_host_valid(host, strlen(host)))
        return bad("malformed Host header");
    return none;
}

/* Fields of which two readers might take different ones. */
static struct http_fault check_single(const struct http_request *r)
{
    int n;
    if (only_value(r, "authorization", &n) && n > 1)
        return bad("expected at most one Authorization header");
    if (only_value(r, "content-type", &n) && n > 1)
        return bad("expected at most one Content-Type header");
    return none;
}

static struct http_fault check_expect(const struct http_request *r)
{
    for (size_t i = 0; i < r->n_headers; i++)
        if (strcmp(r->headers[i].name, "expect") == 0 && strcasecmp(r->headers[i].value, "100-continue") != 0)
            return (struct http_fault){417, "expected no Expect but 100-continue"};
    return none;
}

struct http_fault http_check(const struct http_request *r)
{
    if (r->path[0] == '\0')
        return bad("expected a path as request target");
    if (r->path[0] == '*' && r->method != HTTP_METHOD_OPTIONS)
        return bad("expected a path as request target; * is for OPTIONS");
    struct http_fault fault = check_host(r);
    if (fault.status == 0)
        fault = check_single(r);
    return fault.status != 0 ? fault : check_expect(r);
}

struct http_fault http_check_framing(const struct http_request *r)
{
    int n_length, n_encoding;
    const char *length = only_value(r, "content-length", &n_length);
    const char *encoding = only_value(r, "transfer-encoding", &n_encoding);
    if (r->version != 10 && r->version != 11)
        return bad("expected HTTP/1.0 or HTTP/1.1");
    if (n_length > 1 || (length && (length[0] == '\0' || length[strspn(length, DIGITS)] != '\0')))
        return bad("malformed Content-Length");
    if (n_encoding > 1 || (encoding && (strcasecmp(encoding, "chunked") != 0 || r->version == 10)))
        return bad("expected no Transfer-Encoding but chunked");
    if (encoding && length)
        return bad("Content-Length and Transfer-Encoding exclude each other");
    return none;
}

int http_scan_head(const struct buffer *in, size_t *n_scanned, size_t *n_head)
{
    const char *d = in->data;
    for (size_t i = *n_scanned; i < in->n_bytes; i++) {
        unsigned char ch = (unsigned char)d[i];
        if (ch == '\n') {
            if (i == 0 || d[i - 1] != '\r')
                return -1;
            if (i >= 3 && d[i - 2] == '\n') {
                *n_head = i + 1;
                return 1;
            }
        } else if (i > 0 && d[i - 1] == '\r') {
            return -1;
        } else if ((ch == ' ' || ch == '\t') && i > 0 && d[i - 1] == '\n') {
            return -1; /* a folded line */
        } else if ((ch < ' ' && ch != '\t' && ch != '\r') || ch == 0x7F) {
            return -1;
        }
        *n_scanned = i + 1;
    }
    return 0;
}

bool http_expects_continue(const struct http_request *r)
{
    return r->version != 10 && http_header(r, "expect");
}
