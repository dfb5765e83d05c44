/* AdminService.Devices: what the engine computes on, and what it would have or could have. */
#include "bitnet/v1/admin.pb-c.h"
#include "service/service.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
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
    const char *lost, *fallback_reason; /* of a model that is not where it was, or was asked for */
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
    if (m->lost_device)
        devices->lost = m->lost_device;
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

static bool is_used(const struct devices *d, const char *id)
{
    size_t i = 0;
    while (i < d->n && strcmp(d->used[i].info.id, id) != 0)
        i++;
    return i < d->n;
}

/* The machine's GPUs that no model is on. `gpus` keeps their names. */
static size_t add_gpus(const struct devices *d, struct backend_device gpus[MAX_DEVICES], Bitnet__V1__DeviceInfo *out)
{
    size_t n_gpus = backend_gpus(gpus, MAX_DEVICES, NULL), n = 0;
    for (size_t i = 0; i < n_gpus && i < MAX_DEVICES; i++) {
        if (is_used(d, gpus[i].id))
            continue;
        bool lost = d->lost && strcmp(d->lost, gpus[i].id) == 0;
        name_it(&out[n], gpus[i].id);
        out[n].name = gpus[i].name;
        out[n].kernels = gpus[i].isa;
        out[n].memory_total_bytes = gpus[i].memory_bytes;
        out[n].status = lost ? STATUS(FAILED) : d->fallback_reason ? STATUS(UNAVAILABLE) : STATUS(STANDBY);
        out[n].message = mutable(lost || d->fallback_reason ? d->fallback_reason : "");
        n++;
    }
    return n;
}

/* GPUs by their numbers, then the CPU. */
static int by_fallback(const void *a, const void *b)
{
    const char *x = (*(Bitnet__V1__DeviceInfo *const *)a)->id, *y = (*(Bitnet__V1__DeviceInfo *const *)b)->id;
    long nx = strncmp(x, "cuda:", 5) == 0 ? strtol(x + 5, NULL, 10) : LONG_MAX, ny = strncmp(y, "cuda:", 5) == 0 ? strtol(y + 5, NULL, 10) : LONG_MAX;
    return (nx > ny) - (nx < ny);
}

void admin_devices(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    struct service *s = service;
    struct model_entry *entries = NULL;
    size_t n = 0;
    struct devices d = {.n = 0};
    struct backend_device gpus[MAX_DEVICES];
    Bitnet__V1__DeviceInfo idle[MAX_DEVICES], absent, standby, *list[2 * MAX_DEVICES + 2];
    Bitnet__V1__DevicesResponse r = BITNET__V1__DEVICES_RESPONSE__INIT;
    bool falls_back = strcmp(s->config->device, "auto") == 0 || strcmp(s->config->device, "gpu") == 0;
    (void)data, (void)n_bytes;
    service_loaded(s, &entries, &n);
    for (size_t i = 0; i < n; i++)
        add(&d, served_engine(entries[i].served));
    size_t n_idle = add_gpus(&d, gpus, idle);
    bool on_gpu = false;
    for (size_t i = 0; i < d.n; i++)
        on_gpu |= strcmp(d.used[i].info.kind, "gpu") == 0;
    if (d.fallback_reason && !on_gpu && !n_idle) {
        name_it(&absent, "cuda:0");
        absent.status = STATUS(UNAVAILABLE);
        absent.message = mutable(d.fallback_reason);
        list[r.n_devices++] = &absent;
    }
    for (size_t i = 0; i < n_idle; i++)
        list[r.n_devices++] = &idle[i];
    for (size_t i = 0; i < d.n; i++)
        list[r.n_devices++] = &d.used[i].info;
    if (falls_back && on_gpu && !is_used(&d, "cpu")) {
        name_it(&standby, "cpu");
        standby.status = STATUS(STANDBY);
        list[r.n_devices++] = &standby;
    }
    qsort(list, r.n_devices, sizeof *list, by_fallback);
    r.devices = list;
    r.requested = mutable(s->config->device);
    message_answer(call, &r.base);
    registry_list_free(entries, n);
}
