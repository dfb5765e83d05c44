/* See kvcache.h. */
#include "engine/kvcache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

bool kvcache_open(struct kvcache *kv, uint32_t n_blocks, uint32_t n_slots, uint32_t max_blocks)
{
    memset(kv, 0, sizeof *kv);
    kv->n_blocks = n_blocks;
    kv->n_slots = n_slots;
    kv->max_blocks = max_blocks;
    kv->tables = calloc((size_t)n_slots * max_blocks, sizeof *kv->tables);
    kv->n_reserved = calloc(n_slots, sizeof *kv->n_reserved);
    kv->free = calloc(n_blocks, sizeof *kv->free);
    if (!kv->tables || !kv->n_reserved || !kv->free) {
        kvcache_close(kv);
        return false;
    }
    kv->n_free = n_blocks;
    for (uint32_t i = 0; i < n_blocks; i++)
        kv->free[i] = (int32_t)(n_blocks - 1 - i);
    return true;
}

void kvcache_close(struct kvcache *kv)
{
    free(kv->tables);
    free(kv->n_reserved);
    free(kv->free);
    memset(kv, 0, sizeof *kv);
}

uint32_t kvcache_blocks_for(size_t n_positions)
{
    return (uint32_t)((n_positions + KV_BLOCK_SIZE - 1) / KV_BLOCK_SIZE);
}

bool kvcache_reserve(struct kvcache *kv, uint32_t slot, size_t n_positions)
{
    uint32_t n = kvcache_blocks_for(n_positions);
    assert(slot < kv->n_slots && kv->n_reserved[slot] == 0 && "kvcache: the slot is empty");
    assert(n <= kv->max_blocks && "kvcache: a sequence fits its block table");
    if (n > kv->n_free)
        return false;
    int32_t *table = kv->tables + (size_t)slot * kv->max_blocks;
    for (uint32_t i = 0; i < n; i++)
        table[i] = kv->free[--kv->n_free];
    kv->n_reserved[slot] = n;
    return true;
}

void kvcache_release(struct kvcache *kv, uint32_t slot)
{
    assert(slot < kv->n_slots && "kvcache: slot in range");
    int32_t *table = kv->tables + (size_t)slot * kv->max_blocks;
    assert(kv->n_free + kv->n_reserved[slot] <= kv->n_blocks && "kvcache: blocks are conserved");
    for (uint32_t i = kv->n_reserved[slot]; i-- > 0;) {
        kv->free[kv->n_free++] = table[i];
        table[i] = 0;
    }
    kv->n_reserved[slot] = 0;
}
