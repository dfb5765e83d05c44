/*
 * history: what happened lately, as sums in three bounded rings of time: seconds of the last five minutes, minutes of the last hour, hours of
 * the last thirty days. The time is an argument. Not thread-safe; metrics.c guards it.
 */
#ifndef SERVICE_HISTORY_H
#define SERVICE_HISTORY_H

#include "engine/engine.h"

#include <stdint.h>

#define HISTORY_SECONDS 300
#define HISTORY_MINUTES 60
#define HISTORY_HOURS 720
#define HISTORY_FORMATS 3 /* i2s, tl1, tl2 */
#define HISTORY_DEVICES 2 /* CPU, GPU */

/* Sums of a time; each is one that can be added. */
struct history_sums {
    uint64_t n_ended, n_successful, n_failed, n_refused; /* requests; failed ones include no refused ones */
    uint64_t n_started;                                  /* of those that ended, how many got into the batch */
    uint64_t n_by_format[HISTORY_FORMATS], n_by_device[HISTORY_DEVICES]; /* of n_started, what served them */
    uint64_t n_in_time;                                  /* ended well and as fast as promised */
    uint64_t n_tokens;                                   /* generated, of requests that ended */
    uint64_t n_steps, n_step_sequences;
    uint64_t n_step_tokens;                              /* generated in steps, as they came */
    uint64_t n_fallbacks;
    double total_ms, queue_ms, running_s; /* arrival to end; arrival to admission, of n_started; admission to end */
    double busy_s;                        /* spent in steps */
};

struct history_slot {
    int64_t number;           /* of the second, minute or hour; 0 = empty */
    int64_t began_ns, cpu_ns; /* when something first happened in it, and the CPU time used before */
    struct history_sums sums;
};

struct history {
    struct history_slot seconds[HISTORY_SECONDS], minutes[HISTORY_MINUTES], hours[HISTORY_HOURS];
};

/* A request that ended. One that a deadline cut has been answered; one whose client left is neither successful nor failed. */
struct history_sums history_request(const struct engine_observation *o);

/* Adds `what`, which happened at now_ns (monotonic, not negative). cpu_ns says how much CPU time the process has used; it is called when a
 * slot begins. */
void history_add(struct history *h, int64_t now_ns, const struct history_sums *what, int64_t (*cpu_ns)(void));

struct history_window {
    struct history_sums sums;
    int64_t began_ns, cpu_ns; /* of the window's oldest slot; began_ns -1 = nothing happened in the window */
};
/* Sums of the last `seconds` up to now_ns, from the finest ring that reaches so far, in whole slots: the one of now is the last. More than 30
 * days are 30 days. */
struct history_window history_window(const struct history *h, int64_t now_ns, int64_t seconds);

#endif
