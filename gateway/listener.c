/* Accepting and its limits. `n_connections` and the counts of addresses are shared with the servers' threads. */
#include "gateway/listener.h"

#include "base/log.h"
#include "gateway/address.h"
#include "gateway/peers.h"
#include "gateway/proxies.h"
#include "gateway/server.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_ADDRESSES 8
#define NOTSENT_LOWAT 16384
#define PAUSE_MS 100 /* when descriptors or memory are out */

struct place {
    struct listener *listener;
    struct address address;
    struct evconnlistener *conns;
    struct tls *tls; /* NULL: plain */
};

struct listener {
    struct event_base *base;
    struct listener_options options;
    struct place places[MAX_ADDRESSES];
    int n_places;
    struct server *servers[LISTENER_MAX_SERVERS];
    int n_servers, turn;
    struct event *resume; /* a connection ended while all were taken, or a pause is over */
    struct peers *peers;
    struct metrics_series *m_active, *m_refused;
    atomic_llong n_connections;
    atomic_bool full; /* set by the acceptor, cleared by it; read by who ends a connection */
    bool stopped;
};

static void set_accepting(struct listener *l, bool on)
{
    for (int i = 0; i < l->n_places; i++)
        if (l->places[i].conns)
            (on ? evconnlistener_enable : evconnlistener_disable)(l->places[i].conns);
}

static bool has_room(struct listener *l)
{
    return atomic_load(&l->n_connections) < l->options.max_connections;
}

static void on_resume(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    struct listener *l = user;
    if (l->stopped)
        return;
    atomic_store(&l->full, false);
    if (has_room(l))
        set_accepting(l, true);
    else
        atomic_store(&l->full, true);
}

/* A trusted proxy stands for many clients, and is not counted. */
static uint64_t counted_key(const struct listener *l, const struct sockaddr *from)
{
    return l->options.proxies && proxies_trust(l->options.proxies, from) ? 0 : peers_key(from);
}

void listener_closed(void *listener, const struct sockaddr *from)
{
    struct listener *l = listener;
    peers_leave(l->peers, counted_key(l, from));
    metrics_inc(l->m_active, -1);
    atomic_fetch_sub(&l->n_connections, 1);
    if (atomic_load(&l->full))
        event_active(l->resume, EV_TIMEOUT, 0);
}

/* Small messages at once; and no more unsent bytes in the kernel than a few writes, so that a slow reader is noticed. */
static void tune_socket(int fd)
{
    int on = 1, low = NOTSENT_LOWAT;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &low, sizeof low);
}

/* Closes with a reset, which keeps nothing of it here. */
static void turn_away(struct listener *l, int fd)
{
    const struct linger at_once = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(fd);
    metrics_inc(l->m_refused, 1);
}

/* That with the fewest connections; of several, the next in turn. */
static struct server *choose(struct listener *l)
{
    struct server *best = NULL;
    int64_t n_best = INT64_MAX;
    for (int i = 0; i < l->n_servers; i++) {
        struct server *s = l->servers[(l->turn + i) % l->n_servers];
        int64_t n = server_connections(s);
        if (n < n_best) {
            n_best = n;
            best = s;
        }
    }
    l->turn = (l->turn + 1) % l->n_servers;
    return best;
}

static void take(struct place *place, int fd, const struct sockaddr *from, socklen_t n_from)
{
    struct listener *l = place->listener;
    if (!peers_enter(l->peers, counted_key(l, from))) {
        turn_away(l, fd);
        return;
    }
    struct server_socket socket = {.fd = fd, .tls = place->tls};
    socket.n_from = n_from <= sizeof socket.from ? n_from : sizeof socket.from;
    memcpy(&socket.from, from, socket.n_from);
    if (place->address.storage.ss_family != AF_UNIX)
        tune_socket(fd);
    metrics_inc(l->m_active, 1);
    atomic_fetch_add(&l->n_connections, 1);
    server_give(choose(l), &socket);
}

static void on_accept(struct evconnlistener *conns, evutil_socket_t fd, struct sockaddr *from, int n_from, void *user)
{
    (void)conns;
    struct place *place = user;
    struct listener *l = place->listener;
    take(place, fd, from, (socklen_t)n_from);
    if (has_room(l))
        return;
    atomic_store(&l->full, true);
    if (has_room(l)) /* one ended in between, and saw `full` too late */
        atomic_store(&l->full, false);
    else
        set_accepting(l, false); /* the kernel's queue holds the rest */
}

/* Out of descriptors or memory: the connection stays in the queue, and asking for it again at once would be a busy loop. */
static void on_accept_error(struct evconnlistener *conns, void *user)
{
    (void)conns;
    struct listener *l = ((struct place *)user)->listener;
    const struct timeval pause = {0, PAUSE_MS * 1000};
    log_warn("gateway", "accept failed", LOG_STR("reason", strerror(errno)), LOG_STR("server", l->options.name));
    set_accepting(l, false);
    event_add(l->resume, &pause);
}

/* ---- open ---- */

/* Takes the scheme off and decides what the address is to be. */
static enum error_code add_place(struct listener *l, const char *text, struct error *err)
{
    const struct listener_options *o = &l->options;
    struct place *place = &l->places[l->n_places];
    bool https = strncmp(text, "https://", 8) == 0, http = strncmp(text, "http://", 7) == 0;
    text += https ? 8 : http ? 7 : 0;
    if (https && !o->tls)
        return error_set(err, ERROR_VALIDATION_FAILED, "https://%s: expected --tls-cert and --tls-key with it", text);
    bool by_default = !http && o->tls_by_default && strncmp(text, "unix:", 5) != 0;
    place->listener = l;
    place->tls = https || by_default ? o->tls : NULL;
    enum error_code code = address_parse(text, &place->address, err);
    evutil_socket_t fd = -1;
    if (code == ERROR_NONE)
        code = address_listen(&place->address, &fd, err);
    if (code != ERROR_NONE)
        return code;
    place->conns = evconnlistener_new(l->base, on_accept, place,
                                      LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_DISABLED, 0, fd);
    if (!place->conns) {
        close(fd);
        return error_set(err, ERROR_INTERNAL, "out of memory");
    }
    l->n_places++;
    evconnlistener_set_error_cb(place->conns, on_accept_error);
    return ERROR_NONE;
}

static enum error_code add_places(struct listener *l, struct error *err)
{
    char *list = strdup(l->options.listen), *rest = list, *one;
    enum error_code code = list ? ERROR_NONE : error_set(err, ERROR_INTERNAL, "out of memory");
    while (code == ERROR_NONE && (one = strsep(&rest, ",")) != NULL) {
        if (one[0] == '\0')
            continue;
        if (l->n_places == MAX_ADDRESSES)
            code = error_set(err, ERROR_VALIDATION_FAILED, "expected at most %d addresses, found %s", MAX_ADDRESSES,
                             l->options.listen);
        else
            code = add_place(l, one, err);
    }
    free(list);
    if (code == ERROR_NONE && l->n_places == 0)
        code = error_set(err, ERROR_VALIDATION_FAILED, "expected an address to listen on");
    return code;
}

enum error_code listener_open(struct event_base *base, const struct listener_options *options, struct listener **out,
                              struct error *err)
{
    struct listener *l = calloc(1, sizeof *l);
    if (!l)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    l->base = base;
    l->options = *options;
    atomic_init(&l->n_connections, 0);
    atomic_init(&l->full, false);
    l->peers = peers_open(options->max_connections_per_address);
    l->resume = event_new(base, -1, 0, on_resume, l);
    l->m_active = metrics_get(metrics_add(options->metrics, METRICS_GAUGE, "bitnet_connections_active",
                                          "Connections of clients.", "server", NULL, 0),
                              options->name);
    l->m_refused = metrics_get(metrics_add(options->metrics, METRICS_COUNTER, "bitnet_connections_refused_total",
                                           "Connections turned away: their address has its limit.", "server", NULL, 0),
                               options->name);
    enum error_code code =
        l->peers && l->resume ? add_places(l, err) : error_set(err, ERROR_INTERNAL, "out of memory");
    if (code != ERROR_NONE)
        listener_close(l);
    else
        *out = l;
    return code;
}

enum error_code listener_start(struct listener *l, struct server *const *servers, int n_servers, struct error *err)
{
    char text[128];
    if (n_servers < 1 || n_servers > LISTENER_MAX_SERVERS)
        return error_set(err, ERROR_INTERNAL, "expected 1..%d servers, found %d", LISTENER_MAX_SERVERS, n_servers);
    l->n_servers = n_servers;
    memcpy(l->servers, servers, (size_t)n_servers * sizeof *servers);
    for (int i = 0; i < l->n_places; i++) {
        int port = address_bound(evconnlistener_get_fd(l->places[i].conns), text, sizeof text);
        log_info("gateway", "listening", LOG_STR("server", l->options.name), LOG_STR("address", text),
                 LOG_INT("port", port), LOG_BOOL("tls", l->places[i].tls != NULL));
    }
    set_accepting(l, true);
    return ERROR_NONE;
}

/* What the kernel has accepted would be reset with the listening socket. */
static void take_rest(struct place *place)
{
    for (int n = 0; n < ADDRESS_BACKLOG; n++) {
        struct sockaddr_storage from;
        socklen_t n_from = sizeof from;
        int fd = accept4(evconnlistener_get_fd(place->conns), (struct sockaddr *)&from, &n_from,
                         SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        take(place, fd, (struct sockaddr *)&from, n_from);
    }
}

void listener_stop(struct listener *l)
{
    l->stopped = true;
    event_del(l->resume);
    for (int i = 0; i < l->n_places; i++) {
        struct place *place = &l->places[i];
        if (!place->conns)
            continue;
        if (l->n_servers > 0)
            take_rest(place);
        evconnlistener_free(place->conns);
        place->conns = NULL;
        address_unlink(&place->address);
    }
}

void listener_close(struct listener *l)
{
    if (!l)
        return;
    l->n_servers = 0; /* nothing is taken any more */
    if (l->resume)
        listener_stop(l);
    peers_close(l->peers);
    if (l->resume)
        event_free(l->resume);
    free(l);
}
