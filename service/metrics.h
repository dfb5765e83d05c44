/*
 * metrics: the engine process's metrics, and the history behind its statistics. What is true of one model has series of its own, which are shown
 * while an engine of that model is open, and go on counting where they were when it comes back. Nothing is shown that was not measured.
 */
#ifndef SERVICE_METRICS_H
#define SERVICE_METRICS_H

#include "service/history.h"
#include "service/service.h"

/* NULL when memory is out. Closed after the last model. */
struct service_metrics *service_metrics_open(const struct service_config *config);
void service_metrics_close(struct service_metrics *m);
struct metrics *service_metrics_page(struct service_metrics *m);

/* ---- models (model_metrics.c) ---- */

struct model_metrics;

/* The series of one engine of model `id`, which is observed from now on; before its first request is submitted. The engine outlives what is
 * returned. NULL when memory is out, which model_metrics_close and model_metrics_figures take. Any thread. */
struct model_metrics *model_metrics_open(struct service_metrics *m, const char *id, struct engine *e);
void model_metrics_close(struct model_metrics *mm);

/* Of one engine since it was opened; 0 = nothing was measured. Any thread. */
struct model_figures {
    uint64_t n_requests;
    double tokens_per_second; /* generated, by the time spent in steps */
    double mean_ms;           /* of requests that ended, from arrival */
};
struct model_figures model_metrics_figures(const struct model_metrics *mm);

/* ---- the process ---- */

void service_metrics_load_failed(struct service_metrics *m);
void service_metrics_swap(struct service_metrics *m, const char *result); /* "completed", "failed", "rolled_back" */

/* Figures of the last five minutes, of requests that ended and of those that were not admitted; zeros with n = 0. */
struct service_window {
    uint64_t n;
    double mean_ms, per_second, error_rate;
    double in_time; /* share that ended well, within 2 s for each 100 tokens begun */
};
struct service_window service_metrics_window(struct service_metrics *m);
/* A longer time; any thread. See history.h. */
struct history_window service_metrics_history(struct service_metrics *m, int64_t now_ns, int64_t seconds);
/* Tokens that all models have generated since the start. Any thread. */
uint64_t service_metrics_n_generated(struct service_metrics *m);
/* Counts of live accuracy of all models since the start, and the lowest of a request; the rest is not set. Any thread. */
struct engine_accuracy service_metrics_accuracy(struct service_metrics *m);
/* CPU time that the process has used. Any thread. */
int64_t service_cpu_ns(void);
/* Share of the machine's cores that the process has used, 0..1, over at least the last second, up to the time since somebody asked. Any thread. */
double service_cpu_utilization(struct service_metrics *m);

#endif
