/*
 * The tables that requests are checked by, and the errors that answers carry. `test_contract --json` prints routes, tables and errors for
 * tests/e2e/contract.mjs, which compares them with the API's description.
 */
#include "tests/suite.h"

#include "gateway/inference.h"
#include "gateway/manage.h"
#include "gateway/models.h"
#include "gateway/openai.h"
#include "gateway/router.h"
#include "gateway/stats.h"
#include "gateway/tokenize.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "tests/unit/gateway/app.h"

#include <regex.h>

/* By the name of the schema, or of the operation whose query it is. */
static const struct {
    const char *name;
    const struct field *table;
} tables[] = {
    {"InferenceRequest", inference_fields}, {"ChatRequest", chat_fields},         {"CompletionRequest", completion_fields},
    {"TokenizeRequest", tokenize_fields},   {"DetokenizeRequest", detokenize_fields}, {"LoadRequest", load_fields},
    {"EmbeddingRequest", embedding_fields}, {"SwapRequest", swap_fields},           {"listModels", models_fields},        {"getStats", stats_fields},
};
#define N_TABLES (sizeof tables / sizeof *tables)

static const char *const type_names[] = {
    [FIELD_TEXT] = "text",     [FIELD_PROMPT] = "prompt", [FIELD_NAME] = "name",     [FIELD_INT] = "int",
    [FIELD_FLOAT] = "float",   [FIELD_BOOL] = "bool",     [FIELD_CHOICE] = "choice", [FIELD_TEXTS] = "texts",
    [FIELD_TEXT_OR_TEXTS] = "text_or_texts", [FIELD_WORDS] = "words", [FIELD_OBJECT] = "object",
    [FIELD_JSON] = "json",     [FIELD_REFUSED] = "refused",
};

/* ---- --json ---- */

static json_t *dump_table(const struct field *table)
{
    json_t *list = json_array();
    for (const struct field *f = table; f->name; f++) {
        json_t *o = json_pack("{s:s,s:s,s:f,s:f,s:f,s:i,s:b}", "name", f->name, "type", type_names[f->type], "min", f->min,
                              "max", f->max, "preset", f->preset, "each", f->each, "required", f->required);
        if (f->choices)
            json_object_set_new(o, "choices", json_string(f->choices));
        if (f->pattern)
            json_object_set_new(o, "pattern", json_string(f->pattern));
        if (f->fields)
            json_object_set_new(o, "fields", dump_table(f->fields));
        json_array_append_new(list, o);
    }
    return list;
}

static int dump(void)
{
    size_t n;
    const struct route *routes = router_routes(&n);
    json_t *all = json_object(), *paths = json_array(), *fields = json_object(), *errors = json_object();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(paths, json_pack("{s:s,s:s,s:b}", "method", http_method_name(routes[i].method), "path",
                                               routes[i].pattern, "main", (routes[i].where & ROUTE_MAIN) != 0));
    for (size_t i = 0; i < N_TABLES; i++)
        json_object_set_new(fields, tables[i].name, dump_table(tables[i].table));
    for (int code = ERROR_NONE + 1; code < ERROR_N_CODES; code++) {
        const struct error_info *info = error_info((enum error_code)code);
        json_object_set_new(errors, info->name,
                            json_pack("{s:i,s:s}", "status", info->http_status, "type", info->openai_type));
    }
    json_object_set_new(all, "routes", paths);
    json_object_set_new(all, "tables", fields);
    json_object_set_new(all, "errors", errors);
    int status = json_dumpf(all, stdout, JSON_INDENT(1)) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
    json_decref(all);
    return status;
}

/* ---- tables ---- */

static void check_table(const char *name, const struct field *table)
{
    regex_t re;
    for (const struct field *f = table; f->name; f++) {
        bool number = f->type == FIELD_INT || f->type == FIELD_FLOAT;
        for (const struct field *other = table; other < f; other++)
            ck_assert_msg(strcmp(other->name, f->name) != 0, "%s.%s stands twice", name, f->name);
        ck_assert_msg(!number || f->min < f->max, "%s.%s: bounds", name, f->name);
        ck_assert_msg(!number || f->preset == 0 || (f->preset >= f->min && f->preset <= f->max), "%s.%s: preset", name,
                      f->name);
        ck_assert_msg((f->type != FIELD_CHOICE && f->type != FIELD_WORDS) || f->choices, "%s.%s: choices", name, f->name);
        bool in_words = f->pattern || (f->type == FIELD_JSON && f->required);
        ck_assert_msg(in_words == (f->form != NULL), "%s.%s: a pattern and its words", name, f->name);
        ck_assert_msg((f->type == FIELD_OBJECT) == (f->fields != NULL), "%s.%s: fields", name, f->name);
        if (f->pattern) {
            ck_assert_msg(regcomp(&re, f->pattern, REG_EXTENDED | REG_NOSUB) == 0, "%s.%s: pattern", name, f->name);
            regfree(&re);
        }
        if (f->fields)
            check_table(f->name, f->fields);
    }
}

START_TEST(tables_are_sound)
{
    for (size_t i = 0; i < N_TABLES; i++)
        check_table(tables[i].name, tables[i].table);
}
END_TEST

/* ---- errors ---- */

static struct app app;

/* Ends call `call` as service does: ErrorInfo with the code's name and the device, and RetryInfo. */
static void fail_call(int call, const struct error_info *info, int64_t retry_ms)
{
    Google__Rpc__ErrorInfo reason = GOOGLE__RPC__ERROR_INFO__INIT;
    Google__Rpc__ErrorInfo__MetadataEntry entry = GOOGLE__RPC__ERROR_INFO__METADATA_ENTRY__INIT, *metadata[] = {&entry};
    Google__Rpc__RetryInfo retry = GOOGLE__RPC__RETRY_INFO__INIT;
    Google__Protobuf__Duration delay = GOOGLE__PROTOBUF__DURATION__INIT;
    Google__Protobuf__Any any[2] = {GOOGLE__PROTOBUF__ANY__INIT, GOOGLE__PROTOBUF__ANY__INIT}, *list[] = {&any[0], &any[1]};
    Google__Rpc__Status packed = GOOGLE__RPC__STATUS__INIT;
    uint8_t bytes[3][512];
    reason.reason = (char *)(uintptr_t)info->name;
    reason.domain = (char *)(uintptr_t) "bitnet";
    entry.key = (char *)(uintptr_t) "device";
    entry.value = (char *)(uintptr_t) "cuda:0";
    reason.n_metadata = 1;
    reason.metadata = metadata;
    delay.seconds = retry_ms / 1000;
    delay.nanos = (int32_t)(retry_ms % 1000) * 1000000;
    retry.retry_delay = &delay;
    any[0].type_url = (char *)(uintptr_t) "type.googleapis.com/google.rpc.ErrorInfo";
    any[0].value = (ProtobufCBinaryData){google__rpc__error_info__pack(&reason, bytes[0]), bytes[0]};
    any[1].type_url = (char *)(uintptr_t) "type.googleapis.com/google.rpc.RetryInfo";
    any[1].value = (ProtobufCBinaryData){google__rpc__retry_info__pack(&retry, bytes[1]), bytes[1]};
    packed.code = info->grpc_status;
    packed.message = (char *)(uintptr_t) "because";
    packed.n_details = 2;
    packed.details = list;
    size_t n = google__rpc__status__pack(&packed, bytes[2]);
    const struct rpc_status status = {.code = info->grpc_status, .message = "because", .details = bytes[2], .details_n_bytes = n};
    app_calls[call].over = true;
    app_calls[call].options.on_status(app_calls[call].options.user, &status);
}

START_TEST(every_code_has_its_answer)
{
    char want[160];
    for (int i = ERROR_NONE + 1; i < ERROR_N_CODES; i++) {
        const struct error_info *info = error_info((enum error_code)i);
        if (i == ERROR_CANCELLED) /* of logs and metrics only */
            continue;
        app_open(&app);
        app_post(&app, "/v1/inference", "{\"prompt\":\"a\"}");
        fail_call(0, info, 2500);
        ck_assert_msg(app_status(&app) == info->http_status, "%s: %d", info->name, app_status(&app));
        snprintf(want, sizeof want, "{\"error\":{\"code\":\"%s\",\"message\":\"because\",\"type\":\"%s\",\"param\":null,",
                 info->name, info->openai_type);
        ck_assert_msg(strncmp(app_body(&app), want, strlen(want)) == 0, "%s", app_body(&app));
        bool retry = info->http_status == 429 || info->http_status == 503;
        ck_assert_msg(!strstr(app_sent(&app), "retry-after: 3\r\n") == !retry, "%s", app_sent(&app));
        ck_assert_msg(strstr(app_body(&app), "\"recovery_suggestions\":[\"") != NULL, "%s", app_body(&app));
        ck_assert_ptr_nonnull(strstr(app_body(&app), "\"request_id\":\"rid\""));
        app_close(&app);
    }
}
END_TEST

START_TEST(every_code_can_end_a_stream)
{
    char want[200];
    for (int i = ERROR_NONE + 1; i < ERROR_N_CODES; i++) {
        const struct error_info *info = error_info((enum error_code)i);
        if (i == ERROR_CANCELLED)
            continue;
        app_open(&app);
        app_post(&app, "/v1/inference/stream", "{\"prompt\":\"a\"}");
        app_token(0, 0, 0, 1, "x", 0);
        fail_call(0, info, 0);
        snprintf(want, sizeof want, "{\"type\":\"error\",\"code\":\"%s\",\"message\":\"because\",\"details\":{\"device\":\"cuda:0\",\"error_type\":\"%s\"}",
                 info->name, info->openai_type);
        ck_assert_msg(strstr(app_body(&app), want) != NULL, "%s", app_body(&app));
        ck_assert_int_eq(app_status(&app), 200);
        app_close(&app);
    }
}
END_TEST

START_TEST(problems_by_what_is_accepted)
{
    static const struct {
        const char *accept;
        bool problem;
    } cases[] = {
        {NULL, false},
        {"", false},
        {"*/*", false},
        {"application/json", false},
        {"application/problem+json", true},
        {"APPLICATION/problem+JSON", true},
        {"application/problem+json;q=0", false},
        {"application/problem+json; q=0.5", true},
        {"application/problem+json;charset=utf-8;q=0", false},
        {"application/json, application/problem+json", true},
        {"application/json;q=0.5, application/problem+json", true},
        {"application/problem+json;q=0.5, application/json", false},
        {"text/html,application/problem+json;q=0.1", true},
        {"application/problem+jsonx", false},
        {"application/problem+json;q=x", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        ck_assert_msg(error_wants_problem(cases[i].accept) == cases[i].problem, "%s", cases[i].accept);
}
END_TEST

START_TEST(a_problem_has_the_words_of_http)
{
    app_open(&app);
    app_request(&app, "POST", "/v1/inference?x=1", "Content-Type: application/json\r\nAccept: application/problem+json\r\n", "{}");
    ck_assert_int_eq(app_status(&app), 400);
    const char *want = "{\"type\":\"about:blank\",\"title\":\"Bad Request\",\"status\":400,\"detail\":\"x: expected no such field, found "
                       "\\\"1\\\"\",\"instance\":\"/v1/inference\",\"code\":\"VALIDATION_FAILED\",\"param\":\"x\",\"details\":";
    ck_assert_msg(strncmp(app_body(&app), want, strlen(want)) == 0, "%s", app_body(&app));
    app_close(&app);
}
END_TEST

int main(int argc, char **argv)
{
    const TTest *const tests[] = {tables_are_sound, every_code_has_its_answer, every_code_can_end_a_stream,
                                  problems_by_what_is_accepted, a_problem_has_the_words_of_http};
    if (argc == 2 && strcmp(argv[1], "--json") == 0)
        return dump();
    return suite_run("contract", tests, sizeof tests / sizeof *tests);
}
