/* HTTP/2 from memory: heads and frames that break the rules, and floods that keep them. */
#include "tests/suite.h"
#include "tests/unit/gateway/frames.h"

/* ---- heads that are refused ---- */

/* A head by its fields, in the order given; what becomes of it: a reset of the stream, or an answer by us. */
struct head {
    const char *name;
    const char *fields[8][2];
    int status; /* 0 = the stream is reset */
};

#define BASE                                                                                                           \
    {":method", "GET"}, {":scheme", "http"},                                                                           \
    {                                                                                                                  \
        ":authority", "a"                                                                                              \
    }

static const struct head heads[] = {
    {"upper-case name", {BASE, {":path", "/echo"}, {"X", "y"}}, 0},
    {"connection", {BASE, {":path", "/echo"}, {"connection", "close"}}, 0},
    {"keep-alive", {BASE, {":path", "/echo"}, {"keep-alive", "1"}}, 0},
    {"proxy-connection", {BASE, {":path", "/echo"}, {"proxy-connection", "close"}}, 0},
    {"transfer-encoding", {BASE, {":path", "/echo"}, {"transfer-encoding", "chunked"}}, 0},
    {"upgrade", {BASE, {":path", "/echo"}, {"upgrade", "h2c"}}, 0},
    {"te of another kind", {BASE, {":path", "/echo"}, {"te", "gzip"}}, 0},
    {"no method", {{":scheme", "http"}, {":authority", "a"}, {":path", "/echo"}}, 0},
    {"no scheme", {{":method", "GET"}, {":authority", "a"}, {":path", "/echo"}}, 0},
    {"no path", {BASE}, 0},
    {"no authority", {{":method", "GET"}, {":scheme", "http"}, {":path", "/echo"}}, 0},
    {"two methods", {BASE, {":path", "/echo"}, {":method", "GET"}}, 0},
    {"two paths", {BASE, {":path", "/echo"}, {":path", "/echo"}}, 0},
    {"unknown pseudo-header", {BASE, {":path", "/echo"}, {":x", "y"}}, 0},
    {"pseudo-header of answers", {BASE, {":path", "/echo"}, {":status", "200"}}, 0},
    {"protocol without its setting",
     {{":method", "CONNECT"}, {":scheme", "http"}, {":authority", "a"}, {":path", "/"}, {":protocol", "websocket"}},
     0},
    {"pseudo-header behind others",
     {{":method", "GET"}, {":scheme", "http"}, {"x", "y"}, {":authority", "a"}, {":path", "/"}},
     0},
    {"empty path", {BASE, {":path", ""}}, 0},
    {"path without a slash", {BASE, {":path", "echo"}}, 0},
    {"absolute path", {BASE, {":path", "http://a/echo"}}, 0},
    {"asterisk for another method", {BASE, {":path", "*"}}, 0},
    {"space in the path", {BASE, {":path", "/a b"}}, 0},
    {"fragment", {BASE, {":path", "/echo#x"}}, 400},
    {"connect", {{":method", "CONNECT"}, {":authority", "a:80"}}, 400},
    {"user in the authority", {{":method", "GET"}, {":scheme", "http"}, {":authority", "u@a"}, {":path", "/"}}, 400},
    {"path in the authority", {{":method", "GET"}, {":scheme", "http"}, {":authority", "a/b"}, {":path", "/"}}, 0},
    {"host that differs", {BASE, {":path", "/echo"}, {"host", "b"}}, 400},
    {"two hosts", {BASE, {":path", "/echo"}, {"host", "a"}, {"host", "a"}}, 0},
    {"two authorizations", {BASE, {":path", "/echo"}, {"authorization", "a"}, {"authorization", "b"}}, 400},
    {"line feed in a value", {BASE, {":path", "/echo"}, {"x", "a\nb"}}, 0},
    {"carriage return in a value", {BASE, {":path", "/echo"}, {"x", "a\rb"}}, 0},
    {"control character in a value", {BASE, {":path", "/echo"}, {"x", "a\x01z"}}, 0},
    {"space in front of a value", {BASE, {":path", "/echo"}, {"x", " y"}}, 0},
    {"colon in a name", {BASE, {":path", "/echo"}, {"x:", "y"}}, 0},
    {"space in a name", {BASE, {":path", "/echo"}, {"x ", "y"}}, 0},
    {"empty name", {BASE, {":path", "/echo"}, {"", "y"}}, 0},
    {"length without a body", {BASE, {":path", "/echo"}, {"content-length", "5"}}, 0},
    {"two lengths", {BASE, {":path", "/echo"}, {"content-length", "0"}, {"content-length", "0"}}, 0},
    {"signed length", {BASE, {":path", "/echo"}, {"content-length", "+0"}}, 0},
    {"other expectation", {BASE, {":path", "/echo"}, {"expect", "x"}}, 417},
};

START_TEST(refuses_heads)
{
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        struct buffer in, block;
        struct memory m;
        size_t n;
        int flags;
        begin(&in);
        buffer_init(&block, 65536);
        for (size_t f = 0; f < 8 && heads[i].fields[f][0]; f++)
            field(&block, heads[i].fields[f][0], heads[i].fields[f][1]);
        frame(&in, HEADERS, END_STREAM | END_HEADERS, 1, block.data, block.n_bytes);
        headers(&in, 3, END_STREAM, "GET", "/echo", "host", "A");
        memory_open(&m, 1024);
        memory_input(&m, in.data, in.n_bytes, 0);
        ck_assert_msg(m.reject_status == heads[i].status, "%s: %d", heads[i].name, m.reject_status);
        ck_assert_msg(!find(&m, RST_STREAM, 1, 0, &n, &flags) == (heads[i].status != 0), "%s", heads[i].name);
        ck_assert_msg(m.n_requests == 1, "%s: %d requests", heads[i].name, m.n_requests); /* the good one */
        memory_close(&m);
        buffer_fini(&in);
        buffer_fini(&block);
    }
}
END_TEST

START_TEST(a_body_has_the_length_it_says)
{
    static const char *const lengths[] = {"4", "6"};
    for (int i = 0; i < 2; i++) {
        struct buffer in;
        struct memory m;
        size_t n;
        int flags;
        begin(&in);
        headers(&in, 1, 0, "POST", "/echo", "content-length", lengths[i]);
        frame(&in, DATA, END_STREAM, 1, "hello", 5);
        memory_open(&m, 1024);
        memory_input(&m, in.data, in.n_bytes, 0);
        ck_assert_int_eq(m.n_requests, 0);
        ck_assert_ptr_nonnull(find(&m, RST_STREAM, 1, 0, &n, &flags));
        memory_close(&m);
        buffer_fini(&in);
    }
}
END_TEST

/* ---- floods ---- */

/* One large entry of HPACK's table, then a byte for each reference to it. */
START_TEST(references_to_large_fields_are_not_decoded_for_ever)
{
    static char value[3000], references[4000];
    struct buffer in, block;
    struct memory m;
    size_t n;
    int flags;
    memset(value, 'v', sizeof value);
    memset(references, 0x80 | 62, sizeof references); /* the newest entry */
    begin(&in);
    buffer_init(&block, 65536);
    field(&block, ":method", "GET");
    field(&block, ":scheme", "http");
    field(&block, ":authority", "a");
    field(&block, ":path", "/echo");
    buffer_append(&block, "\x40\x01x\x7f\xb9\x16", 6); /* to be indexed, "x", 127 + 0x39 + (0x16 << 7) = 3000 bytes */
    buffer_append(&block, value, sizeof value);
    buffer_append(&block, references, sizeof references);
    frame(&in, HEADERS, END_STREAM | END_HEADERS, 1, block.data, block.n_bytes);
    headers(&in, 3, END_STREAM, "GET", "/echo", NULL, NULL);
    memory_open(&m, 1024);
    ck_assert(memory_input(&m, in.data, in.n_bytes, 0));
    ck_assert_ptr_nonnull(find(&m, RST_STREAM, 1, 0, &n, &flags));
    ck_assert_int_eq(m.n_requests, 1);
    check_data(&m, 3, "GET /echo? [-] ");
    memory_close(&m);
    buffer_fini(&in);
    buffer_fini(&block);
}
END_TEST

/* The server is made to reset them itself, by windows beyond 2^31-1 (CVE-2025-8671). */
START_TEST(resets_that_are_provoked_end_the_connection)
{
    struct buffer in;
    struct memory m;
    size_t n;
    int flags;
    begin(&in);
    memory_open(&m, 1024);
    for (uint32_t i = 0; i < 3000; i++) {
        headers(&in, 2 * i + 1, END_STREAM, "GET", "/stream", NULL, NULL);
        frame(&in, WINDOW_UPDATE, 0, 2 * i + 1, "\x7f\xff\xff\xff", 4);
        memory_input(&m, in.data, in.n_bytes, 0);
        buffer_clear(&in);
    }
    ck_assert_ptr_nonnull(find(&m, GOAWAY, 0, 0, &n, &flags));
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_CLOSED);
    ck_assert_int_lt(m.n_requests, 1100);
    memory_close(&m);
    buffer_fini(&in);
}
END_TEST

/* Streams that end well are forgotten. */
START_TEST(many_good_streams_are_no_flood)
{
    struct buffer in;
    struct memory m;
    begin(&in);
    memory_open(&m, 1024);
    for (uint32_t i = 0; i < 3000; i++) {
        headers(&in, 2 * i + 1, END_STREAM, "GET", "/echo", NULL, NULL);
        ck_assert(memory_input(&m, in.data, in.n_bytes, 0));
        buffer_clear(&in);
        buffer_clear(&m.out);
        frame(&in, WINDOW_UPDATE, 0, 0, "\0\0\1\0", 4);
    }
    ck_assert_int_eq(m.n_finished, 3000);
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_IDLE);
    memory_close(&m);
    buffer_fini(&in);
}
END_TEST

START_TEST(bounds_the_memory_of_all_requests)
{
    struct http_memory shared = {.max_bytes = 20000};
    struct buffer in;
    struct memory m;
    size_t n;
    int flags;
    begin(&in);
    memory_open(&m, 1024);
    m.settings.memory = &shared;
    for (uint32_t i = 0; i < 20; i++)
        headers(&in, 2 * i + 1, 0, "POST", "/echo", NULL, NULL);
    memory_input(&m, in.data, in.n_bytes, 0);
    ck_assert_int_eq(m.reject_status, 503);
    ck_assert_int_ge(m.n_rejects, 10);
    ck_assert_int_lt(m.n_rejects, 20);
    ck_assert_ptr_nonnull(find(&m, HEADERS, 39, 0, &n, &flags));
    memory_close(&m);
    ck_assert_uint_eq(shared.n_bytes, 0);
    buffer_fini(&in);
}
END_TEST

static void check_flood(int type, const void *payload, size_t n_payload)
{
    struct buffer in;
    struct memory m;
    begin(&in);
    for (int i = 0; i < 3000; i++)
        frame(&in, type, 0, 0, payload, n_payload);
    memory_open(&m, 1024);
    m.pending = HTTP_HIGH_WATER_BYTES; /* nobody reads the acknowledgements */
    memory_input(&m, in.data, in.n_bytes, 64);
    ck_assert(!http_conn_wants_input(m.conn) || http_conn_phase(m.conn) == HTTP_PHASE_CLOSED);
    memory_close(&m);
    buffer_fini(&in);
}

START_TEST(acknowledgements_that_nobody_reads_are_bounded)
{
    check_flood(SETTINGS, "", 0);
    check_flood(PING, "12345678", 8);
}
END_TEST

/* Refused streams have no exchange, but an RST_STREAM each. */
START_TEST(answers_that_nobody_reads_stop_the_reading)
{
    struct buffer in;
    struct memory m;
    uint32_t i = 0;
    begin(&in);
    memory_open(&m, 1024);
    memory_input(&m, in.data, in.n_bytes, 0);
    m.pending = HTTP_HIGH_WATER_BYTES;
    for (; i < 5000 && http_conn_wants_input(m.conn); i++) {
        buffer_clear(&in);
        headers(&in, 2 * i + 1, END_STREAM, "GET", "/stream", NULL, NULL);
        memory_input(&m, in.data, in.n_bytes, 0);
    }
    ck_assert_uint_lt(i, 2000);
    ck_assert_int_le(m.n_requests, 128);
    m.pending = 0;
    http_conn_output(m.conn, &m.out);
    ck_assert(http_conn_wants_input(m.conn));
    memory_close(&m);
    buffer_fini(&in);
}
END_TEST

/* Frames that break the rules: the connection ends with a GOAWAY, or the stream by a reset. */
START_TEST(refuses_frames)
{
    static const struct {
        const char *name;
        int type, flags;
        uint32_t stream;
        const char *payload;
        size_t n_payload;
        bool connection;
    } frames[] = {
        {"window update of zero, connection", WINDOW_UPDATE, 0, 0, "\0\0\0\0", 4, true},
        {"window update of zero, stream", WINDOW_UPDATE, 0, 1, "\0\0\0\0", 4, true},
        {"window beyond 2^31-1, connection", WINDOW_UPDATE, 0, 0, "\x7f\xff\xff\xff", 4, true},
        {"window beyond 2^31-1, stream", WINDOW_UPDATE, 0, 1, "\x7f\xff\xff\xff", 4, false},
        {"window update of three bytes", WINDOW_UPDATE, 0, 1, "\0\0\1", 3, true},
        {"window update of a stream never opened", WINDOW_UPDATE, 0, 9, "\0\0\0\1", 4, true},
        {"data on stream 0", DATA, 0, 0, "x", 1, true},
        {"data on a stream never opened", DATA, 0, 9, "x", 1, true},
        {"data with more padding than data", DATA, 8, 1, "\xff", 1, true},
        {"headers on an even stream", HEADERS, END_HEADERS, 2, "", 0, true},
        {"headers on stream 0", HEADERS, END_HEADERS, 0, "", 0, true},
        {"headers that HPACK does not know", HEADERS, END_HEADERS, 3, "\xff\xff\xff\xff\xff\xff\xff", 7, true},
        {"continuation of nothing", CONTINUATION, END_HEADERS, 1, "", 0, true},
        {"push by the client", PUSH_PROMISE, END_HEADERS, 1, "\0\0\0\2", 4, true},
        {"reset of stream 0", RST_STREAM, 0, 0, "\0\0\0\0", 4, true},
        {"ping of seven bytes", PING, 0, 0, "1234567", 7, true},
        {"settings with an odd length", SETTINGS, 0, 0, "12345", 5, true},
        {"settings on a stream", SETTINGS, 0, 1, "", 0, true},
        {"initial window beyond 2^31-1", SETTINGS, 0, 0, "\0\4\x80\0\0\0", 6, true},
        {"frame size beyond its bounds", SETTINGS, 0, 0, "\0\5\0\0\0\1", 6, true},
    };
    for (size_t i = 0; i < sizeof frames / sizeof *frames; i++) {
        struct buffer in;
        struct memory m;
        size_t n;
        int flags;
        begin(&in);
        headers(&in, 1, 0, "POST", "/echo", NULL, NULL);
        frame(&in, frames[i].type, frames[i].flags, frames[i].stream, frames[i].payload, frames[i].n_payload);
        memory_open(&m, 1024);
        memory_input(&m, in.data, in.n_bytes, 0);
        bool ended = find(&m, GOAWAY, 0, 0, &n, &flags), reset = find(&m, RST_STREAM, 1, 0, &n, &flags);
        ck_assert_msg(frames[i].connection ? ended : reset && !ended, "%s: GOAWAY %d, RST_STREAM %d", frames[i].name,
                      ended, reset);
        ck_assert_int_eq(m.n_requests, 0);
        memory_close(&m);
        buffer_fini(&in);
    }
}
END_TEST

START_TEST(endless_continuation_ends_the_connection)
{
    struct buffer in;
    struct memory m;
    begin(&in);
    frame(&in, HEADERS, END_STREAM, 1, "", 0);
    for (int i = 0; i < 100; i++)
        frame(&in, CONTINUATION, 0, 1, "", 0);
    memory_open(&m, 1024);
    ck_assert(!memory_input(&m, in.data, in.n_bytes, 0));
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_CLOSED);
    ck_assert_int_eq(m.n_requests, 0);
    memory_close(&m);
    buffer_fini(&in);
}
END_TEST

START_TEST(rapid_resets_end_the_connection)
{
    struct buffer in;
    struct memory m;
    bool ok = true;
    begin(&in);
    memory_open(&m, 1024);
    for (uint32_t i = 0; i < 3000; i++) {
        headers(&in, 2 * i + 1, END_STREAM, "GET", "/stream", NULL, NULL);
        frame(&in, RST_STREAM, 0, 2 * i + 1, "\0\0\0\x08", 4);
        ok = ok && memory_input(&m, in.data, in.n_bytes, 0);
        buffer_clear(&in);
    }
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_CLOSED);
    ck_assert_int_lt(m.n_requests, 1100);
    memory_close(&m);
    buffer_fini(&in);
}
END_TEST

SUITE("http2_abuse", refuses_heads, a_body_has_the_length_it_says, refuses_frames,
      references_to_large_fields_are_not_decoded_for_ever, endless_continuation_ends_the_connection,
      rapid_resets_end_the_connection, resets_that_are_provoked_end_the_connection, bounds_the_memory_of_all_requests,
      many_good_streams_are_no_flood, acknowledgements_that_nobody_reads_are_bounded,
      answers_that_nobody_reads_stop_the_reading)
