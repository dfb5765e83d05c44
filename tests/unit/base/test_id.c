#include "base/id.h"
#include "tests/suite.h"

START_TEST(uuid_has_the_form_of_version_4)
{
    for (int n = 0; n < 1000; n++) {
        char out[ID_UUID_BYTES];
        ck_assert_ptr_eq(id_uuid(out), out);
        ck_assert_uint_eq(strlen(out), 36);
        for (int i = 0; i < 36; i++) {
            const char *allowed = i == 8 || i == 13 || i == 18 || i == 23 ? "-"
                                  : i == 14                               ? "4"
                                  : i == 19                               ? "89ab"
                                                                          : "0123456789abcdef";
            ck_assert_msg(strchr(allowed, out[i]), "%s: character %d", out, i);
        }
    }
}
END_TEST

START_TEST(uuids_differ)
{
    char a[ID_UUID_BYTES], b[ID_UUID_BYTES];
    ck_assert_str_ne(id_uuid(a), id_uuid(b));
}
END_TEST

/* Each bit is 0 and 1 at least once in 200 draws, or luck of 1 in 2^193 has struck. */
START_TEST(every_random_bit_moves)
{
    uint64_t ones = 0, zeros = 0;
    for (int i = 0; i < 200; i++) {
        uint64_t u = id_random_u64();
        ones |= u;
        zeros |= ~u;
    }
    ck_assert_uint_eq(ones & zeros, UINT64_MAX);
}
END_TEST

START_TEST(request_ids)
{
    char longest[129], too_long[130];
    memset(longest, 'a', 128);
    longest[128] = '\0';
    memset(too_long, 'a', 129);
    too_long[129] = '\0';
    const struct {
        const char *text;
        bool valid;
    } cases[] = {
        {"a", true},    {"AZaz09-_.:/", true}, {longest, true}, {NULL, false},       {"", false},    {too_long, false},
        {"a b", false}, {"a\n", false},        {"\x7F", false}, {"\xC3\xA9", false}, {"a\"", false}, {"a%", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        ck_assert_msg(id_request_id_valid(cases[i].text) == cases[i].valid, "case %zu", i);
}
END_TEST

SUITE("id", uuid_has_the_form_of_version_4, uuids_differ, every_random_bit_moves, request_ids)
