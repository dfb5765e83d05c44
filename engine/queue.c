/* See queue.h. */
#include "engine/queue.h"

#include "base/clock.h"

#include <assert.h>
#include <string.h>

#define RETRY_UNKNOWN_MS 1000 /* before anything has left the queue */
#define RETRY_MIN_MS 100
#define RETRY_MAX_MS 60000
#define RATE_MEMORY_NS 20e9 /* of blocked time: what is longer ago hardly counts for the rate of departures */
#define RATE_FRESH_NS (60 * CLOCK_NS_PER_S) /* after so long without a departure it is measured anew */

/* low, normal, high: places and tokens are given while less than this share of the limit is taken. */
static const unsigned admit_percent[QUEUE_N_CLASSES] = {50, 80, 100};

static unsigned class_of(enum priority priority)
{
    return priority == PRIORITY_HIGH ? 2 : priority == PRIORITY_LOW ? 0 : 1;
}

bool queue_init(struct queue *q, const struct queue_options *options)
{
    memset(q, 0, sizeof *q);
    q->options = *options;
    bool ok = true;
    for (unsigned c = 0; c < QUEUE_N_CLASSES && ok; c++)
        ok = fair_init(&q->classes[c].fair, options->limit + options->max_returned);
    if (ok && !pthread_mutex_init(&q->lock, NULL))
        return true;
    for (unsigned c = 0; c < QUEUE_N_CLASSES; c++)
        fair_fini(&q->classes[c].fair);
    return false;
}

void queue_fini(struct queue *q)
{
    assert(q->n_waiting == 0 && "queue: empty at the end");
    for (unsigned c = 0; c < QUEUE_N_CLASSES; c++)
        fair_fini(&q->classes[c].fair);
    pthread_mutex_destroy(&q->lock);
}

/* ---- admission --------------------------------------------------------------------------------------------------- */

static int64_t bounded_ms(int64_t ns)
{
    int64_t ms = ns / CLOCK_NS_PER_MS;
    return ms < RETRY_MIN_MS ? RETRY_MIN_MS : ms > RETRY_MAX_MS ? RETRY_MAX_MS : ms;
}

/* How long until n have left, at the recent rate. */
static int64_t retry_after_ms(struct queue *q, size_t n)
{
    int64_t interval_ns = atomic_load_explicit(&q->interval_ns, memory_order_relaxed);
    if (interval_ns <= 0)
        return RETRY_UNKNOWN_MS;
    return interval_ns < RETRY_MAX_MS * CLOCK_NS_PER_MS / (int64_t)n ? bounded_ms((int64_t)n * interval_ns) : RETRY_MAX_MS;
}

/* `err` has its message already. */
static enum error_code refuse(struct error *err, const char *reason, int64_t retry_ms)
{
    if (err) {
        err->reason = reason;
        err->retry_after_ms = retry_ms;
    }
    return ERROR_SERVICE_UNAVAILABLE;
}

static enum error_code take_place(struct queue *q, unsigned percent, struct error *err)
{
    size_t n = atomic_load_explicit(&q->n_taken, memory_order_relaxed), limit = q->options.limit;
    while (n * 100 < limit * percent) {
        if (atomic_compare_exchange_weak_explicit(&q->n_taken, &n, n + 1, memory_order_relaxed, memory_order_relaxed))
            return ERROR_NONE;
    }
    if (n >= limit)
        error_set(err, ERROR_SERVICE_UNAVAILABLE, "the queue is full: %zu of %zu places are taken", n, limit);
    else
        error_set(err, ERROR_SERVICE_UNAVAILABLE, "the queue accepts only %s priority now: %zu of %zu places are taken",
                  n * 100 < limit * 80 ? "normal and high" : "high", n, limit);
    size_t bound = limit * percent / 100;
    return refuse(err, n >= limit ? REFUSED_QUEUE_FULL : REFUSED_PRIORITY, retry_after_ms(q, (n > bound ? n - bound : 0) + 1));
}

static enum error_code take_tokens(struct queue *q, uint64_t n_tokens, unsigned percent, struct error *err)
{
    uint64_t n = atomic_load_explicit(&q->n_tokens, memory_order_relaxed), limit = q->options.max_tokens;
    while (!limit || n == 0 || (n + n_tokens) * 100 <= limit * percent) {
        if (atomic_compare_exchange_weak_explicit(&q->n_tokens, &n, n + n_tokens, memory_order_relaxed, memory_order_relaxed))
            return ERROR_NONE;
    }
    bool full = n + n_tokens > limit;
    if (full)
        error_set(err, ERROR_SERVICE_UNAVAILABLE,
                  "the queue is full: about %llu tokens are asked for, %llu of %llu wait already", (unsigned long long)n_tokens,
                  (unsigned long long)n, (unsigned long long)limit);
    else
        error_set(err, ERROR_SERVICE_UNAVAILABLE,
                  "the queue accepts only higher priority or fewer tokens now: about %llu are asked for, %llu of %llu wait already",
                  (unsigned long long)n_tokens, (unsigned long long)n, (unsigned long long)limit);
    /* As many requests of the size of those that wait must leave as make room. */
    uint64_t n_waiting = atomic_load_explicit(&q->n_taken, memory_order_relaxed), over = n + n_tokens - limit * percent / 100;
    uint64_t n_leave = n_waiting ? over / (n / n_waiting + 1) + 1 : 1;
    return refuse(err, full ? REFUSED_QUEUE_TOKENS : REFUSED_PRIORITY,
                  retry_after_ms(q, n_leave < n_waiting || !n_waiting ? n_leave : n_waiting));
}

int64_t queue_wait_ns(struct queue *q, const struct queue_claim *claim)
{
    unsigned c = class_of(claim->priority);
    int64_t wait_ns = 0, interval_ns = atomic_load_explicit(&q->interval_ns, memory_order_relaxed);
    pthread_mutex_lock(&q->lock);
    if (q->n_waiting && q->n_measured >= QUEUE_MEASURED) {
        /* Before it go higher classes, its client's own, and for each of these and itself one of every other client. Some of the other
         * classes may have aged past it, so it can be more. */
        const struct queue_class *k = &q->classes[c];
        size_t n_own = fair_n_of(&k->fair, claim->client), n_others = k->fair.n_clients - (n_own > 0);
        size_t n = n_own + (n_own + 1) * n_others;
        n = n < k->n ? n : k->n;
        for (unsigned higher = c + 1; higher < QUEUE_N_CLASSES; higher++)
            n += q->classes[higher].n;
        wait_ns = n && interval_ns > INT64_MAX / 2 / (int64_t)n ? INT64_MAX / 2 : (int64_t)n * interval_ns;
    }
    pthread_mutex_unlock(&q->lock);
    return wait_ns;
}

static enum error_code check_wait(struct queue *q, const struct queue_claim *claim, struct error *err)
{
    int64_t bound_ns = q->options.max_wait_ns, left_ns = INT64_MAX;
    if (claim->deadline_ns != CLOCK_NEVER)
        left_ns = claim->deadline_ns - claim->now_ns;
    if (!bound_ns && claim->deadline_ns == CLOCK_NEVER)
        return ERROR_NONE;
    int64_t wait_ns = queue_wait_ns(q, claim);
    if (bound_ns && wait_ns > bound_ns) {
        error_set(err, ERROR_SERVICE_UNAVAILABLE, "the wait would be about %lld ms, the most that is accepted is %lld ms",
                  (long long)(wait_ns / CLOCK_NS_PER_MS), (long long)(bound_ns / CLOCK_NS_PER_MS));
        return refuse(err, REFUSED_QUEUE_WAIT, bounded_ms(wait_ns - bound_ns));
    }
    if (wait_ns > 0 && wait_ns > left_ns) {
        error_set(err, ERROR_SERVICE_UNAVAILABLE,
                  "the deadline cannot be met: it leaves %lld ms, the wait alone would be about %lld ms",
                  (long long)(left_ns / CLOCK_NS_PER_MS), (long long)(wait_ns / CLOCK_NS_PER_MS));
        return refuse(err, REFUSED_DEADLINE, bounded_ms(wait_ns - left_ns));
    }
    return ERROR_NONE;
}

enum error_code queue_reserve(struct queue *q, const struct queue_claim *claim, struct error *err)
{
    unsigned percent = admit_percent[class_of(claim->priority)];
    enum error_code code = take_place(q, percent, err);
    if (code)
        return code;
    code = take_tokens(q, claim->n_tokens, percent, err);
    if (code) {
        atomic_fetch_sub_explicit(&q->n_taken, 1, memory_order_relaxed);
        return code;
    }
    code = check_wait(q, claim, err);
    if (code)
        queue_give_back(q, claim->n_tokens);
    return code;
}

void queue_give_back(struct queue *q, uint64_t n_tokens)
{
    uint64_t tokens = atomic_fetch_sub_explicit(&q->n_tokens, n_tokens, memory_order_relaxed);
    size_t before = atomic_fetch_sub_explicit(&q->n_taken, 1, memory_order_relaxed);
    assert(before > 0 && tokens >= n_tokens && "queue: a place and its tokens were taken");
    (void)before;
    (void)tokens;
}

/* ---- what waits -------------------------------------------------------------------------------------------------- */

/* Appends to those of its class, who have waited longer; with the lock held. */
static struct queue_class *enter(struct queue *q, struct queue_item *item, int64_t since_ns)
{
    struct queue_class *k = &q->classes[class_of(item->priority)];
    item->since_ns = since_ns;
    item->next = NULL;
    item->previous = k->last;
    item->queued = true;
    *(k->last ? &k->last->next : &k->first) = item;
    k->last = item;
    k->n++;
    q->n_waiting++;
    return k;
}

void queue_put(struct queue *q, struct queue_item *item, uint64_t n_claimed)
{
    atomic_fetch_add_explicit(&q->n_tokens, item->fair.cost - n_claimed, memory_order_relaxed); /* modulo 2^64: less too */
    pthread_mutex_lock(&q->lock);
    fair_add(&enter(q, item, item->arrival_ns)->fair, &item->fair);
    pthread_mutex_unlock(&q->lock);
}

void queue_return(struct queue *q, struct queue_item *item, int64_t now_ns)
{
    atomic_fetch_add_explicit(&q->n_taken, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&q->n_tokens, item->fair.cost, memory_order_relaxed);
    pthread_mutex_lock(&q->lock);
    fair_return(&enter(q, item, now_ns)->fair, &item->fair);
    pthread_mutex_unlock(&q->lock);
}

/* Each class is worth QUEUE_AGE_NS of waiting. An arrival in the future (a clock read on another thread) is as one
 * now. */
static int64_t rank(const struct queue_item *item, unsigned c, int64_t now_ns)
{
    int64_t waited_ns = now_ns - item->since_ns;
    return (waited_ns > 0 ? waited_ns : 0) + (int64_t)c * QUEUE_AGE_NS;
}

struct queue_item *queue_first(struct queue *q, int64_t now_ns)
{
    struct queue_item *best = NULL;
    int64_t best_rank = -1;
    pthread_mutex_lock(&q->lock);
    for (unsigned c = QUEUE_N_CLASSES; c-- > 0;) {
        const struct queue_class *k = &q->classes[c];
        if (k->first && rank(k->first, c, now_ns) > best_rank) {
            best = (struct queue_item *)fair_first(&k->fair);
            best_rank = rank(k->first, c, now_ns);
        }
    }
    pthread_mutex_unlock(&q->lock);
    return best;
}

void queue_blocked(struct queue *q, int64_t now_ns)
{
    pthread_mutex_lock(&q->lock);
    if (!q->blocked_ns && now_ns - q->last_departure_ns > RATE_FRESH_NS) {
        q->n_measured = 0;
        q->departures = q->blocked_time_ns = 0;
    }
    if (!q->blocked_ns)
        q->blocked_ns = now_ns;
    pthread_mutex_unlock(&q->lock);
}

/* Only while something waits for room does the time between departures say how fast there is room. */
static void note_departure(struct queue *q, int64_t now_ns)
{
    if (q->blocked_ns) {
        int64_t from_ns = q->last_departure_ns > q->blocked_ns ? q->last_departure_ns : q->blocked_ns;
        double gap_ns = now_ns > from_ns ? (double)(now_ns - from_ns) : 0, kept = RATE_MEMORY_NS / (RATE_MEMORY_NS + gap_ns);
        q->departures = q->departures * kept + 1;
        q->blocked_time_ns = q->blocked_time_ns * kept + gap_ns;
        q->n_measured++;
        double mean_ns = q->blocked_time_ns / q->departures;
        atomic_store_explicit(&q->interval_ns, mean_ns > 1 ? (int64_t)mean_ns : 1, memory_order_relaxed);
    }
    q->last_departure_ns = now_ns;
}

void queue_remove(struct queue *q, struct queue_item *item, bool admitted, int64_t now_ns)
{
    struct queue_class *k = &q->classes[class_of(item->priority)];
    pthread_mutex_lock(&q->lock);
    assert(item->queued && "queue: the item is in it");
    *(item->previous ? &item->previous->next : &k->first) = item->next;
    *(item->next ? &item->next->previous : &k->last) = item->previous;
    item->next = item->previous = NULL;
    item->queued = false;
    fair_remove(&k->fair, &item->fair, admitted);
    k->n--;
    if (admitted)
        note_departure(q, now_ns);
    if (--q->n_waiting == 0)
        q->blocked_ns = 0;
    pthread_mutex_unlock(&q->lock);
    queue_give_back(q, item->fair.cost);
}

struct queue_item *queue_find(struct queue *q, bool (*match)(const struct queue_item *item, void *user), void *user)
{
    struct queue_item *found = NULL;
    pthread_mutex_lock(&q->lock);
    for (unsigned c = 0; c < QUEUE_N_CLASSES && !found; c++)
        for (struct queue_item *item = q->classes[c].first; item && !found; item = item->next)
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

uint64_t queue_n_tokens(struct queue *q)
{
    return atomic_load_explicit(&q->n_tokens, memory_order_relaxed);
}
