/* Several engines' statistics as one. */
#include "tests/suite.h"

#include "gateway/stats_merge.h"

#include <string.h>

static Bitnet__V1__StatsResponse engine(uint64_t n, double mean, const char *format, const char *device)
{
    Bitnet__V1__StatsResponse a = BITNET__V1__STATS_RESPONSE__INIT;
    a.uptime_seconds = (double)n;
    a.total_requests = n;
    a.successful_requests = n - 1;
    a.failed_requests = 1;
    a.generated_tokens = 10 * n;
    a.quantization = (char *)(uintptr_t)format;
    a.device = (char *)(uintptr_t)device;
    a.inferences = 2 * n;
    *(strcmp(format, "i2s") == 0 ? &a.inferences_i2s : &a.inferences_tl1) = 2 * n;
    *(strcmp(device, "cpu") == 0 ? &a.inferences_cpu : &a.inferences_gpu) = 2 * n;
    a.fallback_events = 1;
    a.batches = 3 * n;
    a._avg_response_time_ms_case = BITNET__V1__STATS_RESPONSE___AVG_RESPONSE_TIME_MS_AVG_RESPONSE_TIME_MS;
    a._avg_tokens_per_second_case = BITNET__V1__STATS_RESPONSE___AVG_TOKENS_PER_SECOND_AVG_TOKENS_PER_SECOND;
    a._cpu_utilization_case = BITNET__V1__STATS_RESPONSE___CPU_UTILIZATION_CPU_UTILIZATION;
    a._avg_batch_size_case = BITNET__V1__STATS_RESPONSE___AVG_BATCH_SIZE_AVG_BATCH_SIZE;
    a._batch_formation_ms_case = BITNET__V1__STATS_RESPONSE___BATCH_FORMATION_MS_BATCH_FORMATION_MS;
    a._batch_efficiency_case = BITNET__V1__STATS_RESPONSE___BATCH_EFFICIENCY_BATCH_EFFICIENCY;
    a.avg_response_time_ms = a.avg_tokens_per_second = a.avg_batch_size = a.batch_formation_ms = mean;
    a.batch_efficiency = a.cpu_utilization = mean / 100;
    return a;
}

START_TEST(counts_are_sums_and_the_longest_uptime_stands)
{
    Bitnet__V1__StatsResponse a = engine(10, 20, "i2s", "cpu"), b = engine(30, 40, "tl1", "cuda:0"),
                              c = engine(5, 1, "i2s", "cuda:1"), *list[] = {&a, &b, &c};
    const struct stats s = stats_merge(list, 3);
    ck_assert_double_eq(s.uptime_seconds, 30);
    ck_assert_uint_eq(s.total_requests, 45);
    ck_assert_uint_eq(s.successful_requests, 42);
    ck_assert_uint_eq(s.failed_requests, 3);
    ck_assert_uint_eq(s.generated_tokens, 450);
    ck_assert_uint_eq(s.by_format[0], 30);
    ck_assert_uint_eq(s.by_format[1], 60);
    ck_assert_uint_eq(s.by_format[2], 0);
    ck_assert_uint_eq(s.on_cpu, 20);
    ck_assert_uint_eq(s.on_gpu, 70);
    ck_assert_uint_eq(s.fallback_events, 3);
    ck_assert_uint_eq(s.batches, 135);
}
END_TEST

START_TEST(means_are_weighted_by_what_they_are_of)
{
    Bitnet__V1__StatsResponse a = engine(10, 20, "i2s", "cpu"), b = engine(30, 40, "i2s", "cpu"), *list[] = {&a, &b};
    b.inferences = 30; /* against 20 */
    b.batches = 90;    /* against 30 */
    const struct stats s = stats_merge(list, 2);
    ck_assert_double_eq_tol(stats_mean(&s.response_ms), 35, 1e-9);
    ck_assert_double_eq_tol(stats_mean(&s.tokens_per_second), 32, 1e-9);
    ck_assert_double_eq_tol(stats_mean(&s.formation_ms), 32, 1e-9);
    ck_assert_double_eq_tol(stats_mean(&s.batch_size), 35, 1e-9);
    ck_assert_double_eq_tol(stats_mean(&s.efficiency), 0.35, 1e-9);
    ck_assert_double_eq_tol(stats_mean(&s.cpu_utilization), 0.3, 1e-9);
}
END_TEST

START_TEST(what_nobody_measured_is_no_mean)
{
    Bitnet__V1__StatsResponse a = engine(10, 20, "i2s", "cpu"), b = a, *list[] = {&a, &b};
    a._avg_response_time_ms_case = b._avg_response_time_ms_case = 0;
    a._avg_batch_size_case = 0; /* the other's stands alone */
    b.avg_batch_size = 7;
    b._batch_formation_ms_case = 0;
    a.cpu_utilization = 1.5; /* clocks that do not agree to the last digit */
    b._cpu_utilization_case = 0;
    const struct stats s = stats_merge(list, 2);
    ck_assert_double_eq(s.response_ms.weight, 0);
    ck_assert_double_eq(stats_mean(&s.batch_size), 7);
    ck_assert_double_eq(stats_mean(&s.formation_ms), 20);
    ck_assert_double_eq(stats_mean(&s.cpu_utilization), 1);
    a.inferences = 0;
    const struct stats alone = stats_merge(list, 1);
    ck_assert_double_eq(stats_mean(&alone.tokens_per_second), 20); /* told, so it is shown */
}
END_TEST

START_TEST(accuracy_is_a_mean_over_tokens_and_the_lowest)
{
    Bitnet__V1__StatsResponse a = engine(1, 1, "i2s", "cpu"), b = a, c = a, *list[] = {&a, &b, &c};
    const struct stats none = stats_merge(list, 3);
    ck_assert_double_eq(none.accuracy.weight, 0);
    a._accuracy_case = b._accuracy_case = BITNET__V1__STATS_RESPONSE___ACCURACY_ACCURACY;
    a._lowest_accuracy_case = b._lowest_accuracy_case = BITNET__V1__STATS_RESPONSE___LOWEST_ACCURACY_LOWEST_ACCURACY;
    a.recomputed_tokens = 100;
    a.accuracy = a.lowest_accuracy = 1;
    b.recomputed_tokens = 300;
    b.accuracy = 0.9;
    b.lowest_accuracy = 0.5;
    b.accuracy_violations = 4;
    for (int i = 0; i < 2; i++) { /* in either order */
        const struct stats s = stats_merge(list, 3);
        ck_assert_double_eq_tol(stats_mean(&s.accuracy), 0.925, 1e-9);
        ck_assert_double_eq(s.lowest_accuracy, 0.5);
        ck_assert_uint_eq(s.accuracy_violations, 4);
        list[0] = &b;
        list[1] = &a;
    }
}
END_TEST

SUITE("stats_merge", counts_are_sums_and_the_longest_uptime_stands, means_are_weighted_by_what_they_are_of,
      what_nobody_measured_is_no_mean, accuracy_is_a_mean_over_tokens_and_the_lowest)
