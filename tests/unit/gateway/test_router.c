/* Paths and methods to routes. */
#include "tests/suite.h"

#include "gateway/router.h"

struct one {
    const char *path;
    enum http_method method;
    unsigned where;
    const char *pattern, *param, *allow;
};

static const struct one ones[] = {
    {"/v1/inference", HTTP_METHOD_POST, ROUTE_MAIN, "/v1/inference", "", ""},
    {"/v1/inference", HTTP_METHOD_GET, ROUTE_MAIN, NULL, "", "POST, OPTIONS"},
    {"/v1/inference/", HTTP_METHOD_POST, ROUTE_MAIN, NULL, "", ""},
    {"/v1/inference", HTTP_METHOD_POST, ROUTE_ADMIN, NULL, "", ""},
    {"/health", HTTP_METHOD_HEAD, ROUTE_ADMIN, "/health", "", ""},
    {"/health", HTTP_METHOD_OTHER, ROUTE_MAIN, NULL, "", "GET, HEAD, OPTIONS"},
#ifdef FEATURE_PROMETHEUS
    {"/metrics", HTTP_METHOD_GET, ROUTE_ADMIN, "/metrics", "", ""},
#else
    {"/metrics", HTTP_METHOD_GET, ROUTE_ADMIN, NULL, "", ""},
#endif
    {"/metrics", HTTP_METHOD_GET, ROUTE_MAIN, NULL, "", ""},
    {"/v1/models/a%2Db", HTTP_METHOD_GET, ROUTE_MAIN, "/v1/models/{id}", "a-b", ""},
    {"/v1/models/a", HTTP_METHOD_DELETE, ROUTE_MAIN, "/v1/models/{id}", "a", ""},
    {"/v1/models/a", HTTP_METHOD_PUT, ROUTE_MAIN, NULL, "a", "GET, HEAD, DELETE, OPTIONS"},
    {"/v1/models/a/status", HTTP_METHOD_GET, ROUTE_MAIN, "/v1/models/{id}/status", "a", ""},
    {"/v1/models/load", HTTP_METHOD_POST, ROUTE_MAIN, "/v1/models/load", "", ""},
    {"/v1/models/", HTTP_METHOD_GET, ROUTE_MAIN, NULL, "", ""},
    {"/v1/models/a%2Fb", HTTP_METHOD_GET, ROUTE_MAIN, "/v1/models/{id}", "a/b", ""},
    {"/v1/models/a%2Fstatus", HTTP_METHOD_GET, ROUTE_MAIN, "/v1/models/{id}", "a/status", ""},
    {"/v1/models/a/b", HTTP_METHOD_GET, ROUTE_MAIN, NULL, NULL, ""},
    {"/v1/models/a%00", HTTP_METHOD_GET, ROUTE_MAIN, NULL, NULL, ""},
    {"/v1/models/a%zz", HTTP_METHOD_GET, ROUTE_MAIN, NULL, NULL, ""},
    {"/v1/models/a%2", HTTP_METHOD_GET, ROUTE_MAIN, NULL, NULL, ""},
    {"*", HTTP_METHOD_OPTIONS, ROUTE_MAIN, NULL, "", ""},
    {"", HTTP_METHOD_GET, ROUTE_MAIN, NULL, "", ""},
};

START_TEST(finds)
{
    for (size_t i = 0; i < sizeof ones / sizeof *ones; i++) {
        char param[16] = "", allow[ROUTER_ALLOW_BYTES];
        const struct route *r = router_find(ones[i].path, ones[i].method, ones[i].where, param, sizeof param, allow);
        ck_assert_msg(!r == !ones[i].pattern, "%s", ones[i].path);
        if (r)
            ck_assert_str_eq(r->pattern, ones[i].pattern);
        else
            ck_assert_str_eq(allow, ones[i].allow);
        if (ones[i].param)
            ck_assert_str_eq(param, ones[i].param);
    }
}
END_TEST

START_TEST(long_ids_are_not_cut)
{
    char param[8], allow[ROUTER_ALLOW_BYTES];
    ck_assert_ptr_nonnull(router_find("/v1/models/1234567", HTTP_METHOD_GET, ROUTE_MAIN, param, sizeof param, allow));
    ck_assert_ptr_null(router_find("/v1/models/12345678", HTTP_METHOD_GET, ROUTE_MAIN, param, sizeof param, allow));
}
END_TEST

SUITE("router", finds, long_ids_are_not_cut)
