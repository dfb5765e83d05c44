/* The metrics' series of a model: names, helps, labels and buckets, one table. No state. */
#ifndef SERVICE_MODEL_SERIES_H
#define SERVICE_MODEL_SERIES_H

#include "base/metrics.h"
#include "engine/engine.h"

enum {
    M_INFERENCE, M_FIRST_TOKEN, M_GAP, M_QUEUE, M_BATCH, M_ROWS, M_LOAD,
    M_STOP, M_LENGTH, M_CANCELLED, M_DEADLINE, M_ERROR, /* in the order of enum finish_reason */
    M_PREEMPTED, M_PROMPT_TOKENS, M_GENERATED_TOKENS, M_PREFIX_QUERIES, M_PREFIX_HITS, M_DRAFTED, M_DRAFT_ACCEPTED,
    M_ACCURACY, M_VIOLATIONS, M_SAME, M_OTHER, M_COMPARED, M_DROPPED,
    M_RUNNING, M_WAITING, M_DEPTH, M_QUEUE_TOKENS, M_ACTIVE, M_RATE, M_EFFICIENCY, M_BREAKER,
    M_KV_USAGE, M_KV_USED, M_KV_KEPT, M_KV_FREE, M_CACHE_CONFIG, M_WEIGHTS, M_KV, M_SCRATCH,
    M_DEVICE_INFO, M_DEVICE_UTILIZATION, M_GPU_MEMORY, M_GPU_SIZE,
    N_MODEL_SERIES
};

/* The series of a model where it is now; NULL for those that are not of its device. Their families are on the page in any case, so that it names
 * what a GPU would show. */
void model_series(struct metrics *page, const char *id, const struct engine_model *m, struct metrics_series *out[N_MODEL_SERIES]);
/* Whether series i is of now, and goes when the model does. */
bool model_series_is_gauge(size_t i);

#endif
