/*
 * The gateway's application side: what all handlers share. There is one struct gateway for each event loop, and everything
 * here belongs to that loop's thread; the CQ threads of rpc run beside it and go no further than bridge.c. Loops share the
 * configuration, which does not change, the metrics, which any thread may update, and struct access, which has its locks.
 */
#ifndef GATEWAY_GATEWAY_H
#define GATEWAY_GATEWAY_H

#include "base/error.h"
#include "base/metrics.h"
#include "gateway/access.h"
#include "gateway/http.h"
#include "trace/trace.h"

#include <stdbool.h>
#include <stdint.h>

#define GATEWAY_REQUEST_ID_BYTES 129

struct event_base;
struct engine;
struct health;
struct job;
struct change;
struct field;

/* The program's options, as the table in options.c groups them. Texts of choices are those of the table. */
struct gateway_config {
    /* The engines. */
    const char *engine, *balance, *affinity;
    int64_t engine_tries, hedge_ms, engine_resolve_ms, engine_keepalive_ms, engine_keepalive_timeout_ms;
    const char *engine_tls_ca, *engine_tls_cert, *engine_tls_key, *engine_tls_name;
    /* Listeners. */
    const char *listen, *admin_listen, *playground;
    bool metrics_on_main;
    int64_t threads;
    const char *tls_cert, *tls_key, *tls_client_ca, *tls_client_id;
    /* What a connection may be, and a request. */
    int64_t max_connections, max_connections_per_address, max_streams;
    int64_t max_head_bytes, max_body_bytes, max_prompt_chars, max_request_memory_bytes; /* the last: 0 = no bound */
    int64_t request_timeout_ms, head_timeout_ms, body_timeout_ms, write_timeout_ms, idle_timeout_ms, min_rate;
    const char *compression;
    /* Who may come in; access.c. */
    const char *jwt_key, *jwt_jwks, *jwt_alg, *jwt_issuer, *jwt_audience;
    int64_t jwt_leeway_s;
    const char *api_keys, *trusted_proxies, *forwarded_header, *cors_origins;
    const char *rate_limits;
    int64_t rate_limit_inference, rate_limit_models, rate_limit_stats, rate_limit_health;
    int64_t client_concurrency, max_requests;
    /* The end, and the log. */
    int64_t lame_duck_ms, drain_timeout_ms;
    const char *log_level, *log_format;
};

struct gateway {
    const struct gateway_config *config;
    struct event_base *base;
    struct engine *engine;
    struct health *health;
    struct access *access; /* shared by all loops; NULL = everything is open */
    struct tracer *tracer; /* likewise; NULL = tracing is off */
    struct metrics *metrics;
    struct metrics_family *m_requests, *m_duration, *m_errors;
    struct metrics_series *m_active;
    struct job *jobs; /* generations in flight; job.c */
    struct change *changes; /* of models, under way; change.c */
    struct http_settings main_http, admin_http;
    struct http_memory request_memory; /* of the main port */
    int64_t started_ns;
    size_t n_active; /* requests in flight on the main port */
    bool draining;
};

struct request;

struct route {
    enum http_method method;
    const char *pattern; /* "/v1/models/{id}"; the label `endpoint` */
    void (*handle)(struct request *r);
    unsigned where; /* ROUTE_MAIN | ROUTE_ADMIN */
    enum limit_class limit;
    enum access_rule access;
};

enum { ROUTE_MAIN = 1, ROUTE_ADMIN = 2 };

/* One HTTP request on its way through; made by the router, freed when its exchange is over. */
struct request {
    struct gateway *g;
    struct http_exchange *x;
    const struct http_request *http;
    const struct route *route; /* NULL: none fits */
    bool admin;                /* came in on the admin port */
    char id[GATEWAY_REQUEST_ID_BYTES];
    struct trace_context trace; /* where it is in its trace: our place when tracing is on, else the caller's, if any */
    struct span *span;          /* NULL: not recorded */
    char param[128];                             /* what stood for {id}, decoded */
    uint64_t affinity; /* key of the conversation, affinity.h; 0 = none */
    int64_t started_ns;
    int crash_place;            /* in the crash report's list */
    struct access_request access; /* the client */
    enum error_code failed;     /* for log and metrics */
    const struct field *fields; /* the endpoint's table, to name fields of engine errors; NULL = none */
    void *user;                 /* the handler's, for the two callbacks */
    void (*on_gone)(void *user);
    void (*on_writable)(void *user);
};

/* Answers with a JSON body (borrowed). */
void request_json(struct request *r, int status, const struct buffer *body);
/* Answers with a body of another type. */
void request_text(struct request *r, int status, const char *content_type, const struct buffer *body);
/* Begins a Server-Sent Events answer. */
void request_stream(struct request *r);

/* router.c */
void gateway_request(void *gateway, struct http_exchange *x);
void gateway_admin_request(void *gateway, struct http_exchange *x);
void gateway_reject(void *gateway, struct http_exchange *x, int status, const char *reason);
void gateway_admin_reject(void *gateway, struct http_exchange *x, int status, const char *reason);
void gateway_finish(void *gateway, struct http_exchange *x, bool aborted);
/* Fills the settings of both ports. */
void gateway_init_http(struct gateway *g);

/* metrics.c: makes the registry, unless another loop has (g->metrics). */
enum error_code gateway_metrics_open(struct gateway *g);
void gateway_metrics_request(struct gateway *g, const struct request *r, int status, double seconds);

/* Handlers, one file for each family. */
void handle_inference(struct request *r);
void handle_inference_stream(struct request *r);
void handle_chat(struct request *r);
void handle_completions(struct request *r);
void handle_embeddings(struct request *r);
void handle_models(struct request *r);
void handle_model(struct request *r);
void handle_model_status(struct request *r);
void handle_model_load(struct request *r);
void handle_model_swap(struct request *r);
void handle_model_unload(struct request *r);
void handle_devices(struct request *r);
void handle_stats(struct request *r);
void handle_document(struct request *r);
void handle_tokenize(struct request *r);
void handle_detokenize(struct request *r);
void handle_health(struct request *r);
void handle_live(struct request *r);
void handle_ready(struct request *r);
void handle_metrics(struct request *r);
void handle_log_level(struct request *r);
void handle_set_log_level(struct request *r);
void handle_asset(struct request *r);

#endif
