/* Several engines' statistics as one. */
#ifndef GATEWAY_STATS_MERGE_H
#define GATEWAY_STATS_MERGE_H

#include "bitnet/v1/admin.pb-c.h"

#include <stddef.h>

enum { STATS_N_FORMATS = 3 }; /* i2s, tl1, tl2 */

/* A mean over the engines that have measured it, each by how many things its own one is of. */
struct stats_mean {
    double sum, weight; /* weight 0: nobody has */
};

struct stats {
    double uptime_seconds; /* of the engine that runs longest */
    uint64_t total_requests, successful_requests, failed_requests, generated_tokens;
    uint64_t by_format[STATS_N_FORMATS], on_cpu, on_gpu; /* requests that began */
    uint64_t fallback_events, batches;
    struct stats_mean response_ms, tokens_per_second, cpu_utilization, batch_size, formation_ms, efficiency;
    struct stats_mean accuracy;      /* by recomputed tokens */
    double lowest_accuracy;          /* where accuracy has been measured */
    uint64_t accuracy_violations;
};

extern const char *const stats_formats[STATS_N_FORMATS];

/* Counts are sums. `answers` stay the caller's. */
struct stats stats_merge(Bitnet__V1__StatsResponse *const *answers, size_t n);
double stats_mean(const struct stats_mean *m);

#endif
