/* ModelService.List and AdminService.Health: what is served, and how it is. */
#include "base/clock.h"
#include "bitnet/v1/admin.pb-c.h"
#include "bitnet/v1/models.pb-c.h"
#include "service/accuracy.h"
#include "service/service.h"

#include "version.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define STALLED_NS (10 * CLOCK_NS_PER_S) /* an idle loop turns every second */

static char id_char(char c)
{
    return isalnum((unsigned char)c) || c == '_' ? c : '-';
}

bool models_match(const struct service *s, const char *name, struct error *err)
{
    const char *id = engine_model(s->engine)->id, *a = name, *b = id;
    while (*a && *b && id_char(*a) == id_char(*b))
        a++, b++;
    if (!name[0] || (!*a && !*b))
        return true;
    error_set_param(err, ERROR_MODEL_NOT_FOUND, "model", "there is no model \"%.64s\"; \"%.64s\" is served", name, id);
    return false;
}

void models_list(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    struct service *s = service;
    const struct engine_model *m = engine_model(s->engine);
    struct engine_stats stats;
    struct error err = {0};
    Bitnet__V1__ListModelsRequest *r =
        message_unpack(&bitnet__v1__list_models_request__descriptor, data, n_bytes, &err);
    if (!r) {
        status_fail(s, call, &err);
        return;
    }
    bool wanted = r->n_status == 0;
    for (size_t i = 0; i < r->n_status; i++)
        wanted |= r->status[i] == BITNET__V1__MODEL_STATUS__MODEL_STATUS_ACTIVE;
    engine_stats(s->engine, &stats);
    Bitnet__V1__Model model = BITNET__V1__MODEL__INIT, *list[] = {&model};
    model.id = (char *)(uintptr_t)m->id;
    model.status = BITNET__V1__MODEL_STATUS__MODEL_STATUS_ACTIVE;
    model.path = (char *)(uintptr_t)m->path;
    model.quantization_format = (char *)(uintptr_t)m->quantization;
    model.device = (char *)(uintptr_t)m->device;
    model.created_unix = m->created_unix;
    model.load_seconds = m->load_seconds;
    model.architecture = (char *)(uintptr_t)m->architecture;
    model.parameter_count = m->n_parameters;
    model.vocab_size = m->vocab_size;
    model.context_length = m->context_length;
    model.file_size_bytes = m->file_bytes;
    model.memory_bytes = m->weight_bytes + m->kv_bytes + m->scratch_bytes;
    model.total_requests = stats.n_requests;
    if (stats.busy_seconds > 0)
        model.avg_tokens_per_second = (double)stats.n_generated_tokens / stats.busy_seconds;
    model.avg_inference_time_ms = service_metrics_window(s->metrics).mean_ms;
    struct engine_accuracy accuracy;
    if (engine_accuracy(s->engine, &accuracy)) {
        model._accuracy_case = BITNET__V1__MODEL___ACCURACY_ACCURACY;
        model.accuracy = accuracy.recent;
    }
    model.is_default = true;
    model.has_chat_template = m->chat_template != NULL;
    Bitnet__V1__ListModelsResponse response = BITNET__V1__LIST_MODELS_RESPONSE__INIT;
    response.n_models = wanted ? 1 : 0;
    response.models = list;
    message_answer(call, &response.base);
    message_free(r);
}

struct service_state service_state(struct service *s)
{
    struct engine_stats stats;
    engine_stats(s->engine, &stats);
    struct service_state state = {.engine_turns = clock_now_ns() - stats.last_turn_ns < STALLED_NS,
                                  .queue_has_room = stats.n_waiting < (uint32_t)s->config->queue_limit,
                                  .device_works = stats.breaker == BREAKER_CLOSED,
                                  .device_refused = stats.breaker == BREAKER_OPEN};
    /* While one is let through to see, it must be able to come. */
    state.ready = state.engine_turns && !state.device_refused && !atomic_load(&s->draining);
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

/* Share of the cores that may be used, since the last call; the first call measures from the start. Under the caller's eyes only:
 * health is asked rarely, and a race of two callers costs one of them precision. */
static double cpu_utilization(const struct service *s)
{
    static _Atomic int64_t last_wall_ns, last_cpu_ns;
    int64_t cpu_ns = service_cpu_ns();
    int64_t wall_ns = clock_now_ns(), old_wall = atomic_exchange(&last_wall_ns, wall_ns),
            old_cpu = atomic_exchange(&last_cpu_ns, cpu_ns);
    double elapsed = (double)(wall_ns - (old_wall ? old_wall : s->started_ns)),
           cores = (double)sysconf(_SC_NPROCESSORS_ONLN);
    double share = elapsed > 0 ? (double)(cpu_ns - old_cpu) / elapsed / cores : 0;
    return share < 0 ? 0 : share > 1 ? 1 : share;
}

static void component(Bitnet__V1__Component *c, const char *name, bool healthy, const char *message)
{
    bitnet__v1__component__init(c);
    c->name = (char *)(uintptr_t)name;
    c->status =
        healthy ? BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_HEALTHY : BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_DEGRADED;
    c->message = (char *)(uintptr_t)(healthy ? "" : message);
}

static void fill_figures(struct service *s, Bitnet__V1__HealthResponse *r)
{
    const struct engine_model *m = engine_model(s->engine);
    struct engine_stats stats;
    struct service_window window = service_metrics_window(s->metrics);
    engine_stats(s->engine, &stats);
    r->uptime_seconds = (double)(clock_now_ns() - s->started_ns) / 1e9;
    r->version = (char *)(uintptr_t)BITNET_VERSION;
    r->git_sha = (char *)(uintptr_t)BITNET_GIT_SHA;
    r->compiler = (char *)(uintptr_t)BITNET_COMPILER;
    r->features = (char *)(uintptr_t)BITNET_FEATURES;
    r->cpu_utilization = cpu_utilization(s);
    r->memory_bytes = resident_bytes();
    if (strncmp(m->device, "cuda", 4) == 0)
        r->gpu_memory_bytes = m->weight_bytes + m->kv_bytes + m->scratch_bytes;
    r->active_requests = stats.n_running;
    r->queue_depth = stats.n_waiting;
    r->tokens_generated = stats.n_generated_tokens;
    if (stats.n_kv_blocks > 0)
        r->kv_cache_utilization = (double)stats.n_kv_blocks_used / stats.n_kv_blocks;
    r->avg_response_time_ms = window.mean_ms;
    r->requests_per_second = window.per_second;
    r->error_rate = window.error_rate;
    r->window_requests = window.n;
    r->sla_compliance = window.in_time;
}

void admin_health(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    struct service *s = service;
    const struct engine_model *m = engine_model(s->engine);
    struct service_state state = service_state(s);
    (void)data, (void)n_bytes;
    Bitnet__V1__Component parts[5], *list[5];
    component(&parts[0], "model_manager", true, "");
    component(&parts[1], "execution_router", !m->fallback_reason || strcmp(s->config->device, "gpu") != 0,
              m->fallback_reason);
    component(&parts[2], "batch_engine", state.engine_turns && state.queue_has_room,
              state.engine_turns ? "the queue is full" : "the loop stands still");
    component(&parts[3], "device_monitor", state.device_works,
              state.device_refused ? "the device fails; requests are refused" : "the device has failed; it is tried again");
    if (state.device_refused)
        parts[3].status = BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_UNHEALTHY;
    char why[ACCURACY_MESSAGE_BYTES];
    component(&parts[4], "quantization_engine", !accuracy_degraded(s->engine, why), why);
    bool all = true;
    for (size_t i = 0; i < 5; i++) {
        list[i] = &parts[i];
        all &= parts[i].status == BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_HEALTHY;
    }
    Bitnet__V1__HealthResponse r = BITNET__V1__HEALTH_RESPONSE__INIT;
    r.status = !state.engine_turns || state.device_refused ? BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_UNHEALTHY
               : all               ? BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_HEALTHY
                                   : BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_DEGRADED;
    r.n_components = 5;
    r.components = list;
    r.draining = atomic_load(&s->draining);
    r.model_loaded = true; /* the process serves nothing before */
    r.engine_ready = state.engine_turns;
    r.device_available = !state.device_refused;
    r.resources_available = state.queue_has_room;
    fill_figures(s, &r);
    message_answer(call, &r.base);
}
