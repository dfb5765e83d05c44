/* google.rpc.Status and its details. */
#include "gateway/status.h"

#include "base/utf8.h"
#include "gateway/fields.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"

#include <stdio.h>
#include <string.h>

enum { GRPC_CANCELLED = 1 };

/* What was found in the details. */
struct found {
    enum error_code code;
    int64_t retry_after_ms;
    const struct field *table;
    struct failure violations;
    char device[16];
};

static bool is_type(const Google__Protobuf__Any *any, const char *name)
{
    const char *slash = any->type_url ? strrchr(any->type_url, '/') : NULL;
    return slash && strcmp(slash + 1, name) == 0;
}

static void read_error_info(const Google__Protobuf__Any *any, struct found *found)
{
    Google__Rpc__ErrorInfo *info = google__rpc__error_info__unpack(NULL, any->value.len, any->value.data);
    if (info)
        found->code = error_code_from_name(info->reason);
    for (size_t i = 0; info && i < info->n_metadata; i++)
        if (strcmp(info->metadata[i]->key, "device") == 0)
            snprintf(found->device, sizeof found->device, "%s", info->metadata[i]->value);
    google__rpc__error_info__free_unpacked(info, NULL);
}

/* "expected X, found Y", perhaps behind the field's name, is taken apart; other words stay together. */
static void add_violation(struct found *found, const char *field, const char *description)
{
    char name[96], expected[256];
    const char *from = strstr(description, "expected "), *actual = from ? strstr(from, ", found ") : NULL;
    if (actual) {
        from += strlen("expected ");
        snprintf(expected, sizeof expected, "%.*s", (int)(actual - from), from);
        expected[utf8_complete(expected, strlen(expected))] = '\0';
        actual += strlen(", found ");
    }
    failure_add(&found->violations, ERROR_VALIDATION_FAILED, fields_rest_name(found->table, field, name, sizeof name),
                actual ? expected : description, actual);
}

static void read_bad_request(const Google__Protobuf__Any *any, struct found *found)
{
    Google__Rpc__BadRequest *bad = google__rpc__bad_request__unpack(NULL, any->value.len, any->value.data);
    for (size_t i = 0; bad && i < bad->n_field_violations; i++) {
        const Google__Rpc__BadRequest__FieldViolation *v = bad->field_violations[i];
        add_violation(found, v->field, v->description);
    }
    google__rpc__bad_request__free_unpacked(bad, NULL);
}

static void read_retry_info(const Google__Protobuf__Any *any, struct found *found)
{
    Google__Rpc__RetryInfo *retry = google__rpc__retry_info__unpack(NULL, any->value.len, any->value.data);
    if (retry && retry->retry_delay && retry->retry_delay->seconds >= 0 && retry->retry_delay->seconds < 86400)
        found->retry_after_ms = retry->retry_delay->seconds * 1000 + retry->retry_delay->nanos / 1000000;
    google__rpc__retry_info__free_unpacked(retry, NULL);
}

static void read_details(const struct rpc_status *status, struct found *found)
{
    Google__Rpc__Status *s = google__rpc__status__unpack(NULL, status->details_n_bytes, status->details);
    for (size_t i = 0; s && i < s->n_details; i++) {
        if (is_type(s->details[i], "google.rpc.ErrorInfo"))
            read_error_info(s->details[i], found);
        else if (is_type(s->details[i], "google.rpc.BadRequest"))
            read_bad_request(s->details[i], found);
        else if (is_type(s->details[i], "google.rpc.RetryInfo"))
            read_retry_info(s->details[i], found);
    }
    google__rpc__status__free_unpacked(s, NULL);
}

/* gRPC's own words name addresses and sockets; a client is told what it means instead. */
static const char *plain_message(const struct rpc_status *status, enum error_code code)
{
    if (code == ERROR_SERVICE_UNAVAILABLE)
        return "no inference engine can go on with this request";
    if (code == ERROR_DEADLINE_EXCEEDED)
        return "the request's time ran out";
    return status->message[0] != '\0' ? status->message : error_info(code)->name;
}

enum error_code status_reason(const struct rpc_status *status)
{
    struct found found = {.table = NULL};
    failure_init(&found.violations);
    if (status->details)
        read_details(status, &found);
    failure_fini(&found.violations);
    return found.code;
}

void status_failure(const struct rpc_status *status, const struct field *table, struct failure *f)
{
    struct found found = {.table = table};
    failure_init(&found.violations);
    if (status->details)
        read_details(status, &found);
    bool told = found.code != ERROR_NONE;
    enum error_code code = told ? found.code : error_code_from_grpc(status->code);
    /* Calls that we cancel ourselves report nothing: this one was ended by an engine that is going away. */
    if (code == ERROR_CANCELLED || (!told && status->code == GRPC_CANCELLED))
        code = ERROR_SERVICE_UNAVAILABLE;
    if (code == ERROR_NONE)
        code = ERROR_INTERNAL;
    if (!told && code == ERROR_INVALID_REQUEST && found.violations.n_violations > 0)
        code = ERROR_VALIDATION_FAILED;
    const char *message = told ? status->message : plain_message(status, code);
    error_set_param(&f->error, code, found.violations.error.param, "%s", message);
    f->error.retry_after_ms = found.retry_after_ms;
    /* Other errors name a field, as MODEL_NOT_FOUND does, and say the rest in their message. */
    if (error_info(code)->http_status == 400) {
        buffer_append(&f->violations, found.violations.violations.data ? found.violations.violations.data : "",
                      found.violations.violations.n_bytes);
        f->n_violations = found.violations.n_violations;
    }
    memcpy(f->device, found.device, sizeof f->device);
    failure_fini(&found.violations);
}
