/*
 * The bridge to bitnet-engine: gRPC calls whose callbacks come on the event loop.
 *
 *   rpc's CQ thread: message --copy--> list under a mutex --one eventfd write per batch--> loop: on_message, on_status
 *
 * Back-pressure: each message counts against its call's window until engine_release. A message becomes several times its
 * size as text, so it counts ENGINE_EXPANSION times.
 */
#ifndef GATEWAY_ENGINE_H
#define GATEWAY_ENGINE_H

#include "base/error.h"
#include "rpc/rpc.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ENGINE_WINDOW_BYTES 16384
#define ENGINE_EXPANSION 8

struct event_base;
struct engine;
struct engine_call;

/* PEM files of TLS to the engine, read once; all NULL = plain text. */
struct engine_tls {
    const char *ca, *cert, *key;
    const char *name; /* that the engine's certificate must have; NULL = that of the target */
};

/* Which of the two channels: that for work leaves an engine that says NOT_SERVING; the other asks it all the same. */
enum engine_channel { ENGINE_WORK, ENGINE_ADMIN };

struct engine_call_options {
    enum engine_channel channel;
    const char *path; /* static string */
    const void *data; /* packed request; copied */
    size_t n_bytes;
    int64_t deadline_ns;
    const char *request_id; /* metadata; NULL or "" = none; copied */
    const char *traceparent;
    void *user;
    /* On the loop. `cost` is to be given to engine_release once the message's bytes are with the client. */
    void (*on_message)(void *user, const void *data, size_t n_bytes, size_t cost);
    /* On the loop, last; the handle is gone with it. */
    void (*on_status)(void *user, const struct rpc_status *status);
};

/* Connects to `target`; calls may be started at once. `tls` NULL = plain text. */
enum error_code engine_open(struct event_base *base, const char *target, const struct engine_tls *tls,
                            struct engine **out, struct error *err);
/* Cancels what is open; no callback comes any more. */
void engine_close(struct engine *e);
enum error_code engine_start(struct engine *e, const struct engine_call_options *options, struct engine_call **out,
                             struct error *err);
void engine_release(struct engine_call *call, size_t cost);
/* Ends the call; none of its callbacks comes any more, and the handle is gone. */
void engine_cancel(struct engine_call *call);

#endif
