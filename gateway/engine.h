/*
 * The engines behind the gateway, as one: a call goes to the engine whose turn it is, and to another one when that can be
 * done unseen. docs/engines.md has the rules.
 *
 *   engine.c   a call and its attempts
 *   pool.c     which engines there are, and whose turn it is (balance.c, targets.c, lookup.c)
 *   member.c   one engine: its connection and its health
 *   bridge.c   from gRPC's thread to the loop, with back-pressure
 *
 * One for each loop, on that loop's thread.
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
struct gateway_config;
struct metrics;
struct engine;
struct engine_call;
struct span;

/* WORK goes to an engine that serves, and to another one when the first fails before anything of the answer came. ADMIN asks
 * one engine, also one that does not serve, and takes its word. */
enum engine_channel { ENGINE_WORK, ENGINE_ADMIN };

enum engine_state { ENGINE_CONNECTING, ENGINE_SERVING, ENGINE_NOT_SERVING, ENGINE_DOWN };

struct engine_call_options {
    enum engine_channel channel;
    size_t member;    /* ADMIN: which one; below engine_n_members */
    const char *path; /* static string */
    const void *data; /* packed request; copied */
    size_t n_bytes;
    int64_t deadline_ns;
    const char *request_id; /* metadata; NULL or "" = none; copied */
    const char *traceparent;
    const char *tracestate;
    const struct span *span; /* of the request, which it outlives; each attempt is a span below it. NULL = not recorded */
    uint64_t affinity; /* WORK: requests with the same key go to the same engine; 0 = none */
    bool hedge;        /* WORK: may be with two engines at a time, config->hedge_ms after its start */
    void *user;
    /* On the loop. `cost` is to be given to engine_release once the message's bytes are with the client. */
    void (*on_message)(void *user, const void *data, size_t n_bytes, size_t cost);
    /* On the loop, last; the handle is gone with it. */
    void (*on_status)(void *user, const struct rpc_status *status);
};

/* Connects to the engines of config->engine (borrowed); calls may be started at once. `metrics` gets the pool's families. */
enum error_code engine_open(struct event_base *base, const struct gateway_config *config, struct metrics *metrics,
                            struct engine **out, struct error *err);
/* Cancels what is open; no callback comes any more. */
void engine_close(struct engine *e);
/* SERVICE_UNAVAILABLE at once when no engine can take it. */
enum error_code engine_start(struct engine *e, const struct engine_call_options *options, struct engine_call **out,
                             struct error *err);
void engine_release(struct engine_call *call, size_t cost);
/* Ends the call; none of its callbacks comes any more, and the handle is gone. */
void engine_cancel(struct engine_call *call);

/* The engines there are now: the list is the same until the loop runs on. */
size_t engine_n_members(const struct engine *e);
/* `*missed`: it is down and should not be: an address that was given, or one of a name that has served. */
enum engine_state engine_member(const struct engine *e, size_t index, bool *missed);
/* Where it is, as its target or its name's look-up has it; lives as long as the list. */
const char *engine_member_address(const struct engine *e, size_t index);

#endif
