/* server: what server.c and call.c share. Nobody outside rpc/ includes this. */
#ifndef RPC_SERVER_H
#define RPC_SERVER_H

#include "rpc/core.h"

#define SERVER_SLOTS 8 /* new calls a queue waits for at once */

/* Waits for one new call, over and over. Owned by its queue's thread. */
struct slot {
    struct tag tag;
    struct rpc_server *server;
    struct queue *queue;
    grpc_call *call;
    grpc_call_details details;
    grpc_metadata_array metadata;
};

struct rpc_server {
    grpc_server *server;
    const struct rpc_method *methods;
    struct queue *queues;        /* [n_queues] */
    struct slot *slots;          /* [n_queues * SERVER_SLOTS] */
    int n_queues, n_started, port;
    struct certificate *certificates; /* owned; one for each address with TLS, used by gRPC's threads */
    struct tag shutdown_tag;
    pthread_mutex_t lock;        /* guards what follows */
    pthread_cond_t changed;
    size_t n_calls;              /* struct rpc_call that exist */
    bool shutting_down, is_shut_down;
};

/* Takes the slot's call, details and metadata and starts the call on the slot's queue. */
void call_start(struct slot *slot);

#endif
