/* Deadlines of flows. */
#include "gateway/pace.h"

#include "base/clock.h"

#define MAX_GAIN_S 86400 /* keeps the sum far from overflow */

void pace_follow(struct pace *p, bool running, uint64_t n_bytes, int64_t now_ns)
{
    if (!running) {
        *p = (struct pace){0};
    } else if (p->since_ns == 0) {
        *p = (struct pace){now_ns, now_ns, n_bytes, n_bytes};
    } else if (n_bytes != p->n_last) {
        p->n_last = n_bytes;
        p->moved_ns = now_ns;
    }
}

int64_t pace_deadline(const struct pace *p, int64_t grace_ns, int64_t rate)
{
    if (p->since_ns == 0 || grace_ns == 0)
        return CLOCK_NEVER;
    uint64_t n = p->n_last - p->n_start;
    double gain_s = rate > 0 ? (double)n / (double)rate : 0;
    if (gain_s > MAX_GAIN_S)
        gain_s = MAX_GAIN_S;
    int64_t average_ns = p->since_ns + grace_ns + (int64_t)(gain_s * (double)CLOCK_NS_PER_S);
    int64_t silence_ns = p->moved_ns + grace_ns;
    return average_ns < silence_ns ? average_ns : silence_ns;
}
