#include "base/utf8.h"
#include "tests/suite.h"

/* Every code point there is comes back from its encoding, with the length that RFC 3629 gives it. */
START_TEST(round_trip_of_all_code_points)
{
    for (uint32_t c = 0; c < 0x110000; c++) {
        if (c >= 0xD800 && c < 0xE000)
            continue;
        char text[4];
        uint32_t decoded = 0, cut;
        size_t n = utf8_encode(c, text);
        if (n != (c < 0x80      ? 1u
                  : c < 0x800   ? 2u
                  : c < 0x10000 ? 3u
                                : 4u) ||
            utf8_decode(text, n, &decoded) != n || decoded != c || utf8_decode(text, n - 1, &cut) != 0)
            ck_abort_msg("U+%04X: %zu bytes, decoded as U+%04X", c, n, decoded);
    }
}
END_TEST

/* All sequences of up to three bytes that begin outside ASCII and decode are those that an encoder makes: nothing else gets through. */
START_TEST(only_shortest_forms_decode)
{
    size_t n_valid = 0;
    for (uint32_t bytes = 0x800000; bytes < 0x1000000; bytes++) {
        char text[3] = {(char)(bytes >> 16), (char)(bytes >> 8), (char)bytes}, again[4];
        uint32_t c;
        size_t n = utf8_decode(text, 3, &c);
        if (n == 0)
            continue;
        n_valid += n == 3;
        if (utf8_encode(c, again) != n || memcmp(again, text, n) != 0)
            ck_abort_msg("%06x decodes as U+%04X", bytes, c);
    }
    ck_assert_uint_eq(n_valid, 0x10000 - 0x800 - 0x800); /* without what is shorter and the surrogates */
}
END_TEST

START_TEST(validity)
{
    static const struct {
        const char *text;
        size_t bad; /* (size_t)-1: valid */
    } cases[] = {
        {"", (size_t)-1},
        {"abc\xC3\xA9\xF0\x9F\x98\x80", (size_t)-1},
        {"\xF4\x8F\xBF\xBF", (size_t)-1},
        {"ab\x80", 2},
        {"a\xC0\xAF", 1},
        {"\xC1\xBF", 0},
        {"a\xE0\x9F\xBF", 1},
        {"\xED\xA0\x80", 0},
        {"\xF0\x8F\xBF\xBF", 0},
        {"\xF4\x90\x80\x80", 0},
        {"\xF5\x80\x80\x80", 0},
        {"xy\xE2\x82", 2},
        {"\xE2\x28\xA1", 0},
        {"\xFF", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t bad = (size_t)-1;
        bool valid = utf8_valid(cases[i].text, strlen(cases[i].text), &bad);
        ck_assert_msg(valid == (cases[i].bad == (size_t)-1) && bad == cases[i].bad, "case %zu: bad at %zu", i, bad);
        ck_assert_int_eq(utf8_valid(cases[i].text, strlen(cases[i].text), NULL), valid);
    }
}
END_TEST

START_TEST(open_ends)
{
    static const struct {
        const char *text;
        size_t complete;
    } cases[] = {
        {"", 0},
        {"abc", 3},
        {"ab\xC3", 2},
        {"ab\xC3\xA9", 4},
        {"\xE2", 0},
        {"\xE2\x82", 0},
        {"\xE2\x82\xAC", 3},
        {"a\xF0\x9F\x98", 1},
        {"a\xF0\x9F\x98\x80", 5},
        {"\xE0\x80", 2}, /* overlong: can never become a character */
        {"\xED\xA0", 2}, /* surrogate */
        {"\xF4\x90", 2}, /* above U+10FFFF */
        {"\xC0", 1},
        {"\xFF", 1},
        {"\x80\x80\x80\x80", 4},
        {"\xE2\x82\xAC\x80", 4},
        {"a\xE2z", 3},
        {"\xE2\xC3", 1}, /* the first is lost, the second is open */
        {"\xF0\x9F\x41\x98", 4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        ck_assert_msg(utf8_complete(cases[i].text, strlen(cases[i].text)) == cases[i].complete, "case %zu: %zu", i,
                      utf8_complete(cases[i].text, strlen(cases[i].text)));
}
END_TEST

/* Cut anywhere, valid text is complete up to the last character's end. */
START_TEST(every_cut_of_valid_text)
{
    static const char text[] = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z\xF4\x8F\xBF\xBF\xED\x9F\xBF\xE0\xA0\x80";
    size_t whole = 0;
    for (size_t cut = 0; cut < sizeof text; cut++) {
        if (utf8_valid(text, cut, NULL))
            whole = cut;
        ck_assert_uint_eq(utf8_complete(text, cut), whole);
    }
}
END_TEST

START_TEST(length_counts_code_points)
{
    ck_assert_uint_eq(utf8_length("", 0), 0);
    ck_assert_uint_eq(utf8_length("abc", 3), 3);
    ck_assert_uint_eq(utf8_length("a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", 10), 4);
}
END_TEST

SUITE("utf8", round_trip_of_all_code_points, only_shortest_forms_decode, validity, open_ends, every_cut_of_valid_text,
      length_counts_code_points)
