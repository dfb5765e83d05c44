/*
 * HTTP/1.0 and HTTP/1.1 (RFC 9112) on llhttp, stricter than llhttp where leniency lets requests be smuggled.
 *
 *            head complete            body complete        answer ended, keep-alive
 *   HEAD ---------------------> BODY ---------------> ANSWER ----------------------> HEAD
 *     \                          \ last chunk          ^ \
 *      \                          `---> TRAILER -------'   \____ no keep-alive ____> LINGER
 *       \________ bad request: ANSWER, then ________________/
 *
 * The head is gathered whole before llhttp sees it: its size is bounded in one place, names and values are never in
 * pieces, and what llhttp would let through (folded lines, control characters) is refused beforehand; likewise the
 * trailer section. Input behind a request waits in `in` until the answer is out, so pipelined requests are answered in
 * order.
 */
#include "gateway/http_internal.h"

#include "base/clock.h"

#include <llhttp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define KEEP_BYTES 4096
#define MAX_IN_BYTES (4 * HTTP_HIGH_WATER_BYTES) /* beyond it the transport did not listen to wants_input */

enum step { STEP_HEAD, STEP_BODY, STEP_TRAILER, STEP_ANSWER, STEP_LINGER, STEP_CLOSED };

struct http1 {
    struct http_conn *conn;
    enum step step;
    llhttp_t parser;
    struct buffer in;
    size_t n_scanned;         /* of `in`, in search of the head's or the trailer section's end */
    struct http_exchange *x;  /* from the head's end to the answer's */
    struct http_header field; /* the header being parsed: into `in` */
    size_t n_name, n_value;
    bool bad_field, too_many_fields;
    bool complete; /* the request is whole */
    bool keep_alive;
    bool chunked; /* the answer */
    bool answered;
    uint64_t n_raw_body; /* with chunk headers */
    struct pace pace;    /* of the head or the body that is coming */
};

/* ---- llhttp's callbacks; trailers come through the same ones and are thrown away ---- */

static int on_url(llhttp_t *p, const char *at, size_t n)
{
    struct http1 *h = p->data;
    /* llhttp skips any number of spaces; the line has one on either side, and what lies there is the head's own. */
    if (at[-2] == ' ' || at[n] != ' ' || at[n + 1] == ' ' || !http_exchange_path(h->x, at, n))
        h->bad_field = true;
    return 0;
}

static int on_name(llhttp_t *p, const char *at, size_t n)
{
    struct http1 *h = p->data;
    h->field = (struct http_header){at, at};
    h->n_name = n;
    h->n_value = 0;
    return 0;
}

static int on_value(llhttp_t *p, const char *at, size_t n)
{
    struct http1 *h = p->data;
    h->field.value = at;
    h->n_value = n;
    return 0;
}

/* Framing is not to be changed once it is done (RFC 9110 section 6.5.1). */
static bool trailer_allowed(const char *name, size_t n)
{
    static const char *const names[] = {"content-length", "transfer-encoding", "host"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == n && strncasecmp(name, names[i], n) == 0)
            return false;
    return true;
}

static int on_value_complete(llhttp_t *p)
{
    struct http1 *h = p->data;
    if (h->step != STEP_HEAD) {
        h->bad_field = h->bad_field || !trailer_allowed(h->field.name, h->n_name);
        return 0;
    }
    while (h->n_value > 0 && (h->field.value[h->n_value - 1] == ' ' || h->field.value[h->n_value - 1] == '\t'))
        h->n_value--;
    if (h->n_name == 0)
        h->bad_field = true;
    else if (!http_exchange_header(h->x, h->field.name, h->n_name, h->field.value, h->n_value))
        h->too_many_fields = true;
    return 0;
}

static int on_headers_complete(llhttp_t *p)
{
    struct http1 *h = p->data;
    const char *method = llhttp_method_name((llhttp_method_t)p->method);
    h->x->request.method = http_method_from_name(method, strlen(method));
    h->x->request.version = 10 * p->http_major + p->http_minor;
    h->keep_alive = llhttp_should_keep_alive(p);
    p->upgrade = 0; /* an offer to change the protocol may be ignored (RFC 9110 section 7.8) */
    return 0;
}

/* Pauses before the trailer section, which is looked through first. */
static int on_chunk_header(llhttp_t *p)
{
    struct http1 *h = p->data;
    if (p->content_length > 0)
        return 0;
    h->step = STEP_TRAILER;
    return HPE_PAUSED;
}

static int on_body(llhttp_t *p, const char *at, size_t n)
{
    struct http1 *h = p->data;
    return buffer_append(&h->x->body, at, n) ? 0 : HPE_USER;
}

static int on_complete(llhttp_t *p)
{
    ((struct http1 *)p->data)->complete = true;
    return HPE_PAUSED;
}

static const llhttp_settings_t callbacks = {
    .on_url = on_url,
    .on_header_field = on_name,
    .on_header_value = on_value,
    .on_header_value_complete = on_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_chunk_header = on_chunk_header,
    .on_body = on_body,
    .on_message_complete = on_complete,
};

void *http1_open(struct http_conn *c)
{
    struct http1 *h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->conn = c;
    buffer_init(&h->in, MAX_IN_BYTES);
    llhttp_init(&h->parser, HTTP_REQUEST, &callbacks);
    h->parser.data = h;
    return h;
}

/* ---- request ---- */

static void reject(struct http1 *h, int status, const char *reason)
{
    h->keep_alive = false;
    h->step = STEP_ANSWER;
    if (h->x->request.version == 0)
        h->x->request.version = 11;
    http_exchange_reject(h->x, status, reason);
}

static void begin_body(struct http1 *h)
{
    h->step = STEP_BODY;
    h->n_raw_body = 0;
    h->pace = (struct pace){0};
    if (http_expects_continue(&h->x->request) && h->in.n_bytes == 0)
        buffer_append_str(&h->conn->out, "HTTP/1.1 100 Continue\r\n\r\n");
}

static void parse_head(struct http1 *h, size_t n_head)
{
    struct http_fault fault = {0, NULL};
    llhttp_reset(&h->parser);
    h->complete = h->bad_field = h->too_many_fields = h->answered = h->chunked = false;
    enum llhttp_errno code = llhttp_execute(&h->parser, h->in.data, n_head);
    bool whole = code == HPE_OK || (code == HPE_PAUSED && llhttp_get_error_pos(&h->parser) == h->in.data + n_head);
    http_exchange_freeze(h->x);
    if (h->too_many_fields)
        fault = (struct http_fault){431, "the request has more than 100 header fields"};
    else if (h->bad_field || !whole)
        fault =
            (struct http_fault){400, h->bad_field ? "malformed request target or header" : "malformed HTTP request"};
    if (fault.status == 0)
        fault = http_check_framing(&h->x->request);
    if (fault.status == 0)
        fault = http_check(&h->x->request);
    if (fault.status == 0 && !http_exchange_charge(h->x))
        fault = (struct http_fault){503, HTTP_NO_MEMORY};
    if (fault.status != 0) {
        reject(h, fault.status, fault.reason);
        return;
    }
    buffer_consume(&h->in, n_head);
    h->n_scanned = 0;
    if (!h->complete && h->parser.content_length > h->conn->settings->max_body_bytes)
        reject(h, 413, "the body is larger than the server takes");
    else if (!h->complete)
        begin_body(h);
}

/* True when the step changed. */
static bool step_head(struct http1 *h)
{
    while (!h->x && h->in.n_bytes >= 2 && memcmp(h->in.data, "\r\n", 2) == 0 && h->n_scanned <= 2) {
        buffer_consume(&h->in, 2); /* empty lines in front of a request are to be ignored (RFC 9112 section 2.2) */
        h->n_scanned = 0;
    }
    if (h->in.n_bytes == 0 || (h->in.n_bytes == 1 && h->in.data[0] == '\r'))
        return false;
    size_t n_head = 0;
    int found = http_scan_head(&h->in, &h->n_scanned, &n_head);
    bool too_long = (found == 1 ? n_head : h->in.n_bytes) > http_max_head(h->conn);
    if (found == 0 && !too_long)
        return false;
    h->x = http_exchange_open(h->conn);
    if (!h->x)
        h->step = STEP_CLOSED;
    else if (too_long)
        reject(h, 431, "the request's head is larger than the server takes");
    else if (found < 0)
        reject(h, 400, "malformed HTTP request");
    else
        parse_head(h, n_head);
    return true;
}

/* Chunk headers and extensions are bounded together: eight bytes for each byte of body that may come. */
static bool step_body(struct http1 *h)
{
    if (h->in.n_bytes == 0)
        return false;
    enum llhttp_errno code = llhttp_execute(&h->parser, h->in.data, h->in.n_bytes);
    size_t n = code == HPE_OK ? h->in.n_bytes : (size_t)(llhttp_get_error_pos(&h->parser) - h->in.data);
    h->n_raw_body += n;
    buffer_consume(&h->in, n);
    if (code == HPE_USER || h->x->body.failed ||
        h->n_raw_body / 8 > h->conn->settings->max_body_bytes + http_max_head(h->conn))
        reject(h, 413, "the body is larger than the server takes");
    else if (code != HPE_OK && code != HPE_PAUSED)
        reject(h, 400, "malformed chunked body");
    else if (!http_exchange_charge(h->x))
        reject(h, 503, HTTP_NO_MEMORY);
    h->n_scanned = 0;
    return true;
}

/* What stands between the last chunk and the request's end: trailer fields, which nobody reads, or nothing. */
static bool step_trailer(struct http1 *h)
{
    bool empty = h->in.n_bytes >= 2 && memcmp(h->in.data, "\r\n", 2) == 0;
    size_t n = 2;
    int found = empty ? 1 : http_scan_head(&h->in, &h->n_scanned, &n);
    if (found == 0 && h->in.n_bytes <= HTTP_MAX_HEAD_BYTES)
        return false;
    if (found == 0 || n > HTTP_MAX_HEAD_BYTES) {
        reject(h, 431, "the trailer section is larger than 16384 bytes");
        return true;
    }
    llhttp_resume(&h->parser);
    if (found < 0 || llhttp_execute(&h->parser, h->in.data, n) != HPE_PAUSED || h->bad_field) {
        reject(h, 400, "malformed chunked body");
        return true;
    }
    buffer_consume(&h->in, n);
    h->n_scanned = 0;
    return true;
}

static void finish_answer(struct http1 *h)
{
    struct http_exchange *x = h->x;
    h->x = NULL;
    h->pace = (struct pace){0};
    if (h->step != STEP_CLOSED)
        h->step = h->keep_alive ? STEP_HEAD : STEP_LINGER;
    http_exchange_close(x);
}

/* Does what can be done with the input that is there. */
static void advance(struct http1 *h)
{
    for (bool moved = true; moved;) {
        moved = false;
        if (h->step == STEP_LINGER || h->step == STEP_CLOSED)
            buffer_clear(&h->in);
        else if (h->step == STEP_HEAD && !h->x && h->conn->out.n_bytes < HTTP_HIGH_WATER_BYTES)
            moved = step_head(h);
        else if (h->step == STEP_BODY)
            moved = step_body(h);
        else if (h->step == STEP_TRAILER)
            moved = step_trailer(h);
        if (h->complete && h->step != STEP_ANSWER && h->x) {
            h->complete = false;
            h->step = STEP_ANSWER;
            http_exchange_request(h->x);
        }
        if (h->x && h->answered) {
            finish_answer(h);
            moved = true;
        }
    }
}

static bool input(void *state, const char *data, size_t n_bytes)
{
    struct http1 *h = state;
    if (h->step == STEP_LINGER)
        return true;
    if (h->step == STEP_CLOSED)
        return false;
    /* In pieces, so that a large body passes through a small buffer. */
    while (n_bytes > 0) {
        size_t n = n_bytes < HTTP_HIGH_WATER_BYTES ? n_bytes : HTTP_HIGH_WATER_BYTES;
        if (!buffer_append(&h->in, data, n))
            return false;
        advance(h);
        data += n;
        n_bytes -= n;
    }
    if (h->in.n_bytes == 0 && h->in.capacity > KEEP_BYTES)
        buffer_fini(&h->in); /* a connection that waits is not to cost what its last request did */
    return true;
}

/* ---- answer ---- */

static void start(struct http_exchange *x, const struct http_header *headers, int64_t n_body)
{
    struct http1 *h = x->conn->state;
    struct buffer *out = &x->conn->out;
    int version = x->request.version;
    bool no_body = x->status == 204 || x->status == 304;
    if (x->conn->draining || (n_body < 0 && version == 10))
        h->keep_alive = false;
    char date[HTTP_DATE_BYTES];
    buffer_printf(out, "HTTP/1.1 %d %s\r\ndate: %s\r\n", x->status, http_reason(x->status), http_date(date));
    for (; headers && headers->name; headers++)
        buffer_printf(out, "%s: %s\r\n", headers->name, headers->value);
    h->chunked = n_body < 0 && version == 11 && !no_body && x->request.method != HTTP_METHOD_HEAD;
    if (h->chunked)
        buffer_append_str(out, "transfer-encoding: chunked\r\n");
    else if (n_body >= 0 && !no_body)
        buffer_printf(out, "content-length: %lld\r\n", (long long)n_body);
    if (!h->keep_alive)
        buffer_append_str(out, "connection: close\r\n");
    else if (version == 10)
        buffer_append_str(out, "connection: keep-alive\r\n");
    buffer_append_str(out, "\r\n");
}

static void write_body(struct http_exchange *x, const void *data, size_t n_bytes)
{
    struct http1 *h = x->conn->state;
    struct buffer *out = &x->conn->out;
    if (h->chunked)
        buffer_printf(out, "%zx\r\n", n_bytes);
    buffer_append(out, data, n_bytes);
    if (h->chunked)
        buffer_append_str(out, "\r\n");
}

/* The exchange is closed by advance(), from input or output: here the application is still on the stack. */
static void end(struct http_exchange *x)
{
    struct http1 *h = x->conn->state;
    if (h->chunked)
        buffer_append_str(&x->conn->out, "0\r\n\r\n");
    h->answered = true;
}

static void abort_answer(struct http_exchange *x)
{
    struct http1 *h = x->conn->state;
    h->answered = true;
    h->step = STEP_CLOSED;
}

static size_t queued(const struct http_exchange *x)
{
    return x->conn->out.n_bytes + x->conn->transport.pending(x->conn->transport.user);
}

static void output(void *state)
{
    struct http1 *h = state;
    advance(h);
    if (h->x && !h->answered)
        http_exchange_writable(h->x);
    if (h->x && h->answered)
        advance(h);
}

static enum http_phase phase(const void *state)
{
    const struct http1 *h = state;
    switch (h->step) {
    case STEP_HEAD:
        return h->in.n_bytes > 0 ? HTTP_PHASE_HEAD : h->conn->draining > 1 ? HTTP_PHASE_LINGER : HTTP_PHASE_IDLE;
    case STEP_BODY:
    case STEP_TRAILER:
        return HTTP_PHASE_BODY;
    case STEP_ANSWER:
        return HTTP_PHASE_ANSWER;
    case STEP_LINGER:
        return HTTP_PHASE_LINGER;
    default:
        return HTTP_PHASE_CLOSED;
    }
}

static bool wants_input(const void *state)
{
    const struct http1 *h = state;
    return h->in.n_bytes < HTTP_HIGH_WATER_BYTES;
}

static void drain(void *state, bool last)
{
    (void)state, (void)last; /* the next answer says so: start(); phase() ends an idle connection */
}

/* A request that does not get on is answered; one whose bytes come behind an answer at work is not looked at yet. */
static int64_t check(void *state, int64_t now_ns)
{
    struct http1 *h = state;
    const struct http_limits *l = &h->conn->settings->limits;
    bool head = h->step == STEP_HEAD && h->in.n_bytes > 0, body = h->step == STEP_BODY;
    uint64_t n_bytes = body ? h->x->body.n_bytes : 0;
    pace_follow(&h->pace, head || body, n_bytes, now_ns);
    int64_t deadline_ns = pace_deadline(&h->pace, head ? l->head_ns : l->body_ns, body ? l->min_rate : 0);
    if (now_ns < deadline_ns)
        return deadline_ns;
    h->pace = (struct pace){0};
    if (head)
        h->x = http_exchange_open(h->conn);
    if (!h->x)
        return now_ns;
    reject(h, 408, head ? "the request's head did not come in time" : "the request's body comes too slowly");
    return CLOCK_NEVER;
}

static void close_state(void *state)
{
    struct http1 *h = state;
    if (h->x)
        http_exchange_close(h->x);
    buffer_fini(&h->in);
    free(h);
}

const struct http_protocol http1_protocol = {
    .input = input,
    .output = output,
    .phase = phase,
    .wants_input = wants_input,
    .drain = drain,
    .check = check,
    .close = close_state,
    .start = start,
    .write = write_body,
    .end = end,
    .abort = abort_answer,
    .queued = queued,
};
