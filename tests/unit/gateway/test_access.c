/* Admission, from whole requests to their answers. */
#include "base/clock.h"
#include "gateway/access.h"
#include "gateway/keys.h"
#include "tests/unit/gateway/app.h"
#include "tests/unit/gateway/tokens.h"

#include "bitnet/v1/models.pb-c.h"

#define SECRET "0123456789abcdef0123456789abcdef"
#define HASH_OF_A "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
#define HASH_OF_B "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"
#define JSON "Content-Type: application/json\r\n"
#define PROMPT "{\"prompt\":\"Hi\"}"

static struct app app;

/* The application with admission as app.config says; to be filled between the two. */
static void setup(void)
{
    app_open(&app);
    app.config.rate_limits = "off";
    app.config.rate_limit_inference = 100;
    app.config.rate_limit_models = 10;
    app.config.rate_limit_health = 600;
    app.config.rate_limit_stats = 60;
    app.config.jwt_leeway_s = 30;
}

static void begin(void)
{
    struct error err;
    ck_assert_msg(access_open(&app.config, app.g.metrics, &app.g.access, &err) == ERROR_NONE, "%s", err.message);
}

static void begin_with_keys(void)
{
    app.config.jwt_key = tokens_text("secret", SECRET);
    app.config.jwt_alg = "HS256";
    app.config.api_keys =
        tokens_text("keys", "alice sha256:" HASH_OF_A "\nbob sha256:" HASH_OF_B " model:read,model:manage\n");
    begin();
}

static void finish(void)
{
    memory_close(&app.m);
    access_close(app.g.access);
    app.g.access = NULL;
    health_close(app.g.health);
    for (int i = 0; i < app_n_calls; i++)
        buffer_fini(&app_calls[i].request);
    metrics_close(app.g.metrics);
    event_base_free(app.g.base);
}

static const char *token(const char *more)
{
    static char header[2048];
    char payload[512];
    snprintf(payload, sizeof payload, "{\"sub\":\"carol\",\"exp\":%lld%s}",
             (long long)(clock_wall_ns() / CLOCK_NS_PER_S + 1000), more);
    snprintf(header, sizeof header, JSON "Authorization: Bearer %s\r\n",
             tokens_forge("{\"alg\":\"HS256\"}", payload, SECRET, NULL));
    return header;
}

static bool says(const char *text)
{
    return strstr(app_sent(&app), text) != NULL;
}

static int ask(const char *method, const char *path, const char *headers)
{
    app_request(&app, method, path, headers, strcmp(method, "POST") == 0 ? PROMPT : "");
    return app_status(&app);
}

/* Status of a call that goes to the engine: 0 means that it was let in. The connection is given up. */
static int let_in(const char *method, const char *path, const char *headers)
{
    int before = app_n_calls, status = ask(method, path, headers);
    ck_assert_int_eq(app_n_calls - before, status == 0);
    memory_close(&app.m);
    app_connect(&app, &app.g.main_http);
    return status;
}

static double rejections(const char *reason)
{
    return metrics_value(metrics_get(
        metrics_add(app.g.metrics, METRICS_COUNTER, "bitnet_admission_rejections_total", "", "reason", NULL, 0),
        reason));
}

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
        ck_assert(says("set jwt-key or jwt-jwks"));
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

/* ---- limits ---- */

static long long field(const char *name)
{
    char text[64];
    snprintf(text, sizeof text, "\r\n%s: ", name);
    const char *at = strstr(app_sent(&app), text);
    return at ? atoll(at + strlen(text)) : -1;
}

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
      strangers_see_the_models_that_openai_shows, limits_are_told_and_hold, streams_and_refused_forms_are_told,
      clients_do_not_share, failures_use_up_the_address, requests_in_flight, the_server_can_be_full, cors,
      preflight_is_free, refuses_configurations)
