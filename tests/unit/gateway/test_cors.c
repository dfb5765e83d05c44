/* Lists of origins. */
#include "gateway/cors.h"
#include "tests/suite.h"

START_TEST(checks)
{
    static const char *const good[] = {"",
                                       "*",
                                       "https://a.example",
                                       "https://a.example, http://localhost:3000",
                                       "http://[::1]:80",
                                       "chrome-extension://abcdef"};
    static const char *const bad[] = {"a.example",
                                      "https://",
                                      "://a",
                                      "https://a.example/",
                                      "https://A.example",
                                      "null",
                                      "https://a.example/app",
                                      "*,https://a.example",
                                      "https://*.example",
                                      "https://a.example?x",
                                      "HTTPS://a.example"};
    struct error err;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        ck_assert_msg(cors_check(good[i], &err) == ERROR_NONE, "%s", good[i]);
    ck_assert_int_eq(cors_check(NULL, &err), ERROR_NONE);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(cors_check(bad[i], &err) != ERROR_NONE, "%s", bad[i]);
    ck_assert_ptr_nonnull(strstr(err.message, "cors-origins: expected origins such as"));
}
END_TEST

START_TEST(allows)
{
    static const char list[] = "https://a.example,http://localhost:3000";
    ck_assert(cors_allows(list, "https://a.example"));
    ck_assert(cors_allows(list, "http://localhost:3000"));
    static const char *const others[] = {"https://a.example.evil",
                                         "https://a.exampl",
                                         "http://a.example",
                                         "null",
                                         "",
                                         "https://a.example:443",
                                         "https://a.example,http://localhost:3000",
                                         "https://A.example",
                                         "http://localhost"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        ck_assert_msg(!cors_allows(list, others[i]), "%s", others[i]);
    ck_assert(cors_allows("*", "null"));
    ck_assert(!cors_allows("", "https://a.example"));
    ck_assert(!cors_allows(NULL, "https://a.example"));
}
END_TEST

START_TEST(names)
{
    ck_assert(cors_names_valid("authorization, content-type,x-stainless-os"));
    ck_assert(!cors_names_valid(""));
    ck_assert(!cors_names_valid("a\r\nx: y"));
    ck_assert(!cors_names_valid("a;b"));
    char text[2000];
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = '\0';
    ck_assert(!cors_names_valid(text));
}
END_TEST

SUITE("cors", checks, allows, names)
