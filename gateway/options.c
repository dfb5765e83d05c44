/* The table of options. */
#include "gateway/options.h"

#include "gateway/gateway.h"

#include <stddef.h>

#define AT(member) .offset = offsetof(struct gateway_config, member)

static const struct option_def defs[] = {
    {"engine", OPTION_STRING, AT(engine), .default_value = "127.0.0.1:50051",
     .help = "gRPC target of the engine: HOST:PORT, dns:///NAME:PORT or unix:/PATH."},
    {"listen", OPTION_STRING, AT(listen), .default_value = "127.0.0.1:8080",
     .help =
         "Addresses for clients, separated by commas: HOST:PORT, [IPv6]:PORT, unix:/PATH; port 0 takes a free one. "
         "https:// or http:// in front of one says whether it speaks TLS, which without is as --tls-cert says."},
    {"admin-listen", OPTION_STRING, AT(admin_listen), .default_value = "127.0.0.1:9091",
     .help = "Addresses for metrics and health, plain unless https:// is in front; empty for none."},
    {"metrics-on-main", OPTION_BOOL, AT(metrics_on_main), .default_value = "false",
     .help = "Answers /metrics on the clients' addresses too."},
    {"rate-limits", OPTION_CHOICE, AT(rate_limits), .default_value = "off", .choices = "off",
     .help = "Limits of requests per client; off is the only choice so far."},
    {"max-body-size", OPTION_SIZE, AT(max_body_bytes), .default_value = "1M", .min = 1024, .max = 1 << 30,
     .unit = "bytes", .help = "Largest body of a request."},
    {"max-prompt-chars", OPTION_INT, AT(max_prompt_chars), .default_value = "8192", .min = 1, .max = 1 << 24,
     .unit = "characters", .help = "Longest prompt of /v1/inference."},
    {"request-timeout-ms", OPTION_INT, AT(request_timeout_ms), .default_value = "600000", .min = 1, .max = 86400000,
     .unit = "ms", .help = "Longest time for a request that names none."},
    {"max-connections", OPTION_INT, AT(max_connections), .default_value = "4096", .min = 1, .max = 1 << 20,
     .help = "Connections at a time; more wait to be accepted."},
    {"max-connections-per-address", OPTION_INT, AT(max_connections_per_address), .default_value = "1024", .min = 0,
     .max = 1 << 20,
     .help = "Connections of one client address, or IPv6 /64, at a time; more are turned away; 0 for no limit."},
    {"threads", OPTION_INT, AT(threads), .default_value = "1", .min = 1, .max = 64,
     .help = "Event loops, each on its own thread with its own connection to the engine."},
    {"max-head-size", OPTION_SIZE, AT(max_head_bytes), .default_value = "16K", .min = 1024, .max = 61440,
     .unit = "bytes", .help = "Largest request line and header fields together."},
    {"max-streams", OPTION_INT, AT(max_streams), .default_value = "128", .min = 1, .max = 65536,
     .help = "Requests at a time on one HTTP/2 connection."},
    {"head-timeout-ms", OPTION_INT, AT(head_timeout_ms), .default_value = "10000", .min = 100, .max = 3600000,
     .unit = "ms", .help = "Time for a TLS handshake, and for a whole request head."},
    {"body-timeout-ms", OPTION_INT, AT(body_timeout_ms), .default_value = "10000", .min = 100, .max = 3600000,
     .unit = "ms", .help = "Time for a request's body, and a second more for each --min-rate bytes of it."},
    {"write-timeout-ms", OPTION_INT, AT(write_timeout_ms), .default_value = "60000", .min = 100, .max = 3600000,
     .unit = "ms",
     .help = "A client that leaves an answer waiting so long is cut off, unless it takes --min-rate bytes a second."},
    {"idle-timeout-ms", OPTION_INT, AT(idle_timeout_ms), .default_value = "75000", .min = 100, .max = 86400000,
     .unit = "ms", .help = "How long a connection without a request is kept."},
    {"min-rate", OPTION_SIZE, AT(min_rate), .default_value = "240", .min = 0, .max = 1 << 30, .unit = "bytes/s",
     .help = "Slowest body and slowest reader, after the grace of their timeouts; 0: a trickle gains no time."},
    {"tls-cert", OPTION_STRING, AT(tls_cert),
     .help = "PEM file of the certificate with its chain; TCP addresses of --listen then speak TLS."},
    {"tls-key", OPTION_STRING, AT(tls_key), .help = "PEM file of its key."},
    {"tls-client-ca", OPTION_STRING, AT(tls_client_ca),
     .help = "PEM file of the CA whose clients are let in (mutual TLS); others are refused."},
    {"engine-tls-ca", OPTION_STRING, AT(engine_tls_ca),
     .help = "TLS to the engine: PEM file of the CA that signed its certificate."},
    {"engine-tls-cert", OPTION_STRING, AT(engine_tls_cert),
     .help = "PEM file of our certificate, for an engine with --tls-client-ca."},
    {"engine-tls-key", OPTION_STRING, AT(engine_tls_key), .help = "PEM file of its key."},
    {"engine-tls-name", OPTION_STRING, AT(engine_tls_name),
     .help = "Name that the engine's certificate must have, where it is not the one in --engine."},
    {"lame-duck-ms", OPTION_INT, AT(lame_duck_ms), .default_value = "500", .min = 0, .max = 600000, .unit = "ms",
     .help = "After SIGTERM, how long open connections may still bring requests before they are closed."},
    {"drain-timeout-ms", OPTION_INT, AT(drain_timeout_ms), .default_value = "45000", .min = 0, .max = 3600000,
     .unit = "ms", .help = "After SIGTERM, how long running answers may take to end."},
    {"log-level", OPTION_CHOICE, AT(log_level), .default_value = "info", .choices = "debug|info|warn|error|off",
     .help = "Least level that is logged."},
    {"log-format", OPTION_CHOICE, AT(log_format), .default_value = "auto", .choices = "auto|json|text",
     .help = "Form of log lines; auto is text on a terminal and JSON elsewhere."},
    {0},
};

enum error_code gateway_options_check(const struct gateway_config *c, struct error *err)
{
    const struct {
        const char *one, *name, *other, *other_name;
    } pairs[] = {
        {c->tls_cert, "tls-cert", c->tls_key, "tls-key"},
        {c->tls_key, "tls-key", c->tls_cert, "tls-cert"},
        {c->tls_client_ca, "tls-client-ca", c->tls_cert, "tls-cert"},
        {c->engine_tls_cert, "engine-tls-cert", c->engine_tls_key, "engine-tls-key"},
        {c->engine_tls_key, "engine-tls-key", c->engine_tls_cert, "engine-tls-cert"},
        {c->engine_tls_cert, "engine-tls-cert", c->engine_tls_ca, "engine-tls-ca"},
        {c->engine_tls_name, "engine-tls-name", c->engine_tls_ca, "engine-tls-ca"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (pairs[i].one && !pairs[i].other)
            return error_set_param(err, ERROR_VALIDATION_FAILED, pairs[i].name, "--%s: expected --%s with it",
                                   pairs[i].name, pairs[i].other_name);
    return ERROR_NONE;
}

const struct option_table gateway_options = {
    .program = "bitnet-gateway",
    .usage = "usage: bitnet-gateway [OPTION]...\n"
             "       bitnet-gateway healthcheck [--url http://127.0.0.1:8080/health/live]\n\n"
             "REST, Server-Sent Events and the OpenAI API in front of bitnet-engine, over HTTP/1.1 and HTTP/2.\n",
    .defs = defs,
};
