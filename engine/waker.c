/* See waker.h. */
#include "engine/waker.h"

#include "base/clock.h"
#include "base/crash.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

bool waker_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;
    if (pthread_condattr_init(&attributes))
        return false;
    bool ok = !pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) && !pthread_cond_init(cond, &attributes);
    pthread_condattr_destroy(&attributes);
    return ok;
}

bool waker_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t deadline_ns)
{
    if (deadline_ns == CLOCK_NEVER)
        return !pthread_cond_wait(cond, lock);
    if (deadline_ns < 0)
        deadline_ns = 0;
    struct timespec at = {.tv_sec = (time_t)(deadline_ns / CLOCK_NS_PER_S),
                          .tv_nsec = (long)(deadline_ns % CLOCK_NS_PER_S)};
    return pthread_cond_timedwait(cond, lock, &at) != ETIMEDOUT;
}

bool waker_thread_start(pthread_t *thread, void *(*main)(void *arg), void *arg)
{
    sigset_t all, before;
    sigfillset(&all);
    crash_let_through(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool ok = !pthread_create(thread, NULL, main, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return ok;
}

bool waker_init(struct waker *w)
{
    w->awake = false;
    if (pthread_mutex_init(&w->lock, NULL))
        return false;
    if (waker_cond_init(&w->cond))
        return true;
    pthread_mutex_destroy(&w->lock);
    return false;
}

void waker_fini(struct waker *w)
{
    pthread_cond_destroy(&w->cond);
    pthread_mutex_destroy(&w->lock);
}

void waker_wake(struct waker *w)
{
    pthread_mutex_lock(&w->lock);
    bool was_awake = w->awake;
    w->awake = true;
    pthread_mutex_unlock(&w->lock);
    if (!was_awake)
        pthread_cond_signal(&w->cond);
}

void waker_sleep(struct waker *w, int64_t deadline_ns)
{
    pthread_mutex_lock(&w->lock);
    while (!w->awake && waker_cond_wait(&w->cond, &w->lock, deadline_ns))
        ;
    w->awake = false;
    pthread_mutex_unlock(&w->lock);
}
