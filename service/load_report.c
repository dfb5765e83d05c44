/* The report's figures are those of the metrics page: the KV cache, the queue, and CPU and requests of the last seconds. */
#include "service/load_report.h"

#include "base/clock.h"
#include "service/metrics.h"

#include "xds/data/orca/v3/orca_load_report.pb-c.h"

#include <pthread.h>
#include <string.h>
#include <strings.h>

#define WINDOW_SECONDS 10
#define MAX_REPORT_BYTES 512

typedef Xds__Data__Orca__V3__OrcaLoadReport__NamedMetricsEntry Named;

static bool wanted(const struct service *s, const struct rpc_call *call)
{
    const char *format = rpc_call_metadata(call, "endpoint-load-metrics-format");
    if (strcmp(s->config->load_reports, "asked") != 0)
        return strcmp(s->config->load_reports, "always") == 0;
    return format && strcasecmp(format, "bin") == 0;
}

static void set(Named *entry, Named **at, const char *key, double value)
{
    xds__data__orca__v3__orca_load_report__named_metrics_entry__init(entry);
    entry->key = (char *)(uintptr_t)key;
    entry->value = value;
    *at = entry;
}

/* Of all models together. */
static struct engine_stats sum_up(const struct service *s, size_t *n_models)
{
    struct engine_stats sum = {0}, one;
    struct model_entry *entries = NULL;
    *n_models = 0;
    service_loaded(s, &entries, n_models);
    for (size_t i = 0; i < *n_models; i++) {
        engine_stats(served_engine(entries[i].served), &one);
        sum.n_waiting += one.n_waiting;
        sum.n_running += one.n_running;
        sum.n_kv_blocks += one.n_kv_blocks;
        sum.n_kv_blocks_used += one.n_kv_blocks_used;
    }
    registry_list_free(entries, *n_models);
    return sum;
}

/* Requests that ended, and errors, a second. */
static void add_rates(struct service *s, Xds__Data__Orca__V3__OrcaLoadReport *report)
{
    int64_t now_ns = clock_now_ns();
    const struct history_window w = service_metrics_history(s->metrics, now_ns, WINDOW_SECONDS);
    if (w.began_ns < 0 || now_ns <= w.began_ns)
        return;
    double elapsed_s = (double)(now_ns - w.began_ns) / CLOCK_NS_PER_S;
    report->rps_fractional = (double)(w.sums.n_ended + w.sums.n_refused) / elapsed_s;
    report->eps = (double)(w.sums.n_failed + w.sums.n_refused) / elapsed_s;
}

void load_report_add(struct service *s, struct rpc_call *call)
{
    Xds__Data__Orca__V3__OrcaLoadReport report = XDS__DATA__ORCA__V3__ORCA_LOAD_REPORT__INIT;
    Named entries[3], *list[3];
    uint8_t packed[MAX_REPORT_BYTES];
    size_t n_models;
    if (!wanted(s, call))
        return;
    const struct engine_stats st = sum_up(s, &n_models);
    set(&entries[0], &list[0], "kv_cache_usage", st.n_kv_blocks ? (double)st.n_kv_blocks_used / st.n_kv_blocks : 0);
    set(&entries[1], &list[1], "num_requests_waiting", st.n_waiting);
    set(&entries[2], &list[2], "num_requests_running", st.n_running);
    report.named_metrics = list;
    report.n_named_metrics = 3;
    report.cpu_utilization = service_cpu_utilization(s->metrics);
    if (n_models > 0)
        report.application_utilization = (double)(st.n_running + st.n_waiting) / (double)n_models / (double)s->config->max_sequences;
    add_rates(s, &report);
    size_t n = xds__data__orca__v3__orca_load_report__get_packed_size(&report);
    if (n <= sizeof packed)
        rpc_call_add_trailer(call, "endpoint-load-metrics-bin", packed, xds__data__orca__v3__orca_load_report__pack(&report, packed));
}
