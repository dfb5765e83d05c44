/* From gRPC's status to the contract's error. */
#include "tests/suite.h"

#include "gateway/inference.h"
#include "gateway/status.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"

/* Packs a message into an Any; the bytes are to be freed. */
static void pack_any(Google__Protobuf__Any *any, const char *type, const ProtobufCMessage *m)
{
    google__protobuf__any__init(any);
    any->type_url = (char *)(uintptr_t)type;
    any->value.len = protobuf_c_message_get_packed_size(m);
    any->value.data = malloc(any->value.len + 1);
    protobuf_c_message_pack(m, any->value.data);
}

/* The failure of a status with this reason (NULL = none) and a violation of `field` (NULL = none). */
static void told_of(struct failure *f, int code, const char *message, const char *reason, const char *field,
                    const char *description, int retry_s)
{
    Google__Protobuf__Any any[3], *details[3] = {&any[0], &any[1], &any[2]};
    Google__Rpc__ErrorInfo info = GOOGLE__RPC__ERROR_INFO__INIT;
    Google__Rpc__BadRequest bad = GOOGLE__RPC__BAD_REQUEST__INIT;
    Google__Rpc__BadRequest__FieldViolation violation = GOOGLE__RPC__BAD_REQUEST__FIELD_VIOLATION__INIT,
                                            *list[] = {&violation};
    Google__Rpc__RetryInfo retry = GOOGLE__RPC__RETRY_INFO__INIT;
    Google__Protobuf__Duration delay = GOOGLE__PROTOBUF__DURATION__INIT;
    Google__Rpc__Status s = GOOGLE__RPC__STATUS__INIT;
    uint8_t packed[1024];
    s.details = details;
    if (reason) {
        info.reason = (char *)(uintptr_t)reason;
        pack_any(&any[s.n_details++], "type.googleapis.com/google.rpc.ErrorInfo", &info.base);
    }
    if (field) {
        violation.field = (char *)(uintptr_t)field;
        violation.description = (char *)(uintptr_t)description;
        bad.n_field_violations = 1;
        bad.field_violations = list;
        pack_any(&any[s.n_details++], "type.googleapis.com/google.rpc.BadRequest", &bad.base);
    }
    if (retry_s > 0) {
        delay.seconds = retry_s;
        retry.retry_delay = &delay;
        pack_any(&any[s.n_details++], "type.googleapis.com/google.rpc.RetryInfo", &retry.base);
    }
    const struct rpc_status status = {
        .code = code, .message = message, .details = packed, .details_n_bytes = google__rpc__status__pack(&s, packed)};
    failure_init(f);
    status_failure(&status, inference_fields, f);
    for (size_t i = 0; i < s.n_details; i++)
        free(any[i].value.data);
}

static void told(struct failure *f, int code, const char *message, const char *reason, const char *field, int retry_s)
{
    told_of(f, code, message, reason, field, "expected less", retry_s);
}

struct bare {
    int grpc, http;
    enum error_code code;
};

static const struct bare bares[] = {
    {1, 503, ERROR_SERVICE_UNAVAILABLE},
    {2, 500, ERROR_INTERNAL},
    {3, 400, ERROR_INVALID_REQUEST},
    {4, 504, ERROR_DEADLINE_EXCEEDED},
    {5, 404, ERROR_NOT_FOUND},
    {7, 403, ERROR_AUTHORIZATION_FAILED},
    {8, 429, ERROR_RATE_LIMIT_EXCEEDED},
    {9, 409, ERROR_CONFLICT},
    {12, 501, ERROR_NOT_IMPLEMENTED},
    {13, 500, ERROR_INTERNAL},
    {14, 503, ERROR_SERVICE_UNAVAILABLE},
    {16, 401, ERROR_AUTHENTICATION_REQUIRED},
};

START_TEST(a_bare_status)
{
    for (size_t i = 0; i < sizeof bares / sizeof *bares; i++) {
        struct failure f;
        const struct rpc_status status = {.code = bares[i].grpc, .message = "m"};
        failure_init(&f);
        status_failure(&status, NULL, &f);
        ck_assert_msg(f.error.code == bares[i].code, "%d", bares[i].grpc);
        ck_assert_int_eq(error_info(f.error.code)->http_status, bares[i].http);
        failure_fini(&f);
    }
}
END_TEST

START_TEST(the_reason_counts)
{
    struct failure f;
    told(&f, 8, "the queue is full", "SERVICE_UNAVAILABLE", NULL, 3);
    ck_assert_int_eq(f.error.code, ERROR_SERVICE_UNAVAILABLE);
    ck_assert_str_eq(f.error.message, "the queue is full");
    ck_assert_int_eq(f.error.retry_after_ms, 3000);
    failure_fini(&f);
    told(&f, 9, "no", "CROSS_VALIDATION_FAILED", NULL, 0);
    ck_assert_int_eq(error_info(f.error.code)->http_status, 422);
    failure_fini(&f);
    told(&f, 14, "no", "OF_THE_FUTURE", NULL, 0);
    ck_assert_int_eq(f.error.code, ERROR_SERVICE_UNAVAILABLE);
    failure_fini(&f);
}
END_TEST

START_TEST(fields_have_their_rest_names)
{
    struct failure f;
    told(&f, 3, "bad", "VALIDATION_FAILED", "stop[0]", 0);
    ck_assert_int_eq(f.error.code, ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(f.error.param, "stop_sequences");
    ck_assert_str_eq(f.violations.data, "{\"field\":\"stop_sequences\",\"expected\":\"expected less\"}");
    failure_fini(&f);
    told(&f, 3, "bad", NULL, "sampling.temperature", 0);
    ck_assert_int_eq(f.error.code, ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(f.error.param, "temperature");
    failure_fini(&f);
}
END_TEST

START_TEST(what_was_expected_and_what_was_found_are_apart)
{
    struct failure f;
    told_of(&f, 3, "bad", "VALIDATION_FAILED", "stop", "stop: expected at most 2 strings, found 3", 0);
    ck_assert_str_eq(f.violations.data, "{\"field\":\"stop_sequences\",\"expected\":\"at most 2 strings\",\"actual\":\"3\"}");
    failure_fini(&f);
}
END_TEST

START_TEST(a_model_that_is_not_there_violates_nothing)
{
    struct failure f;
    told_of(&f, 5, "there is no model \"x\"", "MODEL_NOT_FOUND", "model", "there is no model \"x\"", 0);
    ck_assert_int_eq(f.error.code, ERROR_MODEL_NOT_FOUND);
    ck_assert_str_eq(f.error.message, "there is no model \"x\"");
    ck_assert_str_eq(f.error.param, "model");
    ck_assert_uint_eq(f.violations.n_bytes, 0);
    ck_assert_int_eq(f.n_violations, 0);
    failure_fini(&f);
}
END_TEST

START_TEST(nonsense_in_the_details)
{
    struct failure f;
    const struct rpc_status status = {.code = 5, .message = "gone", .details = "\xff\xff\xff", .details_n_bytes = 3};
    failure_init(&f);
    status_failure(&status, NULL, &f);
    ck_assert_int_eq(f.error.code, ERROR_NOT_FOUND);
    ck_assert_str_eq(f.error.message, "gone");
    failure_fini(&f);
}
END_TEST

SUITE("status", a_bare_status, the_reason_counts, fields_have_their_rest_names,
      what_was_expected_and_what_was_found_are_apart, a_model_that_is_not_there_violates_nothing, nonsense_in_the_details)
