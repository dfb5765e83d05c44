/* Turns: one at a time, first come, first served, and nothing for who is alone. */
#include "tests/suite.h"

#include "base/clock.h"
#include "engine/turn.h"

#include <pthread.h>
#include <unistd.h>

#define N 4

static struct turn turn;
static int inside, order[N], n_order;

static void *take_one(void *arg)
{
    turn_take(&turn, arg);
    ck_assert_int_eq(inside++, 0);
    order[n_order++] = *(int *)arg;
    usleep(1000);
    inside--;
    turn_give(&turn);
    return NULL;
}

static uint64_t n_asked(void)
{
    pthread_mutex_lock(&turn.lock);
    uint64_t n = turn.next;
    pthread_mutex_unlock(&turn.lock);
    return n;
}

START_TEST(in_order)
{
    pthread_t threads[N];
    int ids[N] = {0, 1, 2, 3};
    ck_assert(turn_init(&turn));
    turn_take(&turn, &turn);
    for (int i = 0; i < N; i++) { /* each has asked before the next one does */
        ck_assert(!pthread_create(&threads[i], NULL, take_one, &ids[i]));
        while (n_asked() < (uint64_t)i + 2)
            usleep(100);
    }
    ck_assert_int_eq(n_order, 0);
    turn_give(&turn);
    for (int i = 0; i < N; i++)
        pthread_join(threads[i], NULL);
    ck_assert_mem_eq(order, ids, sizeof ids);
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
