/* Buckets by leading bits: below 2^(bits + 1) every value has its own, above each doubling is cut into 2^bits equal parts. */
#include "tools/load_histogram.h"

#include <math.h>

#define SUB (1 << LOAD_SUB_BITS)

static size_t bucket_of(int64_t ns)
{
    if (ns < SUB)
        return ns > 0 ? (size_t)ns : 0;
    int shift = 63 - __builtin_clzll((unsigned long long)ns) - LOAD_SUB_BITS;
    size_t bucket = ((size_t)shift << LOAD_SUB_BITS) + (size_t)(ns >> shift);
    return bucket < LOAD_N_BUCKETS ? bucket : LOAD_N_BUCKETS - 1;
}

/* The middle of a bucket. */
static int64_t value_of(size_t bucket)
{
    if (bucket < 2 * SUB)
        return (int64_t)bucket;
    int shift = (int)(bucket >> LOAD_SUB_BITS) - 1;
    int64_t low = (int64_t)(SUB + (bucket & (SUB - 1))) << shift;
    return low + (INT64_C(1) << shift) / 2;
}

void load_histogram_add(struct load_histogram *h, int64_t ns, uint64_t times)
{
    if (times == 0)
        return;
    if (ns < 0)
        ns = 0;
    if (h->n == 0 || ns < h->min)
        h->min = ns;
    if (ns > h->max)
        h->max = ns;
    h->n += times;
    h->sum += (double)ns * (double)times;
    h->buckets[bucket_of(ns)] += times;
}

void load_histogram_merge(struct load_histogram *h, const struct load_histogram *from)
{
    if (from->n == 0)
        return;
    if (h->n == 0 || from->min < h->min)
        h->min = from->min;
    if (from->max > h->max)
        h->max = from->max;
    h->n += from->n;
    h->sum += from->sum;
    for (size_t i = 0; i < LOAD_N_BUCKETS; i++)
        h->buckets[i] += from->buckets[i];
}

int64_t load_histogram_at(const struct load_histogram *h, double q)
{
    double rank = ceil(q * (double)h->n);
    uint64_t wanted = rank < 1 ? 1 : rank > (double)h->n ? h->n : (uint64_t)rank, seen = 0;
    if (h->n == 0)
        return 0;
    for (size_t i = 0; i < LOAD_N_BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen < wanted)
            continue;
        int64_t v = value_of(i);
        return v < h->min ? h->min : v > h->max || i == LOAD_N_BUCKETS - 1 ? h->max : v;
    }
    return h->max;
}

double load_histogram_mean(const struct load_histogram *h)
{
    return h->n ? h->sum / (double)h->n : 0;
}
