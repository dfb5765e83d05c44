/*
 * Listening sockets, on one loop: accepts, keeps the limits of connections, and gives each to the server with the fewest.
 * One acceptor for all loops balances exactly, serves unix sockets as well, and loses no connection when it stops: what the
 * kernel has accepted is taken over first. SO_REUSEPORT would do neither.
 */
#ifndef GATEWAY_LISTENER_H
#define GATEWAY_LISTENER_H

#include "base/error.h"
#include "base/metrics.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#define LISTENER_MAX_SERVERS 64

struct event_base;
struct listener;
struct proxies;
struct server;
struct tls;

struct listener_options {
    const char *listen; /* as address.h writes them, several by commas; "https://" or "http://" in front of one says what
                         * it is to be; without, TCP is TLS when `tls_by_default`, and unix sockets are plain */
    const char *name;   /* for logs and metrics: "main", "admin" */
    struct tls *tls;    /* NULL: an https:// address is an error */
    bool tls_by_default;
    int64_t max_connections;             /* beyond it, clients wait in the kernel's queue */
    int64_t max_connections_per_address; /* beyond it they are turned away; 0 = no limit */
    const struct proxies *proxies;       /* whose connections do not count by address; borrowed; NULL = none */
    struct metrics *metrics;             /* borrowed */
};

/* Binds; accepts nothing yet. */
enum error_code listener_open(struct event_base *base, const struct listener_options *options, struct listener **out,
                              struct error *err);
/* Begins to accept, for these 1..LISTENER_MAX_SERVERS servers (borrowed until listener_close, in which listener_closed is
 * their on_closed); logs the addresses. */
enum error_code listener_start(struct listener *l, struct server *const *servers, int n_servers, struct error *err);
/* A server's on_closed, with the listener as user. Any thread. */
void listener_closed(void *listener, const struct sockaddr *from);
/* Takes over what the kernel has accepted so far and closes the listening sockets. */
void listener_stop(struct listener *l);
/* After the servers are closed. */
void listener_close(struct listener *l);

#endif
