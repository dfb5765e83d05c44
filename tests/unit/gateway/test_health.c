/* Health in its three forms, from what the engine says, and without an engine. */
#include "tests/suite.h"

#include "bitnet/v1/admin.pb-c.h"
#include "tests/unit/gateway/app.h"

#ifdef FEATURE_DEGRADED_OK
#define DEGRADED_STATUS 200
#else
#define DEGRADED_STATUS 503
#endif

static struct app app;

static Bitnet__V1__HealthResponse healthy(void)
{
    Bitnet__V1__HealthResponse r = BITNET__V1__HEALTH_RESPONSE__INIT;
    r.status = BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_HEALTHY;
    r.uptime_seconds = 61.5;
    r.version = (char *)(uintptr_t) "1.2";
    r.git_sha = (char *)(uintptr_t) "abc";
    r.compiler = (char *)(uintptr_t) "gcc";
    r.features = (char *)(uintptr_t) "cpu prometheus";
    r.cpu_utilization = 0.25;
    r.memory_bytes = 1000;
    r.active_requests = 2;
    r.queue_depth = 3;
    r.model_loaded = r.engine_ready = r.device_available = r.resources_available = true;
    return r;
}

/* Asks for `path` of a new application whose engine answers with `r`; NULL: there is no engine. */
static void ask(const char *path, Bitnet__V1__HealthResponse *r)
{
    app_open(&app);
    app_request(&app, "GET", path, "", "");
    if (r)
        app_message(0, &r->base);
    app_end(0, r ? 0 : 14, "");
    ck_assert_ptr_nonnull(strstr(app_sent(&app), "cache-control: no-store\r\n"));
}

/* The body from `from` on. */
static const char *part(const char *from)
{
    const char *at = strstr(app_body(&app), from);
    return at ? at : app_body(&app);
}

START_TEST(all_figures)
{
    Bitnet__V1__HealthResponse r = healthy();
    Bitnet__V1__Component c = BITNET__V1__COMPONENT__INIT, *list[] = {&c};
    c.name = (char *)(uintptr_t) "batch_engine";
    c.status = BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_HEALTHY;
    r.n_components = 1;
    r.components = list;
    r.window_requests = 4;
    r.avg_response_time_ms = 12.5;
    r.requests_per_second = 0.5;
    r.error_rate = 0.25;
    r.sla_compliance = 0.75;
    r.gpu_memory_bytes = 500;
    r.tokens_generated = 70;
    r.kv_cache_utilization = 0.125;
    ask("/health", &r);
    ck_assert_int_eq(app_status(&app), 200);
    ck_assert_str_eq(part("\"uptime_seconds\""),
                     "\"uptime_seconds\":61.5,\"version\":\"1.2\",\"build\":{\"git_sha\":\"abc\",\"compiler\":\"gcc\",\"features\":[\"cpu\","
                     "\"prometheus\"]},\"components\":{\"batch_engine\":{\"status\":\"healthy\"}},\"system_metrics\":{\"cpu_utilization\":0.25,"
                     "\"memory_usage_bytes\":1000,\"gpu_memory_usage_bytes\":500,\"active_requests\":2,\"queue_depth\":3,\"tokens_generated\":70,\"kv_cache_utilization\":0.125},\"performance_indicators\":{"
                     "\"avg_response_time_ms\":12.5,\"requests_per_second\":0.5,\"error_rate\":0.25,\"sla_compliance\":0.75}}");
    app_close(&app);
}
END_TEST

START_TEST(what_was_not_measured_is_left_out)
{
    Bitnet__V1__HealthResponse r = healthy();
    ask("/health", &r);
    ck_assert_ptr_null(strstr(app_body(&app), "performance_indicators"));
    app_close(&app);
    ask("/health", NULL);
    ck_assert_ptr_null(strstr(app_body(&app), "system_metrics"));
    app_close(&app);
}
END_TEST

START_TEST(statuses)
{
    Bitnet__V1__HealthResponse r = healthy();
    r.status = BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_DEGRADED;
    ask("/health", &r);
    ck_assert_int_eq(app_status(&app), DEGRADED_STATUS);
    ck_assert_ptr_nonnull(strstr(app_body(&app), "{\"status\":\"degraded\","));
    app_close(&app);
    r.status = BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_UNHEALTHY;
    ask("/health", &r);
    ck_assert_int_eq(app_status(&app), 503);
    app_close(&app);
    ask("/health", NULL);
    ck_assert_int_eq(app_status(&app), 503);
    ck_assert_ptr_nonnull(strstr(app_sent(&app), "retry-after: 1\r\n"));
    ck_assert_ptr_nonnull(strstr(app_body(&app), "\"quantization_engine\":{\"status\":\"unhealthy\",\"message\":"));
    app_close(&app);
}
END_TEST

START_TEST(ready_when_all_checks_pass)
{
    Bitnet__V1__HealthResponse r = healthy();
    protobuf_c_boolean *flags[] = {&r.model_loaded, &r.engine_ready, &r.device_available, &r.resources_available};
    ask("/health/ready", &r);
    ck_assert_int_eq(app_status(&app), 200);
    ck_assert_str_eq(part("\"checks\""), "\"checks\":{\"model_loaded\":true,\"inference_engine_ready\":true,"
                                         "\"device_available\":true,\"resources_available\":true}}");
    app_close(&app);
    for (size_t i = 0; i < 4; i++) {
        *flags[i] = false;
        ask("/health/ready", &r);
        ck_assert_int_eq(app_status(&app), 503);
        ck_assert_ptr_nonnull(strstr(app_body(&app), "{\"status\":\"not_ready\","));
        app_close(&app);
        *flags[i] = true;
    }
    r.draining = true;
    ask("/health/ready", &r);
    ck_assert_int_eq(app_status(&app), 503);
    ck_assert_ptr_nonnull(strstr(app_body(&app), "{\"status\":\"draining\","));
    app_close(&app);
    ask("/health/ready", NULL);
    ck_assert_int_eq(app_status(&app), 503);
    app_close(&app);
}
END_TEST

SUITE("health", all_figures, what_was_not_measured_is_left_out, statuses, ready_when_all_checks_pass)
