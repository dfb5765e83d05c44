/* Traces: what is read, and what is refused with its line. */
#include "tests/suite.h"

#include "tools/load_trace.h"

static struct load_trace t;
static struct error err;

static enum error_code parse(const char *text)
{
    memset(&err, 0, sizeof err);
    return load_trace_parse(text, strlen(text), &t, &err);
}

START_TEST(lines_are_requests)
{
    ck_assert_msg(!parse("# times are seconds\n\n0 10 5\n0.25,  20,8   # with commas\r\n \t.5\t1 1048576\n.5 2 3"),
                  "%s", err.message);
    ck_assert_uint_eq(t.n_arrivals, 4);
    ck_assert(t.arrivals[0].time_s == 0 && t.arrivals[0].prompt_tokens == 10 && t.arrivals[0].max_tokens == 5);
    ck_assert(t.arrivals[1].time_s == 0.25 && t.arrivals[1].prompt_tokens == 20 && t.arrivals[1].max_tokens == 8);
    ck_assert(t.arrivals[2].time_s == 0.5 && t.arrivals[2].prompt_tokens == 1 && t.arrivals[2].max_tokens == 1048576);
    ck_assert(t.arrivals[3].prompt_tokens == 2 && t.arrivals[3].max_tokens == 3);
    load_trace_free(&t);
    ck_assert_uint_eq(t.n_arrivals, 0);
}
END_TEST

START_TEST(many_lines)
{
    static char text[200000];
    size_t n = 0;
    for (int i = 0; i < 10000; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%d %d 7\n", i, i + 1);
    ck_assert(!parse(text));
    ck_assert_uint_eq(t.n_arrivals, 10000);
    for (size_t i = 0; i < t.n_arrivals; i++)
        ck_assert(t.arrivals[i].time_s == (double)i && t.arrivals[i].prompt_tokens == i + 1);
    load_trace_free(&t);
}
END_TEST

START_TEST(what_is_no_trace)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "at least one request"},
        {"# nothing\n\n", "at least one request"},
        {"0 10 5\nx 10 5\n", "line 2: expected a time"},
        {"-1 10 5\n", "line 1: expected a time"},
        {"nan 10 5\n", "line 1: expected a time"},
        {"inf 10 5\n", "line 1: expected a time"},
        {"1e9 10 5\n", "line 1: expected a time"},
        {"0", "line 1: expected a prompt"},
        {"0 0 5\n", "line 1: expected a prompt"},
        {"0 1.5 5\n", "line 1: expected a prompt"},
        {"0 1048577 5\n", "line 1: expected a prompt"},
        {"0 10x 5\n", "line 1: expected a prompt"},
        {"0 10\n", "line 1: expected 1..1048576 tokens to generate"},
        {"0 10 0\n", "line 1: expected 1..1048576 tokens to generate"},
        {"0 10 5 6\n", "line 1: expected three numbers"},
        {"2 10 5\n\n1 10 5\n", "line 3: expected a time that is not before"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert_msg(parse(cases[i].text) == ERROR_VALIDATION_FAILED, "%s", cases[i].text);
        ck_assert_msg(strstr(err.message, cases[i].message), "'%s': %s", cases[i].text, err.message);
        load_trace_free(&t);
    }
}
END_TEST

START_TEST(bytes_that_are_no_text)
{
    static char text[1000];
    memset(text, '1', sizeof text);
    ck_assert_int_eq(load_trace_parse(text, sizeof text, &t, &err), ERROR_VALIDATION_FAILED);
    load_trace_free(&t);
    ck_assert_int_eq(load_trace_parse("0 1\0 2", 6, &t, &err), ERROR_VALIDATION_FAILED);
    load_trace_free(&t);
    ck_assert_int_eq(load_trace_read("/nowhere/at/all", &t, &err), ERROR_NOT_FOUND);
}
END_TEST

SUITE("load trace", lines_are_requests, many_lines, what_is_no_trace, bytes_that_are_no_text)
