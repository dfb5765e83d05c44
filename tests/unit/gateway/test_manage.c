/* Bodies of model management, and what may be unloaded. */
#include "tests/suite.h"

#include "bitnet/v1/models.pb-c.h"
#include "gateway/manage.h"
#include "tests/unit/gateway/app.h"

static struct app app;

struct one {
    const char *path, *body;
    int status;
    const char *param; /* NULL = none */
};

#define LOAD "/v1/models/load"
#define SWAP "/v1/models/swap"
#define P "\"model_path\":\"/m/a.gguf\""
#define S "\"new_model_path\":\"/m/a.gguf\",\"target_model_id\":\"a\""

static const struct one ones[] = {
    {LOAD, "{" P "}", 501, NULL},
    {LOAD, "{}", 400, "model_path"},
    {LOAD, "{\"model_path\":\"m/a.gguf\"}", 400, "model_path"},
    {LOAD, "{\"model_path\":\"/m/a.bin\"}", 400, "model_path"},
    {LOAD, "{\"model_path\":\"/.gguf\"}", 400, "model_path"},
    {LOAD, "{\"model_path\":\"/m/.gguf\"}", 400, "model_path"},
    {LOAD, "{\"model_path\":\"/m/../a.gguf\"}", 400, "model_path"},
    {LOAD, "{\"model_path\":\"/../a.gguf\"}", 400, "model_path"},
    {LOAD, "{\"model_path\":\"/m/./a.gguf\"}", 400, "model_path"},
    {LOAD, "{\"model_path\":\"/m//a.gguf\"}", 400, "model_path"},
    {LOAD, "{\"model_path\":\"/m/a.gguf\\n\"}", 400, "model_path"},
    {LOAD, "{\"model_path\":\"/m/a.gguf\\u0000\"}", 400, NULL},
    {LOAD, "{\"model_path\":\"/..m/.b/...c/a..gguf.gguf\"}", 501, NULL},
    {LOAD, "{" P ",\"model_id\":\"a/b\"}", 400, "model_id"},
    {LOAD, "{" P ",\"model_id\":\"\"}", 400, "model_id"},
    {LOAD, "{" P ",\"validation_config\":{}}", 501, NULL},
    {LOAD, "{" P ",\"validation_config\":[]}", 400, "validation_config"},
    {LOAD, "{" P ",\"validation_config\":{\"min_accuracy\":0.89}}", 400, "validation_config.min_accuracy"},
    {LOAD, "{" P ",\"validation_config\":{\"min_accuracy\":0.9}}", 501, NULL},
    {LOAD, "{" P ",\"validation_config\":{\"other\":1}}", 400, "validation_config.other"},
    {LOAD, "{" P ",\"cache_config\":{\"cache_size_mb\":99}}", 400, "cache_config.cache_size_mb"},
    {LOAD, "{" P ",\"cache_config\":{\"enable_kv_cache\":1}}", 400, "cache_config.enable_kv_cache"},
    {SWAP, "{" S "}", 501, NULL},
    {SWAP, "{\"new_model_path\":\"/m/a.gguf\"}", 400, "target_model_id"},
    {SWAP, "{" S ",\"swap_strategy\":\"slow\"}", 400, "swap_strategy"},
    {SWAP, "{" S ",\"health_check_config\":{\"inference_test_prompts\":[\"\"]}}", 400,
     "health_check_config.inference_test_prompts"},
    {SWAP, "{" S ",\"health_check_config\":{\"inference_test_prompts\":[1,2,3,4,5,6]}}", 400,
     "health_check_config.inference_test_prompts"},
};

START_TEST(bodies)
{
    char want[96];
    app_open(&app);
    for (size_t i = 0; i < sizeof ones / sizeof *ones; i++) {
        app_post(&app, ones[i].path, ones[i].body);
        ck_assert_msg(app_status(&app) == ones[i].status, "%s: %s", ones[i].body, app_body(&app));
        snprintf(want, sizeof want, "\"param\":\"%s\"", ones[i].param ? ones[i].param : "");
        ck_assert_msg(!ones[i].param || strstr(app_body(&app), want), "%s: %s", ones[i].body, app_body(&app));
    }
    ck_assert_int_eq(app_n_calls, 0);
    app_close(&app);
}
END_TEST

START_TEST(presets_reach_into_objects_that_are_absent)
{
    const struct fields_rules rules = {.strict = true};
    struct manage_params p;
    struct failure f;
    json_t *root = json_loads("{" P ",\"validation_config\":{\"min_accuracy\":0.95}}", 0, NULL);
    failure_init(&f);
    ck_assert(fields_parse(load_fields, root, &rules, &p, &f));
    ck_assert_str_eq(p.model_path.text, "/m/a.gguf");
    ck_assert_double_eq(p.min_accuracy.f, 0.95);
    ck_assert_int_eq(p.validation_samples.i, 100);
    ck_assert(p.enable_cross_validation.truth && !p.enable_cross_validation.set);
    ck_assert(p.enable_kv_cache.truth);
    ck_assert_int_eq(p.cache_size_mb.i, 1024);
    json_decref(root);
    failure_fini(&f);
}
END_TEST

/* Answers the question for models: one, or two, of which "a" is the default. */
static void answer_models(int call, size_t n)
{
    Bitnet__V1__Model a = BITNET__V1__MODEL__INIT, b = BITNET__V1__MODEL__INIT, *list[] = {&a, &b};
    Bitnet__V1__ListModelsResponse models = BITNET__V1__LIST_MODELS_RESPONSE__INIT;
    a.id = (char *)(uintptr_t) "a";
    b.id = (char *)(uintptr_t) "b";
    a.status = b.status = BITNET__V1__MODEL_STATUS__MODEL_STATUS_ACTIVE;
    a.is_default = true;
    models.n_models = n;
    models.models = list;
    app_message(call, &models.base);
    app_end(call, 0, "");
}

START_TEST(what_may_be_unloaded)
{
    static const struct {
        const char *path;
        size_t n_models;
        int status;
        const char *code;
    } cases[] = {
        {"/v1/models/a", 1, 409, "CONFLICT"},
        {"/v1/models/a", 2, 501, "NOT_IMPLEMENTED"},
        {"/v1/models/b", 2, 501, "NOT_IMPLEMENTED"},
        {"/v1/models/c", 2, 404, "MODEL_NOT_FOUND"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        app_open(&app);
        app_request(&app, "DELETE", cases[i].path, "", "");
        ck_assert_int_eq(app_n_calls, 1);
        answer_models(0, cases[i].n_models);
        ck_assert_msg(app_status(&app) == cases[i].status, "%s: %s", cases[i].path, app_body(&app));
        ck_assert_ptr_nonnull(strstr(app_body(&app), cases[i].code));
        app_close(&app);
    }
    app_open(&app);
    app_request(&app, "DELETE", "/v1/models/a.b", "", "");
    ck_assert_int_eq(app_status(&app), 400);
    ck_assert_ptr_nonnull(strstr(app_body(&app), "\"param\":\"id\""));
    ck_assert_int_eq(app_n_calls, 0);
    app_close(&app);
}
END_TEST

SUITE("manage", bodies, presets_reach_into_objects_that_are_absent, what_may_be_unloaded)
