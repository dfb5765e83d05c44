/* The event loop of a test, turned until something holds. Include it in one file of a program only. */
#ifndef TESTS_UNIT_GATEWAY_TURNS_H
#define TESTS_UNIT_GATEWAY_TURNS_H

#include "base/clock.h"

#include <event2/event.h>

static struct event_base *base;

static void turn(void)
{
    const struct timeval soon = {0, 2000};
    event_base_loopexit(base, &soon);
    event_base_dispatch(base);
}

#define TURN_UNTIL(condition)                                                                                          \
    do {                                                                                                               \
        for (int64_t end_ = clock_now_ns() + 10 * CLOCK_NS_PER_S; !(condition) && clock_now_ns() < end_;)              \
            turn();                                                                                                    \
        ck_assert(condition);                                                                                          \
    } while (0)

#endif
