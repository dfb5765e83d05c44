/* Answers over HTTP/1.1, cut anywhere: events of the three APIs, refusals, errors, ends by length, chunks and closing. */
#include "tests/suite.h"

#include "tools/load_http.h"

#define HEAD "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
#define CHUNKED HEAD "Transfer-Encoding: chunked\r\n\r\n"

static char text[256];

static void on_text(void *user, const char *at, size_t n)
{
    (void)user;
    snprintf(text + strlen(text), sizeof text - strlen(text), "%.*s", (int)n, at);
}

struct expected {
    enum load_api api;
    const char *bytes;
    bool closed; /* the connection, after them */
    int how;
    const char *kind, *text;
    uint64_t n_tokens;
    int64_t n_completion, retry_ms;
    bool keep_alive;
};

static void check(const struct expected *e, size_t cut)
{
    struct load_answer a;
    struct load_end end;
    size_t n = strlen(e->bytes);
    text[0] = '\0';
    load_answer_init(&a);
    load_answer_begin(&a, e->api, on_text, NULL);
    ck_assert_msg(load_answer_feed(&a, e->bytes, cut) && (a.over || load_answer_feed(&a, e->bytes + cut, n - cut)),
                  "%s at %zu", e->bytes, cut);
    ck_assert_msg(a.over != e->closed, "%s at %zu", e->bytes, cut);
    if (e->closed)
        ck_assert(load_answer_closed(&a) && a.over);
    load_answer_end(&a, &end);
    ck_assert_int_eq((int)end.how, e->how);
    if (e->how != END_COMPLETED)
        ck_assert_str_eq(end.kind, e->kind);
    ck_assert_str_eq(text, e->text);
    ck_assert_uint_eq(a.n_tokens, e->n_tokens);
    ck_assert_int_eq(end.n_tokens, e->n_completion);
    ck_assert_int_eq(end.retry_ms, e->retry_ms);
    ck_assert_int_eq(a.keep_alive, e->keep_alive);
    load_answer_fini(&a);
}

static const struct expected cases[] = {
    {LOAD_INFERENCE,
     CHUNKED "4f\r\nevent: token\nid: 0\ndata: {\"type\":\"token\",\"text\":\"\",\"token_id\":3,\"position\":0}\n\n\r\n"
             "3e\r\nevent: token\ndata: {\"type\":\"token\",\"text\":\"Hi\",\"token_id\":4}\n\n\r\n"
             "55\r\nevent: complete\ndata: "
             "{\"type\":\"complete\",\"total_tokens\":2,\"finish_reason\":\"length\"}\n\n\r\n0\r\n\r\n",
     false, END_COMPLETED, "", "Hi", 2, 2, -1, true},
    {LOAD_INFERENCE,
     HEAD "Connection: close\r\n\r\nevent: token\ndata: {\"text\":\"a\"}\n\nevent: complete\ndata: "
          "{\"total_tokens\":1,\"finish_reason\":\"deadline\"}\n\n",
     true, END_EXPIRED, "finish reason deadline", "a", 1, 1, -1, false},
    {LOAD_INFERENCE,
     HEAD
     "Content-Length: 71\r\n\r\nevent: error\ndata: {\"code\":\"INFERENCE_FAILED\",\"message\":\"a long one\"}\n\n",
     false, END_FAILED, "INFERENCE_FAILED event", "", 0, -1, -1, true},
    {LOAD_INFERENCE, HEAD "Content-Length: 36\r\n\r\nevent: token\ndata: {\"text\":\"cut\"}\n\n\n", false, END_FAILED,
     "client: a stream without its last event", "cut", 1, -1, -1, true},
    {LOAD_COMPLETIONS,
     HEAD "\r\ndata: {\"choices\":[{\"index\":0,\"text\":\"one \"}],\"usage\":null}\n\ndata: "
          "{\"choices\":[{\"text\":\"two\"}]}\n\n"
          "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n",
     true, END_COMPLETED, "", "one two", 2, 3, -1, false},
    {LOAD_CHAT,
     HEAD "\r\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n"
          "data: {\"choices\":[{\"delta\":{\"content\":\"x\\n\"}}]}\n\ndata: "
          "{\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
     true, END_COMPLETED, "", "x\\n", 1, -1, -1, false},
    {LOAD_CHAT, HEAD "\r\ndata: {\"error\":{\"message\":\"m\",\"code\":\"INTERNAL_ERROR\"}}\n\n", true, END_FAILED,
     "INTERNAL_ERROR event", "", 0, -1, -1, false},
    {LOAD_INFERENCE,
     "HTTP/1.1 503 Service Unavailable\r\nretry-after: 3\r\nContent-Length: "
     "41\r\n\r\n{\"error\":{\"code\":\"SERVICE_UNAVAILABLE\" }}",
     false, END_REFUSED, "503 SERVICE_UNAVAILABLE", "", 0, -1, 3000, true},
    {LOAD_COMPLETIONS, "HTTP/1.1 429 Too Many\r\nRetry-After: 120\r\nRetry-After-Not: 5\r\nContent-Length: 0\r\n\r\n",
     false, END_REFUSED, "429 ", "", 0, -1, 120000, true},
    {LOAD_INFERENCE, "HTTP/1.1 504 Late\r\nContent-Length: 0\r\n\r\n", false, END_EXPIRED, "504 ", "", 0, -1, -1, true},
    {LOAD_INFERENCE, "HTTP/1.0 404 Not Found\r\n\r\n{\"error\":{\"type\":\"not_found_error\"}}", true, END_FAILED,
     "404 not_found_error", "", 0, -1, -1, false},
};

START_TEST(answers_cut_anywhere)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t cut = 0; cut <= strlen(cases[i].bytes); cut++)
            check(&cases[i], cut);
}
END_TEST

START_TEST(what_is_no_answer)
{
    static const char *const bytes[] = {"HTTP/2 200\r\n\r\n", "garbage\r\n\r\n",
                                        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"};
    struct load_answer a;
    load_answer_init(&a);
    for (size_t i = 0; i < 3; i++) {
        load_answer_begin(&a, LOAD_CHAT, on_text, NULL);
        ck_assert_msg(!load_answer_feed(&a, bytes[i], strlen(bytes[i])), "%s", bytes[i]);
    }
    load_answer_begin(&a, LOAD_CHAT, on_text, NULL);
    ck_assert(load_answer_feed(&a, CHUNKED "5\r\nda", strlen(CHUNKED) + 5)); /* closed within a chunk */
    ck_assert(!load_answer_closed(&a));
    load_answer_fini(&a);
}
END_TEST

START_TEST(one_answer_after_another)
{
    struct load_answer a;
    struct load_end end;
    load_answer_init(&a);
    for (int i = 0; i < 3; i++) {
        const struct expected *e = &cases[i == 1 ? 7 : 0];
        text[0] = '\0';
        load_answer_begin(&a, e->api, on_text, NULL);
        ck_assert(load_answer_feed(&a, e->bytes, strlen(e->bytes)) && a.over);
        load_answer_end(&a, &end);
        ck_assert_int_eq((int)end.how, e->how);
        ck_assert_str_eq(text, e->text);
        ck_assert_int_eq(end.retry_ms, e->retry_ms);
    }
    load_answer_fini(&a);
}
END_TEST

SUITE("load answer", answers_cut_anywhere, what_is_no_answer, one_answer_after_another)
