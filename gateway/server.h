/*
 * The connections of one event loop. Sockets come from a listener (listener.h), which may run on another loop.
 *
 *   listener --server_give, any thread--> arrivals under a lock --event--> loop: bufferevent + struct http_conn
 */
#ifndef GATEWAY_SERVER_H
#define GATEWAY_SERVER_H

#include "base/error.h"
#include "gateway/http.h"

#include <sys/socket.h>

struct event_base;
struct server;
struct tls;

/* A socket that was accepted. */
struct server_socket {
    int fd;
    struct sockaddr_storage from;
    socklen_t n_from;
    struct tls *tls; /* NULL: plain; borrowed until server_close */
};

struct server_options {
    const struct http_settings *http; /* borrowed */
    /* A connection is over, or could not be made. Any loop's thread. */
    void (*on_closed)(void *user, const struct sockaddr *from);
    void *user;
};

enum error_code server_open(struct event_base *base, const struct server_options *options, struct server **out,
                            struct error *err);
/* Takes a socket over. Any thread. */
void server_give(struct server *s, const struct server_socket *socket);
/* Connections, with those that wait to be taken over. Any thread. */
int64_t server_connections(const struct server *s);
/* Ends all connections in good order (http_conn_drain). `done` is called once there are none left; may be called from within.
 * Sockets that are given meanwhile are drained too. */
void server_drain(struct server *s, void (*done)(void *user), void *user);
/* Closes everything at once. */
void server_close(struct server *s);

#endif
