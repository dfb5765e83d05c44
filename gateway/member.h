/*
 * One engine: its channel, and what it says of itself through grpc.health.v1 Watch.
 *
 *   CONNECTING -- SERVING --> SERVING <--> NOT_SERVING     (it drains: running calls go on, new ones go elsewhere)
 *        |                       |              |
 *        +----- watch ended -----+--------------+--> DOWN -- watched again --> ..
 *
 * A connection may end while its engine goes on, by its age or a proxy's doing: one that was SERVING stays so until a second
 * watch has failed too, unless the first one was as short.
 *
 * The watch shares the connection with the calls, so that a process that dies is known in the moment its socket closes. A watch
 * that waits for a connection keeps the channel trying. Loop thread only.
 */
#ifndef GATEWAY_MEMBER_H
#define GATEWAY_MEMBER_H

#include "base/metrics.h"
#include "gateway/bridge.h"
#include "gateway/engine.h"
#include "gateway/targets.h"

#include <stdbool.h>
#include <stdint.h>

/* What all members of a pool have in common; outlives them. */
struct member_shared {
    struct event_base *base;
    struct bridge *bridge;
    const struct rpc_tls *tls; /* NULL = plain text */
    const char *tls_name;
    int keepalive_ms, keepalive_timeout_ms;
    struct metrics_family *up, *active;
    void *user;
    void (*on_change)(void *user); /* a member's state is another one */
};

struct member {
    const struct member_shared *shared;
    char address[TARGET_ADDRESS_BYTES];
    uint64_t id; /* hash of the address */
    enum engine_state state;
    bool given;       /* its address was given, not found behind a name */
    bool served;      /* has been SERVING */
    bool retired;     /* out of the pool; lives until its last call has ended */
    bool heard;       /* the watch has brought a message */
    int64_t watched_ns; /* when it began */
    bool unwatchable; /* it has no health service: it serves while it answers */
    struct rpc_client *client;
    struct bridge_call *watch; /* NULL: between two */
    struct event *timer;       /* to the next watch; or how long CONNECTING may last */
    int watch_delay_ms;
    unsigned n_calls;
    struct metrics_series *up, *active;
};

/* Connects and watches. `name` is where the address was found, and what its certificate must have; NULL = it was given. */
enum error_code member_open(const struct member_shared *shared, const char *address, const char *name,
                            struct member **out, struct error *err);
/* A call begins, a call has ended; `counts` when it is load, not a question. After the last one of a member that was retired the
 * member is gone. */
void member_take(struct member *m, bool counts);
void member_put(struct member *m, bool counts);
/* Takes it out of service for good; on_change does not come for it any more. */
void member_retire(struct member *m);
/* Requests in flight, over all loops of the process. */
double member_load(const struct member *m);

#endif
