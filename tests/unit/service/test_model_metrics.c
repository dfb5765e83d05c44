/* Series of models: two engines under one id, as in a swap, and what stays of a model that goes and comes back. */
#include "tests/suite.h"

#include "base/clock.h"
#include "base/log.h"
#include "service/metrics.h"

#include <sched.h>
#include <unistd.h>

#define MODEL "models/tales.gguf"

static const struct service_config config = {.max_sequences = 8, .device = "cpu"};
static const struct null_options null = {.step_ns = 0};

static struct engine *open_engine(void)
{
    struct engine *e;
    struct error err;
    const struct engine_options options = {
        .model_path = MODEL, .null_model = &null, .max_sequences = 8, .n_threads = 1};
    log_init(LOG_WARN, LOG_FORMAT_TEXT);
    ck_assert_msg(engine_open(&options, &e, &err) == ERROR_NONE, "%s", err.message);
    return e;
}

/* A request of n tokens, to its end. */
static void generate(struct engine *e, uint32_t n)
{
    static const uint32_t prompt[] = {5, 6, 7};
    const struct request r = {.tokens = prompt,
                              .n_tokens = 3,
                              .max_tokens = n,
                              .sampling = sampling_defaults(),
                              .ignore_eos = true,
                              .deadline_ns = CLOCK_NEVER};
    struct stream *s;
    struct error err;
    struct stream_event event = {0};
    ck_assert_int_eq(engine_submit(e, &r, &s, &err), ERROR_NONE);
    while (event.type != STREAM_COMPLETE) {
        stream_wait(s, CLOCK_NEVER);
        stream_read(s, 0, &event);
    }
    stream_close(s);
}

/* The value of a sample, -1 when it is not shown. */
static double sample(struct service_metrics *m, const char *name)
{
    struct buffer page;
    double value = -1;
    buffer_init(&page, 1 << 20);
    metrics_write(service_metrics_page(m), &page, 0);
    size_t n = strlen(name);
    for (const char *line = page.data; line; line = strchr(line, '\n'), line = line ? line + 1 : NULL)
        if (strncmp(line, name, n) == 0 && line[n] == ' ')
            value = strtod(line + n, NULL);
    buffer_fini(&page);
    return value;
}

#define GENERATED(id) "bitnet_tokens_generated_total{model=\"" id "\",device=\"null\",quantization=\"i2s\"}"

START_TEST(two_engines_under_one_id_are_one_model)
{
    struct service_metrics *m = service_metrics_open(&config);
    struct engine *a = open_engine(), *b = open_engine();
    struct model_metrics *ma = model_metrics_open(m, "x", a);
    double blocks = sample(m, "bitnet_kv_cache_blocks{model=\"x\",state=\"free\"}"),
           weights = sample(m, "bitnet_model_memory_usage_bytes{model=\"x\",component=\"kv\"}");
    ck_assert_double_gt(blocks, 0);
    struct model_metrics *mb = model_metrics_open(m, "x", b);
    ck_assert_double_eq(sample(m, "bitnet_kv_cache_blocks{model=\"x\",state=\"free\"}"), 2 * blocks);
    ck_assert_double_eq(sample(m, "bitnet_model_memory_usage_bytes{model=\"x\",component=\"kv\"}"), 2 * weights);
    generate(a, 10);
    generate(b, 20);
    ck_assert_double_eq(sample(m, GENERATED("x")), 30);
    model_metrics_close(ma);
    engine_close(a);
    ck_assert_double_eq(sample(m, "bitnet_kv_cache_blocks{model=\"x\",state=\"free\"}"),
                        blocks - sample(m, "bitnet_kv_cache_blocks{model=\"x\",state=\"kept\"}"));
    ck_assert_double_eq(sample(m, GENERATED("x")), 30);
    ck_assert_double_eq(sample(m, "bitnet_batch_size_count{model=\"x\"}") > 0, 1);
    model_metrics_close(mb);
    engine_close(b);
    service_metrics_close(m);
}
END_TEST

START_TEST(what_has_gone_is_not_shown_and_goes_on_when_it_comes_back)
{
    struct service_metrics *m = service_metrics_open(&config);
    struct engine *a = open_engine(), *b = open_engine();
    struct model_metrics *ma = model_metrics_open(m, "a", a), *mb = model_metrics_open(m, "b", b);
    generate(a, 7);
    generate(b, 1);
    ck_assert_double_eq(sample(m, GENERATED("a")), 7);
    ck_assert_double_eq(sample(m, "bitnet_inference_requests_total{model=\"a\",finish_reason=\"length\"}"), 1);
    model_metrics_close(ma);
    engine_close(a);
    ck_assert_double_eq(sample(m, GENERATED("a")), -1);
    ck_assert_double_eq(sample(m, "bitnet_requests_running{model=\"a\"}"), -1);
    ck_assert_double_eq(sample(m, "bitnet_device_utilization_ratio{device=\"null\"}") >= 0,
                        1); /* the other one's too */
    ck_assert_double_eq(sample(m, GENERATED("b")), 1);
    ck_assert_uint_eq(service_metrics_n_generated(m), 8);
    a = open_engine();
    ma = model_metrics_open(m, "a", a);
    ck_assert_double_eq(sample(m, GENERATED("a")), 7);
    generate(a, 3);
    ck_assert_double_eq(sample(m, GENERATED("a")), 10);
    ck_assert_uint_eq(model_metrics_figures(ma).n_requests, 1); /* of this engine */
    model_metrics_close(ma);
    model_metrics_close(mb);
    ck_assert_double_eq(sample(m, "bitnet_device_utilization_ratio{device=\"null\"}"), -1);
    engine_close(a);
    engine_close(b);
    service_metrics_close(m);
}
END_TEST

START_TEST(rates_are_of_what_happened)
{
    struct service_metrics *m = service_metrics_open(&config);
    struct engine *e = open_engine();
    generate(e, 5); /* before it is anybody's */
    struct model_metrics *mm = model_metrics_open(m, "x", e);
    ck_assert_double_eq(sample(m, GENERATED("x")), 0);
    ck_assert_double_eq(sample(m, "bitnet_batch_efficiency_ratio{model=\"x\"}"), -1);
    ck_assert_double_eq(sample(m, "bitnet_tokens_per_second{model=\"x\"}"), 0);
    ck_assert_double_eq(model_metrics_figures(mm).mean_ms, 0);
    generate(e, 100);
    engine_stop(e);
    ck_assert_double_eq(sample(m, "bitnet_batch_efficiency_ratio{model=\"x\"}"), 1.0 / 8);
    ck_assert_double_eq(sample(m, "bitnet_tokens_per_second{model=\"x\"}") > 0, 1);
    ck_assert_double_eq(model_metrics_figures(mm).mean_ms > 0, 1);
    ck_assert_double_eq(sample(m, "bitnet_cpu_utilization_ratio") > 0, 1);
    model_metrics_close(mm);
    engine_close(e);
    service_metrics_close(m);
}
END_TEST

#define COMPARED "bitnet_accuracy_requests_total{model=\"x\",result=\"compared\"}"

/* In the place of the C library's: at the lowest priority a machine with other work would let the thread wait for minutes. */
int sched_setscheduler(pid_t pid, int policy, const struct sched_param *param)
{
    (void)pid, (void)policy, (void)param;
    return 0;
}

/* Of a model that computes, until n requests have been computed again. */
static void await_compared(struct service_metrics *m, double n)
{
    for (int i = 0; i < 6000 && sample(m, COMPARED) < n; i++)
        usleep(10000);
    ck_assert_double_eq(sample(m, COMPARED), n);
}

START_TEST(accuracy_is_shown_once_it_is_measured)
{
    const struct engine_options options = {.model_path = MODEL, .max_sequences = 8, .n_threads = 1, .i2s_order = -1, .accuracy_share = 1};
    const char *ratio = "bitnet_quantization_accuracy_ratio{model=\"x\",quantization=\"i2s\"}";
    struct engine_options i2s = options;
    struct service_metrics *m = service_metrics_open(&config);
    struct engine *e;
    struct error err;
    log_init(LOG_WARN, LOG_FORMAT_TEXT);
    i2s.format = TERNARY_I2S;
    ck_assert_msg(engine_open(&i2s, &e, &err) == ERROR_NONE, "%s", err.message);
    struct model_metrics *mm = model_metrics_open(m, "x", e);
    ck_assert_double_eq(sample(m, ratio), -1);
    ck_assert_double_eq(sample(m, COMPARED), 0);
    ck_assert_double_eq(sample(m, "bitnet_accuracy_violations_total{model=\"x\"}"), 0);
    ck_assert_uint_eq(service_metrics_accuracy(m).n_compared, 0);
    generate(e, 3);
    await_compared(m, 1);
    generate(e, 4);
    await_compared(m, 2);
    ck_assert_double_eq(sample(m, ratio), 1);
    ck_assert_double_eq(sample(m, "bitnet_accuracy_tokens_total{model=\"x\",result=\"same\"}"), 7);
    ck_assert_double_eq(sample(m, "bitnet_accuracy_tokens_total{model=\"x\",result=\"other\"}"), 0);
    model_metrics_close(mm);
    engine_close(e);
    ck_assert_double_eq(sample(m, ratio), -1);
    const struct engine_accuracy all = service_metrics_accuracy(m); /* the process's go on */
    ck_assert_uint_eq(all.n_compared, 7);
    ck_assert_uint_eq(all.n_same, 7);
    ck_assert_double_eq(all.lowest, 1);
    service_metrics_close(m);
}
END_TEST

START_TEST(counters_begin_at_zero)
{
    struct service_metrics *m = service_metrics_open(&config);
    ck_assert_double_eq(sample(m, "bitnet_model_load_failures_total"), 0);
    ck_assert_double_eq(sample(m, "bitnet_model_swaps_total{result=\"rolled_back\"}"), 0);
    ck_assert_double_eq(sample(m, "bitnet_errors_total{type=\"CONFLICT\",component=\"service\"}"), 0);
    service_metrics_swap(m, "completed");
    service_metrics_load_failed(m);
    ck_assert_double_eq(sample(m, "bitnet_model_load_failures_total"), 1);
    ck_assert_double_eq(sample(m, "bitnet_model_swaps_total{result=\"completed\"}"), 1);
    ck_assert_double_eq(sample(m, "bitnet_model_swaps_total{result=\"failed\"}"), 0);
    service_metrics_close(m);
}
END_TEST

SUITE("model_metrics", two_engines_under_one_id_are_one_model, what_has_gone_is_not_shown_and_goes_on_when_it_comes_back, rates_are_of_what_happened,
      accuracy_is_shown_once_it_is_measured, counters_begin_at_zero)
