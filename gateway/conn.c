/* A connection: the first bytes choose the protocol, then everything is handed on. HTTP/2 begins with 24 fixed bytes. */
#include "gateway/http_internal.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEEP_BYTES 4096

static const char preface[24] = {'P', 'R', 'I',  ' ',  '*',  ' ',  'H', 'T', 'T',  'P',  '/',  '2',
                                 '.', '0', '\r', '\n', '\r', '\n', 'S', 'M', '\r', '\n', '\r', '\n'};

/* The output has no maximum of its own: HTTP/2 makes frames only up to the high-water mark, and for HTTP/1.1 the
 * application keeps to http_queued. */
struct http_conn *http_conn_open(const struct http_settings *settings, const struct http_transport *transport,
                                 const char *peer)
{
    struct http_conn *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->settings = settings;
    c->transport = *transport;
    buffer_init(&c->out, SIZE_MAX / 2);
    snprintf(c->peer, sizeof c->peer, "%s", peer);
    return c;
}

void http_conn_set_certificate(struct http_conn *c, const char *name)
{
    snprintf(c->certificate, sizeof c->certificate, "%s", name);
}

static bool choose(struct http_conn *c, const struct http_protocol *protocol, void *state)
{
    if (!state)
        return false;
    c->protocol = protocol;
    c->state = state;
    for (int i = 0; i < c->draining; i++)
        protocol->drain(state, i == 1);
    return true;
}

/* Keeps the bytes while they could still become the preface. */
static bool sniff(struct http_conn *c, const char *data, size_t n_bytes)
{
    size_t n = 0;
    while (n < n_bytes && c->n_preface < sizeof preface && data[n] == preface[c->n_preface])
        c->preface[c->n_preface++] = data[n++];
    if (c->n_preface < sizeof preface && n == n_bytes)
        return true;
    bool chosen = c->n_preface == sizeof preface ? choose(c, &http2_protocol, http2_open(c))
                                                 : choose(c, &http1_protocol, http1_open(c));
    return chosen && c->protocol->input(c->state, c->preface, c->n_preface) &&
           (n == n_bytes || c->protocol->input(c->state, data + n, n_bytes - n));
}

bool http_conn_input(struct http_conn *c, const char *data, size_t n_bytes)
{
    if (c->failed)
        return false;
    bool ok = c->protocol ? c->protocol->input(c->state, data, n_bytes) : sniff(c, data, n_bytes);
    if (!ok)
        c->failed = true;
    http_wake(c);
    return ok;
}

void http_conn_output(struct http_conn *c, struct buffer *out)
{
    if (c->protocol)
        c->protocol->output(c->state);
    if (c->out.failed || !buffer_append(out, c->out.data ? c->out.data : "", c->out.n_bytes))
        c->failed = true;
    if (c->out.capacity > KEEP_BYTES)
        buffer_fini(&c->out); /* a stalled reader is not to cost what its last burst did */
    else
        buffer_clear(&c->out);
}

enum http_phase http_conn_phase(const struct http_conn *c)
{
    if (c->failed)
        return HTTP_PHASE_CLOSED;
    if (!c->protocol)
        return c->draining > 1 ? HTTP_PHASE_CLOSED : c->n_preface > 0 ? HTTP_PHASE_HEAD : HTTP_PHASE_IDLE;
    return c->protocol->phase(c->state);
}

bool http_conn_wants_input(const struct http_conn *c)
{
    return !c->failed && (!c->protocol || c->protocol->wants_input(c->state));
}

void http_conn_drain(struct http_conn *c)
{
    if (c->draining == 2)
        return;
    c->draining++;
    if (c->protocol)
        c->protocol->drain(c->state, c->draining == 2);
    http_wake(c);
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* When the connection takes nothing new any more, because it was idle for long or the server is going down. An HTTP/1.1
 * client learns of that from an answer, and after one that had promised to go on it may just be sending the next request. */
static int64_t last_call(const struct http_conn *c)
{
    const struct http_limits *l = &c->settings->limits;
    bool idle = c->phase == HTTP_PHASE_IDLE;
    int64_t at_ns = idle && c->protocol && l->idle_ns > 0 ? c->phase_ns + l->idle_ns : CLOCK_NEVER;
    if (c->draining != 1 || (!idle && c->protocol != &http2_protocol))
        return at_ns;
    int64_t from_ns = idle && c->phase_ns > c->drain_ns ? c->phase_ns : c->drain_ns;
    return earlier(at_ns, from_ns + l->drain_ns);
}

/* The limits of the connection itself; those of requests and answers are the protocol's. */
int64_t http_conn_check(struct http_conn *c, int64_t now_ns)
{
    const struct http_limits *l = &c->settings->limits;
    enum http_phase phase = http_conn_phase(c);
    if (phase != c->phase || c->phase_ns == 0) {
        c->phase = phase;
        c->phase_ns = now_ns;
    }
    if (c->draining > 0 && c->drain_ns == 0)
        c->drain_ns = now_ns;
    bool ending = phase == HTTP_PHASE_LINGER || phase == HTTP_PHASE_CLOSED;
    int64_t limit_ns = ending ? l->linger_ns : !c->protocol ? l->head_ns : 0;
    int64_t deadline_ns = limit_ns > 0 ? c->phase_ns + limit_ns : CLOCK_NEVER;
    if (ending || now_ns >= deadline_ns)
        return deadline_ns;
    int64_t last_ns = last_call(c);
    if (now_ns >= last_ns) {
        while (c->draining < 2)
            http_conn_drain(c);
        return CLOCK_NEVER; /* the flush that this causes asks again */
    }
    return earlier(earlier(deadline_ns, last_ns), c->protocol ? c->protocol->check(c->state, now_ns) : CLOCK_NEVER);
}

void http_conn_close(struct http_conn *c)
{
    if (c->protocol)
        c->protocol->close(c->state);
    buffer_fini(&c->out);
    free(c);
}
