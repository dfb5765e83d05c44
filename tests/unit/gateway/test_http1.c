/* HTTP/1.1 from memory: what is understood, what is refused, whatever the pieces in which it comes. */
#include "tests/suite.h"
#include "tests/unit/gateway/memory.h"

#include "base/clock.h"

static int count(const char *text, const char *word)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, word)); p += strlen(word))
        n++;
    return n;
}

struct good {
    const char *name, *request, *answer; /* what must be in the answer */
};

static const struct good good[] = {
    {"get", "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n", "GET /echo? [-] "},
    {"head", "HEAD /echo HTTP/1.1\r\nHost: a\r\n\r\n", "content-length: 16\r\n\r\n"},
    {"query", "GET /echo?a=b&c HTTP/1.1\r\nHost: a\r\n\r\n", "GET /echo?a=b&c [-] "},
    {"header", "GET /echo HTTP/1.1\r\nHost: a\r\nX:  v w \t\r\n\r\n", "[v w] "},
    {"empty header", "GET /echo HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n", "[] "},
    {"body", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "[-] hello"},
    {"empty body", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "POST /echo? [-] "},
    {"chunked",
     "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
     "[-] hello"},
    {"trailers", "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n0\r\nX: y\r\n\r\n",
     "[-] h"},
    {"absolute form", "GET http://a/echo?q HTTP/1.1\r\nHost: a\r\n\r\n", "GET /echo?q [-] "},
    {"absolute form with a port", "GET HTTPS://[::1]:8443/echo HTTP/1.1\r\nHost: a\r\n\r\n", "GET /echo? [-] "},
    {"absolute form without a path", "GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n", "GET /?q [-] "},
    {"asterisk form", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS *? [-] "},
    {"host with port", "GET /echo HTTP/1.1\r\nHost: example.com:8080\r\n\r\n", "GET /echo? [-] "},
    {"host of an IPv6 address", "GET /echo HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", "GET /echo? [-] "},
    {"length with leading zeros",
     "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0000000000000000000000002\r\n\r\nhi", "[-] hi"},
    {"trailers of all kinds",
     "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n0;last\r\nX: y\r\nZ:\r\n\r\n",
     "[-] h"},
    {"empty lines in front", "\r\n\r\nGET /echo HTTP/1.1\r\nHost: a\r\n\r\n", "GET /echo? [-] "},
    {"http/1.0", "GET /echo HTTP/1.0\r\n\r\n", "connection: close\r\n"},
    {"http/1.0 kept", "GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "connection: keep-alive\r\n"},
    {"closed", "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "connection: close\r\n"},
    {"offer of h2c",
     "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
     "HTTP2-Settings: AAMAAABk\r\n\r\n",
     "GET /echo? [-] "},
    {"offer with body",
     "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nhi", "[-] hi"},
};

static void check_good(const struct good *g, size_t n_piece)
{
    struct memory m;
    memory_open(&m, 1024);
    ck_assert_msg(memory_input(&m, g->request, strlen(g->request), n_piece), "%s", g->name);
    ck_assert_msg(m.n_requests == 1 && m.n_rejects == 0, "%s in pieces of %zu: %s", g->name, n_piece, memory_sent(&m));
    ck_assert_msg(strstr(memory_sent(&m), g->answer), "%s in pieces of %zu: %s", g->name, n_piece, memory_sent(&m));
    ck_assert_int_eq(m.n_finished, 1);
    memory_close(&m);
}

START_TEST(understands_in_any_pieces)
{
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        for (size_t n = 0; n <= strlen(good[i].request); n++)
            check_good(&good[i], n);
}
END_TEST

struct bad {
    const char *name, *request;
    int status;
};

#define HEAD "POST /echo HTTP/1.1\r\nHost: a\r\n"

static const struct bad bad[] = {
    {"both lengths", HEAD "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {"both lengths, other order", HEAD "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400},
    {"two lengths", HEAD "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400},
    {"the same length twice", HEAD "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400},
    {"list of lengths", HEAD "Content-Length: 3, 3\r\n\r\nabc", 400},
    {"signed length", HEAD "Content-Length: +3\r\n\r\nabc", 400},
    {"negative length", HEAD "Content-Length: -3\r\n\r\nabc", 400},
    {"hexadecimal length", HEAD "Content-Length: 0x3\r\n\r\nabc", 400},
    {"huge length", HEAD "Content-Length: 99999999999999999999999\r\n\r\n", 400},
    {"empty length", HEAD "Content-Length:\r\n\r\n", 400},
    {"space before colon", HEAD "Content-Length : 3\r\n\r\nabc", 400},
    {"other coding", HEAD "Transfer-Encoding: gzip\r\n\r\n", 400},
    {"coding list", HEAD "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400},
    {"coding twice", HEAD "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {"coding not last", HEAD "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400},
    {"coding with odd letters",
     HEAD "Transfer-Encoding: \x0b"
          "chunked\r\n\r\n0\r\n\r\n",
     400},
    {"coding in 1.0", "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {"folded line", "GET /echo HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400},
    {"folded line by tab", "GET /echo HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n", 400},
    {"first header folded", "GET /echo HTTP/1.1\r\n Host: a\r\n\r\n", 400},
    {"no host", "GET /echo HTTP/1.1\r\n\r\n", 400},
    {"two hosts", "GET /echo HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400},
    {"host with a path", "GET /echo HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
    {"host with a space", "GET /echo HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
    {"host with a user", "GET /echo HTTP/1.1\r\nHost: u@a\r\n\r\n", 400},
    {"list of hosts", "GET /echo HTTP/1.1\r\nHost: a, b\r\n\r\n", 400},
    {"host with a bad port", "GET /echo HTTP/1.1\r\nHost: a:65536\r\n\r\n", 400},
    {"host with two ports", "GET /echo HTTP/1.1\r\nHost: a:1:2\r\n\r\n", 400},
    {"host with an open bracket", "GET /echo HTTP/1.1\r\nHost: [::1\r\n\r\n", 400},
    {"hosts that differ", "GET /echo HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", 400},
    {"absolute form of another scheme", "GET file:///echo HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"absolute form with a user", "GET http://u@a/echo HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"absolute form without a host", "GET http:///echo HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"path with an address in it", "GET x://a/echo HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"asterisk for another method", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"HTTP/2's preface in HTTP/1", "PRI * HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"high byte in the target", "GET /echo\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"two spaces in the request line", "GET  /echo HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"two spaces before the version", "GET /echo  HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"space behind the version", "GET /echo HTTP/1.1 \r\nHost: a\r\n\r\n", 400},
    {"tab in the request line", "GET\t/echo HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"control character in a name", "GET /echo HTTP/1.1\r\nHost: a\r\nX\x01: y\r\n\r\n", 400},
    {"bracket in a name", "GET /echo HTTP/1.1\r\nHost: a\r\nX[: y\r\n\r\n", 400},
    {"high byte in a name", "GET /echo HTTP/1.1\r\nHost: a\r\nX\xe9: y\r\n\r\n", 400},
    {"space in front of the first header", "GET /echo HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n", 400},
    {"length with a space", HEAD "Content-Length: 1 1\r\n\r\nabc", 400},
    {"length with letters", HEAD "Content-Length: 3a\r\n\r\nabc", 400},
    {"length with a point", HEAD "Content-Length: 3.0\r\n\r\nabc", 400},
    {"coding in quotes", HEAD "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 400},
    {"coding with a comma", HEAD "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", 400},
    {"coding with a parameter", HEAD "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", 400},
    {"coding xchunked", HEAD "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400},
    {"empty coding", HEAD "Transfer-Encoding:\r\n\r\n0\r\n\r\n", 400},
    {"identity coding with length", HEAD "Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc", 400},
    {"coding with a space before the colon", HEAD "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400},
    {"coding in a folded line", HEAD "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400},
    {"other expectation", HEAD "Expect: 200-ok\r\nContent-Length: 3\r\n\r\nabc", 417},
    {"two expectations", HEAD "Expect: 100-continue\r\nExpect: x\r\nContent-Length: 3\r\n\r\nabc", 417},
    {"two authorizations", "GET /echo HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n", 400},
    {"two content types", "GET /echo HTTP/1.1\r\nHost: a\r\nContent-Type: a/b\r\nContent-Type: a/b\r\n\r\n", 400},
    {"bare line feeds", "GET /echo HTTP/1.1\nHost: a\n\n", 400},
    {"one bare line feed", "GET /echo HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400},
    {"bare carriage return", "GET /echo HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400},
    {"control character",
     "GET /echo HTTP/1.1\r\nHost: a\r\nX: a\x01"
     "b\r\n\r\n",
     400},
    {"delete character",
     "GET /echo HTTP/1.1\r\nHost: a\r\nX: a\x7f"
     "b\r\n\r\n",
     400},
    {"version 1.2", "GET /echo HTTP/1.2\r\nHost: a\r\n\r\n", 400},
    {"version 0.9", "GET /echo HTTP/0.9\r\nHost: a\r\n\r\n", 400},
    {"version 2.0", "GET /echo HTTP/2.0\r\nHost: a\r\n\r\n", 400},
    {"no version", "GET /echo\r\nHost: a\r\n\r\n", 400},
    {"lower-case version", "GET /echo http/1.1\r\nHost: a\r\n\r\n", 400},
    {"unknown method", "BREW /echo HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"no path", "GET echo HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"authority form", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"fragment", "GET /echo#x HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"nameless header", "GET /echo HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", 400},
    {"header without colon", "GET /echo HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n", 400},
    {"bad chunk size", HEAD "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
    {"huge chunk size", HEAD "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 400},
    {"line feed in chunk size", HEAD "Transfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n", 400},
    {"chunk longer than told", HEAD "Transfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n", 400},
    {"chunk size with a sign", HEAD "Transfer-Encoding: chunked\r\n\r\n+1\r\nh\r\n0\r\n\r\n", 400},
    {"chunk size in C's style", HEAD "Transfer-Encoding: chunked\r\n\r\n0x1\r\nh\r\n0\r\n\r\n", 400},
    {"no chunk size", HEAD "Transfer-Encoding: chunked\r\n\r\n\r\nh\r\n0\r\n\r\n", 400},
    {"space before a chunk size", HEAD "Transfer-Encoding: chunked\r\n\r\n 1\r\nh\r\n0\r\n\r\n", 400},
    {"space behind a chunk size", HEAD "Transfer-Encoding: chunked\r\n\r\n1 \r\nh\r\n0\r\n\r\n", 400},
    {"line feed in a chunk extension", HEAD "Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\nh\r\n0\r\n\r\n", 400},
    {"carriage return in a chunk extension", HEAD "Transfer-Encoding: chunked\r\n\r\n1;a\rb\r\nh\r\n0\r\n\r\n", 400},
    {"NUL in a chunk extension", HEAD "Transfer-Encoding: chunked\r\n\r\n1;a\x01\r\nh\r\n0\r\n\r\n", 400},
    {"carriage return alone behind a chunk size", HEAD "Transfer-Encoding: chunked\r\n\r\n1\rh\r\n0\r\n\r\n", 400},
    {"line feed alone behind a chunk", HEAD "Transfer-Encoding: chunked\r\n\r\n1\r\nh\n0\r\n\r\n", 400},
    {"carriage return alone behind a chunk", HEAD "Transfer-Encoding: chunked\r\n\r\n1\r\nh\r0\r\n\r\n", 400},
    {"line feed alone behind the last chunk", HEAD "Transfer-Encoding: chunked\r\n\r\n0\n\r\n", 400},
    {"line feed alone at the end", HEAD "Transfer-Encoding: chunked\r\n\r\n0\r\n\n", 400},
    {"carriage return alone at the end", HEAD "Transfer-Encoding: chunked\r\n\r\n0\r\n\rX", 400},
    {"line feed alone behind a trailer", HEAD "Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\r\n", 400},
    {"carriage return alone behind a trailer", HEAD "Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\rZ: a\r\n\r\n", 400},
    {"folded trailer", HEAD "Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n z\r\n\r\n", 400},
    {"trailer without colon", HEAD "Transfer-Encoding: chunked\r\n\r\n0\r\nnonsense\r\n\r\n", 400},
    {"trailer with a space before the colon", HEAD "Transfer-Encoding: chunked\r\n\r\n0\r\nX : y\r\n\r\n", 400},
    {"control character in a trailer", HEAD "Transfer-Encoding: chunked\r\n\r\n0\r\nX: \x01\r\n\r\n", 400},
    {"a length as trailer", HEAD "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n", 400},
    {"a coding as trailer", HEAD "Transfer-Encoding: chunked\r\n\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
    {"body too large", HEAD "Content-Length: 1025\r\n\r\n", 413},
    {"chunk too large", HEAD "Transfer-Encoding: chunked\r\n\r\n401\r\n", 413},
};

static void check_bad(const struct bad *b, size_t n_piece)
{
    struct memory m;
    char body[1026];
    memory_open(&m, 1024);
    memory_input(&m, b->request, strlen(b->request), n_piece);
    memset(body, 'x', sizeof body);
    if (b->status == 413)
        memory_input(&m, body, 1025, 0);
    ck_assert_msg(m.n_requests == 0 && m.n_rejects == 1, "%s in pieces of %zu: %s", b->name, n_piece, memory_sent(&m));
    ck_assert_msg(m.reject_status == b->status, "%s: %d", b->name, m.reject_status);
    ck_assert_msg(strstr(memory_sent(&m), "connection: close"), "%s", b->name);
    /* Nothing behind it is understood as a request. */
    memory_text(&m, "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n");
    ck_assert_msg(m.n_requests == 0, "%s: smuggled", b->name);
    ck_assert_msg(http_conn_phase(m.conn) == HTTP_PHASE_LINGER, "%s", b->name);
    memory_close(&m);
}

START_TEST(refuses_in_any_pieces)
{
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        for (size_t n = 0; n <= strlen(bad[i].request); n++)
            check_bad(&bad[i], n);
}
END_TEST

START_TEST(answers_pipelined_requests_in_order)
{
    struct memory m;
    memory_open(&m, 1024);
    memory_text(&m,
                "GET /echo?1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /echo?2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
                "GET /stream HTTP/1.1\r\nHost: a\r\n\r\nGET /echo?4 HTTP/1.1\r\nHost: a\r\n\r\n");
    ck_assert_int_eq(m.n_requests, 3);
    ck_assert_ptr_null(strstr(memory_sent(&m), "?4"));
    http_write(m.stream, "abc", 3);
    http_end(m.stream);
    http_conn_output(m.conn, &m.out);
    ck_assert_int_eq(m.n_requests, 4);
    const char *one = strstr(memory_sent(&m), "?1"), *two = strstr(memory_sent(&m), "?2 [-] x");
    const char *three = strstr(memory_sent(&m), "3\r\nabc\r\n0\r\n\r\n"), *four = strstr(memory_sent(&m), "?4");
    ck_assert(one && two > one && three > two && four > three);
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_IDLE);
    memory_close(&m);
}
END_TEST

START_TEST(a_head_request_gets_no_body)
{
    struct memory m;
    memory_open(&m, 1024);
    memory_text(&m, "HEAD /echo HTTP/1.1\r\nHost: a\r\n\r\nHEAD /nothing HTTP/1.1\r\nHost: a\r\n\r\n"
                    "HEAD /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    http_write(m.stream, "abc", 3);
    http_end(m.stream);
    http_conn_output(m.conn, &m.out);
    const char *sent = memory_sent(&m);
    ck_assert_int_eq(count(sent, "\r\n\r\nHTTP/1.1 "), 2);
    ck_assert_int_eq(count(sent, "content-length: "), 2);
    ck_assert_ptr_null(strstr(sent, "chunked"));
    ck_assert_str_eq(sent + strlen(sent) - 4, "\r\n\r\n");
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_IDLE);
    memory_close(&m);
}
END_TEST

START_TEST(continues_when_asked)
{
    struct memory m;
    memory_open(&m, 1024);
    memory_text(&m, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    ck_assert_str_eq(memory_sent(&m), "HTTP/1.1 100 Continue\r\n\r\n");
    memory_text(&m, "ok");
    ck_assert_ptr_nonnull(strstr(memory_sent(&m), "[-] ok"));
    memory_close(&m);
    memory_open(&m, 1024);
    memory_text(&m, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\nExpect: 100-continue\r\n\r\n");
    ck_assert_int_eq(m.reject_status, 413);
    ck_assert_ptr_null(strstr(memory_sent(&m), "100 Continue"));
    memory_close(&m);
    memory_open(&m, 1024);
    memory_text(&m, "POST /echo HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    ck_assert_str_eq(memory_sent(&m), ""); /* HTTP/1.0 knows no interim answers */
    memory_text(&m, "ok");
    ck_assert_int_eq(m.n_requests, 1);
    memory_close(&m);
}
END_TEST

START_TEST(streams_with_back_pressure)
{
    struct memory m;
    char block[4096];
    memset(block, 'x', sizeof block);
    memory_open(&m, 1024);
    memory_text(&m, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    ck_assert_ptr_nonnull(strstr(memory_sent(&m), "transfer-encoding: chunked\r\n"));
    for (int i = 0; i < 5; i++)
        http_write(m.stream, block, sizeof block);
    ck_assert_uint_ge(http_queued(m.stream), 5 * sizeof block);
    m.pending = 20000; /* the transport took it and cannot pass it on */
    http_conn_output(m.conn, &m.out);
    ck_assert_int_eq(m.n_writable, 0);
    m.pending = 100;
    http_conn_output(m.conn, &m.out);
    ck_assert_int_eq(m.n_writable, 1);
    http_conn_output(m.conn, &m.out);
    ck_assert_int_eq(m.n_writable, 1);
    memory_close(&m);
    ck_assert_int_eq(m.n_gone, 1);
    ck_assert_int_eq(m.n_aborted, 1);
}
END_TEST

START_TEST(old_streams_end_with_the_connection)
{
    struct memory m;
    memory_open(&m, 1024);
    memory_text(&m, "GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    http_write(m.stream, "abc", 3);
    http_end(m.stream);
    http_conn_output(m.conn, &m.out);
    ck_assert_ptr_null(strstr(memory_sent(&m), "chunked"));
    ck_assert_ptr_nonnull(strstr(memory_sent(&m), "\r\n\r\nabc"));
    ck_assert_ptr_nonnull(strstr(memory_sent(&m), "connection: close\r\n"));
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_LINGER);
    memory_close(&m);
}
END_TEST

START_TEST(drains)
{
    struct memory m;
    memory_open(&m, 1024);
    memory_text(&m, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    http_conn_drain(m.conn);
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_ANSWER);
    http_end(m.stream);
    http_conn_output(m.conn, &m.out);
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_IDLE); /* that answer had promised to go on */
    memory_text(&m, "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n");
    ck_assert_ptr_nonnull(strstr(memory_sent(&m), "connection: close\r\n"));
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_LINGER);
    memory_close(&m);
}
END_TEST

START_TEST(an_idle_connection_ends_with_the_drain)
{
    struct memory m;
    memory_open(&m, 1024);
    memory_text(&m, "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n");
    http_conn_drain(m.conn);
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_IDLE);
    http_conn_drain(m.conn);
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_LINGER);
    memory_close(&m);
}
END_TEST

/* An answer that had promised to go on ends long after the server began to go down: the next request may be on its way. */
START_TEST(a_late_answer_leaves_time_for_one_more_request)
{
    const int64_t s = CLOCK_NS_PER_S;
    struct memory m;
    memory_open(&m, 1024);
    m.settings.limits = (struct http_limits){.drain_ns = s};
    memory_text(&m, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    http_conn_drain(m.conn);
    http_conn_check(m.conn, 100 * s);
    http_conn_check(m.conn, 110 * s);
    http_end(m.stream);
    http_conn_output(m.conn, &m.out);
    ck_assert_int_eq(http_conn_check(m.conn, 120 * s), 121 * s);
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_IDLE);
    http_conn_check(m.conn, 121 * s);
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_LINGER);
    memory_close(&m);
}
END_TEST

START_TEST(aborts_without_the_last_chunk)
{
    struct memory m;
    memory_open(&m, 1024);
    memory_text(&m, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    http_write(m.stream, "abc", 3);
    http_abort(m.stream);
    http_conn_output(m.conn, &m.out);
    ck_assert_ptr_null(strstr(memory_sent(&m), "0\r\n\r\n"));
    ck_assert_int_eq(http_conn_phase(m.conn), HTTP_PHASE_CLOSED);
    ck_assert_int_eq(count(memory_sent(&m), "HTTP/1.1 200 OK"), 1);
    memory_close(&m);
}
END_TEST

SUITE("http1", understands_in_any_pieces, refuses_in_any_pieces, answers_pipelined_requests_in_order,
      a_head_request_gets_no_body, continues_when_asked, streams_with_back_pressure, old_streams_end_with_the_connection,
      drains, an_idle_connection_ends_with_the_drain, a_late_answer_leaves_time_for_one_more_request,
      aborts_without_the_last_chunk)
