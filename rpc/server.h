/*
 * server: what server.c (ports, queues, drain) and call.c (one call) know of each other.
 *
 * A rpc_call is made before its client comes: each queue keeps one waiting for each method and one for every other path. When a
 * client's call fills it, another takes its place, and it lives on as that call.
 */
#ifndef RPC_SERVER_H
#define RPC_SERVER_H

#include "rpc/core.h"

/* A method as registered; `handle` is NULL for the one entry that takes all unknown paths. */
struct method {
    const struct rpc_method *def;
    void *handle;
};

struct rpc_server {
    grpc_server *server;
    size_t max_message_bytes;
    struct queue *queues; /* [n_queues] */
    int n_queues, n_started;
    struct method *methods; /* [n_methods], the last one for unknown paths */
    size_t n_methods;
    int port;
    struct tag shutdown_tag;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    size_t n_calls; /* calls that a client began and that are not released */
    bool shutting_down, shut_down;
};

/* Makes a call and lets it wait for a client of this method on this queue. */
void call_expect(struct rpc_server *s, struct method *method, struct queue *queue);
/* A client's call began, or is released (n = 1, -1). */
void server_count(struct rpc_server *s, int n);

#endif
