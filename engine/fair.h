/*
 * The order of what waits in one class: clients take turns by the tokens that they ask for, and each client's own come first come, first
 * served. With one client that is plain first come, first served.
 *
 * Self-clocked fair queueing (Golestani, INFOCOM 1994): the first item of each client has a tag, the time at which it would be through if all
 * clients were served at once, each at the same rate in tokens; the least tag is next, and the clock is the tag of what was served last.
 *
 *   tag = max(clock, tag of the client's item that was served before) + cost       ties: who came first
 *
 * So between two clients that both wait the tokens served differ by no more than one request of each, whatever they send; a client that
 * comes new waits, for each of the others, for as many tokens as it asks for and one request at most; and as the clock only goes forward,
 * nothing starves. A client of which nothing waits has left no debt, so nothing is remembered of it: memory is what waits.
 *
 * Constant time but for a heap of clients, which is logarithmic. No lock, no clock of its own.
 */
#ifndef ENGINE_FAIR_H
#define ENGINE_FAIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Embedded in what waits; borrowed from fair_add to fair_remove. */
struct fair_item {
    uint64_t client, cost; /* whose, and how many tokens: set before fair_add */
    /* fair.c's: */
    struct fair_item *next, *previous; /* a ring of the client's items in their order */
    struct fair_item *next_in_bucket;  /* heads only, as what follows: the first of each client */
    size_t at;                         /* in the heap */
    uint64_t start, tag;
    size_t n; /* items of the client */
    int64_t number;
    bool returned; /* was served and came back: goes first and has paid */
};

struct fair {
    uint64_t clock;
    int64_t n_added, n_returned;
    struct fair_item **heap; /* [n_clients] heads, the next one first */
    struct fair_item **buckets; /* [n_buckets], a power of two: heads by client */
    size_t n_clients, n_buckets;
};

/* For at most `capacity` items. False when memory is out. */
bool fair_init(struct fair *f, size_t capacity);
void fair_fini(struct fair *f);
void fair_add(struct fair *f, struct fair_item *item);
/* Puts back what was removed as served: in front of all, of what came back before it too. */
void fair_return(struct fair *f, struct fair_item *item);
/* Takes an item out, wherever it is; `served`: the clock goes on. */
void fair_remove(struct fair *f, struct fair_item *item, bool served);
/* The next one, which stays; NULL when there is none. */
struct fair_item *fair_first(const struct fair *f);
/* Items of a client. */
size_t fair_n_of(const struct fair *f, uint64_t client);

#endif
