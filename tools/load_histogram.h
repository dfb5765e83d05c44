/*
 * A histogram of durations with a bounded relative error: 128 buckets for each doubling, so that a percentile is at most 0.4 % off
 * at any scale, in 40 KB whatever is counted. Count, sum, least and largest are exact. One owner.
 */
#ifndef TOOLS_LOAD_HISTOGRAM_H
#define TOOLS_LOAD_HISTOGRAM_H

#include <stddef.h>
#include <stdint.h>

#define LOAD_SUB_BITS 7  /* buckets for each doubling, as a power of two */
#define LOAD_MAX_BITS 43 /* values up to 2^43 ns, 2.4 hours; larger ones count in the last bucket */
#define LOAD_N_BUCKETS ((LOAD_MAX_BITS - LOAD_SUB_BITS + 1) << LOAD_SUB_BITS)

struct load_histogram { /* zeroed = empty */
    uint64_t n;
    double sum; /* ns */
    int64_t min, max;
    uint64_t buckets[LOAD_N_BUCKETS];
};

/* Counts a duration `times` times; negative ones count as 0. */
void load_histogram_add(struct load_histogram *h, int64_t ns, uint64_t times);
/* Adds what `from` has counted. */
void load_histogram_merge(struct load_histogram *h, const struct load_histogram *from);
/* The value that a share of `q` (0..1) of all are at most (nearest rank); 0 when nothing was counted. */
int64_t load_histogram_at(const struct load_histogram *h, double q);
double load_histogram_mean(const struct load_histogram *h);

#endif
