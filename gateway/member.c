/* Channel, watch and state of one engine. */
#include "gateway/member.h"

#include "base/clock.h"
#include "base/log.h"
#include "gateway/balance.h"
#include "grpc/health/v1/health.pb-c.h"

#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AGAIN_MS 500       /* that a second watch may take, while the engine counts as it did */
#define CONNECTING_MS 2000 /* without a verdict by then it counts as down */
#define MIN_WATCH_DELAY_MS 100
#define MAX_WATCH_DELAY_MS 500 /* with gRPC's longest pause between connections an engine is back within 2 s */
#define UNWATCHABLE_MS 1000

enum { GRPC_UNIMPLEMENTED = 12 };

/* One address each: what gRPC would do about several is done here, where it can be seen. Retries too. */
static const char service_config[] = "{\"loadBalancingConfig\":[{\"pick_first\":{}}]}";

static const char *const state_names[] = {
    [ENGINE_CONNECTING] = "connecting",
    [ENGINE_SERVING] = "serving",
    [ENGINE_NOT_SERVING] = "not serving",
    [ENGINE_DOWN] = "down",
};

static void set_timer(struct member *m, int ms)
{
    const struct timeval wait = {ms / 1000, ms % 1000 * 1000};
    event_add(m->timer, &wait);
}

static void set_state(struct member *m, enum engine_state state, const char *why)
{
    if (m->state == state)
        return;
    LOG_AT(state == ENGINE_SERVING ? LOG_INFO : LOG_WARN, "gateway", "engine", LOG_STR("target", m->address),
           LOG_STR("state", state_names[state]), LOG_STR("before", state_names[m->state]), LOG_STR("reason", why));
    m->state = state;
    m->served |= state == ENGINE_SERVING;
    metrics_set(m->up, state == ENGINE_SERVING);
    m->shared->on_change(m->shared->user);
}

/* ---- the watch ---- */

static void on_watch_message(void *user, const void *data, size_t n_bytes, size_t cost)
{
    struct member *m = user;
    Grpc__Health__V1__HealthCheckResponse *r = grpc__health__v1__health_check_response__unpack(NULL, n_bytes, data);
    bool serving = r && r->status == GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
    grpc__health__v1__health_check_response__free_unpacked(r, NULL);
    bridge_release(m->watch, cost);
    if (serving)
        m->watch_delay_ms = MIN_WATCH_DELAY_MS;
    m->heard = true;
    m->unwatchable = false;
    set_state(m, serving ? ENGINE_SERVING : ENGINE_NOT_SERVING, NULL);
}

static void watch(struct member *m);

static void on_watch_status(void *user, const struct rpc_status *status)
{
    struct member *m = user;
    m->watch = NULL;
    m->unwatchable = status->code == GRPC_UNIMPLEMENTED;
    if (m->unwatchable) {
        set_timer(m, UNWATCHABLE_MS);
        set_state(m, ENGINE_SERVING, "it has no health service");
        return;
    }
    if (m->state == ENGINE_SERVING && m->heard && clock_now_ns() - m->watched_ns > AGAIN_MS * CLOCK_NS_PER_MS) {
        set_timer(m, AGAIN_MS);
        watch(m);
        return;
    }
    set_timer(m, m->watch_delay_ms);
    m->watch_delay_ms = m->watch_delay_ms * 2 < MAX_WATCH_DELAY_MS ? m->watch_delay_ms * 2 : MAX_WATCH_DELAY_MS;
    set_state(m, ENGINE_DOWN, status->message);
}

/* Waits for a connection only once it is known that there is none; the verdict before that must come at once. */
static void watch(struct member *m)
{
    struct error err = {0};
    m->heard = false;
    m->watched_ns = clock_now_ns();
    const struct bridge_options options = {
        .client = m->client,
        .path = "/grpc.health.v1.Health/Watch",
        .data = "", /* the service "" */
        .deadline_ns = CLOCK_NEVER,
        .wait_for_ready = m->state == ENGINE_DOWN,
        .user = m,
        .on_message = on_watch_message,
        .on_status = on_watch_status,
    };
    if (bridge_start(m->shared->bridge, &options, &m->watch, &err) == ERROR_NONE)
        return;
    set_timer(m, MAX_WATCH_DELAY_MS);
    set_state(m, ENGINE_DOWN, err.message);
}

static void on_timer(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    struct member *m = user;
    if (!m->watch)
        watch(m);
    else if (!m->heard)
        set_state(m, ENGINE_DOWN, "it does not answer");
}

/* ---- the member ---- */

static enum error_code connect_to(struct member *m, const char *name, struct error *err)
{
    const struct member_shared *s = m->shared;
    const char *scheme = strncmp(m->address, "unix:", 5) == 0 ? "" : m->address[0] == '[' ? "ipv6:" : "ipv4:";
    char target[TARGET_ADDRESS_BYTES + 8];
    snprintf(target, sizeof target, "%s%s", scheme, m->address);
    const struct rpc_client_options options = {
        .target = target,
        .service_config = service_config,
        .queue = bridge_queue(s->bridge),
        .authority = name,
        .tls = s->tls,
        .tls_name = s->tls_name,
        .keepalive_ms = s->keepalive_ms,
        .keepalive_timeout_ms = s->keepalive_timeout_ms,
    };
    return rpc_client_open(&options, &m->client, err);
}

static void member_free(struct member *m)
{
    if (m->client)
        rpc_client_close(m->client);
    if (m->timer)
        event_free(m->timer);
    free(m);
}

enum error_code member_open(const struct member_shared *shared, const char *address, const char *name,
                            struct member **out, struct error *err)
{
    struct member *m = calloc(1, sizeof *m);
    if (!m)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    m->shared = shared;
    m->given = !name;
    m->watch_delay_ms = MIN_WATCH_DELAY_MS;
    snprintf(m->address, sizeof m->address, "%s", address);
    m->id = balance_hash(0, address, strlen(address));
    m->timer = evtimer_new(shared->base, on_timer, m);
    enum error_code code =
        m->timer ? connect_to(m, name, err) : error_set(err, ERROR_INTERNAL, "out of memory");
    if (code != ERROR_NONE) {
        member_free(m);
        return code;
    }
    m->up = metrics_get(shared->up, m->address);
    m->active = metrics_get(shared->active, m->address);
    set_timer(m, CONNECTING_MS);
    watch(m);
    *out = m;
    return ERROR_NONE;
}

void member_take(struct member *m, bool counts)
{
    m->n_calls++;
    metrics_inc(m->active, counts);
}

void member_put(struct member *m, bool counts)
{
    metrics_inc(m->active, -counts);
    if (--m->n_calls == 0 && m->retired)
        member_free(m);
}

void member_retire(struct member *m)
{
    if (m->watch)
        bridge_cancel(m->watch);
    m->watch = NULL;
    event_del(m->timer);
    m->retired = true;
    metrics_hide(m->up);
    metrics_hide(m->active);
    if (m->n_calls == 0)
        member_free(m);
}

double member_load(const struct member *m)
{
    return metrics_value(m->active);
}
