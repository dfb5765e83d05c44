/* AdminService.Devices: what the engine computes on, and what it would have or could have. */
#include "bitnet/v1/admin.pb-c.h"
#include "service/service.h"

#include <stdio.h>
#include <string.h>

#define MAX_DEVICES 16
#define FORMATS_BYTES 32
#define STATUS(name) BITNET__V1__DEVICE_STATUS__DEVICE_STATUS_##name

/* A device in use, by one model or several. */
struct used {
    Bitnet__V1__DeviceInfo info;
    char formats[FORMATS_BYTES];
};

struct devices {
    struct used used[MAX_DEVICES];
    size_t n;
    const char *fallback_reason; /* of a model that is not where it was asked for */
};

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

static struct used *find(struct devices *d, const char *id)
{
    for (size_t i = 0; i < d->n; i++)
        if (strcmp(d->used[i].info.id, id) == 0)
            return &d->used[i];
    if (d->n == MAX_DEVICES)
        return NULL;
    struct used *u = &d->used[d->n++];
    name_it(&u->info, id);
    u->info.status = STATUS(ACTIVE);
    u->formats[0] = '\0';
    u->info.quantization_format = u->formats;
    return u;
}

/* The worst that a model has to say of its device. */
static void add_breaker(Bitnet__V1__DeviceInfo *d, enum breaker_state breaker)
{
    if (breaker == BREAKER_OPEN) {
        d->status = STATUS(FAILED);
        d->message = mutable("the device fails; requests are refused");
    } else if (breaker == BREAKER_HALF_OPEN && d->status == STATUS(ACTIVE)) {
        d->status = STATUS(DEGRADED);
        d->message = mutable("the device has failed; it is tried again");
    }
}

static void add(struct devices *devices, struct engine *e)
{
    const struct engine_model *m = engine_model(e);
    struct engine_stats stats;
    struct used *u = find(devices, m->device);
    if (m->fallback_reason)
        devices->fallback_reason = m->fallback_reason;
    if (!u)
        return;
    engine_stats(e, &stats);
    add_breaker(&u->info, stats.breaker);
    u->info.name = mutable(m->device_name);
    u->info.memory_total_bytes = m->device_memory_bytes;
    u->info.memory_used_bytes += m->weight_bytes + m->kv_bytes + m->scratch_bytes;
    u->info.kernels = mutable(m->isa);
    if (!strstr(u->formats, m->quantization))
        snprintf(u->formats + strlen(u->formats), sizeof u->formats - strlen(u->formats), "%s%s",
                 u->formats[0] ? "," : "", m->quantization);
    u->info.threads = m->n_threads > u->info.threads ? m->n_threads : u->info.threads;
}

void admin_devices(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    struct service *s = service;
    struct model_entry *entries = NULL;
    size_t n = 0;
    struct devices d = {.n = 0};
    Bitnet__V1__DeviceInfo absent, standby, *list[MAX_DEVICES + 2];
    Bitnet__V1__DevicesResponse r = BITNET__V1__DEVICES_RESPONSE__INIT;
    bool falls_back = strcmp(s->config->device, "auto") == 0 || strcmp(s->config->device, "gpu") == 0, on_cpu = false,
         on_gpu = false;
    (void)data, (void)n_bytes;
    service_loaded(s, &entries, &n);
    for (size_t i = 0; i < n; i++)
        add(&d, served_engine(entries[i].served));
    for (size_t i = 0; i < d.n; i++) {
        on_cpu |= strcmp(d.used[i].info.id, "cpu") == 0;
        on_gpu |= strncmp(d.used[i].info.id, "cuda", 4) == 0;
    }
    if (d.fallback_reason && !on_gpu) {
        name_it(&absent, "cuda:0");
        absent.status = STATUS(UNAVAILABLE);
        absent.message = mutable(d.fallback_reason);
        list[r.n_devices++] = &absent;
    }
    for (size_t i = 0; i < d.n; i++)
        list[r.n_devices++] = &d.used[i].info;
    if (falls_back && on_gpu && !on_cpu) {
        name_it(&standby, "cpu");
        standby.status = STATUS(STANDBY);
        list[r.n_devices++] = &standby;
    }
    r.devices = list;
    r.requested = mutable(s->config->device);
    message_answer(call, &r.base);
    registry_list_free(entries, n);
}
