/* Limits of HTTP/1.1 from memory: how much a request may be, and how long it may take. */
#include "tests/suite.h"
#include "tests/unit/gateway/memory.h"

#include "base/clock.h"

START_TEST(bounds_the_head)
{
    struct memory m;
    char line[1002];
    memset(line, 'a', sizeof line);
    memcpy(line, "X: ", 3);
    memcpy(line + 1000, "\r\n", 2);
    memory_open(&m, 1024);
    memory_text(&m, "GET /echo HTTP/1.1\r\nHost: a\r\n");
    for (int i = 0; i < 20; i++)
        memory_input(&m, line, sizeof line, 0);
    ck_assert_int_eq(m.reject_status, 431);
    ck_assert_int_eq(m.n_rejects, 1);
    memory_close(&m);
}
END_TEST

/* Not by size alone: each field costs an entry. */
START_TEST(bounds_the_number_of_headers)
{
    for (int extra = 0; extra <= 1; extra++) {
        struct memory m;
        memory_open(&m, 1024);
        memory_text(&m, "GET /echo HTTP/1.1\r\nHost: a\r\n");
        for (int i = 1; i < HTTP_MAX_HEADERS + extra; i++)
            memory_text(&m, "X: y\r\n");
        memory_text(&m, "\r\n");
        ck_assert_int_eq(m.n_requests, 1 - extra);
        ck_assert_int_eq(m.reject_status, extra ? 431 : 0);
        memory_close(&m);
    }
}
END_TEST

START_TEST(bounds_the_trailers)
{
    struct memory m;
    char line[1002];
    memset(line, 'a', sizeof line);
    memcpy(line, "X: ", 3);
    memcpy(line + 1000, "\r\n", 2);
    memory_open(&m, 1024);
    memory_text(&m, "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n");
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_BODY);
    for (int i = 0; i < 20; i++)
        memory_input(&m, line, sizeof line, 0);
    ck_assert_int_eq(m.reject_status, 431);
    ck_assert_int_eq(m.n_requests, 0);
    memory_close(&m);
}
END_TEST

START_TEST(bounds_chunk_extensions)
{
    struct memory m;
    char block[1024];
    memset(block, 'a', sizeof block);
    memory_open(&m, 1024);
    memory_text(&m, "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;");
    for (int i = 0; i < 1024 && m.n_rejects == 0; i++)
        memory_input(&m, block, sizeof block, 0);
    ck_assert_int_eq(m.reject_status, 413);
    memory_close(&m);
}
END_TEST

/* Of two clients that send slowly, the second finds no room until the first has gone. */
START_TEST(bounds_the_memory_of_all_requests)
{
    static const char slow[] = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n";
    struct http_memory shared = {.max_bytes = 6000};
    struct memory first, second;
    memory_open(&first, 1024);
    first.settings.memory = &shared;
    memory_text(&first, slow);
    ck_assert_uint_gt(shared.n_bytes, 3000);
    ck_assert_uint_lt(shared.n_bytes, 6000);
    for (int i = 0; i < 2; i++) {
        memory_open(&second, 1024);
        second.settings.memory = &shared;
        memory_text(&second, slow);
        ck_assert_int_eq(second.reject_status, i == 0 ? 503 : 0);
        memory_close(&second);
        if (i == 0)
            memory_close(&first);
    }
    ck_assert_uint_eq(shared.n_bytes, 0);
}
END_TEST

START_TEST(a_body_counts_too)
{
    char body[4000];
    struct http_memory shared = {.max_bytes = 6000};
    struct memory m;
    memset(body, 'x', sizeof body);
    memory_open(&m, sizeof body);
    m.settings.memory = &shared;
    memory_text(&m, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4000\r\n\r\n");
    ck_assert_int_eq(m.n_rejects, 0);
    memory_input(&m, body, sizeof body, 500);
    ck_assert_int_eq(m.reject_status, 503);
    ck_assert_int_eq(m.n_requests, 0);
    memory_close(&m);
    ck_assert_uint_eq(shared.n_bytes, 0);
}
END_TEST

/* A head and a body have their time; what is late is answered, and the connection closes. */
START_TEST(slow_requests_are_answered)
{
    const int64_t s = CLOCK_NS_PER_S;
    struct memory m;
    memory_open(&m, 1 << 20);
    m.settings.limits = (struct http_limits){.head_ns = 10 * s, .body_ns = 5 * s, .idle_ns = 75 * s, .min_rate = 100};
    memory_text(&m, "GET /echo HTTP/1.1\r\nHost: a\r\n\r\nGET /echo HT");
    ck_assert_int_eq(http_conn_check(m.conn, 100 * s), 110 * s);
    memory_text(&m, "TP/1.1\r\nX: a");
    ck_assert_int_eq(http_conn_check(m.conn, 109 * s), 110 * s); /* a byte now and then gains nothing */
    http_conn_check(m.conn, 110 * s);
    http_conn_output(m.conn, &m.out);
    ck_assert_int_eq(m.reject_status, 408);
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_LINGER);
    memory_close(&m);
}
END_TEST

START_TEST(slow_bodies_are_answered)
{
    const int64_t s = CLOCK_NS_PER_S;
    struct memory m;
    char part[301];
    memset(part, 'x', 300);
    part[300] = '\0';
    memory_open(&m, 1 << 20);
    m.settings.limits = (struct http_limits){.head_ns = 10 * s, .body_ns = 5 * s, .idle_ns = 75 * s, .min_rate = 100};
    memory_text(&m, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n");
    ck_assert_int_eq(http_conn_check(m.conn, 100 * s), 105 * s);
    memory_text(&m, part);
    ck_assert_int_eq(http_conn_check(m.conn, 104 * s), 108 * s); /* 300 bytes at 100 a second */
    memory_text(&m, "x");
    ck_assert_int_lt(http_conn_check(m.conn, 107 * s), 109 * s);
    ck_assert_int_eq(m.n_rejects, 0);
    http_conn_check(m.conn, 109 * s);
    ck_assert_int_eq(m.reject_status, 408);
    memory_close(&m);
}
END_TEST

START_TEST(idle_connections_end)
{
    const int64_t s = CLOCK_NS_PER_S;
    struct memory m;
    memory_open(&m, 1024);
    m.settings.limits = (struct http_limits){.head_ns = 10 * s, .idle_ns = 75 * s, .linger_ns = 2 * s};
    ck_assert_int_eq(http_conn_check(m.conn, 1 * s), 11 * s); /* the first request must come soon */
    memory_text(&m, "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n");
    ck_assert_int_eq(http_conn_check(m.conn, 2 * s), 77 * s);
    http_conn_check(m.conn, 77 * s);
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_LINGER);
    ck_assert_int_eq(http_conn_check(m.conn, 78 * s), 80 * s);
    memory_close(&m);
}
END_TEST

SUITE("http1_limits", bounds_the_head, bounds_the_number_of_headers, bounds_the_trailers, bounds_chunk_extensions,
      bounds_the_memory_of_all_requests, a_body_counts_too, slow_requests_are_answered, slow_bodies_are_answered,
      idle_connections_end)
