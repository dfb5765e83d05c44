/*
 * Threads: `fn`, `arg` are written by the caller before `generation` is raised (release) and read by workers after they
 * saw it rise (acquire). `left` counts workers that have not returned; the last one wakes a sleeping caller. Both sides
 * say that they sleep (seq_cst) before they look a last time, so that no wake-up is lost.
 */
#include "kernels/pool.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

/* About 50 microseconds: longer than the gap between two operations of a forward pass, shorter than a time slice. */
#define POOL_SPINS 2000

struct pool_worker {
    struct pool *pool;
    int index;
    pthread_t thread;
};

struct pool {
    int n_threads;
    pool_fn *fn;
    void *arg;
    bool stop;
    _Alignas(64) atomic_uint generation;
    _Alignas(64) atomic_int left;
    _Alignas(64) atomic_int n_sleeping; /* workers on `wake` */
    atomic_int caller_sleeps;           /* the caller on `done` */
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
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

/* Returns when `generation` is no longer `seen`. */
static void wait_for_work(struct pool *p, unsigned seen)
{
    for (int i = 0; i < POOL_SPINS; i++) {
        if (atomic_load_explicit(&p->generation, memory_order_acquire) != seen)
            return;
        relax();
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->n_sleeping, 1);
    while (atomic_load(&p->generation) == seen)
        pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->n_sleeping, 1);
    pthread_mutex_unlock(&p->lock);
}

static void start_work(struct pool *p)
{
    atomic_store(&p->left, p->n_threads - 1);
    atomic_fetch_add(&p->generation, 1);
    if (atomic_load(&p->n_sleeping) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
}

static void end_work(struct pool *p)
{
    if (atomic_fetch_sub(&p->left, 1) == 1 && atomic_load(&p->caller_sleeps)) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_signal(&p->done);
        pthread_mutex_unlock(&p->lock);
    }
}

static void wait_for_end(struct pool *p)
{
    for (int i = 0; i < POOL_SPINS; i++) {
        if (atomic_load_explicit(&p->left, memory_order_acquire) == 0)
            return;
        relax();
    }
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->caller_sleeps, 1);
    while (atomic_load(&p->left) != 0)
        pthread_cond_wait(&p->done, &p->lock);
    atomic_store(&p->caller_sleeps, 0);
    pthread_mutex_unlock(&p->lock);
}

static void *work(void *arg)
{
    struct pool_worker *w = arg;
    struct pool *p = w->pool;
    for (unsigned seen = 0;; seen++) {
        wait_for_work(p, seen);
        if (p->stop)
            return NULL;
        p->fn(p->arg, w->index, p->n_threads);
        end_work(p);
    }
}

struct pool *pool_open(int n_threads)
{
    assert(n_threads >= 1 && n_threads <= POOL_MAX_THREADS);
    size_t bytes = sizeof(struct pool) + (size_t)n_threads * sizeof(struct pool_worker);
    struct pool *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p)
        return NULL;
    p->stop = false;
    p->fn = NULL;
    p->arg = NULL;
    atomic_init(&p->generation, 0);
    atomic_init(&p->left, 0);
    atomic_init(&p->n_sleeping, 0);
    atomic_init(&p->caller_sleeps, 0);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
    p->n_threads = n_threads;
    for (int i = 1; i < n_threads; i++) {
        struct pool_worker *w = &p->workers[i];
        *w = (struct pool_worker){.pool = p, .index = i};
        if (pthread_create(&w->thread, NULL, work, w) != 0) {
            p->n_threads = i;
            pool_close(p);
            return NULL;
        }
    }
    return p;
}

void pool_close(struct pool *p)
{
    if (!p)
        return;
    p->stop = true;
    start_work(p);
    for (int i = 1; i < p->n_threads; i++)
        pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p);
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
    start_work(p);
    fn(arg, 0, p->n_threads);
    wait_for_end(p);
}
