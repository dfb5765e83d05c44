/*
 * One connection is a bufferevent and a struct http_conn. What a connection writes is gathered by an event that runs once
 * after the callbacks that caused it (`flush`), so that many tokens leave in one write.
 *
 * Time limits: http_conn_check knows those of requests, the pace of what is being written is watched here. One timer a
 * connection; it is set when a limit comes closer and left alone when one moves away: it finds out when it fires.
 */
#include "gateway/server.h"

#include "base/clock.h"
#include "base/log.h"
#include "gateway/address.h"
#include "gateway/pace.h"
#include "gateway/tls.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READ_WATERMARK 65536
#define SCRATCH_BYTES (4 * HTTP_HIGH_WATER_BYTES) /* of the buffer for a flush that is kept */

struct connection {
    struct server *server;
    struct server_socket socket;
    struct bufferevent *bev;
    struct http_conn *http;
    struct event *flush, *limit;
    struct pace writing;
    uint64_t n_written; /* handed to bev */
    int64_t timer_ns;   /* when `limit` fires */
    bool shut;          /* our side of the socket is closed */
    char peer[64];
    struct connection *next, *previous;
};

struct server {
    struct event_base *base;
    struct server_options options;
    struct connection *connections;
    atomic_llong n_connections;
    struct buffer out; /* scratch for one flush */
    bool draining;
    void (*done)(void *user);
    void *done_user;
    struct event *arrive;
    pthread_mutex_t lock; /* guards what follows */
    struct connection *arrivals;
};

static void check_done(struct server *s)
{
    if (s->draining && atomic_load(&s->n_connections) == 0 && s->done) {
        void (*done)(void *) = s->done;
        s->done = NULL;
        done(s->done_user);
    }
}

/* TLS: says that this is the end and not somebody in between who cuts it short (RFC 8446 section 6.1). */
static void say_end(struct connection *c)
{
    SSL *ssl = c->socket.tls ? bufferevent_openssl_get_ssl(c->bev) : NULL;
    if (!ssl)
        return;
    SSL_shutdown(ssl);
    ERR_clear_error(); /* in a handshake, or with nobody there, nothing can be said */
}

static void connection_close(struct connection *c)
{
    struct server *s = c->server;
    *(c->previous ? &c->previous->next : &s->connections) = c->next;
    if (c->next)
        c->next->previous = c->previous;
    if (c->http)
        http_conn_close(c->http);
    if (c->flush)
        event_free(c->flush);
    if (c->limit)
        event_free(c->limit);
    if (c->bev) {
        bufferevent_free(c->bev);
    } else {
        close(c->socket.fd);
    }
    atomic_fetch_sub(&s->n_connections, 1);
    s->options.on_closed(s->options.user, (const struct sockaddr *)&c->socket.from);
    free(c);
    check_done(s);
}

static size_t pending(void *user)
{
    return evbuffer_get_length(bufferevent_get_output(((struct connection *)user)->bev));
}

static void wake(void *user)
{
    event_active(((struct connection *)user)->flush, EV_TIMEOUT, 0);
}

/* ---- time ---- */

static void arm(struct connection *c, int64_t deadline_ns, int64_t now_ns)
{
    if (deadline_ns >= c->timer_ns)
        return;
    int64_t us = (deadline_ns - now_ns) / 1000 + 1;
    const struct timeval wait = {us / 1000000, us % 1000000};
    event_add(c->limit, &wait);
    c->timer_ns = deadline_ns;
}

/* True when the connection is to be closed at once. Its end is waited for only once the last byte is out. */
static bool over_limit(struct connection *c, bool ending)
{
    const struct http_limits *l = &c->server->options.http->limits;
    int64_t now_ns = clock_now_ns();
    size_t n_pending = pending(c);
    uint64_t n_sent = c->n_written - n_pending;
    pace_follow(&c->writing, n_pending > 0, n_sent, now_ns);
    int64_t deadline_ns = pace_deadline(&c->writing, l->stall_ns, l->min_rate);
    int64_t http_ns = ending && n_pending > 0 ? CLOCK_NEVER : http_conn_check(c->http, now_ns);
    if (http_ns < deadline_ns)
        deadline_ns = http_ns;
    if (now_ns >= deadline_ns)
        return true;
    arm(c, deadline_ns, now_ns);
    return false;
}

/* ---- bytes ---- */

/* The other side closes first where it may still be sending: to close with unread input would reset the connection and
 * could take the answer with it. True when the connection can be closed. */
static bool finish(struct connection *c, enum http_phase phase)
{
    if (pending(c) > 0)
        return false;
    if (!c->shut) {
        say_end(c);
        shutdown(c->socket.fd, SHUT_WR);
    }
    c->shut = true;
    return phase == HTTP_PHASE_CLOSED;
}

/* Hands bytes to the socket at once where nothing waits before them; the rest is the bufferevent's, for which two calls of
 * epoll_ctl and a turn of the loop go by. Errors come again there. False when memory is out and bytes are lost. */
static bool send_bytes(struct connection *c, const char *data, size_t n_bytes)
{
    ssize_t n = -1;
    if (n_bytes == 0)
        return true;
    if (!c->socket.tls && pending(c) == 0)
        n = send(c->socket.fd, data, n_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    size_t n_sent = n > 0 ? (size_t)n : 0;
    if (n_sent < n_bytes && bufferevent_write(c->bev, data + n_sent, n_bytes - n_sent) != 0)
        return false;
    if (n_sent == n_bytes && n_bytes >= HTTP_LOW_WATER_BYTES)
        wake(c); /* more may be made now */
    c->n_written += n_bytes;
    return true;
}

/* Sends what is there, and closes when that was all. */
static void flush_connection(struct connection *c)
{
    struct server *s = c->server;
    buffer_clear(&s->out);
    http_conn_output(c->http, &s->out);
    bool sent = send_bytes(c, s->out.data, s->out.n_bytes);
    if (s->out.capacity > SCRATCH_BYTES)
        buffer_fini(&s->out);
    enum http_phase phase = http_conn_phase(c->http);
    bool ending = phase == HTTP_PHASE_LINGER || phase == HTTP_PHASE_CLOSED;
    if (!sent || (ending && finish(c, phase)) || over_limit(c, ending)) {
        connection_close(c);
        return;
    }
    if (http_conn_wants_input(c->http))
        bufferevent_enable(c->bev, EV_READ);
    else
        bufferevent_disable(c->bev, EV_READ);
}

static void on_flush(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    flush_connection(user);
}

static void on_limit(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    struct connection *c = user;
    c->timer_ns = CLOCK_NEVER;
    flush_connection(c);
}

static void on_read(struct bufferevent *bev, void *user)
{
    struct connection *c = user;
    struct evbuffer *in = bufferevent_get_input(bev);
    size_t n;
    while ((n = evbuffer_get_contiguous_space(in)) > 0) {
        http_conn_input(c->http, (const char *)evbuffer_pullup(in, (ev_ssize_t)n), n);
        evbuffer_drain(in, n);
    }
}

static void on_written(struct bufferevent *bev, void *user)
{
    (void)bev;
    flush_connection(user);
}

/* But for the end of a handshake: the end of input or an error, which mean that nobody is there. */
static void on_event(struct bufferevent *bev, short what, void *user)
{
    struct connection *c = user;
    if (what & BEV_EVENT_CONNECTED) {
        char name[HTTP_CERTIFICATE_BYTES];
        if (tls_client_name(c->socket.tls, bufferevent_openssl_get_ssl(bev), name, sizeof name))
            http_conn_set_certificate(c->http, name);
        return;
    }
    unsigned long reason = c->socket.tls ? bufferevent_get_openssl_error(bev) : 0;
    if (reason != 0)
        log_debug("gateway", "TLS failed", LOG_STR("reason", ERR_reason_error_string(reason)),
                  LOG_STR("peer", c->peer));
    ERR_clear_error();
    connection_close(c);
}

/* ---- arrival ---- */

static bool open_transport(struct connection *c)
{
    struct event_base *base = c->server->base;
    if (!c->socket.tls) {
        c->bev = bufferevent_socket_new(base, c->socket.fd, BEV_OPT_CLOSE_ON_FREE);
        return c->bev != NULL;
    }
    SSL *ssl = tls_session(c->socket.tls);
    c->bev = ssl ? bufferevent_openssl_socket_new(base, c->socket.fd, ssl, BUFFEREVENT_SSL_ACCEPTING,
                                                  BEV_OPT_CLOSE_ON_FREE)
                 : NULL;
    if (!c->bev) {
        SSL_free(ssl);
        return false;
    }
    bufferevent_openssl_set_allow_dirty_shutdown(c->bev, 1);
    return true;
}

static bool connection_open(struct connection *c)
{
    struct server *s = c->server;
    const struct http_transport transport = {.user = c, .wake = wake, .pending = pending};
    c->timer_ns = CLOCK_NEVER;
    address_text((const struct sockaddr *)&c->socket.from, c->socket.n_from, c->peer, sizeof c->peer);
    c->http = http_conn_open(s->options.http, &transport, c->peer);
    c->flush = event_new(s->base, -1, 0, on_flush, c);
    c->limit = evtimer_new(s->base, on_limit, c);
    if (!c->http || !c->flush || !c->limit || !open_transport(c))
        return false;
    bufferevent_setcb(c->bev, on_read, on_written, on_event, c);
    bufferevent_setwatermark(c->bev, EV_READ, 0, READ_WATERMARK);
    bufferevent_setwatermark(c->bev, EV_WRITE, HTTP_LOW_WATER_BYTES / 2, 0);
    bufferevent_enable(c->bev, EV_READ | EV_WRITE);
    if (s->draining)
        http_conn_drain(c->http);
    wake(c); /* its first limit */
    return true;
}

static void take_arrivals(struct server *s)
{
    pthread_mutex_lock(&s->lock);
    struct connection *c = s->arrivals;
    s->arrivals = NULL;
    pthread_mutex_unlock(&s->lock);
    for (struct connection *next; c; c = next) {
        next = c->next;
        c->next = s->connections;
        if (c->next)
            c->next->previous = c;
        s->connections = c;
        if (!connection_open(c))
            connection_close(c);
    }
}

static void on_arrival(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    take_arrivals(user);
}

void server_give(struct server *s, const struct server_socket *socket)
{
    struct connection *c = calloc(1, sizeof *c);
    if (!c) {
        close(socket->fd);
        s->options.on_closed(s->options.user, (const struct sockaddr *)&socket->from);
        return;
    }
    c->server = s;
    c->socket = *socket;
    atomic_fetch_add(&s->n_connections, 1);
    pthread_mutex_lock(&s->lock);
    bool first = !s->arrivals;
    c->next = s->arrivals;
    s->arrivals = c;
    pthread_mutex_unlock(&s->lock);
    if (first)
        event_active(s->arrive, EV_TIMEOUT, 0);
}

/* ---- the whole ---- */

enum error_code server_open(struct event_base *base, const struct server_options *options, struct server **out,
                            struct error *err)
{
    struct server *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    s->base = base;
    s->options = *options;
    atomic_init(&s->n_connections, 0);
    pthread_mutex_init(&s->lock, NULL);
    buffer_init(&s->out, SIZE_MAX / 2);
    s->arrive = event_new(base, -1, 0, on_arrival, s);
    if (!s->arrive) {
        server_close(s);
        return error_set(err, ERROR_INTERNAL, "out of memory");
    }
    *out = s;
    return ERROR_NONE;
}

int64_t server_connections(const struct server *s)
{
    return atomic_load(&s->n_connections);
}

void server_drain(struct server *s, void (*done)(void *user), void *user)
{
    s->draining = true;
    s->done = done;
    s->done_user = user;
    for (struct connection *c = s->connections; c; c = c->next)
        http_conn_drain(c->http); /* closes none yet: it wakes */
    check_done(s);
}

void server_close(struct server *s)
{
    s->done = NULL;
    s->draining = true;
    if (s->arrive)
        event_free(s->arrive);
    take_arrivals(s);
    while (s->connections)
        connection_close(s->connections);
    pthread_mutex_destroy(&s->lock);
    buffer_fini(&s->out);
    free(s);
}
