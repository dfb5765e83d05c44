/* tracestate on its way. */
#include "tests/suite.h"

#include "gateway/trace.h"

#define TEN "0123456789"
#define HUNDRED TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN

static const struct {
    const char *first, *second; /* header values; NULL = none */
    bool parent;
    const char *want;
} cases[] = {
    {"a=1", NULL, true, "a=1"},
    {"a=1", "b=2,c=3", true, "a=1,b=2,c=3"},
    {"a=1", NULL, false, ""}, /* without a traceparent it has no meaning */
    {"", "b=2", true, "b=2"},
    {NULL, NULL, true, ""},
    {"a=\x01", NULL, true, ""},
    {"a=1", "b=\xc3\xa4", true, ""},
    {"a=" HUNDRED HUNDRED, "b=" HUNDRED HUNDRED HUNDRED, true, "a=" HUNDRED HUNDRED ",b=" HUNDRED HUNDRED HUNDRED},
    {"a=" HUNDRED HUNDRED HUNDRED, "b=" HUNDRED HUNDRED HUNDRED, true, ""},
};

START_TEST(what_is_passed_on)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[TRACE_STATE_BYTES];
        struct http_header headers[4] = {{"host", "a"}};
        struct http_request http = {.headers = headers, .n_headers = 1};
        struct request r = {.http = &http};
        if (cases[i].first)
            headers[http.n_headers++] = (struct http_header){"tracestate", cases[i].first};
        if (cases[i].second)
            headers[http.n_headers++] = (struct http_header){"tracestate", cases[i].second};
        if (cases[i].parent)
            headers[http.n_headers++] =
                (struct http_header){"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"};
        ck_assert_str_eq(trace_state(&r, out), cases[i].want);
    }
}
END_TEST

SUITE("trace", what_is_passed_on)
