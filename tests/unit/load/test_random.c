/* Draws: functions of their arguments, evenly spread, and gaps that make a Poisson process. */
#include "tests/suite.h"

#include "tools/load_random.h"

#include <math.h>

#define N 100000

START_TEST(draws_are_functions)
{
    ck_assert_uint_eq(load_random_u64(1, 2, 3), load_random_u64(1, 2, 3));
    ck_assert_uint_ne(load_random_u64(1, 2, 3), load_random_u64(2, 2, 3));
    ck_assert_uint_ne(load_random_u64(1, 2, 3), load_random_u64(1, 3, 3));
    ck_assert_uint_ne(load_random_u64(1, 2, 3), load_random_u64(1, 2, 2));
    ck_assert_uint_ne(load_random_u64(1, 2, 3), load_random_u64(1, 3, 2));
}
END_TEST

START_TEST(units_are_even)
{
    int counts[20] = {0};
    for (uint64_t i = 0; i < N; i++) {
        double u = load_random_unit(1, i, 0);
        ck_assert(u >= 0 && u < 1);
        counts[(int)(u * 20)]++;
    }
    for (int i = 0; i < 20; i++) /* five standard deviations */
        ck_assert_int_lt(abs(counts[i] - N / 20), (int)(5 * sqrt(N / 20.0)));
}
END_TEST

/* The distribution of gaps: mean and variance 1, and the share that is longer than t is exp(-t). */
START_TEST(gaps_are_exponential)
{
    double sum = 0, squares = 0;
    int longer[6] = {0};
    for (uint64_t i = 0; i < N; i++) {
        double gap = load_random_exponential(3, i, 9);
        ck_assert(gap > 0 && isfinite(gap));
        sum += gap;
        squares += gap * gap;
        for (int t = 1; t < 6; t++)
            longer[t] += gap > t;
    }
    ck_assert_double_eq_tol(sum / N, 1, 0.02);
    ck_assert_double_eq_tol(squares / N - sum / N * sum / N, 1, 0.06);
    for (int t = 1; t < 6; t++) {
        double p = exp(-t);
        ck_assert_double_eq_tol((double)longer[t] / N, p, 5 * sqrt(p / N));
    }
}
END_TEST

/* Arrivals in intervals: the variance of a Poisson count is its mean, also for the sum of processes of several workers. */
START_TEST(arrivals_are_a_poisson_process)
{
    static int counts[2000];
    const double rate = 10;
    double mean = 0, variance = 0;
    for (uint64_t worker = 0; worker < 4; worker++)
        for (double t = 0, i = 0; t < 2000; i++) {
            t += load_random_exponential(1, (uint64_t)i, 100 + worker) * 4 / rate;
            if (t < 2000)
                counts[(int)t]++;
        }
    for (int i = 0; i < 2000; i++)
        mean += counts[i] / 2000.0;
    for (int i = 0; i < 2000; i++)
        variance += (counts[i] - mean) * (counts[i] - mean) / 2000.0;
    ck_assert_double_eq_tol(mean, rate, 0.4);
    ck_assert_double_eq_tol(variance / mean, 1, 0.2);
}
END_TEST

SUITE("load random", draws_are_functions, units_are_even, gaps_are_exponential, arrivals_are_a_poisson_process)
