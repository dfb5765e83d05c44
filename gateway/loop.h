/*
 * One event loop with all that belongs to it: its struct gateway, its connection to the engine, its server. The first one
 * runs on the main thread and has the listeners, the admin server, signals and timers (main.c); the others have a thread
 * each. A loop is told what to do through flags and an event that any thread may activate.
 */
#ifndef GATEWAY_LOOP_H
#define GATEWAY_LOOP_H

#include "gateway/gateway.h"

#include <pthread.h>
#include <stdatomic.h>

struct event;
struct listener;
struct server;

enum {
    LOOP_DRAIN = 1, /* take nothing new, end what runs in good order; on_drained comes when nothing is left */
    LOOP_FAIL = 2,  /* end running generations with an error */
    LOOP_STOP = 4,  /* leave the loop */
    LOOP_TURN = 8   /* nothing: that it is taken shows that the loop turns */
};

struct loop {
    struct gateway g;
    struct server *server;
    struct event *control;
    atomic_uint wanted; /* LOOP_..., set by any thread, taken by the loop */
    void (*on_drained)(void *user);
    void *user;
    pthread_t thread;
    bool started;
};

/* Opens all but the server, in a zeroed struct. `metrics` is that of another loop, or NULL to make one. On an error
 * loop_close is still to be called. */
enum error_code loop_open(struct loop *l, const struct gateway_config *config, struct metrics *metrics,
                          struct error *err);
/* Opens the server, for the listener's sockets. */
enum error_code loop_serve(struct loop *l, struct listener *listener, struct error *err);
/* Runs the loop on a thread of its own. */
enum error_code loop_start(struct loop *l, struct error *err);
/* Any thread. */
void loop_want(struct loop *l, unsigned what);
/* Ends the loop's thread, if there is one, and waits for it. */
void loop_join(struct loop *l);
/* Closes everything but the metrics and the server, which the caller closes first. After loop_join. */
void loop_close(struct loop *l);

#endif
