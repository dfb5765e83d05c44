/*
 * A connection without a socket, and an application that answers by the path:
 *   /echo    the request as text: method, path, query, body and the header x
 *   /stream  starts a stream that the test goes on with
 *   anything else: 404
 */
#ifndef TESTS_UNIT_GATEWAY_MEMORY_H
#define TESTS_UNIT_GATEWAY_MEMORY_H

#include "gateway/http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct memory {
    struct http_settings settings;
    struct http_conn *conn;
    struct buffer out; /* what the connection has sent */
    size_t pending;    /* bytes that the test's transport has not passed on */
    int n_requests, n_rejects, n_gone, n_finished, n_aborted, n_writable;
    int reject_status;
    struct http_exchange *stream; /* that of /stream while it runs */
};

static inline void memory_wake(void *user)
{
    (void)user;
}

static inline size_t memory_pending(void *user)
{
    return ((struct memory *)user)->pending;
}

static inline void memory_gone(void *user)
{
    struct memory *m = user;
    m->n_gone++;
    m->stream = NULL;
}

static inline void memory_writable(void *user)
{
    ((struct memory *)user)->n_writable++;
}

static inline void memory_request(void *user, struct http_exchange *x)
{
    static const struct http_header text[] = {{"content-type", "text/plain"}, {NULL, NULL}};
    struct memory *m = user;
    const struct http_request *r = http_request_of(x);
    struct buffer body;
    m->n_requests++;
    http_set_user(x, m);
    http_set_callbacks(x, memory_gone, memory_writable);
    if (strcmp(r->path, "/stream") == 0) {
        m->stream = x;
        http_start(x, 200, text);
        return;
    }
    const char *header = http_header(r, "x");
    buffer_init(&body, 4 << 20);
    buffer_printf(&body, "%s %s?%s [%s] ", http_method_name(r->method), r->path, r->query, header ? header : "-");
    buffer_append(&body, r->body, r->n_body);
    http_respond(x, strcmp(r->path, "/echo") == 0 ? 200 : 404, text, body.data, body.n_bytes);
    buffer_fini(&body);
}

static inline void memory_reject(void *user, struct http_exchange *x, int status, const char *reason)
{
    struct memory *m = user;
    m->n_rejects++;
    m->reject_status = status;
    http_respond(x, status, NULL, reason, strlen(reason));
}

static inline void memory_finish(void *user, struct http_exchange *x, bool aborted)
{
    struct memory *m = user;
    (void)x;
    m->n_finished++;
    m->n_aborted += aborted;
}

static inline void memory_open(struct memory *m, size_t max_body)
{
    memset(m, 0, sizeof *m);
    m->settings = (struct http_settings){.user = m,
                                         .max_body_bytes = max_body,
                                         .on_request = memory_request,
                                         .on_reject = memory_reject,
                                         .on_finish = memory_finish};
    const struct http_transport transport = {.user = m, .wake = memory_wake, .pending = memory_pending};
    buffer_init(&m->out, 64 << 20);
    m->conn = http_conn_open(&m->settings, &transport, "192.0.2.1");
}

static inline void memory_close(struct memory *m)
{
    http_conn_close(m->conn);
    buffer_fini(&m->out);
}

/* Gives bytes in pieces of n_piece (0 = all at once) and collects the output after each. */
static inline bool memory_input(struct memory *m, const char *data, size_t n_bytes, size_t n_piece)
{
    bool ok = true;
    if (n_piece == 0)
        n_piece = n_bytes;
    while (n_bytes > 0 && ok) {
        size_t n = n_bytes < n_piece ? n_bytes : n_piece;
        char *copy = malloc(n); /* a sanitizer sees who reads beyond it */
        memcpy(copy, data, n);
        ok = http_conn_input(m->conn, copy, n);
        free(copy);
        http_conn_output(m->conn, &m->out);
        data += n;
        n_bytes -= n;
    }
    return ok;
}

static inline bool memory_text(struct memory *m, const char *text)
{
    return memory_input(m, text, strlen(text), 0);
}

/* What was sent so far, as text. */
static inline const char *memory_sent(const struct memory *m)
{
    return m->out.data ? m->out.data : "";
}

#endif
