/* Exchanges: the request's text, and the answer handed on to the protocol. */
#include "gateway/compress.h"
#include "gateway/http_internal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define ETAG_BYTES 128

static const char *const method_names[HTTP_N_METHODS] = {
    [HTTP_METHOD_GET] = "GET",         [HTTP_METHOD_HEAD] = "HEAD",     [HTTP_METHOD_POST] = "POST",
    [HTTP_METHOD_PUT] = "PUT",         [HTTP_METHOD_DELETE] = "DELETE", [HTTP_METHOD_PATCH] = "PATCH",
    [HTTP_METHOD_OPTIONS] = "OPTIONS", [HTTP_METHOD_OTHER] = "OTHER",
};

const char *http_method_name(enum http_method method)
{
    return method_names[method];
}

enum http_method http_method_from_name(const char *name, size_t n_bytes)
{
    for (int m = 0; m < HTTP_METHOD_OTHER; m++)
        if (strlen(method_names[m]) == n_bytes && memcmp(method_names[m], name, n_bytes) == 0)
            return (enum http_method)m;
    return HTTP_METHOD_OTHER;
}

const char *http_reason(int status)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {
        {200, "OK"},
        {204, "No Content"},
        {304, "Not Modified"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {499, "Client Closed Request"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
    };
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (reasons[i].status == status)
            return reasons[i].reason;
    return "Unknown";
}

static int hex(char c)
{
    return isdigit((unsigned char)c) ? c - '0' : isxdigit((unsigned char)c) ? tolower((unsigned char)c) - 'a' + 10 : -1;
}

int http_percent(const char *text, size_t n_bytes)
{
    if (n_bytes < 3 || text[0] != '%' || hex(text[1]) < 0 || hex(text[2]) < 0)
        return -1;
    return hex(text[1]) * 16 + hex(text[2]);
}

size_t http_max_head(const struct http_conn *c)
{
    return c->settings->max_head_bytes > 0 ? c->settings->max_head_bytes : HTTP_MAX_HEAD_BYTES;
}

/* Written once a second. */
const char *http_date(char text[HTTP_DATE_BYTES])
{
    static _Thread_local char now_text[HTTP_DATE_BYTES];
    static _Thread_local time_t written;
    time_t now = time(NULL);
    struct tm tm;
    if (now != written) {
        gmtime_r(&now, &tm);
        strftime(now_text, HTTP_DATE_BYTES, "%a, %d %b %Y %H:%M:%S GMT", &tm);
        written = now;
    }
    return memcpy(text, now_text, HTTP_DATE_BYTES);
}

void http_wake(struct http_conn *c)
{
    c->transport.wake(c->transport.user);
}

struct http_exchange *http_exchange_open(struct http_conn *c)
{
    struct http_exchange *x = calloc(1, sizeof *x);
    if (!x)
        return NULL;
    x->conn = c;
    /* A NUL behind each string, and the path twice over at most. */
    buffer_init(&x->text, 2 * http_max_head(c) + 2 * HTTP_MAX_HEADERS);
    buffer_init(&x->body, c->settings->max_body_bytes);
    buffer_init(&x->out, SIZE_MAX / 2);
    x->request =
        (struct http_request){.method = HTTP_METHOD_OTHER, .path = "", .query = "", .body = "", .peer = c->peer, .certificate = c->certificate};
    return x;
}

void http_exchange_close(struct http_exchange *x)
{
    if (x->seen) {
        const struct http_settings *s = x->conn->settings;
        bool aborted = !x->ended || x->aborted;
        if (!x->ended && x->on_gone)
            x->on_gone(x->user);
        if (s->on_finish)
            s->on_finish(s->user, x, aborted);
    }
    if (x->conn->settings->memory)
        x->conn->settings->memory->n_bytes -= x->n_charged;
    x->conn->phase_ns = 0; /* its idle time begins now */
    buffer_fini(&x->text);
    buffer_fini(&x->body);
    buffer_fini(&x->out);
    free(x);
}

/* Appends a string with its NUL and gives its offset. */
static bool put_text(struct http_exchange *x, const char *text, size_t n_bytes, size_t *offset)
{
    *offset = x->text.n_bytes;
    return buffer_append(&x->text, text, n_bytes) && buffer_append_char(&x->text, '\0');
}

bool http_exchange_header(struct http_exchange *x, const char *name, size_t n_name, const char *value, size_t n_value)
{
    size_t *offset = x->offsets[x->n_offsets];
    if (n_name == 0 || x->n_offsets == HTTP_MAX_HEADERS || !put_text(x, name, n_name, &offset[0]) ||
        !put_text(x, value, n_value, &offset[1]))
        return false;
    for (char *p = x->text.data + offset[0]; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    x->n_offsets++;
    return true;
}

/* Length of "http://" or "https://" in front, or 0. */
static size_t scheme_length(const char *target, size_t n_bytes)
{
    static const char *const schemes[] = {"http://", "https://"};
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        size_t n = strlen(schemes[i]);
        if (n_bytes > n && strncasecmp(target, schemes[i], n) == 0)
            return n;
    }
    return 0;
}

static bool put_path(struct http_exchange *x, const char *path, size_t n_bytes)
{
    x->path_offset = x->text.n_bytes;
    x->has_path = (path[0] != '?' || buffer_append_char(&x->text, '/')) && buffer_append(&x->text, path, n_bytes) &&
                  buffer_append_char(&x->text, '\0');
    return x->has_path;
}

bool http_exchange_path(struct http_exchange *x, const char *target, size_t n_bytes)
{
    size_t n_scheme = scheme_length(target, n_bytes);
    for (size_t i = 0; i < n_bytes; i++)
        if ((unsigned char)target[i] <= ' ' || (unsigned char)target[i] >= 0x7F || target[i] == '#')
            return false;
    if (n_bytes == 0 || n_scheme == 0)
        return n_bytes > 0 && (target[0] == '/' || (n_bytes == 1 && target[0] == '*')) && put_path(x, target, n_bytes);
    const char *host = target + n_scheme, *end = target + n_bytes, *path = host;
    while (path < end && *path != '/' && *path != '?')
        path++;
    if (path == host || !http_host_valid(host, (size_t)(path - host)))
        return false;
    return path == end ? put_path(x, "/", 1) : put_path(x, path, (size_t)(end - path));
}

void http_exchange_freeze(struct http_exchange *x)
{
    if (x->has_path && x->request.path[0] == '\0') {
        char *path = x->text.data + x->path_offset, *query = strchr(path, '?');
        if (query) {
            *query = '\0';
            x->request.query = query + 1;
        }
        x->request.path = path;
    }
    for (size_t i = 0; i < x->n_offsets; i++)
        x->headers[i] = (struct http_header){x->text.data + x->offsets[i][0], x->text.data + x->offsets[i][1]};
    x->request.headers = x->headers;
    x->request.n_headers = x->n_offsets;
    if (x->body.n_bytes > 0) {
        x->request.body = x->body.data;
        x->request.n_body = x->body.n_bytes;
    }
}

bool http_exchange_charge(struct http_exchange *x)
{
    struct http_memory *m = x->conn->settings->memory;
    if (!m)
        return true;
    size_t n = sizeof *x + x->text.capacity + x->body.capacity;
    m->n_bytes = m->n_bytes - x->n_charged + n;
    x->n_charged = n;
    return m->n_bytes <= m->max_bytes;
}

void http_exchange_request(struct http_exchange *x)
{
    const struct http_settings *s = x->conn->settings;
    http_exchange_freeze(x);
    x->seen = true;
    s->on_request(s->user, x);
}

void http_exchange_reject(struct http_exchange *x, int status, const char *reason)
{
    const struct http_settings *s = x->conn->settings;
    http_exchange_freeze(x);
    x->seen = true;
    s->on_reject(s->user, x, status, reason);
}

void http_exchange_writable(struct http_exchange *x)
{
    if (!x->over_low_water || http_queued(x) >= HTTP_LOW_WATER_BYTES)
        return;
    x->over_low_water = false;
    if (x->on_writable && !x->ended)
        x->on_writable(x->user);
}

const struct http_request *http_request_of(const struct http_exchange *x)
{
    return &x->request;
}

const char *http_header(const struct http_request *r, const char *name)
{
    for (size_t i = 0; i < r->n_headers; i++)
        if (strcmp(r->headers[i].name, name) == 0)
            return r->headers[i].value;
    return NULL;
}

void http_set_user(struct http_exchange *x, void *user)
{
    x->user = user;
}

void *http_user(const struct http_exchange *x)
{
    return x->user;
}

void http_set_callbacks(struct http_exchange *x, void (*on_gone)(void *user), void (*on_writable)(void *user))
{
    x->on_gone = on_gone;
    x->on_writable = on_writable;
}

void http_set_extra(struct http_exchange *x, const struct http_header *headers)
{
    x->extra = headers;
}

static size_t add_headers(struct http_header *all, size_t n, const struct http_header *more)
{
    for (; more && more->name && n < HTTP_MAX_ANSWER_HEADERS; more++)
        all[n++] = *more;
    return n;
}

static void start(struct http_exchange *x, int status, const struct http_header *headers, int64_t n_body)
{
    struct http_header all[HTTP_MAX_ANSWER_HEADERS + 1];
    all[add_headers(all, add_headers(all, 0, headers), x->extra)] = (struct http_header){NULL, NULL};
    x->started = true;
    x->status = status;
    x->conn->protocol->start(x, all, n_body);
    http_wake(x->conn);
}

void http_start(struct http_exchange *x, int status, const struct http_header *headers)
{
    start(x, status, headers, -1);
}

/* The answer's headers with those that the encoding needs. An entity tag names bytes, so that of the plain answer can
 * only be a weak one of the encoded (RFC 9110 section 8.8.3.3). */
static void encoded_headers(const struct http_header *headers, bool encoded, char etag[ETAG_BYTES],
                            struct http_header out[HTTP_MAX_ANSWER_HEADERS])
{
    size_t n = 0;
    for (; headers->name && n < HTTP_MAX_ANSWER_HEADERS - 3; headers++, n++) {
        out[n] = *headers;
        if (encoded && strcmp(headers->name, "etag") == 0 && headers->value[0] == '"') {
            snprintf(etag, ETAG_BYTES, "W/%s", headers->value);
            out[n].value = etag;
        }
    }
    out[n++] = (struct http_header){"vary", "accept-encoding"};
    if (encoded)
        out[n++] = (struct http_header){"content-encoding", "gzip"};
    out[n] = (struct http_header){NULL, NULL};
}

void http_respond(struct http_exchange *x, int status, const struct http_header *headers, const void *body,
                  size_t n_body)
{
    struct buffer packed;
    struct http_header with[HTTP_MAX_ANSWER_HEADERS];
    char etag[ETAG_BYTES];
    buffer_init(&packed, n_body);
    if (x->conn->settings->compress && compress_suits(status, headers, n_body)) {
        bool encoded = compress_accepted(&x->request) && compress_gzip(body, n_body, &packed);
        encoded_headers(headers, encoded, etag, with);
        headers = with;
        body = encoded ? packed.data : body;
        n_body = encoded ? packed.n_bytes : n_body;
    }
    start(x, status, headers, (int64_t)n_body);
    http_write(x, body, n_body);
    http_end(x);
    buffer_fini(&packed);
}

void http_write(struct http_exchange *x, const void *data, size_t n_bytes)
{
    if (x->ended || x->request.method == HTTP_METHOD_HEAD || n_bytes == 0)
        return;
    x->n_sent += n_bytes;
    x->conn->protocol->write(x, data, n_bytes);
    if (http_queued(x) >= HTTP_LOW_WATER_BYTES)
        x->over_low_water = true;
    http_wake(x->conn);
}

void http_end(struct http_exchange *x)
{
    if (x->ended)
        return;
    x->ended = true;
    x->conn->protocol->end(x);
    http_wake(x->conn);
}

void http_abort(struct http_exchange *x)
{
    if (x->ended)
        return;
    x->ended = x->aborted = true;
    x->conn->protocol->abort(x);
    http_wake(x->conn);
}

size_t http_queued(const struct http_exchange *x)
{
    return x->conn->protocol->queued(x);
}

int http_status_of(const struct http_exchange *x)
{
    return x->status;
}

uint64_t http_bytes_of(const struct http_exchange *x)
{
    return x->n_sent;
}
