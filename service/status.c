/* Errors as gRPC statuses with google.rpc.Status details, so that clients of any language see code, field and time to retry. */
#include "google/protobuf/any.pb-c.h"
#include "google/protobuf/duration.pb-c.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "service/service.h"

#include <stdio.h>
#include <string.h>

#define DOMAIN_NAME "bitnet"
#define STATUS_RESOURCE_EXHAUSTED 8
#define MAX_DETAILS 3
#define DETAIL_BYTES 2048 /* more than any detail: message and param of an error are bounded */

struct detail {
    Google__Protobuf__Any any;
    char url[96];
    uint8_t bytes[DETAIL_BYTES];
};

static void detail_set(struct detail *d, const ProtobufCMessage *message)
{
    google__protobuf__any__init(&d->any);
    if (protobuf_c_message_get_packed_size(message) > sizeof d->bytes)
        return;
    d->any.value.len = protobuf_c_message_pack(message, d->bytes);
    d->any.value.data = d->bytes;
    strcpy(d->url, "type.googleapis.com/");
    strncat(d->url, message->descriptor->name, sizeof d->url - strlen(d->url) - 1);
    d->any.type_url = d->url;
}

/* `value` NULL adds nothing. */
static void metadata_add(Google__Rpc__ErrorInfo *info, const char *key, const char *value)
{
    if (!value)
        return;
    Google__Rpc__ErrorInfo__MetadataEntry *entry = info->metadata[info->n_metadata++];
    google__rpc__error_info__metadata_entry__init(entry);
    entry->key = (char *)(uintptr_t)key;
    entry->value = (char *)(uintptr_t)value;
}

int status_pack(const struct error *err, bool draining, const char *device, struct buffer *out)
{
    const struct error_info *info = error_info(err->code);
    /* A full queue is the server's limit, not its absence; a drain is. */
    draining |= err->reason && strcmp(err->reason, REFUSED_DRAINING) == 0;
    bool full = err->code == ERROR_SERVICE_UNAVAILABLE && !draining;
    int code = full ? STATUS_RESOURCE_EXHAUSTED : info->grpc_status;
    struct detail details[MAX_DETAILS];
    Google__Protobuf__Any *list[MAX_DETAILS];
    size_t n = 0;
    Google__Rpc__ErrorInfo reason = GOOGLE__RPC__ERROR_INFO__INIT;
    reason.reason = (char *)(uintptr_t)info->name;
    reason.domain = (char *)(uintptr_t)DOMAIN_NAME;
    Google__Rpc__ErrorInfo__MetadataEntry entries[2], *metadata[] = {&entries[0], &entries[1]};
    reason.metadata = metadata;
    metadata_add(&reason, "cause", err->reason);
    metadata_add(&reason, "device", device);
    detail_set(&details[n++], &reason.base);
    Google__Rpc__BadRequest__FieldViolation violation = GOOGLE__RPC__BAD_REQUEST__FIELD_VIOLATION__INIT,
                                            *violations[] = {&violation};
    Google__Rpc__BadRequest bad = GOOGLE__RPC__BAD_REQUEST__INIT;
    if (err->param[0]) {
        violation.field = (char *)(uintptr_t)err->param;
        violation.description = (char *)(uintptr_t)err->message;
        bad.n_field_violations = 1;
        bad.field_violations = violations;
        detail_set(&details[n++], &bad.base);
    }
    Google__Protobuf__Duration delay = GOOGLE__PROTOBUF__DURATION__INIT;
    Google__Rpc__RetryInfo retry = GOOGLE__RPC__RETRY_INFO__INIT;
    if (err->retry_after_ms > 0) {
        delay.seconds = err->retry_after_ms / 1000;
        delay.nanos = (int32_t)(err->retry_after_ms % 1000) * 1000000;
        retry.retry_delay = &delay;
        detail_set(&details[n++], &retry.base);
    }
    Google__Rpc__Status status = GOOGLE__RPC__STATUS__INIT;
    status.code = code;
    status.message = (char *)(uintptr_t)err->message;
    status.n_details = n;
    status.details = list;
    for (size_t i = 0; i < n; i++)
        list[i] = &details[i].any;
    char *room = buffer_reserve(out, google__rpc__status__get_packed_size(&status));
    if (room)
        out->n_bytes += google__rpc__status__pack(&status, (uint8_t *)room);
    return code;
}

void status_fail(struct service *s, struct rpc_call *call, const struct error *err)
{
    struct buffer details;
    buffer_init(&details, 64 * 1024);
    service_metrics_error(s->metrics, err->code);
    char message[sizeof err->message + sizeof err->param + 2];
    bool named = !err->param[0] || strstr(err->message, err->param); /* the message alone must say what is meant */
    snprintf(message, sizeof message, "%s%s%s", named ? "" : err->param, named ? "" : ": ", err->message);
    struct served *served = NULL;
    if (s->registry)
        registry_acquire(s->registry, "", &served, NULL);
    const char *device = served ? engine_model(served_engine(served))->device : NULL;
    struct rpc_status status = {.code = status_pack(err, atomic_load(&s->draining), device, &details), .message = message};
    status.details = details.data;
    status.details_n_bytes = details.n_bytes;
    rpc_call_finish(call, &status, NULL, 0);
    served_release(served);
    buffer_fini(&details);
}
