/* Several engines' health as one. */
#include "tests/suite.h"

#include "gateway/health_merge.h"

#define HEALTHY BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_HEALTHY
#define DEGRADED BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_DEGRADED
#define UNHEALTHY BITNET__V1__HEALTH_STATUS__HEALTH_STATUS_UNHEALTHY

/* As it comes from the wire, so that its texts may be replaced. */
static Bitnet__V1__HealthResponse *engine(Bitnet__V1__HealthStatus status)
{
    Bitnet__V1__HealthResponse h = BITNET__V1__HEALTH_RESPONSE__INIT;
    Bitnet__V1__Component router = BITNET__V1__COMPONENT__INIT, batch = BITNET__V1__COMPONENT__INIT;
    Bitnet__V1__Component *components[] = {&router, &batch};
    uint8_t packed[512];
    router.name = (char *)(uintptr_t) "execution_router";
    batch.name = (char *)(uintptr_t) "batch_engine";
    router.status = HEALTHY;
    batch.status = status;
    batch.message = (char *)(uintptr_t)(status == HEALTHY ? "" : "it is slow");
    h.status = status;
    h.n_components = 2;
    h.components = components;
    h.model_loaded = h.engine_ready = h.device_available = h.resources_available = 1;
    h.cpu_utilization = 0.5;
    h.memory_bytes = 100;
    h.active_requests = 3;
    h.queue_depth = 2;
    h.window_requests = 10;
    h.avg_response_time_ms = 20;
    h.error_rate = 0.1;
    h.requests_per_second = 4;
    h.uptime_seconds = 7;
    return bitnet__v1__health_response__unpack(NULL, bitnet__v1__health_response__pack(&h, packed), packed);
}

static Bitnet__V1__HealthResponse *merged[3];

static const Bitnet__V1__HealthResponse *merge(size_t n, size_t n_missing)
{
    health_merge(merged, n, n_missing);
    return merged[0];
}

static void forget(size_t n)
{
    for (size_t i = 0; i < n; i++)
        bitnet__v1__health_response__free_unpacked(merged[i], NULL);
}

static const struct {
    Bitnet__V1__HealthStatus a, b;
    size_t n_missing;
    Bitnet__V1__HealthStatus all, batch;
} statuses[] = {
    {HEALTHY, HEALTHY, 0, HEALTHY, HEALTHY},      {HEALTHY, DEGRADED, 0, DEGRADED, DEGRADED},
    {UNHEALTHY, HEALTHY, 0, DEGRADED, DEGRADED},  {UNHEALTHY, UNHEALTHY, 0, UNHEALTHY, UNHEALTHY},
    {HEALTHY, HEALTHY, 1, DEGRADED, HEALTHY},     {UNHEALTHY, UNHEALTHY, 1, UNHEALTHY, UNHEALTHY},
};

START_TEST(status_is_what_users_can_expect)
{
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++) {
        merged[0] = engine(statuses[i].a);
        merged[1] = engine(statuses[i].b);
        const Bitnet__V1__HealthResponse *h = merge(2, statuses[i].n_missing);
        ck_assert_msg(h->status == statuses[i].all, "case %zu: %d", i, h->status);
        ck_assert_int_eq(h->components[1]->status, statuses[i].batch);
        ck_assert_str_eq(h->components[1]->message, statuses[i].batch == HEALTHY ? "" : "it is slow");
        ck_assert_str_eq(h->components[0]->message, statuses[i].n_missing ? "1 of 3 engines do not answer" : "");
        forget(2);
    }
}
END_TEST

START_TEST(one_alone_stays_as_it_is)
{
    merged[0] = engine(HEALTHY);
    const Bitnet__V1__HealthResponse *h = merge(1, 0);
    ck_assert_int_eq(h->status, HEALTHY);
    ck_assert_uint_eq(h->memory_bytes, 100);
    ck_assert_double_eq(h->cpu_utilization, 0.5);
    forget(1);
}
END_TEST

START_TEST(one_that_is_ready_is_enough)
{
    for (int i = 0; i < 2; i++) {
        merged[0] = engine(HEALTHY);
        merged[1] = engine(HEALTHY);
        merged[i]->draining = 1;
        merged[i]->model_loaded = 0;
        const Bitnet__V1__HealthResponse *h = merge(2, 0);
        ck_assert(!h->draining && h->model_loaded);
        forget(2);
    }
}
END_TEST

START_TEST(parts_of_two_make_no_whole)
{
    merged[0] = engine(HEALTHY);
    merged[1] = engine(HEALTHY);
    merged[0]->model_loaded = 0;
    merged[1]->resources_available = 0;
    const Bitnet__V1__HealthResponse *h = merge(2, 0);
    ck_assert(!(h->model_loaded && h->resources_available));
    forget(2);
    merged[0] = engine(HEALTHY);
    merged[1] = engine(HEALTHY);
    merged[0]->draining = 1;
    merged[1]->resources_available = 0;
    h = merge(2, 0);
    ck_assert(!h->draining && !h->resources_available);
    forget(2);
}
END_TEST

START_TEST(figures_are_sums_and_means)
{
    for (int i = 0; i < 3; i++)
        merged[i] = engine(HEALTHY);
    merged[1]->cpu_utilization = 0.8;
    merged[2]->window_requests = 0;
    merged[2]->avg_response_time_ms = 0;
    merged[1]->window_requests = 30;
    merged[1]->avg_response_time_ms = 40;
    merged[1]->error_rate = 0.5;
    merged[2]->uptime_seconds = 9;
    const Bitnet__V1__HealthResponse *h = merge(3, 0);
    ck_assert_uint_eq(h->memory_bytes, 300);
    ck_assert_uint_eq(h->active_requests, 9);
    ck_assert_uint_eq(h->queue_depth, 6);
    ck_assert_double_eq_tol(h->cpu_utilization, 0.6, 1e-9);
    ck_assert_uint_eq(h->window_requests, 40);
    ck_assert_double_eq_tol(h->avg_response_time_ms, 35, 1e-9);
    ck_assert_double_eq_tol(h->error_rate, 0.4, 1e-9);
    ck_assert_double_eq_tol(h->requests_per_second, 12, 1e-9);
    ck_assert_double_eq(h->uptime_seconds, 9);
    forget(3);
}
END_TEST

SUITE("health_merge", status_is_what_users_can_expect, one_alone_stays_as_it_is, one_that_is_ready_is_enough,
      parts_of_two_make_no_whole, figures_are_sums_and_means)
