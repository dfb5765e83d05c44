/* See queue.h. */
#include "engine/queue.h"

#include "base/clock.h"

#include <assert.h>
#include <string.h>

#define RETRY_UNKNOWN_MS 1000 /* before anything has left the queue */
#define RETRY_MIN_MS 100
#define RETRY_MAX_MS 60000

/* low, normal, high: places are given while fewer than this share of the limit is taken. */
static const unsigned admit_percent[QUEUE_N_CLASSES] = {50, 80, 100};

static unsigned class_of(enum priority priority)
{
    return priority == PRIORITY_HIGH ? 2 : priority == PRIORITY_LOW ? 0 : 1;
}

bool queue_init(struct queue *q, size_t limit)
{
    memset(q, 0, sizeof *q);
    q->limit = limit;
    return !pthread_mutex_init(&q->lock, NULL);
}

void queue_fini(struct queue *q)
{
    assert(q->n_waiting == 0 && "queue: empty at the end");
    pthread_mutex_destroy(&q->lock);
}

/* How long until the fill has fallen under the class's bound, at the recent rate. */
static int64_t retry_after_ms(struct queue *q, size_t n_taken, unsigned percent)
{
    int64_t interval_ns = atomic_load_explicit(&q->interval_ns, memory_order_relaxed);
    if (interval_ns <= 0)
        return RETRY_UNKNOWN_MS;
    size_t bound = q->limit * percent / 100;
    int64_t n = (int64_t)(n_taken > bound ? n_taken - bound : 0) + 1, ms = RETRY_MAX_MS;
    if (interval_ns < RETRY_MAX_MS * CLOCK_NS_PER_MS / n)
        ms = n * interval_ns / CLOCK_NS_PER_MS;
    return ms < RETRY_MIN_MS ? RETRY_MIN_MS : ms;
}

enum error_code queue_reserve(struct queue *q, enum priority priority, struct error *err)
{
    unsigned percent = admit_percent[class_of(priority)];
    size_t n = atomic_load_explicit(&q->n_taken, memory_order_relaxed);
    while (n * 100 < q->limit * percent) {
        if (atomic_compare_exchange_weak_explicit(&q->n_taken, &n, n + 1, memory_order_relaxed, memory_order_relaxed))
            return ERROR_NONE;
    }
    if (n >= q->limit)
        error_set(err, ERROR_SERVICE_UNAVAILABLE, "the queue is full: %zu of %zu places are taken", n, q->limit);
    else
        error_set(err, ERROR_SERVICE_UNAVAILABLE, "the queue accepts only %s priority now: %zu of %zu places are taken",
                  n * 100 < q->limit * 80 ? "normal and high" : "high", n, q->limit);
    if (err)
        err->retry_after_ms = retry_after_ms(q, n, percent);
    return ERROR_SERVICE_UNAVAILABLE;
}

void queue_give_back(struct queue *q)
{
    size_t before = atomic_fetch_sub_explicit(&q->n_taken, 1, memory_order_relaxed);
    assert(before > 0 && "queue: a place was taken");
    (void)before;
}

void queue_put(struct queue *q, struct queue_item *item)
{
    unsigned c = class_of(item->priority);
    pthread_mutex_lock(&q->lock);
    item->next = NULL;
    item->previous = q->last[c];
    item->queued = true;
    if (q->last[c])
        q->last[c]->next = item;
    else
        q->first[c] = item;
    q->last[c] = item;
    q->n_waiting++;
    pthread_mutex_unlock(&q->lock);
}

/* Each class is worth QUEUE_AGE_NS of waiting. An arrival in the future (a clock read on another thread) is as one
 * now. */
static int64_t rank(const struct queue_item *item, unsigned c, int64_t now_ns)
{
    int64_t waited_ns = now_ns - item->arrival_ns;
    return (waited_ns > 0 ? waited_ns : 0) + (int64_t)c * QUEUE_AGE_NS;
}

struct queue_item *queue_first(struct queue *q, int64_t now_ns)
{
    struct queue_item *best = NULL;
    int64_t best_rank = -1;
    pthread_mutex_lock(&q->lock);
    for (unsigned c = QUEUE_N_CLASSES; c-- > 0;) {
        if (q->first[c] && rank(q->first[c], c, now_ns) > best_rank) {
            best = q->first[c];
            best_rank = rank(best, c, now_ns);
        }
    }
    pthread_mutex_unlock(&q->lock);
    return best;
}

static void note_departure(struct queue *q, int64_t now_ns)
{
    if (q->last_departure_ns) {
        int64_t gap_ns = now_ns - q->last_departure_ns,
                mean_ns = atomic_load_explicit(&q->interval_ns, memory_order_relaxed);
        gap_ns = gap_ns > 1 ? gap_ns : 1;
        mean_ns = mean_ns ? mean_ns + (gap_ns - mean_ns) / 8 : gap_ns;
        atomic_store_explicit(&q->interval_ns, mean_ns > 0 ? mean_ns : 1, memory_order_relaxed);
    }
    q->last_departure_ns = now_ns;
}

void queue_remove(struct queue *q, struct queue_item *item, bool admitted, int64_t now_ns)
{
    unsigned c = class_of(item->priority);
    pthread_mutex_lock(&q->lock);
    assert(item->queued && "queue: the item is in it");
    *(item->previous ? &item->previous->next : &q->first[c]) = item->next;
    *(item->next ? &item->next->previous : &q->last[c]) = item->previous;
    item->next = item->previous = NULL;
    item->queued = false;
    q->n_waiting--;
    if (admitted)
        note_departure(q, now_ns);
    pthread_mutex_unlock(&q->lock);
    queue_give_back(q);
}

struct queue_item *queue_find(struct queue *q, bool (*match)(const struct queue_item *item, void *user), void *user)
{
    struct queue_item *found = NULL;
    pthread_mutex_lock(&q->lock);
    for (unsigned c = 0; c < QUEUE_N_CLASSES && !found; c++)
        for (struct queue_item *item = q->first[c]; item && !found; item = item->next)
            if (match(item, user))
                found = item;
    pthread_mutex_unlock(&q->lock);
    return found;
}

size_t queue_n_waiting(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    size_t n = q->n_waiting;
    pthread_mutex_unlock(&q->lock);
    return n;
}

size_t queue_n_taken(struct queue *q)
{
    return atomic_load_explicit(&q->n_taken, memory_order_relaxed);
}
