/* GET /v1/devices: what the engine computes on, in the order in which it would fall back. */
#include "bitnet/v1/admin.pb-c.h"
#include "gateway/ask.h"
#include "gateway/emit.h"
#include "gateway/error.h"
#include "gateway/query.h"

#define TIMEOUT_MS 5000

static const char *status_name(Bitnet__V1__DeviceStatus status)
{
    static const char *const names[] = {NULL, "active", "standby", "degraded", "failed", "unavailable"};
    return (unsigned)status < sizeof names / sizeof *names ? names[status] : NULL;
}

static void put_text(struct buffer *b, const char *key, const char *text)
{
    if (text && text[0] != '\0') {
        emit_key(b, key);
        emit_text(b, text);
    }
}

static void put_uint(struct buffer *b, const char *key, uint64_t v)
{
    if (v > 0) {
        emit_key(b, key);
        emit_uint(b, v);
    }
}

static void put_device(struct buffer *b, const Bitnet__V1__DeviceInfo *d)
{
    emit_open(b, '{');
    put_text(b, "id", d->id);
    put_text(b, "kind", d->kind);
    put_text(b, "name", d->name);
    put_text(b, "status", status_name(d->status));
    put_text(b, "message", d->message);
    if (d->memory_total_bytes > 0) {
        emit_key(b, "memory");
        emit_open(b, '{');
        put_uint(b, "total_bytes", d->memory_total_bytes);
        put_uint(b, "used_bytes", d->memory_used_bytes);
        emit_close(b, '}');
    }
    put_text(b, "kernels", d->kernels);
    put_text(b, "quantization_format", d->quantization_format);
    put_uint(b, "threads", d->threads);
    emit_close(b, '}');
}

static void answer(struct request *r, const void *data, size_t n_bytes)
{
    Bitnet__V1__DevicesResponse *a = bitnet__v1__devices_response__unpack(NULL, n_bytes, data);
    struct buffer b;
    if (!a) {
        error_answer(r, ERROR_INTERNAL, "the engine's answer cannot be read");
        return;
    }
    buffer_init(&b, 1 << 20);
    emit_open(&b, '{');
    emit_key(&b, "devices");
    emit_open(&b, '[');
    for (size_t i = 0; i < a->n_devices; i++)
        put_device(&b, a->devices[i]);
    emit_close(&b, ']');
    emit_key(&b, "fallback_order");
    emit_open(&b, '[');
    for (size_t i = 0; i < a->n_devices; i++)
        emit_text(&b, a->devices[i]->id);
    emit_close(&b, ']');
    put_text(&b, "requested", a->requested);
    emit_close(&b, '}');
    request_json(r, 200, &b);
    buffer_fini(&b);
    bitnet__v1__devices_response__free_unpacked(a, NULL);
}

void handle_devices(struct request *r)
{
    if (query_empty(r))
        ask_engine(r, "/bitnet.v1.AdminService/Devices", "", 0, TIMEOUT_MS, answer);
}
