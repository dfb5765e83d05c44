/*
 * Pace: whether bytes move fast enough. A flow (a body that comes in, an answer that goes out) has a grace time and, for each
 * `rate` bytes that have moved, a second more: who sends or reads a byte now and then does not keep it open.
 */
#ifndef GATEWAY_PACE_H
#define GATEWAY_PACE_H

#include <stdbool.h>
#include <stdint.h>

struct pace {
    int64_t since_ns; /* 0: nothing is to move */
    uint64_t n_start; /* the count when it began */
};

/* Starts, goes on with or ends the watch over a flow; `n_bytes` counts what has moved and never falls. */
void pace_follow(struct pace *p, bool running, uint64_t n_bytes, int64_t now_ns);
/* When the flow will be too slow unless more moves; CLOCK_NEVER when none runs or grace_ns is 0 (no limit). Rate 0: what
 * moves gains no time. */
int64_t pace_deadline(const struct pace *p, uint64_t n_bytes, int64_t grace_ns, int64_t rate);

#endif
