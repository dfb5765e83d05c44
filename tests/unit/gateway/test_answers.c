/* Whole requests to golden answers: both APIs, whole and as streams, and the errors on the way. */
#include "tests/suite.h"
#include "tests/unit/gateway/app.h"

#define STOP BITNET__V1__FINISH_REASON__FINISH_REASON_STOP
#define LENGTH BITNET__V1__FINISH_REASON__FINISH_REASON_LENGTH
#define DEADLINE BITNET__V1__FINISH_REASON__FINISH_REASON_DEADLINE

static struct app app;

static void setup(void)
{
    app_open(&app);
}

/* The body with chunk sizes taken out and what differs from run to run (times, ids) made equal. */
static const char *golden(void)
{
    static char out[65536];
    const char *from = app_body(&app);
    size_t n = 0;
    bool chunked = strstr(app_sent(&app), "transfer-encoding: chunked") != NULL;
    while (*from && n + 100 < sizeof out) {
        if (chunked) {
            size_t size = strtoul(from, NULL, 16);
            from = strstr(from, "\r\n") + 2;
            memcpy(out + n, from, size);
            n += size;
            from += size + 2;
        } else {
            out[n++] = *from++;
        }
    }
    out[n] = '\0';
    static const char *const varying[] = {"\"timestamp\":\"", "\"id\":\"cmpl-", "\"id\":\"chatcmpl-", "\"created\":"};
    for (size_t i = 0; i < sizeof varying / sizeof *varying; i++)
        for (char *p = out; (p = strstr(p, varying[i]));) {
            p += strlen(varying[i]);
            size_t n_gone = strcspn(p, ",\"}");
            memmove(p, p + n_gone, strlen(p + n_gone) + 1);
        }
    return out;
}

START_TEST(inference)
{
    setup();
    app_post(&app, "/v1/inference",
             "{\"prompt\":\"Hi\",\"seed\":7,\"stop_sequences\":[\"x\",\"y\"],\"priority\":\"high\","
             "\"timeout_ms\":5000,\"temperature\":0,\"top_k\":3,\"device_preference\":\"cpu\"}");
    ck_assert_int_eq(app_n_calls, 1);
    ck_assert_str_eq(app_calls[0].options.path, "/bitnet.v1.InferenceService/Generate");
    Bitnet__V1__GenerateRequest *q = app_generate_request(0);
    ck_assert_str_eq(q->prompt, "Hi");
    ck_assert_uint_eq(q->max_tokens, 100);
    ck_assert_uint_eq(q->sampling->seed, 7);
    ck_assert_int_eq(q->sampling->_temperature_case, BITNET__V1__SAMPLING___TEMPERATURE_TEMPERATURE);
    ck_assert_int_eq(q->sampling->_top_p_case, BITNET__V1__SAMPLING___TOP_P__NOT_SET);
    ck_assert_uint_eq(q->sampling->top_k, 3);
    ck_assert_uint_eq(q->n_stop, 2);
    ck_assert_str_eq(q->stop[1], "y");
    ck_assert_int_eq(q->priority, BITNET__V1__PRIORITY__PRIORITY_HIGH);
    ck_assert_int_eq(q->device, BITNET__V1__DEVICE__DEVICE_CPU);
    ck_assert_uint_eq(q->timeout_ms, 5000);
    ck_assert_str_eq(q->request_id, "rid");
    bitnet__v1__generate_request__free_unpacked(q, NULL);
    app_answer(0, false, "a \"b\"");
    ck_assert_int_eq(app_status(&app), 0);
    app_end(0, 0, "");
    ck_assert_int_eq(app_status(&app), 200);
    ck_assert_ptr_nonnull(strstr(app_sent(&app), "x-request-id: rid\r\n"));
    ck_assert_str_eq(
        golden(),
        "{\"text\":\"a \\\"b\\\"\",\"tokens_generated\":2,\"prompt_tokens\":4,\"inference_time_ms\":100,"
        "\"tokens_per_second\":25,\"model_id\":\"tales\",\"request_id\":\"rid\",\"finish_reason\":\"length\",\"seed\":"
        "7,"
        "\"quantization_used\":\"i2s\",\"device_used\":\"cpu\",\"performance_metrics\":{\"batch_size\":1,"
        "\"queue_time_ms\":1.5,\"processing_time_ms\":98.9,\"time_to_first_token_ms\":20.25,\"cached_prompt_tokens\":1,"
        "\"memory_usage_mb\":3}}");
    ck_assert_uint_eq(app_calls[0].held, 0);
    app_close(&app);
}
END_TEST

START_TEST(inference_stream)
{
    setup();
    app_post(&app, "/v1/inference/stream", "{\"prompt\":\"Hi\"}");
    ck_assert_str_eq(app_calls[0].options.path, "/bitnet.v1.InferenceService/StreamGenerate");
    app_token(0, 0, 0, 11, "One", 0);
    ck_assert_int_eq(app_status(&app), 200);
    ck_assert_uint_eq(app_calls[0].held, 0);
    app_token(0, 0, 1, 12, "", 0);
    app_choice_end(0, 0, DEADLINE);
    app_answer(0, true, "");
    app_end(0, 0, "");
    ck_assert_ptr_nonnull(strstr(app_sent(&app), "content-type: text/event-stream\r\ncache-control: no-cache\r\n"
                                                 "x-accel-buffering: no\r\n"));
    ck_assert_str_eq(
        golden(),
        "event: token\nid: 0\ndata: "
        "{\"type\":\"token\",\"text\":\"One\",\"token_id\":11,\"position\":0,\"timestamp\":\"\"}\n\n"
        "event: token\nid: 1\ndata: "
        "{\"type\":\"token\",\"text\":\"\",\"token_id\":12,\"position\":1,\"timestamp\":\"\"}\n\n"
        "event: metrics\nid: 1\ndata: {\"type\":\"metrics\",\"device\":\"cpu\",\"memory_usage_mb\":3,\"batch_size\":1,"
        "\"queue_time_ms\":1.5}\n\n"
        "event: complete\nid: 1\ndata: {\"type\":\"complete\",\"total_tokens\":2,\"inference_time_ms\":100,"
        "\"tokens_per_second\":25,\"finish_reason\":\"deadline\",\"seed\":7,\"request_id\":\"rid\"}\n\n");
    app_close(&app);
}
END_TEST

START_TEST(progress_every_sixteen_tokens)
{
    setup();
    app_post(&app, "/v1/inference/stream", "{\"prompt\":\"Hi\"}");
    for (uint32_t i = 0; i < 33; i++)
        app_token(0, 0, i, i, "t", 0);
    const char *first = strstr(app_sent(&app), "event: progress\nid: 15\n");
    ck_assert_ptr_nonnull(first);
    ck_assert_ptr_nonnull(strstr(first, "\"tokens_generated\":16,\"tokens_per_second\":"));
    ck_assert_ptr_nonnull(strstr(first, "event: progress\nid: 31\n"));
    app_close(&app);
    ck_assert(app_calls[0].cancelled); /* the connection went with the client */
}
END_TEST

START_TEST(chat)
{
    setup();
    app_post(&app, "/v1/chat/completions",
             "{\"model\":\"m.1\",\"messages\":[{\"role\":\"developer\",\"content\":\"S\"},"
             "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}],"
             "\"max_tokens\":9,\"max_completion_tokens\":5,\"stop\":\"z\",\"logit_bias\":{\"5\":-100},\"user\":\"u\","
             "\"seed\":null,"
             "\"tools\":[]}");
    Bitnet__V1__GenerateRequest *q = app_generate_request(0);
    ck_assert_str_eq(q->model, "m.1");
    ck_assert_uint_eq(q->chat->n_messages, 2);
    ck_assert_str_eq(q->chat->messages[0]->role, "system");
    ck_assert_str_eq(q->chat->messages[1]->content, "ab");
    ck_assert_uint_eq(q->max_tokens, 5);
    ck_assert_str_eq(q->stop[0], "z");
    ck_assert_uint_eq(q->sampling->logit_bias[0]->token_id, 5);
    ck_assert_int_eq(q->sampling->_seed_case, BITNET__V1__SAMPLING___SEED__NOT_SET);
    bitnet__v1__generate_request__free_unpacked(q, NULL);
    app_answer(0, false, "Hello");
    app_end(0, 0, "");
    ck_assert_str_eq(
        golden(),
        "{\"id\":\"chatcmpl-\",\"object\":\"chat.completion\",\"created\":,\"model\":\"tales\",\"choices\":[{\"index\":"
        "0,"
        "\"message\":{\"role\":\"assistant\",\"content\":\"Hello\",\"refusal\":null},\"logprobs\":null,"
        "\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":2,\"total_tokens\":6,"
        "\"prompt_tokens_details\":{\"cached_tokens\":1}}}");
    app_close(&app);
}
END_TEST

#define CHUNK                                                                                                          \
    "data: {\"id\":\"chatcmpl-\",\"object\":\"chat.completion.chunk\",\"created\":,\"model\":\"m\",\"choices\":["

START_TEST(chat_stream)
{
    setup();
    app_post(&app, "/v1/chat/completions",
             "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"stream\":true,"
             "\"stream_options\":{\"include_usage\":true},\"logprobs\":true}");
    app_token(0, 0, 0, 11, "Hi", -0.5f);
    app_choice_end(0, 0, STOP);
    app_answer(0, true, "");
    app_end(0, 0, "");
    ck_assert_str_eq(
        golden(), CHUNK
        "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}],"
        "\"usage\":null}\n\n" CHUNK
        "{\"index\":0,\"delta\":{\"content\":\"Hi\"},\"logprobs\":{\"content\":[{\"token\":\"Hi\",\"logprob\":-0.5,"
        "\"bytes\":[72,105],\"top_logprobs\":[]}],\"refusal\":null},\"finish_reason\":null}],\"usage\":null}\n\n" CHUNK
        "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":null}\n\n" CHUNK
        "],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":2,\"total_tokens\":6,"
        "\"prompt_tokens_details\":{\"cached_tokens\":1}}}\n\n"
        "data: [DONE]\n\n");
    app_close(&app);
}
END_TEST

START_TEST(completions_of_two_prompts)
{
    setup();
    app_post(&app, "/v1/completions", "{\"prompt\":[\"a\",\"b\"],\"echo\":true,\"logprobs\":2}");
    ck_assert_int_eq(app_n_calls, 2);
    Bitnet__V1__GenerateRequest *q = app_generate_request(1);
    ck_assert_str_eq(q->prompt, "b");
    ck_assert_uint_eq(q->max_tokens, 16);
    ck_assert(q->echo && q->logprobs);
    ck_assert_uint_eq(q->top_logprobs, 2);
    bitnet__v1__generate_request__free_unpacked(q, NULL);
    app_answer(1, false, "bB");
    app_end(1, 0, "");
    app_answer(0, false, "aA");
    app_end(0, 0, "");
    ck_assert_str_eq(golden(),
                     "{\"id\":\"cmpl-\",\"object\":\"text_completion\",\"created\":,\"model\":\"tales\",\"choices\":["
                     "{\"index\":0,\"text\":\"aA\",\"logprobs\":null,\"finish_reason\":\"length\"},"
                     "{\"index\":1,\"text\":\"bB\",\"logprobs\":null,\"finish_reason\":\"length\"}],"
                     "\"usage\":{\"prompt_tokens\":8,\"completion_tokens\":4,\"total_tokens\":12,"
                     "\"prompt_tokens_details\":{\"cached_tokens\":2}}}");
    app_close(&app);
}
END_TEST

START_TEST(completions_stream)
{
    setup();
    app_post(&app, "/v1/completions", "{\"model\":\"m\",\"prompt\":[1,2,3],\"stream\":true}");
    Bitnet__V1__GenerateRequest *q = app_generate_request(0);
    ck_assert_uint_eq(q->tokens->n_ids, 3);
    bitnet__v1__generate_request__free_unpacked(q, NULL);
    app_token(0, 0, 0, 11, "", 0); /* no text, no chunk */
    app_token(0, 0, 1, 12, "\xc3\xa9", 0);
    app_choice_end(0, 0, LENGTH);
    app_answer(0, true, "");
    app_end(0, 0, "");
    ck_assert_str_eq(
        golden(),
        "data: {\"id\":\"cmpl-\",\"object\":\"text_completion\",\"created\":,\"model\":\"m\",\"choices\":[{\"index\":0,"
        "\"text\":\"\xc3\xa9\",\"logprobs\":null,\"finish_reason\":null}]}\n\n"
        "data: {\"id\":\"cmpl-\",\"object\":\"text_completion\",\"created\":,\"model\":\"m\",\"choices\":[{\"index\":0,"
        "\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"length\"}]}\n\n"
        "data: [DONE]\n\n");
    app_close(&app);
}
END_TEST

START_TEST(an_error_before_the_first_token_has_its_status)
{
    setup();
    app_post(&app, "/v1/inference/stream", "{\"prompt\":\"Hi\"}");
    app_end(0, 4, "Deadline Exceeded");
    ck_assert_int_eq(app_status(&app), 504);
    app_post(&app, "/v1/inference/stream", "{\"prompt\":\"Hi\"}");
    app_end(1, 14, "failed to connect to all addresses; last error: ipv4:127.0.0.1:1");
    ck_assert_int_eq(app_status(&app), 503);
    ck_assert_ptr_nonnull(strstr(app_sent(&app), "retry-after: 1\r\n"));
    ck_assert_ptr_null(strstr(app_sent(&app), "127.0.0.1"));
    app_post(&app, "/v1/inference", "{\"prompt\":\"Hi\"}");
    app_end(2, 1, "Cancelled"); /* not by us */
    ck_assert_int_eq(app_status(&app), 503);
    app_refuse = ERROR_SERVICE_UNAVAILABLE;
    app_post(&app, "/v1/inference", "{\"prompt\":\"Hi\"}");
    ck_assert_int_eq(app_status(&app), 503);
    app_close(&app);
}
END_TEST

/* Every code of the contract as an engine's failure: the answers of both APIs, whole and in mid-stream. The figures are the contract's, not the
 * program's table. */
static const struct {
    enum error_code code;
    const char *name;
    int status;
    const char *type;
} codes[] = {
    {ERROR_INVALID_REQUEST, "INVALID_REQUEST", 400, "invalid_request_error"},
    {ERROR_VALIDATION_FAILED, "VALIDATION_FAILED", 400, "invalid_request_error"},
    {ERROR_AUTHENTICATION_REQUIRED, "AUTHENTICATION_REQUIRED", 401, "authentication_error"},
    {ERROR_AUTHORIZATION_FAILED, "AUTHORIZATION_FAILED", 403, "permission_error"},
    {ERROR_MODEL_NOT_FOUND, "MODEL_NOT_FOUND", 404, "not_found_error"},
    {ERROR_NOT_FOUND, "NOT_FOUND", 404, "not_found_error"},
    {ERROR_METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", 405, "invalid_request_error"},
    {ERROR_PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", 413, "invalid_request_error"},
    {ERROR_UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", 415, "invalid_request_error"},
    {ERROR_CONFLICT, "CONFLICT", 409, "invalid_request_error"},
    {ERROR_RATE_LIMIT_EXCEEDED, "RATE_LIMIT_EXCEEDED", 429, "rate_limit_error"},
    {ERROR_QUOTA_EXCEEDED, "QUOTA_EXCEEDED", 429, "rate_limit_error"},
    {ERROR_CANCELLED, "SERVICE_UNAVAILABLE", 503, "server_error"}, /* 499 is for the log: who still waits has not cancelled */
    {ERROR_INFERENCE_FAILED, "INFERENCE_FAILED", 500, "server_error"},
    {ERROR_INTERNAL, "INTERNAL_ERROR", 500, "server_error"},
    {ERROR_QUANTIZATION, "QUANTIZATION_ERROR", 500, "server_error"},
    {ERROR_SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", 503, "server_error"},
    {ERROR_DEVICE_UNAVAILABLE, "DEVICE_UNAVAILABLE", 503, "server_error"},
    {ERROR_MEMORY_EXHAUSTED, "MEMORY_EXHAUSTED", 503, "server_error"},
    {ERROR_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", 504, "server_error"},
    {ERROR_READER_STALLED, "READER_STALLED", 408, "invalid_request_error"},
    {ERROR_MODEL_LOAD_FAILED, "MODEL_LOAD_FAILED", 422, "invalid_request_error"},
    {ERROR_CROSS_VALIDATION_FAILED, "CROSS_VALIDATION_FAILED", 422, "invalid_request_error"},
    {ERROR_NOT_IMPLEMENTED, "NOT_IMPLEMENTED", 501, "server_error"},
};

static void has_error(size_t i)
{
    char name[64], type[64];
    snprintf(name, sizeof name, "\"code\":\"%s\"", codes[i].name);
    snprintf(type, sizeof type, "\"type\":\"%s\"", codes[i].type);
    ck_assert_msg(strstr(app_body(&app), name) && strstr(app_body(&app), type) && strstr(app_body(&app), "as it was"), "%s: %s", codes[i].name,
                  app_body(&app));
}

START_TEST(every_code_is_an_answer)
{
    static const char *const asked[][2] = {{"/v1/inference", "{\"prompt\":\"Hi\"}"},
                                           {"/v1/completions", "{\"model\":\"m\",\"prompt\":\"Hi\"}"}};
    ck_assert_uint_eq(sizeof codes / sizeof *codes, ERROR_N_CODES - 1);
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        for (size_t api = 0; api < 2; api++) {
            setup();
            app_post(&app, asked[api][0], asked[api][1]);
            app_fail(0, codes[i].code, "as it was");
            ck_assert_msg(app_status(&app) == codes[i].status, "%s: %d", codes[i].name, app_status(&app));
            has_error(i);
            bool retry = codes[i].status == 429 || codes[i].status == 503;
            ck_assert_msg((strstr(app_sent(&app), "\r\nretry-after: ") != NULL) == retry, "%s", app_sent(&app));
            app_close(&app);
        }
}
END_TEST

START_TEST(every_code_is_an_event)
{
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        setup();
        app_post(&app, "/v1/completions", "{\"model\":\"m\",\"prompt\":\"Hi\",\"stream\":true}");
        app_token(0, 0, 0, 5, "Ho", 0);
        app_fail(0, codes[i].code, "as it was");
        ck_assert_int_eq(app_status(&app), 200);
        has_error(i);
        ck_assert_ptr_null(strstr(app_body(&app), "[DONE]"));
        app_close(&app);
    }
}
END_TEST

START_TEST(an_error_in_mid_stream_is_an_event)
{
    setup();
    app_post(&app, "/v1/inference/stream", "{\"prompt\":\"Hi\"}");
    app_token(0, 0, 0, 11, "One", 0);
    app_end(0, 13, "broken");
    ck_assert_ptr_nonnull(strstr(app_sent(&app),
                                 "event: error\nid: 0\ndata: {\"type\":\"error\",\"code\":\"INTERNAL_ERROR\","
                                 "\"message\":\"broken\",\"details\":{\"error_type\":\"server_error\"},"));
    ck_assert_ptr_nonnull(strstr(app_sent(&app), "\r\n0\r\n\r\n"));
    app_post(&app, "/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"stream\":true}");
    app_token(1, 0, 0, 11, "One", 0);
    app_end(1, 14, "");
    ck_assert_ptr_nonnull(strstr(app_sent(&app), "data: {\"error\":{\"code\":\"SERVICE_UNAVAILABLE\""));
    ck_assert_ptr_null(strstr(app_sent(&app), "[DONE]"));
    app_close(&app);
}
END_TEST

START_TEST(one_failing_prompt_cancels_the_others)
{
    setup();
    app_post(&app, "/v1/completions", "{\"prompt\":[\"a\",\"b\"]}");
    app_end(0, 13, "broken");
    ck_assert_int_eq(app_status(&app), 500);
    ck_assert(app_calls[1].cancelled);
    app_close(&app);
}
END_TEST

START_TEST(a_slow_reader_holds_the_engine)
{
    setup();
    app_post(&app, "/v1/inference/stream", "{\"prompt\":\"Hi\"}");
    app_token(0, 0, 0, 1, "a", 0);
    ck_assert_uint_eq(app_calls[0].held, 0);
    app.m.pending = 100000;
    for (uint32_t i = 1; i < 50; i++)
        app_token(0, 0, i, i, "a", 0);
    size_t held = app_calls[0].held;
    ck_assert_uint_gt(held, 2000);
    app_sent(&app);
    ck_assert_uint_eq(app_calls[0].held, held);
    app.m.pending = 0;
    app_sent(&app);
    ck_assert_uint_eq(app_calls[0].held, 0);
    app_close(&app);
}
END_TEST

struct refusal {
    const char *method, *path, *headers, *body;
    int status;
    const char *contains;
};

#define JSON_TYPE "Content-Type: application/json\r\n"
#define CHAT "/v1/chat/completions"
#define TOOL "{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\"}}}"
#define CALL "{\"id\":\"c\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}"
#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]"

static const struct refusal refusals[] = {
    {"GET", "/nothing", "", "", 404, "\"code\":\"NOT_FOUND\""},
    {"GET", "/v1/inference", "", "", 405, "allow: POST, OPTIONS\r\n"},
    {"POST", "/health", JSON_TYPE, "", 405, "allow: GET, HEAD, OPTIONS\r\n"},
    {"OPTIONS", "/nothing", "", "", 404, "NOT_FOUND"},
    {"GET", "/metrics", "", "", 404, "NOT_FOUND"},
    {"POST", "/v1/models/load", JSON_TYPE, "{\"model_path\":\"m/a.gguf\"}", 400, "\"param\":\"model_path\""},
    {"POST", "/v1/inference", "Content-Type: text/plain\r\n", "{}", 415, "UNSUPPORTED_MEDIA_TYPE"},
    {"POST", "/v1/inference", "Content-Type: text/plain\r\n", "{}", 415, "application/json, found text/plain"},
    {"POST", "/v1/inference", JSON_TYPE, "", 400, "the body is empty: expected a JSON object"},
    {"POST", "/v1/inference", JSON_TYPE, "{\"prompt\":1}", 400, "\"code\":\"INVALID_REQUEST\""},
    {"POST", "/v1/inference", JSON_TYPE, "{\"promt\":\"a\"}", 400,
     "{\"field\":\"promt\",\"expected\":\"no such field\","},
    {"POST", "/v1/inference", JSON_TYPE "Accept: application/problem+json\r\n", "{}", 400,
     "content-type: application/problem+json\r\n"},
    {"POST", CHAT, JSON_TYPE, "{}", 400, "\"param\":\"messages\""},
    {"POST", CHAT, JSON_TYPE, "{\"messages\":[]}", 400, "\"param\":\"messages\""},
    {"POST", CHAT, JSON_TYPE, "{\"messages\":[{\"role\":\"x\",\"content\":\"a\"}]}", 400, "messages[0].role"},
    {"POST", CHAT, JSON_TYPE, "{\"messages\":[{\"role\":\"user\"}]}", 400, "messages[0].content"},
    {"POST", CHAT, JSON_TYPE, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}", 400,
     "content"},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"tools\":{}}", 400, "\"param\":\"tools\""},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"tools\":[{}]}", 400, "\"param\":\"tools[0].type\""},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"tools\":[{\"type\":\"function\"}]}", 400, "\"param\":\"tools[0].function\""},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a b\"}}]}", 400,
     "\"param\":\"tools[0].function.name\""},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a\",\"parameters\":[]}}]}", 400,
     "\"param\":\"tools[0].function.parameters\""},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a\",\"strict\":1}}]}", 400,
     "\"param\":\"tools[0].function.strict\""},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"tool_choice\":\"required\"}", 400, "\"param\":\"tool_choice\""},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"tools\":[" TOOL "],\"tool_choice\":\"any\"}", 400, "\"param\":\"tool_choice\""},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"tools\":[" TOOL "],\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"g\"}}}", 400,
     "the name of one of the tools"},
    {"POST", CHAT, JSON_TYPE, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"tool_calls\":[" CALL "]}]}", 400,
     "\"param\":\"messages[0].tool_calls\""},
    {"POST", CHAT, JSON_TYPE, "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"c\"}]}]}", 400,
     "\"param\":\"messages[0].tool_calls[0]\""},
    {"POST", CHAT, JSON_TYPE, "{\"messages\":[{\"role\":\"tool\",\"content\":\"a\"}]}", 400, "\"param\":\"messages[0].tool_call_id\""},
    {"POST", CHAT, JSON_TYPE,
     "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[" CALL "]},{\"role\":\"tool\",\"content\":\"a\",\"tool_call_id\":\"d\"}]}", 400,
     "\"param\":\"messages[1].tool_call_id\""},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"functions\":[{\"name\":\"f\"}]}", 400, "\"param\":\"functions\""},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"function_call\":{\"name\":\"f\"}}", 400, "\"param\":\"function_call\""},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"modalities\":[\"text\",\"audio\"]}", 400, "\"param\":\"modalities\""},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"service_tier\":\"flex\"}", 400, "\"param\":\"service_tier\""},
    {"POST", "/v1/embeddings", JSON_TYPE, "{\"model\":\"m\"}", 400, "\"param\":\"input\""},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"response_format\":1}", 400, "\"param\":\"response_format\""},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"response_format\":{\"type\":\"xml\"}}", 400, "\"param\":\"response_format.type\""},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"response_format\":{\"type\":\"regex\"}}", 400,
     "\"param\":\"response_format.pattern\""},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"response_format\":{\"type\":\"json_schema\"}}", 400,
     "\"param\":\"response_format.json_schema\""},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":[]}}}", 400,
     "\"param\":\"response_format.json_schema.schema\""},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"n\":9}", 400, "\"param\":\"n\""},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"top_logprobs\":2}", 400, "top_logprobs"},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"logit_bias\":{\"x\":1}}", 400, "logit_bias"},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"logit_bias\":{\"1\":101}}", 400, "logit_bias"},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"stream_options\":{\"include_usage\":true}}", 400, "stream_options"},
    {"POST", CHAT, JSON_TYPE, "{" MESSAGES ",\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\"]}", 400, "\"param\":\"stop\""},
    {"POST", "/v1/completions", JSON_TYPE, "{\"prompt\":\"\"}", 400, "\"param\":\"prompt\""},
    {"POST", "/v1/completions", JSON_TYPE, "{\"prompt\":[1,-1]}", 400, "\"param\":\"prompt\""},
    {"POST", "/v1/completions", JSON_TYPE, "{\"prompt\":[]}", 400, "\"param\":\"prompt\""},
    {"POST", "/v1/completions", JSON_TYPE, "{\"prompt\":\"a\",\"suffix\":\"b\"}", 400, "\"param\":\"suffix\""},
    {"POST", "/v1/completions", JSON_TYPE, "{\"prompt\":\"a\",\"n\":3,\"best_of\":2}", 400, "\"param\":\"best_of\""},
    {"POST", "/v1/completions", JSON_TYPE, "{\"prompt\":\"a\",\"best_of\":9}", 400, "\"param\":\"best_of\""},
    {"POST", "/v1/completions", JSON_TYPE, "{\"prompt\":\"a\",\"best_of\":2,\"stream\":true}", 400, "\"param\":\"best_of\""},
    {"POST", "/v1/completions", JSON_TYPE, "{\"prompt\":\"a\",\"max_tokens\":0}", 400, "\"param\":\"max_tokens\""},
    {"POST", "/v1/completions", JSON_TYPE, "{\"prompt\":\"a\",\"max_tokens\":0,\"echo\":true}", 400, "\"param\":\"max_tokens\""},
    {"POST", "/v1/completions", JSON_TYPE, "{\"prompt\":\"a\",\"max_tokens\":0,\"echo\":true,\"logprobs\":1,\"n\":2}", 400,
     "\"param\":\"max_tokens\""},
    {"POST", "/detokenize", JSON_TYPE, "{\"tokens\":[1.5]}", 400, "\"param\":\"tokens\""},
};

/* What becomes of a response_format: the schema in the order of its keys. */
static void expect_format(const char *format, int kind, const char *text)
{
    char body[512];
    setup();
    snprintf(body, sizeof body, "{" MESSAGES ",\"response_format\":%s}", format);
    app_request(&app, "POST", CHAT, JSON_TYPE, body);
    ck_assert_int_eq(app_n_calls, 1);
    Bitnet__V1__GenerateRequest *q = app_generate_request(0);
    ck_assert(!q->response_format == !kind);
    if (kind) {
        ck_assert_int_eq((int)q->response_format->format_case, kind);
        if (text)
            ck_assert_str_eq(q->response_format->regex, text); /* both strings are one union */
    }
    bitnet__v1__generate_request__free_unpacked(q, NULL);
    app_close(&app);
}

START_TEST(response_formats_are_passed_on)
{
    expect_format("null", 0, NULL);
    expect_format("{\"type\":\"text\"}", 0, NULL);
    expect_format("{\"type\":\"json_object\"}", BITNET__V1__RESPONSE_FORMAT__FORMAT_JSON_OBJECT, NULL);
    expect_format("{\"type\":\"regex\",\"pattern\":\"a|b\"}", BITNET__V1__RESPONSE_FORMAT__FORMAT_REGEX, "a|b");
    expect_format("{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\",\"strict\":true,\"schema\":{\"z\":1.5,\"a\":[]}}}",
                  BITNET__V1__RESPONSE_FORMAT__FORMAT_JSON_SCHEMA, "{\"z\":1.5,\"a\":[]}");
}
END_TEST

START_TEST(refuses)
{
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const struct refusal *r = &refusals[i];
        setup();
        app_request(&app, r->method, r->path, r->headers, r->body);
        ck_assert_msg(app_status(&app) == r->status, "%s %s: %s", r->path, r->body, app_sent(&app));
        ck_assert_msg(strstr(app_sent(&app), r->contains), "%s %s: %s", r->path, r->body, app_sent(&app));
        ck_assert_ptr_nonnull(strstr(app_sent(&app), "\"request_id\":\"rid\""));
        ck_assert_int_eq(app_n_calls, 0);
        app_close(&app);
    }
}
END_TEST

START_TEST(live_needs_no_engine)
{
    setup();
    app_refuse = ERROR_SERVICE_UNAVAILABLE;
    app_request(&app, "GET", "/health/live", "", "");
    ck_assert_int_eq(app_status(&app), 200);
    app_request(&app, "GET", "/health/ready", "", "");
    ck_assert_int_eq(app_status(&app), 503);
    app_request(&app, "GET", "/health", "", "");
    ck_assert_int_eq(app_status(&app), 503);
    ck_assert_ptr_nonnull(strstr(app_sent(&app), "\"batch_engine\":{\"status\":\"unhealthy\""));
    app_close(&app);
}
END_TEST

START_TEST(the_page_of_metrics)
{
    setup();
    app_request(&app, "GET", "/nothing", "", "");
    memory_close(&app.m);
    app_connect(&app, &app.g.admin_http);
    app_request(&app, "GET", "/metrics", "", "");
#ifdef FEATURE_PROMETHEUS
    ck_assert_ptr_nonnull(
        strstr(app_sent(&app), "bitnet_requests_total{method=\"GET\",endpoint=\"other\",status=\"404\"} 1"));
    ck_assert_ptr_nonnull(strstr(app_sent(&app), "bitnet_errors_total{type=\"NOT_FOUND\",component=\"gateway\"} 1"));
    ck_assert_ptr_nonnull(strstr(app_sent(&app), "bitnet_process_resident_memory_bytes"));
#else
    ck_assert_int_eq(app_status(&app), 404);
#endif
    app_close(&app);
}
END_TEST

START_TEST(says_where_metrics_are)
{
    setup();
    app_request(&app, "GET", "/metrics", "", "");
    ck_assert_int_eq(app_status(&app), 404);
#ifdef FEATURE_PROMETHEUS
    ck_assert_ptr_nonnull(strstr(app_body(&app), "admin port; --metrics-on-main"));
#endif
    app_close(&app);
}
END_TEST

START_TEST(tells_the_methods)
{
    static const char *const asked[][2] = {{"/v1/inference", "\r\nallow: POST, OPTIONS\r\n"},
                                           {"/v1/models/a", "\r\nallow: GET, HEAD, DELETE, OPTIONS\r\n"},
                                           {"*", "\r\nallow: GET, HEAD, POST, DELETE, OPTIONS\r\n"}};
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        app_open(&app);
        app_request(&app, "OPTIONS", asked[i][0], "", "");
        ck_assert_int_eq(app_status(&app), 204);
        ck_assert_ptr_nonnull(strstr(app_sent(&app), asked[i][1]));
        ck_assert_ptr_null(strstr(app_sent(&app), "content-length"));
        ck_assert_str_eq(app_body(&app), "");
        app_close(&app);
    }
}
END_TEST

SUITE("answers", says_where_metrics_are, tells_the_methods, inference, inference_stream, progress_every_sixteen_tokens, chat, chat_stream,
      completions_of_two_prompts, completions_stream, an_error_before_the_first_token_has_its_status,
      every_code_is_an_answer, every_code_is_an_event, an_error_in_mid_stream_is_an_event, one_failing_prompt_cancels_the_others, response_formats_are_passed_on,
      a_slow_reader_holds_the_engine,
      refuses, live_needs_no_engine, the_page_of_metrics)
