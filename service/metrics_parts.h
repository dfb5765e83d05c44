/* What the files of the metrics share. */
#ifndef SERVICE_METRICS_PARTS_H
#define SERVICE_METRICS_PARTS_H

#include "service/metrics.h"

#include <pthread.h>

#define METRICS_N_REFUSALS 7
#define METRICS_N_SWAPS 3

/* Name, help and labels. */
#define METRICS_FALLBACKS "bitnet_fallback_total", "Models that another device serves than the one asked for, or than before.", "from,to,reason"
/* Its reasons: a GPU that was asked for cannot be used; the device failed while it was. */
#ifdef FEATURE_GPU
#define METRICS_UNAVAILABLE "unavailable"
#else
#define METRICS_UNAVAILABLE "not_built"
#endif
#define METRICS_FAILED "failed"

struct service_metrics {
    struct metrics *page;
    struct metrics_series *errors[ERROR_N_CODES], *rejected[METRICS_N_REFUSALS], *swaps[METRICS_N_SWAPS];
    struct metrics_series *cancelled, *deadline, *stalled, *device_failures, *load_failures, *cpu;
    size_t max_sequences; /* of each model's batch */
    int64_t started_ns;

    pthread_mutex_t lock; /* guards what follows */
    struct history history;
    struct model_metrics *models;
    uint64_t n_generated; /* tokens, followed */
    struct engine_accuracy accuracy; /* followed: the counts of all models, and the lowest */
    struct { int64_t wall_ns, cpu_ns; } marks[2]; /* when the CPU was looked at: [0] at least a second ago, [1] last */
};

/* Brings the models' counters and gauges up to date. Any thread. */
void model_metrics_collect(struct service_metrics *m);

#endif
