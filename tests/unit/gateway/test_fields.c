/* The tables of the endpoints: each field at its bounds and beyond, and the form of the JSON around them. */
#include "tests/suite.h"

#include "gateway/inference.h"
#include "gateway/openai.h"
#include "gateway/tokenize.h"

static const struct field *const tables[] = {inference_fields, chat_fields, completion_fields};

static const struct fields_rules strict = {.strict = true, .max_prompt_chars = 10};
static const struct fields_rules lenient = {.strict = false, .max_prompt_chars = 10};

/* Parses one object; the code of the fault, or ERROR_NONE. */
static enum error_code parse(const struct field *table, const struct fields_rules *rules, const char *json,
                             struct params *p)
{
    struct failure f;
    json_t *root;
    failure_init(&f);
    if (fields_object(json, strlen(json), &root, &f))
        fields_parse(table, root, rules, p, &f);
    enum error_code code = f.error.code;
    json_decref(root);
    failure_fini(&f);
    return code;
}

START_TEST(numbers_at_their_bounds)
{
    char json[128];
    struct params p;
    for (size_t t = 0; t < 3; t++)
        for (const struct field *f = tables[t]; f->name; f++) {
            if (f->type != FIELD_INT && f->type != FIELD_FLOAT)
                continue;
            bool large = f->max > 1e15; /* one more is no other double */
            const double values[] = {f->min, f->max, f->min - 1, f->max + 1, f->min - 0.001, f->max + 0.001};
            for (int i = 0; i < (large ? 1 : 6); i++) {
                bool whole = values[i] == (double)(long long)values[i];
                snprintf(json, sizeof json, whole ? "{\"%s\":%.0f}" : "{\"%s\":%.3f}", f->name, values[i]);
                const struct field only[] = {*f, {0}};
                enum error_code want = i < 2                            ? ERROR_NONE
                                       : f->type == FIELD_INT && !whole ? ERROR_INVALID_REQUEST
                                                                        : ERROR_VALIDATION_FAILED;
                ck_assert_msg(parse(only, &strict, json, &p) == want, "%s", json);
            }
            snprintf(json, sizeof json, "{\"%s\":\"1\"}", f->name);
            const struct field only[] = {*f, {0}};
            ck_assert_msg(parse(only, &strict, json, &p) == ERROR_INVALID_REQUEST, "%s", json);
        }
}
END_TEST

struct one {
    const char *json;
    enum error_code code;
};

static const struct one ones[] = {
    {"{\"prompt\":\"a\"}", ERROR_NONE},
    {"{\"prompt\":\"0123456789\"}", ERROR_NONE},
    {"{\"prompt\":\"\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\"}",
     ERROR_NONE}, /* 10 characters */
    {"{\"prompt\":\"\\ud83d\\ude00\"}", ERROR_NONE},
    {"{\"prompt\":\"0123456789a\"}", ERROR_VALIDATION_FAILED},
    {"{\"prompt\":\"\"}", ERROR_VALIDATION_FAILED},
    {"{}", ERROR_VALIDATION_FAILED},
    {"{\"prompt\":null}", ERROR_INVALID_REQUEST},
    {"{\"prompt\":[\"a\"]}", ERROR_INVALID_REQUEST},
    {"{\"prompt\":\"a\",\"prompt\":\"b\"}", ERROR_INVALID_REQUEST},
    {"{\"prompt\":\"\\u0000\"}", ERROR_INVALID_REQUEST},
    {"{\"prompt\":\"\\ud800\"}", ERROR_INVALID_REQUEST},
    {"{\"prompt\":\"\xff\"}", ERROR_INVALID_REQUEST},
    {"{\"prompt\":\"\xed\xa0\x80\"}", ERROR_INVALID_REQUEST},
    {"{\"prompt\":\"a\"} x", ERROR_INVALID_REQUEST},
    {"{\"prompt\":\"a\"", ERROR_INVALID_REQUEST},
    {"", ERROR_INVALID_REQUEST},
    {"[]", ERROR_INVALID_REQUEST},
    {"{\"prompt\":\"a\",\"other\":1}", ERROR_VALIDATION_FAILED},
    {"{\"prompt\":\"a\",\"model\":\"a-B_9\"}", ERROR_NONE},
    {"{\"prompt\":\"a\",\"model\":\"a.b\"}", ERROR_VALIDATION_FAILED},
    {"{\"prompt\":\"a\",\"model\":\"\"}", ERROR_VALIDATION_FAILED},
    {"{\"prompt\":\"a\",\"priority\":\"low\"}", ERROR_NONE},
    {"{\"prompt\":\"a\",\"priority\":\"lo\"}", ERROR_VALIDATION_FAILED},
    {"{\"prompt\":\"a\",\"priority\":\"\"}", ERROR_VALIDATION_FAILED},
    {"{\"prompt\":\"a\",\"device_preference\":1}", ERROR_INVALID_REQUEST},
    {"{\"prompt\":\"a\",\"stop_sequences\":[]}", ERROR_NONE},
    {"{\"prompt\":\"a\",\"stop_sequences\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"0\"]}", ERROR_NONE},
    {"{\"prompt\":\"a\",\"stop_sequences\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"0\",\"1\"]}",
     ERROR_VALIDATION_FAILED},
    {"{\"prompt\":\"a\",\"stop_sequences\":[\"0123456789012345678901234567890123456789012345678901234567890123\"]}",
     ERROR_NONE},
    {"{\"prompt\":\"a\",\"stop_sequences\":[\"01234567890123456789012345678901234567890123456789012345678901234\"]}",
     ERROR_VALIDATION_FAILED},
    {"{\"prompt\":\"a\",\"stop_sequences\":[\"\"]}", ERROR_VALIDATION_FAILED},
    {"{\"prompt\":\"a\",\"stop_sequences\":\"x\"}", ERROR_INVALID_REQUEST},
    {"{\"prompt\":\"a\",\"max_tokens\":5.0}", ERROR_NONE},
    {"{\"prompt\":\"a\",\"max_tokens\":5.5}", ERROR_INVALID_REQUEST},
    {"{\"prompt\":\"a\",\"max_tokens\":1e400}", ERROR_INVALID_REQUEST},
    {"{\"prompt\":\"a\",\"max_tokens\":99999999999999999999}", ERROR_INVALID_REQUEST},
    {"{\"prompt\":\"a\",\"temperature\":NaN}", ERROR_INVALID_REQUEST},
    {"{\"prompt\":\"a\",\"temperature\":true}", ERROR_INVALID_REQUEST},
};

START_TEST(one_request_at_a_time)
{
    struct params p;
    for (size_t i = 0; i < sizeof ones / sizeof *ones; i++)
        ck_assert_msg(parse(inference_fields, &strict, ones[i].json, &p) == ones[i].code, "%s: %s", ones[i].json,
                      error_info(parse(inference_fields, &strict, ones[i].json, &p))->name);
}
END_TEST

START_TEST(defaults_are_the_contracts)
{
    struct params p;
    ck_assert_int_eq(parse(inference_fields, &strict, "{\"prompt\":\"a\"}", &p), ERROR_NONE);
    ck_assert(!p.max_tokens.set && !p.temperature.set);
    ck_assert_int_eq(p.max_tokens.i, 100);
    ck_assert_int_eq(p.top_k.i, 50);
    ck_assert_double_eq(p.temperature.f, 0.7);
    ck_assert_double_eq(p.top_p.f, 0.9);
    ck_assert_double_eq(p.repetition_penalty.f, 1.0);
    ck_assert_int_eq(p.priority.i, 0);
}
END_TEST

START_TEST(openai_ignores_what_it_does_not_know)
{
    struct params p;
    ck_assert_int_eq(
        parse(completion_fields, &lenient, "{\"prompt\":\"a\",\"what\":1,\"seed\":null,\"user\":\"x\"}", &p),
        ERROR_NONE);
    ck_assert(!p.seed.set);
    ck_assert_int_eq(parse(completion_fields, &lenient, "{\"prompt\":\"a\",\"stop\":[\"x\"]}", &p), ERROR_NONE);
    ck_assert_int_eq(parse(completion_fields, &lenient, "{\"prompt\":\"a\",\"suffix\":\"x\"}", &p),
                     ERROR_VALIDATION_FAILED);
    ck_assert_int_eq(parse(chat_fields, &lenient, "{\"messages\":1,\"function_call\":\"auto\",\"store\":false}", &p),
                     ERROR_NONE);
    ck_assert_int_eq(parse(chat_fields, &lenient, "{\"messages\":1,\"function_call\":\"f\"}", &p),
                     ERROR_VALIDATION_FAILED);
    ck_assert_int_eq(parse(chat_fields, &lenient, "{\"messages\":1,\"functions\":[{}]}", &p), ERROR_VALIDATION_FAILED);
}
END_TEST

START_TEST(all_faults_are_told)
{
    struct params p;
    struct failure f;
    json_t *root;
    const char *json = "{\"prompt\":\"\",\"max_tokens\":0,\"temperature\":\"x\",\"nonsense\":[1,2]}";
    failure_init(&f);
    ck_assert(fields_object(json, strlen(json), &root, &f));
    ck_assert(!fields_parse(inference_fields, root, &strict, &p, &f));
    ck_assert_int_eq(f.n_violations, 4);
    ck_assert_int_eq(f.error.code, ERROR_INVALID_REQUEST);
    ck_assert_str_eq(f.error.param, "prompt");
    ck_assert_str_eq(f.violations.data,
                     "{\"field\":\"prompt\",\"expected\":\"a string of 1..10 characters\",\"actual\":\"\\\"\\\"\"},"
                     "{\"field\":\"max_tokens\",\"expected\":\"an integer from 1 to 2048\",\"actual\":\"0\"},"
                     "{\"field\":\"temperature\",\"expected\":\"a number from 0 to 2\",\"actual\":\"\\\"x\\\"\"},"
                     "{\"field\":\"nonsense\",\"expected\":\"no such field\",\"actual\":\"an array of 2\"}");
    json_decref(root);
    failure_fini(&f);
}
END_TEST

START_TEST(what_is_absent_is_told_as_it_should_be)
{
    static const struct {
        const struct field *table;
        const char *message;
    } cases[] = {
        {inference_fields, "prompt: expected a string of 1..10 characters, found nothing"},
        {chat_fields, "messages: expected an array of messages, found nothing"},
        {completion_fields, "prompt: expected a string, an array of strings, or token ids, found nothing"},
        {detokenize_fields, "tokens: expected an array of token ids, found nothing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct params p;
        struct failure f;
        json_t *root = json_object();
        failure_init(&f);
        ck_assert(!fields_parse(cases[i].table, root, &lenient, &p, &f));
        ck_assert_int_eq(f.error.code, ERROR_VALIDATION_FAILED);
        ck_assert_str_eq(f.error.message, cases[i].message);
        json_decref(root);
        failure_fini(&f);
    }
}
END_TEST

START_TEST(depth_and_size_are_bounded)
{
    struct buffer b;
    struct failure f;
    json_t *root;
    for (int depth = 62; depth <= 65; depth++) {
        buffer_init(&b, 1 << 20);
        failure_init(&f);
        buffer_append_str(&b, "{\"a\":");
        for (int i = 0; i < depth; i++)
            buffer_append_char(&b, '[');
        for (int i = 0; i < depth; i++)
            buffer_append_char(&b, ']');
        buffer_append_char(&b, '}');
        ck_assert(fields_object(b.data, b.n_bytes, &root, &f) == (depth < FIELDS_MAX_DEPTH));
        json_decref(root);
        failure_fini(&f);
        buffer_fini(&b);
    }
    buffer_init(&b, 1 << 20);
    failure_init(&f);
    buffer_append_str(&b, "{\"a\":[0");
    for (int i = 0; i < FIELDS_MAX_VALUES; i++)
        buffer_append_str(&b, ",0");
    buffer_append_str(&b, "]}");
    ck_assert(!fields_object(b.data, b.n_bytes, &root, &f));
    failure_fini(&f);
    buffer_fini(&b);
}
END_TEST

START_TEST(names_of_the_engines_fields)
{
    char out[64];
    ck_assert_str_eq(fields_rest_name(inference_fields, "stop[3]", out, sizeof out), "stop_sequences");
    ck_assert_str_eq(fields_rest_name(inference_fields, "sampling.top_k", out, sizeof out), "top_k");
    ck_assert_str_eq(fields_rest_name(inference_fields, "quantization", out, sizeof out), "quantization_preference");
    ck_assert_str_eq(fields_rest_name(completion_fields, "top_logprobs", out, sizeof out), "logprobs");
    ck_assert_str_eq(fields_rest_name(detokenize_fields, "ids", out, sizeof out), "tokens");
    ck_assert_str_eq(fields_rest_name(NULL, "x.other", out, sizeof out), "other");
}
END_TEST

SUITE("fields", numbers_at_their_bounds, one_request_at_a_time, defaults_are_the_contracts,
      openai_ignores_what_it_does_not_know, all_faults_are_told, what_is_absent_is_told_as_it_should_be, depth_and_size_are_bounded,
      names_of_the_engines_fields)
