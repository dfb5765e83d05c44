/* Answers and URLs of the HTTP client, from memory. */
#include "tools/http_client.h"

#include "tests/suite.h"

static const struct {
    const char *bytes;
    bool ended;
    enum http_progress progress;
    int status;
    const char *body;
} answers[] = {
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, HTTP_DONE, 200, "hello"},
    {"HTTP/1.1 200 OK\r\ncontent-LENGTH:5 \r\nX: y\r\n\r\nhello and more", false, HTTP_DONE, 200, "hello"},
    {"HTTP/1.0 503 Busy\r\nContent-Length: 0\r\n\r\n", false, HTTP_DONE, 503, ""},
    {"HTTP/1.1 200 OK\r\n\r\nto the end", true, HTTP_DONE, 200, "to the end"},
    {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Made\r\nContent-Length: 1\r\n\r\nx", false, HTTP_DONE, 201, "x"},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nWiki\r\nA;ext=1\r\n0123456789\r\n0\r\n\r\n", false, HTTP_DONE, 200, "Wiki0123456789"},
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", true, HTTP_BAD, 200, NULL},
    {"HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\nhello", false, HTTP_BAD, 200, NULL},
    {"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhello", false, HTTP_BAD, 200, NULL},
    {"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n", false, HTTP_BAD, 200, NULL},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", false, HTTP_BAD, 200, NULL},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", false, HTTP_BAD, 200, NULL},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nWikiXX0\r\n\r\n", false, HTTP_BAD, 200, NULL},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nWi", true, HTTP_BAD, 200, NULL},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", false, HTTP_BAD, 200, NULL},
    {"HTTP/2 200\r\n\r\n", true, HTTP_BAD, 0, NULL},
    {"SSH-2.0-OpenSSH\r\n\r\n", true, HTTP_BAD, 0, NULL},
    {"HTTP/1.1 200 OK\r\nContent-", true, HTTP_BAD, 0, NULL},
    {"", true, HTTP_BAD, 0, NULL},
};

START_TEST(whole_answers)
{
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        struct error err = {0};
        struct buffer body;
        int status = 0;
        buffer_init(&body, 1000);
        enum http_progress p = http_response_parse(answers[i].bytes, strlen(answers[i].bytes), answers[i].ended, &status, &body, &err);
        ck_assert_msg(p == answers[i].progress && status == answers[i].status, "case %zu: %d, status %d, %s", i, p, status, err.message);
        if (p == HTTP_DONE)
            ck_assert_str_eq(body.data ? body.data : "", answers[i].body);
        else
            ck_assert_msg(strstr(err.message, "expected"), "case %zu", i);
        buffer_fini(&body);
    }
}
END_TEST

/* Whatever came so far of a good answer, more is waited for: each prefix from memory of just its size. */
START_TEST(every_prefix)
{
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        if (answers[i].progress != HTTP_DONE || answers[i].ended)
            continue;
        size_t done_at = 0;
        for (size_t n = 0; n <= strlen(answers[i].bytes); n++) {
            char *bytes = malloc(n + 1);
            struct error err = {0};
            struct buffer body;
            int status = 0;
            memcpy(bytes, answers[i].bytes, n);
            char *exact = realloc(bytes, n ? n : 1);
            buffer_init(&body, 1000);
            enum http_progress p = http_response_parse(exact, n, false, &status, &body, &err);
            ck_assert_msg(p != HTTP_BAD && (p == HTTP_DONE) >= (done_at > 0), "case %zu, %zu bytes: %d", i, n, p);
            done_at = p == HTTP_DONE && !done_at ? n : done_at;
            buffer_fini(&body);
            free(exact);
        }
        ck_assert(done_at > 0);
    }
}
END_TEST

START_TEST(urls)
{
    static const struct { const char *text, *host, *port, *path; } good[] = {
        {"http://localhost:8080", "localhost", "8080", ""},
        {"HTTP://10.0.0.1", "10.0.0.1", "80", ""},
        {"http://a.b:1/", "a.b", "1", ""},
        {"http://a.b:65535/llm/v2//", "a.b", "65535", "/llm/v2"},
        {"http://[::1]:99/x", "::1", "99", "/x"},
        {"http://[::1]", "::1", "80", ""},
    };
    static const char *const bad[] = {"https://a", "a:80", "http://", "http://:80", "http://a:", "http://a:0", "http://a:65536", "http://a:8x",
                                      "http://[::1", "http://[::1]x", "http://a b", "http://u@a", "http://a/?q", "http://a:080000", ""};
    struct http_url url;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct error err = {0};
        ck_assert_msg(http_url_parse(good[i].text, &url, &err), "%s", err.message);
        ck_assert_str_eq(url.host, good[i].host);
        ck_assert_str_eq(url.port, good[i].port);
        ck_assert_str_eq(url.path, good[i].path);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct error err = {0};
        ck_assert_msg(!http_url_parse(bad[i], &url, &err) && strstr(err.message, "http://HOST"), "%s", bad[i]);
    }
}
END_TEST

SUITE("http_client", whole_answers, every_prefix, urls)
