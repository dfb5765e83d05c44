/* Histograms against sorted samples, sums of statistics, kinds of faults, and the table of texts. */
#include "tests/suite.h"

#include "tools/load_random.h"
#include "tools/load_stats.h"
#include "tools/load_verify.h"

#include <math.h>

#define N_SAMPLES 20001

static struct load_histogram h, parts[2];
static int64_t samples[N_SAMPLES];

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Uniform, exponential, over many magnitudes, and small integers. */
static int64_t draw(int shape, uint64_t i)
{
    double u = load_random_unit(7, i, (uint64_t)shape);
    switch (shape) {
    case 0:
        return (int64_t)(u * 1e9);
    case 1:
        return (int64_t)(load_random_exponential(7, i, 1) * 3e6);
    case 2:
        return (int64_t)pow(10, 12 * u);
    default:
        return (int64_t)(u * 300);
    }
}

START_TEST(percentiles_are_those_of_a_sort)
{
    static const double quantiles[] = {0, 0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1};
    for (int shape = 0; shape < 4; shape++) {
        double sum = 0;
        memset(&h, 0, sizeof h);
        for (size_t i = 0; i < N_SAMPLES; i++) {
            samples[i] = draw(shape, i);
            sum += (double)samples[i];
            load_histogram_add(&h, samples[i], 1);
        }
        qsort(samples, N_SAMPLES, sizeof *samples, by_value);
        ck_assert_uint_eq(h.n, N_SAMPLES);
        ck_assert(h.min == samples[0] && h.max == samples[N_SAMPLES - 1]);
        ck_assert_double_eq_tol(load_histogram_mean(&h), sum / N_SAMPLES, 1e-9 * sum / N_SAMPLES);
        for (size_t i = 0; i < sizeof quantiles / sizeof *quantiles; i++) {
            size_t rank = (size_t)fmax(ceil(quantiles[i] * N_SAMPLES), 1);
            double exact = (double)samples[rank - 1], ours = (double)load_histogram_at(&h, quantiles[i]);
            ck_assert_msg(fabs(ours - exact) <= 0.004 * exact, "shape %d, q %g: %g for %g", shape, quantiles[i], ours,
                          exact);
        }
    }
}
END_TEST

START_TEST(parts_sum_to_the_whole)
{
    memset(&h, 0, sizeof h);
    memset(parts, 0, sizeof parts);
    for (uint64_t i = 0; i < 5000; i++) {
        load_histogram_add(&h, draw(2, i), 1 + i % 3);
        load_histogram_add(&parts[i % 2], draw(2, i), 1 + i % 3);
    }
    load_histogram_merge(&parts[0], &parts[1]);
    ck_assert_double_eq_tol(parts[0].sum, h.sum, 1e-6 * h.sum);
    parts[0].sum = h.sum;
    ck_assert_mem_eq(&parts[0], &h, sizeof h);
}
END_TEST

START_TEST(nothing_and_the_extremes)
{
    memset(&h, 0, sizeof h);
    memset(parts, 0, sizeof parts);
    ck_assert(load_histogram_at(&h, 0.5) == 0 && load_histogram_mean(&h) == 0);
    load_histogram_add(&h, 5, 0);
    ck_assert_uint_eq(h.n, 0);
    load_histogram_add(&h, -3, 1);
    load_histogram_add(&h, INT64_MAX, 1);
    ck_assert(load_histogram_at(&h, 0.5) == 0 && load_histogram_at(&h, 1) == INT64_MAX);
    load_histogram_merge(&h, &parts[0]);
    ck_assert(h.n == 2 && h.min == 0 && h.max == INT64_MAX);
}
END_TEST

START_TEST(statistics_sum)
{
    static struct load_stats a, b;
    for (int i = 0; i < LOAD_N_OUTCOMES; i++) {
        a.n_ended[i] = (uint64_t)i;
        b.n_ended[i] = 10;
    }
    a.n_tokens = 3, b.n_tokens = 4, a.n_mismatched = 1, b.n_good = 2;
    load_histogram_add(&b.ttft, 1000, 1);
    load_stats_fault(&a, "UNAVAILABLE", 2);
    load_stats_fault(&b, "UNAVAILABLE", 3);
    load_stats_fault(&b, "INTERNAL", 1);
    load_stats_merge(&a, &b);
    ck_assert_uint_eq(load_stats_n_ended(&a), 21 + 70);
    ck_assert(a.n_tokens == 7 && a.n_mismatched == 1 && a.n_good == 2 && a.ttft.n == 1);
    ck_assert_uint_eq(a.n_faults, 2);
    ck_assert(a.faults[0].n == 5 && a.faults[1].n == 1);
}
END_TEST

START_TEST(kinds_of_faults_are_bounded)
{
    static struct load_stats s;
    char kind[100];
    memset(kind, 'x', sizeof kind - 1);
    kind[sizeof kind - 1] = '\0';
    load_stats_fault(&s, kind, 1);
    load_stats_fault(&s, kind, 1); /* cut, and still the same */
    ck_assert(s.n_faults == 1 && s.faults[0].n == 2);
    for (int i = 0; i < 100; i++) {
        snprintf(kind, sizeof kind, "kind %d", i);
        load_stats_fault(&s, kind, 1);
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < s.n_faults; i++)
        sum += s.faults[i].n;
    ck_assert_uint_eq(s.n_faults, LOAD_MAX_FAULTS);
    ck_assert_uint_eq(sum, 102);
    ck_assert_str_eq(s.faults[LOAD_MAX_FAULTS - 1].kind, "others");
}
END_TEST

START_TEST(texts_are_compared_by_what_was_asked)
{
    struct load_verify *v = load_verify_open(3);
    ck_assert_int_eq(load_verify_text(v, 1, 100), LOAD_FIRST);
    ck_assert_int_eq(load_verify_text(v, 1, 100), LOAD_SAME);
    ck_assert_int_eq(load_verify_text(v, 1, 101), LOAD_DIFFERENT);
    ck_assert_int_eq(load_verify_text(v, 0, 100), LOAD_FIRST);
    ck_assert_int_eq(load_verify_text(v, UINT64_MAX, 0), LOAD_FIRST);
    ck_assert_int_eq(load_verify_text(v, 5, 0), LOAD_NO_ROOM);
    ck_assert_int_eq(load_verify_text(v, 0, 100), LOAD_SAME);
    ck_assert_uint_eq(load_hash(load_hash(LOAD_HASH_START, "ab", 2), "c", 1), load_hash(LOAD_HASH_START, "abc", 3));
    ck_assert_uint_ne(load_hash(LOAD_HASH_START, "abc", 3), load_hash(LOAD_HASH_START, "abd", 3));
    load_verify_close(v);
}
END_TEST

SUITE("load stats", percentiles_are_those_of_a_sort, parts_sum_to_the_whole, nothing_and_the_extremes, statistics_sum,
      kinds_of_faults_are_bounded, texts_are_compared_by_what_was_asked)
