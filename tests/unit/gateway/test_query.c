/* Query parameters, and the answers that depend on them. */
#include "tests/suite.h"

#include "bitnet/v1/admin.pb-c.h"
#include "bitnet/v1/models.pb-c.h"
#include "tests/unit/gateway/app.h"

static struct app app;

/* Those that are let through end in a question to the engine. */
static const struct {
    const char *target;
    const char *code, *param; /* NULL = let through */
} ones[] = {
    {"/v1/models", NULL, NULL},
    {"/v1/models?", NULL, NULL},
    {"/v1/models?&", NULL, NULL},
    {"/v1/models?status=active", NULL, NULL},
    {"/v1/models?status=active,failed&device=cpu&quantization_format=i2s", NULL, NULL},
    {"/v1/models?status=active%2Cfailed", NULL, NULL},
    {"/v1/models?device=cuda:0", NULL, NULL},
    {"/v1/models?device=cuda%3A12", NULL, NULL},
    {"/v1/models?status=", "VALIDATION_FAILED", "status"},
    {"/v1/models?status", "VALIDATION_FAILED", "status"},
    {"/v1/models?status=active,", "VALIDATION_FAILED", "status"},
    {"/v1/models?status=Active", "VALIDATION_FAILED", "status"},
    {"/v1/models?status=active&status=failed", "VALIDATION_FAILED", "status"},
    {"/v1/models?quantization_format=auto", "VALIDATION_FAILED", "quantization_format"},
    {"/v1/models?device=cuda:x", "VALIDATION_FAILED", "device"},
    {"/v1/models?device=xcpu", "VALIDATION_FAILED", "device"},
    {"/v1/models?limit=1", "VALIDATION_FAILED", "limit"},
    {"/v1/models?status=%zz", "INVALID_REQUEST", NULL},
    {"/v1/models?status=%4", "INVALID_REQUEST", NULL},
    {"/v1/models?status=%00", "INVALID_REQUEST", NULL},
    {"/v1/models?status=%ff", "INVALID_REQUEST", NULL},
    {"/v1/stats", NULL, NULL},
    {"/v1/stats?time_range=30d&include_details=true", NULL, NULL},
    {"/v1/stats?time_range=2h", "VALIDATION_FAILED", "time_range"},
    {"/v1/stats?include_details=yes", "INVALID_REQUEST", "include_details"},
    {"/v1/devices?x=1", "VALIDATION_FAILED", "x"},
    {"/v1/models/a?x=1", "VALIDATION_FAILED", "x"},
    {"/v1/models/a/status?x=1", "VALIDATION_FAILED", "x"},
    {"/health?x=1", "VALIDATION_FAILED", "x"},
    {"/health/live?x=1", "VALIDATION_FAILED", "x"},
    {"/health/ready?x=1", "VALIDATION_FAILED", "x"},
};

START_TEST(parameters)
{
    char want[64];
    for (size_t i = 0; i < sizeof ones / sizeof *ones; i++) {
        app_open(&app);
        app_request(&app, "GET", ones[i].target, "", "");
        ck_assert_msg(app_n_calls == (ones[i].code ? 0 : 1), "%s: %s", ones[i].target, app_body(&app));
        if (ones[i].code) {
            ck_assert_msg(app_status(&app) == 400, "%s", ones[i].target);
            snprintf(want, sizeof want, "\"code\":\"%s\"", ones[i].code);
            ck_assert_msg(strstr(app_body(&app), want) != NULL, "%s: %s", ones[i].target, app_body(&app));
        }
        snprintf(want, sizeof want, "\"param\":\"%s\"", ones[i].param ? ones[i].param : "");
        ck_assert_msg(!ones[i].param || strstr(app_body(&app), want), "%s: %s", ones[i].target, app_body(&app));
        app_close(&app);
    }
}
END_TEST

START_TEST(more_parameters_than_are_read)
{
    struct buffer b;
    buffer_init(&b, 4096);
    buffer_append_str(&b, "/v1/models?a=1");
    for (int i = 0; i < 40; i++)
        buffer_printf(&b, "&a%d=1", i);
    app_open(&app);
    app_request(&app, "GET", b.data, "", "");
    ck_assert_int_eq(app_status(&app), 400);
    ck_assert_ptr_nonnull(strstr(app_body(&app), "more than 32 parameters"));
    app_close(&app);
    buffer_fini(&b);
}
END_TEST

static void answer_models(int call)
{
    static const char *const devices[] = {"cpu", "cuda:1", "cuda:0"};
    Bitnet__V1__Model models[3], *list[3];
    Bitnet__V1__ListModelsResponse r = BITNET__V1__LIST_MODELS_RESPONSE__INIT;
    for (int i = 0; i < 3; i++) {
        bitnet__v1__model__init(&models[i]);
        models[i].id = (char *)(uintptr_t) "a\0b\0c" + 2 * i;
        models[i].status = i == 2 ? BITNET__V1__MODEL_STATUS__MODEL_STATUS_FAILED : BITNET__V1__MODEL_STATUS__MODEL_STATUS_ACTIVE;
        models[i].device = (char *)(uintptr_t)devices[i];
        models[i].quantization_format = (char *)(uintptr_t)(i == 0 ? "tl2" : "i2s");
        models[i].memory_bytes = 1 << 20;
        list[i] = &models[i];
    }
    r.n_models = 3;
    r.models = list;
    app_message(call, &r.base);
    app_end(call, 0, "");
}

START_TEST(models_are_filtered)
{
    static const struct {
        const char *query, *ids;
        int n_active;
    } cases[] = {{"", "abc", 2},       {"?status=active", "ab", 2},        {"?status=failed,loading", "c", 0}, {"?device=gpu", "bc", 1},
                 {"?device=cuda:1", "b", 1}, {"?quantization_format=tl2", "a", 1}, {"?status=unloading", "", 0},
                 {"?device=gpu&status=failed", "c", 0}};
    char target[64], want[64];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        app_open(&app);
        snprintf(target, sizeof target, "/v1/models%s", cases[i].query);
        app_request(&app, "GET", target, "", "");
        answer_models(0);
        for (const char *id = "abc"; *id; id++) {
            snprintf(want, sizeof want, "{\"id\":\"%c\",\"status\"", *id);
            ck_assert_msg(!strchr(cases[i].ids, *id) == !strstr(app_body(&app), want), "%s: %s", target, app_body(&app));
            snprintf(want, sizeof want, "{\"id\":\"%c\",\"object\"", *id); /* OpenAI's clients see those that answer */
            ck_assert_msg((!strchr(cases[i].ids, *id) || *id == 'c') == !strstr(app_body(&app), want), "%s: %s", target, app_body(&app));
        }
        snprintf(want, sizeof want, "\"total_count\":%zu,\"active_count\":%d}", strlen(cases[i].ids), cases[i].n_active);
        ck_assert_msg(strstr(app_body(&app), want) != NULL, "%s: %s", target, app_body(&app));
        app_close(&app);
    }
}
END_TEST

START_TEST(memory_is_that_of_the_device)
{
    app_open(&app);
    app_request(&app, "GET", "/v1/models?device=cuda:1", "", "");
    answer_models(0);
    ck_assert_ptr_nonnull(strstr(app_body(&app), "\"resource_usage\":{\"gpu_memory_usage_mb\":1}"));
    app_close(&app);
}
END_TEST

START_TEST(statistics)
{
    Bitnet__V1__StatsResponse a = BITNET__V1__STATS_RESPONSE__INIT;
    a.uptime_seconds = 12.5;
    a.total_requests = 10;
    a.successful_requests = 7;
    a.failed_requests = 2;
    a.generated_tokens = 90;
    a.inferences = a.inferences_tl1 = a.inferences_cpu = 9;
    a.batches = 40;
    a.quantization = (char *)(uintptr_t) "tl1";
    a.device = (char *)(uintptr_t) "cpu";
    a._avg_tokens_per_second_case = BITNET__V1__STATS_RESPONSE___AVG_TOKENS_PER_SECOND_AVG_TOKENS_PER_SECOND;
    a.avg_tokens_per_second = 30;
    app_open(&app);
    app_request(&app, "GET", "/v1/stats?time_range=7d&include_details=true", "", "");
    ck_assert_str_eq(app_calls[0].options.path, "/bitnet.v1.AdminService/Stats");
    Bitnet__V1__StatsRequest *q = bitnet__v1__stats_request__unpack(NULL, app_calls[0].request.n_bytes,
                                                                    (const uint8_t *)app_calls[0].request.data);
    ck_assert_uint_eq(q->window_seconds, 7 * 24 * 3600);
    bitnet__v1__stats_request__free_unpacked(q, NULL);
    app_message(0, &a.base);
    app_end(0, 0, "");
    ck_assert_str_eq(app_body(&app),
                     "{\"server_stats\":{\"uptime_seconds\":12.5,\"total_requests\":10,\"successful_requests\":7,\"failed_requests\":2,"
                     "\"error_rate\":0.2},\"inference_stats\":{\"total_tokens_generated\":90,\"avg_tokens_per_second\":30,"
                     "\"quantization_distribution\":{\"i2s\":0,\"tl1\":9,\"tl2\":0}},\"device_stats\":{\"cpu_inference_count\":9,"
                     "\"gpu_inference_count\":0,\"fallback_events\":0,\"device_utilization\":{}},\"batch_stats\":{"
                     "\"total_batches_processed\":40}}");
    app_close(&app);
}
END_TEST

START_TEST(devices)
{
    Bitnet__V1__DeviceInfo gpu = BITNET__V1__DEVICE_INFO__INIT, cpu = BITNET__V1__DEVICE_INFO__INIT, *list[] = {&gpu, &cpu};
    Bitnet__V1__DevicesResponse a = BITNET__V1__DEVICES_RESPONSE__INIT;
    gpu.id = (char *)(uintptr_t) "cuda:0";
    gpu.kind = (char *)(uintptr_t) "gpu";
    gpu.status = BITNET__V1__DEVICE_STATUS__DEVICE_STATUS_UNAVAILABLE;
    gpu.message = (char *)(uintptr_t) "no library";
    cpu.id = cpu.kind = (char *)(uintptr_t) "cpu";
    cpu.name = (char *)(uintptr_t) "Some CPU";
    cpu.status = BITNET__V1__DEVICE_STATUS__DEVICE_STATUS_ACTIVE;
    cpu.memory_total_bytes = 1000;
    cpu.memory_used_bytes = 10;
    cpu.kernels = (char *)(uintptr_t) "avx2";
    cpu.quantization_format = (char *)(uintptr_t) "i2s";
    cpu.threads = 2;
    a.n_devices = 2;
    a.devices = list;
    a.requested = (char *)(uintptr_t) "auto";
    app_open(&app);
    app_request(&app, "GET", "/v1/devices", "", "");
    app_message(0, &a.base);
    app_end(0, 0, "");
    ck_assert_str_eq(app_body(&app),
                     "{\"devices\":[{\"id\":\"cuda:0\",\"kind\":\"gpu\",\"status\":\"unavailable\",\"message\":\"no library\"},"
                     "{\"id\":\"cpu\",\"kind\":\"cpu\",\"name\":\"Some CPU\",\"status\":\"active\",\"memory\":{\"total_bytes\":1000,"
                     "\"used_bytes\":10},\"kernels\":\"avx2\",\"quantization_format\":\"i2s\",\"threads\":2}],"
                     "\"fallback_order\":[\"cuda:0\",\"cpu\"],\"requested\":\"auto\"}");
    app_close(&app);
}
END_TEST

START_TEST(descriptions_have_a_tag)
{
    char header[80], tag[32];
    app_open(&app);
    app_request(&app, "GET", "/openapi.json", "", "");
    ck_assert_int_eq(app_status(&app), 200);
    ck_assert_ptr_nonnull(strstr(app_sent(&app), "content-type: application/json\r\n"));
    ck_assert_ptr_nonnull(strstr(app_sent(&app), "x-request-id: rid\r\n"));
    const char *etag = strstr(app_sent(&app), "etag: ");
    ck_assert_ptr_nonnull(etag);
    snprintf(tag, sizeof tag, "%.20s", etag + 6);
    snprintf(header, sizeof header, "If-None-Match: \"other\", %s\r\n", tag);
    app_request(&app, "GET", "/openapi.json", header, "");
    ck_assert_int_eq(app_status(&app), 304);
    ck_assert_str_eq(app_body(&app), "");
    app_request(&app, "GET", "/openapi.yaml", header, "");
    ck_assert_int_eq(app_status(&app), 200);
    ck_assert_ptr_nonnull(strstr(app_body(&app), "openapi: 3.1.0\n"));
    app_request(&app, "HEAD", "/openapi.yaml", "", "");
    ck_assert_int_eq(app_status(&app), 200);
    ck_assert_str_eq(app_body(&app), "");
    app_close(&app);
}
END_TEST

SUITE("query", parameters, more_parameters_than_are_read, models_are_filtered, memory_is_that_of_the_device, statistics, devices,
      descriptions_have_a_tag)
