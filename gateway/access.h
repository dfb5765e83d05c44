/*
 * Who may come in: the steps that every request of the main port takes before its handler, and the header fields that
 * they leave for its answer, whoever gives it.
 *
 *   address -> credential -> server full? -> rate limit -> may this client do this? -> client's requests in flight
 *      |          401            503            429                 401, 403                    429
 *   proxies.c   auth.c                       limits.c                                         limits.c
 *
 * One struct access for the process, shared by all loops; what belongs to a request lies in struct request.
 */
#ifndef GATEWAY_ACCESS_H
#define GATEWAY_ACCESS_H

#include "base/error.h"
#include "gateway/client.h"
#include "gateway/http.h"
#include "gateway/limits.h"
#include "gateway/proxies.h"

#include <stdbool.h>
#include <stdint.h>

struct access;
struct request;
struct gateway_config;
struct metrics;

/* What a route asks of its client. Where no credential is configured, all but the last two are open to anyone. */
enum access_rule {
    ACCESS_CLIENT,       /* any token or API key */
    ACCESS_OPEN,         /* nothing */
    ACCESS_HEALTH,       /* any token or API key shows all; anyone else sees whether the server is well */
    ACCESS_MODEL_LIST,   /* model:read shows all; anyone else sees what OpenAI's API has */
    ACCESS_MODEL,        /* the same, but only API keys do without the scope */
    ACCESS_MODEL_READ,   /* model:read */
    ACCESS_MODEL_WRITE,  /* model:write */
    ACCESS_MODEL_MANAGE, /* model:manage */
};

#define ACCESS_MAX_HEADERS 16

/* Header fields for the answer. Ends with a NULL name. */
struct access_headers {
    struct http_header list[ACCESS_MAX_HEADERS + 1];
    size_t n;
    char text[768]; /* what the values are made of */
    size_t n_text;
};

/* What is known of a request's client; in struct request. */
struct access_request {
    struct client client;
    char address[PROXIES_ADDRESS_BYTES]; /* where it comes from, past trusted proxies */
    bool restricted;                     /* only the part that is for everybody is to be shown */
    bool in_flight;                      /* limits_leave is owed */
    uint64_t key;                        /* of client and class in limits.h */
    struct access_headers headers;
};

/* Reads the files that the configuration (borrowed) names; adds its counters to `metrics`. */
enum error_code access_open(const struct gateway_config *config, struct metrics *metrics, struct access **out,
                            struct error *err);
void access_close(struct access *a);
/* Borrowed until access_close; the same all the while. */
const struct proxies *access_proxies(const struct access *a);
/* Reads the files of keys again. Any thread. */
void access_reload(struct access *a);

/* Once for each request, first: address, and the fields that do not depend on the route. Without a struct access in the
 * gateway, as on the admin port, everything is open. */
void access_begin(struct request *r);
/* Answers the question whether a page of another origin may send a request; true when it was one. `allow`: the methods of
 * this path, "" = there is nothing. */
bool access_preflight(struct request *r, const char *allow);
/* Lets the request in, or answers it and returns false. */
bool access_admit(struct request *r);
/* For a request that is refused for its form: it counts, and its answer says so. */
void access_count(struct request *r);
/* Once for each request, last. */
void access_end(struct request *r);

#endif
