/* Event loops and their threads. */
#include "gateway/loop.h"

#include "base/clock.h"
#include "gateway/change.h"
#include "gateway/engine.h"
#include "gateway/error.h"
#include "gateway/health.h"
#include "gateway/job.h"
#include "gateway/listener.h"
#include "gateway/server.h"

#include <event2/event.h>
#include <string.h>

static void fail_jobs(struct gateway *g)
{
    struct failure f;
    failure_init(&f);
    error_set(&f.error, ERROR_SERVICE_UNAVAILABLE, "the server is going down; try again");
    f.error.retry_after_ms = 1000;
    job_fail_all(g, &f);
    change_fail_all(g, &f);
    failure_fini(&f);
}

static void on_control(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    struct loop *l = user;
    unsigned wanted = atomic_exchange(&l->wanted, 0);
    if (wanted & LOOP_STOP) {
        event_base_loopbreak(l->g.base);
        return;
    }
    if (wanted & LOOP_DRAIN) {
        l->g.draining = true;
        server_drain(l->server, l->on_drained, l->user);
    }
    if (wanted & LOOP_FAIL)
        fail_jobs(&l->g);
}

void loop_want(struct loop *l, unsigned what)
{
    atomic_fetch_or(&l->wanted, what);
    event_active(l->control, EV_TIMEOUT, 0);
}

enum error_code loop_open(struct loop *l, const struct gateway_config *config, struct metrics *metrics,
                          struct error *err)
{
    struct gateway *g = &l->g;
    g->config = config;
    g->metrics = metrics;
    g->started_ns = clock_now_ns();
    g->base = event_base_new();
    if (!g->base || gateway_metrics_open(g) != ERROR_NONE)
        return error_set(err, ERROR_INTERNAL, "cannot make the event loop or the metrics");
    enum error_code code = engine_open(g->base, config, g->metrics, &g->engine, err);
    if (code != ERROR_NONE)
        return code;
    g->health = health_open(g);
    l->control = event_new(g->base, -1, 0, on_control, l);
    if (!g->health || !l->control)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    gateway_init_http(g);
    return ERROR_NONE;
}

enum error_code loop_serve(struct loop *l, struct listener *listener, struct error *err)
{
    const struct server_options options = {&l->g.main_http, listener_closed, listener};
    return server_open(l->g.base, &options, &l->server, err);
}

static void *run(void *user)
{
    struct loop *l = user;
    event_base_loop(l->g.base, EVLOOP_NO_EXIT_ON_EMPTY);
    return NULL;
}

enum error_code loop_start(struct loop *l, struct error *err)
{
    int failed = pthread_create(&l->thread, NULL, run, l);
    if (failed)
        return error_set(err, ERROR_INTERNAL, "cannot start an event loop: %s", strerror(failed));
    pthread_setname_np(l->thread, "loop");
    l->started = true;
    return ERROR_NONE;
}

void loop_join(struct loop *l)
{
    if (!l->started)
        return;
    loop_want(l, LOOP_STOP);
    pthread_join(l->thread, NULL);
    l->started = false;
}

void loop_close(struct loop *l)
{
    struct gateway *g = &l->g;
    health_close(g->health);
    change_close_all(g);
    if (g->engine)
        engine_close(g->engine);
    if (l->control)
        event_free(l->control);
    if (g->base)
        event_base_free(g->base);
}
