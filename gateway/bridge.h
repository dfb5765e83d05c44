/*
 * The bridge between gRPC's thread and the event loop: calls whose callbacks come on the loop.
 *
 *   rpc's CQ thread: message --copy--> list under a mutex --one eventfd write per batch--> loop: on_message, on_status
 *
 * Back-pressure: each message counts against its call's window until bridge_release. A message becomes several times its
 * size as text, so it counts ENGINE_EXPANSION times.
 *
 * One bridge for each loop; all clients of the loop share its completion queue, so that engines cost no threads.
 */
#ifndef GATEWAY_BRIDGE_H
#define GATEWAY_BRIDGE_H

#include "base/error.h"
#include "rpc/rpc.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct event_base;
struct bridge;
struct bridge_call;

struct bridge_options {
    struct rpc_client *client; /* made with bridge_queue; stays open until the call's handle is gone */
    const char *path;          /* static string */
    const void *data;          /* packed request; copied */
    size_t n_bytes;
    int64_t deadline_ns;
    bool wait_for_ready;
    const char *const *metadata; /* key, value, ..., NULL; copied */
    void *user;
    /* On the loop. `cost` is to be given to bridge_release once the message's bytes are with the client. */
    void (*on_message)(void *user, const void *data, size_t n_bytes, size_t cost);
    /* On the loop, last; the handle is gone with it. */
    void (*on_status)(void *user, const struct rpc_status *status);
};

enum error_code bridge_open(struct event_base *base, struct bridge **out, struct error *err);
/* Every call must have been cancelled or have ended, and every client been closed. */
void bridge_close(struct bridge *b);
/* For rpc_client_options. */
struct rpc_queue *bridge_queue(struct bridge *b);

enum error_code bridge_start(struct bridge *b, const struct bridge_options *options, struct bridge_call **out,
                             struct error *err);
void bridge_release(struct bridge_call *call, size_t cost);
/* Ends the call; none of its callbacks comes any more, and the handle is gone. */
void bridge_cancel(struct bridge_call *call);

#endif
