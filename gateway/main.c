/*
 * bitnet-gateway: options, and the program's life. Event loops (loop.h) do everything but gRPC's own threads; the first one
 * runs on the main thread.
 *
 * SIGTERM or SIGINT: not ready at once, accept nothing, let running answers end within the drain limit, exit 0. The admin
 * port stays, so that readiness can be asked. A second signal ends at once. SIGHUP: read the certificate and the keys of
 * clients again.
 */
#include "base/clock.h"
#include "base/crash.h"
#include "base/log.h"
#include "base/notify.h"
#include "gateway/gateway.h"
#include "gateway/healthcheck.h"
#include "gateway/keys.h"
#include "gateway/listener.h"
#include "gateway/loop.h"
#include "gateway/options.h"
#include "gateway/preflight.h"
#include "gateway/server.h"
#include "gateway/tls.h"
#include "rpc/rpc.h"
#include "trace/trace.h"

#include "version.h"

#include <event2/event.h>
#include <event2/thread.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define TLS_WATCH_S 2
#define TRIM_S 10
#define ADMIN_CONNECTIONS 256
#define SPARE_DESCRIPTORS 256 /* beside connections: engines, loops, files */

struct program {
    const struct gateway_config *config;
    struct loop *loops; /* [n_loops] */
    int n_loops;
    struct tls *tls; /* NULL: none */
    struct access *access; /* of all loops */
    struct tracer *tracer; /* likewise */
    struct listener *listener, *admin_listener;
    struct server *admin;
    struct event *sigterm, *sigint, *sighup, *tls_watch, *trim, *drain_limit, *watchdog;
    struct event *drained; /* activated by the last loop that is */
    atomic_int n_draining;
    bool draining, late; /* late: the drain limit has passed */
    struct metrics_series *m_expires;
};

static void want_all(struct program *p, unsigned what)
{
    for (int i = 0; i < p->n_loops; i++)
        loop_want(&p->loops[i], what);
}

static void stop(struct program *p)
{
    event_base_loopbreak(p->loops[0].g.base);
}

/* The limit has passed: what still runs is told so, and gets a second to hear it. */
static void on_drain_limit(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    struct program *p = user;
    const struct timeval second = {1, 0};
    if (p->late) {
        stop(p);
        return;
    }
    p->late = true;
    want_all(p, LOOP_FAIL);
    event_add(p->drain_limit, &second);
}

static void on_drained(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    stop(user);
}

/* On each loop's thread. */
static void loop_drained(void *user)
{
    struct program *p = user;
    if (atomic_fetch_sub(&p->n_draining, 1) == 1)
        event_active(p->drained, EV_TIMEOUT, 0);
}

static void on_signal(evutil_socket_t signal_number, short what, void *user)
{
    (void)what;
    struct program *p = user;
    notify_send("STOPPING=1");
    log_info("gateway", p->draining ? "ending at once" : "draining", LOG_INT("signal", signal_number),
             LOG_INT("requests", metrics_value(p->loops[0].g.m_active)));
    if (p->draining) {
        stop(p);
        return;
    }
    p->draining = true;
    int64_t ms = p->config->drain_timeout_ms;
    const struct timeval limit = {ms / 1000, ms % 1000 * 1000};
    event_add(p->drain_limit, &limit);
    listener_stop(p->listener);
    atomic_store(&p->n_draining, p->n_loops);
    want_all(p, LOOP_DRAIN);
}

static void watch_tls(struct program *p, bool now)
{
    if (!p->tls)
        return;
    tls_watch(p->tls, clock_now_ns(), now);
    metrics_set(p->m_expires, (double)tls_expires_s(p->tls));
}

static void on_tls_watch(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    watch_tls(user, false);
}

static void on_sighup(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    struct program *p = user;
    notify_reloading();
    watch_tls(p, true);
    access_reload(p->access);
    notify_send("READY=1");
}

/* Memory that a peak of connections has left free goes back to the system. */
static void on_trim(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what, (void)user;
    malloc_trim(0);
}

/* The service manager is told that all loops turn: each has taken what it was told at the last time. */
static void on_watchdog(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    struct program *p = user;
    bool turn = true;
    for (int i = 1; i < p->n_loops; i++)
        turn = turn && !(atomic_load(&p->loops[i].wanted) & LOOP_TURN);
    if (turn)
        notify_send("WATCHDOG=1");
    want_all(p, LOOP_TURN);
}

/* gRPC's threads and the loops' must not take the signals, nor a client that went away end the process. */
static void mask_signals(int how)
{
    sigset_t set;
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(how, &set, NULL);
}

/* Each connection is a descriptor, and what shells and service managers grant at first is less than they allow. */
static void raise_descriptors(const struct gateway_config *config)
{
    struct rlimit limit;
    rlim_t need = (rlim_t)config->max_connections + ADMIN_CONNECTIONS + SPARE_DESCRIPTORS;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= need)
        return;
    limit.rlim_cur = need < limit.rlim_max ? need : limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < need)
        log_warn("gateway", "fewer descriptors than connections are allowed", LOG_INT("descriptors", limit.rlim_cur),
                 LOG_INT("max_connections", config->max_connections));
}

/* ---- open ---- */

/* Clients and their limits are the same whichever loop they come to. */
static enum error_code open_access(struct program *p, struct error *err)
{
    enum error_code code = access_open(p->config, p->loops[0].g.metrics, &p->access, err);
    for (int i = 0; i < p->n_loops; i++)
        p->loops[i].g.access = p->access;
    return code;
}

static enum error_code open_tls(struct program *p, struct error *err)
{
    const struct gateway_config *c = p->config;
    const struct tls_files files = {c->tls_cert, c->tls_key, c->tls_client_ca, c->tls_client_id};
    if (!c->tls_cert)
        return ERROR_NONE;
    p->m_expires = metrics_get(metrics_add(p->loops[0].g.metrics, METRICS_GAUGE,
                                           "bitnet_tls_certificate_expiry_timestamp_seconds",
                                           "When the listeners' certificate ends, in seconds since 1970.", "", NULL, 0));
    return tls_open(&files, &p->tls, err);
}

static enum error_code open_events(struct program *p, struct error *err)
{
    struct event_base *base = p->loops[0].g.base;
    const struct timeval watch = {TLS_WATCH_S, 0}, trim = {TRIM_S, 0};
    const int64_t watchdog_us = notify_watchdog_ns() / 1000;
    const struct timeval watchdog = {watchdog_us / 1000000, watchdog_us % 1000000};
    p->sigterm = evsignal_new(base, SIGTERM, on_signal, p);
    p->sigint = evsignal_new(base, SIGINT, on_signal, p);
    p->sighup = evsignal_new(base, SIGHUP, on_sighup, p);
    p->drain_limit = evtimer_new(base, on_drain_limit, p);
    p->drained = event_new(base, -1, 0, on_drained, p);
    p->tls_watch = event_new(base, -1, EV_PERSIST, on_tls_watch, p);
    p->trim = event_new(base, -1, EV_PERSIST, on_trim, NULL);
    p->watchdog = event_new(base, -1, EV_PERSIST, on_watchdog, p);
    if (!p->sigterm || !p->sigint || !p->sighup || !p->drain_limit || !p->drained || !p->tls_watch || !p->trim || !p->watchdog)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    event_add(p->sigterm, NULL);
    event_add(p->sigint, NULL);
    event_add(p->sighup, NULL);
    event_add(p->trim, &trim);
    if (p->tls)
        event_add(p->tls_watch, &watch);
    if (watchdog_us > 0)
        event_add(p->watchdog, &watchdog);
    watch_tls(p, false);
    return ERROR_NONE;
}

static enum error_code open_loops(struct program *p, struct error *err)
{
    enum error_code code = ERROR_NONE;
    p->loops = calloc((size_t)p->config->threads, sizeof *p->loops);
    if (!p->loops)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    while (code == ERROR_NONE && p->n_loops < p->config->threads) {
        struct loop *l = &p->loops[p->n_loops++];
        l->on_drained = loop_drained;
        l->user = p;
        code = loop_open(l, p->config, p->loops[0].g.metrics, err);
    }
    return code;
}

/* The admin server is the first loop's. */
static enum error_code open_admin(struct program *p, struct error *err)
{
    struct gateway *g = &p->loops[0].g;
    const struct listener_options options = {.listen = p->config->admin_listen,
                                             .name = "admin",
                                             .tls = p->tls,
                                             .max_connections = ADMIN_CONNECTIONS,
                                             .metrics = g->metrics};
    if (!options.listen || options.listen[0] == '\0')
        return ERROR_NONE;
    enum error_code code = listener_open(g->base, &options, &p->admin_listener, err);
    const struct server_options server = {&g->admin_http, listener_closed, p->admin_listener};
    if (code == ERROR_NONE)
        code = server_open(g->base, &server, &p->admin, err);
    return code == ERROR_NONE ? listener_start(p->admin_listener, &p->admin, 1, err) : code;
}

static enum error_code open_main(struct program *p, struct error *err)
{
    const struct gateway_config *c = p->config;
    struct gateway *g = &p->loops[0].g;
    struct server *servers[LISTENER_MAX_SERVERS];
    const struct listener_options options = {.listen = c->listen,
                                             .name = "main",
                                             .tls = p->tls,
                                             .tls_by_default = true,
                                             .max_connections = c->max_connections,
                                             .max_connections_per_address = c->max_connections_per_address,
                                             .proxies = access_proxies(p->access),
                                             .metrics = g->metrics};
    enum error_code code = listener_open(g->base, &options, &p->listener, err);
    for (int i = 0; i < p->n_loops && code == ERROR_NONE; i++) {
        code = loop_serve(&p->loops[i], p->listener, err);
        servers[i] = p->loops[i].server;
        if (code == ERROR_NONE && i > 0)
            code = loop_start(&p->loops[i], err);
    }
    return code == ERROR_NONE ? listener_start(p->listener, servers, p->n_loops, err) : code;
}

static enum error_code open_tracer(struct program *p, struct error *err)
{
    const struct trace_options options = {.service = "bitnet-gateway", .version = BITNET_VERSION, .metrics = p->loops[0].g.metrics};
    enum error_code code = trace_open(&options, &p->tracer, err);
    for (int i = 0; i < p->n_loops; i++)
        p->loops[i].g.tracer = p->tracer;
    return code;
}

static enum error_code program_open(struct program *p, struct error *err)
{
    enum error_code code = open_loops(p, err);
    if (code == ERROR_NONE)
        code = open_tracer(p, err);
    if (code == ERROR_NONE)
        code = open_access(p, err);
    if (code == ERROR_NONE)
        code = open_tls(p, err);
    if (code == ERROR_NONE)
        code = open_events(p, err);
    if (code == ERROR_NONE)
        code = open_admin(p, err);
    return code == ERROR_NONE ? open_main(p, err) : code;
}

/* Frees an event that may not have been made. */
static void forget(struct event *event)
{
    if (event)
        event_free(event);
}

/* Servers before the listeners that they tell of their end, and these before the loop that they are on. */
static void program_close(struct program *p)
{
    struct metrics *metrics = p->n_loops > 0 ? p->loops[0].g.metrics : NULL;
    for (int i = 1; i < p->n_loops; i++)
        loop_join(&p->loops[i]);
    if (p->admin)
        server_close(p->admin);
    forget(p->sigterm);
    forget(p->sigint);
    forget(p->sighup);
    forget(p->tls_watch);
    forget(p->trim);
    forget(p->watchdog);
    forget(p->drain_limit);
    forget(p->drained);
    for (int i = 0; i < p->n_loops; i++)
        if (p->loops[i].server)
            server_close(p->loops[i].server);
    listener_close(p->listener);
    listener_close(p->admin_listener);
    for (int i = 0; i < p->n_loops; i++)
        loop_close(&p->loops[i]);
    tls_close(p->tls);
    access_close(p->access);
    trace_close(p->tracer);
    metrics_close(metrics);
    free(p->loops);
}

static int serve(const struct gateway_config *config)
{
    struct error err = {0};
    struct program p = {.config = config};
    /* Messages are allocated on gRPC's threads and freed on ours: arenas for each would keep what they held at most. */
    mallopt(M_ARENA_MAX, (int)config->threads);
    mask_signals(SIG_BLOCK);
    raise_descriptors(config);
    evthread_use_pthreads();
    rpc_init();
    enum error_code code = program_open(&p, &err);
    mask_signals(SIG_UNBLOCK);
    if (code == ERROR_NONE) {
        log_info("gateway", "started", LOG_STR("version", BITNET_VERSION), LOG_STR("git_sha", BITNET_GIT_SHA),
                 LOG_STR("engine", config->engine), LOG_INT("threads", config->threads));
        notify_send("READY=1");
        event_base_dispatch(p.loops[0].g.base);
        log_info("gateway", "stopped");
    } else {
        fprintf(stderr, "bitnet-gateway: %s\n", err.message);
    }
    program_close(&p);
    rpc_fini();
    return code == ERROR_NONE ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* --help, --version and --check-config. */
static int print(const struct option_result *asked, const struct gateway_config *config)
{
    struct buffer text;
    buffer_init(&text, 1 << 20);
    if (asked->help == OPTION_HELP_MAN)
        option_man_title("bitnet-gateway", 8, "the gateway of bitnetd: REST and the OpenAI API in front of engines", BITNET_VERSION, &text);
    if (asked->help)
        option_help(&gateway_options, asked->help, &text);
    else if (asked->version)
        buffer_append_str(&text, "bitnet-gateway " BITNET_VERSION " (" BITNET_GIT_SHA ", " BITNET_FEATURES ")\n");
    else
        option_dump(&gateway_options, config, &text);
    fputs(text.data ? text.data : "", stdout);
    buffer_fini(&text);
    return EXIT_SUCCESS;
}

static enum log_format log_format_of(const char *name)
{
    return strcmp(name, "json") == 0 ? LOG_FORMAT_JSON : strcmp(name, "text") == 0 ? LOG_FORMAT_TEXT : LOG_FORMAT_AUTO;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "healthcheck") == 0)
        return healthcheck_main(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "make-key") == 0)
        return keys_main(argc - 1, argv + 1);
    struct gateway_config config = {0};
    struct option_result result;
    struct error err = {0};
    int rc = EXIT_FAILURE;
    if (option_parse(&gateway_options, argc, argv, &config, &result, &err) != ERROR_NONE) {
        fprintf(stderr, "bitnet-gateway: %s\n", err.message);
    } else if (result.help || result.version) {
        rc = print(&result, &config);
    } else if (result.n_args > 0) {
        fprintf(stderr, "bitnet-gateway: unexpected argument %s\n", result.args[0]);
    } else if (gateway_options_check(&config, &err) != ERROR_NONE ||
               (result.check_config && preflight(&config, &err) != ERROR_NONE)) {
        fprintf(stderr, "bitnet-gateway: %s\n", err.message);
    } else if (result.check_config) {
        rc = print(&result, &config);
    } else {
        log_init(LOG_INFO, log_format_of(config.log_format));
        log_set_levels(config.log_level, NULL); /* which has been checked */
        crash_init("bitnet-gateway " BITNET_VERSION " (" BITNET_GIT_SHA ", " BITNET_FEATURES ", " BITNET_COMPILER ")");
        rc = serve(&config);
    }
    option_free(&gateway_options, &config);
    return rc;
}
