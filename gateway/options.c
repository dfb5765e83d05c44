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
    {"rate-limits", OPTION_CHOICE, AT(rate_limits), .default_value = "on", .choices = "on|off",
     .help = "Whether the limits of requests per client and minute hold."},
    {"rate-limit-inference", OPTION_INT, AT(rate_limit_inference), .default_value = "100", .min = 0, .max = 1e9,
     .unit = "requests a minute", .help = "Limit of a client's inference and tokenization; 0 for none."},
    {"rate-limit-models", OPTION_INT, AT(rate_limit_models), .default_value = "10", .min = 0, .max = 1e9,
     .unit = "requests a minute", .help = "Limit of a client's loading, swapping and removal of models; 0 for none."},
    {"rate-limit-health", OPTION_INT, AT(rate_limit_health), .default_value = "600", .min = 0, .max = 1e9,
     .unit = "requests a minute",
     .help = "Limit of a client's requests for health, static pages and what does not exist; 0 for none."},
    {"rate-limit-stats", OPTION_INT, AT(rate_limit_stats), .default_value = "60", .min = 0, .max = 1e9,
     .unit = "requests a minute", .help = "Limit of a client's reading of statistics, devices and models; 0 for none."},
    {"client-concurrency", OPTION_INT, AT(client_concurrency), .default_value = "0", .min = 0, .max = 1e6,
     .help = "Inference requests of one client in flight at a time; 0 for no limit."},
    {"max-requests", OPTION_INT, AT(max_requests), .default_value = "4096", .min = 0, .max = 1e6,
     .help = "Inference requests in flight in all; more are refused with 503; 0 for no limit."},
    {"trusted-proxies", OPTION_STRING, AT(trusted_proxies), .default_value = "",
     .help = "Networks of proxies that are believed what they say of a client's address, separated by commas: "
             "ADDRESS, ADDRESS/BITS, or unix for local sockets."},
    {"forwarded-header", OPTION_CHOICE, AT(forwarded_header), .default_value = "x-forwarded-for",
     .choices = "x-forwarded-for|forwarded", .help = "The header in which trusted proxies say it."},
    {"jwt-key", OPTION_STRING, AT(jwt_key), .default_value = "",
     .help = "File with the key that tokens are verified with: a public key in PEM, or the secret of HS256."},
    {"jwt-jwks", OPTION_STRING, AT(jwt_jwks), .default_value = "",
     .help = "File with a JSON Web Key Set to verify tokens with, in place of jwt-key."},
    {"jwt-alg", OPTION_CHOICE, AT(jwt_alg), .default_value = "auto", .choices = "auto|HS256|RS256|ES256|EdDSA",
     .help =
         "The only algorithm of tokens; auto takes the one that belongs to the key's type, for public keys and sets."},
    {"jwt-issuer", OPTION_STRING, AT(jwt_issuer), .default_value = "",
     .help = "What iss of a token must be; empty for any."},
    {"jwt-audience", OPTION_STRING, AT(jwt_audience), .default_value = "",
     .help = "What aud of a token must be or contain; empty for any."},
    {"jwt-leeway-s", OPTION_INT, AT(jwt_leeway_s), .default_value = "30", .min = 0, .max = 3600, .unit = "s",
     .help = "How far clocks may differ where exp, nbf and iat of a token are checked."},
    {"api-keys", OPTION_STRING, AT(api_keys), .default_value = "",
     .help = "File with hashed API keys, as bitnet-gateway make-key prints them."},
    {"cors-origins", OPTION_STRING, AT(cors_origins), .default_value = "",
     .help = "Origins whose pages may read answers, separated by commas; * for all; empty for none."},
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
    {"log-level", OPTION_CHOICE, AT(log_level), .default_value = "info", .choices = "debug|info|warn|error|off",
     .help = "Least level that is logged."},
    {"log-format", OPTION_CHOICE, AT(log_format), .default_value = "auto", .choices = "auto|json|text",
     .help = "Form of log lines; auto is text on a terminal and JSON elsewhere."},
    {0},
};

const struct option_table gateway_options = {
    .program = "bitnet-gateway",
    .usage = "usage: bitnet-gateway [OPTION]...\n"
             "       bitnet-gateway make-key NAME [SCOPE,SCOPE...]\n"
             "       bitnet-gateway healthcheck [--url http://127.0.0.1:8080/health/live]\n\n"
             "REST, Server-Sent Events and the OpenAI API in front of bitnet-engine, over HTTP/1.1 and HTTP/2.\n",
    .defs = defs,
};
