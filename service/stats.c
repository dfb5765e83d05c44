/* AdminService.Stats: the figures of a window, from the history that metrics.c keeps. */
#include "base/clock.h"
#include "bitnet/v1/admin.pb-c.h"
#include "service/metrics.h"

#include <unistd.h>

#define DEFAULT_SECONDS 3600
#define MAX_SECONDS (HISTORY_HOURS * 3600)

/* A mean, which is absent when there is nothing to divide by. */
#define MEAN(r, name, NAME, sum, n)                                                                                    \
    if ((n) > 0) {                                                                                                     \
        (r)->_##name##_case = BITNET__V1__STATS_RESPONSE___##NAME##_##NAME;                                            \
        (r)->name = (double)(sum) / (double)(n);                                                                       \
    }

static void fill(struct service *s, const struct history_window *w, int64_t now_ns, Bitnet__V1__StatsResponse *r)
{
    const struct history_sums *sums = &w->sums;
    double elapsed_ns = w->began_ns >= 0 ? (double)(now_ns - w->began_ns) : 0;
    r->uptime_seconds = (double)(now_ns - s->started_ns) / 1e9;
    r->total_requests = sums->n_ended + sums->n_refused;
    r->successful_requests = sums->n_successful;
    r->failed_requests = sums->n_failed + sums->n_refused;
    r->generated_tokens = sums->n_tokens;
    r->inferences = sums->n_started;
    r->inferences_i2s = sums->n_by_format[0];
    r->inferences_tl1 = sums->n_by_format[1];
    r->inferences_tl2 = sums->n_by_format[2];
    r->inferences_cpu = sums->n_by_device[0];
    r->inferences_gpu = sums->n_by_device[1];
    r->fallback_events = sums->n_fallbacks;
    r->batches = sums->n_steps;
    const struct engine_accuracy accuracy = service_metrics_accuracy(s->metrics);
    r->recomputed_tokens = accuracy.n_compared;
    r->accuracy_violations = accuracy.n_violations;
    MEAN(r, accuracy, ACCURACY, accuracy.n_same, accuracy.n_compared)
    MEAN(r, lowest_accuracy, LOWEST_ACCURACY, accuracy.lowest, accuracy.n_compared > 0)
    MEAN(r, avg_response_time_ms, AVG_RESPONSE_TIME_MS, sums->total_ms, sums->n_ended)
    MEAN(r, avg_tokens_per_second, AVG_TOKENS_PER_SECOND, sums->n_tokens, sums->running_s)
    MEAN(r, cpu_utilization, CPU_UTILIZATION, service_cpu_ns() - w->cpu_ns,
         elapsed_ns * (double)sysconf(_SC_NPROCESSORS_ONLN))
    MEAN(r, avg_batch_size, AVG_BATCH_SIZE, sums->n_step_sequences, sums->n_steps)
    MEAN(r, batch_formation_ms, BATCH_FORMATION_MS, sums->queue_ms, sums->n_started)
    MEAN(r, batch_efficiency, BATCH_EFFICIENCY, (double)sums->n_step_sequences / (double)s->config->max_sequences, sums->n_steps)
}

void admin_stats(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    struct service *s = service;
    struct error err = {0};
    Bitnet__V1__StatsRequest *q = message_unpack(&bitnet__v1__stats_request__descriptor, data, n_bytes, &err);
    if (q && q->window_seconds > MAX_SECONDS)
        error_set_param(&err, ERROR_VALIDATION_FAILED, "window_seconds",
                        "window_seconds: expected 0 to %d, found %llu", MAX_SECONDS,
                        (unsigned long long)q->window_seconds);
    if (!err.code) {
        int64_t now_ns = clock_now_ns(), seconds = q->window_seconds ? (int64_t)q->window_seconds : DEFAULT_SECONDS;
        const struct history_window w = service_metrics_history(s->metrics, now_ns, seconds);
        Bitnet__V1__StatsResponse r = BITNET__V1__STATS_RESPONSE__INIT;
        struct served *served = NULL;
        fill(s, &w, now_ns, &r);
        if (!registry_acquire(s->registry, "", &served, NULL)) {
            const struct engine_model *m = engine_model(served_engine(served));
            r.quantization = (char *)(uintptr_t)m->quantization;
            r.device = (char *)(uintptr_t)m->device;
        }
        message_answer(call, &r.base);
        served_release(served);
    } else {
        status_fail(s, call, &err);
    }
    message_free(q);
}
