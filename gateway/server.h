/* Listeners and connections on the event loop. */
#ifndef GATEWAY_SERVER_H
#define GATEWAY_SERVER_H

#include "base/error.h"
#include "gateway/http.h"

struct event_base;
struct server;

struct server_options {
    const char *listen;               /* "127.0.0.1:8080", "[::]:8080", ":8080", "unix:/path"; several by commas */
    const struct http_settings *http; /* borrowed */
    int64_t max_connections;
    const char *name; /* for the log: "main", "admin" */
};

/* Binds and accepts; logs the addresses. */
enum error_code server_open(struct event_base *base, const struct server_options *options, struct server **out,
                            struct error *err);
/* The bound port of the first address, 0 for a unix socket. */
int server_port(const struct server *s);
/* Stops accepting, closes idle connections, lets the others finish. `done` is called once there are none left; may be
 * called from within. */
void server_drain(struct server *s, void (*done)(void *user), void *user);
/* Closes everything at once. */
void server_close(struct server *s);

#endif
