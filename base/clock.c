/* Time, from clock_gettime(2). */
#include "base/clock.h"

#include <stdio.h>
#include <time.h>

static int64_t read_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now); /* cannot fail: both clocks exist on every Linux */
    return (int64_t)now.tv_sec * CLOCK_NS_PER_S + now.tv_nsec;
}

int64_t clock_now_ns(void)
{
    return read_ns(CLOCK_MONOTONIC);
}

int64_t clock_wall_ns(void)
{
    return read_ns(CLOCK_REALTIME);
}

char *clock_rfc3339(int64_t wall_ns, char out[CLOCK_RFC3339_BYTES])
{
    int64_t seconds = wall_ns / CLOCK_NS_PER_S;
    int64_t rest = wall_ns % CLOCK_NS_PER_S;
    if (rest < 0) { /* before 1970: the fraction counts forward from the second below */
        rest += CLOCK_NS_PER_S;
        seconds--;
    }
    time_t t = (time_t)seconds;
    struct tm tm;
    gmtime_r(&t, &tm);
    /* An int64_t of nanoseconds spans 1677..2262, so every field has its usual width; the remainders say so to the compiler. */
    snprintf(out, CLOCK_RFC3339_BYTES, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ", (unsigned)(tm.tm_year + 1900) % 10000,
             (unsigned)(tm.tm_mon + 1) % 100, (unsigned)tm.tm_mday % 100, (unsigned)tm.tm_hour % 100,
             (unsigned)tm.tm_min % 100, (unsigned)tm.tm_sec % 100, (unsigned)(rest / CLOCK_NS_PER_MS) % 1000);
    return out;
}
