/*
 * One connection is a bufferevent and a struct http_conn. What a connection writes is gathered by an event that runs once
 * after the callbacks that caused it (`flush`), so that many tokens leave in one write.
 *
 * Time limits, by what the connection waits for: a request's head 10 s, its body 30 s without progress, the next request
 * 75 s, a client that does not read 60 s, the end after ours 2 s.
 */
#include "gateway/server.h"

#include "base/log.h"
#include "gateway/address.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD_LIMIT_S 10
#define BODY_LIMIT_S 30
#define IDLE_LIMIT_S 75
#define WRITE_LIMIT_S 60
#define LINGER_LIMIT_S 2
#define READ_WATERMARK 65536
#define NOTSENT_LOWAT 16384
#define MAX_LISTENERS 8

struct connection {
    struct server *server;
    struct bufferevent *bev;
    struct http_conn *http;
    struct event *flush, *limit;
    enum http_phase phase;
    bool shut; /* our side of the socket is closed */
    struct connection *next, *previous;
};

struct server {
    struct event_base *base;
    struct server_options options;
    struct evconnlistener *listeners[MAX_LISTENERS];
    struct address addresses[MAX_LISTENERS];
    int n_listeners, port;
    struct connection *connections;
    int64_t n_connections;
    struct buffer out; /* scratch for one flush */
    bool draining, full;
    void (*done)(void *user);
    void *done_user;
};

static void check_done(struct server *s)
{
    if (s->draining && s->n_connections == 0 && s->done) {
        void (*done)(void *) = s->done;
        s->done = NULL;
        done(s->done_user);
    }
}

static void set_accepting(struct server *s, bool on)
{
    for (int i = 0; i < s->n_listeners; i++)
        if (s->listeners[i])
            (on ? evconnlistener_enable : evconnlistener_disable)(s->listeners[i]);
    s->full = !on;
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
    bufferevent_free(c->bev);
    free(c);
    s->n_connections--;
    if (s->full && !s->draining)
        set_accepting(s, true);
    check_done(s);
}

static void arm(struct connection *c, int seconds)
{
    const struct timeval limit = {seconds, 0};
    if (seconds > 0)
        event_add(c->limit, &limit);
    else
        event_del(c->limit);
}

/* Starts the clock of a new phase. That of a body or a stalled answer is started again whenever bytes move. */
static void follow_phase(struct connection *c, enum http_phase phase, bool progress)
{
    static const int limits[] = {
        [HTTP_PHASE_IDLE] = IDLE_LIMIT_S,     [HTTP_PHASE_HEAD] = HEAD_LIMIT_S,
        [HTTP_PHASE_BODY] = BODY_LIMIT_S,     [HTTP_PHASE_ANSWER] = 0,
        [HTTP_PHASE_LINGER] = LINGER_LIMIT_S, [HTTP_PHASE_CLOSED] = LINGER_LIMIT_S,
        [HTTP_PHASE_STALLED] = WRITE_LIMIT_S,
    };
    if (phase != c->phase || (progress && (phase == HTTP_PHASE_BODY || phase == HTTP_PHASE_STALLED)))
        arm(c, limits[phase]);
    c->phase = phase;
}

/* Sends what is there, and closes when that was all. The other side closes first where it may still be sending: to close
 * with unread input would reset the connection and could take the answer with it. */
static void flush_connection(struct connection *c)
{
    struct server *s = c->server;
    buffer_clear(&s->out);
    http_conn_output(c->http, &s->out);
    if (s->out.n_bytes > 0)
        bufferevent_write(c->bev, s->out.data, s->out.n_bytes);
    enum http_phase phase = http_conn_phase(c->http);
    if (phase == HTTP_PHASE_LINGER || phase == HTTP_PHASE_CLOSED) {
        if (evbuffer_get_length(bufferevent_get_output(c->bev)) == 0) {
            if (phase == HTTP_PHASE_CLOSED) {
                connection_close(c);
                return;
            }
            if (!c->shut)
                shutdown(bufferevent_getfd(c->bev), SHUT_WR);
            c->shut = true;
        }
        /* Until the output is out the write limit holds. */
        follow_phase(c, c->shut ? phase : HTTP_PHASE_ANSWER, false);
    } else {
        follow_phase(c, phase, s->out.n_bytes > 0);
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
    connection_close(user);
}

static void wake(void *user)
{
    event_active(((struct connection *)user)->flush, EV_TIMEOUT, 0);
}

static size_t pending(void *user)
{
    return evbuffer_get_length(bufferevent_get_output(((struct connection *)user)->bev));
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
    follow_phase(c, c->phase == HTTP_PHASE_LINGER ? c->phase : http_conn_phase(c->http), c->phase == HTTP_PHASE_BODY);
}

static void on_written(struct bufferevent *bev, void *user)
{
    (void)bev;
    flush_connection(user);
}

static void on_event(struct bufferevent *bev, short what, void *user)
{
    (void)bev,
        (void)what; /* the end of input, an error or a reader that does not read: all mean that nobody is there */
    connection_close(user);
}

/* Small messages at once; and no more unsent bytes in the kernel than a few writes, so that a slow reader is noticed. */
static void tune_socket(evutil_socket_t fd)
{
    int on = 1, low = NOTSENT_LOWAT;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &low, sizeof low);
}

static void link_connection(struct connection *c)
{
    struct server *s = c->server;
    c->next = s->connections;
    if (c->next)
        c->next->previous = c;
    s->connections = c;
    if (++s->n_connections >= s->options.max_connections && !s->full)
        set_accepting(s, false); /* the backlog holds the rest */
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *from, int n_from,
                      void *user)
{
    (void)listener;
    struct server *s = user;
    char peer[64];
    struct connection *c = calloc(1, sizeof *c);
    struct bufferevent *bev = c ? bufferevent_socket_new(s->base, fd, BEV_OPT_CLOSE_ON_FREE) : NULL;
    if (!bev) {
        free(c);
        close(fd);
        return;
    }
    c->server = s;
    c->bev = bev;
    c->phase = HTTP_PHASE_IDLE;
    link_connection(c);
    const struct http_transport transport = {.user = c, .wake = wake, .pending = pending};
    c->http = http_conn_open(s->options.http, &transport, address_text(from, (size_t)n_from, peer, sizeof peer));
    c->flush = event_new(s->base, -1, 0, on_flush, c);
    c->limit = evtimer_new(s->base, on_limit, c);
    if (!c->http || !c->flush || !c->limit) {
        connection_close(c);
        return;
    }
    if (from->sa_family != AF_UNIX)
        tune_socket(fd);
    const struct timeval write_limit = {WRITE_LIMIT_S, 0};
    bufferevent_setcb(bev, on_read, on_written, on_event, c);
    bufferevent_setwatermark(bev, EV_READ, 0, READ_WATERMARK);
    bufferevent_setwatermark(bev, EV_WRITE, HTTP_LOW_WATER_BYTES / 2, 0);
    bufferevent_set_timeouts(bev, NULL, &write_limit);
    arm(c, HEAD_LIMIT_S); /* the first request has no more time than that */
    bufferevent_enable(bev, EV_READ | EV_WRITE);
}

static void on_accept_error(struct evconnlistener *listener, void *user)
{
    (void)listener, (void)user;
    log_warn("gateway", "accept failed", LOG_STR("reason", strerror(errno)));
}

static enum error_code listen_on(struct server *s, const struct address *a, struct error *err)
{
    evutil_socket_t fd;
    enum error_code code = address_listen(a, &fd, err);
    if (code != ERROR_NONE)
        return code;
    struct evconnlistener *l =
        evconnlistener_new(s->base, on_accept, s, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
    if (!l) {
        close(fd);
        return error_set(err, ERROR_INTERNAL, "out of memory");
    }
    evconnlistener_set_error_cb(l, on_accept_error);
    char text[128];
    int port = address_bound(fd, text, sizeof text);
    if (s->n_listeners == 0)
        s->port = port;
    s->addresses[s->n_listeners] = *a;
    s->listeners[s->n_listeners++] = l;
    log_info("gateway", "listening", LOG_STR("server", s->options.name), LOG_STR("address", text),
             LOG_INT("port", port));
    return ERROR_NONE;
}

enum error_code server_open(struct event_base *base, const struct server_options *options, struct server **out,
                            struct error *err)
{
    struct address addresses[MAX_LISTENERS];
    int n = 0;
    enum error_code code = address_parse_list(options->listen, addresses, MAX_LISTENERS, &n, err);
    struct server *s = code == ERROR_NONE ? calloc(1, sizeof *s) : NULL;
    if (!s)
        return code != ERROR_NONE ? code : error_set(err, ERROR_INTERNAL, "out of memory");
    s->base = base;
    s->options = *options;
    buffer_init(&s->out, SIZE_MAX / 2);
    for (int i = 0; i < n && code == ERROR_NONE; i++)
        code = listen_on(s, &addresses[i], err);
    if (code != ERROR_NONE)
        server_close(s);
    else
        *out = s;
    return code;
}

int server_port(const struct server *s)
{
    return s->port;
}

static void stop_listening(struct server *s)
{
    for (int i = 0; i < s->n_listeners; i++) {
        if (!s->listeners[i])
            continue;
        evconnlistener_free(s->listeners[i]);
        s->listeners[i] = NULL;
        address_unlink(&s->addresses[i]);
    }
}

void server_drain(struct server *s, void (*done)(void *user), void *user)
{
    s->draining = true;
    stop_listening(s);
    for (struct connection *c = s->connections, *next; c; c = next) {
        next = c->next;
        http_conn_drain(c->http);
    }
    s->done = done;
    s->done_user = user;
    check_done(s);
}

void server_close(struct server *s)
{
    s->done = NULL;
    s->draining = true;
    stop_listening(s);
    while (s->connections)
        connection_close(s->connections);
    buffer_fini(&s->out);
    free(s);
}
