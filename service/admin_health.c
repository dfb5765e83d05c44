/* AdminService.Health: how the process and its models are, and what a probe may ask. */
#include "base/clock.h"
#include "bitnet/v1/admin.pb-c.h"
#include "service/metrics.h"

#include "version.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define STALLED_NS (10 * CLOCK_NS_PER_S) /* an idle loop turns every second */
#define TEXT_BYTES 256

bool service_loaded(const struct service *s, struct model_entry **out, size_t *n)
{
    size_t n_all = 0;
    *n = 0;
    if (!registry_list(s->registry, out, &n_all))
        return false;
    for (size_t i = 0; i < n_all; i++)
        if ((*out)[i].served)
            (*out)[(*n)++] = (*out)[i];
    return true;
}

/* What the models are together. */
struct overview {
    struct engine_stats sum; /* of gauges */
    struct service_state state;
    uint64_t gpu_bytes;
    const char *fallback_reason; /* of one that runs elsewhere than asked for; as long as the list */
    bool moved;                  /* one has, as its device failed */
    char failed[TEXT_BYTES], stalled[TEXT_BYTES], full[TEXT_BYTES], broken[TEXT_BYTES],
        inaccurate[TEXT_BYTES]; /* ids, separated by commas */
    bool refused; /* of the broken ones, one refuses requests */
};

static void add_id(char text[TEXT_BYTES], const char *id)
{
    size_t n = strlen(text);
    snprintf(text + n, TEXT_BYTES - n, "%s%s", n ? ", " : "", id);
}

static void add_loaded(const struct service *s, const struct model_entry *e, int64_t now_ns, struct overview *o)
{
    struct engine *engine = served_engine(e->served);
    const struct engine_model *m = engine_model(engine);
    struct engine_stats stats;
    engine_stats(engine, &stats);
    o->sum.n_running += stats.n_running;
    o->sum.n_waiting += stats.n_waiting;
    o->sum.n_kv_blocks += stats.n_kv_blocks;
    o->sum.n_kv_blocks_used += stats.n_kv_blocks_used;
    if (strncmp(m->device, "cuda", 4) == 0)
        o->gpu_bytes += m->weight_bytes + m->kv_bytes + m->scratch_bytes;
    if (m->fallback_reason)
        o->fallback_reason = m->fallback_reason;
    o->moved |= m->lost_device != NULL;
    bool room = stats.n_waiting < (uint32_t)s->config->queue_limit;
    if (now_ns - stats.last_turn_ns >= STALLED_NS)
        add_id(o->stalled, e->id);
    if (!room)
        add_id(o->full, e->id);
    if (stats.breaker != BREAKER_CLOSED)
        add_id(o->broken, e->id);
    struct engine_accuracy accuracy;
    if (engine_accuracy(engine, &accuracy) && accuracy.degraded)
        add_id(o->inaccurate, e->id);
    o->refused |= stats.breaker == BREAKER_OPEN;
    if (e->is_default) {
        o->state.queue_has_room = room;
        o->state.device_works = stats.breaker == BREAKER_CLOSED;
        o->state.device_refused = stats.breaker == BREAKER_OPEN;
    }
}

static struct overview look(const struct service *s, const struct model_entry *entries, size_t n)
{
    struct overview o = {.state = {.queue_has_room = true, .device_works = true}};
    int64_t now_ns = clock_now_ns();
    for (size_t i = 0; i < n; i++)
        if (entries[i].served)
            add_loaded(s, &entries[i], now_ns, &o);
        else if (entries[i].status == MODEL_FAILED)
            add_id(o.failed, entries[i].id);
    o.state.engine_turns = n > 0 && !o.stalled[0];
    /* While one is let through to see, it must be able to come. */
    o.state.ready = o.state.engine_turns && !o.state.device_refused && !atomic_load(&s->draining);
    return o;
}

struct service_state service_state(struct service *s)
{
    struct model_entry *entries = NULL;
    size_t n = 0;
    registry_list(s->registry, &entries, &n);
    struct service_state state = look(s, entries, n).state;
    registry_list_free(entries, n);
    return state;
}

static uint64_t resident_bytes(void)
{
    unsigned long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%*u %llu", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* `format` has a place for `what`, which is "" when the component is healthy. */
static void component(Bitnet__V1__Component *c, char room[TEXT_BYTES + 64], const char *name, const char *format, const char *what)
{
    bitnet__v1__component__init(c);
    c->name = (char *)(uintptr_t)name;
    c->status = what[0] ? BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_DEGRADED : BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_HEALTHY;
    room[0] = '\0';
    if (what[0])
        snprintf(room, TEXT_BYTES + 64, format, what);
    c->message = room;
}

#define N_COMPONENTS 5

/* Returns whether all are healthy. */
static bool fill_components(const struct service *s, const struct overview *o, Bitnet__V1__Component parts[N_COMPONENTS],
                            char rooms[N_COMPONENTS][TEXT_BYTES + 64])
{
    bool asked_for_gpu = strcmp(s->config->device, "gpu") == 0, all = true;
    component(&parts[0], rooms[0], "model_manager", "models that could not be loaded: %s", o->failed);
    component(&parts[1], rooms[1], "execution_router", "%s", (asked_for_gpu || o->moved) && o->fallback_reason ? o->fallback_reason : "");
    component(&parts[2], rooms[2], "batch_engine", o->stalled[0] ? "the loop stands still: %s" : "the queue is full: %s",
              o->stalled[0] ? o->stalled : o->full);
    component(&parts[3], rooms[3], "device_monitor",
              o->refused ? "the device fails; requests are refused: %s" : "the device has failed; it is tried again: %s", o->broken);
    if (o->state.device_refused)
        parts[3].status = BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_UNHEALTHY;
    component(&parts[4], rooms[4], "quantization_engine", "recomputed tokens are not the same: %s", o->inaccurate);
    for (size_t i = 0; i < N_COMPONENTS; i++)
        all &= parts[i].status == BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_HEALTHY;
    return all;
}

static void fill_figures(struct service *s, const struct overview *o, Bitnet__V1__HealthResponse *r)
{
    struct service_window window = service_metrics_window(s->metrics);
    r->uptime_seconds = (double)(clock_now_ns() - s->started_ns) / 1e9;
    r->version = (char *)(uintptr_t)BITNET_VERSION;
    r->git_sha = (char *)(uintptr_t)BITNET_GIT_SHA;
    r->compiler = (char *)(uintptr_t)BITNET_COMPILER;
    r->features = (char *)(uintptr_t)BITNET_FEATURES;
    r->cpu_utilization = service_cpu_utilization(s->metrics);
    r->memory_bytes = resident_bytes();
    r->gpu_memory_bytes = o->gpu_bytes;
    r->active_requests = o->sum.n_running;
    r->queue_depth = o->sum.n_waiting;
    r->tokens_generated = service_metrics_n_generated(s->metrics);
    if (o->sum.n_kv_blocks > 0)
        r->kv_cache_utilization = (double)o->sum.n_kv_blocks_used / o->sum.n_kv_blocks;
    r->avg_response_time_ms = window.mean_ms;
    r->requests_per_second = window.per_second;
    r->error_rate = window.error_rate;
    r->window_requests = window.n;
    r->sla_compliance = window.in_time;
}

void admin_health(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    struct service *s = service;
    struct model_entry *entries = NULL;
    size_t n = 0;
    Bitnet__V1__Component parts[N_COMPONENTS], *list[N_COMPONENTS];
    char rooms[N_COMPONENTS][TEXT_BYTES + 64];
    Bitnet__V1__HealthResponse r = BITNET__V1__HEALTH_RESPONSE__INIT;
    (void)data, (void)n_bytes;
    registry_list(s->registry, &entries, &n);
    const struct overview o = look(s, entries, n);
    bool all = fill_components(s, &o, parts, rooms);
    r.status = !o.state.engine_turns || o.state.device_refused ? BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_UNHEALTHY
               : all                                           ? BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_HEALTHY
                                                               : BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_DEGRADED;
    for (size_t i = 0; i < N_COMPONENTS; i++)
        list[i] = &parts[i];
    r.n_components = N_COMPONENTS;
    r.components = list;
    r.draining = atomic_load(&s->draining);
    r.model_loaded = true; /* the process serves nothing before */
    r.engine_ready = o.state.engine_turns;
    r.device_available = !o.state.device_refused;
    r.resources_available = o.state.queue_has_room;
    fill_figures(s, &o, &r);
    message_answer(call, &r.base);
    registry_list_free(entries, n);
}
