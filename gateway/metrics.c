/* The gateway's own metrics. Labels are bounded: a route's pattern, a method by name, a status. */
#include "gateway/error.h"
#include "gateway/gateway.h"

#include "version.h"

#include <stdio.h>
#include <string.h>

static const double duration_buckets[] = {.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60};

enum error_code gateway_metrics_open(struct gateway *g)
{
    struct metrics *m = g->metrics ? g->metrics : metrics_open();
    if (!m)
        return ERROR_INTERNAL;
    g->metrics = m;
    g->m_requests = metrics_add(m, METRICS_COUNTER, "bitnet_requests_total", "HTTP requests that have ended.",
                                "method,endpoint,status", NULL, 0);
    g->m_duration = metrics_add(m, METRICS_HISTOGRAM, "bitnet_request_duration_seconds",
                                "Time from a whole HTTP request to the end of its answer.", "method,endpoint,status",
                                duration_buckets, sizeof duration_buckets / sizeof *duration_buckets);
    g->m_errors =
        metrics_add(m, METRICS_COUNTER, "bitnet_errors_total", "Answers that were errors.", "type,component", NULL, 0);
    struct metrics_family *active = metrics_add(m, METRICS_GAUGE, "bitnet_requests_active",
                                                "HTTP requests in flight on the main port.", "", NULL, 0);
    struct metrics_family *build =
        metrics_add(m, METRICS_GAUGE, "bitnet_build_info", "Always 1.", "version,git_sha,features", NULL, 0);
    if (!g->m_requests || !g->m_duration || !g->m_errors || !active || !build)
        return ERROR_INTERNAL;
    g->m_active = metrics_get(active);
    metrics_set(metrics_get(build, BITNET_VERSION, BITNET_GIT_SHA, BITNET_FEATURES), 1);
    metrics_add_process(m);
    metrics_get(g->m_requests, "POST", "/v1/inference", "200");
    metrics_get(g->m_requests, "POST", "/v1/inference/stream", "200");
    metrics_get(g->m_errors, error_info(ERROR_SERVICE_UNAVAILABLE)->name, "gateway");
    return ERROR_NONE;
}

void gateway_metrics_request(struct gateway *g, const struct request *r, int status, double seconds)
{
    char code[12];
    const char *method = http_method_name(r->http->method), *endpoint = r->route ? r->route->pattern : "other";
    snprintf(code, sizeof code, "%d", status);
    metrics_inc(metrics_get(g->m_requests, method, endpoint, code), 1);
    char trace[TRACE_ID_TEXT_BYTES];
    metrics_observe_traced(metrics_get(g->m_duration, method, endpoint, code), seconds,
                           r->trace.flags & 1 ? trace_id_write(&r->trace, trace) : NULL);
    if (r->failed != ERROR_NONE)
        metrics_inc(metrics_get(g->m_errors, error_info(r->failed)->name, "gateway"), 1);
}

void handle_metrics(struct request *r)
{
    struct buffer page;
    const char *accept = http_header(r->http, "accept");
    bool open = accept && strstr(accept, "application/openmetrics-text");
    buffer_init(&page, 16 << 20);
    metrics_write(r->g->metrics, &page, open);
    request_text(r, 200,
                 open ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                      : "text/plain; version=0.0.4; charset=utf-8",
                 &page);
    buffer_fini(&page);
}
