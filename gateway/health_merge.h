/* What several engines say of themselves, as one: what their users can expect of all of them together. */
#ifndef GATEWAY_HEALTH_MERGE_H
#define GATEWAY_HEALTH_MERGE_H

#include "bitnet/v1/admin.pb-c.h"

#include <stddef.h>

/* Merges answers[1..n-1] into answers[0], n >= 1; all stay the caller's. `n_missing` engines ought to have answered and did
 * not. Ready when one engine is; healthy when all are and none is missing, unhealthy when none is usable, else degraded, each
 * component likewise; counts and memory are sums, the others means by requests. */
void health_merge(Bitnet__V1__HealthResponse *const *answers, size_t n, size_t n_missing);

#endif
