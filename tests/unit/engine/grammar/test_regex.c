/* Regular expressions: what they accept, and what is refused. */
#include "tests/suite.h"

#include "tests/unit/engine/grammar/match.h"

static const struct {
    const char *pattern;
    bool search;
    const char *whole[6], *not_whole[6]; /* texts that match, and that do not */
} patterns[] = {
    {"abc", false, {"abc"}, {"", "ab", "abcd", "xabc"}},
    {"", false, {""}, {"a"}},
    {"a|bc|", false, {"a", "bc", ""}, {"b", "abc"}},
    {"a*b+c?", false, {"b", "aabbc", "bc"}, {"", "a", "ac", "bcc"}},
    {"(ab){2,3}", false, {"abab", "ababab"}, {"ab", "abababab", "aba"}},
    {"a{2}", false, {"aa"}, {"a", "aaa"}},
    {"a{2,}", false, {"aa", "aaaaaaa"}, {"a", "aab"}},
    {"a{0}b", false, {"b"}, {"ab"}},
    {"a{,2}", false, {"a{,2}"}, {"aa"}},
    {"x{", false, {"x{"}, {"x"}},
    {"a+?b*?c??", false, {"a", "aabbc"}, {"", "acc"}},
    {"(?:a|(?<name>b))*", false, {"", "abba"}, {"c"}},
    {"(a*)*b", false, {"b", "aaab"}, {"a"}},
    {".", false, {"a", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"}, {"", "\n", "\r", "ab", "\xe2\x80\xa8", "\xc3"}},
    {"[^a]",
     false,
     {"b", "\n", "\xf4\x8f\xbf\xbf"},
     {"a", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\x80", "\xe0\x80\x80"}},
    {"[a-cx-z-]", false, {"a", "c", "y", "-"}, {"d", "w", ""}},
    {"[\\]\\\\^]", false, {"]", "\\", "^"}, {"["}},
    {"[^]", false, {"a", "\n"}, {""}},
    {"[\\d_-]+", false, {"1_-"}, {"a"}},
    {"[a-\\d]", false, {"a", "-", "7"}, {"b"}},
    {"[\\b]", false, {"\b"}, {"b"}},
    {"\\d\\D\\w\\W\\s\\S", false, {"1a_- x", "0\xc3\xa9z\xc3\xa9\xc2\xa0y"}, {"aa_- x", "1a_-xx"}},
    {"\\x41\\u00e9\\u{1F600}\\ud83d\\ude00", false, {"A\xc3\xa9\xf0\x9f\x98\x80\xf0\x9f\x98\x80"}, {"A"}},
    {"[\xc3\xa0-\xc3\xbf]", false, {"\xc3\xa9"}, {"\xc3\x80", "\xc4\x80", "e"}},
    {"[\\u{7ff}-\\u{801}\\u{ffff}-\\u{10000}]",
     false,
     {"\xdf\xbf", "\xe0\xa0\x80", "\xe0\xa0\x81", "\xef\xbf\xbf", "\xf0\x90\x80\x80"},
     {"\xdf\xbe", "\xe0\xa0\x82", "\xef\xbf\xbe", "\xf0\x90\x80\x81"}},
    {"\\.\\*\\/\\-\\$", false, {".*/-$"}, {"a*/-$"}},
    {"\\t\\n\\r\\v\\f", false, {"\t\n\r\v\f"}, {"t"}},
    {"^a|b$", false, {"a", "b"}, {"ab", ""}},
    {"b", true, {"b", "abc", "bb", "\nb\n"}, {"", "ac"}},
    {"^b", true, {"b", "bc"}, {"ab"}},
    {"b$", true, {"b", "ab"}, {"bc"}},
    {"^a$|b", true, {"a", "xby"}, {"aa"}},
    {"^$", true, {""}, {"a"}},
    {"^(\\d{3}-)?\\d{4}$", true, {"555-1234", "1234"}, {"55-1234", "12345"}},
};

static bool is_whole(struct grammar *g, const char *text)
{
    return grammar_match(g, text, strlen(text)) == GRAMMAR_WHOLE;
}

START_TEST(accepts)
{
    struct error err;
    struct grammar *g = match_regex(patterns[_i].pattern, patterns[_i].search, false, &err);
    ck_assert_msg(g != NULL, "%s: %s", patterns[_i].pattern, err.message);
    for (int i = 0; i < 6 && patterns[_i].whole[i]; i++)
        ck_assert_msg(is_whole(g, patterns[_i].whole[i]), "%s must accept \"%s\"", patterns[_i].pattern,
                      patterns[_i].whole[i]);
    for (int i = 0; i < 6 && patterns[_i].not_whole[i]; i++)
        ck_assert_msg(!is_whole(g, patterns[_i].not_whole[i]), "%s must not accept \"%s\"", patterns[_i].pattern,
                      patterns[_i].not_whole[i]);
    grammar_release(g);
}
END_TEST

static const struct {
    const char *pattern, *says;
} bad[] = {
    {"(a", "without )"},      {"a)", "without a ("},     {"[a", "without ]"},         {"*a", "quantifier of nothing"},
    {"a**", "behind a"},      {"a{3,2}", "below"},       {"a{20000}", "16384"},       {"[b-a]", "before its beginning"},
    {"(?=a)", "look-around"}, {"(?<!a)", "look-around"}, {"(?i)a", "look-around or"}, {"(a)\\1", "back-reference"},
    {"\\bword", "border"},    {"\\p{L}", "property"},    {"a^b", "anchor"},           {"(a$)", "anchor"},
    {"\\", "backslash"},      {"\\x4", "hexadecimal"},   {"\\q", "not supported"},    {"\\u{110000}", "hexadecimal"},
    {"\xff", "UTF-8"},
};

START_TEST(refuses)
{
    struct error err;
    ck_assert_ptr_null(match_regex(bad[_i].pattern, false, false, &err));
    ck_assert_int_eq(err.code, ERROR_VALIDATION_FAILED);
    ck_assert_msg(strstr(err.message, bad[_i].says) != NULL, "%s: %s", bad[_i].pattern, err.message);
}
END_TEST

/* In a JSON string a character has the forms that JSON gives it. */
static const struct {
    const char *pattern;
    const char *whole[6], *not_whole[6];
} json_patterns[] = {
    {"a\"b\\\\c", {"a\\\"b\\\\c"}, {"a\"b\\c", "a\\\"b\\c"}},
    {"\\n\\x01", {"\\n\\u0001", "\\u000a\\u0001", "\\u000A\\u0001"}, {"\n\x01", "n\x01"}},
    {".", {"a", "/", "\\\"", "\\\\", "\xc3\xa9", "\\t"}, {"\"", "\\", "\t", "\\n", "\\u0041", "\\/"}},
    {"[^]",
     {"\\n", "\\u0041", "\\ud83d\\uDE00", "\\/", "\\uFfFf", "\\u0001"},
     {"\\u0000", "\\ud83d", "\\ude00", "\\ud83dx", "\\ud83d\\u0041", "\\x41"}},
    {"[^]{2}", {"\\ud83d\\ude00a", "\\\\n"}, {"\\n", "\\ud83d\\ude00"}},
};

START_TEST(accepts_in_json)
{
    struct error err;
    struct grammar *g = match_regex(json_patterns[_i].pattern, false, true, &err);
    ck_assert_msg(g != NULL, "%s", err.message);
    for (int i = 0; i < 6 && json_patterns[_i].whole[i]; i++)
        ck_assert_msg(is_whole(g, json_patterns[_i].whole[i]), "%s must accept %s", json_patterns[_i].pattern,
                      json_patterns[_i].whole[i]);
    for (int i = 0; i < 6 && json_patterns[_i].not_whole[i]; i++)
        ck_assert_msg(!is_whole(g, json_patterns[_i].not_whole[i]), "%s must not accept %s", json_patterns[_i].pattern,
                      json_patterns[_i].not_whole[i]);
    grammar_release(g);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("regex");
    TCase *t = tcase_create("regex");
    tcase_add_loop_test(t, accepts, 0, (int)(sizeof patterns / sizeof *patterns));
    tcase_add_loop_test(t, refuses, 0, (int)(sizeof bad / sizeof *bad));
    tcase_add_loop_test(t, accepts_in_json, 0, (int)(sizeof json_patterns / sizeof *json_patterns));
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
