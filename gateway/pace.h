/*
 * Pace: whether bytes move fast enough. A flow (a body that comes in, an answer that goes out) ends when nothing has moved for
 * its grace time, or when all in all less than `rate` bytes a second have moved since the grace time passed: neither who
 * stops nor who sends or reads a byte now and then keeps it open.
 */
#ifndef GATEWAY_PACE_H
#define GATEWAY_PACE_H

#include <stdbool.h>
#include <stdint.h>

struct pace {
    int64_t since_ns; /* 0: nothing is to move */
    int64_t moved_ns; /* when that was last seen */
    uint64_t n_start, n_last; /* the count when it began, and at the last look */
};

/* Starts, goes on with or ends the watch over a flow; `n_bytes` counts what has moved and never falls. */
void pace_follow(struct pace *p, bool running, uint64_t n_bytes, int64_t now_ns);
/* When the flow will be too slow unless more moves; CLOCK_NEVER when none runs or grace_ns is 0 (no limit). Rate 0: the whole
 * flow has the grace time. */
int64_t pace_deadline(const struct pace *p, int64_t grace_ns, int64_t rate);

#endif
