/* How many requests are let in: a client's share, and what there is in all. */
#include "tests/unit/gateway/admission.h"

START_TEST(limits_are_told_and_hold)
{
    setup();
    app.config.rate_limits = "on";
    app.config.rate_limit_inference = 3;
    begin();
    long long reset = 0;
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(ask("POST", "/v1/chat/completions", JSON), 400); /* what is refused later counts as well */
        ck_assert_int_eq(field("x-ratelimit-limit"), 3);
        ck_assert_int_eq(field("x-ratelimit-remaining"), 2 - i);
        reset = field("x-ratelimit-reset");
        long long left = reset - clock_wall_ns() / CLOCK_NS_PER_S;
        ck_assert(left >= 58 && left <= 61);
        ck_assert(says("ratelimit-policy: \"inference\";q=3;w=60\r\n"));
        ck_assert(says(i == 0 ? "ratelimit: \"inference\";r=2;t=60\r\n" : "ratelimit: \"inference\";r="));
        ck_assert(!says("retry-after"));
    }
    ck_assert_int_eq(ask("POST", "/v1/inference", JSON), 429);
    ck_assert_int_eq(app_n_calls, 0);
    ck_assert(says("RATE_LIMIT_EXCEEDED"));
    ck_assert_int_eq(field("x-ratelimit-remaining"), 0);
    ck_assert_int_eq(field("x-ratelimit-reset"), reset);
    long long retry = field("retry-after");
    ck_assert(retry >= 58 && retry <= 60);
    ck_assert_int_eq(field("x-ratelimit-retry-after"), retry);
    ck_assert_double_eq(rejections("rate_limit"), 1);
    /* Other classes go on, and each answer says which one it is. */
    ck_assert_int_eq(ask("GET", "/health/live", ""), 200);
    ck_assert(says("ratelimit-policy: \"health\";q=600;w=60\r\n"));
    ck_assert_int_eq(ask("GET", "/nothing", ""), 404);
    ck_assert_int_eq(field("x-ratelimit-remaining"), 598);
    ck_assert_int_eq(ask("GET", "/v1/stats?unknown", ""), 400);
    ck_assert(says("\"stats\";r=59"));
    ck_assert_int_eq(ask("POST", "/v1/models/load", ""), 403);
    ck_assert(says("\"models\";r=9"));
    finish();
}
END_TEST

START_TEST(streams_and_refused_forms_are_told)
{
    setup();
    app.config.rate_limits = "on";
    app.config.max_body_bytes = 100;
    app.g.main_http.max_body_bytes = 100;
    begin();
    app_post(&app, "/v1/inference/stream", "{\"prompt\":\"Hi\",\"seed\":7}");
    app_token(0, 0, 0, 5, "x", 0);
    ck_assert(says("text/event-stream"));
    ck_assert_int_eq(field("x-ratelimit-remaining"), 99);
    memory_close(&app.m);
    app_connect(&app, &app.g.main_http);
    char body[200];
    memset(body, ' ', sizeof body);
    body[sizeof body - 1] = '\0';
    app_post(&app, "/v1/inference", body);
    ck_assert_int_eq(app_status(&app), 413);
    ck_assert_int_eq(field("x-ratelimit-remaining"), 98);
    finish();
}
END_TEST

/* Probes come there, and nobody is to find them refused because of what else came. */
START_TEST(the_admin_port_counts_for_nobody)
{
    static const char two_hosts[] = "GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
    setup();
    app.config.rate_limits = "on";
    app.config.rate_limit_health = 1;
    begin();
    memory_close(&app.m);
    app_connect(&app, &app.g.admin_http);
    memory_text(&app.m, two_hosts);
    ck_assert_int_eq(app_status(&app), 400);
    ck_assert(!says("x-ratelimit"));
    ck_assert_uint_eq(app.g.n_active, 0);
    memory_close(&app.m);
    app_connect(&app, &app.g.main_http);
    memory_text(&app.m, two_hosts);
    ck_assert_int_eq(app_status(&app), 400);
    ck_assert_int_eq(field("x-ratelimit-remaining"), 0);
    finish();
}
END_TEST

START_TEST(clients_do_not_share)
{
    setup();
    app.config.rate_limits = "on";
    app.config.rate_limit_stats = 2;
    app.config.trusted_proxies = "192.0.2.0/24";
    begin_with_keys();
    static const char *const clients[] = {
        "Authorization: Bearer a\r\n",
        "Authorization: Bearer b\r\n",
        "X-Forwarded-For: 203.0.113.1\r\n",
        "X-Forwarded-For: 203.0.113.2\r\n",
        "X-Forwarded-For: 2001:db8:0:1::1\r\n",
        "X-Forwarded-For: 2001:db8:0:2::1\r\n",
        "",
    };
    for (size_t i = 0; i < sizeof clients / sizeof *clients; i++)
        for (int k = 0; k < 3; k++) {
            app_n_calls = 0;
            ck_assert_msg(let_in("GET", "/v1/models", clients[i]) == (k < 2 ? 0 : 429), "%s", clients[i]);
            if (k < 2)
                buffer_fini(&app_calls[0].request);
        }
    app_n_calls = 0;
    ck_assert_int_eq(let_in("GET", "/v1/models", "X-Forwarded-For: 2001:db8:0:1:ffff::1\r\n"), 429);
    finish();
}
END_TEST

/* Whoever sends tokens that fail is refused before they are verified; tokens that are known still pass. */
START_TEST(failures_use_up_the_address)
{
    setup();
    app.config.rate_limits = "on";
    app.config.rate_limit_inference = 3;
    begin_with_keys();
    char known[2048];
    strcpy(known, token(""));
    ck_assert_int_eq(let_in("POST", "/v1/inference", known), 0);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(ask("POST", "/v1/inference", JSON "Authorization: Bearer c\r\n"), 401);
    ck_assert_int_eq(ask("POST", "/v1/inference", JSON "Authorization: Bearer c\r\n"), 429);
    ck_assert_int_eq(ask("POST", "/v1/inference", token(",\"client_id\":\"new\"")), 429);
    ck_assert_int_eq(let_in("POST", "/v1/inference", known), 0);
    ck_assert_int_eq(let_in("POST", "/v1/inference", JSON "Authorization: Bearer a\r\n"), 0);
    finish();
}
END_TEST

START_TEST(requests_in_flight)
{
    setup();
    app.config.client_concurrency = 1;
    app.config.max_requests = 2;
    begin_with_keys();
    ck_assert_int_eq(ask("POST", "/v1/inference", JSON "X-API-Key: a\r\n"), 0);
    struct memory first = app.m; /* stays open beside the next one */
    app_connect(&app, &app.g.main_http);
    ck_assert_int_eq(ask("POST", "/v1/inference", JSON "X-API-Key: a\r\n"), 429);
    ck_assert(says("QUOTA_EXCEEDED"));
    ck_assert_int_eq(field("retry-after"), 1);
    ck_assert_int_eq(field("x-ratelimit-retry-after"), 1);
    ck_assert_double_eq(rejections("concurrency"), 1);
    ck_assert_int_eq(ask("GET", "/health/live", "X-API-Key: a\r\n"), 200);
    app_answer(0, false, "x"); /* the first ends */
    app_end(0, 0, "");
    http_conn_output(first.conn, &first.out);
    ck_assert_int_eq(let_in("POST", "/v1/inference", JSON "X-API-Key: a\r\n"), 0); /* and leaves by going away */
    ck_assert_int_eq(let_in("POST", "/v1/inference", JSON "X-API-Key: a\r\n"), 0);
    memory_close(&first);
    finish();
}
END_TEST

START_TEST(the_server_can_be_full)
{
    setup();
    app.config.rate_limits = "on";
    app.config.max_requests = 1;
    begin();
    ck_assert_int_eq(ask("POST", "/v1/inference", JSON), 0);
    struct memory first = app.m;
    app_connect(&app, &app.g.main_http);
    ck_assert_int_eq(ask("POST", "/v1/inference", JSON), 503);
    ck_assert(says("SERVICE_UNAVAILABLE"));
    ck_assert_int_eq(field("retry-after"), 1);
    ck_assert_int_eq(field("x-ratelimit-remaining"), 99); /* it was not the client's fault */
    ck_assert_double_eq(rejections("max_requests"), 1);
    ck_assert_int_eq(ask("GET", "/health/live", ""), 200);
    memory_close(&first);
    ck_assert_int_eq(let_in("POST", "/v1/inference", JSON), 0);
    finish();
}
END_TEST

SUITE("access_limits", limits_are_told_and_hold, streams_and_refused_forms_are_told,
      the_admin_port_counts_for_nobody, clients_do_not_share, failures_use_up_the_address,
      requests_in_flight, the_server_can_be_full)
