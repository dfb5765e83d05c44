/* Spans on their way to a collector, which is a server in the same process: what arrives, and what a dead, slow or refusing one costs. */
#include "tests/suite.h"

#ifdef FEATURE_OPENTELEMETRY
#include "base/clock.h"
#include "base/log.h"
#include "rpc/rpc.h"
#include "trace/span.h"

#include "opentelemetry/proto/collector/trace/v1/trace_service.pb-c.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

typedef Opentelemetry__Proto__Collector__Trace__V1__ExportTraceServiceRequest Export;
typedef Opentelemetry__Proto__Common__V1__KeyValue KeyValue;
typedef Opentelemetry__Proto__Trace__V1__Span Span;

/* ---- the collector ---- */

static atomic_int n_calls, n_spans, refuse_code, n_refuse, stay_silent;
static _Atomic int64_t n_reject;
static Export *_Atomic last; /* the last request; leaked to the end of the process */
static char token[64];

static void on_export(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    (void)service;
    atomic_fetch_add(&n_calls, 1);
    if (atomic_load(&stay_silent))
        return;
    if (atomic_load(&n_refuse) > 0) {
        atomic_fetch_sub(&n_refuse, 1);
        rpc_call_finish(call, &(struct rpc_status){.code = atomic_load(&refuse_code), .message = "not now"}, NULL, 0);
        return;
    }
    Export *r = opentelemetry__proto__collector__trace__v1__export_trace_service_request__unpack(NULL, n_bytes, data);
    ck_assert_ptr_nonnull(r);
    const char *header = rpc_call_metadata(call, "x-token");
    snprintf(token, sizeof token, "%s", header ? header : "");
    atomic_fetch_add(&n_spans, (int)r->resource_spans[0]->scope_spans[0]->n_spans);
    Export *before = atomic_exchange(&last, r);
    if (before)
        opentelemetry__proto__collector__trace__v1__export_trace_service_request__free_unpacked(before, NULL);
    Opentelemetry__Proto__Collector__Trace__V1__ExportTracePartialSuccess partial =
        OPENTELEMETRY__PROTO__COLLECTOR__TRACE__V1__EXPORT_TRACE_PARTIAL_SUCCESS__INIT;
    Opentelemetry__Proto__Collector__Trace__V1__ExportTraceServiceResponse answer =
        OPENTELEMETRY__PROTO__COLLECTOR__TRACE__V1__EXPORT_TRACE_SERVICE_RESPONSE__INIT;
    partial.rejected_spans = atomic_load(&n_reject);
    if (partial.rejected_spans)
        answer.partial_success = &partial;
    uint8_t packed[64];
    size_t n = opentelemetry__proto__collector__trace__v1__export_trace_service_response__pack(&answer, packed);
    rpc_call_finish(call, &(struct rpc_status){.message = ""}, packed, n);
}

static const struct rpc_method methods[] = {
    {.path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export", .kind = RPC_UNARY, .on_message = on_export}, {.path = NULL}};
static struct rpc_server *collector;
static struct metrics *metrics;
static struct tracer *tracer;

static void open_collector(void)
{
    struct error err = {0};
    char endpoint[64];
    const struct rpc_server_options options = {.methods = methods, .listen = "127.0.0.1:0"};
    log_init(LOG_OFF, LOG_FORMAT_JSON);
    rpc_init();
    ck_assert_msg(!rpc_server_open(&options, &collector, &err), "%s", err.message);
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d", rpc_server_port(collector));
    setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint, true);
    setenv("OTEL_BSP_SCHEDULE_DELAY", "20", false);
}

static void open_tracer(void)
{
    struct error err = {0};
    metrics = metrics_open();
    const struct trace_options options = {.service = "tested", .version = "1", .metrics = metrics};
    ck_assert_msg(!trace_open(&options, &tracer, &err), "%s", err.message);
    ck_assert_ptr_nonnull(tracer);
}

static double exported(void)
{
    return metrics_value(metrics_get(metrics_add(metrics, METRICS_COUNTER, "bitnet_trace_spans_exported_total", "", "", NULL, 0)));
}

static double dropped(const char *reason)
{
    return metrics_value(metrics_get(metrics_add(metrics, METRICS_COUNTER, "bitnet_trace_spans_dropped_total", "", "reason", NULL, 0), reason));
}

static void close_all(void)
{
    trace_close(tracer);
    metrics_close(metrics);
    rpc_server_close(collector);
    rpc_fini();
}

static bool within(int64_t seconds, bool (*true_by_then)(void))
{
    int64_t end_ns = clock_now_ns() + seconds * CLOCK_NS_PER_S;
    while (!true_by_then() && clock_now_ns() < end_ns)
        usleep(2000);
    return true_by_then();
}

static struct span *root(const char *name)
{
    struct trace_context none = {0}, here;
    return span_start(tracer, name, SPAN_SERVER, &none, NULL, clock_now_ns(), &here);
}

static bool arrived(void)
{
    return exported() >= 1;
}

static const KeyValue *attribute(const Span *s, const char *key)
{
    for (size_t i = 0; i < s->n_attributes; i++)
        if (strcmp(s->attributes[i]->key, key) == 0)
            return s->attributes[i];
    ck_abort_msg("no attribute %s", key);
}

/* ---- tests ---- */

START_TEST(what_arrives)
{
    setenv("OTEL_EXPORTER_OTLP_HEADERS", "X-Token=secret", true);
    setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test,service.namespace=mine", true);
    open_collector();
    open_tracer();
    static const char *const list[] = {"stop", "length"};
    struct trace_context parent = trace_context_read("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), here;
    int64_t start_ns = clock_now_ns();
    struct span *s = span_start(tracer, "GET /x", SPAN_SERVER, &parent, "a=b", start_ns, &here);
    ck_assert_ptr_nonnull(s);
    span_set_text(s, "text", "bad \xff utf-8");
    span_set_text(s, "none", NULL);
    span_set_int(s, "int", -7);
    span_set_float(s, "float", 0.5);
    span_set_texts(s, "list", list, 2);
    span_fail(s, "UNAVAILABLE", "it is gone");
    span_end(span_child(s, "inner", SPAN_INTERNAL, start_ns + 10), start_ns + 20);
    span_end(s, start_ns + 30);
    ck_assert(within(10, arrived));
    ck_assert_str_eq(token, "secret");
    const Export *r = atomic_load(&last);
    const Opentelemetry__Proto__Trace__V1__ResourceSpans *of = r->resource_spans[0];
    const char *wanted[][2] = {{"deployment.environment", "test"}, {"service.namespace", "mine"}, {"service.name", "tested"}};
    for (size_t i = 0; i < 3; i++) {
        bool found = false;
        for (size_t k = 0; k < of->resource->n_attributes; k++)
            if (strcmp(of->resource->attributes[k]->key, wanted[i][0]) == 0) {
                ck_assert(!found);
                found = strcmp(of->resource->attributes[k]->value->string_value, wanted[i][1]) == 0;
            }
        ck_assert_msg(found, "%s", wanted[i][0]);
    }
    ck_assert_int_eq(of->scope_spans[0]->n_spans, 2);
    const Span *inner = of->scope_spans[0]->spans[0], *outer = of->scope_spans[0]->spans[1];
    ck_assert_str_eq(outer->name, "GET /x");
    ck_assert_int_eq(outer->kind, SPAN_SERVER);
    ck_assert_mem_eq(outer->trace_id.data, parent.trace_id, 16);
    ck_assert_mem_eq(outer->parent_span_id.data, parent.span_id, 8);
    ck_assert_mem_eq(outer->span_id.data, here.span_id, 8);
    ck_assert_mem_eq(inner->parent_span_id.data, here.span_id, 8);
    ck_assert_int_eq(outer->end_time_unix_nano - outer->start_time_unix_nano, 30);
    ck_assert_int_eq(inner->start_time_unix_nano - outer->start_time_unix_nano, 10);
    ck_assert_str_eq(outer->trace_state, "a=b");
    ck_assert_str_eq(attribute(outer, "text")->value->string_value, "bad \xEF\xBF\xBD utf-8");
    ck_assert_int_eq(attribute(outer, "int")->value->int_value, -7);
    ck_assert_double_eq(attribute(outer, "float")->value->double_value, 0.5);
    ck_assert_str_eq(attribute(outer, "list")->value->array_value->values[1]->string_value, "length");
    ck_assert_str_eq(attribute(outer, "error.type")->value->string_value, "UNAVAILABLE");
    ck_assert_int_eq(outer->status->code, OPENTELEMETRY__PROTO__TRACE__V1__STATUS__STATUS_CODE__STATUS_CODE_ERROR);
    ck_assert_str_eq(outer->status->message, "it is gone");
    ck_assert_ptr_null(inner->status);
    close_all();
}
END_TEST

START_TEST(a_span_has_bounds)
{
    static char text[400];
    memset(text, 'x', sizeof text - 1);
    open_collector();
    open_tracer();
    struct span *s = root("long");
    for (int i = 0; i < 40; i++)
        span_set_int(s, "n", i);
    ck_assert_int_eq(s->n_attributes, SPAN_MAX_ATTRIBUTES);
    ck_assert_int_eq(s->n_dropped, 8);
    span_end(s, 0); /* before its start: no time at all */
    s = root("text");
    for (int i = 0; i < 5; i++)
        span_set_text(s, "t", text);
    ck_assert_int_eq(s->n_attributes, 3); /* the third is cut */
    ck_assert_int_eq(strlen(s->attributes[2].value.text), SPAN_TEXT_BYTES - 2 * sizeof text - 1);
    ck_assert_int_eq(s->n_dropped, 2);
    span_end(s, clock_now_ns());
    ck_assert(within(10, arrived));
    close_all();
}
END_TEST

START_TEST(samplers_decide)
{
    uint8_t low[16] = {0}, high[16] = {0};
    memset(low + 8, 0x10, 8);
    memset(high + 8, 0xf0, 8);
    struct trace_config c = {.sampler = SAMPLER_RATIO, .ratio = 0.5, .parent_based = true};
    struct trace_context none = {0}, yes = {.known = true, .flags = 1}, no = {.known = true};
    ck_assert(span_sampled(&c, &none, low) && !span_sampled(&c, &none, high));
    ck_assert(span_sampled(&c, &yes, high) && !span_sampled(&c, &no, low));
    c.parent_based = false;
    ck_assert(!span_sampled(&c, &yes, high) && span_sampled(&c, &no, low));
    c.ratio = 0;
    ck_assert(!span_sampled(&c, &none, (uint8_t[16]){0}));
    c.sampler = SAMPLER_ALWAYS_OFF;
    ck_assert(!span_sampled(&c, &yes, low));
}
END_TEST

START_TEST(what_is_not_recorded_still_has_a_place)
{
    setenv("OTEL_TRACES_SAMPLER", "always_off", true);
    open_collector();
    open_tracer();
    struct trace_context none = {0}, here;
    ck_assert_ptr_null(span_start(tracer, "x", SPAN_SERVER, &none, NULL, 0, &here));
    ck_assert(here.known && here.flags == 0); /* so that who is asked next does not record it either */
    struct trace_context parent = trace_context_read("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    ck_assert_ptr_null(span_start(tracer, "x", SPAN_SERVER, &parent, NULL, 0, &here));
    ck_assert_mem_eq(here.span_id, parent.span_id, 8);
    ck_assert_int_eq(here.flags, 0);
    close_all();
}
END_TEST

START_TEST(unavailable_is_tried_again)
{
    open_collector();
    open_tracer();
    atomic_store(&refuse_code, 14);
    atomic_store(&n_refuse, 1);
    span_end(root("x"), clock_now_ns());
    ck_assert(within(15, arrived));
    ck_assert_int_eq(atomic_load(&n_calls), 2);
    ck_assert_double_eq(dropped("export_failed"), 0);
    close_all();
}
END_TEST

static bool failed(void)
{
    return dropped("export_failed") >= 1;
}

START_TEST(what_is_refused_is_dropped)
{
    open_collector();
    open_tracer();
    atomic_store(&refuse_code, 3); /* INVALID_ARGUMENT */
    atomic_store(&n_refuse, 1);
    span_end(root("x"), clock_now_ns());
    ck_assert(within(10, failed));
    ck_assert_int_eq(atomic_load(&n_calls), 1);
    atomic_store(&n_reject, 1);
    span_end(root("y"), clock_now_ns());
    span_end(root("z"), clock_now_ns());
    ck_assert(within(10, arrived));
    ck_assert_double_eq(exported() + dropped("rejected"), 2);
    close_all();
}
END_TEST

static bool asked(void)
{
    return atomic_load(&n_calls) >= 1;
}

START_TEST(a_silent_collector_costs_spans_only)
{
    setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16", true);
    setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4", true);
    open_collector();
    open_tracer();
    atomic_store(&stay_silent, 1);
    struct span *early = root("early"); /* made while there was room */
    for (int i = 0; i < 1000; i++)
        span_end(root("x"), clock_now_ns()); /* never blocks: the collector answers nothing before the test's end */
    ck_assert(within(10, asked));
    span_end(early, clock_now_ns());
    ck_assert_double_ge(dropped("queue_full"), 1000 - 16 - 3 * 4);
    ck_assert_double_eq(exported(), 0);
    int64_t start_ns = clock_now_ns();
    trace_close(tracer); /* 3 s at most */
    ck_assert_int_lt(clock_now_ns() - start_ns, 20 * CLOCK_NS_PER_S);
    ck_assert_double_eq(dropped("queue_full") + dropped("export_failed"), 1001);
    metrics_close(metrics);
    rpc_server_close(collector);
    rpc_fini();
}
END_TEST

static struct span *again;
static bool made_again(void)
{
    return (again = root("z"));
}

/* As many as there can be are open; the next is not made. Those that end make room again. */
START_TEST(open_spans_have_a_bound)
{
    enum { MOST = 5000 };
    static struct span *spans[MOST];
    setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16", true);
    open_collector();
    open_tracer();
    int n = 0;
    while (n < MOST && (spans[n] = root("x")))
        n++;
    ck_assert(n >= 4096 && n < MOST);
    ck_assert_double_eq(dropped("queue_full"), 1);
    ck_assert_ptr_null(span_child(spans[0], "y", SPAN_INTERNAL, 0));
    ck_assert_double_eq(dropped("queue_full"), 2);
    for (int i = 0; i < n; i++)
        span_end(spans[i], clock_now_ns());
    ck_assert(within(10, made_again));
    span_end(again, clock_now_ns());
    trace_close(tracer);
    ck_assert_double_ge(exported() + dropped("queue_full"), n + 3);
    metrics_close(metrics);
    rpc_server_close(collector);
    rpc_fini();
}
END_TEST

START_TEST(what_is_left_goes_out_at_the_end)
{
    setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000", true);
    open_collector();
    open_tracer();
    for (int i = 0; i < 600; i++)
        span_end(root("x"), clock_now_ns());
    trace_close(tracer);
    ck_assert_int_eq(atomic_load(&n_spans), 600);
    ck_assert_double_eq(exported(), 600);
    metrics_close(metrics);
    rpc_server_close(collector);
    rpc_fini();
}
END_TEST

START_TEST(nobody_there)
{
    open_collector();
    int port = rpc_server_port(collector);
    rpc_server_close(collector);
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d", port);
    setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint, true);
    open_tracer();
    span_end(root("x"), clock_now_ns());
    trace_close(tracer); /* at once: nothing is tried again now */
    ck_assert_double_eq(dropped("export_failed"), 1);
    metrics_close(metrics);
    rpc_fini();
}
END_TEST

static void *many(void *arg)
{
    (void)arg;
    for (int i = 0; i < 500; i++) {
        struct span *s = root("outer");
        span_end(span_child(s, "inner", SPAN_INTERNAL, clock_now_ns()), clock_now_ns());
        span_end(s, clock_now_ns());
    }
    return NULL;
}

START_TEST(threads_lose_nothing)
{
    setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8192", true);
    open_collector();
    open_tracer();
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, many, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    trace_close(tracer);
    ck_assert_int_eq(atomic_load(&n_spans), 4000);
    metrics_close(metrics);
    rpc_server_close(collector);
    rpc_fini();
}
END_TEST

SUITE("export", what_arrives, a_span_has_bounds, samplers_decide, what_is_not_recorded_still_has_a_place, unavailable_is_tried_again,
      what_is_refused_is_dropped, a_silent_collector_costs_spans_only, open_spans_have_a_bound, what_is_left_goes_out_at_the_end, nobody_there,
      threads_lose_nothing)
#else
START_TEST(not_built)
{
    puts("skip export: built without the feature opentelemetry");
}
END_TEST
SUITE("export", not_built)
#endif
