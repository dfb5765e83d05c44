/* Who is let in, to what, and from which pages. */
#include "tests/unit/gateway/admission.h"

#include "bitnet/v1/models.pb-c.h"

START_TEST(without_keys_all_but_management_is_open)
{
    setup();
    begin();
    ck_assert_int_eq(let_in("POST", "/v1/inference", JSON), 0);
    ck_assert_int_eq(let_in("POST", "/v1/inference", JSON "Authorization: Bearer whatever\r\n"), 0);
    ck_assert_int_eq(let_in("GET", "/v1/models/x/status", ""), 0);
    static const char *const calls[][3] = {{"POST", "/v1/models/load", "model:write"},
                                           {"POST", "/v1/models/swap", "model:manage"},
                                           {"DELETE", "/v1/models/x", "model:manage"}};
    for (size_t i = 0; i < 3; i++) {
        ck_assert_int_eq(ask(calls[i][0], calls[i][1], JSON), 403);
        ck_assert(says("AUTHORIZATION_FAILED"));
        ck_assert(says("set --api-keys, --jwt-key or --jwt-jwks"));
        ck_assert(says(calls[i][2]));
        ck_assert(!says("x-ratelimit"));
    }
    ck_assert_double_eq(rejections("auth"), 3);
    finish();
}
END_TEST

START_TEST(credentials)
{
    setup();
    begin_with_keys();
    ck_assert_int_eq(let_in("POST", "/v1/inference", JSON "Authorization: Bearer a\r\n"), 0);
    Bitnet__V1__GenerateRequest *q = app_generate_request(0);
    ck_assert_str_eq(q->client_id, "alice");
    bitnet__v1__generate_request__free_unpacked(q, NULL);
    ck_assert_int_eq(let_in("POST", "/v1/chat/completions", JSON "X-API-Key: a\r\n"), 400); /* past admission */
    ck_assert_int_eq(let_in("POST", "/v1/inference", JSON "authorization: bearer   a\r\n"), 0);
    ck_assert_int_eq(let_in("POST", "/v1/inference", token("")), 0);
    q = app_generate_request(2);
    ck_assert_str_eq(q->client_id, "carol");
    bitnet__v1__generate_request__free_unpacked(q, NULL);
    ck_assert_int_eq(let_in("POST", "/v1/inference", token(",\"client_id\":\"app\"")), 0);
    finish();
}
END_TEST

START_TEST(who_is_not_known)
{
    static const struct {
        const char *headers, *www, *message;
    } cases[] = {
        {JSON, "www-authenticate: Bearer realm=\"bitnetd\"\r\n", "expected a token or an API key"},
        {JSON "Authorization: Bearer c\r\n", "error=\"invalid_token\"", "neither a known key nor a signed JWT"},
        {JSON "Authorization: Bearer \r\n", "error=\"invalid_token\"", "expected Authorization: Bearer TOKEN"},
        {JSON "Authorization: Basic YTpi\r\n", "error=\"invalid_token\"", "expected Authorization: Bearer TOKEN"},
        {JSON "Authorization: a\r\n", "error=\"invalid_token\"", "expected Authorization: Bearer TOKEN"},
        {JSON "X-API-Key: c\r\n", "error=\"invalid_token\"", "neither a known key"},
        {JSON "X-API-Key: \r\n", "error=\"invalid_token\"", "neither a known key"},
        {JSON "Authorization: Bearer c\r\nX-API-Key: a\r\n", "error=\"invalid_token\"", "neither a known key"},
        {JSON "Authorization: Bearer eyJhbGciOiJub25lIn0.e30.\r\n", "error=\"invalid_token\"", "neither a known key"},
    };
    setup();
    begin_with_keys();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert_msg(ask("POST", "/v1/inference", cases[i].headers) == 401, "%s", cases[i].headers);
        ck_assert(says("AUTHENTICATION_REQUIRED"));
        ck_assert_msg(says(cases[i].www), "%s: %s", cases[i].headers, app_sent(&app));
        ck_assert_msg(says(cases[i].message), "%s: %s", cases[i].headers, app_sent(&app));
    }
    ck_assert_int_eq(app_n_calls, 0);
    ck_assert_double_eq(rejections("auth"), sizeof cases / sizeof *cases);
    finish();
}
END_TEST

START_TEST(scopes)
{
    static const struct {
        const char *method, *path;
        int anyone, key, token, reader, writer, manager; /* 0: let in */
    } cases[] = {
        {"POST", "/v1/inference", 401, 0, 0, 0, 0, 0},
        {"POST", "/tokenize", 401, 400, 400, 400, 400, 400},
        {"GET", "/v1/models", 0, 0, 0, 0, 0, 0},
        {"GET", "/v1/models/x", 401, 0, 403, 0, 403, 403},
        {"GET", "/v1/models/x/status", 401, 403, 403, 0, 403, 403},
        {"POST", "/v1/models/load", 401, 403, 403, 403, 400, 403},
        {"POST", "/v1/models/swap", 401, 403, 403, 403, 403, 400},
        {"DELETE", "/v1/models/x", 401, 403, 403, 403, 403, 0},
        {"GET", "/v1/stats", 401, 0, 0, 0, 0, 0},
        {"GET", "/v1/devices", 401, 0, 0, 0, 0, 0},
        {"GET", "/health/live", 200, 200, 200, 200, 200, 200},
        {"GET", "/nothing", 404, 404, 404, 404, 404, 404},
        {"PUT", "/v1/models", 405, 405, 405, 405, 405, 405},
    };
    setup();
    begin_with_keys();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *m = cases[i].method, *p = cases[i].path;
        app_n_calls = 0;
        ck_assert_msg(let_in(m, p, JSON) == cases[i].anyone, "%s %s by anyone", m, p);
        ck_assert_msg(let_in(m, p, JSON "Authorization: Bearer a\r\n") == cases[i].key, "%s %s by key", m, p);
        ck_assert_msg(let_in(m, p, token("")) == cases[i].token, "%s %s by token", m, p);
        ck_assert_msg(let_in(m, p, token(",\"scopes\":[\"model:read\"]")) == cases[i].reader, "%s %s by reader", m, p);
        ck_assert_msg(let_in(m, p, token(",\"scope\":\"model:write\"")) == cases[i].writer, "%s %s by writer", m, p);
        ck_assert_msg(let_in(m, p, token(",\"scopes\":\"model:manage\"")) == cases[i].manager, "%s %s by manager", m,
                      p);
        for (int k = 0; k < app_n_calls; k++)
            buffer_fini(&app_calls[k].request);
    }
    app_n_calls = 0;
    ck_assert_int_eq(ask("DELETE", "/v1/models/x", "Authorization: Bearer a\r\n"), 403);
    ck_assert(says("www-authenticate: Bearer realm=\"bitnetd\", error=\"insufficient_scope\", scope=\"model:manage\""));
    ck_assert_int_eq(let_in("DELETE", "/v1/models/x", "Authorization: Bearer b\r\n"), 0);
    finish();
}
END_TEST

static void answer_models(void)
{
    Bitnet__V1__ListModelsResponse list = BITNET__V1__LIST_MODELS_RESPONSE__INIT;
    Bitnet__V1__Model model = BITNET__V1__MODEL__INIT, *models[1] = {&model};
    model.id = (char *)(uintptr_t) "tales";
    model.path = (char *)(uintptr_t) "/secret/tales.gguf";
    model.status = BITNET__V1__MODEL_STATUS__MODEL_STATUS_ACTIVE;
    list.n_models = 1;
    list.models = models;
    app_message(app_n_calls - 1, &list.base);
    app_end(app_n_calls - 1, 0, "");
}

START_TEST(strangers_see_the_models_that_openai_shows)
{
    static const struct {
        const char *path, *headers;
        bool whole;
    } cases[] = {
        {"/v1/models", "", false},
        {"/v1/models", "Authorization: Bearer a\r\n", false},
        {"/v1/models", "Authorization: Bearer b\r\n", true},
        {"/v1/models/tales", "Authorization: Bearer a\r\n", false},
        {"/v1/models/tales", "Authorization: Bearer b\r\n", true},
    };
    setup();
    begin_with_keys();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ask("GET", cases[i].path, cases[i].headers);
        answer_models();
        ck_assert_int_eq(app_status(&app), 200);
        ck_assert(says("\"id\":\"tales\",\"object\":\"model\""));
        ck_assert_msg(says("/secret") == cases[i].whole && says("\"status\"") == cases[i].whole, "%s", app_sent(&app));
    }
    ck_assert_int_eq(ask("GET", "/v1/models", "Authorization: Bearer c\r\n"), 401);
    finish();
}
END_TEST

/* ---- pages of other origins ---- */

#define ORIGIN "Origin: https://a.example\r\n"
#define EVIL "Origin: https://evil.example\r\n"
#define PREFLIGHT                                                                                                      \
    "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,x-stainless-os\r\n"

START_TEST(cors)
{
    static const struct {
        const char *origins, *method, *headers;
        int status;         /* 0: no answer of ours */
        const char *origin; /* NULL: none is allowed */
        bool credentials, vary;
    } cases[] = {
        {NULL, "GET", ORIGIN, 200, NULL, false, false},
        {NULL, "OPTIONS", ORIGIN PREFLIGHT, 0, NULL, false, false},
        {"https://a.example,https://b.example", "GET", ORIGIN, 200, "https://a.example", true, true},
        {"https://a.example", "GET", EVIL, 200, NULL, false, true},
        {"https://a.example", "GET", "Origin: null\r\n", 200, NULL, false, true},
        {"https://a.example", "GET", "", 200, NULL, false, true},
        {"https://a.example", "OPTIONS", ORIGIN PREFLIGHT, 204, "https://a.example", true, true},
        {"https://a.example", "OPTIONS", EVIL PREFLIGHT, 403, NULL, false, true},
        {"https://a.example", "OPTIONS", ORIGIN, 0, "https://a.example", true, true},
        {"*", "GET", EVIL, 200, "*", false, false},
        {"*", "GET", "", 200, NULL, false, false},
        {"*", "OPTIONS", EVIL PREFLIGHT, 204, "*", false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char allow[128];
        setup();
        app.config.cors_origins = cases[i].origins;
        begin();
        int status = ask(cases[i].method, "/health/live", cases[i].headers);
        ck_assert_msg(status == cases[i].status || cases[i].status == 0, "case %zu: %d", i, status);
        ck_assert_int_eq(says("access-control-allow-methods"), cases[i].status == 204);
        snprintf(allow, sizeof allow, "access-control-allow-origin: %s\r\n", cases[i].origin ? cases[i].origin : "");
        ck_assert_msg(says(cases[i].origin ? allow : "access-control-allow-origin") == (cases[i].origin != NULL),
                      "case %zu: %s", i, app_sent(&app));
        ck_assert_int_eq(says("access-control-allow-credentials: true\r\n"), cases[i].credentials);
        ck_assert_int_eq(says("vary: Origin\r\n"), cases[i].vary);
        ck_assert_int_eq(says("access-control-expose-headers: X-Request-Id"), cases[i].origin != NULL);
        if (cases[i].origin && strcmp(cases[i].method, "OPTIONS") == 0 && strstr(cases[i].headers, "Request-Method")) {
            ck_assert(says("access-control-allow-methods: GET, HEAD, OPTIONS\r\n"));
            ck_assert(says("access-control-allow-headers: authorization,x-stainless-os\r\n"));
            ck_assert(says("vary: Access-Control-Request-Headers\r\n"));
        }
        finish();
    }
}
END_TEST

/* The browser asks without credentials, and often. */
START_TEST(preflight_is_free)
{
    setup();
    app.config.rate_limits = "on";
    app.config.rate_limit_inference = 1;
    app.config.cors_origins = "https://a.example";
    begin_with_keys();
    for (int i = 0; i < 5; i++) {
        ck_assert_int_eq(ask("OPTIONS", "/v1/inference", ORIGIN PREFLIGHT), 204);
        ck_assert(says("access-control-allow-methods: POST, OPTIONS\r\n"));
        ck_assert(!says("x-ratelimit"));
    }
    ck_assert_int_eq(ask("OPTIONS", "/nothing", ORIGIN PREFLIGHT), 404);
    ck_assert_int_eq(ask("POST", "/v1/inference", JSON ORIGIN), 401);
    ck_assert(says("access-control-allow-origin: https://a.example"));
    ck_assert_int_eq(ask("POST", "/v1/inference", JSON ORIGIN), 429);
    ck_assert(says("access-control-allow-origin: https://a.example"));
    finish();
}
END_TEST

START_TEST(refuses_configurations)
{
    struct error err;
    setup();
    app.config.cors_origins = "https://a.example/";
    ck_assert_int_ne(access_open(&app.config, app.g.metrics, &app.g.access, &err), ERROR_NONE);
    app.config.cors_origins = "";
    app.config.trusted_proxies = "nonsense";
    ck_assert_int_ne(access_open(&app.config, app.g.metrics, &app.g.access, &err), ERROR_NONE);
    app.config.trusted_proxies = "";
    app.config.jwt_key = "/nowhere";
    ck_assert_int_ne(access_open(&app.config, app.g.metrics, &app.g.access, &err), ERROR_NONE);
    ck_assert_ptr_nonnull(strstr(err.message, "/nowhere: No such file"));
    finish();
}
END_TEST

SUITE("access", without_keys_all_but_management_is_open, credentials, who_is_not_known, scopes,
      strangers_see_the_models_that_openai_shows, cors, preflight_is_free, refuses_configurations)
