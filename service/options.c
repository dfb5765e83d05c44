/* The table of options, what is checked over more than one of them, and what the engine is given. */
#include "service/options.h"

#include "base/clock.h"
#include "base/log.h"

#include <arpa/inet.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define STR(n, field, def, text)                                                                                       \
    {                                                                                                                  \
        .name = n, .type = OPTION_STRING, .offset = offsetof(struct service_config, field), .default_value = def,      \
        .help = text                                                                                                   \
    }
#define INT(n, field, def, lo, hi, u, text)                                                                            \
    {                                                                                                                  \
        .name = n, .type = OPTION_INT, .offset = offsetof(struct service_config, field), .default_value = def,         \
        .min = lo, .max = hi, .unit = u, .help = text                                                                  \
    }
#define SIZE(n, field, def, lo, hi, text)                                                                              \
    {                                                                                                                  \
        .name = n, .type = OPTION_SIZE, .offset = offsetof(struct service_config, field), .default_value = def,        \
        .min = lo, .max = hi, .help = text                                                                             \
    }
#define CHOICE(n, field, def, c, text)                                                                                 \
    {                                                                                                                  \
        .name = n, .type = OPTION_CHOICE, .offset = offsetof(struct service_config, field), .default_value = def,      \
        .choices = c, .help = text                                                                                     \
    }
#define FLAG_BOOL(n, field, text)                                                                                      \
    {                                                                                                                  \
        .name = n, .type = OPTION_BOOL, .offset = offsetof(struct service_config, field), .flag_only = true,           \
        .help = text                                                                                                   \
    }
#define FLAG_INT(n, field, def, lo, hi, u, text)                                                                       \
    {                                                                                                                  \
        .name = n, .type = OPTION_INT, .offset = offsetof(struct service_config, field), .default_value = def,         \
        .min = lo, .max = hi, .unit = u, .flag_only = true, .help = text                                               \
    }
#define SHARE(n, field, def, lo, text)                                                                                 \
    {                                                                                                                  \
        .name = n, .type = OPTION_FLOAT, .offset = offsetof(struct service_config, field), .default_value = def,       \
        .min = lo, .max = 1, .help = text                                                                              \
    }
#define BOOL(n, field, text)                                                                                           \
    {                                                                                                                  \
        .name = n, .type = OPTION_BOOL, .offset = offsetof(struct service_config, field), .help = text                 \
    }

static const struct option_def defs[] = {
    STR("model", model, NULL, "GGUF file to serve (required, unless --state-file names models)"),
    STR("model-id", model_id, NULL, "name of the model; the file's by default"),
    STR("model-dirs", model_dirs, NULL, "folders, separated by colons, from which models may be loaded while it runs; none by default"),
    STR("state-file", state_file, NULL, "file that remembers which models are loaded, for the next start"),
    SIZE("memory-budget", memory_budget, "0", 0, 1e15, "memory of all models together; 0 = 90 % of what the process may use"),
    BOOL("evict", evict, "a model that finds no room takes the place of the one that was unused for longest, instead of being refused"),
    INT("max-loads", max_loads, "1", 1, 16, NULL, "models that are loaded at once; the others wait"),
    STR("listen", listen, "127.0.0.1:50051", "gRPC addresses, separated by commas; unix:/PATH too"),
    STR("admin-listen", admin_listen, "127.0.0.1:9090", "address of metrics and health over HTTP; empty = none"),
    STR("device", device, "auto", "auto, cpu, gpu or cuda:N; auto and gpu fall back to the CPU"),
    STR("isa", isa, NULL, "highest instruction set to use; the best there is by default"),
    INT("threads", threads, "0", 0, 512, NULL, "compute threads; 0 = what the machine and its cgroup offer"),
    BOOL("pin", pin, "keep each compute thread to a CPU of its own, and what serves the ports off these where there are others"),
    BOOL("idle-priority", idle_priority, "compute gives way to every other thread of the machine"),
    CHOICE("numa", numa, "auto", "auto|interleave|off", "where weights lie on machines with several memory nodes"),
    CHOICE("quantization", quantization, "auto", "auto|i2s|tl1|tl2", "layout that the ternary kernels read"),
    CHOICE("i2s-order", i2s_order, "auto", "auto|128|64", "packing of I2_S tensors in the file"),
    INT("context", context, "0", 0, 1048576, "tokens", "positions a sequence may have; 0 = the model's"),
    CHOICE("kv-type", kv_type, "f16", "f16|int8", "values of the KV cache; int8 takes half of f16's memory, on the CPU only"),
    CHOICE("speculation", speculation, "on", "on|off", "try tokens ahead that the text has had before; the tokens are the same"),
    CHOICE("prefix-cache", prefix_cache, "on", "on|off", "keep what was computed for prompts that begin alike"),
    SIZE("kv-cache-size", kv_cache_size, "0", 0, 1e15, "memory of the KV cache; 0 = automatic"),
    INT("max-sequences", max_sequences, "64", 1, 4096, NULL, "sequences in the batch at once"),
    INT("max-batch-tokens", max_batch_tokens, "512", 1, 65536, "tokens", "rows of a step"),
    INT("target-itl-ms", target_itl_ms, "0", 0, 60000, "ms",
        "time between two tokens up to which prompts fill a step; 0 = less than twice what it will be once the prompts decode too"),
    INT("queue-limit", queue_limit, "256", 1, 1000000, NULL, "requests that may wait"),
    INT("queue-tokens", queue_tokens, "0", 0, 1e12, "tokens", "that waiting requests may ask for, of prompt and answer; 0 = no bound"),
    INT("queue-wait-ms", queue_wait_ms, "0", 0, 86400000, "ms",
        "a request that would wait longer, by the rate at which others leave the queue, is refused, and one that did is handed back; 0 = no bound"),
    INT("default-timeout-ms", default_timeout_ms, "0", 0, 86400000, "ms", "for requests without their own; 0 = none"),
    INT("stall-timeout-ms", stall_timeout_ms, "60000", 0, 86400000, "ms",
        "that a full stream may stay unread before it is given up; 0 = for ever"),
    INT("drain-timeout-ms", drain_timeout_ms, "45000", 0, 3600000, "ms",
        "that running requests get to finish after SIGTERM"),
    INT("lame-duck-ms", lame_duck_ms, "300", 0, 600000, "ms", "that calls are still accepted after SIGTERM"),
    SHARE("accuracy-share", accuracy_share, "0.01", 0,
          "of the requests that are computed again in idle time by the portable kernels and compared; 0 = none"),
    SHARE("accuracy-threshold", accuracy_threshold, "0.99", 0.5,
          "share of the recomputed tokens that must be the same; below it health is degraded"),
    SIZE("max-message-size", max_message_size, "4M", 1024, 1073741824, "largest message received"),
    INT("max-connection-age-ms", max_connection_age_ms, "0", 0, 86400000, "ms",
        "after which a client is asked to connect anew, give or take a tenth, so that it finds engines that came later; 0 = never"),
    INT("max-connection-age-grace-ms", max_connection_age_grace_ms, "0", 0, 86400000, "ms",
        "that the calls of such a connection get to end; 0 = all the time they need"),
    INT("keepalive-ms", keepalive_ms, "60000", 1000, 86400000, "ms", "after which a client that has sent nothing is pinged"),
    INT("keepalive-timeout-ms", keepalive_timeout_ms, "10000", 100, 3600000, "ms",
        "without an answer to that after which its connection is given up and its requests are cancelled"),
    STR("tls-cert", tls_cert, NULL, "PEM file of the server's certificate; files that are replaced are taken for new connections"),
    STR("tls-key", tls_key, NULL, "PEM file of its key"),
    STR("tls-client-ca", tls_client_ca, NULL, "PEM file of the CA whose clients are let in (mutual TLS)"),
    BOOL("allow-insecure-public", allow_insecure_public, "listen on public addresses without TLS"),
    INT("seed", seed, "-1", -1, 9e15, NULL, "seed of requests that give none; -1 = random"),
    BOOL("deterministic", deterministic, "requests that give no seed get --seed, or 0"),
    CHOICE("coalesce", coalesce, "on", "on|off",
           "put the tokens that wait for a slow reader into one message; off: each has its own"),
    FLAG_BOOL("null-model", null_model,
              "compute nothing: answers are words without sense, for measuring what serves a model; the id is null-model"),
    FLAG_INT("null-step-us", null_step_us, "0", 0, 60000000, "us", "with --null-model: what a step takes at least"),
    CHOICE("load-reports", load_reports, "asked", "asked|always|off",
           "ORCA load reports in the trailers of inference calls: for clients that ask for them, for all, or none"),
    INT("slow-step-ms", slow_step_ms, "5000", 0, 86400000, "ms", "a step that takes longer is logged with its cause; 0 = none is"),
    INT("slow-request-ms", slow_request_ms, "60000", 0, 86400000, "ms", "likewise a request, from its arrival to its last token"),
    STR("log-level", log_level, "info", "least level that is logged, and those of components: info,rpc=debug,grpc=off"),
    CHOICE("log-format", log_format, "auto", "auto|json|text", "auto = text on a terminal"),
    {.name = NULL}};

const struct option_table service_options = {
    "bitnet-engine",
    "usage: bitnet-engine --model FILE.gguf [options]\n       bitnet-engine healthcheck [--target ADDRESS]\n", defs};

bool options_public_address(const char *address)
{
    char host[64];
    struct in_addr v4;
    struct in6_addr v6;
    const char *colon = memrchr(address, ':', strcspn(address, ","));
    if (strncmp(address, "unix:", 5) == 0)
        return false;
    if (!colon || (size_t)(colon - address) >= sizeof host)
        return true;
    bool bracket = address[0] == '[' && colon[-1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)(colon - address) - 2 * bracket, address + bracket);
    if (bracket)
        return inet_pton(AF_INET6, host, &v6) != 1 || !IN6_IS_ADDR_LOOPBACK(&v6);
    if (strcmp(host, "localhost") == 0)
        return false;
    return inet_pton(AF_INET, host, &v4) != 1 || ntohl(v4.s_addr) >> 24 != 127;
}

static enum error_code check_tls(const struct service_config *c, struct error *err)
{
    if (!c->tls_cert != !c->tls_key)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "tls-cert",
                               "TLS: expected --tls-cert and --tls-key together, found %s alone",
                               c->tls_cert ? "--tls-cert" : "--tls-key");
    if (c->tls_client_ca && !c->tls_cert)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "tls-client-ca",
                               "TLS: expected --tls-cert and --tls-key with --tls-client-ca, found neither");
    return ERROR_NONE;
}

enum error_code options_check(const struct service_config *c, struct error *err)
{
    if (c->log_level && log_check_levels(c->log_level, err))
        return ERROR_VALIDATION_FAILED;
    if ((!c->model || !c->model[0]) && (!c->state_file || !c->state_file[0]))
        return error_set_param(err, ERROR_VALIDATION_FAILED, "model", "--model: expected a GGUF file, found nothing");
    if (c->null_step_us && !c->null_model)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "null-step-us", "--null-step-us: expected --null-model with it, found it alone");
    if (c->null_model && c->model_id)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "model-id", "--model-id: expected none with --null-model, whose id is null-model");
    enum error_code code = check_tls(c, err);
    for (const char *p = c->listen; !code && *p; p += strcspn(p, ",") + (p[strcspn(p, ",")] == ',')) {
        p += strspn(p, " ");
        if (!memchr(p, ':', strcspn(p, ",")) && *p != ',' && *p)
            code = error_set_param(err, ERROR_VALIDATION_FAILED, "listen",
                                   "--listen: expected HOST:PORT, [IPv6]:PORT or unix:/PATH, found \"%.*s\"", (int)strcspn(p, ","), p);
        else if (options_public_address(p) && !c->tls_cert && !c->allow_insecure_public)
            code =
                error_set_param(err, ERROR_VALIDATION_FAILED, "listen",
                                "--listen: expected TLS (--tls-cert and --tls-key) or --allow-insecure-public, found "
                                "the public address %.*s without",
                                (int)strcspn(p, ","), p);
    }
    return code;
}

struct engine_options options_engine(const struct service_config *c, struct null_options *null)
{
    *null = (struct null_options){.step_ns = c->null_step_us * (CLOCK_NS_PER_MS / 1000)};
    static const char *const formats[] = {"auto", "i2s", "tl1", "tl2"};
    struct engine_options o = {.model_path = c->model,
                               .model_id = c->model_id,
                               .device = c->device,
                               .isa = c->isa && c->isa[0] ? c->isa : NULL,
                               .n_threads = (int)c->threads,
                               .pin = c->pin,
                               .numa = c->numa,
                               .idle_priority = c->idle_priority,
                               .i2s_order = strcmp(c->i2s_order, "128") == 0  ? I2S_ORDER_128
                                            : strcmp(c->i2s_order, "64") == 0 ? I2S_ORDER_64
                                                                              : -1,
                               .context_length = (size_t)c->context,
                               .kv_type = strcmp(c->kv_type, "int8") == 0 ? KV_INT8 : KV_F16,
                               .kv_cache_bytes = (size_t)c->kv_cache_size,
                               .max_sequences = (size_t)c->max_sequences,
                               .max_batch_tokens = (size_t)c->max_batch_tokens,
                               .queue_limit = (size_t)c->queue_limit,
                               .queue_tokens = (uint64_t)c->queue_tokens,
                               .queue_wait_ns = c->queue_wait_ms * CLOCK_NS_PER_MS,
                               .default_timeout_ns = c->default_timeout_ms * CLOCK_NS_PER_MS,
                               .stall_timeout_ns = c->stall_timeout_ms * CLOCK_NS_PER_MS,
                               .target_step_ns = c->target_itl_ms * CLOCK_NS_PER_MS,
                               .accuracy_share = c->accuracy_share,
                               .accuracy_threshold = c->accuracy_threshold,
                               .no_speculation = strcmp(c->speculation, "off") == 0,
                               .no_prefix_cache = strcmp(c->prefix_cache, "off") == 0};
    if (c->null_model)
        o.null_model = null;
    for (int i = 0; i < 4; i++)
        if (strcmp(c->quantization, formats[i]) == 0)
            o.format = (enum ternary_format)i;
    return o;
}
