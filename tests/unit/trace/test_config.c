/* What the environment says of tracing. */
#include "tests/suite.h"

#ifdef FEATURE_OPENTELEMETRY
#include "base/clock.h"
#include "base/log.h"
#include "trace/config.h"

static struct trace_config config;

/* Reads the environment with one more variable. */
static bool with(const char *name, const char *value)
{
    log_init(LOG_OFF, LOG_FORMAT_JSON);
    setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317", false);
    setenv(name, value, true);
    config_free(&config);
    return config_read(&config);
}

START_TEST(off_without_a_collector)
{
    ck_assert(!config_read(&config));
    ck_assert(!with("OTEL_EXPORTER_OTLP_ENDPOINT", ""));
}
END_TEST

START_TEST(off_when_asked_to_be)
{
    static const char *const off[][2] = {{"OTEL_SDK_DISABLED", "TRUE"}, {"OTEL_TRACES_EXPORTER", "none"},
                                         {"OTEL_TRACES_EXPORTER", "zipkin"}, {"OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"},
                                         {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"}};
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
        ck_assert_msg(!with(off[i][0], off[i][1]), "%s", off[i][1]);
        unsetenv(off[i][0]);
        ck_assert(with("OTEL_SDK_DISABLED", "false"));
    }
}
END_TEST

START_TEST(the_collector_s_address)
{
    static const struct {
        const char *endpoint, *target; /* NULL: refused */
        bool tls;
    } cases[] = {
        {"http://collector:4317", "collector:4317", false}, {"HTTP://collector:4317/v1/x", "collector:4317", false},
        {"https://c.example", "c.example:4317", true},      {"collector:5000", "collector:5000", false},
        {"collector", "collector:4317", false},             {"http://[::1]:4317", "[::1]:4317", false},
        {"http://[::1]", "[::1]:4317", false},              {"unix:/run/otel.sock", "unix:/run/otel.sock", false},
        {"ftp://x", NULL, false},                           {"http://", NULL, false},
        {"http://:4317", NULL, false},                      {"http://a:port", NULL, false},
        {"http://::1", NULL, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool on = with("OTEL_EXPORTER_OTLP_ENDPOINT", cases[i].endpoint);
        ck_assert_msg(on == (cases[i].target != NULL), "%s", cases[i].endpoint);
        if (!on)
            continue;
        ck_assert_str_eq(config.target, cases[i].target);
        ck_assert_int_eq(config.tls, cases[i].tls);
    }
    ck_assert(with("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:1"));
    ck_assert_str_eq(config.target, "traces:1");
    ck_assert(with("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "traces:1") && !config.tls);
    ck_assert(with("OTEL_EXPORTER_OTLP_INSECURE", "false") && config.tls && !config.ca_file);
    ck_assert(with("OTEL_EXPORTER_OTLP_CERTIFICATE", "/tmp/ca.pem"));
    ck_assert_str_eq(config.ca_file, "/tmp/ca.pem");
}
END_TEST

START_TEST(lists_are_decoded)
{
    ck_assert(with("OTEL_RESOURCE_ATTRIBUTES", " deployment.environment = prod%2Ceu ,, k8s.pod.name=p-1"));
    ck_assert_int_eq(config.attributes.n, 2);
    ck_assert_str_eq(config.attributes.keys[0], "deployment.environment");
    ck_assert_str_eq(config.attributes.values[0], "prod,eu");
    ck_assert_str_eq(config.attributes.values[1], "p-1");
    ck_assert(with("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20abc"));
    ck_assert_str_eq(config.headers.keys[0], "authorization");
    ck_assert_str_eq(config.headers.values[0], "Bearer abc");
    static const char *const wrong[] = {"a", "=b", "a=%4", "a=%00", "a=%zz", "a b=c", "a=%0a", "grpc-x=1", "a=\xc3\xa4"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ck_assert(with("OTEL_EXPORTER_OTLP_HEADERS", wrong[i]));
        ck_assert_msg(config.headers.n == 0, "%s", wrong[i]);
    }
}
END_TEST

START_TEST(samplers)
{
    ck_assert(with("OTEL_SDK_DISABLED", ""));
    ck_assert(config.parent_based && config.sampler == SAMPLER_ALWAYS_ON);
    ck_assert(with("OTEL_TRACES_SAMPLER", "traceidratio") && !config.parent_based && config.sampler == SAMPLER_RATIO);
    ck_assert_double_eq(config.ratio, 1);
    ck_assert(with("OTEL_TRACES_SAMPLER_ARG", "0.25"));
    ck_assert_double_eq(config.ratio, 0.25);
    ck_assert(with("OTEL_TRACES_SAMPLER_ARG", "1.5"));
    ck_assert_double_eq(config.ratio, 1);
    ck_assert(with("OTEL_TRACES_SAMPLER", "parentbased_always_off") && config.parent_based && config.sampler == SAMPLER_ALWAYS_OFF);
    ck_assert(with("OTEL_TRACES_SAMPLER", "jaeger_remote") && config.parent_based && config.sampler == SAMPLER_ALWAYS_ON);
}
END_TEST

START_TEST(numbers_have_bounds)
{
    ck_assert(with("OTEL_BSP_MAX_QUEUE_SIZE", "100"));
    ck_assert_int_eq(config.max_queue, 100);
    ck_assert_int_eq(config.max_batch, 100); /* not more than the queue holds */
    ck_assert_int_eq(config.timeout_ns, 10 * CLOCK_NS_PER_S);
    ck_assert(with("OTEL_BSP_MAX_QUEUE_SIZE", "many"));
    ck_assert_int_eq(config.max_queue, 2048);
    ck_assert_int_eq(config.max_batch, 512);
    ck_assert(with("OTEL_EXPORTER_OTLP_TIMEOUT", "0"));
    ck_assert_int_eq(config.timeout_ns, 10 * CLOCK_NS_PER_S);
    ck_assert(with("OTEL_BSP_SCHEDULE_DELAY", "250"));
    ck_assert_int_eq(config.delay_ns, 250 * CLOCK_NS_PER_MS);
}
END_TEST

SUITE("config", off_without_a_collector, off_when_asked_to_be, the_collector_s_address, lists_are_decoded, samplers, numbers_have_bounds)
#else
START_TEST(not_built)
{
    puts("skip config: built without the feature opentelemetry");
}
END_TEST
SUITE("config", not_built)
#endif
