/*
 * Requests as POSTs over HTTP/1.1 whose answers are Server-Sent Events. A slot has a connection of its own, which is kept from request
 * to request; all of a worker's live on its loop. What comes in one read counts as having come together.
 */
#include "tools/load_http.h"

#include "base/clock.h"
#include "tools/load_slot.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define READ_BYTES 16384
#define SLOW_READ_BYTES 512 /* about one event: a slow reader pauses after each read */

struct address {
    struct sockaddr_storage name;
    socklen_t n_bytes;
};

struct connection {
    struct load_slot *slot;
    struct bufferevent *bev; /* NULL = not connected */
    bool used;               /* it has served a request */
    bool quiet;              /* nothing has come of the answer yet */
    struct event *gone;      /* cancelled, or never begun: tells the end from the loop */
    bool no_socket;
    struct load_answer answer;
};

static void drop(struct connection *c)
{
    if (c->bev)
        bufferevent_free(c->bev);
    c->bev = NULL;
    c->used = false;
}

/* ---- answers ------------------------------------------------------------------------------------------------------------ */

static void end_with(struct connection *c, const struct load_end *end)
{
    load_slot_ended(c->slot, end, clock_now_ns());
}

static void fail(struct connection *c, const char *what)
{
    char kind[LOAD_FAULT_BYTES];
    const struct load_end end = {
        .how = END_FAILED, .kind = kind, .retry_ms = -1, .n_prompt = -1, .n_cached = -1, .n_tokens = -1};
    snprintf(kind, sizeof kind, "client: %s", what);
    drop(c);
    end_with(c, &end);
}

/* Reads what has come. False when it is no answer. */
static bool feed(struct connection *c)
{
    struct load_slot *s = c->slot;
    struct evbuffer *in = bufferevent_get_input(c->bev);
    struct load_answer *a = &c->answer;
    int64_t now_ns = clock_now_ns();
    bool ok = true;
    a->n_messages = a->n_tokens = 0;
    for (size_t n; ok && !a->over && (n = evbuffer_get_contiguous_space(in)) > 0;) {
        c->quiet = false;
        s->worker->stats.bytes_in += n;
        ok = load_answer_feed(a, (const char *)evbuffer_pullup(in, (ev_ssize_t)n), n);
        evbuffer_drain(in, n);
    }
    if (a->over && evbuffer_get_length(in) > 0)
        a->keep_alive = false; /* bytes that nobody asked for */
    if (a->n_messages > 0)
        load_slot_tokens(s, a->n_messages, a->n_tokens, now_ns);
    return ok;
}

static void take(struct connection *c, bool closed)
{
    struct load_answer *a = &c->answer;
    struct load_end end;
    bool ok = feed(c);
    if (!c->bev) /* cancelled by what came */
        return;
    if (ok && closed && !a->over)
        ok = load_answer_closed(a);
    if (!ok) {
        fail(c, "not an answer in HTTP/1.1 with events");
    } else if (a->over) {
        load_answer_end(a, &end);
        if (closed || !a->keep_alive)
            drop(c);
        end_with(c, &end);
    } else if (closed) {
        fail(c, "the connection was closed");
    }
}

static void on_read(struct bufferevent *bev, void *user)
{
    (void)bev;
    struct connection *c = user;
    pthread_mutex_lock(&c->slot->worker->lock);
    if (c->slot->state == SLOT_RUNNING)
        take(c, false);
    else
        drop(c); /* what comes without having been asked for cannot be told from the next answer */
    pthread_mutex_unlock(&c->slot->worker->lock);
}

static void send_request(struct connection *c);

static void on_event(struct bufferevent *bev, short what, void *user)
{
    (void)bev;
    struct connection *c = user;
    struct load_worker *w = c->slot->worker;
    int problem = EVUTIL_SOCKET_ERROR();
    if (what & BEV_EVENT_CONNECTED)
        return;
    pthread_mutex_lock(&w->lock);
    if (c->slot->state != SLOT_RUNNING) {
        drop(c); /* the server closed what nobody used */
    } else if (c->used && c->quiet) {
        drop(c); /* or closed it while the request was on its way */
        send_request(c);
    } else if (what & BEV_EVENT_EOF) {
        take(c, true);
    } else {
        fail(c, problem ? evutil_socket_error_to_string(problem) : "the connection was lost");
    }
    pthread_mutex_unlock(&w->lock);
}

static void on_gone(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    struct connection *c = user;
    pthread_mutex_lock(&c->slot->worker->lock);
    const struct load_end end = {.how = c->no_socket ? END_FAILED : END_CANCELLED,
                                 .kind = c->no_socket ? "client: no socket is to be had" : "CANCELLED",
                                 .retry_ms = -1,
                                 .n_prompt = -1,
                                 .n_cached = -1,
                                 .n_tokens = -1};
    c->no_socket = false;
    end_with(c, &end);
    pthread_mutex_unlock(&c->slot->worker->lock);
}

static void on_text(void *user, const char *text, size_t n_bytes)
{
    load_slot_text(user, text, n_bytes);
}

/* ---- requests ------------------------------------------------------------------------------------------------------------ */

/* Begins to connect; a failure comes as an event. False when there is not even a socket. */
static bool connect_to(struct connection *c)
{
    const struct address *to = c->slot->worker->transport;
    c->bev = bufferevent_socket_new(c->slot->worker->base, -1, BEV_OPT_CLOSE_ON_FREE | BEV_OPT_DEFER_CALLBACKS);
    if (!c->bev)
        load_no_memory();
    bufferevent_setcb(c->bev, on_read, NULL, on_event, c);
    if (bufferevent_socket_connect(c->bev, (const struct sockaddr *)&to->name, (int)to->n_bytes) != 0)
        return false;
    const int one = 1;
    setsockopt(bufferevent_getfd(c->bev), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return true;
}

static void send_request(struct connection *c)
{
    struct load_slot *s = c->slot;
    const struct load_plan *p = s->worker->run->plan;
    bool slow = s->spec.behaviour == LOAD_SLOW || s->spec.behaviour == LOAD_DEAD;
    if (!c->bev && !connect_to(c)) {
        drop(c);
        c->no_socket = true;
        event_active(c->gone, 0, 0);
        return;
    }
    c->quiet = true;
    load_answer_begin(&c->answer, p->api, on_text, s);
    bufferevent_set_max_single_read(c->bev, slow ? SLOW_READ_BYTES : READ_BYTES);
    struct evbuffer *out = bufferevent_get_output(c->bev);
    if (evbuffer_add_printf(
            out,
            "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nAccept: text/event-stream\r\n"
            "Content-Length: %zu\r\n\r\n",
            p->path, p->target, s->body.n_bytes) < 0 ||
        evbuffer_add(out, s->body.data, s->body.n_bytes) != 0 || bufferevent_enable(c->bev, EV_READ | EV_WRITE) != 0)
        load_no_memory();
}

static void start(struct load_slot *s)
{
    struct connection *c = s->connection;
    if (c->bev)
        c->used = true;
    send_request(c);
}

static void cancel(struct load_slot *s)
{
    struct connection *c = s->connection;
    drop(c);
    event_active(c->gone, 0, 0);
}

static void pause_reading(struct load_slot *s)
{
    bufferevent_disable(((struct connection *)s->connection)->bev, EV_READ);
}

static void resume_reading(struct load_slot *s)
{
    bufferevent_enable(((struct connection *)s->connection)->bev, EV_READ);
}

static bool slot_open(struct load_slot *s)
{
    struct connection *c = calloc(1, sizeof *c);
    s->connection = c;
    if (!c || !(c->gone = event_new(s->worker->base, -1, 0, on_gone, c)))
        return false;
    c->slot = s;
    load_answer_init(&c->answer);
    return true;
}

static void slot_close(struct load_slot *s)
{
    struct connection *c = s->connection;
    drop(c);
    event_free(c->gone);
    load_answer_fini(&c->answer);
    free(c);
}

/* ---- workers -------------------------------------------------------------------------------------------------------------- */

static enum error_code open_address(struct load_worker *w, struct error *err)
{
    const char *target = w->run->plan->target, *colon = strrchr(target, ':');
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list;
    char host[sizeof w->run->plan->target];
    bool brackets = target[0] == '[' && colon > target + 1 && colon[-1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)(colon - target) - 2 * brackets, target + brackets);
    int rc = getaddrinfo(host, colon + 1, &hints, &list);
    if (rc)
        return error_set(err, ERROR_NOT_FOUND, "cannot find %s: %s", target, gai_strerror(rc));
    struct address *a = calloc(1, sizeof *a);
    if (a) {
        memcpy(&a->name, list->ai_addr, list->ai_addrlen);
        a->n_bytes = list->ai_addrlen;
    }
    w->transport = a;
    freeaddrinfo(list);
    return a ? ERROR_NONE : error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for an address");
}

static void close_address(struct load_worker *w)
{
    free(w->transport);
}

const struct load_transport load_http = {.open = open_address,
                                         .close = close_address,
                                         .slot_open = slot_open,
                                         .slot_close = slot_close,
                                         .start = start,
                                         .cancel = cancel,
                                         .pause = pause_reading,
                                         .resume = resume_reading};
