/* Lines for what was slow: when they come, their cause, and that there are not too many. */
#include "tests/suite.h"

#include "service/latency.h"

#include "base/clock.h"
#include "base/log.h"

#include <sys/resource.h>
#include <unistd.h>

static FILE *captured;

static void capture(void)
{
    captured = tmpfile();
    ck_assert_int_ge(dup2(fileno(captured), STDERR_FILENO), 0);
    log_init(LOG_INFO, LOG_FORMAT_JSON);
}

static const char *written(void)
{
    static char text[1 << 16];
    ssize_t n = pread(fileno(captured), text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

static int n_lines(void)
{
    int n = 0;
    for (const char *p = written(); (p = strchr(p, '\n')); p++)
        n++;
    return n;
}

/* As the kernel counts it, also on a machine without a free CPU. */
static int64_t cpu_ns(void)
{
    struct rusage r;
    getrusage(RUSAGE_THREAD, &r);
    return (r.ru_utime.tv_sec + r.ru_stime.tv_sec) * CLOCK_NS_PER_S + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) * 1000;
}

static void compute(int64_t ns)
{
    for (int64_t end_ns = cpu_ns() + ns; cpu_ns() < end_ns;)
        ;
}

START_TEST(only_what_is_slow)
{
    capture();
    latency_step(1, 1, 100); /* no limit is set */
    latency_limits(50, 0);
    latency_step(1, 1, 0.049);
    ck_assert_int_eq(n_lines(), 0);
    latency_step(1, 1, 0.05);
    ck_assert_int_eq(n_lines(), 1);
    ck_assert_ptr_nonnull(strstr(written(), "\"component\":\"latency\",\"msg\":\"slow step\",\"ms\":50,"));
}
END_TEST

START_TEST(one_line_a_second)
{
    capture();
    latency_limits(50, 0);
    for (int i = 0; i < 20; i++)
        latency_step(1, 1, 0.05);
    ck_assert_int_eq(n_lines(), 1);
    usleep(1010000);
    latency_step(1, 1, 0.05);
    ck_assert_int_eq(n_lines(), 2);
    ck_assert_ptr_nonnull(strstr(written(), "\"left_out\":19}"));
}
END_TEST

START_TEST(a_step_that_slept_waited)
{
    capture();
    latency_limits(50, 0);
    latency_step(1, 1, 0.001); /* the first look */
    usleep(200000);
    latency_step(1, 1, 0.2);
    ck_assert_msg(strstr(written(), "\"cause\":\"waited for the device or for other threads\"") || strstr(written(), "no CPU to run on"), "%s",
                  written()); /* the latter on a machine without a free CPU */
}
END_TEST

START_TEST(a_step_that_computed_says_what_it_was_made_of)
{
    static const struct {
        size_t n_rows, n_sequences;
        const char *cause;
    } cases[] = {{64, 1, "\"prefill\""}, {8, 8, "\"batch\""}, {1, 1, "\"compute\""}};
    capture();
    for (size_t i = 0; i < 3; i++) {
        latency_limits(1, 0);
        usleep(11000); /* so that it looks again */
        latency_step(1, 1, 0.0001);
        compute(2 * CLOCK_NS_PER_MS);
        latency_step(cases[i].n_rows, cases[i].n_sequences, 0.001); /* shorter than what was computed, so that it counts as busy */
        ck_assert_msg(strstr(written(), cases[i].cause) || strstr(written(), "no CPU to run on"), "%s", written());
    }
}
END_TEST

START_TEST(a_request_s_longest_phase_is_its_cause)
{
    static const struct {
        struct stream_summary s;
        const char *cause;
    } cases[] = {{{.queue_ms = 80, .first_token_ms = 90, .total_ms = 100, .admitted = true}, "\"queue\""},
                 {{.queue_ms = 10, .first_token_ms = 90, .total_ms = 100, .admitted = true}, "\"prefill\""},
                 {{.queue_ms = 10, .first_token_ms = 20, .total_ms = 100, .admitted = true}, "\"decode\""},
                 {{.queue_ms = 10, .total_ms = 100, .admitted = true}, "\"prefill\""}, /* no token came */
                 {{.queue_ms = 100, .total_ms = 100}, "\"queue\""}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        capture();
        latency_limits(0, 100);
        latency_request("id", NULL, &(struct stream_summary){.total_ms = 99});
        ck_assert_int_eq(n_lines(), 0);
        latency_request("id", "0123", &cases[i].s);
        ck_assert_msg(strstr(written(), cases[i].cause) && strstr(written(), "\"trace_id\":\"0123\""), "%s", written());
    }
}
END_TEST

SUITE("latency", only_what_is_slow, one_line_a_second, a_step_that_slept_waited, a_step_that_computed_says_what_it_was_made_of,
      a_request_s_longest_phase_is_its_cause)
