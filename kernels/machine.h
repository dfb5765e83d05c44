/* machine: what the hardware and its cgroup offer to this process. Read when a backend is opened. Any thread. */
#ifndef KERNELS_MACHINE_H
#define KERNELS_MACHINE_H

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>

/* The CPUs that this process may use: the calling thread's affinity mask, or as it was before the first machine_narrow. False when the system does
 * not say. */
bool machine_affinity(cpu_set_t *set, size_t n_bytes);
/* Keeps the calling thread, and those that it will make, to fewer CPUs; new backends still find all of them. */
void machine_narrow(const cpu_set_t *set, size_t n_bytes);

/* CPUs of the process, at most the cgroup's quota rounded up; at least 1. */
int machine_n_cpus(void);

/* Compute threads for that many CPUs: all below 4, one left to I/O from 4 up. */
int machine_default_threads(int n_cpus);

/* CPUs that the cgroup mounted at `root` (normally /sys/fs/cgroup) allows this process, rounded up; 0 = no limit.
 * `self` is the text of /proc/self/cgroup. Version 2: cpu.max of the group and those above it; 1: cpu.cfs_quota_us. */
int machine_cgroup_cpus(const char *root, const char *self);

/* Bytes of memory, at most the cgroup's limit. */
size_t machine_memory_bytes(void);

/* The CPU's model name, "unknown CPU" when the system does not say. */
void machine_cpu_name(char *out, size_t out_bytes);

#endif
