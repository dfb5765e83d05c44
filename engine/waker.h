/*
 * Waking the loop: a flag under a lock, and the two condition-variable helpers that everything here waits with (on
 * CLOCK_MONOTONIC, so that a step of the wall clock moves no deadline). Any thread.
 */
#ifndef ENGINE_WAKER_H
#define ENGINE_WAKER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* As pthread_cond_init and pthread_cond_timedwait, against clock_now_ns; deadline_ns may be CLOCK_NEVER. */
bool waker_cond_init(pthread_cond_t *cond);
/* False when the deadline has passed. */
bool waker_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t deadline_ns);

/* As pthread_create, with all signals blocked but those of faults: they are for the program's own threads. */
bool waker_thread_start(pthread_t *thread, void *(*main)(void *arg), void *arg);

struct waker {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool awake; /* under lock: somebody has work for the loop */
};

bool waker_init(struct waker *w);
void waker_fini(struct waker *w);
/* Makes the running or the next waker_sleep return. */
void waker_wake(struct waker *w);
/* Waits until woken or the deadline has passed; forgets the wake. */
void waker_sleep(struct waker *w, int64_t deadline_ns);

#endif
