/* The table of options. */
#include "gateway/options.h"

#include "base/log.h"
#include "gateway/gateway.h"
#include "gateway/listener.h"
#include "rpc/rpc.h"

#include <stddef.h>
#include <string.h>

#define AT(member) .offset = offsetof(struct gateway_config, member)

static const struct option_def defs[] = {
    /* The engines. */
    {"engine", OPTION_STRING, AT(engine), .default_value = "127.0.0.1:50051",
     .help = "gRPC targets of the engines, separated by commas: HOST:PORT, [IPv6]:PORT, dns:///NAME:PORT or unix:/PATH; a "
             "name stands for all of its addresses."},
    {"balance", OPTION_CHOICE, AT(balance), .default_value = "round_robin", .choices = "round_robin|least_load",
     .help = "Which engine gets a request: each in turn, or the one with the fewest of this gateway's in flight."},
    {"affinity", OPTION_CHOICE, AT(affinity), .default_value = "none", .choices = "none|prefix",
     .help = "prefix sends requests that begin alike, or have the same prompt_cache_key, to the same engine."},
    {"engine-tries", OPTION_INT, AT(engine_tries), .default_value = "3", .min = 1, .max = 10,
     .help = "Attempts at a request, the first included, as long as nothing of an answer has come."},
    {"hedge-ms", OPTION_INT, AT(hedge_ms), .default_value = "0", .min = 0, .max = 3600000, .unit = "ms",
     .help = "A request without a first token by then goes to a second engine too, and the first to answer wins; 0 for never."},
    {"engine-resolve-ms", OPTION_INT, AT(engine_resolve_ms), .default_value = "5000", .min = 100, .max = 3600000,
     .unit = "ms", .help = "Time between two lookups of an engine's name."},
    {"engine-keepalive-ms", OPTION_INT, AT(engine_keepalive_ms), .default_value = "10000", .min = RPC_MIN_KEEPALIVE_MS,
     .max = 3600000, .unit = "ms", .help = "An engine that has sent nothing for so long is pinged."},
    {"engine-keepalive-timeout-ms", OPTION_INT, AT(engine_keepalive_timeout_ms), .default_value = "5000", .min = 100,
     .max = 3600000, .unit = "ms", .help = "Without an answer to that for so long its connection is given up."},
    {"engine-tls-ca", OPTION_STRING, AT(engine_tls_ca),
     .help = "TLS to the engines: PEM file of the CA that signed their certificates."},
    {"engine-tls-cert", OPTION_STRING, AT(engine_tls_cert),
     .help = "PEM file of our certificate, for engines with --tls-client-ca."},
    {"engine-tls-key", OPTION_STRING, AT(engine_tls_key), .help = "PEM file of its key."},
    {"engine-tls-name", OPTION_STRING, AT(engine_tls_name),
     .help = "Name that each engine's certificate must have, where it is not the one in --engine."},
    /* Listeners. */
    {"listen", OPTION_STRING, AT(listen), .default_value = "127.0.0.1:8080",
     .help =
         "Addresses for clients, separated by commas: HOST:PORT, [IPv6]:PORT, unix:/PATH; port 0 takes a free one. "
         "https:// or http:// in front of one says whether it speaks TLS, which without is as --tls-cert says."},
    {"admin-listen", OPTION_STRING, AT(admin_listen), .default_value = "127.0.0.1:9091",
     .help = "Addresses for metrics and health, plain unless https:// is in front; empty for none."},
#ifdef FEATURE_PROMETHEUS
    {"metrics-on-main", OPTION_BOOL, AT(metrics_on_main), .default_value = "false",
     .help = "Answers /metrics on the clients' addresses too."},
#endif
    {"playground", OPTION_CHOICE, AT(playground), .default_value = "on", .choices = "on|off",
     .help = "Serves a page to try the models with at / of the clients' addresses; off answers 404 there."},
    {"threads", OPTION_INT, AT(threads), .default_value = "1", .min = 1, .max = LISTENER_MAX_SERVERS,
     .help = "Event loops, each on its own thread with its own connection to each engine."},
    {"tls-cert", OPTION_STRING, AT(tls_cert),
     .help = "PEM file of the certificate with its chain; TCP addresses of --listen then speak TLS."},
    {"tls-key", OPTION_STRING, AT(tls_key), .help = "PEM file of its key."},
    {"tls-client-ca", OPTION_STRING, AT(tls_client_ca),
     .help = "PEM file of the CA whose clients are let in (mutual TLS); others are refused."},
    {"tls-client-id", OPTION_CHOICE, AT(tls_client_id), .default_value = "none", .choices = "none|cn|uri",
     .help = "What of a client's certificate names it in limits, fairness and log, where it has no token or key: the common name, or the "
             "first URI of its alternative names; none: it is known by its address."},
    /* What a connection may be, and a request. */
    {"max-connections", OPTION_INT, AT(max_connections), .default_value = "4096", .min = 1, .max = 1 << 20,
     .help = "Connections at a time; more wait to be accepted."},
    {"max-connections-per-address", OPTION_INT, AT(max_connections_per_address), .default_value = "1024", .min = 0,
     .max = 1 << 20,
     .help = "Connections of one client address, or IPv6 /64, at a time; more are turned away; 0 for no limit. Those of "
             "trusted proxies do not count."},
    {"max-streams", OPTION_INT, AT(max_streams), .default_value = "128", .min = 1, .max = 65536,
     .help = "Requests at a time on one HTTP/2 connection."},
    {"max-head-size", OPTION_SIZE, AT(max_head_bytes), .default_value = "16K", .min = 1024, .max = 61440,
     .unit = "bytes", .help = "Largest request line and header fields together."},
    {"max-body-size", OPTION_SIZE, AT(max_body_bytes), .default_value = "1M", .min = 1024, .max = 1 << 30,
     .unit = "bytes", .help = "Largest body of a request."},
    {"max-request-memory", OPTION_SIZE, AT(max_request_memory_bytes), .default_value = "256M", .min = 0,
     .max = INT64_C(1) << 40, .unit = "bytes",
     .help = "Memory of all requests at a time, heads and bodies, on each event loop; others are refused with 503. 0 for "
             "no limit."},
    {"max-prompt-chars", OPTION_INT, AT(max_prompt_chars), .default_value = "8192", .min = 1, .max = 1 << 24,
     .unit = "characters", .help = "Longest prompt of /v1/inference and /v1/inference/stream."},
    {"request-timeout-ms", OPTION_INT, AT(request_timeout_ms), .default_value = "600000", .min = 1, .max = 86400000,
     .unit = "ms", .help = "Longest time for a request that names none."},
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
    {"compression", OPTION_CHOICE, AT(compression), .default_value = "on", .choices = "on|off",
     .help = "gzip for answers that are not streams, to clients that ask for it."},
    /* Who may come in. */
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
    {"trusted-proxies", OPTION_STRING, AT(trusted_proxies), .default_value = "",
     .help = "Networks of proxies that are believed what they say of a client's address, separated by commas: "
             "ADDRESS, ADDRESS/BITS, or unix for local sockets."},
    {"forwarded-header", OPTION_CHOICE, AT(forwarded_header), .default_value = "x-forwarded-for",
     .choices = "x-forwarded-for|forwarded", .help = "The header in which trusted proxies say it."},
    {"cors-origins", OPTION_STRING, AT(cors_origins), .default_value = "",
     .help = "Origins whose pages may read answers, separated by commas; * for all; empty for none."},
    {"rate-limits", OPTION_CHOICE, AT(rate_limits), .default_value = "on", .choices = "on|off",
     .help = "Whether the limits of requests a minute hold; they are counted for each client, by this process."},
    {"rate-limit-inference", OPTION_INT, AT(rate_limit_inference), .default_value = "100", .min = 0, .max = 1e9,
     .unit = "requests a minute", .help = "Limit of a client's inference and tokenization; 0 for none."},
    {"rate-limit-models", OPTION_INT, AT(rate_limit_models), .default_value = "10", .min = 0, .max = 1e9,
     .unit = "requests a minute", .help = "Limit of a client's loading, swapping and removal of models; 0 for none."},
    {"rate-limit-stats", OPTION_INT, AT(rate_limit_stats), .default_value = "60", .min = 0, .max = 1e9,
     .unit = "requests a minute", .help = "Limit of a client's reading of statistics, devices and models; 0 for none."},
    {"rate-limit-health", OPTION_INT, AT(rate_limit_health), .default_value = "600", .min = 0, .max = 1e9,
     .unit = "requests a minute",
     .help = "Limit of a client's requests for health, static pages and what does not exist; 0 for none."},
    {"client-concurrency", OPTION_INT, AT(client_concurrency), .default_value = "0", .min = 0, .max = 1e6,
     .help = "Inference requests of one client in flight at a time; 0 for no limit."},
    {"max-requests", OPTION_INT, AT(max_requests), .default_value = "4096", .min = 0, .max = 1e6,
     .help = "Inference requests in flight in this process; more are refused with 503; 0 for no limit."},
    /* The end, and the log. */
    {"lame-duck-ms", OPTION_INT, AT(lame_duck_ms), .default_value = "500", .min = 0, .max = 600000, .unit = "ms",
     .help = "After SIGTERM, how long open connections may still bring requests before they are closed."},
    {"drain-timeout-ms", OPTION_INT, AT(drain_timeout_ms), .default_value = "45000", .min = 0, .max = 3600000,
     .unit = "ms", .help = "After SIGTERM, how long running answers may take to end."},
    {"log-level", OPTION_STRING, AT(log_level), .default_value = "info",
     .help = "Least level that is logged (debug, info, warn, error, off), and those of components: info,rpc=debug,grpc=off."},
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
    if (c->tls_client_id && strcmp(c->tls_client_id, "none") != 0 && !c->tls_client_ca)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "tls-client-id", "--tls-client-id: expected --tls-client-ca with it");
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (pairs[i].one && !pairs[i].other)
            return error_set_param(err, ERROR_VALIDATION_FAILED, pairs[i].name, "--%s: expected --%s with it",
                                   pairs[i].name, pairs[i].other_name);
    return log_check_levels(c->log_level, err);
}

const struct option_table gateway_options = {
    .program = "bitnet-gateway",
    .usage = "usage: bitnet-gateway [OPTION]...\n"
             "       bitnet-gateway make-key NAME [SCOPE,SCOPE...]\n"
             "       bitnet-gateway healthcheck [--url http://127.0.0.1:9091/health/live]\n\n"
             "REST, Server-Sent Events and the OpenAI API in front of bitnet-engine, over HTTP/1.1 and HTTP/2.\n",
    .defs = defs,
};
