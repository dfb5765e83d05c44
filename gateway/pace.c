/* Deadlines of flows. */
#include "gateway/pace.h"

#include "base/clock.h"

#define MAX_GAIN_S 86400 /* keeps the sum far from overflow */

void pace_follow(struct pace *p, bool running, uint64_t n_bytes, int64_t now_ns)
{
    if (!running)
        *p = (struct pace){0};
    else if (p->since_ns == 0)
        *p = (struct pace){now_ns, n_bytes};
}

int64_t pace_deadline(const struct pace *p, uint64_t n_bytes, int64_t grace_ns, int64_t rate)
{
    if (p->since_ns == 0 || grace_ns == 0)
        return CLOCK_NEVER;
    uint64_t n = n_bytes - p->n_start;
    double gain_s = rate > 0 ? (double)n / (double)rate : 0;
    if (gain_s > MAX_GAIN_S)
        gain_s = MAX_GAIN_S;
    return p->since_ns + grace_ns + (int64_t)(gain_s * (double)CLOCK_NS_PER_S);
}
