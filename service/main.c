/*
 * bitnet-engine. The model is loaded first, then the ports open; main waits for signals.
 *
 * SIGTERM or SIGINT: health says NOT_SERVING and readiness 503 at once; calls are still served for the lame-duck time, so that clients see
 * it; then queued requests are handed back, running ones finish within the drain limit; exit 0. A second signal ends at once.
 */
#include "base/clock.h"
#include "base/log.h"
#include "base/option.h"
#include "grpc/health/v1/health.pb-c.h"
#include "service/service.h"

#include "descriptors.h"
#include "version.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STR(n, field, def, text) {.name = n, .type = OPTION_STRING, .offset = offsetof(struct service_config, field), .default_value = def, .help = text}
#define INT(n, field, def, lo, hi, u, text) \
    {.name = n, .type = OPTION_INT, .offset = offsetof(struct service_config, field), .default_value = def, .min = lo, .max = hi, .unit = u, .help = text}
#define SIZE(n, field, def, lo, hi, text) \
    {.name = n, .type = OPTION_SIZE, .offset = offsetof(struct service_config, field), .default_value = def, .min = lo, .max = hi, .help = text}
#define CHOICE(n, field, def, c, text) \
    {.name = n, .type = OPTION_CHOICE, .offset = offsetof(struct service_config, field), .default_value = def, .choices = c, .help = text}
#define BOOL(n, field, text) {.name = n, .type = OPTION_BOOL, .offset = offsetof(struct service_config, field), .help = text}

static const struct option_def defs[] = {
    STR("model", model, NULL, "GGUF file to serve (required)"),
    STR("model-id", model_id, NULL, "name of the model; the file's by default"),
    STR("listen", listen, "127.0.0.1:50051", "gRPC addresses, separated by commas; unix:/PATH too"),
    STR("admin-listen", admin_listen, "127.0.0.1:9090", "address of metrics and health over HTTP; empty = none"),
    STR("device", device, "auto", "auto, cpu, gpu or cuda:N; auto and gpu fall back to the CPU"),
    STR("isa", isa, NULL, "highest instruction set to use; the best there is by default"),
    INT("threads", threads, "0", 0, 512, NULL, "compute threads; 0 = what the machine and its cgroup offer"),
    CHOICE("quantization", quantization, "auto", "auto|i2s|tl1|tl2", "layout that the ternary kernels read"),
    CHOICE("i2s-order", i2s_order, "auto", "auto|128|64", "packing of I2_S tensors in the file"),
    INT("context", context, "0", 0, 1048576, "tokens", "positions a sequence may have; 0 = the model's"),
    SIZE("kv-cache-size", kv_cache_size, "0", 0, 1e15, "memory of the KV cache; 0 = automatic"),
    INT("max-sequences", max_sequences, "64", 1, 4096, NULL, "sequences in the batch at once"),
    INT("max-batch-tokens", max_batch_tokens, "512", 1, 65536, "tokens", "rows of a step"),
    INT("queue-limit", queue_limit, "256", 1, 1000000, NULL, "requests that may wait"),
    INT("default-timeout-ms", default_timeout_ms, "0", 0, 86400000, "ms", "for requests without their own; 0 = none"),
    INT("drain-timeout-ms", drain_timeout_ms, "45000", 0, 3600000, "ms", "that running requests get to finish after SIGTERM"),
    INT("lame-duck-ms", lame_duck_ms, "300", 0, 600000, "ms", "that calls are still accepted after SIGTERM"),
    SIZE("max-message-size", max_message_size, "4M", 1024, 1073741824, "largest message received"),
    STR("tls-cert", tls_cert, NULL, "PEM file of the server's certificate"),
    STR("tls-key", tls_key, NULL, "PEM file of its key"),
    STR("tls-client-ca", tls_client_ca, NULL, "PEM file of the CA whose clients are let in (mutual TLS)"),
    BOOL("allow-insecure-public", allow_insecure_public, "listen on public addresses without TLS"),
    INT("seed", seed, "-1", -1, 9e15, NULL, "seed of requests that give none; -1 = random"),
    BOOL("deterministic", deterministic, "requests that give no seed get --seed, or 0"),
    CHOICE("log-level", log_level, "info", "debug|info|warn|error|off", "least level that is logged"),
    CHOICE("log-format", log_format, "auto", "auto|json|text", "auto = text on a terminal"),
    {.name = NULL}};

static const struct option_table table = {
    "bitnet-engine",
    "usage: bitnet-engine --model FILE.gguf [options]\n       bitnet-engine healthcheck [--target ADDRESS]\n", defs};

/* ---- healthcheck ------------------------------------------------------------------------------------------------- */

struct probe {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int code;      /* -1: not over */
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
    static const struct option_def probe_defs[] = {
        {.name = "target", .type = OPTION_STRING, .offset = 0, .default_value = "127.0.0.1:50051", .help = "gRPC address of the engine"},
        {.name = NULL}};
    static const struct option_table probe_table = {"bitnet-engine healthcheck", "usage: bitnet-engine healthcheck [--target ADDRESS]\n", probe_defs};
    struct { const char *target; } config = {0};
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
        !rpc_request_start(client, &(struct rpc_request_options){.path = "/grpc.health.v1.Health/Check", .data = "",
                               .deadline_ns = clock_now_ns() + 3 * CLOCK_NS_PER_S, .user = &p, .on_message = probe_message,
                               .on_status = probe_status}, &request, &err)) {
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

/* One address that others than this machine can reach. */
static bool is_public(const char *address)
{
    return strncmp(address, "unix:", 5) != 0 && strncmp(address, "127.", 4) != 0 && strncmp(address, "[::1]:", 6) != 0 &&
           strncmp(address, "localhost:", 10) != 0;
}

static enum error_code check_addresses(const struct service_config *c, struct error *err)
{
    if (!c->model || !c->model[0])
        return error_set_param(err, ERROR_VALIDATION_FAILED, "model", "--model: expected a GGUF file, found nothing");
    for (const char *p = c->listen; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
        if (is_public(p) && !c->tls_cert && !c->allow_insecure_public)
            return error_set_param(err, ERROR_VALIDATION_FAILED, "listen",
                                   "--listen: \"%.*s\" is a public address: expected TLS (--tls-cert, --tls-key) or --allow-insecure-public",
                                   (int)strcspn(p, ","), p);
    return ERROR_NONE;
}

static enum error_code load(const struct service_config *c, struct engine **out, struct error *err)
{
    static const char *const formats[] = {"auto", "i2s", "tl1", "tl2"};
    struct engine_options o = {.model_path = c->model,
                               .model_id = c->model_id,
                               .device = c->device,
                               .isa = c->isa && c->isa[0] ? c->isa : NULL,
                               .n_threads = (int)c->threads,
                               .i2s_order = strcmp(c->i2s_order, "128") == 0  ? I2S_ORDER_128
                                            : strcmp(c->i2s_order, "64") == 0 ? I2S_ORDER_64
                                                                              : -1,
                               .context_length = (size_t)c->context,
                               .kv_cache_bytes = (size_t)c->kv_cache_size,
                               .max_sequences = (size_t)c->max_sequences,
                               .max_batch_tokens = (size_t)c->max_batch_tokens,
                               .queue_limit = (size_t)c->queue_limit,
                               .default_timeout_ns = c->default_timeout_ms * CLOCK_NS_PER_MS};
    for (int i = 0; i < 4; i++)
        if (strcmp(c->quantization, formats[i]) == 0)
            o.format = (enum ternary_format)i;
    return engine_open(&o, out, err);
}

static void log_model(const struct engine_model *m)
{
    log_info("service", "model loaded", LOG_STR("model", m->id), LOG_STR("path", m->path), LOG_STR("architecture", m->architecture),
             LOG_STR("device", m->device), LOG_STR("isa", m->isa), LOG_STR("quantization", m->quantization),
             LOG_STR("chat_template", m->chat_template), LOG_INT("parameters", m->n_parameters), LOG_INT("weight_bytes", m->weight_bytes),
             LOG_INT("kv_bytes", m->kv_bytes), LOG_INT("context", m->context_length), LOG_FLOAT("seconds", m->load_seconds),
             LOG_STR("fallback", m->fallback_reason));
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
    enum error_code code = check_addresses(c, &err);
    if (!code)
        code = load(c, &s.engine, &err);
    if (!code) {
        log_model(engine_model(s.engine));
        s.metrics = service_metrics_open(s.engine);
        s.health = health_open();
        s.reflection = reflection_open(proto_descriptors, proto_descriptors_n_bytes);
        if (!s.metrics || !s.health || !s.reflection)
            code = error_set(&err, ERROR_MEMORY_EXHAUSTED, "no memory to start");
    }
    if (!code)
        code = rpc_server_open(&(struct rpc_server_options){.methods = service_methods(&s), .listen = c->listen, .tls_cert_file = c->tls_cert,
                                   .tls_key_file = c->tls_key, .tls_client_ca_file = c->tls_client_ca,
                                   .max_message_bytes = (size_t)c->max_message_size}, &server, &err);
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
    write(&table, config, &text);
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
    if (option_parse(&table, argc, argv, &config, &result, &err)) {
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
        option_free(&table, &config);
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
    option_free(&table, &config);
    return status;
}
