#include "base/clock.h"
#include "tests/suite.h"

#include <time.h>

START_TEST(rfc3339)
{
    static const struct {
        int64_t ns;
        const char *text;
    } cases[] = {
        {0, "1970-01-01T00:00:00.000Z"},
        {1, "1970-01-01T00:00:00.000Z"},
        {INT64_C(999999999), "1970-01-01T00:00:00.999Z"},
        {-1, "1969-12-31T23:59:59.999Z"},
        {-CLOCK_NS_PER_S, "1969-12-31T23:59:59.000Z"},
        {INT64_C(951782400) * CLOCK_NS_PER_S, "2000-02-29T00:00:00.000Z"},
        {INT64_C(1769903999123) * CLOCK_NS_PER_MS, "2026-01-31T23:59:59.123Z"},
        {INT64_MAX, "2262-04-11T23:47:16.854Z"},
        {INT64_MIN, "1677-09-21T00:12:43.145Z"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[CLOCK_RFC3339_BYTES];
        ck_assert_ptr_eq(clock_rfc3339(cases[i].ns, out), out);
        ck_assert_str_eq(out, cases[i].text);
    }
}
END_TEST

START_TEST(monotonic_never_goes_back)
{
    int64_t before = clock_now_ns();
    for (int i = 0; i < 100000; i++) {
        int64_t now = clock_now_ns();
        ck_assert_int_ge(now, before);
        before = now;
    }
}
END_TEST

START_TEST(monotonic_counts_nanoseconds)
{
    struct timespec pause = {.tv_nsec = 20 * CLOCK_NS_PER_MS};
    int64_t before = clock_now_ns();
    nanosleep(&pause, NULL);
    int64_t passed = clock_now_ns() - before;
    ck_assert_int_ge(passed, 20 * CLOCK_NS_PER_MS);
    ck_assert_int_lt(passed, 20 * CLOCK_NS_PER_S);
}
END_TEST

START_TEST(wall_clock_is_unix_time)
{
    int64_t before = time(NULL);
    int64_t seconds = clock_wall_ns() / CLOCK_NS_PER_S;
    ck_assert_int_ge(seconds, before - 1);
    ck_assert_int_le(seconds, time(NULL) + 1);
}
END_TEST

SUITE("clock", rfc3339, monotonic_never_goes_back, monotonic_counts_nanoseconds, wall_clock_is_unix_time)
