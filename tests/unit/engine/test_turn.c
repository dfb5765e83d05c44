/* Turns: one at a time, first come, first served, and nothing for who is alone. */
#include "tests/suite.h"

#include "base/clock.h"
#include "engine/turn.h"

#include <stdatomic.h>
#include <unistd.h>

#define N 4

static struct turn turn;
static int inside, order[N * 500], n_order;
static atomic_int n_ready;

static void *take_many(void *arg)
{
    atomic_fetch_add(&n_ready, 1);
    for (int i = 0; i < 500; i++) {
        turn_take(&turn, arg);
        ck_assert_int_eq(inside++, 0);
        order[n_order++] = *(int *)arg;
        while (atomic_load(&n_ready) < N)
            usleep(100);
        inside--;
        turn_give(&turn);
    }
    return NULL;
}

START_TEST(in_order)
{
    pthread_t threads[N];
    int ids[N] = {0, 1, 2, 3}, n_repeated = 0;
    ck_assert(turn_init(&turn));
    for (int i = 0; i < N; i++)
        ck_assert(!pthread_create(&threads[i], NULL, take_many, &ids[i]));
    for (int i = 0; i < N; i++)
        pthread_join(threads[i], NULL);
    ck_assert_int_eq(n_order, N * 500);
    for (int i = 1; i < N * 500; i++)
        n_repeated += order[i] == order[i - 1];
    ck_assert_int_lt(n_repeated, N * 500 / 2); /* whoever gives it waits behind the others; a thread that lags is not waited for */
    turn_fini(&turn);
}
END_TEST

START_TEST(sharing)
{
    int a, b;
    int64_t now_ns = clock_now_ns();
    turn_take(NULL, &a);
    turn_give(NULL);
    ck_assert(!turn_is_shared(NULL, &a, now_ns));
    ck_assert(turn_init(&turn));
    ck_assert(!turn_is_shared(&turn, &a, now_ns));
    for (int i = 0; i < 3; i++) {
        turn_take(&turn, &a);
        turn_give(&turn);
        ck_assert(!turn_is_shared(&turn, &a, clock_now_ns()));
    }
    turn_take(&turn, &b);
    ck_assert(turn_is_shared(&turn, &a, clock_now_ns()));
    turn_give(&turn);
    ck_assert(turn_is_shared(&turn, &a, clock_now_ns()));
    turn_take(&turn, &a);
    turn_give(&turn);
    now_ns = clock_now_ns();
    ck_assert(turn_is_shared(&turn, &a, now_ns));
    ck_assert(!turn_is_shared(&turn, &a, now_ns + 2 * CLOCK_NS_PER_S)); /* the other has gone */
    turn_fini(&turn);
}
END_TEST

SUITE("turn", in_order, sharing)
