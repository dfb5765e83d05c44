/* What is counted in which window, at times of the test's choosing. */
#include "tests/suite.h"

#include "base/clock.h"
#include "service/history.h"

#define S CLOCK_NS_PER_S
#define HOUR (3600 * S)

static struct history history;
static int64_t cpu;

static int64_t cpu_ns(void)
{
    return cpu;
}

static void add(int64_t now_ns, uint64_t n)
{
    const struct history_sums sums = {.n_ended = n, .total_ms = 2.0 * (double)n, .n_steps = 3 * n};
    history_add(&history, now_ns, &sums, cpu_ns);
}

static uint64_t ended(int64_t now_ns, int64_t seconds)
{
    return history_window(&history, now_ns, seconds).sums.n_ended;
}

START_TEST(windows_end_now)
{
    const int64_t t = 1000 * HOUR;
    add(t, 1);
    add(t + S, 2);
    ck_assert_uint_eq(ended(t + S, 1), 2);
    ck_assert_uint_eq(ended(t + S, 2), 3);
    ck_assert_uint_eq(ended(t + 299 * S, 300), 3);
    ck_assert_uint_eq(ended(t + 300 * S, 300), 2);
    ck_assert_uint_eq(ended(t + 301 * S, 300), 0);
    ck_assert_uint_eq(ended(t + 301 * S, 301), 3); /* by the minute */
    ck_assert_uint_eq(ended(t + 59 * 60 * S, 3600), 3);
    ck_assert_uint_eq(ended(t + 60 * 60 * S, 3600), 0);
    ck_assert_uint_eq(ended(t + 23 * HOUR, 24 * 3600), 3);
    ck_assert_uint_eq(ended(t + 24 * HOUR, 24 * 3600), 0);
    ck_assert_uint_eq(ended(t + 24 * HOUR, 7 * 24 * 3600), 3);
    ck_assert_uint_eq(ended(t + 719 * HOUR, 30 * 24 * 3600), 3);
    ck_assert_uint_eq(ended(t + 720 * HOUR, 30 * 24 * 3600), 0);
    ck_assert_uint_eq(ended(t + 720 * HOUR, INT64_C(1) << 40), 0); /* more than 30 days are 30 days */
    const struct history_window w = history_window(&history, t + S, 300);
    ck_assert_double_eq(w.sums.total_ms, 6);
    ck_assert_uint_eq(w.sums.n_steps, 9);
}
END_TEST

START_TEST(slots_are_used_again)
{
    const int64_t t = 5 * HOUR;
    add(t, 5);
    add(t + 300 * S, 1); /* the same slot of the seconds */
    ck_assert_uint_eq(ended(t + 300 * S, 300), 1);
    ck_assert_uint_eq(ended(t + 300 * S, 3600), 6);
    add(t + 720 * HOUR, 7); /* the same slot of the hours */
    ck_assert_uint_eq(ended(t + 720 * HOUR, 30 * 24 * 3600), 7);
}
END_TEST

START_TEST(nothing_is_nothing)
{
    const struct history_window w = history_window(&history, 0, 3600);
    ck_assert_uint_eq(w.sums.n_ended, 0);
    ck_assert_int_eq(w.began_ns, -1);
    add(0, 1); /* the first moment of the clock */
    ck_assert_uint_eq(ended(0, 1), 1);
    ck_assert_int_eq(history_window(&history, 0, 1).began_ns, 0);
}
END_TEST

START_TEST(cpu_time_is_of_the_oldest_slot)
{
    const int64_t t = 10 * HOUR;
    cpu = 100;
    add(t + 5 * S, 1);
    cpu = 200;
    add(t + 30 * S, 1); /* the same minute */
    cpu = 300;
    add(t + 90 * S, 1);
    struct history_window w = history_window(&history, t + 100 * S, 3600);
    ck_assert_int_eq(w.began_ns, t + 5 * S);
    ck_assert_int_eq(w.cpu_ns, 100);
    w = history_window(&history, t + 60 * 60 * S, 3600); /* the first minute has gone */
    ck_assert_int_eq(w.began_ns, t + 90 * S);
    ck_assert_int_eq(w.cpu_ns, 300);
}
END_TEST

START_TEST(requests_by_their_end)
{
    static const struct {
        struct engine_observation o;
        uint64_t successful, failed, started, in_time;
        double running_s;
    } cases[] = {
        {{FINISH_STOP, 0.5, 1, 2, 5, 10, NULL}, 1, 0, 1, 1, 1.5},
        {{FINISH_LENGTH, 0, 1, 2.01, 5, 100, NULL}, 1, 0, 1, 0, 2.01},
        {{FINISH_LENGTH, 0, 1, 3.9, 5, 101, NULL}, 1, 0, 1, 1, 3.9}, /* a second hundred has begun */
        {{FINISH_STOP, 0, -1, 1.9, 5, 0, NULL}, 1, 0, 1, 1, 1.9},
        {{FINISH_DEADLINE, 0, 1, 1, 5, 3, NULL}, 1, 0, 1, 1, 1},
        {{FINISH_DEADLINE, 0, -1, 1, 5, 0, NULL}, 0, 1, 1, 0, 1},
        {{FINISH_ERROR, 0, 1, 1, 5, 3, NULL}, 0, 1, 1, 0, 1},
        {{FINISH_CANCELLED, 0, 1, 1, 5, 3, NULL}, 0, 0, 1, 0, 1},
        {{FINISH_CANCELLED, -1, -1, 1, 5, 0, NULL}, 0, 0, 0, 0, 0}, /* it never got into the batch */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct history_sums s = history_request(&cases[i].o);
        ck_assert_uint_eq(s.n_ended, 1);
        ck_assert_msg(s.n_successful == cases[i].successful && s.n_failed == cases[i].failed, "case %zu", i);
        ck_assert_msg(s.n_started == cases[i].started && s.n_in_time == cases[i].in_time, "case %zu", i);
        ck_assert_uint_eq(s.n_tokens, cases[i].o.n_generated_tokens);
        ck_assert_double_eq_tol(s.running_s, cases[i].running_s, 1e-9);
    }
}
END_TEST

SUITE("history", requests_by_their_end, windows_end_now, slots_are_used_again, nothing_is_nothing, cpu_time_is_of_the_oldest_slot)
