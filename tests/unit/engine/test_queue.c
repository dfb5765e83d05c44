/* The admission queue: bounds by class, order, ageing, and places under threads. */
#include "engine/queue.h"
#include "tests/suite.h"

#include "base/clock.h"

#include <pthread.h>

START_TEST(test_backpressure_by_fill)
{
    struct queue q;
    struct error err = {0};
    ck_assert(queue_init(&q, 10));
    for (int i = 0; i < 5; i++) /* 0..40 % full: everyone */
        ck_assert_int_eq(queue_reserve(&q, PRIORITY_LOW, &err), ERROR_NONE);
    ck_assert_int_eq(queue_reserve(&q, PRIORITY_LOW, &err), ERROR_SERVICE_UNAVAILABLE); /* 50 % */
    ck_assert_int_gt(err.retry_after_ms, 0);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(queue_reserve(&q, PRIORITY_NORMAL, &err), ERROR_NONE);
    ck_assert_int_eq(queue_reserve(&q, PRIORITY_NORMAL, &err), ERROR_SERVICE_UNAVAILABLE); /* 80 % */
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(queue_reserve(&q, PRIORITY_HIGH, &err), ERROR_NONE);
    ck_assert_int_eq(queue_reserve(&q, PRIORITY_HIGH, &err), ERROR_SERVICE_UNAVAILABLE); /* full */
    for (int i = 0; i < 10; i++)
        queue_give_back(&q);
    ck_assert_int_eq(queue_reserve(&q, PRIORITY_LOW, &err), ERROR_NONE);
    queue_give_back(&q);
    queue_fini(&q);
}
END_TEST

static void put(struct queue *q, struct queue_item *item, enum priority priority, int64_t arrival_ns)
{
    *item = (struct queue_item){.priority = priority, .arrival_ns = arrival_ns};
    ck_assert_int_eq(queue_reserve(q, PRIORITY_HIGH, NULL), ERROR_NONE);
    queue_put(q, item);
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
    ck_assert(queue_init(&q, 10));
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
    ck_assert(queue_init(&q, 10));
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
    ck_assert(queue_init(&q, 10));
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

/* 100 ms between departures and 4 places too many: about half a second. */
START_TEST(test_retry_after_follows_the_drain_rate)
{
    struct queue q;
    struct queue_item item;
    struct error err = {0};
    ck_assert(queue_init(&q, 10));
    for (int i = 0; i < 50; i++) {
        put(&q, &item, PRIORITY_NORMAL, i);
        expect_next(&q, &item, (i + 1) * 100 * CLOCK_NS_PER_MS);
    }
    for (int i = 0; i < 9; i++)
        ck_assert_int_eq(queue_reserve(&q, PRIORITY_HIGH, NULL), ERROR_NONE);
    ck_assert_int_eq(queue_reserve(&q, PRIORITY_LOW, &err), ERROR_SERVICE_UNAVAILABLE);
    ck_assert_int_ge(err.retry_after_ms, 450);
    ck_assert_int_le(err.retry_after_ms, 550);
    for (int i = 0; i < 9; i++)
        queue_give_back(&q);
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
        if (queue_reserve(&shared, PRIORITY_HIGH, NULL)) {
            ++*n_refused;
            continue;
        }
        int now = atomic_fetch_add(&inside, 1) + 1, seen = atomic_load(&most);
        while (now > seen && !atomic_compare_exchange_weak(&most, &seen, now))
            ;
        struct queue_item item = {.priority = i % 3};
        queue_put(&shared, &item);
        atomic_fetch_sub(&inside, 1);
        queue_remove(&shared, &item, i % 2, i);
    }
    return NULL;
}

START_TEST(test_places_under_threads)
{
    pthread_t threads[N_THREADS];
    size_t n_refused[N_THREADS] = {0};
    ck_assert(queue_init(&shared, LIMIT));
    for (int i = 0; i < LIMIT - 2; i++) /* two places for four threads */
        ck_assert_int_eq(queue_reserve(&shared, PRIORITY_HIGH, NULL), ERROR_NONE);
    for (int i = 0; i < N_THREADS; i++)
        pthread_create(&threads[i], NULL, reserve_and_give_back, &n_refused[i]);
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    ck_assert_int_le(atomic_load(&most), 2);
    ck_assert_uint_eq(queue_n_taken(&shared), LIMIT - 2);
    ck_assert_uint_eq(queue_n_waiting(&shared), 0);
    for (int i = 0; i < LIMIT - 2; i++)
        queue_give_back(&shared);
    queue_fini(&shared);
}
END_TEST

SUITE("queue", test_backpressure_by_fill, test_order, test_ageing, test_remove_in_the_middle,
      test_retry_after_follows_the_drain_rate, test_places_under_threads)
