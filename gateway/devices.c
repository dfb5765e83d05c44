/*
 * GET /v1/devices: what the engines compute on, each engine's devices in the order in which it would fall back. Where the
 * gateway has several engines, a device's id says whose it is: "0/cpu", "1/cuda:0", by the engine's place among them.
 */
#include "bitnet/v1/admin.pb-c.h"
#include "gateway/ask.h"
#include "gateway/emit.h"
#include "gateway/error.h"
#include "gateway/query.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define TIMEOUT_MS 5000

static const char *status_name(Bitnet__V1__DeviceStatus status)
{
    static const char *const names[] = {NULL, "active", "standby", "degraded", "failed", "unavailable"};
    return (unsigned)status < sizeof names / sizeof *names ? names[status] : NULL;
}

/* `member` < 0: there is but one engine. */
static void put_id(struct buffer *b, int64_t member, const char *id)
{
    char text[64];
    if (member >= 0)
        snprintf(text, sizeof text, "%" PRId64 "/%.40s", member, id);
    emit_text(b, member >= 0 ? text : id);
}

static void put_device(struct buffer *b, int64_t member, const Bitnet__V1__DeviceInfo *d)
{
    emit_open(b, '{');
    emit_key(b, "id");
    put_id(b, member, d->id);
    emit_text_if(b, "kind", d->kind);
    emit_text_if(b, "name", d->name);
    emit_text_if(b, "status", status_name(d->status));
    emit_text_if(b, "message", d->message);
    if (d->memory_total_bytes > 0) {
        emit_key(b, "memory");
        emit_open(b, '{');
        emit_uint_if(b, "total_bytes", d->memory_total_bytes);
        emit_uint_if(b, "used_bytes", d->memory_used_bytes);
        emit_close(b, '}');
    }
    emit_text_if(b, "kernels", d->kernels);
    emit_text_if(b, "quantization_format", d->quantization_format);
    emit_uint_if(b, "threads", d->threads);
    emit_close(b, '}');
}

/* The option with which all were started; NULL when they differ. */
static const char *requested(Bitnet__V1__DevicesResponse *const *engines, size_t n)
{
    for (size_t i = 1; i < n; i++)
        if (strcmp(engines[i]->requested, engines[0]->requested) != 0)
            return NULL;
    return engines[0]->requested;
}

static void answer(struct request *r, const struct ask_all_answers *answers)
{
    Bitnet__V1__DevicesResponse **engines = (Bitnet__V1__DevicesResponse **)answers->messages;
    bool several = engine_n_members(r->g->engine) > 1;
    struct buffer b;
    buffer_init(&b, 1 << 20);
    emit_open(&b, '{');
    emit_key(&b, "devices");
    emit_open(&b, '[');
    for (size_t i = 0; i < answers->n; i++)
        for (size_t k = 0; k < engines[i]->n_devices; k++)
            put_device(&b, several ? (int64_t)answers->members[i] : -1, engines[i]->devices[k]);
    emit_close(&b, ']');
    emit_key(&b, "fallback_order");
    emit_open(&b, '[');
    for (size_t i = 0; i < answers->n; i++)
        for (size_t k = 0; k < engines[i]->n_devices; k++)
            put_id(&b, several ? (int64_t)answers->members[i] : -1, engines[i]->devices[k]->id);
    emit_close(&b, ']');
    emit_text_if(&b, "requested", requested(engines, answers->n));
    emit_close(&b, '}');
    request_json(r, 200, &b);
    buffer_fini(&b);
}

void handle_devices(struct request *r)
{
    if (query_empty(r))
        ask_engines(r, "/bitnet.v1.AdminService/Devices", "", 0, TIMEOUT_MS,
                    &bitnet__v1__devices_response__descriptor, answer);
}
