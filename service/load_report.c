/* The report's figures are those of the metrics page: the KV cache, the queue, and CPU and requests of the last seconds. */
#include "service/load_report.h"

#include "base/clock.h"
#include "service/history.h"

#include "xds/data/orca/v3/orca_load_report.pb-c.h"

#include <pthread.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

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

void load_report_add(struct service *s, struct rpc_call *call)
{
    Xds__Data__Orca__V3__OrcaLoadReport report = XDS__DATA__ORCA__V3__ORCA_LOAD_REPORT__INIT;
    Named entries[3], *list[3];
    struct engine_stats st;
    uint8_t packed[MAX_REPORT_BYTES];
    if (!wanted(s, call))
        return;
    engine_stats(s->engine, &st);
    const struct history_window w = service_metrics_history(s->metrics, clock_now_ns(), WINDOW_SECONDS);
    double n_cpus = (double)sysconf(_SC_NPROCESSORS_ONLN);
    set(&entries[0], &list[0], "kv_cache_usage", st.n_kv_blocks ? (double)st.n_kv_blocks_used / st.n_kv_blocks : 0);
    set(&entries[1], &list[1], "num_requests_waiting", st.n_waiting);
    set(&entries[2], &list[2], "num_requests_running", st.n_running);
    report.named_metrics = list;
    report.n_named_metrics = 3;
    int64_t elapsed_ns = clock_now_ns() - w.began_ns;
    if (w.began_ns >= 0 && elapsed_ns > 0) {
        double elapsed_s = (double)elapsed_ns / CLOCK_NS_PER_S;
        report.cpu_utilization = (double)(service_cpu_ns() - w.cpu_ns) / (double)elapsed_ns / n_cpus;
        report.rps_fractional = (double)(w.sums.n_ended + w.sums.n_refused) / elapsed_s;
        report.eps = (double)(w.sums.n_failed + w.sums.n_refused) / elapsed_s;
    }
    report.application_utilization = (double)(st.n_running + st.n_waiting) / (double)s->config->max_sequences;
    size_t n = xds__data__orca__v3__orca_load_report__get_packed_size(&report);
    if (n <= sizeof packed)
        rpc_call_add_trailer(call, "endpoint-load-metrics-bin", packed, xds__data__orca__v3__orca_load_report__pack(&report, packed));
}
