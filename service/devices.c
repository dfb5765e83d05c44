/* AdminService.Devices: what the engine computes on, and what it would have or could have. */
#include "bitnet/v1/admin.pb-c.h"
#include "service/service.h"

#include <string.h>

#define MAX_DEVICES 2
#define STATUS(name) BITNET__V1__DEVICE_STATUS__DEVICE_STATUS_##name

static char *mutable(const char *text)
{
    return (char *)(uintptr_t)text;
}

static void name_it(Bitnet__V1__DeviceInfo *d, const char *id)
{
    bitnet__v1__device_info__init(d);
    d->id = mutable(id);
    d->kind = mutable(strncmp(id, "cuda", 4) == 0 ? "gpu" : id);
}

/* The device in use. */
static void fill_active(struct service *s, Bitnet__V1__DeviceInfo *d)
{
    const struct engine_model *m = engine_model(s->engine);
    struct service_state state = service_state(s);
    name_it(d, m->device);
    d->status = state.device_works ? STATUS(ACTIVE) : state.device_refused ? STATUS(FAILED) : STATUS(DEGRADED);
    d->message = mutable(state.device_works     ? ""
                         : state.device_refused ? "the device fails; requests are refused"
                                                : "the device has failed; it is tried again");
    d->name = mutable(m->device_name);
    d->memory_total_bytes = m->device_memory_bytes;
    d->memory_used_bytes = m->weight_bytes + m->kv_bytes + m->scratch_bytes;
    d->kernels = mutable(m->isa);
    d->quantization_format = mutable(m->quantization);
    d->threads = m->n_threads;
}

void admin_devices(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    struct service *s = service;
    const struct engine_model *m = engine_model(s->engine);
    Bitnet__V1__DeviceInfo devices[MAX_DEVICES], *list[MAX_DEVICES] = {&devices[0], &devices[1]};
    Bitnet__V1__DevicesResponse r = BITNET__V1__DEVICES_RESPONSE__INIT;
    bool falls_back = strcmp(s->config->device, "auto") == 0 || strcmp(s->config->device, "gpu") == 0;
    (void)data, (void)n_bytes;
    if (m->fallback_reason) {
        name_it(&devices[r.n_devices], "cuda:0");
        devices[r.n_devices].status = STATUS(UNAVAILABLE);
        devices[r.n_devices++].message = mutable(m->fallback_reason);
    }
    fill_active(s, &devices[r.n_devices++]);
    if (falls_back && strncmp(m->device, "cuda", 4) == 0) {
        name_it(&devices[r.n_devices], "cpu");
        devices[r.n_devices++].status = STATUS(STANDBY);
    }
    r.devices = list;
    r.requested = mutable(s->config->device);
    message_answer(call, &r.base);
}
