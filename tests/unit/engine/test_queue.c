/* The admission queue: bounds of places, tokens and time, order, ageing, and places under threads. */
#include "engine/queue.h"
#include "tests/suite.h"

#include "base/clock.h"

#include <pthread.h>

static enum error_code reserve(struct queue *q, enum priority priority, struct error *err)
{
    const struct queue_claim claim = {.priority = priority, .deadline_ns = CLOCK_NEVER};
    return queue_reserve(q, &claim, err);
}

static void open_queue(struct queue *q, size_t limit)
{
    ck_assert(queue_init(q, &(struct queue_options){.limit = limit}));
}

START_TEST(test_backpressure_by_fill)
{
    struct queue q;
    struct error err = {0};
    open_queue(&q, 10);
    for (int i = 0; i < 5; i++) /* 0..40 % full: everyone */
        ck_assert_int_eq(reserve(&q, PRIORITY_LOW, &err), ERROR_NONE);
    ck_assert_int_eq(reserve(&q, PRIORITY_LOW, &err), ERROR_SERVICE_UNAVAILABLE); /* 50 % */
    ck_assert_int_gt(err.retry_after_ms, 0);
    ck_assert_str_eq(err.reason, REFUSED_PRIORITY);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(reserve(&q, PRIORITY_NORMAL, &err), ERROR_NONE);
    ck_assert_int_eq(reserve(&q, PRIORITY_NORMAL, &err), ERROR_SERVICE_UNAVAILABLE); /* 80 % */
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(reserve(&q, PRIORITY_HIGH, &err), ERROR_NONE);
    ck_assert_int_eq(reserve(&q, PRIORITY_HIGH, &err), ERROR_SERVICE_UNAVAILABLE); /* full */
    ck_assert_str_eq(err.reason, REFUSED_QUEUE_FULL);
    for (int i = 0; i < 10; i++)
        queue_give_back(&q, 0);
    ck_assert_int_eq(reserve(&q, PRIORITY_LOW, &err), ERROR_NONE);
    queue_give_back(&q, 0);
    queue_fini(&q);
}
END_TEST

static void put(struct queue *q, struct queue_item *item, enum priority priority, int64_t arrival_ns)
{
    *item = (struct queue_item){.priority = priority, .arrival_ns = arrival_ns};
    ck_assert_int_eq(reserve(q, PRIORITY_HIGH, NULL), ERROR_NONE);
    queue_put(q, item, 0);
}

static void expect_next(struct queue *q, struct queue_item *item, int64_t now_ns)
{
    ck_assert_ptr_eq(queue_first(q, now_ns), item);
    queue_remove(q, item, true, now_ns);
}

START_TEST(test_order)
{
    struct queue q;
    struct queue_item low, normal[2], high[2];
    open_queue(&q, 10);
    put(&q, &low, PRIORITY_LOW, 100);
    put(&q, &normal[0], PRIORITY_NORMAL, 101);
    put(&q, &normal[1], PRIORITY_NORMAL, 102);
    put(&q, &high[0], PRIORITY_HIGH, 103);
    put(&q, &high[1], PRIORITY_HIGH, 104);
    expect_next(&q, &high[0], 200);
    expect_next(&q, &high[1], 200);
    expect_next(&q, &normal[0], 200);
    expect_next(&q, &normal[1], 200);
    expect_next(&q, &low, 200);
    ck_assert_ptr_null(queue_first(&q, 200));
    ck_assert_uint_eq(queue_n_taken(&q), 0);
    queue_fini(&q);
}
END_TEST

/* High requests that never stop coming do not keep a low one out for ever. */
START_TEST(test_ageing)
{
    struct queue q;
    struct queue_item low, high;
    open_queue(&q, 10);
    put(&q, &low, PRIORITY_LOW, 0);
    int64_t now_ns = 0;
    for (int n = 0;; n++) {
        ck_assert_int_lt(n, 1000);
        now_ns += CLOCK_NS_PER_S / 10;
        put(&q, &high, PRIORITY_HIGH, now_ns);
        if (queue_first(&q, now_ns) == &low)
            break;
        expect_next(&q, &high, now_ns);
    }
    ck_assert_int_gt(now_ns, 2 * QUEUE_AGE_NS - CLOCK_NS_PER_S); /* but two classes of age are needed */
    expect_next(&q, &low, now_ns);
    expect_next(&q, &high, now_ns);
    queue_fini(&q);
}
END_TEST

START_TEST(test_remove_in_the_middle)
{
    struct queue q;
    struct queue_item items[3];
    open_queue(&q, 10);
    for (int i = 0; i < 3; i++)
        put(&q, &items[i], PRIORITY_NORMAL, i);
    queue_remove(&q, &items[1], false, 10);
    ck_assert(!items[1].queued);
    ck_assert_uint_eq(queue_n_waiting(&q), 2);
    expect_next(&q, &items[0], 10);
    expect_next(&q, &items[2], 10);
    queue_fini(&q);
}
END_TEST

/* So many requests of 10 tokens leave, `step_ns` apart, while others wait; a client each. What waits is left in the queue. */
static void depart(struct queue *q, struct queue_item *items, int n, int n_left, int64_t step_ns)
{
    for (int i = 0; i < n + n_left; i++) {
        items[i].fair.client = (uint64_t)i + 1;
        items[i].fair.cost = 10;
        ck_assert_int_eq(reserve(q, PRIORITY_HIGH, NULL), ERROR_NONE);
        queue_put(q, &items[i], 0);
    }
    queue_blocked(q, 1);
    for (int i = 0; i < n; i++)
        queue_remove(q, queue_first(q, 0), true, (i + 1) * step_ns);
}

static void empty(struct queue *q)
{
    struct queue_item *item;
    while ((item = queue_first(q, 0)))
        queue_remove(q, item, false, 0);
    ck_assert_uint_eq(queue_n_tokens(q), 0);
}

/* 100 ms between departures and 4 places too many: about half a second. */
START_TEST(test_retry_after_follows_the_drain_rate)
{
    struct queue q;
    struct queue_item items[59] = {0};
    struct error err = {0};
    open_queue(&q, 100);
    depart(&q, items, 50, 9, 100 * CLOCK_NS_PER_MS);
    q.options.limit = 10;
    ck_assert_int_eq(reserve(&q, PRIORITY_LOW, &err), ERROR_SERVICE_UNAVAILABLE);
    ck_assert_int_ge(err.retry_after_ms, 450);
    ck_assert_int_le(err.retry_after_ms, 550);
    empty(&q);
    queue_fini(&q);
}
END_TEST

/* Requests that never had to wait, and the time between them, say nothing of the rate. */
START_TEST(test_no_rate_without_waiting)
{
    struct queue q;
    struct queue_item item;
    open_queue(&q, 10);
    for (int i = 0; i < 50; i++) {
        put(&q, &item, PRIORITY_NORMAL, i * CLOCK_NS_PER_S);
        expect_next(&q, &item, i * CLOCK_NS_PER_S);
    }
    ck_assert_int_eq(atomic_load(&q.interval_ns), 0);
    queue_fini(&q);
}
END_TEST

static struct queue_claim claim_of(enum priority priority, uint64_t n_tokens)
{
    return (struct queue_claim){.priority = priority, .client = 999, .n_tokens = n_tokens, .deadline_ns = CLOCK_NEVER};
}

START_TEST(test_bound_by_tokens)
{
    struct queue q;
    struct error err = {0};
    struct queue_claim large = claim_of(PRIORITY_NORMAL, 5000), some = claim_of(PRIORITY_NORMAL, 700),
                       high = claim_of(PRIORITY_HIGH, 200), low = claim_of(PRIORITY_LOW, 1);
    ck_assert(queue_init(&q, &(struct queue_options){.limit = 100, .max_tokens = 1000}));
    ck_assert_int_eq(queue_reserve(&q, &large, &err), ERROR_NONE); /* no others: any size has room */
    ck_assert_int_eq(queue_reserve(&q, &low, &err), ERROR_SERVICE_UNAVAILABLE);
    ck_assert_str_eq(err.reason, REFUSED_QUEUE_TOKENS);
    ck_assert_int_gt(err.retry_after_ms, 0);
    ck_assert_uint_eq(queue_n_taken(&q), 1); /* what is refused has no place */
    queue_give_back(&q, 5000);
    ck_assert_int_eq(queue_reserve(&q, &some, &err), ERROR_NONE);
    ck_assert_int_eq(queue_reserve(&q, &low, &err), ERROR_SERVICE_UNAVAILABLE); /* over half */
    ck_assert_str_eq(err.reason, REFUSED_PRIORITY);
    ck_assert_int_eq(queue_reserve(&q, &some, &err), ERROR_SERVICE_UNAVAILABLE);
    ck_assert_str_eq(err.reason, REFUSED_QUEUE_TOKENS);
    ck_assert_int_eq(queue_reserve(&q, &high, &err), ERROR_NONE);
    struct queue_item item = {.priority = PRIORITY_NORMAL, .fair.cost = 300};
    queue_put(&q, &item, 700); /* fewer than was thought: the room is there again */
    ck_assert_uint_eq(queue_n_tokens(&q), 500);
    ck_assert_int_eq(queue_reserve(&q, &high, &err), ERROR_NONE);
    queue_remove(&q, &item, true, 0);
    queue_give_back(&q, 200);
    queue_give_back(&q, 200);
    ck_assert_uint_eq(queue_n_tokens(&q), 0);
    queue_fini(&q);
}
END_TEST

/* 100 ms between departures, 20 wait. */
START_TEST(test_bound_by_wait)
{
    struct queue q;
    struct queue_item items[40] = {0};
    struct error err = {0};
    struct queue_claim c = claim_of(PRIORITY_NORMAL, 1);
    ck_assert(queue_init(&q, &(struct queue_options){.limit = 100, .max_wait_ns = 1500 * CLOCK_NS_PER_MS}));
    depart(&q, items, QUEUE_MEASURED - 1, 20, 100 * CLOCK_NS_PER_MS);
    ck_assert_int_eq(queue_reserve(&q, &c, &err), ERROR_NONE); /* too few were measured to refuse by */
    queue_give_back(&q, 1);
    empty(&q);
    depart(&q, items, 20, 20, 100 * CLOCK_NS_PER_MS);
    ck_assert_int_eq(queue_reserve(&q, &c, &err), ERROR_SERVICE_UNAVAILABLE);
    ck_assert_str_eq(err.reason, REFUSED_QUEUE_WAIT);
    ck_assert_int_ge(err.retry_after_ms, 400);
    ck_assert_int_le(err.retry_after_ms, 600);
    c.priority = PRIORITY_HIGH;
    ck_assert_int_eq(queue_reserve(&q, &c, &err), ERROR_NONE); /* nobody is before it */
    queue_give_back(&q, 1);
    c.priority = PRIORITY_NORMAL;
    for (int i = 0; i < 6; i++)
        queue_remove(&q, queue_first(&q, 0), false, 0);
    ck_assert_int_eq(queue_reserve(&q, &c, &err), ERROR_NONE); /* 14 wait: 1.4 s */
    queue_give_back(&q, 1);
    ck_assert_uint_eq(queue_n_taken(&q), 14);
    empty(&q);
    queue_fini(&q);
}
END_TEST

START_TEST(test_deadline_that_cannot_be_met)
{
    struct queue q;
    struct queue_item items[40] = {0};
    struct error err = {0};
    struct queue_claim c = claim_of(PRIORITY_NORMAL, 1);
    open_queue(&q, 100);
    c.now_ns = 5 * CLOCK_NS_PER_S;
    c.deadline_ns = c.now_ns + 1900 * CLOCK_NS_PER_MS;
    depart(&q, items, 20, 20, 100 * CLOCK_NS_PER_MS);
    ck_assert_int_eq(queue_reserve(&q, &c, &err), ERROR_SERVICE_UNAVAILABLE);
    ck_assert_str_eq(err.reason, REFUSED_DEADLINE);
    c.deadline_ns = c.now_ns + 2100 * CLOCK_NS_PER_MS;
    ck_assert_int_eq(queue_reserve(&q, &c, &err), ERROR_NONE);
    queue_give_back(&q, 1);
    empty(&q);
    c.deadline_ns = c.now_ns + 1;
    ck_assert_int_eq(queue_reserve(&q, &c, &err), ERROR_NONE); /* nothing waits */
    queue_give_back(&q, 1);
    queue_fini(&q);
}
END_TEST

/* One that floods makes others wait for its turn, not for its flood; and its own wait is long. */
START_TEST(test_wait_of_a_flood)
{
    struct queue q;
    struct queue_item items[100] = {0};
    struct queue_claim other = claim_of(PRIORITY_NORMAL, 1), own = claim_of(PRIORITY_NORMAL, 1);
    open_queue(&q, 200);
    depart(&q, items, 20, 0, 100 * CLOCK_NS_PER_MS);
    for (int i = 0; i < 80; i++) {
        items[i] = (struct queue_item){.fair = {.client = 5, .cost = 10}};
        ck_assert_int_eq(reserve(&q, PRIORITY_NORMAL, NULL), ERROR_NONE);
        queue_put(&q, &items[i], 0);
    }
    own.client = 5;
    ck_assert_int_le(queue_wait_ns(&q, &other), 110 * CLOCK_NS_PER_MS);
    ck_assert_int_ge(queue_wait_ns(&q, &own), 79 * 95 * CLOCK_NS_PER_MS);
    empty(&q);
    queue_fini(&q);
}
END_TEST

/* What was preempted goes first in its class, has no age, and finds a place in a full queue. */
START_TEST(test_return)
{
    struct queue q;
    struct queue_item low[3], high;
    ck_assert(queue_init(&q, &(struct queue_options){.limit = 3, .max_returned = 1}));
    put(&q, &low[0], PRIORITY_LOW, 0);
    low[0].fair.cost = 0;
    expect_next(&q, &low[0], 0);
    put(&q, &low[1], PRIORITY_LOW, 1);
    put(&q, &low[2], PRIORITY_LOW, 2);
    int64_t now_ns = 4 * QUEUE_AGE_NS;
    put(&q, &high, PRIORITY_HIGH, 0);
    queue_return(&q, &low[0], now_ns);
    ck_assert_uint_eq(queue_n_taken(&q), 4);
    expect_next(&q, &high, now_ns);
    expect_next(&q, &low[0], now_ns);
    expect_next(&q, &low[1], now_ns);
    queue_return(&q, &low[1], now_ns);
    expect_next(&q, &low[1], now_ns);
    expect_next(&q, &low[2], now_ns);
    ck_assert_uint_eq(queue_n_taken(&q), 0);
    queue_fini(&q);
}
END_TEST

#define N_THREADS 4
#define LIMIT 64
static struct queue shared;
static atomic_int most, inside;

static void *reserve_and_give_back(void *arg)
{
    size_t *n_refused = arg;
    for (int i = 0; i < 20000; i++) {
        if (reserve(&shared, PRIORITY_HIGH, NULL)) {
            ++*n_refused;
            continue;
        }
        int now = atomic_fetch_add(&inside, 1) + 1, seen = atomic_load(&most);
        while (now > seen && !atomic_compare_exchange_weak(&most, &seen, now))
            ;
        struct queue_item item = {.priority = i % 3};
        queue_put(&shared, &item, 0);
        atomic_fetch_sub(&inside, 1);
        queue_remove(&shared, &item, i % 2, i);
    }
    return NULL;
}

START_TEST(test_places_under_threads)
{
    pthread_t threads[N_THREADS];
    size_t n_refused[N_THREADS] = {0};
    open_queue(&shared, LIMIT);
    for (int i = 0; i < LIMIT - 2; i++) /* two places for four threads */
        ck_assert_int_eq(reserve(&shared, PRIORITY_HIGH, NULL), ERROR_NONE);
    for (int i = 0; i < N_THREADS; i++)
        pthread_create(&threads[i], NULL, reserve_and_give_back, &n_refused[i]);
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    ck_assert_int_le(atomic_load(&most), 2);
    ck_assert_uint_eq(queue_n_taken(&shared), LIMIT - 2);
    ck_assert_uint_eq(queue_n_waiting(&shared), 0);
    for (int i = 0; i < LIMIT - 2; i++)
        queue_give_back(&shared, 0);
    queue_fini(&shared);
}
END_TEST

SUITE("queue", test_backpressure_by_fill, test_order, test_ageing, test_remove_in_the_middle,
      test_retry_after_follows_the_drain_rate, test_no_rate_without_waiting, test_bound_by_tokens, test_bound_by_wait,
      test_deadline_that_cannot_be_met, test_wait_of_a_flood, test_return, test_places_under_threads)
