/*
 * One level of load: workers, their slots, and the account of each request. How requests travel is a transport's business.
 *
 *   worker: an event loop on a thread of its own that starts arrivals and wakes slots; HTTP lives on it too, gRPC answers come on the
 *   thread of the worker's channel. The worker's lock covers its slots and statistics; transports call the load_slot_ functions
 *   with it held, and are called with it held.
 *
 *   slot: a place for one request at a time, with all its memory
 *
 *                 start             last answer: what a closed loop sends next
 *     IDLE ------------> RUNNING -------------------------------------------> RUNNING ..
 *       ^                   |
 *       |                   +--- refused, or time to think ---> WAITING --- its timer ---> RUNNING ..
 *       +------------------- nothing left to send, open loop
 *
 * Times are measured from when a request was due, not from when it could be sent: a client that is late says so.
 */
#ifndef TOOLS_LOAD_RUN_H
#define TOOLS_LOAD_RUN_H

#include "tools/load_plan.h"
#include "tools/load_stats.h"
#include "tools/load_verify.h"

#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>

struct load_run;
struct load_worker;

enum load_slot_state { SLOT_IDLE, SLOT_WAITING, SLOT_RUNNING };

struct load_slot {
    struct load_worker *worker;
    struct load_slot *next_idle; /* open loop: the slots that may be used again */
    struct event *timer;         /* on the worker's loop */
    enum load_slot_state state;
    int64_t due_ns;     /* what the timer is for; CLOCK_NEVER = nothing: it may fire for what is over */
    void *connection;   /* the transport's */
    struct buffer body; /* the request as it is sent; kept */

    struct load_spec spec;               /* of the request, and what was seen of it */
    int64_t begin_ns, first_ns, last_ns; /* due; first token, 0 before; last message with tokens */
    uint64_t n_tokens, text;             /* text: hash */
    bool in_window;                      /* it began between warm-up and end */
    bool paused, cancelled, interrupted;
};

/* How a request ended, as a transport knows it. */
struct load_end {
    enum { END_COMPLETED, END_EXPIRED, END_CANCELLED, END_REFUSED, END_FAILED } how;
    const char *kind;                     /* refused and failed: as in load_fault */
    int64_t retry_ms;                     /* refused: when to come back; < 0 = not told */
    int64_t n_prompt, n_cached, n_tokens; /* as the server counted; < 0 = not told */
};

struct load_transport {
    /* Opens what belongs to the worker, and to a slot (with its memory). */
    enum error_code (*open)(struct load_worker *w, struct error *err);
    void (*close)(struct load_worker *w);
    bool (*slot_open)(struct load_slot *s);
    void (*slot_close)(struct load_slot *s);
    /* Sends s->body. load_slot_ended comes later, never from within these. */
    void (*start)(struct load_slot *s);
    void (*cancel)(struct load_slot *s);
    /* Stops reading answers, and goes on. */
    void (*pause)(struct load_slot *s);
    void (*resume)(struct load_slot *s);
};
extern const struct load_transport load_grpc, load_http;

struct load_worker {
    struct load_run *run;
    int number; /* 0.. */
    pthread_t thread;
    struct event_base *base;
    struct event *arrival, *stop;
    void *transport;

    pthread_mutex_t lock;     /* guards what follows */
    struct load_slot **slots; /* owned */
    size_t n_slots;
    struct load_slot *idle;
    bool arriving;       /* more is to come, which counts as one that runs */
    uint64_t n_arrivals; /* of this worker so far */
    int64_t next_ns;     /* the next arrival */
    struct load_stats stats;
};

struct load_run {
    const struct load_plan *plan;
    double level;
    const struct load_transport *transport;
    struct load_verify *verify; /* NULL = texts are not compared */
    uint64_t n_before;          /* requests of earlier levels */
    uint64_t n_requests;        /* to send; 0 = as many as the time allows */
    size_t n_clients;           /* closed loop */
    bool alone;                 /* one client that reads, whatever the plan says of shares */
    struct load_worker *workers;
    int n_workers;
    int wake_fd;
    int64_t begin_ns, window_ns, end_ns; /* start; end of the warm-up; CLOCK_NEVER when only requests are counted */
    atomic_bool stopping;                /* send no more, and cancel what runs */
    atomic_uint_fast64_t n_sent;
    atomic_uint_fast64_t n_running; /* slots, and workers with arrivals to come */
    /* When it is over. */
    double seconds; /* of the window */
    struct load_stats stats;
};

/* Runs to its end, or until *stop_fd (a signalfd, or -1) becomes readable. False and `err` when it could not begin; the run's statistics
 * are those of what has happened. Call load_run_free in either case. */
bool load_run_level(struct load_run *r, int stop_fd, bool *interrupted, struct error *err);
void load_run_free(struct load_run *r);

/* ---- for transports; the worker's lock is held -------------------------------------------------------------------- */

/* A part of the text came; a hash of all parts is kept. */
void load_slot_text(struct load_slot *s, const char *text, size_t n_bytes);
/* n_messages with n_tokens together, and n_bytes, came at `now_ns`. May cancel or pause. */
void load_slot_tokens(struct load_slot *s, uint64_t n_messages, uint64_t n_tokens, int64_t now_ns);
/* The request is over; the slot may be running the next one when this returns. */
void load_slot_ended(struct load_slot *s, const struct load_end *end, int64_t now_ns);

#endif
