/*
 * The bounded admission queue. A place is claimed before anything costly is done for a request, from an estimate of its tokens, so a
 * full queue says no in a microsecond; then the request is put, with its exact count, and the loop takes it out.
 *
 *   queue_reserve -> (tokenise) -> queue_put -> queue_first, queue_remove -> queue_return      any thread -> any thread -> the loop
 *                 \-> queue_give_back
 *
 * Backpressure by fill, of places and of tokens: from 50 % low priority is refused, from 80 % all but high, at 100 % everything. And by
 * time: what would wait longer than the bound, or past its own deadline, at the rate at which requests have left while others waited, is
 * refused at once instead of expiring.
 * Order: the class first, clients in turns within it (fair.h), first come first served of each client; a class whose oldest request has
 * waited QUEUE_AGE_NS longer than another's counts as one class higher, so that none starves.
 * The time is an argument everywhere.
 */
#ifndef ENGINE_QUEUE_H
#define ENGINE_QUEUE_H

#include "engine/engine.h"
#include "engine/fair.h"

#include <pthread.h>
#include <stdatomic.h>

#define QUEUE_N_CLASSES 3
#define QUEUE_AGE_NS (INT64_C(5) * 1000 * 1000 * 1000)
#define QUEUE_MEASURED 8 /* departures before the rate is good enough to refuse by */

/* Embedded in what waits; borrowed while it is in the queue. */
struct queue_item {
    struct fair_item fair; /* first: it is cast back. fair.client and fair.cost are set by the caller */
    struct queue_item *next, *previous; /* of its class, who has waited longest first */
    enum priority priority;
    int64_t arrival_ns;
    int64_t since_ns; /* in the queue */
    bool queued;
};

struct queue_options {
    size_t limit;        /* requests */
    uint64_t max_tokens; /* of what waits; 0 = no bound */
    int64_t max_wait_ns; /* 0 = no bound */
    size_t max_returned; /* items that queue_return may have put back at once, beyond the limit */
};

struct queue {
    atomic_size_t n_taken;       /* places: reserved and waiting. Relaxed: the count alone is what matters */
    _Atomic uint64_t n_tokens;   /* of these; relaxed */
    _Atomic int64_t interval_ns; /* mean time between departures while others wait, 0 = not known; relaxed, a hint */
    struct queue_options options;
    pthread_mutex_t lock; /* for the rest */
    struct queue_class {
        struct queue_item *first, *last;
        struct fair fair;
        size_t n;
    } classes[QUEUE_N_CLASSES];
    size_t n_waiting;
    int64_t blocked_ns, last_departure_ns; /* blocked_ns: since when what waits cannot start; 0 = it can */
    double departures, blocked_time_ns;    /* while it was blocked, the past weighing less and less */
    uint64_t n_measured;
};

/* False when memory is out. */
bool queue_init(struct queue *q, const struct queue_options *options);
void queue_fini(struct queue *q);

/* What a request asks for. */
struct queue_claim {
    enum priority priority;
    uint64_t client, n_tokens; /* n_tokens: an estimate will do */
    int64_t now_ns, deadline_ns;
};
/* Takes a place, or SERVICE_UNAVAILABLE with the reason (REFUSED_..) and retry_after_ms from the recent rate of departures. A request finds
 * room for its tokens, however many, when there are no others. */
enum error_code queue_reserve(struct queue *q, const struct queue_claim *claim, struct error *err);
void queue_give_back(struct queue *q, uint64_t n_tokens);

/* Puts an item for which a place was reserved with n_claimed tokens; sets item->queued. item->priority, arrival_ns, fair.client and
 * fair.cost (tokens; they replace those claimed) are set by the caller. */
void queue_put(struct queue *q, struct queue_item *item, uint64_t n_claimed);

/* Which item is next; it stays in the queue. NULL when there is none. Loop only, as is what follows. */
struct queue_item *queue_first(struct queue *q, int64_t now_ns);
/* The first one cannot start now: from here on departures show the rate. */
void queue_blocked(struct queue *q, int64_t now_ns);
/* Takes an item out, wherever it is, and gives its place back. `admitted`: counts for the rate of departures. */
void queue_remove(struct queue *q, struct queue_item *item, bool admitted, int64_t now_ns);
/* Puts an admitted item back, in front of its class; there is always a place. */
void queue_return(struct queue *q, struct queue_item *item, int64_t now_ns);
/* Any item for which `match` is true, or NULL. */
struct queue_item *queue_find(struct queue *q, bool (*match)(const struct queue_item *item, void *user), void *user);

size_t queue_n_waiting(struct queue *q);
/* Reserved places and waiting items, and their tokens. */
size_t queue_n_taken(struct queue *q);
uint64_t queue_n_tokens(struct queue *q);
/* How long a request would wait if it came now; 0 = not at all, or not known. */
int64_t queue_wait_ns(struct queue *q, const struct queue_claim *claim);

#endif
