/* Model management: bodies, the walk over the engines, and what is answered. */
#include "tests/suite.h"

#include "bitnet/v1/models.pb-c.h"
#include "gateway/manage.h"
#include "tests/unit/gateway/app.h"

static struct app app;

struct one {
    const char *path, *body;
    int status;        /* 0: the engine is asked */
    const char *param; /* NULL = none */
};

#define LOAD "/v1/models/load"
#define SWAP "/v1/models/swap"
#define P "\"model_path\":\"/m/a.gguf\""
#define S "\"new_model_path\":\"/m/a.gguf\",\"target_model_id\":\"a\""

static const struct one ones[] = {
    {LOAD, "{" P "}", 0, NULL},
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
    {LOAD, "{\"model_path\":\"/..m/.b/...c/a..gguf.gguf\"}", 0, NULL},
    {LOAD, "{" P ",\"model_id\":\"a/b\"}", 400, "model_id"},
    {LOAD, "{" P ",\"model_id\":\"\"}", 400, "model_id"},
    {LOAD, "{" P ",\"validation_config\":{}}", 0, NULL},
    {LOAD, "{" P ",\"validation_config\":[]}", 400, "validation_config"},
    {LOAD, "{" P ",\"validation_config\":{\"min_accuracy\":0.89}}", 400, "validation_config.min_accuracy"},
    {LOAD, "{" P ",\"validation_config\":{\"min_accuracy\":0.9}}", 0, NULL},
    {LOAD, "{" P ",\"validation_config\":{\"other\":1}}", 400, "validation_config.other"},
    {LOAD, "{" P ",\"cache_config\":{\"cache_size_mb\":99}}", 400, "cache_config.cache_size_mb"},
    {LOAD, "{" P ",\"cache_config\":{\"enable_kv_cache\":1}}", 400, "cache_config.enable_kv_cache"},
    {SWAP, "{" S "}", 0, NULL},
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
    for (size_t i = 0; i < sizeof ones / sizeof *ones; i++) {
        app_open(&app);
        app_post(&app, ones[i].path, ones[i].body);
        ck_assert_msg(app_status(&app) == ones[i].status, "%s: %s", ones[i].body, app_body(&app));
        ck_assert_int_eq(app_n_calls, ones[i].status == 0);
        snprintf(want, sizeof want, "\"param\":\"%s\"", ones[i].param ? ones[i].param : "");
        ck_assert_msg(!ones[i].param || strstr(app_body(&app), want), "%s: %s", ones[i].body, app_body(&app));
        app_close(&app);
    }
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

START_TEST(a_load_says_all_that_was_asked)
{
    app_open(&app);
    app_post(
        &app, LOAD,
        "{" P
        ",\"model_id\":\"m-2\",\"device_preference\":\"cpu\",\"quantization_format\":\"tl2\",\"validation_config\":{"
        "\"enable_cross_validation\":false,\"min_accuracy\":0.95,\"validation_samples\":20,\"timeout_seconds\":40},"
        "\"cache_config\":{\"enable_kv_cache\":false,\"cache_size_mb\":200}}");
    ck_assert_str_eq(app_calls[0].options.path, "/bitnet.v1.ModelService/Load");
    ck_assert_int_eq(app_calls[0].options.channel, ENGINE_ADMIN); /* once, and never with two */
    Bitnet__V1__LoadModelRequest *m = bitnet__v1__load_model_request__unpack(NULL, app_calls[0].request.n_bytes,
                                                                             (uint8_t *)app_calls[0].request.data);
    ck_assert_str_eq(m->path, "/m/a.gguf");
    ck_assert_str_eq(m->id, "m-2");
    ck_assert_str_eq(m->device, "cpu");
    ck_assert_str_eq(m->quantization_format, "tl2");
    ck_assert(m->no_prefix_cache && !m->validation->cross_validation && m->validation->_cross_validation_case);
    ck_assert_uint_eq(m->kv_cache_bytes, 200u << 20);
    ck_assert_double_eq(m->validation->min_accuracy, 0.95);
    ck_assert_uint_eq(m->validation->samples, 20);
    ck_assert_uint_eq(m->validation->timeout_seconds, 40);
    bitnet__v1__load_model_request__free_unpacked(m, NULL);
    app_close(&app);
}
END_TEST

START_TEST(a_swap_says_all_that_was_asked)
{
    app_open(&app);
    app_post(&app, SWAP,
             "{" S ",\"swap_strategy\":\"rolling\",\"rollback_on_failure\":false,\"validation_timeout_seconds\":20,"
             "\"health_check_config\":{\"inference_test_prompts\":[\"x\",\"y\"],\"accuracy_threshold\":0.9}}");
    ck_assert_str_eq(app_calls[0].options.path, "/bitnet.v1.ModelService/Swap");
    Bitnet__V1__SwapModelRequest *m = bitnet__v1__swap_model_request__unpack(NULL, app_calls[0].request.n_bytes,
                                                                             (uint8_t *)app_calls[0].request.data);
    ck_assert_str_eq(m->path, "/m/a.gguf");
    ck_assert_str_eq(m->id, "a");
    ck_assert_int_eq(m->strategy, BITNET__V1__SWAP_STRATEGY__SWAP_STRATEGY_ROLLING);
    ck_assert(m->_rollback_case && !m->rollback);
    ck_assert_uint_eq(m->n_prompts, 2);
    ck_assert_str_eq(m->prompts[1], "y");
    ck_assert_double_eq(m->validation->min_accuracy, 0.9);
    ck_assert_uint_eq(m->validation->timeout_seconds, 20);
    bitnet__v1__swap_model_request__free_unpacked(m, NULL);
    app_close(&app);
}
END_TEST

/* ---- what an engine says ---- */

static char *text(const char *s)
{
    return (char *)(uintptr_t)s;
}

static void fill_model(Bitnet__V1__Model *m)
{
    bitnet__v1__model__init(m);
    m->id = text("a");
    m->quantization_format = text("i2s");
    m->architecture = text("bitnet");
    m->parameter_count = 1000;
    m->context_length = 512;
}

static void say_progress(int call)
{
    Bitnet__V1__ModelProgress progress = BITNET__V1__MODEL_PROGRESS__INIT;
    Bitnet__V1__LoadModelEvent event = BITNET__V1__LOAD_MODEL_EVENT__INIT;
    progress.phase = text("loading");
    event.event_case = BITNET__V1__LOAD_MODEL_EVENT__EVENT_PROGRESS;
    event.progress = &progress;
    app_message(call, &event.base);
}

/* Of a load that took `ms`; accuracy 0: it was not measured. */
static void say_load(int call, double ms, double accuracy, const char *failure)
{
    Bitnet__V1__Model model;
    Bitnet__V1__ValidationResults v = BITNET__V1__VALIDATION_RESULTS__INIT;
    Bitnet__V1__ValidationFailure fault = BITNET__V1__VALIDATION_FAILURE__INIT, *faults[] = {&fault};
    Bitnet__V1__LoadResult result = BITNET__V1__LOAD_RESULT__INIT;
    Bitnet__V1__LoadModelEvent event = BITNET__V1__LOAD_MODEL_EVENT__INIT;
    fill_model(&model);
    v.format_valid = true;
    v.gguf_version = 3;
    v.memory_bytes = 2 << 20;
    if (accuracy > 0) {
        v._accuracy_case = BITNET__V1__VALIDATION_RESULTS___ACCURACY_ACCURACY;
        v.accuracy = accuracy;
    }
    fault.type = text(failure);
    fault.expected = text("this");
    fault.actual = text("that");
    v.failures = faults;
    v.n_failures = failure != NULL;
    result.model = &model;
    result.load_time_ms = ms;
    result.validation = &v;
    event.event_case = BITNET__V1__LOAD_MODEL_EVENT__EVENT_RESULT;
    event.result = &result;
    app_message(call, &event.base);
}

static void say_swap(int call, Bitnet__V1__SwapStatus status)
{
    Bitnet__V1__Model old, new;
    Bitnet__V1__SwapSide previous = BITNET__V1__SWAP_SIDE__INIT, next = BITNET__V1__SWAP_SIDE__INIT;
    Bitnet__V1__HealthCheckResult check = BITNET__V1__HEALTH_CHECK_RESULT__INIT, *checks[] = {&check};
    Bitnet__V1__SwapResult result = BITNET__V1__SWAP_RESULT__INIT;
    Bitnet__V1__SwapModelEvent event = BITNET__V1__SWAP_MODEL_EVENT__INIT;
    fill_model(&old);
    fill_model(&new);
    new.quantization_format = text("tl2");
    previous.model = &old;
    next.model = &new;
    previous._tokens_per_second_case = next._tokens_per_second_case =
        BITNET__V1__SWAP_SIDE___TOKENS_PER_SECOND_TOKENS_PER_SECOND;
    previous.tokens_per_second = 40;
    next.tokens_per_second = 50.5;
    check.name = text("prompts");
    check.passed = status == BITNET__V1__SWAP_STATUS__SWAP_STATUS_COMPLETED;
    result.swap_id = text("s-1");
    result.status = status;
    result.total_ms = 100.4;
    result.switch_ms = 0.01;
    result.previous = &previous;
    result.next = &next;
    result.n_checks = 1;
    result.checks = checks;
    result.rolled_back = status == BITNET__V1__SWAP_STATUS__SWAP_STATUS_ROLLED_BACK;
    result.rollback_reason = text(result.rolled_back ? "too slow" : "");
    result.rollback_ms = result.rolled_back ? 3 : 0;
    event.event_case = BITNET__V1__SWAP_MODEL_EVENT__EVENT_RESULT;
    event.result = &result;
    app_message(call, &event.base);
}

static void contains(const char *what)
{
    ck_assert_msg(strstr(app_body(&app), what) != NULL, "%s in %s", what, app_body(&app));
}

/* ---- answers ---- */

START_TEST(a_model_is_loaded)
{
    app_open(&app);
    app_post(&app, LOAD, "{" P "}");
    say_progress(0);
    say_load(0, 12.6, 0.995, NULL);
    ck_assert_int_eq(app_status(&app), 0); /* not before the status */
    app_end(0, 0, "");
    ck_assert_int_eq(app_status(&app), 200);
    ck_assert_str_eq(
        app_body(&app),
        "{\"model_id\":\"a\",\"status\":\"loaded\",\"load_time_ms\":13,\"model_metadata\":{\"parameter_count\":1000,"
        "\"quantization_format\":\"i2s\",\"architecture\":\"bitnet\",\"context_length\":512},\"validation_results\":{"
        "\"gguf_validation\":{\"format_valid\":true,\"version\":3},\"quantization_validation\":{\"accuracy_score\":0."
        "995},"
        "\"performance_validation\":{\"memory_usage_mb\":2,\"device_compatibility\":[]}}}");
    app_close(&app);
}
END_TEST

START_TEST(a_load_that_fails)
{
    app_open(&app);
    app_post(&app, LOAD, "{" P "}");
    say_load(0, 5, 0, "tokenizer");
    app_fail(0, ERROR_MODEL_LOAD_FAILED, "bad tokenizer");
    ck_assert_int_eq(app_status(&app), 422);
    contains("{\"error\":{\"code\":\"MODEL_LOAD_FAILED\",\"message\":\"bad tokenizer\"");
    contains("\"details\":{\"engine\":\"a:1\"}");
    contains("},\"model_id\":\"a\",\"status\":\"failed\",\"load_time_ms\":5,");
    contains("\"error_details\":{\"error_code\":\"MODEL_LOAD_FAILED\",\"error_message\":\"bad "
             "tokenizer\",\"validation_failures\":[{"
             "\"validation_type\":\"tokenizer\",\"expected\":\"this\",\"actual\":\"that\"}]}}");
    ck_assert_ptr_null(strstr(app_body(&app), "quantization_validation"));
    app_close(&app);
}
END_TEST

START_TEST(a_problem_has_what_was_found_in_result)
{
    app_open(&app);
    app_request(&app, "POST", LOAD, "Content-Type: application/json\r\nAccept: application/problem+json\r\n",
                "{" P "}");
    say_load(0, 5, 0, "tokenizer");
    app_fail(0, ERROR_CROSS_VALIDATION_FAILED, "other tokens");
    contains("\"status\":422");
    contains("\"result\":{\"model_id\":\"a\",\"status\":\"failed\"");
    app_close(&app);
}
END_TEST

START_TEST(refusals_keep_their_status)
{
    static const enum error_code codes[] = {ERROR_AUTHORIZATION_FAILED, ERROR_CONFLICT, ERROR_MEMORY_EXHAUSTED,
                                            ERROR_MODEL_NOT_FOUND};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        app_open(&app);
        app_post(&app, LOAD, "{" P "}");
        say_load(0, 5, 0, NULL);
        app_fail(0, codes[i], "no");
        ck_assert_int_eq(app_status(&app), error_info(codes[i])->http_status);
        ck_assert_ptr_null(strstr(app_body(&app), "load_time_ms"));
        app_close(&app);
    }
}
END_TEST

START_TEST(an_engine_that_says_nothing_of_the_load)
{
    app_open(&app);
    app_post(&app, LOAD, "{" P "}");
    say_progress(0);
    app_end(0, 0, "");
    ck_assert_int_eq(app_status(&app), 500);
    app_close(&app);
}
END_TEST

START_TEST(a_swap_is_completed)
{
    app_open(&app);
    app_post(&app, SWAP, "{" S "}");
    say_swap(0, BITNET__V1__SWAP_STATUS__SWAP_STATUS_COMPLETED);
    app_end(0, 0, "");
    ck_assert_int_eq(app_status(&app), 200);
    ck_assert_str_eq(
        app_body(&app),
        "{\"swap_id\":\"s-1\",\"status\":\"completed\",\"total_duration_ms\":100,\"previous_model_metadata\":{\"model_"
        "id\":\"a\","
        "\"quantization_format\":\"i2s\",\"performance_baseline\":{\"tokens_per_second\":40}},\"new_model_metadata\":{"
        "\"model_id\":"
        "\"a\",\"quantization_format\":\"tl2\",\"performance_baseline\":{\"tokens_per_second\":50.5}},\"swap_phases\":{"
        "\"swap_duration_ms\":0},\"quantization_comparison\":{\"format_changed\":true,\"performance_delta\":10.5},"
        "\"health_check_results\":{\"overall_healthy\":true,\"individual_checks\":[{\"check_name\":\"prompts\","
        "\"passed\":true}]},"
        "\"rollback_info\":{\"rollback_performed\":false}}");
    app_close(&app);
}
END_TEST

START_TEST(a_swap_that_was_taken_back)
{
    app_open(&app);
    app_post(&app, SWAP, "{" S "}");
    say_swap(0, BITNET__V1__SWAP_STATUS__SWAP_STATUS_ROLLED_BACK);
    app_fail(0, ERROR_INFERENCE_FAILED, "too slow");
    ck_assert_int_eq(app_status(&app), 422);
    contains("\"status\":\"rolled_back\"");
    contains("\"overall_healthy\":false");
    contains(
        "\"rollback_info\":{\"rollback_performed\":true,\"rollback_reason\":\"too slow\",\"rollback_duration_ms\":3}");
    app_close(&app);
}
END_TEST

START_TEST(a_model_is_unloaded)
{
    app_open(&app);
    app_request(&app, "DELETE", "/v1/models/a", "", "");
    ck_assert_str_eq(app_calls[0].options.path, "/bitnet.v1.ModelService/Unload");
    app_end(0, 0, "");
    ck_assert_int_eq(app_status(&app), 204);
    ck_assert_str_eq(app_body(&app), "");
    app_request(&app, "DELETE", "/v1/models/a", "", "");
    app_fail(1, ERROR_CONFLICT, "the last one");
    ck_assert_int_eq(app_status(&app), 409);
    app_request(&app, "DELETE", "/v1/models/b", "", "");
    app_fail(2, ERROR_MODEL_NOT_FOUND, "none");
    ck_assert_int_eq(app_status(&app), 404);
    app_request(&app, "DELETE", "/v1/models/a.b", "", "");
    ck_assert_int_eq(app_status(&app), 400);
    contains("\"param\":\"id\"");
    ck_assert_int_eq(app_n_calls, 3);
    app_close(&app);
}
END_TEST

/* ---- several engines ---- */

START_TEST(one_engine_after_the_other)
{
    app_open(&app);
    app_n_engines = 3;
    app_post(&app, LOAD, "{" P "}");
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(app_n_calls, i + 1);
        ck_assert_uint_eq(app_calls[i].options.member, (size_t)i);
        ck_assert_int_eq(app_status(&app), 0);
        say_load(i, 10, 0.99 + 0.001 * (i == 1 ? -1 : 1), NULL);
        app_end(i, 0, "");
    }
    ck_assert_int_eq(app_status(&app), 200);
    contains("\"load_time_ms\":30");
    contains("\"accuracy_score\":0.989");
    contains("\"memory_usage_mb\":6");
    app_close(&app);
}
END_TEST

START_TEST(the_first_failure_ends_it)
{
    app_open(&app);
    app_n_engines = 3;
    app_post(&app, SWAP, "{" S "}");
    say_swap(0, BITNET__V1__SWAP_STATUS__SWAP_STATUS_COMPLETED);
    app_end(0, 0, "");
    say_swap(1, BITNET__V1__SWAP_STATUS__SWAP_STATUS_FAILED);
    app_fail(1, ERROR_MODEL_LOAD_FAILED, "no such tensor");
    ck_assert_int_eq(app_n_calls, 2);
    ck_assert_int_eq(app_status(&app), 422);
    contains("\"details\":{\"engine\":\"b:1\",\"changed_engines\":[\"a:1\"]}");
    contains("\"status\":\"failed\"");
    app_close(&app);
}
END_TEST

START_TEST(an_engine_without_the_model_has_nothing_to_unload)
{
    for (int with = 0; with < 3; with++) { /* the one that has it; 2: none */
        app_open(&app);
        app_n_engines = 2;
        app_request(&app, "DELETE", "/v1/models/a", "", "");
        for (int i = 0; i < 2; i++)
            if (i == with)
                app_end(i, 0, "");
            else
                app_fail(i, ERROR_MODEL_NOT_FOUND, "none");
        ck_assert_int_eq(app_status(&app), with < 2 ? 204 : 404);
        app_close(&app);
    }
}
END_TEST

START_TEST(all_engines_must_be_there)
{
    app_open(&app);
    app_n_engines = 2;
    app_down = 2;
    app_post(&app, LOAD, "{" P "}");
    ck_assert_int_eq(app_status(&app), 503);
    contains("b:1 is down");
    ck_assert_int_eq(app_n_calls, 0);
    app_close(&app);
}
END_TEST

START_TEST(an_engine_that_is_gone_meanwhile)
{
    app_open(&app);
    app_n_engines = 2;
    app_post(&app, LOAD, "{" P "}");
    app_n_engines = 1;
    say_load(0, 10, 0, NULL);
    app_end(0, 0, "");
    ck_assert_int_eq(app_status(&app), 503);
    contains("\"details\":{\"engine\":\"b:1\",\"changed_engines\":[\"a:1\"]}");
    app_close(&app);
}
END_TEST

START_TEST(a_client_that_goes_away_ends_nothing)
{
    app_open(&app);
    app_n_engines = 2;
    app_post(&app, LOAD, "{" P "}");
    memory_close(&app.m);
    app_connect(&app, &app.g.main_http);
    ck_assert(!app_calls[0].cancelled);
    app_end(0, 0, "");
    ck_assert_int_eq(app_n_calls, 2);
    app_end(1, 0, "");
    ck_assert_ptr_null(app.g.changes);
    app_close(&app);
}
END_TEST

START_TEST(the_end_of_the_gateway_is_told)
{
    struct failure f;
    app_open(&app);
    app_post(&app, LOAD, "{" P "}");
    failure_init(&f);
    error_set(&f.error, ERROR_SERVICE_UNAVAILABLE, "going");
    change_fail_all(&app.g, &f);
    failure_fini(&f);
    ck_assert_int_eq(app_status(&app), 503);
    ck_assert_ptr_nonnull(app.g.changes);
    change_close_all(&app.g);
    ck_assert(app_calls[0].cancelled); /* the call; the engine goes on */
    app_close(&app);
}
END_TEST

SUITE("manage", bodies, presets_reach_into_objects_that_are_absent, a_load_says_all_that_was_asked,
      a_swap_says_all_that_was_asked, a_model_is_loaded, a_load_that_fails, a_problem_has_what_was_found_in_result,
      refusals_keep_their_status, an_engine_that_says_nothing_of_the_load, a_swap_is_completed,
      a_swap_that_was_taken_back, a_model_is_unloaded, one_engine_after_the_other, the_first_failure_ends_it,
      an_engine_without_the_model_has_nothing_to_unload, all_engines_must_be_there, an_engine_that_is_gone_meanwhile,
      a_client_that_goes_away_ends_nothing, the_end_of_the_gateway_is_told)
