/*
 * topology: the CPUs that this process may use, the NUMA node of each, and who shares a core. Read when a backend is opened. Any thread.
 */
#ifndef KERNELS_TOPOLOGY_H
#define KERNELS_TOPOLOGY_H

#define TOPOLOGY_MAX_CPUS 1024
#define TOPOLOGY_MAX_NODES 64
#define TOPOLOGY_MAX_ID 8192 /* of CPUs and nodes; the kernel's limit */

struct topology {
    int n_cpus, n_nodes;              /* at least 1 */
    int node_ids[TOPOLOGY_MAX_NODES]; /* the system's numbers, ascending */
    struct topology_cpu {
        int id;                       /* the system's number */
        int node;                     /* index into node_ids */
        int rank;                     /* 0 for the first of the CPUs that share a core, 1 for the second, .. */
    } cpus[TOPOLOGY_MAX_CPUS];        /* by node, then rank, then number */
};

/* Reads nodes and cores of n_cpus CPUs below `root` (normally "/sys/devices/system"). Where it says nothing there is one node, and
 * each CPU is a core. */
void topology_read(const char *root, const int *cpus, int n_cpus, struct topology *out);
/* The same for the CPUs of this process's affinity mask, which a cgroup's cpuset has part in. */
void topology_of_process(struct topology *out);
/* Takes all nodes for one. */
void topology_join_nodes(struct topology *t);

#endif
