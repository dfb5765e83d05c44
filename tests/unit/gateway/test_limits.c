/* Buckets and requests in flight: the time is an argument. */
#include "base/clock.h"
#include "gateway/limits.h"
#include "tests/suite.h"

#include <pthread.h>
#include <stdatomic.h>

#define S CLOCK_NS_PER_S

static const struct limits_options usual = {
    .per_minute = {100, 10, 600, 60}, .client_concurrency = 2, .max_requests = 3, .n_buckets = 1024};
static struct limits *limits;
static struct limit_state state;

static uint64_t key_of(const char *id)
{
    return limits_key(limits, LIMIT_INFERENCE, CLIENT_JWT, id);
}

static bool take(uint64_t key, int64_t now)
{
    return limits_take(limits, LIMIT_INFERENCE, key, now, &state);
}

START_TEST(exactly_the_limit_passes)
{
    limits = limits_open(&usual);
    for (int i = 0; i < 100; i++) {
        ck_assert(take(key_of("a"), 5 * S + i * S / 2));
        ck_assert_int_eq(state.limit, 100);
        ck_assert_int_eq(state.remaining, 99 - i);
        ck_assert_int_eq(state.reset_ns, 65 * S);
    }
    for (int i = 0; i < 5; i++) {
        ck_assert(!take(key_of("a"), 65 * S - 1));
        ck_assert_int_eq(state.remaining, 0);
        ck_assert_int_eq(state.reset_ns, 65 * S);
    }
    for (int i = 0; i < 100; i++)
        ck_assert(take(key_of("a"), 65 * S));
    ck_assert_int_eq(state.reset_ns, 125 * S);
    ck_assert(!take(key_of("a"), 66 * S));
    limits_close(limits);
}
END_TEST

START_TEST(clients_and_classes_are_apart)
{
    limits = limits_open(&usual);
    for (int i = 0; i < 100; i++)
        ck_assert(take(key_of("a"), S));
    ck_assert(!take(key_of("a"), S));
    ck_assert(take(key_of("b"), S));
    ck_assert(take(limits_key(limits, LIMIT_INFERENCE, CLIENT_KEY, "a"), S));
    ck_assert(take(limits_key(limits, LIMIT_INFERENCE, CLIENT_ANYONE, "a"), S));
    for (int i = 0; i < 10; i++)
        ck_assert(limits_take(limits, LIMIT_MODELS, limits_key(limits, LIMIT_MODELS, CLIENT_JWT, "a"), S, &state));
    ck_assert(!limits_take(limits, LIMIT_MODELS, limits_key(limits, LIMIT_MODELS, CLIENT_JWT, "a"), S, &state));
    limits_close(limits);
}
END_TEST

START_TEST(peek_takes_nothing)
{
    limits = limits_open(&usual);
    for (int i = 0; i < 200; i++)
        limits_peek(limits, LIMIT_INFERENCE, key_of("a"), S, &state);
    ck_assert_int_eq(state.remaining, 100);
    take(key_of("a"), 5 * S); /* the minute begins here */
    limits_peek(limits, LIMIT_INFERENCE, key_of("a"), 6 * S, &state);
    ck_assert_int_eq(state.remaining, 99);
    ck_assert_int_eq(state.reset_ns, 65 * S);
    limits_peek(limits, LIMIT_INFERENCE, key_of("a"), 65 * S, &state);
    ck_assert_int_eq(state.remaining, 100);
    limits_close(limits);
}
END_TEST

START_TEST(zero_is_no_limit)
{
    const struct limits_options none = {.n_buckets = 0};
    limits = limits_open(&none);
    for (int i = 0; i < 10000; i++) {
        ck_assert(take(key_of("a"), S));
        ck_assert_int_eq(limits_enter(limits, key_of("a")), LIMITS_ENTERED);
    }
    ck_assert_int_eq(state.limit, 0);
    ck_assert(!limits_full(limits));
    limits_close(limits);
}
END_TEST

/* A flood of new clients, far more than there are buckets, must not give the exhausted one a new bucket. */
START_TEST(exhausted_buckets_stay)
{
    limits = limits_open(&usual);
    for (int i = 0; i < 100; i++)
        ck_assert(take(key_of("a"), S));
    for (int i = 0; i < 100000; i++) {
        char id[32];
        snprintf(id, sizeof id, "flood %d", i);
        take(key_of(id), 2 * S);
    }
    ck_assert(!take(key_of("a"), 3 * S));
    limits_close(limits);
}
END_TEST

/* What has run out is given up first, so that those who are counted stay counted. */
START_TEST(expired_buckets_go_first)
{
    const struct limits_options tiny = {.per_minute = {2, 2, 2, 2}, .n_buckets = LIMITS_WAYS};
    limits = limits_open(&tiny);
    char id[16];
    for (int i = 0; i < LIMITS_WAYS; i++) {
        snprintf(id, sizeof id, "%d", i);
        ck_assert(take(key_of(id), i < 4 ? S : 50 * S));
        ck_assert(take(key_of(id), i < 4 ? S : 50 * S));
    }
    for (int i = 0; i < 4; i++) {
        snprintf(id, sizeof id, "new %d", i);
        ck_assert(take(key_of(id), 62 * S));
    }
    for (int i = 4; i < LIMITS_WAYS; i++) {
        snprintf(id, sizeof id, "%d", i);
        ck_assert(!take(key_of(id), 62 * S));
    }
    limits_close(limits);
}
END_TEST

START_TEST(in_flight)
{
    limits = limits_open(&usual);
    uint64_t a = key_of("a"), b = key_of("b"), c = key_of("c");
    ck_assert_int_eq(limits_enter(limits, a), LIMITS_ENTERED);
    ck_assert_int_eq(limits_enter(limits, a), LIMITS_ENTERED);
    ck_assert_int_eq(limits_enter(limits, a), LIMITS_CLIENT_FULL);
    ck_assert(!limits_full(limits));
    ck_assert_int_eq(limits_enter(limits, b), LIMITS_ENTERED);
    ck_assert(limits_full(limits));
    ck_assert_int_eq(limits_enter(limits, c), LIMITS_FULL);
    limits_leave(limits, a);
    ck_assert_int_eq(limits_enter(limits, c), LIMITS_ENTERED);
    limits_leave(limits, a);
    limits_leave(limits, b);
    limits_leave(limits, c);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(limits_enter(limits, a), LIMITS_ENTERED);
    limits_close(limits);
}
END_TEST

static atomic_int n_taken;

static void *taker(void *user)
{
    (void)user;
    struct limit_state mine;
    for (int i = 0; i < 1000; i++)
        n_taken += limits_take(limits, LIMIT_HEALTH, 42, S, &mine);
    return NULL;
}

START_TEST(threads_share_one_bucket)
{
    pthread_t threads[4];
    limits = limits_open(&usual);
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, taker, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    ck_assert_int_eq(n_taken, 600);
    limits_close(limits);
}
END_TEST

SUITE("limits", exactly_the_limit_passes, clients_and_classes_are_apart, peek_takes_nothing, zero_is_no_limit,
      exhausted_buckets_stay, expired_buckets_go_first, in_flight, threads_share_one_bucket)
