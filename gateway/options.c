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
         "Addresses for clients, separated by commas: HOST:PORT, [IPv6]:PORT, unix:/PATH; port 0 takes a free one."},
    {"admin-listen", OPTION_STRING, AT(admin_listen), .default_value = "127.0.0.1:9091",
     .help = "Addresses for metrics and health; empty for none."},
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
    {"drain-timeout-ms", OPTION_INT, AT(drain_timeout_ms), .default_value = "45000", .min = 0, .max = 3600000,
     .unit = "ms", .help = "After SIGTERM, how long running answers may take to end."},
    {"max-request-memory", OPTION_SIZE, AT(max_request_memory_bytes), .default_value = "256M", .min = 0,
     .max = INT64_C(1) << 40, .unit = "bytes",
     .help = "Memory of all requests at a time, heads and bodies, on each event loop; others are told to come back. 0 for "
             "no limit."},
    {"compression", OPTION_CHOICE, AT(compression), .default_value = "on", .choices = "on|off",
     .help = "gzip for answers that are not streams, to clients that ask for it."},
    {"log-level", OPTION_CHOICE, AT(log_level), .default_value = "info", .choices = "debug|info|warn|error|off",
     .help = "Least level that is logged."},
    {"log-format", OPTION_CHOICE, AT(log_format), .default_value = "auto", .choices = "auto|json|text",
     .help = "Form of log lines; auto is text on a terminal and JSON elsewhere."},
    {0},
};

const struct option_table gateway_options = {
    .program = "bitnet-gateway",
    .usage = "usage: bitnet-gateway [OPTION]...\n"
             "       bitnet-gateway healthcheck [--url http://127.0.0.1:8080/health/live]\n\n"
             "REST, Server-Sent Events and the OpenAI API in front of bitnet-engine, over HTTP/1.1 and HTTP/2.\n",
    .defs = defs,
};
