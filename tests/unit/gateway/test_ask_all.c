/* One question to several engines: who is asked, what comes together, and how it may end; and what handlers make of it. */
#include "tests/suite.h"

#include "bitnet/v1/admin.pb-c.h"
#include "bitnet/v1/models.pb-c.h"
#include "gateway/ask_all.h"
#include "tests/unit/gateway/app.h"

#define ACTIVE BITNET__V1__MODEL_STATUS__MODEL_STATUS_ACTIVE
#define LOADING BITNET__V1__MODEL_STATUS__MODEL_STATUS_LOADING
#define FAILED BITNET__V1__MODEL_STATUS__MODEL_STATUS_FAILED

static struct app app;

static void open_with(size_t n_engines, unsigned down)
{
    app_open(&app);
    app_n_engines = n_engines;
    app_down = down;
}

static char *text(const char *literal)
{
    return (char *)(uintptr_t)literal;
}

/* ---- the round ---- */

static int n_done, last_code;
static size_t n_answers, n_missing, members[4];

static void on_done(void *user, const struct ask_all_answers *answers)
{
    (void)user;
    n_done++;
    n_answers = answers->n;
    n_missing = answers->n_missing;
    last_code = answers->status->code;
    for (size_t i = 0; i < answers->n; i++)
        members[i] = answers->members[i];
    if (answers->n > 0) { /* may be kept */
        protobuf_c_message_free_unpacked(answers->messages[0], NULL);
        answers->messages[0] = NULL;
    }
}

static enum error_code ask(bool wait, struct ask_all **out, struct error *err)
{
    const struct engine_call_options options = {.path = "/x", .data = "hi", .n_bytes = 2};
    n_done = 0;
    return ask_all_start(NULL, &options, &bitnet__v1__stats_response__descriptor, wait, NULL, on_done, out, err);
}

static void answer_stats(int call, uint64_t n, const char *format)
{
    Bitnet__V1__StatsResponse a = BITNET__V1__STATS_RESPONSE__INIT;
    a.total_requests = n;
    a.inferences = n;
    *(strcmp(format, "i2s") == 0 ? &a.inferences_i2s : &a.inferences_tl2) = n;
    app_message(call, &a.base);
    app_end(call, 0, "");
}

START_TEST(all_that_are_up_are_asked_once)
{
    struct ask_all *all;
    struct error err;
    open_with(4, 1 << 1);
    ck_assert_int_eq(ask(false, &all, &err), ERROR_NONE);
    ck_assert_int_eq(app_n_calls, 3);
    const size_t asked[] = {0, 2, 3};
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(app_calls[i].options.channel, ENGINE_ADMIN);
        ck_assert_uint_eq(app_calls[i].options.member, asked[i]);
        ck_assert(app_calls[i].request.n_bytes == 2 && memcmp(app_calls[i].request.data, "hi", 2) == 0);
    }
    answer_stats(2, 1, "i2s"); /* in any order */
    app_end(1, 14, "gone");
    ck_assert_int_eq(n_done, 0);
    answer_stats(0, 1, "i2s");
    ck_assert_int_eq(n_done, 1);
    ck_assert_uint_eq(n_answers, 2);
    ck_assert_uint_eq(n_missing, 2);
    ck_assert(members[0] == 0 && members[1] == 3);
    ck_assert_uint_eq(app_calls[0].held + app_calls[2].held, 0);
    app_close(&app);
}
END_TEST

START_TEST(a_round_without_an_answer_says_why)
{
    struct ask_all *all;
    struct error err;
    open_with(2, 0);
    ck_assert_int_eq(ask(false, &all, &err), ERROR_NONE);
    answer_stats(0, 1, "i2s");
    app_calls[1].options.on_message(app_calls[1].options.user, "\xff", 1, 0); /* no such message */
    app_end(1, 0, "");
    ck_assert_uint_eq(n_answers, 1);
    ck_assert_int_eq(ask(false, &all, &err), ERROR_NONE);
    app_end(2, 14, "gone");
    app_calls[3].options.on_message(app_calls[3].options.user, "\xff", 1, 0);
    app_end(3, 0, "");
    ck_assert_uint_eq(n_answers, 0);
    ck_assert_int_eq(last_code, 13);
    app_close(&app);
}
END_TEST

START_TEST(cancelling_leaves_nothing)
{
    struct ask_all *all;
    struct error err;
    open_with(3, 0);
    ck_assert_int_eq(ask(false, &all, &err), ERROR_NONE);
    answer_stats(0, 1, "i2s");
    ask_all_cancel(all);
    ck_assert_int_eq(n_done, 0);
    ck_assert(!app_calls[0].cancelled && app_calls[1].cancelled && app_calls[2].cancelled);
    app_close(&app);
}
END_TEST

START_TEST(nobody_up)
{
    struct ask_all *all;
    struct error err = {0};
    open_with(2, 3);
    ck_assert_int_eq(ask(false, &all, &err), ERROR_SERVICE_UNAVAILABLE);
    ck_assert_str_eq(err.message, "no inference engine is available");
    ck_assert_int_eq(app_n_calls, 0);
    ck_assert_int_eq(ask(true, &all, &err), ERROR_NONE); /* the pool knows whether there will be one */
    ck_assert_int_eq(app_calls[0].options.channel, ENGINE_WORK);
    answer_stats(0, 1, "i2s");
    ck_assert_int_eq(n_done, 1);
    app_refuse = ERROR_SERVICE_UNAVAILABLE;
    ck_assert_int_eq(ask(true, &all, &err), ERROR_SERVICE_UNAVAILABLE);
    app_close(&app);
}
END_TEST

/* ---- statistics and devices ---- */

START_TEST(statistics_are_added)
{
    open_with(3, 1 << 2);
    app_request(&app, "GET", "/v1/stats", "", "");
    ck_assert_int_eq(app_n_calls, 2);
    ck_assert_uint_eq(app_calls[0].request.n_bytes, app_calls[1].request.n_bytes);
    answer_stats(0, 3, "i2s");
    ck_assert_int_eq(app_status(&app), 0);
    answer_stats(1, 4, "tl2");
    ck_assert_int_eq(app_status(&app), 200);
    ck_assert_ptr_nonnull(strstr(app_body(&app), "\"total_requests\":7,"));
    ck_assert_ptr_nonnull(strstr(app_body(&app), "\"quantization_distribution\":{\"i2s\":3,\"tl1\":0,\"tl2\":4}"));
    app_close(&app);
}
END_TEST

START_TEST(an_engine_that_fails_is_left_out_and_all_that_fail_are_an_error)
{
    open_with(2, 0);
    app_request(&app, "GET", "/v1/stats", "", "");
    app_end(0, 4, "late");
    answer_stats(1, 4, "tl2");
    ck_assert_int_eq(app_status(&app), 200);
    ck_assert_ptr_nonnull(strstr(app_body(&app), "\"total_requests\":4,"));
    app_request(&app, "GET", "/v1/stats", "", "");
    app_end(2, 14, "");
    app_end(3, 4, "late");
    ck_assert_int_eq(app_status(&app), 504);
    app_request(&app, "GET", "/v1/stats", "", "");
    memory_close(&app.m); /* the client goes */
    ck_assert(app_calls[4].cancelled && app_calls[5].cancelled);
    app_connect(&app, &app.g.main_http);
    app_close(&app);
}
END_TEST

static void answer_devices(int call, const char *first, const char *second, const char *requested)
{
    Bitnet__V1__DeviceInfo a = BITNET__V1__DEVICE_INFO__INIT, b = a, *list[] = {&a, &b};
    Bitnet__V1__DevicesResponse d = BITNET__V1__DEVICES_RESPONSE__INIT;
    a.id = text(first);
    b.id = text(second ? second : "");
    d.devices = list;
    d.n_devices = second ? 2 : 1;
    d.requested = text(requested);
    app_message(call, &d.base);
    app_end(call, 0, "");
}

START_TEST(devices_of_several_engines_say_whose_they_are)
{
    open_with(3, 1 << 1);
    app_request(&app, "GET", "/v1/devices", "", "");
    answer_devices(0, "cpu", NULL, "auto");
    answer_devices(1, "cuda:0", "cpu", "auto");
    ck_assert_str_eq(app_body(&app), "{\"devices\":[{\"id\":\"0/cpu\"},{\"id\":\"2/cuda:0\"},{\"id\":\"2/cpu\"}],"
                                     "\"fallback_order\":[\"0/cpu\",\"2/cuda:0\",\"2/cpu\"],\"requested\":\"auto\"}");
    app_request(&app, "GET", "/v1/devices", "", "");
    answer_devices(2, "cpu", NULL, "auto");
    answer_devices(3, "cpu", NULL, "gpu");
    ck_assert_ptr_null(strstr(app_body(&app), "requested")); /* it is not one */
    app_n_engines = 1;
    app_request(&app, "GET", "/v1/devices", "", "");
    answer_devices(4, "cpu", NULL, "cpu");
    ck_assert_str_eq(app_body(&app), "{\"devices\":[{\"id\":\"cpu\"}],\"fallback_order\":[\"cpu\"],\"requested\":\"cpu\"}");
    app_close(&app);
}
END_TEST

/* ---- models ---- */

struct one {
    const char *id, *device;
    Bitnet__V1__ModelStatus status;
    uint64_t n_requests;
    double tokens_per_second;
};

static void answer_models(int call, const struct one *ones, size_t n)
{
    Bitnet__V1__Model models[3], *list[3];
    Bitnet__V1__ListModelsResponse r = BITNET__V1__LIST_MODELS_RESPONSE__INIT;
    for (size_t i = 0; i < n; i++) {
        bitnet__v1__model__init(&models[i]);
        models[i].id = text(ones[i].id);
        models[i].device = text(ones[i].device);
        models[i].quantization_format = text("i2s");
        models[i].status = ones[i].status;
        models[i].total_requests = ones[i].n_requests;
        models[i].avg_tokens_per_second = ones[i].tokens_per_second;
        models[i].memory_bytes = 1048576;
        models[i].created_unix = 100 - (int64_t)ones[i].n_requests;
        models[i].is_default = ones[i].n_requests == 30;
        list[i] = &models[i];
    }
    r.n_models = n;
    r.models = list;
    app_message(call, &r.base);
    app_end(call, 0, "");
}

static const struct one left[] = {{"tales", "cpu", LOADING, 10, 5}, {"other-1", "cpu", FAILED, 0, 0}};
static const struct one right[] = {{"tales", "cuda:0", ACTIVE, 30, 9}};

static const char *get(const char *path)
{
    open_with(2, 0);
    app_request(&app, "GET", path, "", "");
    answer_models(0, left, 2);
    answer_models(1, right, 1);
    return app_body(&app);
}

static int count(const char *in, const char *what)
{
    int n = 0;
    for (; (in = strstr(in, what)) != NULL; in += strlen(what))
        n++;
    return n;
}

START_TEST(a_model_of_two_engines_is_there_once)
{
    const char *body = get("/v1/models");
    ck_assert_int_eq(count(body, "\"id\":\"tales\""), 2); /* once for each API */
    ck_assert_ptr_nonnull(strstr(body, "\"total_count\":2,\"active_count\":1}"));
    ck_assert_ptr_nonnull(strstr(body, "\"id\":\"tales\",\"status\":\"active\","));
    ck_assert_ptr_nonnull(strstr(body, "\"is_default\":true"));
    ck_assert_ptr_nonnull(strstr(body, "\"id\":\"tales\",\"object\":\"model\",\"created\":70,"));
    ck_assert_ptr_nonnull(strstr(body, "{\"avg_tokens_per_second\":8,\"total_requests\":40},"
                                       "\"resource_usage\":{\"memory_usage_mb\":1,\"gpu_memory_usage_mb\":1}"));
    ck_assert_ptr_nonnull(strstr(body, "\"id\":\"other-1\",\"status\":\"failed\","));
    app_close(&app);
}
END_TEST

START_TEST(the_filters_are_for_what_stands_there)
{
    static const struct {
        const char *query;
        int n;
        const char *has;
    } cases[] = {
        {"?status=active", 1, "\"total_requests\":40"},   {"?status=loading", 0, ""},
        {"?status=failed,active", 2, ""},                 {"?device=gpu", 1, "\"total_requests\":30"},
        {"?device=cpu", 2, "\"status\":\"loading\""},     {"?quantization_format=tl1", 0, ""},
    };
    char path[64];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(path, sizeof path, "/v1/models%s", cases[i].query);
        const char *body = get(path);
        ck_assert_msg(count(body, "\"is_default\":") == cases[i].n, "%s: %s", path, body);
        ck_assert_msg(strstr(body, cases[i].has), "%s: %s", path, body);
        app_close(&app);
    }
}
END_TEST

START_TEST(a_model_by_any_spelling)
{
    static const char *const good[] = {"/v1/models/other-1", "/v1/models/other.1", "/v1/models/other%2F1/status",
                                       "/v1/models/other%201"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        ck_assert_msg(strstr(get(good[i]), "{\"id\":\"other-1\",\"object\":\"model\""), "%s: %s", good[i], app_body(&app));
        ck_assert_int_eq(app_status(&app), 200);
        app_close(&app);
    }
    static const char *const bad[] = {"other_1", "other-1x", "other-", "OTHER-1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char path[64], want[160];
        snprintf(path, sizeof path, "/v1/models/%s", bad[i]);
        snprintf(want, sizeof want, "\"message\":\"there is no model \\\"%s\\\"; \\\"tales\\\", \\\"other-1\\\" are served\"",
                 bad[i]);
        ck_assert_msg(strstr(get(path), want), "%s: %s", path, app_body(&app));
        ck_assert_int_eq(app_status(&app), 404);
        ck_assert_ptr_nonnull(strstr(app_body(&app), "\"param\":\"model\",\"details\":{}"));
        app_close(&app);
    }
    open_with(1, 0);
    app_request(&app, "GET", "/v1/models/none", "", "");
    answer_models(0, right, 1);
    ck_assert_ptr_nonnull(strstr(app_body(&app), "there is no model \\\"none\\\"; \\\"tales\\\" is served"));
    app_close(&app);
}
END_TEST

SUITE("ask_all", all_that_are_up_are_asked_once, a_round_without_an_answer_says_why, cancelling_leaves_nothing, nobody_up,
      statistics_are_added, an_engine_that_fails_is_left_out_and_all_that_fail_are_an_error,
      devices_of_several_engines_say_whose_they_are, a_model_of_two_engines_is_there_once,
      the_filters_are_for_what_stands_there, a_model_by_any_spelling)
