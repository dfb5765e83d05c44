/* Deadlines of flows. */
#include "tests/suite.h"

#include "base/clock.h"
#include "gateway/pace.h"

#define S CLOCK_NS_PER_S

START_TEST(bytes_gain_time)
{
    static const struct {
        uint64_t n_bytes; /* have moved by 104 s */
        int64_t grace_ns, rate, deadline_ns;
    } cases[] = {
        {0, 5 * S, 100, 105 * S},
        {50, 5 * S, 100, 105 * S + S / 2},
        {100000, 5 * S, 100, 109 * S}, /* then nothing for five seconds: being fast before does not count */
        {1000, 5 * S, 0, 105 * S},     /* no rate: nothing gains time */
        {1000, 0, 100, CLOCK_NEVER},   /* no limit */
        {UINT64_MAX / 2, 5 * S, 1, 109 * S},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct pace p = {0};
        pace_follow(&p, true, 7, 100 * S); /* the count did not begin at 0 */
        pace_follow(&p, true, 7 + cases[i].n_bytes, 104 * S);
        ck_assert_int_eq(pace_deadline(&p, cases[i].grace_ns, cases[i].rate), cases[i].deadline_ns);
    }
}
END_TEST

/* Ten bytes a second where a hundred are asked for, never silent for long. */
START_TEST(a_trickle_ends)
{
    struct pace p = {0};
    int64_t t = 1;
    pace_follow(&p, true, 0, t * S);
    while (t * S < pace_deadline(&p, 5 * S, 100) && t < 100) {
        t++;
        pace_follow(&p, true, (uint64_t)t * 10, t * S);
    }
    ck_assert_int_eq(t, 7);
}
END_TEST

START_TEST(only_what_runs_has_a_deadline)
{
    struct pace p = {0};
    ck_assert_int_eq(pace_deadline(&p, S, 1), CLOCK_NEVER);
    pace_follow(&p, true, 0, 10 * S);
    pace_follow(&p, true, 5, 20 * S); /* goes on */
    ck_assert_int_eq(pace_deadline(&p, S, 0), 11 * S);
    pace_follow(&p, false, 5, 21 * S);
    ck_assert_int_eq(pace_deadline(&p, S, 0), CLOCK_NEVER);
    pace_follow(&p, true, 5, 30 * S); /* begins again */
    ck_assert_int_eq(pace_deadline(&p, S, 1), 31 * S);
}
END_TEST

SUITE("pace", bytes_gain_time, a_trickle_ends, only_what_runs_has_a_deadline)
