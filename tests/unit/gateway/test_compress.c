/* gzip: for which answers, for which clients, and that what comes out is what went in. */
#include "tests/suite.h"
#include "tests/unit/gateway/memory.h"

#include "gateway/compress.h"

#include <zlib.h>

struct wish {
    const char *value; /* of Accept-Encoding; NULL = there is none */
    bool gzip;
};

static const struct wish wishes[] = {
    {NULL, false},
    {"", false},
    {"gzip", true},
    {"GZIP", true},
    {"x-gzip", true},
    {"deflate, br", false},
    {"br, gzip;q=0.8, *;q=0.1", true},
    {"gzip;q=0", false},
    {"gzip;q=0.000", false},
    {"gzip;q=0.001", true},
    {"gzip; q=1.0", true},
    {"gzip ;Q=0.5 ", true},
    {"*", true},
    {"*;q=0", false},
    {"gzip;q=0, *", false},
    {"identity", false},
    {"identity;q=0", false},
    {"identity, gzip", true},
    {"identity;q=1, gzip;q=0.5", false},
    {"identity;q=0.5, gzip;q=0.5", true},
    {"identity;q=0.5, gzip;q=0.05", false},
    {"identity;q=0.05, gzip;q=0.5", true},
    {"gzip;q=2", false},
    {"gzip;q=1.001", false},
    {"gzip;q=0.0001", false},
    {"gzip;q=", false},
    {"gzip;q=a", false},
    {"gzip;x=1", false},
    {"gzipped", false},
    {",,gzip,,", true},
    {" \t,", false},
};

START_TEST(obeys_the_client)
{
    for (size_t i = 0; i < sizeof wishes / sizeof *wishes; i++) {
        const struct http_header header = {"accept-encoding", wishes[i].value};
        const struct http_request r = {.headers = &header, .n_headers = wishes[i].value != NULL};
        ck_assert_msg(compress_accepted(&r) == wishes[i].gzip, "%s", wishes[i].value ? wishes[i].value : "none");
    }
}
END_TEST

START_TEST(reads_all_lines)
{
    const struct http_header lines[] = {{"accept-encoding", "br"}, {"x", "y"}, {"accept-encoding", "gzip"}};
    ck_assert(compress_accepted(&(struct http_request){.headers = lines, .n_headers = 3}));
}
END_TEST

struct answer {
    int status;
    size_t n_bytes;
    const char *type, *name, *value; /* one more header */
    bool suits;
};

static const struct answer answers[] = {
    {200, 1024, "application/json", NULL, NULL, true},
    {404, 1024, "application/problem+json", NULL, NULL, true},
    {200, 1023, "application/json", NULL, NULL, false},
    {200, COMPRESS_MAX_BYTES, "text/html; charset=utf-8", NULL, NULL, true},
    {200, COMPRESS_MAX_BYTES + 1, "text/html", NULL, NULL, false},
    {200, 4096, "Application/JSON;charset=utf-8", NULL, NULL, true},
    {200, 4096, "application/openmetrics-text; version=1.0.0", NULL, NULL, true},
    {200, 4096, "application/yaml", NULL, NULL, true},
    {200, 4096, "image/svg+xml", NULL, NULL, true},
    {200, 4096, "image/png", NULL, NULL, false},
    {200, 4096, "text/event-stream", NULL, NULL, false},
    {200, 4096, "text/event-stream; charset=utf-8", NULL, NULL, false},
    {200, 4096, "text", NULL, NULL, false},
    {206, 4096, "text/html", NULL, NULL, false},
    {200, 4096, "text/html", "content-encoding", "br", false},
    {200, 4096, "text/html", "cache-control", "no-store, no-transform", false},
    {200, 4096, "text/html", "cache-control", "no-store", true},
};

START_TEST(suits_text_of_some_size)
{
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        const struct http_header headers[] = {
            {"content-type", answers[i].type}, {answers[i].name, answers[i].value}, {NULL, NULL}};
        ck_assert_msg(compress_suits(answers[i].status, headers, answers[i].n_bytes) == answers[i].suits, "%zu: %s", i,
                      answers[i].type);
    }
    ck_assert(!compress_suits(200, NULL, 4096));
}
END_TEST

static void inflate_all(const void *data, size_t n_bytes, char *out, size_t n_out)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)data,
                  .avail_in = (uInt)n_bytes,
                  .next_out = (Bytef *)out,
                  .avail_out = (uInt)n_out};
    ck_assert_int_eq(inflateInit2(&z, 15 + 16), Z_OK);
    ck_assert_int_eq(inflate(&z, Z_FINISH), Z_STREAM_END);
    ck_assert_uint_eq(z.total_out, n_out);
    ck_assert_uint_eq(z.avail_in, 0);
    inflateEnd(&z);
}

START_TEST(comes_out_as_it_went_in)
{
    static char text[100000], back[sizeof text];
    struct buffer out;
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)('a' + i * i % 7);
    buffer_init(&out, sizeof text);
    ck_assert(compress_gzip(text, sizeof text, &out));
    ck_assert_uint_lt(out.n_bytes, sizeof text / 2);
    inflate_all(out.data, out.n_bytes, back, sizeof back);
    ck_assert_mem_eq(text, back, sizeof text);
    buffer_fini(&out);
}
END_TEST

START_TEST(noise_is_left_as_it_is)
{
    unsigned char noise[4096];
    struct buffer out;
    uint32_t state = 1;
    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (unsigned char)((state = state * 1664525 + 1013904223) >> 24);
    buffer_init(&out, sizeof noise);
    ck_assert(!compress_gzip(noise, sizeof noise, &out));
    ck_assert_uint_eq(out.n_bytes, 0);
    buffer_fini(&out);
}
END_TEST

/* ---- through a connection ---- */

static void large_answer(void *user, struct http_exchange *x)
{
    static char body[5000];
    static const struct http_header headers[] = {{"content-type", "text/plain"}, {"etag", "\"v1\""}, {NULL, NULL}};
    memset(body, 'x', sizeof body);
    ((struct memory *)user)->n_requests++;
    http_respond(x, 200, headers, body, sizeof body);
}

static void ask(struct memory *m, const char *method, const char *headers, bool compress)
{
    char request[200];
    memory_open(m, 1024);
    m->settings.compress = compress;
    m->settings.on_request = large_answer;
    snprintf(request, sizeof request, "%s / HTTP/1.1\r\nHost: a\r\n%s\r\n", method, headers);
    memory_text(m, request);
    ck_assert_int_eq(m->n_requests, 1);
}

START_TEST(the_answer_says_so)
{
    struct memory m;
    char back[5000];
    ask(&m, "GET", "Accept-Encoding: gzip\r\n", true);
    ck_assert_ptr_nonnull(strstr(memory_sent(&m), "content-encoding: gzip\r\n"));
    ck_assert_ptr_nonnull(strstr(memory_sent(&m), "vary: accept-encoding\r\n"));
    ck_assert_ptr_nonnull(strstr(memory_sent(&m), "etag: W/\"v1\"\r\n"));
    const char *body = strstr(memory_sent(&m), "\r\n\r\n") + 4;
    size_t n = m.out.n_bytes - (size_t)(body - m.out.data);
    ck_assert_int_eq(atoi(strstr(memory_sent(&m), "content-length: ") + 16), (int)n);
    inflate_all(body, n, back, sizeof back);
    memory_close(&m);
}
END_TEST

START_TEST(the_plain_answer_varies_too)
{
    struct memory m;
    ask(&m, "GET", "", true);
    ck_assert_ptr_null(strstr(memory_sent(&m), "content-encoding"));
    ck_assert_ptr_nonnull(strstr(memory_sent(&m), "vary: accept-encoding\r\n"));
    ck_assert_ptr_nonnull(strstr(memory_sent(&m), "etag: \"v1\"\r\n"));
    ck_assert_ptr_nonnull(strstr(memory_sent(&m), "content-length: 5000\r\n"));
    memory_close(&m);
}
END_TEST

START_TEST(head_is_told_what_get_would_be)
{
    struct memory get, head;
    ask(&get, "GET", "Accept-Encoding: gzip\r\n", true);
    ask(&head, "HEAD", "Accept-Encoding: gzip\r\n", true);
    const char *length = strstr(memory_sent(&get), "content-length: ");
    ck_assert_ptr_nonnull(strstr(memory_sent(&head), "content-encoding: gzip\r\n"));
    ck_assert_int_eq(atoi(strstr(memory_sent(&head), "content-length: ") + 16), atoi(length + 16));
    ck_assert_str_eq(memory_sent(&head) + head.out.n_bytes - 4, "\r\n\r\n");
    memory_close(&get);
    memory_close(&head);
}
END_TEST

START_TEST(off_is_off)
{
    struct memory m;
    ask(&m, "GET", "Accept-Encoding: gzip\r\n", false);
    ck_assert_ptr_null(strstr(memory_sent(&m), "content-encoding"));
    ck_assert_ptr_null(strstr(memory_sent(&m), "vary"));
    memory_close(&m);
}
END_TEST

SUITE("compress", obeys_the_client, reads_all_lines, suits_text_of_some_size, comes_out_as_it_went_in,
      noise_is_left_as_it_is, the_answer_says_so, the_plain_answer_varies_too, head_is_told_what_get_would_be,
      off_is_off)
