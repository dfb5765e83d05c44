#include "base/buffer.h"
#include "tests/suite.h"

static struct buffer b;

START_TEST(appends_with_a_nul_behind)
{
    buffer_init(&b, 1000);
    ck_assert_ptr_null(b.data);
    ck_assert(buffer_append(&b, "ab\0c", 4));
    ck_assert(buffer_append_str(&b, "de"));
    ck_assert(buffer_append_char(&b, 'f'));
    ck_assert_uint_eq(b.n_bytes, 7);
    ck_assert_int_eq(memcmp(b.data, "ab\0cdef", 8), 0);
    buffer_fini(&b);
    ck_assert_ptr_null(b.data);
    ck_assert_uint_eq(b.max_bytes, 1000);
}
END_TEST

START_TEST(keeps_its_contents_while_it_grows)
{
    buffer_init(&b, 100000);
    for (int i = 0; i < 100000; i++)
        ck_assert(buffer_append_char(&b, (char)('a' + i % 26)));
    for (int i = 0; i < 100000; i++)
        ck_assert_int_eq(b.data[i], 'a' + i % 26);
    buffer_fini(&b);
}
END_TEST

START_TEST(maximum_is_exact)
{
    buffer_init(&b, 5);
    ck_assert(buffer_append_str(&b, "12345"));
    ck_assert(!b.failed);
    ck_assert(!buffer_append_char(&b, '6'));
    ck_assert(b.failed);
    ck_assert_str_eq(b.data, "12345");
    buffer_fini(&b);
}
END_TEST

START_TEST(failed_stays_until_clear)
{
    buffer_init(&b, 4);
    ck_assert(!buffer_append_str(&b, "12345"));
    ck_assert(buffer_append_str(&b, "12"));
    ck_assert(b.failed);
    buffer_clear(&b);
    ck_assert(!b.failed);
    ck_assert_uint_eq(b.n_bytes, 0);
    ck_assert_str_eq(b.data, "");
    buffer_fini(&b);
}
END_TEST

START_TEST(huge_request_fails_without_overflow)
{
    buffer_init(&b, SIZE_MAX);
    buffer_append_str(&b, "x");
    ck_assert_ptr_null(buffer_reserve(&b, SIZE_MAX));
    ck_assert_ptr_null(buffer_reserve(&b, SIZE_MAX - 2));
    ck_assert(b.failed);
    ck_assert_str_eq(b.data, "x");
    buffer_fini(&b);
}
END_TEST

START_TEST(printf_appends_all_or_nothing)
{
    buffer_init(&b, 300);
    ck_assert(buffer_printf(&b, "%d-%s", 42, "x"));
    ck_assert(buffer_printf(&b, "%0200d", 1));
    ck_assert_uint_eq(b.n_bytes, 204);
    ck_assert_int_eq(b.data[203], '1');
    ck_assert(!buffer_printf(&b, "%0200d", 1));
    ck_assert_uint_eq(b.n_bytes, 204);
    ck_assert_uint_eq(strlen(b.data), 204);
    ck_assert(buffer_printf(&b, "%s", ""));
    buffer_fini(&b);
}
END_TEST

START_TEST(json_escapes)
{
    static const struct {
        const char *in;
        size_t n;
        const char *out;
    } cases[] = {
        {"", 0, ""},
        {"plain text/", 11, "plain text/"},
        {"\"\\\n\r\t", 5, "\\\"\\\\\\n\\r\\t"},
        {"a\0b\x01\x1F", 5, "a\\u0000b\\u0001\\u001f"},
        {"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", 9, "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80"},
        {"a\xFFz", 3, "a\xEF\xBF\xBDz"},
        {"\xE2\x82", 2, "\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xED\xA0\x80", 3, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\x7F", 1, "\x7F"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        buffer_init(&b, 1000);
        ck_assert(buffer_append_json(&b, cases[i].in, cases[i].n));
        ck_assert_str_eq(b.data, cases[i].out);
        buffer_fini(&b);
    }
}
END_TEST

START_TEST(json_that_does_not_fit_leaves_nothing)
{
    buffer_init(&b, 8);
    buffer_append_str(&b, "ab");
    ck_assert(!buffer_append_json(&b, "cd\"\"\"", 5));
    ck_assert(b.failed);
    ck_assert_str_eq(b.data, "ab");
    ck_assert_uint_eq(b.n_bytes, 2);
    buffer_fini(&b);
}
END_TEST

START_TEST(consume_drops_the_front)
{
    buffer_init(&b, 100);
    buffer_consume(&b, 3);
    buffer_append_str(&b, "abcdef");
    buffer_consume(&b, 2);
    ck_assert_str_eq(b.data, "cdef");
    buffer_consume(&b, 100);
    ck_assert_uint_eq(b.n_bytes, 0);
    ck_assert_str_eq(b.data, "");
    buffer_fini(&b);
}
END_TEST

START_TEST(reserved_bytes_count_when_added)
{
    buffer_init(&b, 100);
    char *to = buffer_reserve(&b, 50);
    ck_assert_ptr_nonnull(to);
    memcpy(to, "xyz", 3);
    b.n_bytes += 3;
    buffer_append_str(&b, "!");
    ck_assert_str_eq(b.data, "xyz!");
    ck_assert_ptr_null(buffer_reserve(&b, 97));
    buffer_fini(&b);
}
END_TEST

START_TEST(steal_gives_the_bytes_away)
{
    buffer_init(&b, 100);
    ck_assert_ptr_null(buffer_steal(&b));
    buffer_append_str(&b, "abc");
    memcpy(buffer_reserve(&b, 5), "defgh", 5);
    b.n_bytes += 2; /* not all that was written */
    char *text = buffer_steal(&b);
    ck_assert_str_eq(text, "abcde");
    ck_assert_uint_eq(b.n_bytes, 0);
    ck_assert_ptr_null(b.data);
    ck_assert_uint_eq(b.max_bytes, 100);
    free(text);
}
END_TEST

SUITE("buffer", appends_with_a_nul_behind, keeps_its_contents_while_it_grows, maximum_is_exact,
      failed_stays_until_clear, huge_request_fails_without_overflow, printf_appends_all_or_nothing, json_escapes,
      json_that_does_not_fit_leaves_nothing, consume_drops_the_front, reserved_bytes_count_when_added,
      steal_gives_the_bytes_away)
