#include "kernels/placement.h"

#include "kernels/machine.h"
#include "kernels/memory.h"

#include <sched.h>
#include <string.h>

/* ---- threads ----------------------------------------------------------------------------------------------------- */

/* Threads of each node: one after the other in turn, where there are CPUs left. */
static void share_threads(const struct topology *t, int n_threads, int n_cpus[], int n_given[])
{
    for (int i = 0; i < t->n_cpus; i++)
        n_cpus[t->cpus[i].node]++;
    for (int given = 0, node = 0; given < n_threads; node = (node + 1) % t->n_nodes)
        if (n_given[node] < n_cpus[node] || given >= t->n_cpus) {
            n_given[node]++;
            given++;
        }
}

void placement_spread(struct placement *p, const struct topology *t, int n_threads)
{
    int n_cpus[TOPOLOGY_MAX_NODES] = {0}, n_given[TOPOLOGY_MAX_NODES] = {0}, thread = 0;
    const struct topology_cpu *cpu = t->cpus;
    share_threads(t, n_threads, n_cpus, n_given);
    p->n_threads = n_threads;
    p->n_nodes = 0;
    for (int node = 0; node < t->n_nodes; cpu += n_cpus[node++]) {
        if (!n_given[node])
            continue;
        p->node_ids[p->n_nodes] = t->node_ids[node];
        p->first_thread[p->n_nodes++] = thread;
        for (int i = 0; i < n_given[node]; i++)
            p->cpus[thread++] = cpu[i % n_cpus[node]].id;
    }
    p->first_thread[p->n_nodes] = thread;
}

/* The node of a CPU, as the topology counts them. */
static int node_of(const struct topology *t, int cpu)
{
    int i = 0;
    while (i < t->n_cpus - 1 && t->cpus[i].id != cpu)
        i++;
    return t->cpus[i].node;
}

static void bind(const struct placement *p, int thread)
{
    const struct topology *t = &p->topology;
    cpu_set_t sets[TOPOLOGY_MAX_ID / CPU_SETSIZE];
    int node = node_of(t, p->cpus[thread]);
    memset(sets, 0, sizeof sets);
    for (int i = 0; i < t->n_cpus; i++)
        if (p->pin ? t->cpus[i].id == p->cpus[thread] : t->cpus[i].node == node)
            CPU_SET_S((size_t)t->cpus[i].id, sizeof sets, sets);
    sched_setaffinity(0, sizeof sets, sets);
}

void placement_enter(void *arg, int thread)
{
    const struct placement *p = arg;
    if (p->pin || p->n_nodes > 1)
        bind(p, thread);
    if (p->idle)
        sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){0});
}

void placement_spare(const struct placement *p)
{
    const struct topology *t = &p->topology;
    cpu_set_t sets[TOPOLOGY_MAX_ID / CPU_SETSIZE];
    if (!p->pin)
        return;
    memset(sets, 0, sizeof sets);
    for (int i = 0; i < t->n_cpus; i++)
        CPU_SET_S((size_t)t->cpus[i].id, sizeof sets, sets);
    for (int i = 0; i < p->n_threads; i++)
        CPU_CLR_S((size_t)p->cpus[i], sizeof sets, sets);
    if (CPU_COUNT_S(sizeof sets, sets))
        machine_narrow(sets, sizeof sets);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

void placement_range(const struct placement *p, int node, size_t n, size_t *begin, size_t *end)
{
    size_t unused;
    pool_range(n, p->first_thread[node], p->n_threads, begin, &unused);
    pool_range(n, p->first_thread[node + 1] - 1, p->n_threads, &unused, end);
}

void placement_of_rows(const struct placement *p, void *rows, size_t n, size_t row_bytes)
{
    if (p->interleave)
        placement_of_shared(p, rows, n * row_bytes);
    for (int node = 0; p->n_nodes > 1 && !p->interleave && node < p->n_nodes; node++) {
        size_t begin, end;
        placement_range(p, node, n, &begin, &end);
        memory_place((char *)rows + begin * row_bytes, (end - begin) * row_bytes, &p->node_ids[node], 1);
    }
}

void placement_of_shared(const struct placement *p, void *data, size_t n_bytes)
{
    if (p->n_nodes > 1)
        memory_place(data, n_bytes, p->node_ids, p->n_nodes);
}

/* ---- options ----------------------------------------------------------------------------------------------------- */

enum error_code placement_open(struct placement *p, const struct backend_options *options, int n_threads, struct error *err)
{
    const char *numa = options->numa ? options->numa : "auto";
    bool off = strcmp(numa, "off") == 0, interleave = strcmp(numa, "interleave") == 0;
    if (!off && !interleave && strcmp(numa, "auto") != 0)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "numa",
                               "expected numa auto, interleave or off, found \"%.64s\"", numa);
    topology_of_process(&p->topology);
    if (off)
        topology_join_nodes(&p->topology);
    placement_spread(p, &p->topology, n_threads);
    p->interleave = interleave;
    p->idle = options->idle_priority;
    p->pin = options->pin && n_threads <= p->topology.n_cpus;
    return ERROR_NONE;
}
