/* Several engines' models as one list, and their names. */
#ifndef GATEWAY_MODELS_MERGE_H
#define GATEWAY_MODELS_MERGE_H

#include "bitnet/v1/models.pb-c.h"
#include "gateway/gateway.h"

#include <stdbool.h>
#include <stddef.h>

/* A model of all engines that have it. */
struct models_entry {
    Bitnet__V1__Model *model; /* borrowed: the first engine's, with the figures of all */
    uint64_t memory_bytes, gpu_memory_bytes;
};

/* Each id once, in the order in which they come: the best status (active, loading, unloading, failed), requests and memory
 * added, means by requests, the lowest accuracy, `created` the first; what else describes it is the first engine's. The answers stay the caller's,
 * and the entries (to be freed; NULL when memory is out) borrow from them. */
struct models_entry *models_merge(Bitnet__V1__ListModelsResponse *const *answers, size_t n, size_t *n_entries);

/* The one that a client means by `name`, an id or an alias, or NULL. Any spelling will do that the engines take: what is neither letter, digit
 * nor _ counts as -. */
const struct models_entry *models_find(const struct models_entry *entries, size_t n, const char *name);
/* Answers MODEL_NOT_FOUND with the name and what there is. */
void models_not_found(struct request *r, const struct models_entry *entries, size_t n, const char *name);

#endif
