/* client: what client.c (channel, its state) and request.c (one call) know of each other. */
#ifndef RPC_CLIENT_H
#define RPC_CLIENT_H

#include "rpc/core.h"

struct rpc_client {
    grpc_channel *channel;
    struct queue queue;
    struct tag watch_tag;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    struct rpc_request *requests; /* those that are not over */
    bool closing, watching;
    grpc_connectivity_state state;
};

struct rpc_request {
    struct rpc_client *client;
    struct rpc_request *previous, *next; /* client->requests, under its lock */
    struct tag start_tag, message_tag, status_tag;
    atomic_int refs;                    /* the caller's handle, and the call under way */
    struct rpc_request_options options; /* path, window, callbacks, user; the rest is not kept */

    /* Filled by gRPC. */
    grpc_metadata_array initial, trailing;
    grpc_byte_buffer *received;
    grpc_status_code status;
    grpc_slice status_message;
    grpc_metadata *metadata; /* [n_metadata] sent */
    size_t n_metadata;
    grpc_byte_buffer *sent;

    pthread_mutex_t lock; /* guards what follows */
    grpc_call *call;      /* NULL once it is over */
    int n_pending;
    bool paused, status_came;
    size_t held;
};

#endif
