/*
 * The bounded admission queue. A place is reserved with one atomic before anything costly is done for a request, so a
 * full queue says no in a microsecond; then the request is put, and the loop takes it out.
 *
 *   queue_reserve -> (tokenise) -> queue_put -> queue_first, queue_remove      any thread -> any thread -> the loop
 *                 \-> queue_give_back
 *
 * Backpressure by fill: from 50 % low priority is refused, from 80 % all but high, at 100 % everything.
 * Order: the class first, first come first served within it; a request that has waited QUEUE_AGE_NS longer than another
 * counts as one class higher, so that no class starves.
 * The time is an argument everywhere.
 */
#ifndef ENGINE_QUEUE_H
#define ENGINE_QUEUE_H

#include "engine/engine.h"

#include <pthread.h>
#include <stdatomic.h>

#define QUEUE_N_CLASSES 3
#define QUEUE_AGE_NS (INT64_C(5) * 1000 * 1000 * 1000)

/* Embedded in what waits; borrowed while it is in the queue. */
struct queue_item {
    struct queue_item *next, *previous;
    enum priority priority;
    int64_t arrival_ns;
    bool queued;
};

struct queue {
    atomic_size_t n_taken;       /* places: reserved and waiting. Relaxed: the count alone is what matters */
    _Atomic int64_t interval_ns; /* moving average of the time between departures, 0 = not known; relaxed, a hint */
    size_t limit;
    pthread_mutex_t lock; /* for the rest */
    struct queue_item *first[QUEUE_N_CLASSES], *last[QUEUE_N_CLASSES];
    size_t n_waiting;
    int64_t last_departure_ns;
};

bool queue_init(struct queue *q, size_t limit);
void queue_fini(struct queue *q);

/* Takes a place, or SERVICE_UNAVAILABLE with retry_after_ms from the recent rate of departures. */
enum error_code queue_reserve(struct queue *q, enum priority priority, struct error *err);
void queue_give_back(struct queue *q);

/* Puts an item for which a place was reserved; sets item->queued. item->priority and arrival_ns are set by the
 * caller. */
void queue_put(struct queue *q, struct queue_item *item);

/* Which item is next; it stays in the queue. NULL when there is none. Loop only, as is what follows. */
struct queue_item *queue_first(struct queue *q, int64_t now_ns);
/* Takes an item out, wherever it is, and gives its place back. `admitted`: counts for the rate of departures. */
void queue_remove(struct queue *q, struct queue_item *item, bool admitted, int64_t now_ns);
/* Any item for which `match` is true, or NULL. */
struct queue_item *queue_find(struct queue *q, bool (*match)(const struct queue_item *item, void *user), void *user);

size_t queue_n_waiting(struct queue *q);
/* Reserved places and waiting items. */
size_t queue_n_taken(struct queue *q);

#endif
