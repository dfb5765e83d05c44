/*
 * Threads: `fn`, `arg` are written by the caller before `generation` is raised (release) and read by workers after they
 * saw it rise (acquire). `left` counts workers that have not returned; the last one wakes a sleeping caller. Both sides
 * say that they sleep (seq_cst) before the kernel looks at the word a last time, so that no wake-up is lost.
 */
#include "kernels/pool.h"

#include "kernels/machine.h"

#include <assert.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Longer than what the caller does alone between two operations of a forward pass. */
#define SPIN_NS 200000
/* The system may wake a worker on the caller's CPU, where it gets to run when the caller sleeps. */
#define SPIN_AFTER_WAKING_NS 10000
#define LOOKS 64 /* at the word, between two at the clock */

struct pool_worker {
    struct pool *pool;
    int index;
    pthread_t thread;
};

struct pool {
    int n_threads;
    pool_fn *fn;
    void *arg;
    pool_enter_fn *enter;
    void *enter_arg;
    int64_t spin_ns; /* 0 where threads share CPUs: they would keep each other from work */
    bool stop;
    _Alignas(64) atomic_uint generation;
    _Alignas(64) atomic_uint left;
    _Alignas(64) atomic_int n_sleeping; /* workers that wait for `generation` */
    atomic_bool caller_sleeps;          /* for `left` */
    struct pool_worker workers[];
};

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Sleeps while the word is `value`; may return early. */
static void sleep_while(atomic_uint *word, unsigned value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void wake(atomic_uint *word, int n) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0); }

/* Looks at the word for a while; false when it is still `value`. */
static bool spin_while(atomic_uint *word, unsigned value, int64_t spin_ns)
{
    int64_t end_ns = 0;
    do {
        for (int i = 0; i < LOOKS; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != value)
                return true;
            relax();
        }
        if (!end_ns)
            end_ns = now_ns() + spin_ns;
    } while (now_ns() < end_ns);
    return false;
}

/* Returns when `generation` is no longer `seen`. */
static void wait_for_work(struct pool *p, unsigned seen)
{
    if (spin_while(&p->generation, seen, p->spin_ns))
        return;
    atomic_fetch_add(&p->n_sleeping, 1);
    while (atomic_load(&p->generation) == seen)
        sleep_while(&p->generation, seen);
    atomic_fetch_sub(&p->n_sleeping, 1);
}

/* True when workers had to be woken. */
static bool start_work(struct pool *p)
{
    atomic_store(&p->left, (unsigned)p->n_threads - 1);
    atomic_fetch_add(&p->generation, 1);
    if (atomic_load(&p->n_sleeping) == 0)
        return false;
    wake(&p->generation, INT_MAX);
    return true;
}

static void end_work(struct pool *p)
{
    if (atomic_fetch_sub(&p->left, 1) == 1 && atomic_load(&p->caller_sleeps))
        wake(&p->left, 1);
}

static void wait_for_end(struct pool *p, int64_t spin_ns)
{
    unsigned left;
    while ((left = atomic_load_explicit(&p->left, memory_order_acquire)) != 0) {
        if (spin_while(&p->left, left, spin_ns))
            continue;
        atomic_store(&p->caller_sleeps, true);
        while ((left = atomic_load(&p->left)) != 0)
            sleep_while(&p->left, left);
        atomic_store(&p->caller_sleeps, false);
    }
}

static void *work(void *arg)
{
    struct pool_worker *w = arg;
    struct pool *p = w->pool;
    if (p->enter)
        p->enter(p->enter_arg, w->index);
    for (unsigned seen = 0;; seen++) {
        wait_for_work(p, seen);
        if (p->stop)
            return NULL;
        p->fn(p->arg, w->index, p->n_threads);
        end_work(p);
    }
}

/* False when the system has no thread for one: then n_threads are those that there are. */
static bool start_workers(struct pool *p)
{
    int n_threads = p->n_threads;
    for (int i = 1; i < n_threads; i++) {
        struct pool_worker *w = &p->workers[i];
        *w = (struct pool_worker){.pool = p, .index = i};
        if (pthread_create(&w->thread, NULL, work, w) != 0)
            p->n_threads = i;
        if (p->n_threads == i)
            return false;
    }
    return true;
}

static void end_workers(struct pool *p)
{
    p->stop = true;
    start_work(p);
    for (int i = 1; i < p->n_threads; i++)
        pthread_join(p->workers[i].thread, NULL);
}

struct pool *pool_open(int n_threads) { return pool_open_placed(n_threads, NULL, NULL); }

struct pool *pool_open_placed(int n_threads, pool_enter_fn *enter, void *arg)
{
    assert(n_threads >= 1 && n_threads <= POOL_MAX_THREADS);
    size_t bytes = sizeof(struct pool) + (size_t)n_threads * sizeof(struct pool_worker);
    struct pool *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p)
        return NULL;
    p->stop = false;
    p->fn = NULL;
    p->arg = NULL;
    p->enter = enter;
    p->enter_arg = arg;
    p->spin_ns = n_threads > machine_n_cpus() ? 0 : SPIN_NS;
    atomic_init(&p->generation, 0);
    atomic_init(&p->left, 0);
    atomic_init(&p->n_sleeping, 0);
    atomic_init(&p->caller_sleeps, false);
    p->n_threads = n_threads;
    if (!start_workers(p)) {
        pool_close(p);
        return NULL;
    }
    return p;
}

void pool_close(struct pool *p)
{
    if (!p)
        return;
    end_workers(p);
    free(p);
}

void pool_adopt(struct pool *p)
{
    if (!p)
        return;
    if (p->enter)
        p->enter(p->enter_arg, 0);
    end_workers(p);
    p->stop = false;
    atomic_store(&p->generation, 0);
    start_workers(p);
}

int pool_size(const struct pool *p) { return p->n_threads; }

void pool_run(struct pool *p, pool_fn *fn, void *arg)
{
    if (!p || p->n_threads == 1) {
        fn(arg, 0, 1);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    bool woken = start_work(p);
    fn(arg, 0, p->n_threads);
    wait_for_end(p, woken && p->spin_ns > SPIN_AFTER_WAKING_NS ? SPIN_AFTER_WAKING_NS : p->spin_ns);
}
