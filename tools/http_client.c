/* See http_client.h. The connection is asked to close behind the answer, so an answer ends at its length, its last chunk, or its end. */
#include "tools/http_client.h"

#include "base/clock.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_HEAD_BYTES = 65536 };

bool http_url_parse(const char *text, struct http_url *out, struct error *err)
{
    static const char scheme[] = "http://";
    bool ok = strncasecmp(text, scheme, sizeof scheme - 1) == 0;
    const char *host = ok ? text + sizeof scheme - 1 : text, *end = host + strcspn(host, "/"), *port = NULL;
    size_t n_host = 0;
    if (ok && *host == '[') {
        n_host = strcspn(++host, "]/");
        ok = host[n_host] == ']';
        port = host + n_host + ok;
    } else if (ok) {
        n_host = strcspn(host, ":/");
        port = host + n_host;
    }
    size_t n_port = ok && *port == ':' ? (size_t)(end - port) - 1 : 0, n_path = strlen(end);
    while (n_path > 0 && end[n_path - 1] == '/')
        n_path--;
    ok = ok && n_host > 0 && n_host < sizeof out->host && n_path < sizeof out->path && strcspn(text, " \t\r\n@?#") == strlen(text);
    if (ok && *port == ':')
        ok = n_port > 0 && n_port < 6 && strspn(port + 1, "0123456789") == n_port && atoi(port + 1) > 0 && atoi(port + 1) < 65536;
    else
        ok = ok && port == end;
    if (!ok) {
        error_set(err, ERROR_VALIDATION_FAILED, "expected http://HOST[:PORT][/PATH], found \"%.200s\"", text);
        return false;
    }
    memset(out, 0, sizeof *out);
    memcpy(out->host, host, n_host);
    memcpy(out->port, n_port ? port + 1 : "80", n_port ? n_port : 2);
    memcpy(out->path, end, n_path);
    return true;
}

static enum http_progress bad(struct error *err, const char *expected)
{
    error_set(err, ERROR_VALIDATION_FAILED, "the server's answer: expected %s", expected);
    return HTTP_BAD;
}

/* The value of a header of the head [at, end), NULL when there is none; *n without spaces around it. */
static const char *find_header(const char *at, const char *end, const char *name, size_t *n)
{
    size_t n_name = strlen(name);
    while (at < end) {
        const char *line_end = memmem(at, (size_t)(end - at), "\r\n", 2);
        line_end = line_end ? line_end : end;
        if ((size_t)(line_end - at) > n_name && at[n_name] == ':' && strncasecmp(at, name, n_name) == 0) {
            at += n_name + 1;
            while (at < line_end && (*at == ' ' || *at == '\t'))
                at++;
            while (line_end > at && (line_end[-1] == ' ' || line_end[-1] == '\t'))
                line_end--;
            *n = (size_t)(line_end - at);
            return at;
        }
        at = line_end + 2;
    }
    return NULL;
}

/* A number of `base` at [at, end); *next behind it. False when there is none or it is beyond what a body may have. */
static bool read_size(const char *at, const char *end, int base, size_t *out, const char **next)
{
    *out = 0;
    for (*next = at; *next < end && *next - at < 12; ++*next) {
        char c = **next;
        int digit = c >= '0' && c <= '9' ? c - '0' : base == 16 && (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (digit < 0)
            break;
        *out = *out * (size_t)base + (size_t)digit;
    }
    return *next > at && *next - at < 12;
}

static enum http_progress read_chunks(const char *at, const char *end, bool ended, struct buffer *body, struct error *err)
{
    for (;;) {
        const char *line_end = memmem(at, (size_t)(end - at), "\r\n", 2), *next;
        size_t n;
        if (!line_end)
            return ended || end - at > 4096 ? bad(err, "a chunk's size") : HTTP_MORE;
        if (!read_size(at, line_end, 16, &n, &next) || (next < line_end && *next != ';' && *next != ' '))
            return bad(err, "a chunk's size in hexadecimal");
        at = line_end + 2;
        if (n == 0) /* trailers are not of interest */
            return HTTP_DONE;
        if ((size_t)(end - at) < n + 2)
            return ended ? bad(err, "all of a chunk before the connection's end") : HTTP_MORE;
        if (memcmp(at + n, "\r\n", 2) != 0)
            return bad(err, "a line's end behind a chunk");
        buffer_append(body, at, n);
        at += n + 2;
    }
}

enum http_progress http_response_parse(const char *bytes, size_t n_bytes, bool ended, int *status, struct buffer *body,
                                       struct error *err)
{
    const char *end = bytes + n_bytes, *head_end = n_bytes ? memmem(bytes, n_bytes, "\r\n\r\n", 4) : NULL;
    buffer_clear(body);
    if (!head_end)
        return ended || n_bytes > MAX_HEAD_BYTES ? bad(err, "a whole head") : HTTP_MORE;
    if (n_bytes < 12 || memcmp(bytes, "HTTP/1.", 7) != 0 || bytes[8] != ' ' || strspn(bytes + 9, "0123456789") < 3)
        return bad(err, "a status line of HTTP/1.1");
    *status = atoi((char[]){bytes[9], bytes[10], bytes[11], '\0'});
    const char *at = head_end + 4, *headers = memmem(bytes, n_bytes, "\r\n", 2), *value, *next;
    if (*status >= 100 && *status < 200) /* 100 Continue and its like: the answer follows */
        return http_response_parse(at, (size_t)(end - at), ended, status, body, err);
    headers += 2;
    size_t n_value, length;
    if ((value = find_header(headers, head_end, "transfer-encoding", &n_value))) {
        if (n_value != 7 || strncasecmp(value, "chunked", 7) != 0)
            return bad(err, "no other transfer coding than chunked");
        return read_chunks(at, end, ended, body, err);
    }
    if ((value = find_header(headers, head_end, "content-length", &n_value))) {
        if (!read_size(value, value + n_value, 10, &length, &next) || next != value + n_value)
            return bad(err, "a number as Content-Length");
        if ((size_t)(end - at) < length)
            return ended ? bad(err, "as many bytes as Content-Length says") : HTTP_MORE;
        buffer_append(body, at, length);
        return HTTP_DONE;
    }
    if (!ended)
        return HTTP_MORE;
    buffer_append(body, at, (size_t)(end - at));
    return HTTP_DONE;
}

/* Waits until `fd` is ready; false at the deadline. */
static bool wait_for(int fd, short events, int64_t deadline_ns)
{
    struct pollfd p = {.fd = fd, .events = events};
    for (;;) {
        int64_t left_ms = (deadline_ns - clock_now_ns()) / 1000000;
        if (left_ms <= 0)
            return false;
        int n = poll(&p, 1, left_ms > 60000 ? 60000 : (int)left_ms);
        if (n > 0)
            return true;
        if (n < 0 && errno != EINTR)
            return false;
    }
}

static int open_connection(const struct http_url *url, int64_t deadline_ns, struct error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    int failure = getaddrinfo(url->host, url->port, &hints, &list), fd = -1, why = 0;
    if (failure) {
        error_set(err, ERROR_SERVICE_UNAVAILABLE, "cannot find %s: %s", url->host, gai_strerror(failure));
        return -1;
    }
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, a->ai_addr, a->ai_addrlen) == 0)
            continue;
        socklen_t n = sizeof why;
        why = errno;
        if (why == EINPROGRESS && !wait_for(fd, POLLOUT, deadline_ns))
            why = ETIMEDOUT;
        else if (why == EINPROGRESS)
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &why, &n);
        if (why) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    if (fd < 0)
        error_set(err, ERROR_SERVICE_UNAVAILABLE, "cannot connect to %s port %s: %s", url->host, url->port, strerror(why));
    return fd;
}

static bool send_all(int fd, const struct buffer *b, int64_t deadline_ns)
{
    for (size_t sent = 0; sent < b->n_bytes;) {
        ssize_t n = send(fd, b->data + sent, b->n_bytes - sent, MSG_NOSIGNAL);
        if (n > 0)
            sent += (size_t)n;
        else if ((errno != EAGAIN && errno != EINTR) || !wait_for(fd, POLLOUT, deadline_ns))
            return false;
    }
    return true;
}

/* An answer of known length is whole before the connection ends; parsing again is put off until the bytes have doubled or the server
 * pauses, so that a long answer is not parsed over and over. */
static bool receive(int fd, int64_t deadline_ns, int *status, struct buffer *raw, struct buffer *out, struct error *err)
{
    size_t parse_at = 1;
    for (bool ended = false;;) {
        char *room = buffer_reserve(raw, 65536);
        if (!room) {
            error_set(err, ERROR_VALIDATION_FAILED, "the server's answer: expected at most %zu bytes", raw->max_bytes);
            return false;
        }
        ssize_t n = recv(fd, room, 65536, 0);
        bool paused = n < 0 && (errno == EAGAIN || errno == EINTR);
        if (n > 0)
            raw->n_bytes += (size_t)n;
        ended = n == 0 || (n < 0 && !paused);
        if (ended || ((paused || raw->n_bytes >= parse_at) && raw->n_bytes > 0)) {
            parse_at = 2 * raw->n_bytes;
            enum http_progress progress = http_response_parse(raw->data, raw->n_bytes, ended, status, out, err);
            if (progress != HTTP_MORE)
                return progress == HTTP_DONE;
        }
        if (paused && !wait_for(fd, POLLIN, deadline_ns)) {
            error_set(err, ERROR_SERVICE_UNAVAILABLE, "the server gave no whole answer in time");
            return false;
        }
    }
}

/* Sends a whole request and reads its answer. */
static bool exchange(const struct http_url *url, const struct buffer *request, int timeout_ms, int *status, struct buffer *out,
                     struct error *err)
{
    int64_t deadline_ns = clock_now_ns() + (int64_t)timeout_ms * 1000000;
    struct buffer raw;
    buffer_init(&raw, out->max_bytes);
    int fd = request->failed ? -1 : open_connection(url, deadline_ns, err);
    bool ok = fd >= 0 && send_all(fd, request, deadline_ns);
    if (!ok && !err->message[0])
        error_set(err, ERROR_SERVICE_UNAVAILABLE, "cannot send to %s port %s", url->host, url->port);
    ok = ok && receive(fd, deadline_ns, status, &raw, out, err);
    if (ok && out->failed) {
        error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the server's answer");
        ok = false;
    }
    if (fd >= 0)
        close(fd);
    buffer_fini(&raw);
    return ok;
}

/* The request line, Host, and that the connection ends behind the answer. */
static void begin_request(struct buffer *head, const char *method, const struct http_url *url, const char *path)
{
    bool v6 = strchr(url->host, ':') != NULL;
    buffer_printf(head, "%s %s%s HTTP/1.1\r\nHost: %s%s%s:%s\r\nConnection: close\r\n", method, url->path, path, v6 ? "[" : "",
                  url->host, v6 ? "]" : "", url->port);
}

bool http_get(const struct http_url *url, const char *path, int timeout_ms, int *status, struct buffer *out, struct error *err)
{
    struct buffer request;
    buffer_init(&request, 8192);
    begin_request(&request, "GET", url, path);
    buffer_append_str(&request, "\r\n");
    bool ok = exchange(url, &request, timeout_ms, status, out, err);
    buffer_fini(&request);
    return ok;
}

bool http_post_json(const struct http_url *url, const char *path, const char *key, const struct buffer *body, int timeout_ms,
                    int *status, struct buffer *out, struct error *err)
{
    struct buffer request;
    buffer_init(&request, body->n_bytes + 8192);
    begin_request(&request, "POST", url, path);
    buffer_printf(&request, "Content-Type: application/json\r\nContent-Length: %zu\r\n", body->n_bytes);
    if (key)
        buffer_printf(&request, "Authorization: Bearer %s\r\n", key);
    buffer_append_str(&request, "\r\n");
    buffer_append(&request, body->data, body->n_bytes);
    bool ok = exchange(url, &request, timeout_ms, status, out, err);
    buffer_fini(&request);
    return ok;
}
