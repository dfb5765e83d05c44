#include "kernels/topology.h"

#include "kernels/machine.h"

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SYSTEM_ROOT "/sys/devices/system"
#define LIST_BYTES 4096

/* True when a list such as "0-3,8,10-11" holds n. */
static bool list_has(const char *list, int n)
{
    while (*list) {
        char *end;
        long from = strtol(list, &end, 10), to = from;
        if (end == list)
            return false;
        if (*end == '-')
            to = strtol(end + 1, &end, 10);
        if (n >= from && n <= to)
            return true;
        list = end + (*end == ',');
    }
    return false;
}

static bool read_list(const char *path, char list[LIST_BYTES])
{
    FILE *f = fopen(path, "re");
    bool ok = f && fgets(list, LIST_BYTES, f);
    if (f)
        fclose(f);
    return ok;
}

/* Gives the CPUs on the list to the next node; one that none of ours is on is not counted. */
static void add_node(struct topology *t, int id, const char *list)
{
    bool any = false;
    for (int i = 0; i < t->n_cpus; i++)
        if (t->cpus[i].node < 0 && list_has(list, t->cpus[i].id)) {
            t->cpus[i].node = t->n_nodes;
            any = true;
        }
    if (any)
        t->node_ids[t->n_nodes++] = id;
}

static void read_nodes(struct topology *t, const char *root)
{
    char path[256], online[LIST_BYTES], list[LIST_BYTES];
    snprintf(path, sizeof path, "%s/node/online", root);
    if (!read_list(path, online))
        online[0] = '\0';
    for (int id = 0; id < TOPOLOGY_MAX_ID && t->n_nodes < TOPOLOGY_MAX_NODES; id++) {
        snprintf(path, sizeof path, "%s/node/node%d/cpulist", root, id);
        if (list_has(online, id) && read_list(path, list))
            add_node(t, id, list);
    }
    if (!t->n_nodes)
        t->n_nodes = 1;
    for (int i = 0; i < t->n_cpus; i++)
        if (t->cpus[i].node < 0)
            t->cpus[i].node = 0;
}

/* The rank of a CPU is how many of the CPUs before it share its core. */
static void read_cores(struct topology *t, const char *root)
{
    char path[256], list[LIST_BYTES];
    for (int i = 0; i < t->n_cpus; i++) {
        snprintf(path, sizeof path, "%s/cpu/cpu%d/topology/thread_siblings_list", root, t->cpus[i].id);
        if (!read_list(path, list))
            continue;
        for (int k = 0; k < i; k++)
            t->cpus[i].rank += list_has(list, t->cpus[k].id);
    }
}

static int compare(const void *a, const void *b)
{
    const struct topology_cpu *x = a, *y = b;
    if (x->node != y->node)
        return x->node - y->node;
    return x->rank != y->rank ? x->rank - y->rank : x->id - y->id;
}

static void sort_cpus(struct topology *t) { qsort(t->cpus, (size_t)t->n_cpus, sizeof *t->cpus, compare); }

void topology_read(const char *root, const int *cpus, int n_cpus, struct topology *out)
{
    *out = (struct topology){.n_cpus = n_cpus < TOPOLOGY_MAX_CPUS ? n_cpus : TOPOLOGY_MAX_CPUS};
    for (int i = 0; i < out->n_cpus; i++)
        out->cpus[i] = (struct topology_cpu){.id = cpus[i], .node = -1};
    read_nodes(out, root);
    read_cores(out, root);
    sort_cpus(out);
}

void topology_of_process(struct topology *out)
{
    cpu_set_t sets[TOPOLOGY_MAX_ID / CPU_SETSIZE]; /* cpu_set_t alone ends at 1024 */
    int cpus[TOPOLOGY_MAX_CPUS] = {0}, n = 0;
    if (machine_affinity(sets, sizeof sets))
        for (int id = 0; id < TOPOLOGY_MAX_ID && n < TOPOLOGY_MAX_CPUS; id++)
            if (CPU_ISSET_S((size_t)id, sizeof sets, sets))
                cpus[n++] = id;
    topology_read(SYSTEM_ROOT, cpus, n ? n : 1, out);
}

void topology_join_nodes(struct topology *t)
{
    t->n_nodes = 1;
    for (int i = 0; i < t->n_cpus; i++)
        t->cpus[i].node = 0;
    sort_cpus(t);
}
