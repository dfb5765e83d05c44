/* The rules of the merge. */
#include "gateway/health_merge.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEALTHY BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_HEALTHY
#define DEGRADED BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_DEGRADED
#define UNHEALTHY BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_UNHEALTHY

typedef Bitnet__V1__HealthStatus Status; /* protobuf-c's name for it, shorter */

static bool usable(Status s)
{
    return s == HEALTHY || s == DEGRADED;
}

static Status both(Status a, Status b)
{
    return a == HEALTHY && b == HEALTHY ? HEALTHY : usable(a) || usable(b) ? DEGRADED : UNHEALTHY;
}

static bool ready(const Bitnet__V1__HealthResponse *e)
{
    return !e->draining && e->model_loaded && e->engine_ready && e->device_available && e->resources_available;
}

/* Protobuf-c frees texts with free, and has one static empty text that it does not. */
static void set_text(char **to, const char *text)
{
    char *copy = strdup(text);
    if (!copy)
        return;
    if (*to != protobuf_c_empty_string)
        free(*to);
    *to = copy;
}

static Bitnet__V1__Component *find(const Bitnet__V1__HealthResponse *e, const char *name)
{
    for (size_t i = 0; i < e->n_components; i++)
        if (strcmp(e->components[i]->name, name) == 0)
            return e->components[i];
    return NULL;
}

static void merge_components(Bitnet__V1__HealthResponse *into, const Bitnet__V1__HealthResponse *e)
{
    for (size_t i = 0; i < into->n_components; i++) {
        Bitnet__V1__Component *mine = into->components[i];
        const Bitnet__V1__Component *other = find(e, mine->name);
        if (!other)
            continue;
        if (other->status != HEALTHY && mine->message[0] == '\0')
            set_text(&mine->message, other->message);
        mine->status = both(mine->status, other->status);
    }
}

static void merge_measured(Bitnet__V1__HealthResponse *into, const Bitnet__V1__HealthResponse *e, size_t n_before)
{
    double n = (double)into->window_requests, m = (double)e->window_requests, all = n + m > 0 ? n + m : 1;
    into->cpu_utilization = (into->cpu_utilization * (double)n_before + e->cpu_utilization) / (double)(n_before + 1);
    into->kv_cache_utilization =
        (into->kv_cache_utilization * (double)n_before + e->kv_cache_utilization) / (double)(n_before + 1);
    into->memory_bytes += e->memory_bytes;
    into->gpu_memory_bytes += e->gpu_memory_bytes;
    into->tokens_generated += e->tokens_generated;
    into->active_requests += e->active_requests;
    into->queue_depth += e->queue_depth;
    into->avg_response_time_ms = (into->avg_response_time_ms * n + e->avg_response_time_ms * m) / all;
    into->error_rate = (into->error_rate * n + e->error_rate * m) / all;
    into->sla_compliance = (into->sla_compliance * n + e->sla_compliance * m) / all;
    into->requests_per_second += e->requests_per_second;
    into->window_requests += e->window_requests;
    if (e->uptime_seconds > into->uptime_seconds)
        into->uptime_seconds = e->uptime_seconds;
}

/* The checks are one engine's, as parts of two make no whole one: of one that is ready, else of one that does not drain. */
static void merge_checks(Bitnet__V1__HealthResponse *into, const Bitnet__V1__HealthResponse *e)
{
    if (ready(into) || !(ready(e) || (into->draining && !e->draining)))
        return;
    into->draining = e->draining;
    into->model_loaded = e->model_loaded;
    into->engine_ready = e->engine_ready;
    into->device_available = e->device_available;
    into->resources_available = e->resources_available;
}

void health_merge(Bitnet__V1__HealthResponse *const *answers, size_t n, size_t n_missing)
{
    Bitnet__V1__HealthResponse *into = answers[0];
    char text[96];
    for (size_t i = 1; i < n; i++) {
        merge_checks(into, answers[i]);
        merge_measured(into, answers[i], i);
        merge_components(into, answers[i]);
        into->status = both(into->status, answers[i]->status);
    }
    if (n_missing == 0)
        return;
    Bitnet__V1__Component *router = find(into, "execution_router");
    into->status = both(into->status, UNHEALTHY);
    if (!router)
        return;
    snprintf(text, sizeof text, "%zu of %zu engines do not answer", n_missing, n + n_missing);
    router->status = both(router->status, UNHEALTHY);
    set_text(&router->message, text);
}
