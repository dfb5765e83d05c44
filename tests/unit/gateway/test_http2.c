/* HTTP/2 from memory: what is understood, and what it is answered. What is refused is in test_http2_abuse.c. */
#include "tests/suite.h"
#include "tests/unit/gateway/frames.h"

#include "base/clock.h"

START_TEST(answers_in_any_pieces)
{
    struct buffer in;
    begin(&in);
    headers(&in, 1, END_STREAM, "GET", "/echo?q", "x", "v");
    headers(&in, 3, 0, "POST", "/echo", NULL, NULL);
    frame(&in, DATA, 0, 3, "he", 2);
    frame(&in, DATA, END_STREAM, 3, "llo", 3);
    for (size_t n = 0; n <= in.n_bytes; n++) {
        struct memory m;
        memory_open(&m, 1024);
        ck_assert(memory_input(&m, in.data, in.n_bytes, n));
        ck_assert_int_eq(m.n_requests, 2);
        check_data(&m, 1, "GET /echo?q [v] ");
        check_data(&m, 3, "POST /echo? [-] hello");
        ck_assert_int_eq(m.n_finished, 2);
        ck_assert_int_eq(m.n_aborted, 0);
        memory_close(&m);
    }
    buffer_fini(&in);
}
END_TEST

START_TEST(bounds_the_body)
{
    struct buffer in;
    struct memory m;
    char block[1025];
    size_t n;
    int flags;
    memset(block, 'x', sizeof block);
    begin(&in);
    headers(&in, 1, 0, "POST", "/echo", NULL, NULL);
    frame(&in, DATA, 0, 1, block, sizeof block);
    headers(&in, 3, 0, "POST", "/echo", "content-length", "2000");
    headers(&in, 5, END_STREAM, "GET", "/echo", NULL, NULL);
    memory_open(&m, 1024);
    ck_assert(memory_input(&m, in.data, in.n_bytes, 0));
    ck_assert_int_eq(m.n_rejects, 2);
    ck_assert_int_eq(m.reject_status, 413);
    check_data(&m, 5, "GET /echo? [-] ");
    /* The rest of a refused upload is taken for a while, then the stream is reset. */
    buffer_clear(&in);
    for (int i = 0; i < 4; i++)
        frame(&in, DATA, 0, 1, block, 1024);
    memory_input(&m, in.data, in.n_bytes, 0);
    ck_assert_ptr_null(find(&m, RST_STREAM, 1, 0, &n, &flags));
    memory_input(&m, in.data, in.n_bytes, 0);
    ck_assert_ptr_nonnull(find(&m, RST_STREAM, 1, 0, &n, &flags));
    memory_close(&m);
    buffer_fini(&in);
}
END_TEST

START_TEST(bounds_the_headers)
{
    struct buffer in, block;
    struct memory m;
    char value[127];
    memset(value, 'v', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    begin(&in);
    buffer_init(&block, 65536);
    field(&block, ":method", "GET");
    field(&block, ":scheme", "http");
    field(&block, ":authority", "a");
    field(&block, ":path", "/echo");
    for (int i = 0; i < 110; i++)
        field(&block, "x", value);
    frame(&in, HEADERS, END_STREAM | END_HEADERS, 1, block.data, block.n_bytes);
    memory_open(&m, 1024);
    memory_input(&m, in.data, in.n_bytes, 0);
    ck_assert_int_eq(m.n_requests, 0);
    ck_assert_int_eq(m.reject_status, 431);
    memory_close(&m);
    buffer_fini(&in);
    buffer_fini(&block);
}
END_TEST

START_TEST(obeys_flow_control)
{
    static char block[200000];
    struct buffer in;
    struct memory m;
    size_t n, total = 0;
    int flags;
    memset(block, 'x', sizeof block);
    begin(&in);
    headers(&in, 1, END_STREAM, "GET", "/stream", NULL, NULL);
    memory_open(&m, 1024);
    memory_input(&m, in.data, in.n_bytes, 0);
    http_write(m.stream, block, sizeof block);
    for (int i = 0; i < 20; i++)
        http_conn_output(m.conn, &m.out);
    for (int i = 0; find(&m, DATA, 1, i, &n, &flags); i++)
        total += n;
    ck_assert_uint_eq(total, 65535);
    ck_assert_uint_eq(http_queued(m.stream), sizeof block - 65535);
    ck_assert_int_eq(m.n_writable, 0);
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_STALLED);
    buffer_clear(&in);
    frame(&in, WINDOW_UPDATE, 0, 0, "\x00\x03\x00\x00", 4);
    frame(&in, WINDOW_UPDATE, 0, 1, "\x00\x03\x00\x00", 4);
    memory_input(&m, in.data, in.n_bytes, 0);
    for (int i = 0; i < 20; i++)
        http_conn_output(m.conn, &m.out);
    ck_assert_uint_eq(http_queued(m.stream), 0);
    ck_assert_int_eq(m.n_writable, 1);
    http_end(m.stream);
    http_conn_output(m.conn, &m.out);
    ck_assert_int_eq(m.n_finished, 1);
    memory_close(&m);
    buffer_fini(&in);
}
END_TEST

START_TEST(a_full_transport_stops_frames)
{
    static char block[30000];
    struct buffer in;
    struct memory m;
    begin(&in);
    headers(&in, 1, END_STREAM, "GET", "/stream", NULL, NULL);
    memory_open(&m, 1024);
    memory_input(&m, in.data, in.n_bytes, 0);
    m.pending = HTTP_HIGH_WATER_BYTES;
    http_write(m.stream, block, sizeof block);
    http_conn_output(m.conn, &m.out);
    ck_assert_uint_eq(http_queued(m.stream), sizeof block);
    m.pending = 0;
    http_conn_output(m.conn, &m.out);
    ck_assert_uint_eq(http_queued(m.stream), 0);
    memory_close(&m);
    buffer_fini(&in);
}
END_TEST

START_TEST(a_reset_is_told)
{
    struct buffer in;
    struct memory m;
    begin(&in);
    headers(&in, 1, END_STREAM, "POST", "/stream", NULL, NULL);
    memory_open(&m, 1024);
    memory_input(&m, in.data, in.n_bytes, 0);
    ck_assert_ptr_nonnull(m.stream);
    buffer_clear(&in);
    frame(&in, RST_STREAM, 0, 1, "\0\0\0\x08", 4);
    memory_input(&m, in.data, in.n_bytes, 0);
    ck_assert_int_eq(m.n_gone, 1);
    ck_assert_int_eq(m.n_aborted, 1);
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_IDLE);
    memory_close(&m);
    buffer_fini(&in);
}
END_TEST

START_TEST(drains_with_goaway)
{
    struct buffer in;
    struct memory m;
    size_t n;
    int flags;
    begin(&in);
    headers(&in, 1, END_STREAM, "GET", "/stream", NULL, NULL);
    memory_open(&m, 1024);
    memory_input(&m, in.data, in.n_bytes, 0);
    http_conn_drain(m.conn);
    http_conn_output(m.conn, &m.out);
    const unsigned char *notice = find(&m, GOAWAY, 0, 0, &n, &flags);
    ck_assert(notice && memcmp(notice, "\x7F\xFF\xFF\xFF", 4) == 0);
    buffer_clear(&in); /* a stream that the client opened before it read that */
    headers(&in, 3, END_STREAM, "GET", "/echo", NULL, NULL);
    memory_input(&m, in.data, in.n_bytes, 0);
    check_data(&m, 3, "GET /echo? [-] ");
    http_conn_drain(m.conn);
    http_conn_output(m.conn, &m.out);
    const unsigned char *last = find(&m, GOAWAY, 0, 1, &n, &flags);
    ck_assert(last && memcmp(last, "\0\0\0\3", 4) == 0);
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_ANSWER);
    http_end(m.stream);
    http_conn_output(m.conn, &m.out);
    enum http_phase phase = http_conn_phase(m.conn);
    ck_assert(phase == HTTP_PHASE_LINGER || phase == HTTP_PHASE_CLOSED);
    memory_close(&m);
    buffer_fini(&in);
}
END_TEST

/* A stream whose window the client keeps shut is ended after its time; the other one goes on. */
START_TEST(a_stalled_stream_ends_alone)
{
    const int64_t s = CLOCK_NS_PER_S;
    struct buffer in;
    struct memory m;
    size_t n;
    int flags;
    char text[70000];
    memset(text, 'x', sizeof text);
    begin(&in);
    headers(&in, 1, END_STREAM, "GET", "/stream", NULL, NULL);
    frame(&in, WINDOW_UPDATE, 0, 0, "\0\x10\0\0", 4); /* of the connection: only the stream's own window is shut */
    memory_open(&m, 1024);
    m.settings.limits = (struct http_limits){.stall_ns = 60 * s, .min_rate = 100};
    memory_input(&m, in.data, in.n_bytes, 0);
    http_write(m.stream, text, sizeof text);
    http_conn_output(m.conn, &m.out);
    ck_assert_int_eq(http_conn_check(m.conn, 100 * s), 160 * s);
    http_conn_check(m.conn, 159 * s);
    http_conn_output(m.conn, &m.out);
    ck_assert_ptr_null(find(&m, RST_STREAM, 1, 0, &n, &flags));
    http_conn_check(m.conn, 160 * s);
    http_conn_output(m.conn, &m.out);
    const unsigned char *code = find(&m, RST_STREAM, 1, 0, &n, &flags);
    ck_assert(code && memcmp(code, "\0\0\0\x08", 4) == 0); /* CANCEL */
    ck_assert_int_eq(m.n_gone, 1);
    buffer_clear(&in);
    headers(&in, 3, END_STREAM, "GET", "/echo", NULL, NULL);
    memory_input(&m, in.data, in.n_bytes, 0);
    check_data(&m, 3, "GET /echo? [-] ");
    memory_close(&m);
    buffer_fini(&in);
}
END_TEST

/* A body that trickles is answered, and its stream ended when it goes on. */
START_TEST(a_slow_body_is_answered)
{
    const int64_t s = CLOCK_NS_PER_S;
    struct buffer in;
    struct memory m;
    size_t n;
    int flags;
    begin(&in);
    headers(&in, 1, 0, "POST", "/echo", NULL, NULL);
    frame(&in, DATA, 0, 1, "abcdefghij", 10);
    memory_open(&m, 1024);
    m.settings.limits = (struct http_limits){.body_ns = 5 * s, .min_rate = 10};
    memory_input(&m, in.data, in.n_bytes, 0);
    ck_assert_int_eq(http_conn_check(m.conn, 100 * s), 105 * s);
    buffer_clear(&in);
    frame(&in, DATA, 0, 1, "abcdefghij", 10);
    memory_input(&m, in.data, in.n_bytes, 0);
    ck_assert_int_eq(http_conn_check(m.conn, 105 * s), 106 * s); /* 10 bytes at 10 a second */
    http_conn_check(m.conn, 106 * s);
    http_conn_output(m.conn, &m.out);
    ck_assert_int_eq(m.reject_status, 408);
    http_conn_check(m.conn, 107 * s);
    http_conn_check(m.conn, 112 * s);
    http_conn_output(m.conn, &m.out);
    ck_assert_ptr_nonnull(find(&m, RST_STREAM, 1, 0, &n, &flags));
    memory_close(&m);
    buffer_fini(&in);
}
END_TEST

START_TEST(an_idle_connection_says_goodbye)
{
    const int64_t s = CLOCK_NS_PER_S;
    struct buffer in;
    struct memory m;
    size_t n;
    int flags;
    begin(&in);
    memory_open(&m, 1024);
    m.settings.limits = (struct http_limits){.idle_ns = 75 * s};
    memory_input(&m, in.data, in.n_bytes, 0);
    ck_assert_int_eq(http_conn_check(m.conn, 100 * s), 175 * s);
    http_conn_check(m.conn, 175 * s);
    http_conn_output(m.conn, &m.out);
    ck_assert_ptr_nonnull(find(&m, GOAWAY, 0, 0, &n, &flags));
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_CLOSED);
    memory_close(&m);
    buffer_fini(&in);
}
END_TEST

START_TEST(continues_when_asked)
{
    struct buffer in;
    struct memory m;
    size_t n;
    int flags;
    begin(&in);
    headers(&in, 1, 0, "POST", "/echo", "expect", "100-continue");
    memory_open(&m, 1024);
    memory_input(&m, in.data, in.n_bytes, 0);
    ck_assert_ptr_nonnull(find(&m, HEADERS, 1, 0, &n, &flags));
    ck_assert_int_eq(flags & END_STREAM, 0);
    ck_assert_int_eq(m.n_requests, 0);
    buffer_clear(&in);
    frame(&in, DATA, END_STREAM, 1, "hello", 5);
    memory_input(&m, in.data, in.n_bytes, 0);
    ck_assert_ptr_nonnull(find(&m, HEADERS, 1, 1, &n, &flags));
    check_data(&m, 1, "POST /echo? [-] hello");
    memory_close(&m);
    buffer_fini(&in);
}
END_TEST

SUITE("http2", answers_in_any_pieces, bounds_the_body, bounds_the_headers, obeys_flow_control,
      a_full_transport_stops_frames, a_reset_is_told, drains_with_goaway, continues_when_asked,
      a_stalled_stream_ends_alone, a_slow_body_is_answered, an_idle_connection_says_goodbye)
