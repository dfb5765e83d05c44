#include "base/error.h"
#include "base/utf8.h"
#include "tests/suite.h"

/* The contract's table, written down a second time. */
static const struct {
    enum error_code code;
    const char *name;
    int grpc, http;
    const char *type;
} contract[] = {
    {ERROR_INVALID_REQUEST, "INVALID_REQUEST", 3, 400, "invalid_request_error"},
    {ERROR_VALIDATION_FAILED, "VALIDATION_FAILED", 3, 400, "invalid_request_error"},
    {ERROR_AUTHENTICATION_REQUIRED, "AUTHENTICATION_REQUIRED", 16, 401, "authentication_error"},
    {ERROR_AUTHORIZATION_FAILED, "AUTHORIZATION_FAILED", 7, 403, "permission_error"},
    {ERROR_MODEL_NOT_FOUND, "MODEL_NOT_FOUND", 5, 404, "not_found_error"},
    {ERROR_NOT_FOUND, "NOT_FOUND", 5, 404, "not_found_error"},
    {ERROR_METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", 12, 405, "invalid_request_error"},
    {ERROR_PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", 3, 413, "invalid_request_error"},
    {ERROR_UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", 3, 415, "invalid_request_error"},
    {ERROR_CONFLICT, "CONFLICT", 9, 409, "invalid_request_error"},
    {ERROR_RATE_LIMIT_EXCEEDED, "RATE_LIMIT_EXCEEDED", 8, 429, "rate_limit_error"},
    {ERROR_QUOTA_EXCEEDED, "QUOTA_EXCEEDED", 8, 429, "rate_limit_error"},
    {ERROR_CANCELLED, "CANCELLED", 1, 499, "invalid_request_error"},
    {ERROR_INFERENCE_FAILED, "INFERENCE_FAILED", 13, 500, "server_error"},
    {ERROR_INTERNAL, "INTERNAL_ERROR", 13, 500, "server_error"},
    {ERROR_QUANTIZATION, "QUANTIZATION_ERROR", 13, 500, "server_error"},
    {ERROR_SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", 14, 503, "server_error"},
    {ERROR_DEVICE_UNAVAILABLE, "DEVICE_UNAVAILABLE", 14, 503, "server_error"},
    {ERROR_MEMORY_EXHAUSTED, "MEMORY_EXHAUSTED", 14, 503, "server_error"},
    {ERROR_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", 4, 504, "server_error"},
    {ERROR_MODEL_LOAD_FAILED, "MODEL_LOAD_FAILED", 9, 422, "invalid_request_error"},
    {ERROR_READER_STALLED, "READER_STALLED", 10, 408, "invalid_request_error"},
    {ERROR_CROSS_VALIDATION_FAILED, "CROSS_VALIDATION_FAILED", 9, 422, "invalid_request_error"},
    {ERROR_NOT_IMPLEMENTED, "NOT_IMPLEMENTED", 12, 501, "server_error"},
};
#define N_CONTRACT (sizeof contract / sizeof *contract)

START_TEST(table_is_the_contract)
{
    ck_assert_uint_eq(N_CONTRACT, ERROR_N_CODES - 1);
    for (size_t i = 0; i < N_CONTRACT; i++) {
        const struct error_info *info = error_info(contract[i].code);
        ck_assert_str_eq(info->name, contract[i].name);
        ck_assert_msg(info->grpc_status == contract[i].grpc, "%s: gRPC %d", info->name, info->grpc_status);
        ck_assert_msg(info->http_status == contract[i].http, "%s: HTTP %d", info->name, info->http_status);
        ck_assert_str_eq(info->openai_type, contract[i].type);
    }
}
END_TEST

START_TEST(names_find_their_codes)
{
    for (size_t i = 0; i < N_CONTRACT; i++)
        ck_assert_int_eq(error_code_from_name(contract[i].name), contract[i].code);
    ck_assert_int_eq(error_code_from_name("NO_SUCH_CODE"), ERROR_NONE);
    ck_assert_int_eq(error_code_from_name(""), ERROR_NONE);
    ck_assert_int_eq(error_code_from_name(NULL), ERROR_NONE);
}
END_TEST

START_TEST(unknown_code_is_internal)
{
    ck_assert_ptr_eq(error_info(ERROR_N_CODES), error_info(ERROR_INTERNAL));
    ck_assert_ptr_eq(error_info((enum error_code) - 1), error_info(ERROR_INTERNAL));
}
END_TEST

START_TEST(bare_grpc_status_maps)
{
    static const enum error_code expected[] = {ERROR_NONE,
                                               ERROR_CANCELLED,
                                               ERROR_INTERNAL,
                                               ERROR_INVALID_REQUEST,
                                               ERROR_DEADLINE_EXCEEDED,
                                               ERROR_NOT_FOUND,
                                               ERROR_CONFLICT,
                                               ERROR_AUTHORIZATION_FAILED,
                                               ERROR_RATE_LIMIT_EXCEEDED,
                                               ERROR_CONFLICT,
                                               ERROR_READER_STALLED,
                                               ERROR_VALIDATION_FAILED,
                                               ERROR_NOT_IMPLEMENTED,
                                               ERROR_INTERNAL,
                                               ERROR_SERVICE_UNAVAILABLE,
                                               ERROR_INTERNAL,
                                               ERROR_AUTHENTICATION_REQUIRED,
                                               ERROR_INTERNAL /* 17: not a status */};
    for (int status = 0; status < (int)(sizeof expected / sizeof *expected); status++)
        ck_assert_msg(error_code_from_grpc(status) == expected[status], "status %d", status);
}
END_TEST

START_TEST(set_fills_and_returns)
{
    struct error err = {.param = "old", .retry_after_ms = 5};
    ck_assert_int_eq(error_set(&err, ERROR_NOT_FOUND, "no %s %d", "tensor", 7), ERROR_NOT_FOUND);
    ck_assert_int_eq(err.code, ERROR_NOT_FOUND);
    ck_assert_str_eq(err.message, "no tensor 7");
    ck_assert_str_eq(err.param, "");
    ck_assert_int_eq(err.retry_after_ms, 0);
}
END_TEST

START_TEST(set_param_names_the_field)
{
    struct error err = {0};
    ck_assert_int_eq(error_set_param(&err, ERROR_VALIDATION_FAILED, "top_k", "too low"), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "top_k");
    ck_assert_str_eq(err.message, "too low");
}
END_TEST

START_TEST(null_error_is_allowed)
{
    ck_assert_int_eq(error_set(NULL, ERROR_CONFLICT, "x"), ERROR_CONFLICT);
    ck_assert_int_eq(error_set_param(NULL, ERROR_CONFLICT, "p", "x"), ERROR_CONFLICT);
    ck_assert_int_eq(error_prefix(NULL, "x"), ERROR_NONE);
}
END_TEST

START_TEST(message_may_quote_itself)
{
    struct error err = {0};
    error_set(&err, ERROR_INTERNAL, "inner");
    error_set(&err, ERROR_CONFLICT, "outer(%s)", err.message);
    ck_assert_str_eq(err.message, "outer(inner)");
}
END_TEST

START_TEST(prefix_adds_context)
{
    struct error err = {0};
    error_set_param(&err, ERROR_MODEL_LOAD_FAILED, "blk.0", "bad shape");
    ck_assert_int_eq(error_prefix(&err, "loading %s", "a.gguf"), ERROR_MODEL_LOAD_FAILED);
    ck_assert_str_eq(err.message, "loading a.gguf: bad shape");
    ck_assert_str_eq(err.param, "blk.0");
}
END_TEST

/* 3-byte characters at all three alignments against the end of the field. */
START_TEST(long_message_is_cut_between_characters)
{
    for (size_t shift = 0; shift < 3; shift++) {
        struct error err = {0};
        char text[2000] = "aa";
        text[shift] = '\0';
        for (size_t i = 0; i < 400; i++)
            strcat(text, "\xE2\x82\xAC");
        error_set(&err, ERROR_INTERNAL, "%s", text);
        size_t n = strlen(err.message);
        ck_assert_msg(utf8_valid(err.message, n, NULL), "shift %zu: cut inside a character", shift);
        ck_assert_uint_ge(n, sizeof err.message - 4);
        ck_assert_ptr_null(strchr(err.message, '?')); /* which stands for half a character */
        error_prefix(&err, "b%s", text);
        ck_assert(utf8_valid(err.message, strlen(err.message), NULL));
        ck_assert_ptr_null(strchr(err.message, '?'));
    }
}
END_TEST

START_TEST(message_is_one_line_of_utf8)
{
    struct error err = {0};
    error_set(&err, ERROR_INTERNAL,
              "a\nb\tc\x7F"
              "d\xFF"
              "e\xC3\xA9");
    ck_assert_str_eq(err.message, "a b c d?e\xC3\xA9");
    error_set_param(&err, ERROR_INTERNAL, "k\ney", "x");
    ck_assert_str_eq(err.param, "k ey");
}
END_TEST

SUITE("error", table_is_the_contract, names_find_their_codes, unknown_code_is_internal, bare_grpc_status_maps,
      set_fills_and_returns, set_param_names_the_field, null_error_is_allowed, message_may_quote_itself,
      prefix_adds_context, long_message_is_cut_between_characters, message_is_one_line_of_utf8)
