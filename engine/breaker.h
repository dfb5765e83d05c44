/*
 * The circuit breaker between requests and a device that fails: while it is known to fail, nobody waits to be told so, and the device is left
 * alone. Pure state, the time is an argument; the owner guards it.
 *
 *   CLOSED --BREAKER_FAILURES failures in a row--> OPEN --back-off--> HALF_OPEN: one request, the probe
 *      ^                                             ^                    | |
 *      |                                             '-- failure: twice --' |
 *      '--------------------------------------------------------- success --'
 *
 * The back-off begins at BREAKER_FIRST_NS and grows to BREAKER_MOST_NS. A probe of which nothing is heard for a back-off (it was cancelled, say)
 * makes room for another. A step that succeeds closes it whoever was in it.
 */
#ifndef ENGINE_BREAKER_H
#define ENGINE_BREAKER_H

#include "engine/engine.h"

#define BREAKER_FAILURES 3
#define BREAKER_FIRST_NS (INT64_C(1) * 1000 * 1000 * 1000)
#define BREAKER_MOST_NS (INT64_C(30) * 1000 * 1000 * 1000)

/* Zeroed = closed. */
struct breaker {
    uint32_t n_failures; /* in a row */
    bool open, probing;
    int64_t backoff_ns, retry_ns; /* of the time that it is open: how long, and until when nobody is let through */
};

enum breaker_state breaker_state(const struct breaker *b, int64_t now_ns);
/* May a new request go through? Where it may as the probe, nobody else may until there is news. Else *wait_ns says when to ask again. */
bool breaker_admit(struct breaker *b, int64_t now_ns, int64_t *wait_ns);
/* What became of a step. */
void breaker_succeeded(struct breaker *b);
void breaker_failed(struct breaker *b, int64_t now_ns);

#endif
