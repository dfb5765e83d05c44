/* What protobuf-c does not do by itself: a bound on memory and UTF-8. */
#include "tests/suite.h"

#include "bitnet/v1/inference.pb-c.h"
#include "service/service.h"

static void *unpack(const void *data, size_t n_bytes, struct error *err)
{
    *err = (struct error){0};
    return message_unpack(&bitnet__v1__generate_request__descriptor, data, n_bytes, err);
}

START_TEST(takes_valid_messages)
{
    static const uint8_t bytes[] = {0x12, 3, 'A', 0xc3, 0xa9, 0x28, 7}; /* prompt "Aé", max_tokens 7 */
    struct error err;
    Bitnet__V1__GenerateRequest *r = unpack(bytes, sizeof bytes, &err);
    ck_assert_ptr_nonnull(r);
    ck_assert_str_eq(r->prompt, "A\xc3\xa9");
    ck_assert_uint_eq(r->max_tokens, 7);
    message_free(r);
    r = unpack("", 0, &err);
    ck_assert_ptr_nonnull(r);
    message_free(r);
}
END_TEST

START_TEST(refuses_invalid_utf8_everywhere)
{
    static const struct {
        const char *field;
        uint8_t bytes[16];
        size_t n;
    } cases[] = {
        {"prompt", {0x12, 3, 'A', 0xff, 0xfe}, 5},
        {"model", {0x0a, 1, 0x80}, 3},
        {"stop", {0x3a, 1, 'a', 0x3a, 2, 0xc3, 0x28}, 7},
        {"content", {0x1a, 5, 0x0a, 3, 0x12, 1, 0xed}, 7}, /* chat.messages[0].content */
        {"role", {0x1a, 5, 0x0a, 3, 0x0a, 1, 0xc0}, 7},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err;
        ck_assert_ptr_null(unpack(cases[i].bytes, cases[i].n, &err));
        ck_assert_int_eq(err.code, ERROR_VALIDATION_FAILED);
        ck_assert_str_eq(err.param, cases[i].field);
        ck_assert_ptr_nonnull(strstr(err.message, "UTF-8"));
    }
}
END_TEST

START_TEST(refuses_what_is_no_message)
{
    struct error err;
    ck_assert_ptr_null(unpack("\x12\x7f", 2, &err));
    ck_assert_int_eq(err.code, ERROR_INVALID_REQUEST);
    ck_assert_ptr_null(unpack("\xff\xff\xff", 3, &err));
    ck_assert_int_eq(err.code, ERROR_INVALID_REQUEST);
}
END_TEST

/* Two bytes each become a string of their own with a pointer to it. */
START_TEST(refuses_messages_that_grow)
{
    enum { N = 1 << 20 };
    uint8_t *bytes = malloc(N + 8);
    struct error err;
    ck_assert_ptr_nonnull(bytes);
    bytes[0] = 0x1a; /* chat */
    bytes[1] = (N & 0x7f) | 0x80;
    bytes[2] = (N >> 7 & 0x7f) | 0x80;
    bytes[3] = N >> 14;
    for (size_t i = 0; i < N; i += 2) {
        bytes[4 + i] = 0x0a; /* an empty message */
        bytes[5 + i] = 0;
    }
    ck_assert_ptr_null(unpack(bytes, N + 4, &err));
    ck_assert_int_eq(err.code, ERROR_INVALID_REQUEST);
    free(bytes);
}
END_TEST

START_TEST(text_is_made_fit_for_strings)
{
    struct buffer out;
    buffer_init(&out, 64);
    ck_assert(message_text(&out, "a\0b\xff\xc3\xa9\xe2\x82", 8));
    ck_assert_str_eq(out.data, "a\xEF\xBF\xBD"
                               "b\xEF\xBF\xBD\xc3\xa9\xEF\xBF\xBD\xEF\xBF\xBD");
    buffer_fini(&out);
    buffer_init(&out, 2);
    ck_assert(!message_text(&out, "abc", 3));
    buffer_fini(&out);
}
END_TEST

SUITE("message", takes_valid_messages, refuses_invalid_utf8_everywhere, refuses_what_is_no_message,
      refuses_messages_that_grow, text_is_made_fit_for_strings)
