/*
 * bitnet-gateway. One event loop does everything but gRPC's own threads.
 *
 * SIGTERM or SIGINT: not ready at once, accept nothing, let running answers end within the drain limit, exit 0. The admin
 * port stays, so that readiness can be asked. A second signal ends at once.
 */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/engine.h"
#include "gateway/error.h"
#include "gateway/gateway.h"
#include "gateway/health.h"
#include "gateway/healthcheck.h"
#include "gateway/job.h"
#include "gateway/options.h"
#include "gateway/server.h"
#include "rpc/rpc.h"

#include "version.h"

#include <event2/event.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct program {
    struct gateway g;
    struct server *server, *admin;
    struct event *sigterm, *sigint, *drain_limit;
};

static void stop(void *user)
{
    struct program *p = user;
    event_base_loopbreak(p->g.base);
}

/* The limit has passed: what still runs is told so, and gets a second to hear it. */
static void on_drain_limit(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    struct program *p = user;
    struct failure f;
    if (!p->g.jobs) {
        stop(p);
        return;
    }
    failure_init(&f);
    error_set(&f.error, ERROR_SERVICE_UNAVAILABLE, "the server is going down; try again");
    f.error.retry_after_ms = 1000;
    job_fail_all(&p->g, &f);
    failure_fini(&f);
    const struct timeval second = {1, 0};
    event_add(p->drain_limit, &second);
}

static void on_signal(evutil_socket_t signal_number, short what, void *user)
{
    (void)what;
    struct program *p = user;
    log_info("gateway", p->g.draining ? "ending at once" : "draining", LOG_INT("signal", signal_number),
             LOG_INT("requests", p->g.n_active));
    if (p->g.draining) {
        stop(p);
        return;
    }
    p->g.draining = true;
    int64_t ms = p->g.config->drain_timeout_ms;
    const struct timeval limit = {ms / 1000, ms % 1000 * 1000};
    event_add(p->drain_limit, &limit);
    server_drain(p->server, stop, p);
}

/* gRPC's threads must not take the signals, nor a client that went away end the process. */
static void prepare_signals(void)
{
    sigset_t set;
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static void allow_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static enum error_code open_servers(struct program *p, struct error *err)
{
    const struct gateway_config *config = p->g.config;
    const struct server_options options = {config->listen, &p->g.main_http, config->max_connections, "main"};
    const struct server_options admin = {config->admin_listen, &p->g.admin_http, 256, "admin"};
    gateway_init_http(&p->g);
    if (config->admin_listen && config->admin_listen[0] != '\0') {
        enum error_code code = server_open(p->g.base, &admin, &p->admin, err);
        if (code != ERROR_NONE)
            return code;
    }
    return server_open(p->g.base, &options, &p->server, err);
}

static enum error_code program_open(struct program *p, struct error *err)
{
    p->g.started_ns = clock_now_ns();
    p->g.base = event_base_new();
    if (!p->g.base || gateway_metrics_open(&p->g) != ERROR_NONE)
        return error_set(err, ERROR_INTERNAL, "cannot make the event loop or the metrics");
    enum error_code code = engine_open(p->g.base, p->g.config, p->g.metrics, &p->g.engine, err);
    if (code != ERROR_NONE)
        return code;
    p->g.health = health_open(&p->g);
    p->sigterm = evsignal_new(p->g.base, SIGTERM, on_signal, p);
    p->sigint = evsignal_new(p->g.base, SIGINT, on_signal, p);
    p->drain_limit = evtimer_new(p->g.base, on_drain_limit, p);
    if (!p->g.health || !p->sigterm || !p->sigint || !p->drain_limit)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    event_add(p->sigterm, NULL);
    event_add(p->sigint, NULL);
    return open_servers(p, err);
}

static void program_close(struct program *p)
{
    if (p->server)
        server_close(p->server);
    if (p->admin)
        server_close(p->admin);
    health_close(p->g.health);
    if (p->g.engine)
        engine_close(p->g.engine);
    if (p->sigterm)
        event_free(p->sigterm);
    if (p->sigint)
        event_free(p->sigint);
    if (p->drain_limit)
        event_free(p->drain_limit);
    if (p->g.metrics)
        metrics_close(p->g.metrics);
    if (p->g.base)
        event_base_free(p->g.base);
}

static int serve(const struct gateway_config *config)
{
    struct error err = {0};
    struct program p = {.g.config = config};
    /* Messages are allocated on gRPC's threads and freed on ours: arenas for each would keep what they held at most. */
    mallopt(M_ARENA_MAX, 1);
    prepare_signals();
    rpc_init();
    enum error_code code = program_open(&p, &err);
    allow_signals();
    if (code == ERROR_NONE) {
        log_info("gateway", "started", LOG_STR("version", BITNET_VERSION), LOG_STR("git_sha", BITNET_GIT_SHA),
                 LOG_STR("engine", config->engine));
        event_base_dispatch(p.g.base);
        log_info("gateway", "stopped");
    } else {
        fprintf(stderr, "bitnet-gateway: %s\n", err.message);
    }
    program_close(&p);
    rpc_fini();
    return code == ERROR_NONE ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int print(void (*fill)(const struct gateway_config *, struct buffer *), const struct gateway_config *config)
{
    struct buffer text;
    buffer_init(&text, 1 << 20);
    fill(config, &text);
    fputs(text.data ? text.data : "", stdout);
    buffer_fini(&text);
    return EXIT_SUCCESS;
}

static void fill_help(const struct gateway_config *config, struct buffer *out)
{
    (void)config;
    option_help(&gateway_options, out);
}

static void fill_dump(const struct gateway_config *config, struct buffer *out)
{
    option_dump(&gateway_options, config, out);
}

static void fill_version(const struct gateway_config *config, struct buffer *out)
{
    (void)config;
    buffer_append_str(out, "bitnet-gateway " BITNET_VERSION " (" BITNET_GIT_SHA ", " BITNET_FEATURES ")\n");
}

static enum log_format log_format_of(const char *name)
{
    return strcmp(name, "json") == 0 ? LOG_FORMAT_JSON : strcmp(name, "text") == 0 ? LOG_FORMAT_TEXT : LOG_FORMAT_AUTO;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "healthcheck") == 0)
        return healthcheck_main(argc - 1, argv + 1);
    struct gateway_config config = {0};
    struct option_result result;
    struct error err = {0};
    int rc = EXIT_FAILURE;
    if (option_parse(&gateway_options, argc, argv, &config, &result, &err) != ERROR_NONE) {
        fprintf(stderr, "bitnet-gateway: %s\n", err.message);
    } else if (result.help) {
        rc = print(fill_help, &config);
    } else if (result.version) {
        rc = print(fill_version, &config);
    } else if (result.check_config) {
        rc = print(fill_dump, &config);
    } else if (result.n_args > 0) {
        fprintf(stderr, "bitnet-gateway: unexpected argument %s\n", result.args[0]);
    } else {
        log_init((enum log_level)log_level_from_name(config.log_level), log_format_of(config.log_format));
        rc = serve(&config);
    }
    option_free(&gateway_options, &config);
    return rc;
}
