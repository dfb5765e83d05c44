/* From the contract's error to gRPC's status and its details. */
#include "tests/suite.h"

#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "service/service.h"

#include <string.h>

/* The packed status of an error, unpacked again; freed by the caller. */
static Google__Rpc__Status *pack(const struct error *err, bool draining, int *code)
{
    struct buffer details;
    buffer_init(&details, 65536);
    *code = status_pack(err, draining, "cuda:0", &details);
    ck_assert(!details.failed);
    Google__Rpc__Status *s = google__rpc__status__unpack(NULL, details.n_bytes, (const uint8_t *)details.data);
    ck_assert_ptr_nonnull(s);
    ck_assert_int_eq(s->code, *code);
    ck_assert_str_eq(s->message, err->message);
    buffer_fini(&details);
    return s;
}

static void check_reason(const Google__Rpc__Status *s, const char *reason)
{
    ck_assert_uint_ge(s->n_details, 1);
    ck_assert_str_eq(s->details[0]->type_url, "type.googleapis.com/google.rpc.ErrorInfo");
    const ProtobufCBinaryData *v = &s->details[0]->value;
    Google__Rpc__ErrorInfo *info = google__rpc__error_info__unpack(NULL, v->len, v->data);
    ck_assert_ptr_nonnull(info);
    ck_assert_str_eq(info->reason, reason);
    ck_assert_str_eq(info->domain, "bitnet");
    google__rpc__error_info__free_unpacked(info, NULL);
}

START_TEST(every_code_has_its_reason)
{
    for (int i = 1; i < ERROR_N_CODES; i++) {
        const struct error err = {.code = (enum error_code)i, .message = "because"};
        int code;
        Google__Rpc__Status *s = pack(&err, true, &code);
        ck_assert_int_eq(code, error_info(err.code)->grpc_status);
        ck_assert_uint_eq(s->n_details, 1);
        check_reason(s, error_info(err.code)->name);
        google__rpc__status__free_unpacked(s, NULL);
    }
}
END_TEST

START_TEST(field_at_fault_is_a_violation)
{
    struct error err = {0};
    int code;
    error_set_param(&err, ERROR_VALIDATION_FAILED, "sampling.top_p", "expected 0 to 1, found 2");
    Google__Rpc__Status *s = pack(&err, false, &code);
    ck_assert_int_eq(code, 3);
    ck_assert_uint_eq(s->n_details, 2);
    check_reason(s, "VALIDATION_FAILED");
    ck_assert_str_eq(s->details[1]->type_url, "type.googleapis.com/google.rpc.BadRequest");
    Google__Rpc__BadRequest *bad =
        google__rpc__bad_request__unpack(NULL, s->details[1]->value.len, s->details[1]->value.data);
    ck_assert_ptr_nonnull(bad);
    ck_assert_uint_eq(bad->n_field_violations, 1);
    ck_assert_str_eq(bad->field_violations[0]->field, "sampling.top_p");
    ck_assert_str_eq(bad->field_violations[0]->description, "expected 0 to 1, found 2");
    google__rpc__bad_request__free_unpacked(bad, NULL);
    google__rpc__status__free_unpacked(s, NULL);
}
END_TEST

START_TEST(full_queue_is_exhausted_and_says_when)
{
    const struct error err = {
        .code = ERROR_SERVICE_UNAVAILABLE, .message = "the queue is full", .retry_after_ms = 1250};
    int code;
    Google__Rpc__Status *s = pack(&err, false, &code);
    ck_assert_int_eq(code, 8);
    check_reason(s, "SERVICE_UNAVAILABLE");
    ck_assert_uint_eq(s->n_details, 2);
    ck_assert_str_eq(s->details[1]->type_url, "type.googleapis.com/google.rpc.RetryInfo");
    Google__Rpc__RetryInfo *retry =
        google__rpc__retry_info__unpack(NULL, s->details[1]->value.len, s->details[1]->value.data);
    ck_assert_ptr_nonnull(retry);
    ck_assert_int_eq(retry->retry_delay->seconds, 1);
    ck_assert_int_eq(retry->retry_delay->nanos, 250000000);
    google__rpc__retry_info__free_unpacked(retry, NULL);
    google__rpc__status__free_unpacked(s, NULL);
}
END_TEST

/* ErrorInfo names what bound was met. */
START_TEST(refusal_names_its_cause)
{
    struct error err = {.code = ERROR_SERVICE_UNAVAILABLE, .message = "too many tokens", .reason = REFUSED_QUEUE_TOKENS};
    int code;
    Google__Rpc__Status *s = pack(&err, false, &code);
    const ProtobufCBinaryData *v = &s->details[0]->value;
    Google__Rpc__ErrorInfo *info = google__rpc__error_info__unpack(NULL, v->len, v->data);
    ck_assert_int_eq(code, 8);
    ck_assert_str_eq(info->reason, "SERVICE_UNAVAILABLE");
    ck_assert_uint_eq(info->n_metadata, 2);
    ck_assert_str_eq(info->metadata[0]->key, "cause");
    ck_assert_str_eq(info->metadata[0]->value, "queue_tokens");
    ck_assert_str_eq(info->metadata[1]->key, "device");
    ck_assert_str_eq(info->metadata[1]->value, "cuda:0");
    google__rpc__error_info__free_unpacked(info, NULL);
    google__rpc__status__free_unpacked(s, NULL);
    err.reason = REFUSED_DRAINING;
    s = pack(&err, false, &code);
    ck_assert_int_eq(code, 14);
    google__rpc__status__free_unpacked(s, NULL);
}
END_TEST

START_TEST(drain_is_unavailable)
{
    const struct error err = {.code = ERROR_SERVICE_UNAVAILABLE, .message = "shutting down", .retry_after_ms = 1000};
    int code;
    Google__Rpc__Status *s = pack(&err, true, &code);
    ck_assert_int_eq(code, 14);
    check_reason(s, "SERVICE_UNAVAILABLE");
    google__rpc__status__free_unpacked(s, NULL);
}
END_TEST

START_TEST(longest_error_fits)
{
    struct error err = {.code = ERROR_VALIDATION_FAILED, .retry_after_ms = INT64_MAX};
    int code;
    memset(err.message, 'm', sizeof err.message - 1);
    memset(err.param, 'p', sizeof err.param - 1);
    Google__Rpc__Status *s = pack(&err, false, &code);
    ck_assert_uint_eq(s->n_details, 3);
    for (size_t i = 0; i < s->n_details; i++)
        ck_assert_uint_gt(s->details[i]->value.len, 0);
    google__rpc__status__free_unpacked(s, NULL);
}
END_TEST

SUITE("status", every_code_has_its_reason, field_at_fault_is_a_violation, full_queue_is_exhausted_and_says_when,
      refusal_names_its_cause, drain_is_unavailable, longest_error_fits)
