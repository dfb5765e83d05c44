#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_getaffinity */
#endif
#include "kernels/machine.h"

#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_BYTES 1024
#define MAX_CPU_ID 8192 /* the kernel's limit; cpu_set_t alone ends at 1024 */
#define CGROUP_ROOT "/sys/fs/cgroup"

/* Reads the beginning of a file as text; false when there is none. */
static bool read_text(const char *path, char *out, size_t out_bytes)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    size_t n = fread(out, 1, out_bytes - 1, f);
    out[n] = '\0';
    fclose(f);
    return n > 0;
}

static bool read_number(const char *path, int64_t *out)
{
    char text[64];
    return read_text(path, text, sizeof text) && sscanf(text, "%" SCNd64, out) == 1;
}

/* The path of this process in the version 2 hierarchy ("0::/a/b"), "" when there is none. */
static void cgroup_path(const char *self, char *out, size_t out_bytes)
{
    const char *line = strstr(self, "0::");
    while (line && line != self && line[-1] != '\n')
        line = strstr(line + 1, "0::");
    out[0] = '\0';
    if (!line)
        return;
    size_t n = strcspn(line + 3, "\n");
    if (n < out_bytes) {
        memcpy(out, line + 3, n);
        out[n] = '\0';
    }
}

/* Takes the last component off; false when nothing is left to take. */
static bool cgroup_up(char *path)
{
    char *slash = strrchr(path, '/');
    if (!slash)
        return false;
    *slash = '\0';
    return true;
}

static int quota_cpus(int64_t quota, int64_t period)
{
    if (quota <= 0 || period <= 0)
        return 0;
    int64_t n = (quota + period - 1) / period;
    return n > INT_MAX ? 0 : (int)n;
}

int machine_cgroup_cpus(const char *root, const char *self)
{
    char group[PATH_BYTES], path[2 * PATH_BYTES], text[64];
    int64_t quota, period;
    int least = 0;
    cgroup_path(self, group, sizeof group);
    do {
        snprintf(path, sizeof path, "%s%s/cpu.max", root, group);
        if (read_text(path, text, sizeof text) && sscanf(text, "%" SCNd64 " %" SCNd64, &quota, &period) == 2) {
            int n = quota_cpus(quota, period);
            if (n && (!least || n < least))
                least = n;
        }
    } while (cgroup_up(group));
    if (least)
        return least;
    snprintf(path, sizeof path, "%s/cpu/cpu.cfs_quota_us", root);
    if (!read_number(path, &quota))
        return 0;
    snprintf(path, sizeof path, "%s/cpu/cpu.cfs_period_us", root);
    return read_number(path, &period) ? quota_cpus(quota, period) : 0;
}

static void own_cgroup(char *out, size_t out_bytes)
{
    if (!read_text("/proc/self/cgroup", out, out_bytes))
        out[0] = '\0';
}

static struct {
    pthread_mutex_t lock;
    size_t n_bytes; /* 0: nobody was narrowed */
    cpu_set_t set[MAX_CPU_ID / CPU_SETSIZE];
} whole = {.lock = PTHREAD_MUTEX_INITIALIZER};

bool machine_affinity(cpu_set_t *set, size_t n_bytes)
{
    memset(set, 0, n_bytes);
    pthread_mutex_lock(&whole.lock);
    size_t n = whole.n_bytes;
    if (n)
        memcpy(set, whole.set, n < n_bytes ? n : n_bytes);
    pthread_mutex_unlock(&whole.lock);
    return n || sched_getaffinity(0, n_bytes, set) == 0;
}

void machine_narrow(const cpu_set_t *set, size_t n_bytes)
{
    pthread_mutex_lock(&whole.lock);
    if (!whole.n_bytes && sched_getaffinity(0, sizeof whole.set, whole.set) == 0)
        whole.n_bytes = sizeof whole.set;
    pthread_mutex_unlock(&whole.lock);
    sched_setaffinity(0, n_bytes, set);
}

int machine_n_cpus(void)
{
    char self[PATH_BYTES];
    cpu_set_t set[MAX_CPU_ID / CPU_SETSIZE];
    int n;
    if (machine_affinity(set, sizeof set))
        n = CPU_COUNT_S(sizeof set, set);
    else
        n = (int)sysconf(_SC_NPROCESSORS_ONLN);
    own_cgroup(self, sizeof self);
    int quota = machine_cgroup_cpus(CGROUP_ROOT, self);
    if (quota && quota < n)
        n = quota;
    return n < 1 ? 1 : n;
}

int machine_default_threads(int n_cpus) { return n_cpus < 4 ? n_cpus : n_cpus - 1; }

size_t machine_memory_bytes(void)
{
    char self[PATH_BYTES], group[PATH_BYTES], path[2 * PATH_BYTES];
    int64_t limit;
    int64_t least = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    own_cgroup(self, sizeof self);
    cgroup_path(self, group, sizeof group);
    do {
        snprintf(path, sizeof path, CGROUP_ROOT "%s/memory.max", group);
        if (read_number(path, &limit) && limit > 0 && limit < least) /* "max" is no number */
            least = limit;
    } while (cgroup_up(group));
    if (read_number(CGROUP_ROOT "/memory/memory.limit_in_bytes", &limit) && limit > 0 && limit < least)
        least = limit;
    return (size_t)least;
}

void machine_cpu_name(char *out, size_t out_bytes)
{
    char line[256];
    snprintf(out, out_bytes, "unknown CPU");
    FILE *f = fopen("/proc/cpuinfo", "re");
    if (!f)
        return;
    while (fgets(line, sizeof line, f)) {
        char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !value)
            continue;
        value += strspn(value, ": \t");
        value[strcspn(value, "\n")] = '\0';
        snprintf(out, out_bytes, "%s", value);
        break;
    }
    fclose(f);
}
