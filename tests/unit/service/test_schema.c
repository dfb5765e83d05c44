/* JSON Schema: which texts the grammars of schemas accept, and what is refused, with its place. */
#include "tests/suite.h"

#include "service/formats.h"
#include "service/schema.h"

#define MAX_TEXTS 12

static const struct {
    const char *schema;
    const char *whole[MAX_TEXTS], *not_whole[MAX_TEXTS];
} schemas[] = {
    {"true",
     {"1", "null", "\"a\"", "{}", "[]", "[1, {\"a\": [true,false]}]", " {\"a\":1}"},
     {"", "tru", "{a:1}", "[1,]", "01", "  1"}},
    {"{}", {"-0.5e+10", "\"\\u00e9\\n\"", "[\n  1,\n  2\n]"}, {"\"\n\"", "1.", "1e400", "[1,  2]", "[\n\n1]"}},
    {"{\"type\":\"null\"}", {"null"}, {"0", "nul"}},
    {"{\"type\":\"boolean\"}", {"true", "false"}, {"null", "1"}},
    {"{\"type\":[\"integer\",\"null\"]}", {"12", "-3", "0", "null"}, {"-0", "01", "1.5", "1234567890123456"}},
    {"{\"type\":\"number\"}", {"0.25", "-7", "1e5", "3.5E-10"}, {"+1", ".5", "1e100"}},
    {"{\"type\":\"string\",\"nullable\":true}", {"\"a\"", "null"}, {"1"}},
    /* ranges */
    {"{\"type\":\"integer\",\"minimum\":7,\"maximum\":123}",
     {"7", "8", "42", "99", "100", "119", "123"},
     {"6", "124", "0", "-7", "200", "1000", "007"}},
    {"{\"type\":\"integer\",\"minimum\":-15,\"exclusiveMaximum\":3}",
     {"-15", "-9", "-1", "0", "2"},
     {"-16", "3", "-0", "-20"}},
    {"{\"type\":\"integer\",\"exclusiveMinimum\":1.5}", {"2", "10", "999999999999999"}, {"1", "0", "-5"}},
    {"{\"type\":\"integer\",\"maximum\":-100}", {"-100", "-101", "-999999999999999"}, {"-99", "0", "100"}},
    {"{\"type\":\"number\",\"minimum\":0,\"maximum\":1}",
     {"0", "1", "0.5", "0.000001", "0.999999"},
     {"1.5", "-0.5", "2", "1.000001", "0.50"}},
    {"{\"type\":\"number\",\"exclusiveMinimum\":-2,\"maximum\":0}",
     {"-1", "-1.5", "-1.999999", "0", "-0.5"},
     {"-2", "-2.5", "0.5", "1"}},
    {"{\"type\":\"number\",\"minimum\":-1}", {"-1", "-0.25", "0.25", "17.5"}, {"-1.5", "-2"}},
    {"{\"type\":\"number\",\"exclusiveMinimum\":0,\"exclusiveMaximum\":1}", {"0.5"}, {"0", "1", "1.5"}},
    /* strings */
    {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}",
     {"\"ab\"", "\"\\n\\u0041c\"", "\"\xf0\x9f\x98\x80\xc3\xa9\"", "\"\\ud83d\\ude00a\""},
     {"\"a\"", "\"abcd\"", "\"\\ud83d\\ude00\""}},
    {"{\"type\":\"string\",\"maxLength\":0}", {"\"\""}, {"\"a\""}},
    {"{\"type\":\"string\",\"pattern\":\"^a\\\"+$\"}", {"\"a\\\"\"", "\"a\\\"\\\"\""}, {"\"a\"\"", "\"a\""}},
    {"{\"pattern\":\"b\"}", {"\"abc\"", "\"b\""}, {"\"ac\"", "1"}},
    {"{\"type\":\"string\",\"format\":\"date\"}",
     {"\"2024-02-28\"", "\"1999-12-31\""},
     {"\"2024-02-30\"", "\"2024-13-01\"", "\"24-01-01\"", "\"2024-04-31\""}},
    {"{\"type\":\"string\",\"format\":\"time\"}",
     {"\"23:59:59Z\"", "\"00:00:00.5+01:30\""},
     {"\"24:00:00Z\"", "\"12:00:00\""}},
    {"{\"type\":\"string\",\"format\":\"date-time\"}",
     {"\"2024-02-28T01:02:03Z\""},
     {"\"2024-02-28\"", "\"2024-02-28 01:02:03Z\""}},
    {"{\"type\":\"string\",\"format\":\"uuid\"}", {"\"123e4567-e89b-12d3-a456-426614174000\""}, {"\"123e4567\""}},
    {"{\"type\":\"string\",\"format\":\"email\"}", {"\"a.b@example.org\""}, {"\"a\"", "\"a@b\"", "\"@b.c\""}},
    {"{\"type\":\"string\",\"format\":\"ipv4\"}",
     {"\"127.0.0.1\"", "\"255.249.10.0\""},
     {"\"256.0.0.1\"", "\"1.2.3\"", "\"01.2.3.4\""}},
    /* fixed values */
    {"{\"enum\":[\"a\",1,null,[1,\"b\"],{\"c\":\"\\u00e9\\n\"}]}",
     {"\"a\"", "1", "null", "[1, \"b\"]", "{\"c\": \"\xc3\xa9\\n\"}"},
     {"\"b\"", "2", "[1,\"b\"]"}},
    {"{\"type\":\"string\",\"enum\":[\"a\",1]}", {"\"a\""}, {"1"}},
    {"{\"const\":\"x\\\"y\"}", {"\"x\\\"y\""}, {"\"x\""}},
    {"{\"const\":2,\"enum\":[1,2]}", {"2"}, {"1"}},
    /* objects */
    {"{\"type\":\"object\"}",
     {"{}", "{ }", "{\"a\":1}", "{\"a\": 1, \"b\": {}}", "{\n  \"a\": 1\n}"},
     {"{\"a\"}", "{\"a\":1,}", "[]"}},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"integer\"},\"c\":{\"type\":"
     "\"integer\"}}}",
     {"{}", "{\"a\":1}", "{\"c\":1}", "{\"a\":1,\"c\":2}", "{\"a\":1, \"b\":2,\n \"c\":3 }"},
     {"{\"b\":1,\"a\":2}", "{\"d\":1}", "{,\"a\":1}", "{\"a\":1,\"a\":2}", "{\"a\":\"x\"}"}},
    {"{\"properties\":{\"a\":{\"type\":\"null\"},\"b\":{\"type\":\"null\"},\"c\":{\"type\":\"null\"},\"d\":{\"type\":"
     "\"null\"}},\"required\":[\"b\",\"d\"]}",
     {"{\"b\":null,\"d\":null}", "{\"a\":null,\"b\":null,\"c\":null,\"d\":null}", "{\"a\":null,\"b\":null,\"d\":null}"},
     {"{}", "{\"b\":null}", "{\"a\":null,\"d\":null}", "{\"d\":null,\"b\":null}"}},
    {"{\"properties\":{\"a b\":true},\"required\":[\"z\",\"a b\"],\"additionalProperties\":{\"type\":\"integer\"}}",
     {"{\"a b\":[],\"z\":1}", "{\"a b\":1,\"z\":1,\"y\":2,\"zz\":3,\"\":4,\"a\":5,\"a bc\":6}"},
     {"{\"a b\":1}", "{\"a b\":1,\"z\":\"s\"}", "{\"a b\":1,\"z\":1,\"y\":\"s\"}", "{\"a b\":1,\"z\":1,\"z\":2}",
      "{\"a b\":1,\"z\":1,\"\\u007a\":2}", "{\"z\":1,\"a b\":1}"}},
    {"{\"properties\":{\"ab\":true,\"abc\":true,\"\":true},\"additionalProperties\":{\"type\":\"null\"}}",
     {"{\"ab\":1,\"abc\":2,\"\":3,\"a\":null,\"abcd\":null,\"abd\":null,\"x\":null}", "{\"x\":null}",
      "{\"\xc3\xa9\":null}"},
     {"{\"a\":1}", "{\"x\":null,\"ab\":null}", "{\"abc\":2,\"ab\":1}", "{\"x\":null,\"\":null}"}},
    {"{\"additionalProperties\":{\"type\":\"null\"}}", {"{}", "{\"a\":null,\"b\":null}"}, {"{\"a\":1}", "1"}},
    {"{\"type\":\"object\",\"properties\":{}}", {"{}"}, {"{\"a\":1}"}},
    {"{\"type\":\"object\",\"additionalProperties\":false}", {"{}"}, {"{\"a\":1}"}},
    {"{\"properties\":{\"a\":false,\"b\":true},\"minProperties\":0,\"maxProperties\":1}",
     {"{}", "{\"b\":0}"},
     {"{\"a\":0}"}},
    /* arrays */
    {"{\"type\":\"array\"}", {"[]", "[1,\"a\"]", "[ 1 ]"}, {"[1 ,2]", "[,1]"}},
    {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":1,\"maxItems\":3}",
     {"[1]", "[1,2,3]", "[\n1, 2]"},
     {"[]", "[1,2,3,4]", "[\"a\"]"}},
    {"{\"items\":{\"type\":\"integer\"},\"maxItems\":0}", {"[]"}, {"[1]"}},
    {"{\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}]}",
     {"[]", "[1]", "[1,\"a\"]"},
     {"[\"a\"]", "[1,\"a\",2]"}},
    {"{\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}],\"items\":{\"type\":\"null\"},\"minItems\":1,"
     "\"maxItems\":3}",
     {"[1]", "[1,\"a\"]", "[1,\"a\",null]"},
     {"[]", "[1,null]", "[1,\"a\",null,null]"}},
    {"{\"prefixItems\":[{\"type\":\"integer\"}],\"minItems\":3}",
     {"[1,2,\"x\"]", "[1,2,3,4]"},
     {"[1,2]", "[\"a\",1,2]"}},
    {"{\"prefixItems\":[true,true,true],\"maxItems\":2,\"items\":false}", {"[]", "[1,2]"}, {"[1,2,3]"}},
    /* combinations */
    {"{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"string\",\"maxLength\":1}]}", {"1", "\"a\""}, {"\"ab\"", "null"}},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"null\"},\"b\":{\"type\":\"null\"}},\"oneOf\":[{"
     "\"required\":[\"a\"]},{\"required\":[\"b\"]}]}",
     {"{\"a\":null}", "{\"b\":null}", "{\"a\":null,\"b\":null}"},
     {"{}"}},
    {"{\"allOf\":[{\"$ref\":\"#/$defs/"
     "p\"},{\"properties\":{\"b\":{\"maximum\":5}},\"required\":[\"b\"]}],\"$defs\":{\"p\":{\"type\":\"object\","
     "\"properties\":{"
     "\"a\":{\"type\":\"null\"},\"b\":{\"type\":\"integer\",\"minimum\":3}},\"required\":[\"a\"]}}}",
     {"{\"a\":null,\"b\":3}", "{\"a\":null,\"b\":5}"},
     {"{\"a\":null}", "{\"a\":null,\"b\":6}", "{\"a\":null,\"b\":2}", "{\"b\":4}"}},
    {"{\"allOf\":[{\"type\":[\"number\",\"string\"],\"minimum\":1},{\"type\":[\"integer\",\"null\"],\"maximum\":3}]}",
     {"1", "3"},
     {"0", "4", "null", "1.5", "\"a\""}},
    {"{\"additionalProperties\":false,\"properties\":{\"a\":{}},\"anyOf\":[{\"properties\":{\"b\":{}}},{\"required\":["
     "\"a\"]}]}",
     {"{}", "{\"a\":1}"},
     {"{\"b\":1}"}},
    /* references */
    {"{\"$ref\":\"#/$defs/a~1b%25\",\"$defs\":{\"a/b%\":{\"type\":\"integer\"}}}", {"1"}, {"null"}},
    {"{\"$defs\":{\"n\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"next\":{\"anyOf\":[{\"$"
     "ref\":\"#/$defs/n\"},{\"type\":\"null\"}]}},"
     "\"required\":[\"v\",\"next\"]}},\"$ref\":\"#/$defs/n\"}",
     {"{\"v\":1,\"next\":null}", "{\"v\":1,\"next\":{\"v\":2,\"next\":{\"v\":3,\"next\":null}}}"},
     {"{\"v\":1}", "null"}},
    {"{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}", {"[]", "[[],[[]]]"}, {"[1]", "[[]"}},
    {"{\"$ref\":\"#/$defs/"
     "s\",\"description\":\"x\",\"maxLength\":2,\"$defs\":{\"s\":{\"type\":\"string\",\"minLength\":2}}}",
     {"\"ab\""},
     {"\"a\"", "\"abc\""}},
};

static bool is_whole(struct grammar *g, const char *text)
{
    return grammar_match(g, text, strlen(text)) == GRAMMAR_WHOLE;
}

START_TEST(accepts)
{
    struct grammar *g = NULL;
    struct error err = {0};
    const char *schema = schemas[_i].schema;
    ck_assert_msg(!schema_compile(schema, strlen(schema), &g, &err), "%s: %s", schema, err.message);
    for (int i = 0; i < MAX_TEXTS && schemas[_i].whole[i]; i++)
        ck_assert_msg(is_whole(g, schemas[_i].whole[i]), "%s must accept %s", schema, schemas[_i].whole[i]);
    for (int i = 0; i < MAX_TEXTS && schemas[_i].not_whole[i]; i++)
        ck_assert_msg(!is_whole(g, schemas[_i].not_whole[i]), "%s must not accept %s", schema,
                      schemas[_i].not_whole[i]);
    grammar_release(g);
}
END_TEST

static const struct {
    const char *schema, *says;
} bad[] = {
    {"{", "expected JSON"},
    {"{\"type\":\"a\",\"type\":\"b\"}", "expected JSON"},
    {"1", "#: expected a schema"},
    {"false", "no value is possible"},
    {"{\"type\":\"thing\"}", "#/type: "},
    {"{\"type\":[]}", "#/type: "},
    {"{\"properties\":{\"a/b\":{\"items\":{\"not\":{}}}}}",
     "#/properties/a~1b/items/not: this keyword is not supported"},
    {"{\"type\":\"object\",\"patternProperties\":{}}", "#/patternProperties: "},
    {"{\"if\":{}}", "#/if: "},
    {"{\"type\":\"integer\",\"multipleOf\":2}", "#/multipleOf: "},
    {"{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}", "no integer"},
    {"{\"type\":\"integer\",\"minimum\":\"5\"}", "#/minimum: expected a number"},
    {"{\"type\":\"number\",\"minimum\":0.5}", "whole numbers"},
    {"{\"type\":\"number\",\"exclusiveMinimum\":1,\"exclusiveMaximum\":1}", "no number"},
    {"{\"type\":\"string\",\"minLength\":-1}", "#/minLength: "},
    {"{\"type\":\"string\",\"minLength\":3,\"maxLength\":2}", "#/maxLength: "},
    {"{\"type\":\"string\",\"minLength\":1000000}", "#/minLength: "},
    {"{\"type\":\"string\",\"pattern\":\"a\",\"maxLength\":2}", "#/pattern: cannot be combined"},
    {"{\"type\":\"string\",\"pattern\":\"(?=a)\"}", "#/pattern: the pattern has a look-around"},
    {"{\"type\":\"string\",\"format\":\"hostname\"}", "#/format: "},
    {"{\"enum\":[]}", "#/enum: no value"},
    {"{\"enum\":[1],\"type\":\"string\"}", "#/enum: no value"},
    {"{\"enum\":[1],\"minimum\":0}", "#/minimum: not supported beside enum"},
    {"{\"properties\":{\"a\":false},\"required\":[\"a\"]}", "#/properties/a: no value"},
    {"{\"required\":[\"a\"],\"additionalProperties\":false}", "#/required: "},
    {"{\"required\":[1]}", "#/required: "},
    {"{\"properties\":[]}", "#/properties: "},
    {"{\"type\":\"object\",\"minProperties\":1}", "#/minProperties: "},
    {"{\"type\":\"object\",\"maxProperties\":1}", "#/maxProperties: "},
    {"{\"type\":\"array\",\"uniqueItems\":true}", "#/uniqueItems: "},
    {"{\"type\":\"array\",\"items\":[{}]}", "#/items: "},
    {"{\"type\":\"array\",\"contains\":{}}", "#/contains: "},
    {"{\"items\":{\"$ref\":\"#/$defs/x\"},\"$defs\":{\"x\":{\"properties\":{\"y\":{\"not\":1}}}}}",
     "#/$defs/x/properties/y/not: "},
    {"{\"$ref\":\"#/$defs/x\"}", "#/$ref: found nothing"},
    {"{\"$ref\":\"http://example.org/x\"}", "#/$ref: "},
    {"{\"$ref\":\"#\"}", "begins with itself"},
    {"{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}", "begins with itself"},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", "no text is possible"},
    {"{\"allOf\":[{\"pattern\":\"a\"},{\"pattern\":\"b\"}]}", "pattern: cannot be combined"},
    {"{\"allOf\":[{\"$ref\":\"#\"}]}", "schemas inside of each other"},
    {"{\"anyOf\":[]}", "#/anyOf: "},
};

START_TEST(refuses)
{
    struct grammar *g = NULL;
    struct error err = {0};
    ck_assert_int_eq(schema_compile(bad[_i].schema, strlen(bad[_i].schema), &g, &err), ERROR_VALIDATION_FAILED);
    ck_assert_msg(strstr(err.message, bad[_i].says) != NULL, "%s: %s", bad[_i].schema, err.message);
    ck_assert_str_eq(err.param, "response_format");
    ck_assert_ptr_null(g);
}
END_TEST

static char *nested(const char *open, const char *inside, const char *close, size_t n)
{
    char *text = calloc(1, n * (strlen(open) + strlen(close)) + strlen(inside) + 1), *at = text;
    for (size_t i = 0; i < n; i++)
        at += sprintf(at, "%s", open);
    at += sprintf(at, "%s", inside);
    for (size_t i = 0; i < n; i++)
        at += sprintf(at, "%s", close);
    return text;
}

START_TEST(sizes_have_bounds)
{
    static const size_t depths[] = {63, 65, 1000};
    for (size_t i = 0; i < 3; i++) {
        struct grammar *g = NULL;
        struct error err = {0};
        char *text = nested("{\"items\":", "{\"type\":\"null\"}", "}", depths[i]);
        enum error_code code = schema_compile(text, strlen(text), &g, &err);
        ck_assert_int_eq(code, i == 0 ? ERROR_NONE : ERROR_VALIDATION_FAILED);
        grammar_release(g);
        free(text);
    }
    struct error err = {0};
    struct grammar *g = NULL;
    char *large = calloc(1, 200000);
    memset(large, ' ', 199999);
    ck_assert_int_eq(schema_compile(large, 199999, &g, &err), ERROR_VALIDATION_FAILED);
    free(large);
    /* twice in each level, merged each time: 2^40 schemas */
    char *text = calloc(1, 20000), *at = text + sprintf(text, "{\"$ref\":\"#/$defs/d0\",\"$defs\":{");
    for (int i = 0; i < 40; i++)
        at += sprintf(at,
                      "\"d%d\":{\"title\":\"t\",\"minLength\":1,\"anyOf\":[{\"$ref\":\"#/$defs/d%d\"},{\"$ref\":\"#/"
                      "$defs/d%d\"}]},",
                      i, i + 1, i + 1);
    sprintf(at, "\"d40\":{\"type\":\"string\"}}}");
    ck_assert_int_eq(schema_compile(text, strlen(text), &g, &err), ERROR_VALIDATION_FAILED);
    free(text);
}
END_TEST

/* Properties come in the order of the schema's text. */
START_TEST(many_properties)
{
    struct grammar *g = NULL;
    struct error err = {0};
    char *text = calloc(1, 100000), *answer = calloc(1, 100000), *at = text + sprintf(text, "{\"properties\":{"),
         *to = answer;
    for (int i = 0; i < 900; i++) {
        at += sprintf(at, "%s\"p%d\":{\"type\":\"null\"}", i ? "," : "", i * 7919 % 900);
        if (i % 3 == 0)
            to += sprintf(to, "%s\"p%d\":null", i ? ", " : "{", i * 7919 % 900);
    }
    sprintf(at, "}}");
    sprintf(to, "}");
    ck_assert_msg(!schema_compile(text, strlen(text), &g, &err), "%s", err.message);
    ck_assert(is_whole(g, answer));
    grammar_release(g);
    free(text);
    free(answer);
}
END_TEST

/* ---- formats ---- */

static struct grammar *get(struct formats *f, Bitnet__V1__ResponseFormat__FormatCase kind, const char *text,
                           struct error *err)
{
    struct grammar *g = NULL;
    Bitnet__V1__ResponseFormat m = BITNET__V1__RESPONSE_FORMAT__INIT;
    *err = (struct error){0};
    m.format_case = kind;
    if (kind == BITNET__V1__RESPONSE_FORMAT__FORMAT_JSON_OBJECT)
        m.json_object = !text;
    else
        m.regex = (char *)(uintptr_t)text; /* both strings are one union */
    formats_get(f, &m, NULL, &g, err);
    return g;
}

START_TEST(formats_are_kept)
{
    struct formats *f = formats_open();
    struct error err;
    const int regex = BITNET__V1__RESPONSE_FORMAT__FORMAT_REGEX,
              schema = BITNET__V1__RESPONSE_FORMAT__FORMAT_JSON_SCHEMA;
    struct grammar *a = get(f, regex, "true", &err), *b = get(f, regex, "true", &err),
                   *c = get(f, schema, "true", &err);
    struct grammar *any = get(f, BITNET__V1__RESPONSE_FORMAT__FORMAT_JSON_OBJECT, NULL, &err);
    ck_assert(a && a == b && c && c != a && any && any != c);
    ck_assert(is_whole(a, "true") && !is_whole(a, "1") && is_whole(c, "1") && is_whole(any, "{\"a\": 1}") &&
              !is_whole(any, "[]"));
    ck_assert_ptr_null(get(f, BITNET__V1__RESPONSE_FORMAT__FORMAT_JSON_OBJECT, "off", &err));
    ck_assert_int_eq(err.code, ERROR_NONE);
    ck_assert_ptr_null(get(f, BITNET__V1__RESPONSE_FORMAT__FORMAT__NOT_SET, "", &err));
    ck_assert_int_eq(err.code, ERROR_NONE);
    for (int i = 0; i < 3 * FORMATS_MAX; i++) {
        char pattern[16];
        snprintf(pattern, sizeof pattern, "x{%d}", i + 1);
        grammar_release(get(f, regex, pattern, &err));
        ck_assert_int_eq(err.code, ERROR_NONE);
    }
    struct grammar *again = get(f, regex, "true", &err); /* dropped meanwhile, and still good where it is held */
    ck_assert(again && again != a && is_whole(a, "true"));
    struct grammar *held[] = {a, b, c, any, again};
    for (int i = 0; i < 5; i++)
        grammar_release(held[i]);
    ck_assert_ptr_null(get(f, regex, "(", &err));
    ck_assert_str_eq(err.param, "response_format");
    ck_assert(strncmp(err.message, "regex: ", 7) == 0);
    formats_close(f);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("schema");
    TCase *t = tcase_create("schema");
    tcase_add_loop_test(t, accepts, 0, (int)(sizeof schemas / sizeof *schemas));
    tcase_add_loop_test(t, refuses, 0, (int)(sizeof bad / sizeof *bad));
    tcase_add_test(t, sizes_have_bounds);
    tcase_add_test(t, many_properties);
    tcase_add_test(t, formats_are_kept);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
