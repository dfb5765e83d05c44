/*
 * bitnet-engine. The models that it starts with are loaded first, then the ports open; main waits for signals.
 *
 * SIGTERM or SIGINT: health says NOT_SERVING and readiness 503 at once; calls are still served for the lame-duck time, so
 * that clients see it; then queued requests are handed back, running ones finish within the drain limit; exit 0. A second
 * signal, or the first one while the model is being loaded, ends at once. SIGHUP reads the configuration again for the
 * levels of the log and for what is slow.
 */
#include "base/clock.h"
#include "base/crash.h"
#include "base/log.h"
#include "base/notify.h"
#include "service/changes.h"
#include "service/formats.h"
#include "service/hosted.h"
#include "service/latency.h"
#include "service/options.h"
#include "trace/trace.h"

#include "descriptors.h"
#include "version.h"

#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define LAST_ANSWERS_NS CLOCK_NS_PER_S /* what the engine has ended still has to be sent */
#define TRIM_NS (10 * CLOCK_NS_PER_S)
#define CORES_FOR_TWO_THREADS 4        /* a long prompt that is tokenised holds up the calls of its thread */

/* Few threads allocate at a time. With an arena each, those that load models and go would leave behind what they have freed. */
#define MALLOC_ARENAS 2

/* SIGUSR1 is ours: it tells a thread in sigwait that what it waits beside is over. */
#define SIGNAL_DONE SIGUSR1

struct program {
    struct service service;
    struct rpc_server *server;
    struct admin_http *admin;
    sigset_t signals;
    struct null_options null; /* the registry borrows it */
    int argc;
    char **argv;
};

/* ---- start ------------------------------------------------------------------------------------------------------- */

static void log_model(const char *id, const struct engine_model *m)
{
    log_info("service", "model loaded", LOG_STR("model", id), LOG_STR("path", m->path),
             LOG_STR("architecture", m->architecture), LOG_STR("device", m->device), LOG_STR("isa", m->isa),
             LOG_STR("quantization", m->quantization), LOG_STR("chat_template", m->chat_template),
             LOG_INT("parameters", m->n_parameters), LOG_INT("weight_bytes", m->weight_bytes),
             LOG_INT("kv_bytes", m->kv_bytes), LOG_INT("context", m->context_length),
             LOG_FLOAT("seconds", m->load_seconds), LOG_STR("fallback", m->fallback_reason));
}

static void log_models(const struct service *s)
{
    struct model_entry *entries = NULL;
    size_t n = 0;
    service_loaded(s, &entries, &n);
    for (size_t i = 0; i < n; i++)
        log_model(entries[i].id, engine_model(served_engine(entries[i].served)));
    registry_list_free(entries, n);
}

/* A load can take minutes and has nothing to lose. */
static void *end_while_loading(void *user)
{
    struct program *p = user;
    int number;
    for (;;) {
        if (sigwait(&p->signals, &number) != 0 || number == SIGHUP)
            continue;
        if (number == SIGNAL_DONE)
            return NULL;
        log_info("service", "stopped while loading", LOG_INT("signal", number));
        _exit(0);
    }
}

static enum error_code open_parts(struct service *s, struct error *err)
{
    s->metrics = service_metrics_open(s->config);
    s->changes = changes_open(s);
    s->health = health_open();
    s->formats = formats_open();
    s->reflection = reflection_open(proto_descriptors, proto_descriptors_n_bytes);
    if (!s->metrics || !s->changes || !s->health || !s->formats || !s->reflection)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory to start");
    const struct trace_options traces = {.service = "bitnet-engine", .version = BITNET_VERSION, .metrics = service_metrics_page(s->metrics)};
    return trace_open(&traces, &s->tracer, err);
}

static enum error_code load(struct program *p, struct error *err)
{
    struct service *s = &p->service;
    const struct registry_options options = {.engine = options_engine(s->config, &p->null),
                                       .allowed_dirs = s->config->model_dirs,
                                       .state_file = s->config->state_file && s->config->state_file[0] ? s->config->state_file : NULL,
                                       .memory_budget = (uint64_t)s->config->memory_budget,
                                       .evict = s->config->evict,
                                       .max_loads = (uint32_t)s->config->max_loads,
                                       .observer = hosted_observer(s)};
    pthread_t thread;
    if (pthread_create(&thread, NULL, end_while_loading, p) != 0)
        return error_set(err, ERROR_INTERNAL, "cannot start a thread");
    enum error_code code = registry_open(&options, &s->registry, err);
    pthread_kill(thread, SIGNAL_DONE);
    pthread_join(thread, NULL);
    if (code)
        return code;
    s->coalesce = strcmp(s->config->coalesce, "on") == 0;
    log_models(s);
    if (s->config->null_model)
        log_warn("service", "NULL MODEL: nothing is computed, all answers are words without sense (--null-model)");
    return ERROR_NONE;
}

static void spare_thread(const struct service *s)
{
    struct served *served;
    if (registry_acquire(s->registry, "", &served, NULL))
        return;
    engine_spare_thread(served_engine(served));
    served_release(served);
}

static enum error_code listen_all(struct program *p, struct error *err)
{
    const struct service_config *c = p->service.config;
    const struct rpc_server_options options = {.methods = service_methods(&p->service),
                                               .listen = c->listen,
                                               .tls_cert_file = c->tls_cert,
                                               .tls_key_file = c->tls_key,
                                               .tls_client_ca_file = c->tls_client_ca,
                                               .max_message_bytes = (size_t)c->max_message_size,
                                               .max_connection_age_ms = (int)c->max_connection_age_ms,
                                               .max_connection_age_grace_ms = (int)c->max_connection_age_grace_ms,
                                               .keepalive_ms = (int)c->keepalive_ms,
                                               .keepalive_timeout_ms = (int)c->keepalive_timeout_ms,
                                               .n_threads =
                                                   sysconf(_SC_NPROCESSORS_ONLN) >= CORES_FOR_TWO_THREADS ? 2 : 1};
    enum error_code code = rpc_server_open(&options, &p->server, err);
    if (!code && c->admin_listen && c->admin_listen[0])
        code = admin_http_open(&p->service, c->admin_listen, &p->admin, err);
    return code;
}

static void close_all(struct program *p)
{
    admin_http_close(p->admin);
    rpc_server_close(p->server);
    changes_close(p->service.changes);
    if (p->service.registry)
        registry_close(p->service.registry);
    trace_close(p->service.tracer);
    service_metrics_close(p->service.metrics);
    health_close(p->service.health);
    formats_close(p->service.formats);
    reflection_close(p->service.reflection);
}

/* ---- signals ----------------------------------------------------------------------------------------------------- */

static void *drain_run(void *user)
{
    struct program *p = user;
    const struct service_config *c = p->service.config;
    const struct timespec lame_duck = {c->lame_duck_ms / 1000, c->lame_duck_ms % 1000 * CLOCK_NS_PER_MS};
    int64_t deadline_ns = clock_now_ns() + (c->lame_duck_ms + c->drain_timeout_ms) * CLOCK_NS_PER_MS;
    nanosleep(&lame_duck, NULL);
    health_end_watches(p->service.health);
    registry_drain(p->service.registry, deadline_ns);
    bool changed = changes_drain(p->service.changes, deadline_ns);
    rpc_server_drain(p->server, deadline_ns + LAST_ANSWERS_NS);
    if (!changed) { /* nothing is lost: what is not complete is not remembered */
        log_warn("service", "stopped while models were being changed");
        _exit(0);
    }
    kill(getpid(), SIGNAL_DONE);
    return NULL;
}

/* The levels of the log and what is slow; the rest needs a restart. */
static void reload(const struct program *p)
{
    struct service_config fresh = {0};
    struct option_result result = {0};
    struct error err = {0};
    if (option_parse(&service_options, p->argc, p->argv, &fresh, &result, &err) || log_set_levels(fresh.log_level, &err)) {
        log_warn("service", "configuration not read again", LOG_STR("reason", err.message));
    } else {
        latency_limits(fresh.slow_step_ms, fresh.slow_request_ms);
        log_info("service", "configuration read again", LOG_STR("log_level", fresh.log_level));
    }
    option_free(&service_options, &fresh);
}

/* The next signal. Meanwhile memory that a peak has left free goes back to the system, and the service manager is told that the engine
 * turns, at least as often as it wants to know. */
static int next_signal(struct program *p)
{
    const int64_t watchdog_ns = notify_watchdog_ns();
    const int64_t every_ns = watchdog_ns > 0 && watchdog_ns < TRIM_NS ? watchdog_ns : TRIM_NS;
    const struct timespec limit = {every_ns / CLOCK_NS_PER_S, every_ns % CLOCK_NS_PER_S};
    for (;;) {
        int number = sigtimedwait(&p->signals, NULL, &limit);
        if (number > 0)
            return number;
        if (watchdog_ns > 0 && service_state(&p->service).engine_turns)
            notify_send("WATCHDOG=1");
        malloc_trim(0);
    }
}

/* Waits for signals until the drain is done. */
static void serve(struct program *p)
{
    struct service *s = &p->service;
    pthread_t thread;
    for (;;) {
        int number = next_signal(p);
        bool draining = atomic_load(&s->draining);
        if (number == SIGNAL_DONE && !draining)
            continue;
        if (number == SIGNAL_DONE)
            break;
        if (number == SIGHUP) {
            notify_reloading();
            reload(p);
            notify_send("READY=1");
            continue;
        }
        notify_send("STOPPING=1");
        log_info("service", draining ? "ending at once" : "draining", LOG_INT("signal", number));
        if (draining)
            _exit(0);
        atomic_store(&s->draining, true);
        health_stop(s->health);
        if (pthread_create(&thread, NULL, drain_run, p) != 0)
            return;
    }
    pthread_join(thread, NULL);
}

static int run(struct program *p)
{
    const struct service_config *c = p->service.config;
    struct error err = {0};
    enum error_code code = options_check(c, &err);
    if (!code)
        code = open_parts(&p->service, &err);
    if (!code)
        code = load(p, &err);
    if (!code) {
        spare_thread(&p->service); /* and so the threads of the ports */
        code = listen_all(p, &err);
    }
    if (code) {
        log_error("service", err.message, LOG_STR("code", error_info(code)->name));
    } else {
        log_info("service", "listening", LOG_STR("listen", c->listen), LOG_INT("port", rpc_server_port(p->server)),
                 LOG_STR("admin", c->admin_listen), LOG_STR("version", BITNET_VERSION));
        notify_send("READY=1");
        serve(p);
    }
    close_all(p);
    if (!code)
        log_info("service", "stopped");
    return code ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* Each connection and model file is a descriptor, and what shells and service managers grant at first is less than they allow. */
static void raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* Before the first thread: all inherit what is blocked, so that only sigwait sees a signal. */
static void block_signals(sigset_t *signals)
{
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(signals);
    sigaddset(signals, SIGTERM);
    sigaddset(signals, SIGINT);
    sigaddset(signals, SIGHUP);
    sigaddset(signals, SIGNAL_DONE);
    pthread_sigmask(SIG_BLOCK, signals, NULL);
}

/* ---- command line ------------------------------------------------------------------------------------------------ */

/* --help, --version and --check-config. */
static void print(const struct option_result *asked, const struct service_config *config)
{
    struct buffer text;
    buffer_init(&text, 1 << 20);
    if (asked->help == OPTION_HELP_MAN)
        option_man_title("bitnet-engine", 8, "the engine of bitnetd: serves a ternary language model over gRPC", BITNET_VERSION, &text);
    if (asked->help)
        option_help(&service_options, asked->help, &text);
    else if (asked->version)
        buffer_append_str(&text,
                          "bitnet-engine " BITNET_VERSION " (" BITNET_GIT_SHA ") features: " BITNET_FEATURES "\n");
    else
        option_dump(&service_options, config, &text);
    fputs(text.data ? text.data : "", stdout);
    buffer_fini(&text);
}

static enum log_format log_format_of(const char *name)
{
    return strcmp(name, "json") == 0 ? LOG_FORMAT_JSON : strcmp(name, "text") == 0 ? LOG_FORMAT_TEXT : LOG_FORMAT_AUTO;
}

static int start(struct program *p, const struct service_config *config)
{
    log_init(LOG_INFO, log_format_of(config->log_format));
    log_set_levels(config->log_level, NULL); /* what is wrong with it options_check says */
    latency_limits(config->slow_step_ms, config->slow_request_ms);
    crash_init("bitnet-engine " BITNET_VERSION " (" BITNET_GIT_SHA ", " BITNET_FEATURES ", " BITNET_COMPILER ")");
    block_signals(&p->signals);
    raise_descriptors();
    rpc_init();
    int status = run(p);
    rpc_fini();
    return status;
}

int main(int argc, char **argv)
{
    struct service_config config = {0};
    struct program p = {.argc = argc, .argv = argv, .service = {.config = &config, .started_ns = clock_now_ns()}};
    struct option_result asked = {0};
    struct error err = {0};
    int status = EXIT_SUCCESS;
    mallopt(M_ARENA_MAX, MALLOC_ARENAS);
    if (argc > 1 && strcmp(argv[1], "healthcheck") == 0)
        return healthcheck_main(argc - 1, argv + 1);
    enum error_code code = option_parse(&service_options, argc, argv, &config, &asked, &err);
    if (!code && asked.n_args > 0)
        code = error_set(&err, ERROR_INVALID_REQUEST, "expected options, found \"%.100s\"", asked.args[0]);
    if (!code && asked.check_config)
        code = options_check(&config, &err);
    if (!code && asked.check_config)
        code = options_preflight(&config, &err);
    if (code) {
        fprintf(stderr, "bitnet-engine: %s\nTry: bitnet-engine --help\n", err.message);
        status = EXIT_FAILURE;
    } else if (asked.help || asked.version || asked.check_config) {
        print(&asked, &config);
    } else {
        status = start(&p, &config);
    }
    option_free(&service_options, &config);
    return status;
}
