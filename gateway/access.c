/* The steps of admission, and what they say in the answer. */
#include "gateway/access.h"

#include "base/clock.h"
#include "base/metrics.h"
#include "gateway/auth.h"
#include "gateway/cors.h"
#include "gateway/error.h"
#include "gateway/gateway.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define N_BUCKETS 65536 /* of 32 bytes */
#define REALM "Bearer realm=\"bitnetd\""

struct access {
    const struct gateway_config *config; /* borrowed */
    struct auth *auth;
    struct limits *limits;
    struct proxies *proxies;
    struct metrics_series *m_auth, *m_rate, *m_concurrency, *m_full;
};

/* What a rule asks for, and who gets a part without it (bits of 1 << client_kind). */
static const struct {
    unsigned scope, part;
    bool management;
} rules[] = {
    [ACCESS_CLIENT] = {0, 0, false},
    [ACCESS_OPEN] = {0, 0, false},
    [ACCESS_HEALTH] = {0, 1 << CLIENT_ANYONE, false},
    [ACCESS_MODEL_LIST] = {SCOPE_MODEL_READ, 1 << CLIENT_ANYONE | 1 << CLIENT_KEY | 1 << CLIENT_JWT, false},
    [ACCESS_MODEL] = {SCOPE_MODEL_READ, 1 << CLIENT_KEY, false},
    [ACCESS_MODEL_READ] = {SCOPE_MODEL_READ, 0, false},
    [ACCESS_MODEL_WRITE] = {SCOPE_MODEL_WRITE, 0, true},
    [ACCESS_MODEL_MANAGE] = {SCOPE_MODEL_MANAGE, 0, true},
};

/* ---- open ---- */

static enum error_code open_limits(struct access *a, struct error *err)
{
    const struct gateway_config *c = a->config;
    bool on = c->rate_limits && strcmp(c->rate_limits, "on") == 0;
    const struct limits_options options = {
        .per_minute = {on ? c->rate_limit_inference : 0, on ? c->rate_limit_models : 0, on ? c->rate_limit_health : 0,
                       on ? c->rate_limit_stats : 0},
        .client_concurrency = c->client_concurrency,
        .max_requests = c->max_requests,
        .n_buckets = on ? N_BUCKETS : 0,
    };
    a->limits = limits_open(&options);
    return a->limits ? ERROR_NONE : error_set(err, ERROR_INTERNAL, "out of memory");
}

static enum error_code open_auth(struct access *a, struct error *err)
{
    const struct gateway_config *c = a->config;
    const struct jwt_options jwt = {
        .key_file = c->jwt_key,
        .jwks_file = c->jwt_jwks,
        .alg = c->jwt_alg ? c->jwt_alg : "auto",
        .issuer = c->jwt_issuer,
        .audience = c->jwt_audience,
        .leeway_s = c->jwt_leeway_s,
    };
    return auth_open(&jwt, c->api_keys, &a->auth, err);
}

static enum error_code open_metrics(struct access *a, struct metrics *m, struct error *err)
{
    struct metrics_family *f = metrics_add(m, METRICS_COUNTER, "bitnet_admission_rejections_total",
                                           "Requests that were not let in.", "reason", NULL, 0);
    if (!f)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    a->m_auth = metrics_get(f, "auth");
    a->m_rate = metrics_get(f, "rate_limit");
    a->m_concurrency = metrics_get(f, "concurrency");
    a->m_full = metrics_get(f, "max_requests");
    return ERROR_NONE;
}

enum error_code access_open(const struct gateway_config *config, struct metrics *metrics, struct access **out,
                            struct error *err)
{
    struct access *a = calloc(1, sizeof *a);
    if (!a)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    a->config = config;
    bool forwarded = config->forwarded_header && strcmp(config->forwarded_header, "forwarded") == 0;
    enum error_code code = cors_check(config->cors_origins, err);
    if (code == ERROR_NONE)
        code = proxies_open(config->trusted_proxies, forwarded, &a->proxies, err);
    if (code == ERROR_NONE)
        code = open_limits(a, err);
    if (code == ERROR_NONE)
        code = open_metrics(a, metrics, err);
    if (code == ERROR_NONE)
        code = open_auth(a, err);
    if (code == ERROR_NONE)
        *out = a;
    else
        access_close(a);
    return code;
}

void access_close(struct access *a)
{
    if (!a)
        return;
    auth_close(a->auth);
    limits_close(a->limits);
    proxies_close(a->proxies);
    free(a);
}

const struct proxies *access_proxies(const struct access *a)
{
    return a->proxies;
}

void access_reload(struct access *a)
{
    auth_reload(a->auth);
}

/* ---- header fields ---- */

static void add_field(struct request *r, const char *name, const char *value)
{
    struct access_headers *h = &r->access.headers;
    if (h->n < ACCESS_MAX_HEADERS)
        h->list[h->n++] = (struct http_header){name, value};
}

static void print_field(struct request *r, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void print_field(struct request *r, const char *name, const char *format, ...)
{
    struct access_headers *h = &r->access.headers;
    char *to = h->text + h->n_text;
    size_t room = sizeof h->text - h->n_text;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(to, room, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= room)
        return;
    h->n_text += (size_t)n + 1;
    add_field(r, name, to);
}

static int64_t seconds_up(int64_t ns)
{
    return ns > 0 ? (ns + CLOCK_NS_PER_S - 1) / CLOCK_NS_PER_S : 0;
}

/* X-RateLimit-* as they are customary, RateLimit and RateLimit-Policy of draft-ietf-httpapi-ratelimit-headers-11. */
static void put_limit(struct request *r, enum limit_class class, const struct limit_state *s, int64_t now_ns)
{
    if (s->limit == 0)
        return;
    int64_t left_ns = s->reset_ns - now_ns;
    print_field(r, "x-ratelimit-limit", "%lld", (long long)s->limit);
    print_field(r, "x-ratelimit-remaining", "%lld", (long long)s->remaining);
    print_field(r, "x-ratelimit-reset", "%lld", (long long)seconds_up(clock_wall_ns() + left_ns));
    print_field(r, "ratelimit-policy", "\"%s\";q=%lld;w=%d", limit_class_name(class), (long long)s->limit,
                LIMITS_WINDOW_S);
    print_field(r, "ratelimit", "\"%s\";r=%lld;t=%lld", limit_class_name(class), (long long)s->remaining,
                (long long)seconds_up(left_ns));
}

/* Of a request from a page: whether that page may read the answer. */
static void put_cors(struct request *r, const char *origins)
{
    const char *origin = http_header(r->http, "origin");
    if (!origins || origins[0] == '\0')
        return;
    if (!cors_any(origins))
        add_field(r, "vary", "Origin"); /* also where none came: a cache must not give this answer to a page */
    if (!origin || !cors_allows(origins, origin))
        return;
    add_field(r, "access-control-allow-origin", cors_any(origins) ? "*" : origin);
    if (!cors_any(origins))
        add_field(r, "access-control-allow-credentials", "true");
    add_field(r, "access-control-expose-headers",
              "X-Request-Id, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, X-RateLimit-Retry-After, "
              "RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate");
}

/* A certificate names the client at the other end of the connection; behind a trusted proxy that is not the one who asks. */
static void take_certificate(struct request *r)
{
    struct client *client = &r->access.client;
    const char *name = r->http->certificate;
    if (r->admin || !client_id_valid(name) || strcmp(r->access.address, r->http->peer) != 0)
        return;
    snprintf(client->id, sizeof client->id, "%s", name);
    client->kind = CLIENT_CERTIFICATE;
}

void access_begin(struct request *r)
{
    struct access *a = r->g->access;
    if (a && !r->admin) {
        proxies_address(a->proxies, r->http, r->access.address);
        put_cors(r, a->config->cors_origins);
        http_set_extra(r->x, r->access.headers.list);
    } else {
        snprintf(r->access.address, sizeof r->access.address, "%s", r->http->peer);
    }
    proxies_client(r->access.address, r->access.client.id, sizeof r->access.client.id);
    take_certificate(r);
}

bool access_preflight(struct request *r, const char *allow)
{
    const struct access *a = r->g->access;
    const char *origins = a && !r->admin ? a->config->cors_origins : NULL;
    const char *origin = http_header(r->http, "origin");
    const char *names = http_header(r->http, "access-control-request-headers");
    if (r->http->method != HTTP_METHOD_OPTIONS || !origins || origins[0] == '\0' || allow[0] == '\0' || !origin ||
        !http_header(r->http, "access-control-request-method"))
        return false;
    if (!cors_allows(origins, origin)) {
        error_answer(r, ERROR_AUTHORIZATION_FAILED, "pages of %s may not call this server (cors-origins)", origin);
        return true;
    }
    const struct http_header headers[] = {
        {"x-request-id", r->id},
        {"access-control-allow-methods", allow},
        {"access-control-max-age", "600"},
        {"vary", "Access-Control-Request-Headers"},
        {names && cors_names_valid(names) ? "access-control-allow-headers" : NULL, names},
        {NULL, NULL},
    };
    http_respond(r->x, 204, headers, "", 0);
    return true;
}

/* ---- who it is ---- */

/* The text of the credential, or NULL; an Authorization that is none is an error. */
static const char *credential_of(const struct http_request *http, struct error *err)
{
    const char *text = http_header(http, "authorization");
    if (!text)
        return http_header(http, "x-api-key");
    if (strncasecmp(text, "Bearer ", 7) == 0) {
        text += 7;
        return text + strspn(text, " ");
    }
    error_set(err, ERROR_AUTHENTICATION_REQUIRED, "expected Authorization: Bearer TOKEN, found something else");
    return NULL;
}

static enum limit_class class_of(const struct request *r)
{
    return r->route ? r->route->limit : LIMIT_HEALTH;
}

static enum access_rule rule_of(const struct request *r)
{
    return r->route ? r->route->access : ACCESS_OPEN;
}

/* Whether who is not known by a credential may have a token verified: each one that fails took a token from its bucket. */
static bool may_verify(struct request *r, int64_t now_ns)
{
    struct access *a = r->g->access;
    struct limit_state state;
    enum limit_class class = class_of(r);
    limits_peek(a->limits, class, limits_key(a->limits, class, r->access.client.kind, r->access.client.id), now_ns, &state);
    return state.limit == 0 || state.remaining > 0;
}

/* Finds the client; until that succeeds it is the address. What is open looks at no token that has to be verified. */
static void identify(struct request *r, bool verify, int64_t now_ns, struct error *err)
{
    struct access *a = r->g->access;
    struct client *client = &r->access.client;
    if (!auth_enabled(a->auth))
        return;
    const char *credential = credential_of(r->http, err);
    int64_t now_s = clock_wall_ns() / CLOCK_NS_PER_S;
    struct client found;
    auth_refresh(a->auth, now_ns);
    if (!credential || err->code != ERROR_NONE)
        return;
    if (auth_lookup(a->auth, credential, now_s, &found) ||
        (verify && may_verify(r, now_ns) && auth_verify(a->auth, credential, now_s, &found, err) == ERROR_NONE))
        *client = found;
}

/* ---- may it ---- */

static bool refuse(struct request *r, struct metrics_series *counter, const struct error *err)
{
    metrics_inc(counter, 1);
    error_respond_plain(r, err);
    return false;
}

static bool refuse_credential(struct request *r, const struct error *err)
{
    if (http_header(r->http, "authorization") || http_header(r->http, "x-api-key"))
        print_field(r, "www-authenticate", REALM ", error=\"invalid_token\", error_description=\"%s\"", err->message);
    else
        add_field(r, "www-authenticate", REALM);
    return refuse(r, r->g->access->m_auth, err);
}

/* Whether the rule lets this client through. */
static bool authorize(struct request *r)
{
    struct access *a = r->g->access;
    enum access_rule rule = rule_of(r);
    const struct client *client = &r->access.client;
    unsigned scope = rules[rule].scope;
    enum client_kind kind = client->kind == CLIENT_CERTIFICATE ? CLIENT_ANYONE : client->kind; /* it is no credential */
    struct error err = {0};
    if (!auth_enabled(a->auth)) {
        if (!rules[rule].management)
            return true;
        error_set(
            &err, ERROR_AUTHORIZATION_FAILED,
            "model management is closed because this server has no keys: set --api-keys, --jwt-key or --jwt-jwks and "
            "send a key or a token with the scope %s",
            scope_name(scope));
        return refuse(r, a->m_auth, &err);
    }
    if (rule == ACCESS_OPEN || (scope == 0 && kind != CLIENT_ANYONE) || (client->scopes & scope))
        return true;
    r->access.restricted = rules[rule].part >> kind & 1;
    if (r->access.restricted)
        return true;
    if (kind == CLIENT_ANYONE) {
        error_set(&err, ERROR_AUTHENTICATION_REQUIRED, "expected a token or an API key in Authorization: Bearer");
        return refuse_credential(r, &err);
    }
    print_field(r, "www-authenticate", REALM ", error=\"insufficient_scope\", scope=\"%s\"", scope_name(scope));
    error_set(&err, ERROR_AUTHORIZATION_FAILED, "this call needs the scope %s", scope_name(scope));
    return refuse(r, a->m_auth, &err);
}

/* ---- is there room ---- */

static bool refuse_full(struct request *r)
{
    struct error err = {0};
    error_set(&err, ERROR_SERVICE_UNAVAILABLE, "the server has as many requests in flight as it takes (max-requests)");
    err.retry_after_ms = 1000;
    return refuse(r, r->g->access->m_full, &err);
}

static bool refuse_rate(struct request *r, enum limit_class class, const struct limit_state *state, int64_t now_ns)
{
    struct error err = {0};
    error_set(&err, ERROR_RATE_LIMIT_EXCEEDED, "%s takes %lld a minute from this client", limit_class_name(class),
              (long long)state->limit);
    err.retry_after_ms = seconds_up(state->reset_ns - now_ns) * 1000;
    return refuse(r, r->g->access->m_rate, &err);
}

/* Takes its place among the requests in flight. */
static bool enter(struct request *r)
{
    struct access *a = r->g->access;
    struct error err = {0};
    switch (limits_enter(a->limits, r->access.key)) {
    case LIMITS_FULL:
        return refuse_full(r);
    case LIMITS_CLIENT_FULL:
        error_set(&err, ERROR_QUOTA_EXCEEDED, "expected at most %lld requests of this client at a time",
                  (long long)a->config->client_concurrency);
        err.retry_after_ms = 1000;
        return refuse(r, a->m_concurrency, &err);
    default:
        r->access.in_flight = true;
        return true;
    }
}

bool access_admit(struct request *r)
{
    struct access *a = r->g->access;
    if (!a || r->admin)
        return true;
    enum limit_class class = class_of(r);
    int64_t now_ns = clock_now_ns();
    struct limit_state state;
    struct error credential = {0};
    identify(r, rule_of(r) != ACCESS_OPEN, now_ns, &credential);
    r->access.key = limits_key(a->limits, class, r->access.client.kind, r->access.client.id);
    if (class == LIMIT_INFERENCE && limits_full(a->limits)) {
        limits_peek(a->limits, class, r->access.key, now_ns, &state);
        put_limit(r, class, &state, now_ns);
        return refuse_full(r);
    }
    bool taken = limits_take(a->limits, class, r->access.key, now_ns, &state);
    put_limit(r, class, &state, now_ns);
    if (!taken)
        return refuse_rate(r, class, &state, now_ns);
    if (credential.code != ERROR_NONE && rule_of(r) != ACCESS_OPEN)
        return refuse_credential(r, &credential);
    return authorize(r) && (class != LIMIT_INFERENCE || enter(r));
}

void access_count(struct request *r)
{
    struct access *a = r->g->access;
    struct limit_state state;
    struct error ignored = {0};
    if (!a || r->admin)
        return;
    int64_t now_ns = clock_now_ns();
    identify(r, false, now_ns, &ignored);
    enum limit_class class = class_of(r);
    limits_take(a->limits, class, limits_key(a->limits, class, r->access.client.kind, r->access.client.id), now_ns,
                &state);
    put_limit(r, class, &state, now_ns);
}

void access_end(struct request *r)
{
    if (r->access.in_flight)
        limits_leave(r->g->access->limits, r->access.key);
}
