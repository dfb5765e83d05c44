/* Time. Monotonic nanoseconds for durations and deadlines, wall time for people. Any thread. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

#define CLOCK_NS_PER_MS INT64_C(1000000)
#define CLOCK_NS_PER_S INT64_C(1000000000)
#define CLOCK_NEVER INT64_MAX  /* a deadline that does not pass */
#define CLOCK_RFC3339_BYTES 25 /* "2026-01-31T23:59:59.123Z" and its NUL */

/* CLOCK_MONOTONIC in nanoseconds. */
int64_t clock_now_ns(void);

/* Wall clock in nanoseconds since 1970-01-01T00:00:00Z. */
int64_t clock_wall_ns(void);

/* Writes RFC 3339 UTC with milliseconds; returns `out`. */
char *clock_rfc3339(int64_t wall_ns, char out[CLOCK_RFC3339_BYTES]);

#endif
