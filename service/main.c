/*
 * bitnet-engine. The model is loaded first, then the ports open; main waits for signals.
 *
 * SIGTERM or SIGINT: health says NOT_SERVING and readiness 503 at once; calls are still served for the lame-duck time, so that clients see
 * it; then queued requests are handed back, running ones finish within the drain limit; exit 0. A second signal ends at once.
 */
#include "base/clock.h"
#include "base/log.h"
#include "grpc/health/v1/health.pb-c.h"
#include "service/options.h"
#include "service/service.h"

#include "descriptors.h"
#include "version.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- healthcheck ------------------------------------------------------------------------------------------------- */

struct probe {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int code; /* -1: not over */
    bool serving;
};

static void probe_message(void *user, const void *data, size_t n_bytes)
{
    struct probe *p = user;
    Grpc__Health__V1__HealthCheckResponse *r = grpc__health__v1__health_check_response__unpack(NULL, n_bytes, data);
    p->serving = r && r->status == GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
    if (r)
        grpc__health__v1__health_check_response__free_unpacked(r, NULL);
}

static void probe_status(void *user, const struct rpc_status *status)
{
    struct probe *p = user;
    pthread_mutex_lock(&p->lock);
    p->code = status->code;
    pthread_cond_signal(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

/* For containers without a shell: 0 = serving. */
static int healthcheck(int argc, char **argv)
{
    static const struct option_def probe_defs[] = {{.name = "target",
                                                    .type = OPTION_STRING,
                                                    .offset = 0,
                                                    .default_value = "127.0.0.1:50051",
                                                    .help = "gRPC address of the engine"},
                                                   {.name = NULL}};
    static const struct option_table probe_table = {
        "bitnet-engine healthcheck", "usage: bitnet-engine healthcheck [--target ADDRESS]\n", probe_defs};
    struct {
        const char *target;
    } config = {0};
    struct option_result result = {0};
    struct error err = {0};
    struct probe p = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .code = -1};
    struct rpc_client *client = NULL;
    struct rpc_request *request = NULL;
    if (option_parse(&probe_table, argc, argv, &config, &result, &err)) {
        fprintf(stderr, "bitnet-engine healthcheck: %s\n", err.message);
        return 2;
    }
    rpc_init();
    if (!rpc_client_open(&(struct rpc_client_options){.target = config.target}, &client, &err) &&
        !rpc_request_start(client,
                           &(struct rpc_request_options){.path = "/grpc.health.v1.Health/Check",
                                                         .data = "",
                                                         .deadline_ns = clock_now_ns() + 3 * CLOCK_NS_PER_S,
                                                         .user = &p,
                                                         .on_message = probe_message,
                                                         .on_status = probe_status},
                           &request, &err)) {
        pthread_mutex_lock(&p.lock);
        while (p.code < 0)
            pthread_cond_wait(&p.changed, &p.lock);
        pthread_mutex_unlock(&p.lock);
        rpc_request_close(request);
    }
    rpc_client_close(client);
    rpc_fini();
    printf("%s\n", p.code == 0 && p.serving ? "serving" : "not serving");
    option_free(&probe_table, &config);
    return p.code == 0 && p.serving ? 0 : 1;
}

/* ---- start ------------------------------------------------------------------------------------------------------- */

static void log_model(const struct engine_model *m)
{
    log_info("service", "model loaded", LOG_STR("model", m->id), LOG_STR("path", m->path),
             LOG_STR("architecture", m->architecture), LOG_STR("device", m->device), LOG_STR("isa", m->isa),
             LOG_STR("quantization", m->quantization), LOG_STR("chat_template", m->chat_template),
             LOG_INT("parameters", m->n_parameters), LOG_INT("weight_bytes", m->weight_bytes),
             LOG_INT("kv_bytes", m->kv_bytes), LOG_INT("context", m->context_length),
             LOG_FLOAT("seconds", m->load_seconds), LOG_STR("fallback", m->fallback_reason));
}

/* ---- stop -------------------------------------------------------------------------------------------------------- */

struct drain {
    struct service *service;
    struct rpc_server *server;
};

static void *drain_run(void *user)
{
    struct drain *d = user;
    const struct service_config *c = d->service->config;
    int64_t deadline_ns = clock_now_ns() + (c->lame_duck_ms + c->drain_timeout_ms) * CLOCK_NS_PER_MS;
    usleep((useconds_t)(c->lame_duck_ms * 1000));
    health_end_watches(d->service->health);
    engine_drain(d->service->engine, deadline_ns);
    rpc_server_drain(d->server, deadline_ns + CLOCK_NS_PER_S); /* the last answers are on their way */
    kill(getpid(), SIGUSR1);
    return NULL;
}

/* Waits for signals until the drain is done. */
static void serve(struct service *s, struct rpc_server *server, const sigset_t *signals)
{
    struct drain drain = {s, server};
    pthread_t thread;
    for (;;) {
        int number;
        if (sigwait(signals, &number) != 0 || number == SIGHUP)
            continue;
        if (number == SIGUSR1)
            break;
        if (atomic_exchange(&s->draining, true)) {
            log_warn("service", "ending at once", LOG_INT("signal", number));
            _exit(0);
        }
        log_info("service", "draining", LOG_INT("signal", number));
        health_stop(s->health);
        if (pthread_create(&thread, NULL, drain_run, &drain) != 0)
            return;
    }
    pthread_join(thread, NULL);
}

static int run(const struct service_config *c, const sigset_t *signals)
{
    struct service s = {.config = c, .started_ns = clock_now_ns()};
    struct error err = {0};
    struct rpc_server *server = NULL;
    struct admin_http *admin = NULL;
    enum error_code code = options_check(c, &err);
    if (!code) {
        const struct engine_options options = options_engine(c);
        code = engine_open(&options, &s.engine, &err);
    }
    if (!code) {
        log_model(engine_model(s.engine));
        s.metrics = service_metrics_open(s.engine);
        s.health = health_open();
        s.reflection = reflection_open(proto_descriptors, proto_descriptors_n_bytes);
        if (!s.metrics || !s.health || !s.reflection)
            code = error_set(&err, ERROR_MEMORY_EXHAUSTED, "no memory to start");
    }
    if (!code)
        code = rpc_server_open(&(struct rpc_server_options){.methods = service_methods(&s),
                                                            .listen = c->listen,
                                                            .tls_cert_file = c->tls_cert,
                                                            .tls_key_file = c->tls_key,
                                                            .tls_client_ca_file = c->tls_client_ca,
                                                            .max_message_bytes = (size_t)c->max_message_size},
                               &server, &err);
    if (!code && c->admin_listen[0])
        code = admin_http_open(&s, c->admin_listen, &admin, &err);
    if (code) {
        log_error("service", err.message, LOG_STR("code", error_info(code)->name));
    } else {
        log_info("service", "listening", LOG_STR("listen", c->listen), LOG_INT("port", rpc_server_port(server)),
                 LOG_STR("admin", c->admin_listen), LOG_STR("version", BITNET_VERSION));
        serve(&s, server, signals);
        log_info("service", "stopped");
    }
    admin_http_close(admin);
    if (server)
        rpc_server_close(server);
    if (s.engine)
        engine_close(s.engine);
    service_metrics_close(s.metrics);
    health_close(s.health);
    reflection_close(s.reflection);
    return code ? 1 : 0;
}

static void print(void (*write)(const struct option_table *, const void *, struct buffer *), const void *config)
{
    struct buffer text;
    buffer_init(&text, 1 << 20);
    write(&service_options, config, &text);
    fputs(text.data ? text.data : "", stdout);
    buffer_fini(&text);
}

static void write_help(const struct option_table *t, const void *config, struct buffer *out)
{
    (void)config;
    option_help(t, out);
}

int main(int argc, char **argv)
{
    struct service_config config = {0};
    struct option_result result = {0};
    struct error err = {0};
    sigset_t signals;
    if (argc > 1 && strcmp(argv[1], "healthcheck") == 0)
        return healthcheck(argc - 1, argv + 1);
    if (option_parse(&service_options, argc, argv, &config, &result, &err)) {
        fprintf(stderr, "bitnet-engine: %s\nTry: bitnet-engine --help\n", err.message);
        return 2;
    }
    if (result.help || result.version || result.check_config) {
        if (result.help)
            print(write_help, NULL);
        else if (result.version)
            printf("bitnet-engine %s (%s) features: %s\n", BITNET_VERSION, BITNET_GIT_SHA, BITNET_FEATURES);
        else
            print(option_dump, &config);
        option_free(&service_options, &config);
        return 0;
    }
    log_init((enum log_level)log_level_from_name(config.log_level),
             strcmp(config.log_format, "json") == 0   ? LOG_FORMAT_JSON
             : strcmp(config.log_format, "text") == 0 ? LOG_FORMAT_TEXT
                                                      : LOG_FORMAT_AUTO);
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigaddset(&signals, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* gRPC's and our threads inherit it */
    rpc_init();
    int status = run(&config, &signals);
    rpc_fini();
    option_free(&service_options, &config);
    return status;
}
