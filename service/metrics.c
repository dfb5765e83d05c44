/* The process's own metrics: what calls end with, what is refused, how models change; model_metrics.c has those of models. */
#include "service/metrics_parts.h"

#include "base/clock.h"

#include "version.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const char *const refusals[METRICS_N_REFUSALS] = {REFUSED_QUEUE_FULL, REFUSED_QUEUE_TOKENS, REFUSED_QUEUE_WAIT, REFUSED_PRIORITY,
                                                         REFUSED_DEADLINE,   REFUSED_DRAINING,     REFUSED_DEVICE};
static const char *const swap_results[METRICS_N_SWAPS] = {"completed", "failed", "rolled_back"};

int64_t service_cpu_ns(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * CLOCK_NS_PER_S +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000;
}

double service_cpu_utilization(struct service_metrics *m)
{
    int64_t wall_ns = clock_now_ns(), cpu_ns = service_cpu_ns();
    pthread_mutex_lock(&m->lock);
    if (wall_ns - m->marks[1].wall_ns >= CLOCK_NS_PER_S) {
        m->marks[0] = m->marks[1];
        m->marks[1].wall_ns = wall_ns;
        m->marks[1].cpu_ns = cpu_ns;
    }
    double elapsed_ns = (double)(wall_ns - m->marks[0].wall_ns), used_ns = (double)(cpu_ns - m->marks[0].cpu_ns);
    pthread_mutex_unlock(&m->lock);
    double share = elapsed_ns > 0 ? used_ns / elapsed_ns / (double)sysconf(_SC_NPROCESSORS_ONLN) : 0;
    return share < 0 ? 0 : share > 1 ? 1 : share;
}

static void on_collect(void *user)
{
    struct service_metrics *m = user;
    metrics_set(m->cpu, service_cpu_utilization(m));
    model_metrics_collect(m);
}

static struct metrics_family *family(struct service_metrics *m, enum metrics_type type, const char *name, const char *help, const char *labels)
{
    return metrics_add(m->page, type, name, help, labels, NULL, 0);
}

static void add_errors(struct service_metrics *m)
{
    struct metrics_family *f = family(m, METRICS_COUNTER, "bitnet_errors_total", "Calls that ended with an error.", "type,component");
    for (int i = 1; i < ERROR_N_CODES; i++)
        m->errors[i] = metrics_get(f, error_info((enum error_code)i)->name, "service");
    m->device_failures = metrics_get(f, "device", "engine");
    f = family(m, METRICS_COUNTER, "bitnet_cancellations_total", "Requests that ended before their end.", "cause");
    m->cancelled = metrics_get(f, "client");
    m->deadline = metrics_get(f, "deadline");
    m->stalled = metrics_get(f, "stalled");
    f = family(m, METRICS_COUNTER, "bitnet_admission_rejections_total", "Requests that were not admitted.", "reason");
    for (size_t i = 0; i < METRICS_N_REFUSALS; i++)
        m->rejected[i] = metrics_get(f, refusals[i]);
}

static void add_changes(struct service_metrics *m)
{
    struct metrics_family *f = family(m, METRICS_COUNTER, "bitnet_model_swaps_total", "Swaps by how they ended.", "result");
    for (size_t i = 0; i < METRICS_N_SWAPS; i++)
        m->swaps[i] = metrics_get(f, swap_results[i]);
    m->load_failures = metrics_get(family(m, METRICS_COUNTER, "bitnet_model_load_failures_total", "Models that were refused, or did not load.", ""));
    metrics_get(family(m, METRICS_COUNTER, METRICS_FALLBACKS), "gpu", "cpu", METRICS_UNAVAILABLE);
    m->cpu = metrics_get(family(m, METRICS_GAUGE, "bitnet_cpu_utilization_ratio", "Share of the machine's cores that the process uses.", ""));
    metrics_set(metrics_get(family(m, METRICS_GAUGE, "bitnet_build_info", "What is running.", "version,git_sha,features"), BITNET_VERSION,
                            BITNET_GIT_SHA, BITNET_FEATURES),
                1);
}

struct service_metrics *service_metrics_open(const struct service_config *config)
{
    struct service_metrics *m = calloc(1, sizeof *m);
    if (m && !(m->page = metrics_open())) {
        free(m);
        m = NULL;
    }
    if (!m)
        return NULL;
    m->max_sequences = (size_t)config->max_sequences;
    m->started_ns = m->marks[0].wall_ns = m->marks[1].wall_ns = clock_now_ns();
    m->marks[0].cpu_ns = m->marks[1].cpu_ns = service_cpu_ns();
    pthread_mutex_init(&m->lock, NULL);
    add_errors(m);
    add_changes(m);
    metrics_add_process(m->page);
    metrics_on_collect(m->page, on_collect, m);
    return m;
}

void service_metrics_close(struct service_metrics *m)
{
    if (!m)
        return;
    metrics_close(m->page);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

struct metrics *service_metrics_page(struct service_metrics *m)
{
    return m->page;
}

void service_metrics_error(struct service_metrics *m, enum error_code code)
{
    if (m && code > ERROR_NONE && code < ERROR_N_CODES)
        metrics_inc(m->errors[code], 1);
}

void service_metrics_reject(struct service_metrics *m, const char *reason)
{
    for (size_t i = 0; reason && i < METRICS_N_REFUSALS; i++)
        if (strcmp(reason, refusals[i]) == 0) {
            metrics_inc(m->rejected[i], 1);
            pthread_mutex_lock(&m->lock);
            history_add(&m->history, clock_now_ns(), &(struct history_sums){.n_refused = 1}, service_cpu_ns);
            pthread_mutex_unlock(&m->lock);
        }
}

void service_metrics_load_failed(struct service_metrics *m)
{
    metrics_inc(m->load_failures, 1);
}

void service_metrics_swap(struct service_metrics *m, const char *result)
{
    for (size_t i = 0; i < METRICS_N_SWAPS; i++)
        if (strcmp(result, swap_results[i]) == 0)
            metrics_inc(m->swaps[i], 1);
}

struct history_window service_metrics_history(struct service_metrics *m, int64_t now_ns, int64_t seconds)
{
    pthread_mutex_lock(&m->lock);
    struct history_window w = history_window(&m->history, now_ns, seconds);
    pthread_mutex_unlock(&m->lock);
    return w;
}

uint64_t service_metrics_n_generated(struct service_metrics *m)
{
    model_metrics_collect(m);
    pthread_mutex_lock(&m->lock);
    uint64_t n = m->n_generated;
    pthread_mutex_unlock(&m->lock);
    return n;
}

struct engine_accuracy service_metrics_accuracy(struct service_metrics *m)
{
    model_metrics_collect(m);
    pthread_mutex_lock(&m->lock);
    struct engine_accuracy a = m->accuracy;
    pthread_mutex_unlock(&m->lock);
    return a;
}

struct service_window service_metrics_window(struct service_metrics *m)
{
    int64_t now_ns = clock_now_ns();
    double up_s = (double)(now_ns - m->started_ns) / CLOCK_NS_PER_S;
    const struct history_window h = service_metrics_history(m, now_ns, HISTORY_SECONDS);
    const struct history_sums *s = &h.sums;
    struct service_window w = {.n = s->n_ended + s->n_refused};
    if (s->n_ended)
        w.mean_ms = s->total_ms / (double)s->n_ended;
    if (w.n) {
        w.per_second = (double)w.n / (up_s < 1 ? 1 : up_s < HISTORY_SECONDS ? up_s : HISTORY_SECONDS);
        w.error_rate = (double)(s->n_failed + s->n_refused) / (double)w.n;
        w.in_time = (double)s->n_in_time / (double)w.n;
    }
    return w;
}
