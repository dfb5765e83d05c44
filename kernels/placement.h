/*
 * placement: where compute threads and their memory live. Thread t of a pool of n gets a CPU; the threads of a NUMA node follow each
 * other, so that the part of a matrix that they work on (pool_range over its rows) is contiguous and can lie on their node:
 *
 *   threads   0 1 2 3 | 4 5 6 7        node 0: rows [0, r/2)   node 1: rows [r/2, r)
 *
 * So each node reads its own rows only, and a copy of the weights per node would bring nothing. On one node nothing is done to memory. Chosen when a backend is opened, then immutable.
 */
#ifndef KERNELS_PLACEMENT_H
#define KERNELS_PLACEMENT_H

#include "kernels/kernels.h"
#include "kernels/pool.h"
#include "kernels/topology.h"

struct placement {
    struct topology topology;
    bool pin;                                 /* threads to their CPU; else, with several nodes, to their node */
    bool idle;                                /* threads run at idle priority */
    bool interleave;                          /* weights over all nodes instead of by rows */
    int n_threads, n_nodes;                   /* nodes that have threads */
    int node_ids[TOPOLOGY_MAX_NODES];
    int first_thread[TOPOLOGY_MAX_NODES + 1]; /* of each node, then n_threads */
    int cpus[POOL_MAX_THREADS];               /* the system's number of each thread's */
};

/* Reads the machine and spreads threads by the options; without a CPU for each none is pinned. ERROR_VALIDATION_FAILED for an unknown word. */
enum error_code placement_open(struct placement *p, const struct backend_options *options, int n_threads, struct error *err);
/* Spreads threads evenly over the nodes, and over cores before CPUs that share one; more threads than CPUs share CPUs. */
void placement_spread(struct placement *p, const struct topology *t, int n_threads);

/* Gives the calling thread the CPU and the priority of compute thread `thread`: a pool_enter_fn, with the placement as `arg`. What the
 * system refuses is left as it is. */
void placement_enter(void *arg, int thread);

/* Keeps the calling thread, and those that it will make, off the CPUs that pinned compute threads have, when there are others. */
void placement_spare(const struct placement *p);

/* The part [*begin, *end) of n rows that pool_range gives to the threads of a node. */
void placement_range(const struct placement *p, int node, size_t n, size_t *begin, size_t *end);

/* Asks for the memory of n rows, before they are written, on the nodes of the threads that pool_range gives them to. */
void placement_of_rows(const struct placement *p, void *rows, size_t n, size_t row_bytes);
/* Asks for memory that all threads read, evenly over the nodes. */
void placement_of_shared(const struct placement *p, void *data, size_t n_bytes);

#endif
