/* The reader of JSON: what is JSON is read, what is not is refused with its line. */
#include "tools/json.h"

#include "tests/suite.h"

static struct json *open_text(const char *text)
{
    struct json *j;
    struct error err = {0};
    ck_assert_msg(!json_open(text, strlen(text), &j, &err), "%s: %s", text, err.message);
    return j;
}

START_TEST(values)
{
    struct json *j = open_text(" {\"a\": [1, -0.5e1, true, false, null, {}, []],\n\t\"b\":\"x\", \"a\":2, \"\":3}\r\n");
    const struct json_value *root = json_root(j), *a = json_member(root, "a"), *v = a->first;
    ck_assert_int_eq(root->type, JSON_OBJECT);
    ck_assert_float_eq(root->number, 4);
    ck_assert_int_eq(a->type, JSON_ARRAY);
    ck_assert_float_eq(a->number, 7);
    static const struct {
        enum json_type type;
        double number;
    } expected[] = {{JSON_NUMBER, 1}, {JSON_NUMBER, -5}, {JSON_BOOL, 1}, {JSON_BOOL, 0},
                    {JSON_NULL, 0},   {JSON_OBJECT, 0},  {JSON_ARRAY, 0}};
    for (size_t i = 0; i < 7; i++, v = v->next) {
        ck_assert_int_eq(v->type, expected[i].type);
        ck_assert(v->number == expected[i].number && !v->name);
    }
    ck_assert_ptr_null(v);
    ck_assert_str_eq(json_member(root, "b")->string, "x");
    ck_assert_float_eq(json_member(root, "")->number, 3);
    ck_assert_ptr_null(json_member(root, "c"));
    ck_assert_ptr_null(json_member(a, "b"));
    ck_assert_ptr_null(json_member(NULL, "b"));
    json_close(j);
}
END_TEST

START_TEST(strings)
{
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"\"\"", ""},
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t"},
        {"\"a\\u0041\\u00fc\\u20AC\\ud83d\\uDE00z\"", "aA\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80z"},
        {"\"\xe2\x82\xac\"", "\xe2\x82\xac"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct json *j = open_text(cases[i].text);
        ck_assert_int_eq(json_root(j)->type, JSON_STRING);
        ck_assert_str_eq(json_root(j)->string, cases[i].expected);
        json_close(j);
    }
}
END_TEST

START_TEST(refused)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "a value in line 1"},
        {"  \n ", "a value in line 2"},
        {"{", "a name in quotes"},
        {"[", "a value"},
        {"[1", "',' or ']'"},
        {"[1,", "a value"},
        {"[1,]", "a value"},
        {"[,1]", "a value"},
        {"[1 2]", "',' or ']'"},
        {"[1]]", "nothing more"},
        {"1 2", "nothing more"},
        {"{\"a\"}", "':'"},
        {"{\"a\":}", "a value"},
        {"{\"a\":1,}", "a name"},
        {"{\"a\":1 \"b\":2}", "',' or '}'"},
        {"{a:1}", "a name"},
        {"{1:1}", "a name"},
        {"{\"a\":1]", "',' or '}'"},
        {"nul", "a value"},
        {"True", "a value"},
        {"NaN", "a value"},
        {"-", "a value"},
        {"+1", "a value"},
        {"01", "a value"},
        {".5", "a value"},
        {"1.", "digits behind a point"},
        {"1e", "exponent"},
        {"1e+", "exponent"},
        {"0x10", "nothing more"},
        {"1e999", "range"},
        {"\"abc", "the end of a string"},
        {"\"a\nb\"", "the end of a string in line 1"},
        {"\"\\x\"", "an escape"},
        {"\"\\", "an escape"},
        {"\"\\u12\"", "hexadecimal"},
        {"\"\\u0000\"", "hexadecimal"},
        {"\"\\udc00\"", "hexadecimal"},
        {"\"\\ud800\"", "surrogate"},
        {"\"\\ud800\\u0041\"", "surrogate"},
        {"\n\n[1,\n}", "a value in line 4"},
        {"\"\xff\"", "UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct json *j = (struct json *)&cases;
        struct error err = {0};
        ck_assert_int_eq(json_open(cases[i].text, strlen(cases[i].text), &j, &err), ERROR_VALIDATION_FAILED);
        ck_assert_ptr_null(j);
        ck_assert_msg(strstr(err.message, cases[i].message), "%s: %s", cases[i].text, err.message);
    }
    struct json *j;
    ck_assert_int_eq(json_open("1\0", 2, &j, NULL), ERROR_VALIDATION_FAILED);
}
END_TEST

/* Nesting has a limit that is no stack's. */
START_TEST(depth)
{
    char text[20001];
    struct json *j;
    struct error err = {0};
    memset(text, '[', 10000);
    memset(text + 10000, ']', 10000);
    ck_assert_int_eq(json_open(text, 20000, &j, &err), ERROR_VALIDATION_FAILED);
    ck_assert_msg(strstr(err.message, "fewer levels") != NULL, "%s", err.message);
    ck_assert(!json_open(text + 10000 - 32, 64, &j, &err));
    json_close(j);
}
END_TEST

SUITE("json", values, strings, refused, depth)
