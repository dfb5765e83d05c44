/*
 * How many requests a client may make: a bucket of tokens for each client and class that is filled up again one minute
 * after its first token was taken, so that exactly the limit passes in each such minute and the headers say when the next
 * one begins. And how many requests are in flight, in all and for each client. Policy only: the time is an argument. Any
 * thread; one lock, held for less than a microsecond.
 *
 * Memory is bounded: buckets lie in sets of LIMITS_WAYS, and one that is new takes the place of one that has run out, else
 * of the one that is used least. An exhausted bucket is displaced only by others that are exhausted as well, and where a
 * client lies is not to be known, so that nobody gets rid of an empty bucket cheaply.
 */
#ifndef GATEWAY_LIMITS_H
#define GATEWAY_LIMITS_H

#include "gateway/client.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LIMITS_WAYS 8
#define LIMITS_WINDOW_S 60

enum limit_class { LIMIT_INFERENCE, LIMIT_MODELS, LIMIT_HEALTH, LIMIT_STATS, LIMIT_N_CLASSES };

struct limits_options {
    int64_t per_minute[LIMIT_N_CLASSES]; /* requests of a client; 0 = no limit */
    int64_t client_concurrency;          /* requests of a client in flight; 0 = no limit */
    int64_t max_requests;                /* in flight in all; 0 = no limit */
    size_t n_buckets;                    /* remembered at most; rounded up to whole sets */
};

/* A bucket as its client is told of it. */
struct limit_state {
    int64_t limit, remaining; /* limit 0: there is none */
    int64_t reset_ns;         /* when it is full again; the clock of `now_ns` */
};

struct limits;

/* NULL when memory is out. */
struct limits *limits_open(const struct limits_options *options);
void limits_close(struct limits *l);
/* "inference", "models", "health", "stats". */
const char *limit_class_name(enum limit_class class);

/* What stands for a client and class below. */
uint64_t limits_key(const struct limits *l, enum limit_class class, enum client_kind kind, const char *id);
/* Takes a token; false when there is none left. */
bool limits_take(struct limits *l, enum limit_class class, uint64_t key, int64_t now_ns, struct limit_state *state);
/* Looks without taking. */
void limits_peek(struct limits *l, enum limit_class class, uint64_t key, int64_t now_ns, struct limit_state *state);

enum limits_entry { LIMITS_ENTERED, LIMITS_CLIENT_FULL, LIMITS_FULL };
/* Counts a request in flight; to be followed by limits_leave with the same key if it entered. */
enum limits_entry limits_enter(struct limits *l, uint64_t key);
void limits_leave(struct limits *l, uint64_t key);
/* Whether limits_enter would find the server full. */
bool limits_full(struct limits *l);

#endif
