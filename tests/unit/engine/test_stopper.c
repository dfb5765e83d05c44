/* Stop strings: what may be shown after each piece of text, and where the text ends. */
#include "engine/stopper.h"
#include "tests/suite.h"

struct row {
    const char *stops[4];
    const char *pieces[8];
    const char *shown; /* all text that is shown before the end of the sequence, or up to the stop string */
    bool found;
};

static const struct row rows[] = {
    {{NULL}, {"any", "thing"}, "anything", false},
    {{"END"}, {"the END of"}, "the ", true},
    {{"END"}, {"the E", "N", "D"}, "the ", true},
    {{"END"}, {"the E", "N", "X"}, "the ENX", false},
    {{"END"}, {"EN"}, "", false},
    {{"END"}, {"EEN", "D"}, "E", true},
    {{"aab"}, {"aaa", "ab"}, "aa", true},
    {{"abab", "xy"}, {"aba", "xy"}, "aba", true},
    {{"abcd", "bc"}, {"ab", "cd"}, "a", true}, /* the first to be complete */
    {{"bc", "abc"}, {"abc"}, "", true},        /* of two at the same byte the longest */
    {{"\n\n"}, {"one\n", "two\n", "\nthree"}, "one\ntwo", true},
    {{"\xc3\xa9"}, {"caf\xc3\xa9"}, "caf", true},            /* a character of two bytes */
    {{"\xc3\xa9"}, {"caf\xc3\xa8!"}, "caf\xc3\xa8!", false}, /* another with the same first byte */
    {{"x"}, {"", "a", "", "x"}, "a", true},
};

static void check_row(const struct row *r)
{
    size_t n_stops = 0;
    while (n_stops < 4 && r->stops[n_stops])
        n_stops++;
    struct stopper *s = stopper_open(r->stops, n_stops);
    struct stopper_state state = {0};
    char text[256] = "";
    uint64_t safe = 0, before = 0;
    bool found = false;
    for (size_t i = 0; i < 8 && r->pieces[i] && !found; i++) {
        strcat(text, r->pieces[i]);
        found = stopper_push(s, &state, r->pieces[i], strlen(r->pieces[i]), &safe);
        ck_assert_uint_ge(safe, before); /* what was shown is never taken back */
        before = safe;
    }
    text[safe] = '\0';
    ck_assert_str_eq(text, r->shown);
    ck_assert_int_eq(found, r->found);
    stopper_close(s);
}

START_TEST(test_rows)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        check_row(&rows[i]);
}
END_TEST

/* Against the definition: the earliest end of any stop string, the longest there; shown text is what no stop string's
 * beginning can cover. A tiny alphabet makes overlaps the rule. */
static size_t naive(const char *text, size_t n, char stops[][6], size_t n_stops, bool *found)
{
    for (size_t end = 1; end <= n; end++) {
        size_t longest = 0;
        for (size_t i = 0; i < n_stops; i++) {
            size_t len = strlen(stops[i]);
            if (len <= end && len > longest && !memcmp(text + end - len, stops[i], len))
                longest = len;
        }
        if (longest) {
            *found = true;
            return end - longest;
        }
    }
    size_t held = 0;
    for (size_t i = 0; i < n_stops; i++)
        for (size_t k = 1; k < strlen(stops[i]); k++)
            if (k <= n && k > held && !memcmp(text + n - k, stops[i], k))
                held = k;
    *found = false;
    return n - held;
}

START_TEST(test_random_against_definition)
{
    srand(7);
    for (int round = 0; round < 20000; round++) {
        char stops[3][6], text[40];
        const char *list[3];
        size_t n_stops = 1 + (size_t)rand() % 3, n = 0;
        for (size_t i = 0; i < n_stops; i++) {
            size_t len = 1 + (size_t)rand() % 5;
            for (size_t k = 0; k < len; k++)
                stops[i][k] = (char)('a' + rand() % 2);
            stops[i][len] = '\0';
            list[i] = stops[i];
        }
        struct stopper *s = stopper_open(list, n_stops);
        struct stopper_state state = {0};
        uint64_t safe = 0;
        bool found = false, expected_found;
        while (n < 30 && !found) {
            size_t piece = (size_t)rand() % 4;
            for (size_t k = 0; k < piece; k++)
                text[n + k] = (char)('a' + rand() % 3);
            found = stopper_push(s, &state, text + n, piece, &safe);
            n += piece;
            ck_assert_uint_eq(safe, naive(text, n, stops, n_stops, &expected_found));
            ck_assert_int_eq(found, expected_found);
        }
        stopper_close(s);
    }
}
END_TEST

SUITE("stopper", test_rows, test_random_against_definition)
