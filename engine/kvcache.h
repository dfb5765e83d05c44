/*
 * Who has which block of the KV cache: a free list and a block table for each sequence slot. A sequence reserves all
 * the blocks that it can ever need when it is admitted, so memory cannot run out in mid-flight and nothing is
 * preempted.
 *
 *   tables[slot][i] = block that holds positions [i * KV_BLOCK_SIZE, (i + 1) * KV_BLOCK_SIZE) of the slot's sequence
 *
 * The blocks' memory is the backend's (struct kv_cache in kernels.h). The loop thread owns this.
 */
#ifndef ENGINE_KVCACHE_H
#define ENGINE_KVCACHE_H

#include "kernels/kernels.h"

struct kvcache {
    uint32_t n_blocks, n_slots, max_blocks;
    int32_t *tables;      /* [n_slots][max_blocks]; the first n_reserved[slot] are valid */
    uint32_t *n_reserved; /* [n_slots] */
    int32_t
        *free; /* [n_free] used as a stack: a block that was just given back is the next to go out, so that an engine
                        * that never has many sequences never touches most of the memory */
    uint32_t n_free;
};

/* For n_slots sequences of up to max_blocks blocks each; false when memory is out. */
bool kvcache_open(struct kvcache *kv, uint32_t n_blocks, uint32_t n_slots, uint32_t max_blocks);
void kvcache_close(struct kvcache *kv);

/* Blocks that n_positions take. */
uint32_t kvcache_blocks_for(size_t n_positions);

/* Gives an empty slot room for n_positions (at most max_blocks blocks); all or nothing, false when too few are free. */
bool kvcache_reserve(struct kvcache *kv, uint32_t slot, size_t n_positions);
/* Takes back all blocks of a slot. */
void kvcache_release(struct kvcache *kv, uint32_t slot);

#endif
