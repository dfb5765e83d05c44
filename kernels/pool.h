/*
 * pool: the compute threads of a CPU backend. n - 1 workers and the caller run one function each; pool_run returns when
 * all have returned, so that an operation costs one barrier. Waiting threads spin for a short while, then sleep in the kernel: an idle
 * pool uses no CPU. Used by one thread at a time.
 */
#ifndef KERNELS_POOL_H
#define KERNELS_POOL_H

#include <stddef.h>

#define POOL_MAX_THREADS 512

struct pool;

/* Work of one thread: `thread` is 0 (the caller) .. n_threads - 1. */
typedef void pool_fn(void *arg, int thread, int n_threads);

/* What a thread does before its first work: takes its place on the machine. */
typedef void pool_enter_fn(void *arg, int thread);

/* Starts n_threads - 1 workers (1 <= n_threads <= POOL_MAX_THREADS); NULL when memory or threads are out. */
struct pool *pool_open(int n_threads);
/* The same; each worker calls `enter` (NULL: nothing). `arg` must live as long as the pool. */
struct pool *pool_open_placed(int n_threads, pool_enter_fn *enter, void *arg);
/* The calling thread is to run the pool from now on: calls `enter` as thread 0, and starts the workers anew, which have its priority then
 * and not that of whoever opened the pool (it cannot be given back to a thread that was at a lower one). Where the system gives no threads any more,
 * fewer go on. NULL is allowed. */
void pool_adopt(struct pool *p);
/* Ends and joins the workers. NULL is allowed. */
void pool_close(struct pool *p);
int pool_size(const struct pool *p);

/* Runs fn once on every thread of the pool; NULL runs it on the caller alone. Not to be called from within fn. */
void pool_run(struct pool *p, pool_fn *fn, void *arg);

/* The contiguous part [*begin, *end) of n items that belongs to `thread`. */
static inline void pool_range(size_t n, int thread, int n_threads, size_t *begin, size_t *end)
{
    size_t each = n / (size_t)n_threads, rest = n % (size_t)n_threads, t = (size_t)thread;
    *begin = each * t + (t < rest ? t : rest);
    *end = *begin + each + (t < rest ? 1 : 0);
}

#endif
