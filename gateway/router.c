/*
 * From an exchange to a handler: request id, route, method; and the end of every request: metrics and the access log.
 */
#include "gateway/router.h"

#include "base/clock.h"
#include "base/crash.h"
#include "base/id.h"
#include "base/log.h"
#include "gateway/error.h"
#include "gateway/trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct route routes[] = {
    {HTTP_METHOD_POST, "/v1/inference", handle_inference, ROUTE_MAIN, LIMIT_INFERENCE, ACCESS_CLIENT},
    {HTTP_METHOD_POST, "/v1/inference/stream", handle_inference_stream, ROUTE_MAIN, LIMIT_INFERENCE, ACCESS_CLIENT},
    {HTTP_METHOD_POST, "/v1/chat/completions", handle_chat, ROUTE_MAIN, LIMIT_INFERENCE, ACCESS_CLIENT},
    {HTTP_METHOD_POST, "/v1/completions", handle_completions, ROUTE_MAIN, LIMIT_INFERENCE, ACCESS_CLIENT},
    {HTTP_METHOD_POST, "/v1/embeddings", handle_embeddings, ROUTE_MAIN, LIMIT_INFERENCE, ACCESS_CLIENT},
    {HTTP_METHOD_GET, "/v1/models", handle_models, ROUTE_MAIN, LIMIT_STATS, ACCESS_MODEL_LIST},
    {HTTP_METHOD_POST, "/v1/models/load", handle_model_load, ROUTE_MAIN, LIMIT_MODELS, ACCESS_MODEL_WRITE},
    {HTTP_METHOD_POST, "/v1/models/swap", handle_model_swap, ROUTE_MAIN, LIMIT_MODELS, ACCESS_MODEL_MANAGE},
    {HTTP_METHOD_GET, "/v1/models/{id}/status", handle_model_status, ROUTE_MAIN, LIMIT_STATS, ACCESS_MODEL_READ},
    {HTTP_METHOD_GET, "/v1/models/{id}", handle_model, ROUTE_MAIN, LIMIT_STATS, ACCESS_MODEL},
    {HTTP_METHOD_DELETE, "/v1/models/{id}", handle_model_unload, ROUTE_MAIN, LIMIT_MODELS, ACCESS_MODEL_MANAGE},
    {HTTP_METHOD_GET, "/v1/devices", handle_devices, ROUTE_MAIN, LIMIT_STATS, ACCESS_CLIENT},
    {HTTP_METHOD_GET, "/v1/stats", handle_stats, ROUTE_MAIN, LIMIT_STATS, ACCESS_CLIENT},
    {HTTP_METHOD_POST, "/tokenize", handle_tokenize, ROUTE_MAIN, LIMIT_INFERENCE, ACCESS_CLIENT},
    {HTTP_METHOD_POST, "/detokenize", handle_detokenize, ROUTE_MAIN, LIMIT_INFERENCE, ACCESS_CLIENT},
    {HTTP_METHOD_GET, "/health", handle_health, ROUTE_MAIN | ROUTE_ADMIN, LIMIT_HEALTH, ACCESS_HEALTH},
    {HTTP_METHOD_GET, "/health/live", handle_live, ROUTE_MAIN | ROUTE_ADMIN, LIMIT_HEALTH, ACCESS_OPEN},
    {HTTP_METHOD_GET, "/health/ready", handle_ready, ROUTE_MAIN | ROUTE_ADMIN, LIMIT_HEALTH, ACCESS_OPEN},
#ifdef FEATURE_PROMETHEUS
    {HTTP_METHOD_GET, "/metrics", handle_metrics, ROUTE_ADMIN, LIMIT_HEALTH, ACCESS_OPEN},
#endif
    {HTTP_METHOD_GET, "/debug/log-level", handle_log_level, ROUTE_ADMIN, LIMIT_HEALTH, ACCESS_OPEN},
    {HTTP_METHOD_PUT, "/debug/log-level", handle_set_log_level, ROUTE_ADMIN, LIMIT_HEALTH, ACCESS_OPEN},
    {HTTP_METHOD_GET, "/openapi.yaml", handle_document, ROUTE_MAIN, LIMIT_HEALTH, ACCESS_OPEN},
    {HTTP_METHOD_GET, "/openapi.json", handle_document, ROUTE_MAIN, LIMIT_HEALTH, ACCESS_OPEN},
    {HTTP_METHOD_GET, "/", handle_asset, ROUTE_MAIN, LIMIT_HEALTH, ACCESS_OPEN},
    {HTTP_METHOD_GET, "/assets/{id}", handle_asset, ROUTE_MAIN, LIMIT_HEALTH, ACCESS_OPEN},
    {HTTP_METHOD_GET, "/favicon.ico", handle_asset, ROUTE_MAIN, LIMIT_HEALTH, ACCESS_OPEN},
    {HTTP_METHOD_GET, "/robots.txt", handle_asset, ROUTE_MAIN, LIMIT_HEALTH, ACCESS_OPEN},
};

#define LINGER_NS (2 * CLOCK_NS_PER_S) /* for a client to end a connection after us */
#define N_ROUTES (sizeof routes / sizeof *routes)

const struct route *router_routes(size_t *n)
{
    *n = N_ROUTES;
    return routes;
}

/* Decodes what stands for {id}: one segment, no NUL. It may have an encoded slash, as names of models have. */
static bool decode_segment(const char *text, size_t n, char *out, size_t n_out)
{
    size_t to = 0;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (c == '%') {
            int byte = http_percent(text + i, n - i);
            if (byte < 0)
                return false;
            c = (char)byte;
            i += 2;
        }
        if (c == '\0' || to + 1 >= n_out)
            return false;
        out[to++] = c;
    }
    out[to] = '\0';
    return to > 0;
}

/* Does the path fit the pattern? A pattern has at most one {id}. */
static bool fits(const char *pattern, const char *path, char *param, size_t n_param)
{
    const char *brace = strchr(pattern, '{');
    if (!brace)
        return strcmp(pattern, path) == 0;
    size_t n_prefix = (size_t)(brace - pattern);
    if (strncmp(pattern, path, n_prefix) != 0)
        return false;
    size_t n = strcspn(path + n_prefix, "/");
    return strcmp(path + n_prefix + n, strchr(brace, '}') + 1) == 0 &&
           decode_segment(path + n_prefix, n, param, n_param);
}

const struct route *router_find(const char *path, enum http_method method, unsigned where, char *param, size_t n_param,
                                char allow[ROUTER_ALLOW_BYTES])
{
    const struct route *other = NULL;
    if (method == HTTP_METHOD_HEAD)
        method = HTTP_METHOD_GET;
    allow[0] = '\0';
    for (size_t i = 0; i < N_ROUTES; i++) {
        const struct route *route = &routes[i];
        if (!(route->where & where) || !fits(route->pattern, path, param, n_param))
            continue;
        if (route->method == method)
            return route;
        /* /v1/models/load fits /v1/models/{id} too; the literal one says which methods there are. */
        if (other && strcmp(other->pattern, route->pattern) != 0)
            continue;
        other = route;
        size_t n = strlen(allow);
        snprintf(allow + n, ROUTER_ALLOW_BYTES - n, "%s%s%s", n > 0 ? ", " : "", http_method_name(route->method),
                 route->method == HTTP_METHOD_GET ? ", HEAD" : "");
    }
    size_t n = strlen(allow);
    snprintf(allow + n, ROUTER_ALLOW_BYTES - n, "%s", n > 0 ? ", OPTIONS" : "");
    return NULL;
}

/* ---- requests ---- */

static struct request *request_open(struct gateway *g, struct http_exchange *x, bool admin)
{
    struct request *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    *r = (struct request){.g = g, .x = x, .http = http_request_of(x), .admin = admin, .started_ns = clock_now_ns()};
    const char *id = http_header(r->http, "x-request-id");
    if (id && id_request_id_valid(id))
        snprintf(r->id, sizeof r->id, "%s", id);
    else
        id_uuid(r->id);
    r->crash_place = crash_enter(r->id);
    access_begin(r);
    http_set_user(x, r);
    if (!admin) {
        g->n_active++;
        metrics_inc(g->m_active, 1); /* of all loops */
    }
    return r;
}

static void on_gone(void *user)
{
    struct request *r = user;
    if (r->on_gone)
        r->on_gone(r->user);
}

static void on_writable(void *user)
{
    struct request *r = user;
    if (r->on_writable)
        r->on_writable(r->user);
}

/* Plain OPTIONS: the methods of a path, or with * those of the server. False when there is nothing at the path. */
static bool answer_options(struct request *r, const char *allow)
{
    if (strcmp(r->http->path, "*") == 0)
        allow = "GET, HEAD, POST, DELETE, OPTIONS";
    if (allow[0] == '\0')
        return false;
    const struct http_header headers[] = {{"allow", allow}, {"x-request-id", r->id}, {NULL, NULL}};
    http_respond(r->x, 204, headers, "", 0);
    return true;
}

static void dispatch(struct gateway *g, struct http_exchange *x, bool admin)
{
    char allow[ROUTER_ALLOW_BYTES];
    struct request *r = request_open(g, x, admin);
    if (!r) {
        http_abort(x);
        return;
    }
    http_set_callbacks(x, on_gone, on_writable);
    unsigned where = admin ? ROUTE_ADMIN : ROUTE_MAIN;
    r->route = router_find(r->http->path, r->http->method, where, r->param, sizeof r->param, allow);
    if (!r->route && !admin && g->config->metrics_on_main && strcmp(r->http->path, "/metrics") == 0)
        r->route = router_find(r->http->path, r->http->method, ROUTE_ADMIN, r->param, sizeof r->param, allow);
    trace_begin(r);
    if (access_preflight(r, allow) || !access_admit(r))
        return;
    if (r->route) {
        r->route->handle(r);
        return;
    }
    if (r->http->method == HTTP_METHOD_OPTIONS && answer_options(r, allow))
        return;
    struct failure f;
    failure_init(&f);
    if (allow[0] != '\0')
        error_set(&f.error, ERROR_METHOD_NOT_ALLOWED, "this path takes %s", allow);
#ifdef FEATURE_PROMETHEUS
    else if (!admin && strcmp(r->http->path, "/metrics") == 0)
        error_set(&f.error, ERROR_NOT_FOUND,
                  "there is nothing at this path: metrics are on the admin port; --metrics-on-main has them here too");
#endif
    else
        error_set(&f.error, ERROR_NOT_FOUND, "there is nothing at this path");
    error_respond_with(r, &f, error_info(f.error.code)->http_status, allow[0] != '\0' ? allow : NULL);
    failure_fini(&f);
}

void gateway_request(void *gateway, struct http_exchange *x)
{
    dispatch(gateway, x, false);
}

void gateway_admin_request(void *gateway, struct http_exchange *x)
{
    dispatch(gateway, x, true);
}

static enum error_code rejection_code(int status)
{
    return status == 413   ? ERROR_PAYLOAD_TOO_LARGE
           : status == 503 ? ERROR_SERVICE_UNAVAILABLE
                           : ERROR_INVALID_REQUEST;
}

static void reject(struct gateway *g, struct http_exchange *x, bool admin, int status, const char *reason)
{
    struct request *r = request_open(g, x, admin);
    if (!r) {
        http_abort(x);
        return;
    }
    char allow[ROUTER_ALLOW_BYTES];
    unsigned where = admin ? ROUTE_ADMIN : ROUTE_MAIN;
    r->route = router_find(r->http->path, r->http->method, where, r->param, sizeof r->param, allow);
    trace_begin(r);
    access_count(r);
    struct failure f;
    failure_init(&f);
    error_set(&f.error, rejection_code(status), "%s", reason);
    error_respond_with(r, &f, status, NULL);
    failure_fini(&f);
}

void gateway_reject(void *gateway, struct http_exchange *x, int status, const char *reason)
{
    reject(gateway, x, false, status, reason);
}

void gateway_admin_reject(void *gateway, struct http_exchange *x, int status, const char *reason)
{
    reject(gateway, x, true, status, reason);
}

void gateway_finish(void *gateway, struct http_exchange *x, bool aborted)
{
    struct gateway *g = gateway;
    struct request *r = http_user(x);
    if (!r)
        return;
    char trace[TRACE_ID_TEXT_BYTES];
    int status = aborted ? 499 : http_status_of(x);
    double seconds = (double)(clock_now_ns() - r->started_ns) / 1e9;
    if (!r->admin) {
        g->n_active--;
        metrics_inc(g->m_active, -1);
    }
    access_end(r);
    trace_end(r, status);
    gateway_metrics_request(g, r, status, seconds);
    log_info("gateway", "request", LOG_STR("request_id", r->id), LOG_STR("method", http_method_name(r->http->method)),
             LOG_STR("path", r->http->path), LOG_INT("status", status), LOG_FLOAT("duration_ms", seconds * 1e3),
             LOG_INT("bytes", http_bytes_of(x)), LOG_INT("http", r->http->version), LOG_STR("peer", r->http->peer),
             LOG_STR("address", strcmp(r->access.address, r->http->peer) != 0 ? r->access.address : NULL),
             LOG_STR("client", r->access.client.id), LOG_STR("auth", client_kind_name(r->access.client.kind)),
             LOG_STR("trace_id", r->trace.known ? trace_id_write(&r->trace, trace) : NULL),
             LOG_STR("error", r->failed != ERROR_NONE ? error_info(r->failed)->name : NULL));
    http_set_user(x, NULL);
    crash_leave(r->crash_place);
    free(r);
}

void gateway_init_http(struct gateway *g)
{
    const struct gateway_config *c = g->config;
    g->main_http = (struct http_settings){
        .user = g,
        .max_body_bytes = (size_t)c->max_body_bytes,
        .max_head_bytes = (size_t)c->max_head_bytes,
        .max_streams = (uint32_t)c->max_streams,
        .compress = c->compression && strcmp(c->compression, "on") == 0,
        .limits = {.head_ns = c->head_timeout_ms * CLOCK_NS_PER_MS,
                   .body_ns = c->body_timeout_ms * CLOCK_NS_PER_MS,
                   .stall_ns = c->write_timeout_ms * CLOCK_NS_PER_MS,
                   .idle_ns = c->idle_timeout_ms * CLOCK_NS_PER_MS,
                   .linger_ns = LINGER_NS,
                   .drain_ns = c->lame_duck_ms * CLOCK_NS_PER_MS,
                   .min_rate = c->min_rate},
        .on_request = gateway_request,
        .on_reject = gateway_reject,
        .on_finish = gateway_finish,
    };
    g->request_memory = (struct http_memory){.max_bytes = (size_t)g->config->max_request_memory_bytes};
    if (g->request_memory.max_bytes > 0)
        g->main_http.memory = &g->request_memory;
    g->admin_http = g->main_http;
    g->admin_http.memory = NULL; /* metrics and health are to be had when clients have filled it */
    g->admin_http.on_request = gateway_admin_request;
    g->admin_http.on_reject = gateway_admin_reject;
}

/* ---- answers ---- */

void request_text(struct request *r, int status, const char *content_type, const struct buffer *body)
{
    const struct http_header headers[] = {{"content-type", content_type},
                                          {"x-request-id", r->id},
                                          {"cache-control", "no-store"},
                                          {status == 503 ? "retry-after" : NULL, "1"},
                                          {NULL, NULL}};
    if (body->failed)
        error_answer(r, ERROR_INTERNAL, "the answer is too large");
    else
        http_respond(r->x, status, headers, body->data ? body->data : "", body->n_bytes);
}

void request_json(struct request *r, int status, const struct buffer *body)
{
    request_text(r, status, "application/json", body);
}

void request_stream(struct request *r)
{
    const struct http_header headers[] = {{"content-type", "text/event-stream"},
                                          {"cache-control", "no-cache"},
                                          {"x-accel-buffering", "no"},
                                          {"x-request-id", r->id},
                                          {NULL, NULL}};
    http_start(r->x, 200, headers);
}
