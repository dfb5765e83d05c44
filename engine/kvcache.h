/*
 * Who has which block of the KV cache: a block table for each sequence slot, reference counts, and an index of blocks by what they
 * hold, so that sequences that begin alike share blocks. A sequence gets all the blocks that it can ever need when it is admitted, so
 * memory cannot run out in mid-flight.
 *
 *   tables[slot][i] = block that holds positions [i * KV_BLOCK_SIZE, (i + 1) * KV_BLOCK_SIZE) of the slot's sequence
 *
 *   a block:  free -> held, being filled -> held, filled -> kept (no holder, still in the index) -> free, or held again
 *                                     \-> free, when its last holder left before it was filled
 *
 * The index knows a block by its tokens and the block before it; both are compared, so a match is no matter of chance. Only whole
 * blocks of known tokens are in it. Of the blocks that nobody holds the one that was left longest ago goes first, and the later
 * block of a sequence before the earlier, so what is in the index can always be reached.
 *
 * A sequence may hold blocks that another one is still filling (requests that begin alike, arriving together): it waits for them, and goes
 * on with them itself if the other leaves. Sharing changes no result: a position's K and V do not depend on who computed them.
 *
 * The blocks' memory is the backend's (struct kv_cache in kernels.h). The loop thread owns this.
 */
#ifndef ENGINE_KVCACHE_H
#define ENGINE_KVCACHE_H

#include "kernels/kernels.h"

#define KVCACHE_NONE (-1)

struct kvcache_block {
    uint32_t tokens[KV_BLOCK_SIZE]; /* valid while it is in the index */
    int32_t parent;                 /* the block before it, KVCACHE_NONE at the start of a sequence */
    uint32_t n_holders;
    int32_t filler;                 /* slot that computes it, KVCACHE_NONE */
    bool filled, indexed;
    int32_t next_in_bucket;
    int32_t older, newer;           /* among the kept ones */
};

struct kvcache {
    uint32_t n_blocks, n_slots, max_blocks, n_buckets;
    bool sharing;
    int32_t *tables;      /* [n_slots][max_blocks]; the first n_held[slot] are valid */
    uint32_t *n_held;     /* [n_slots] */
    struct kvcache_block *blocks; /* [n_blocks] */
    int32_t *buckets;     /* [n_buckets], a power of two */
    int32_t *free;        /* [n_free] used as a stack: a block that was just given back is the next to go out, so that an engine
                           * that never has many sequences never touches most of the memory */
    uint32_t n_free, n_kept;
    int32_t oldest, newest; /* kept */
};

/* For n_slots sequences of up to max_blocks blocks each; without sharing nothing is indexed. False when memory is out. */
bool kvcache_open(struct kvcache *kv, uint32_t n_blocks, uint32_t n_slots, uint32_t max_blocks, bool sharing);
void kvcache_close(struct kvcache *kv);

/* Blocks that n_positions take. */
uint32_t kvcache_blocks_for(size_t n_positions);
/* Blocks that somebody holds. */
static inline uint32_t kvcache_n_used(const struct kvcache *kv) { return kv->n_blocks - kv->n_free - kv->n_kept; }

/* Gives an empty slot room for n_positions (at most max_blocks blocks), beginning with blocks that hold its prompt already or will; the
 * last token of the prompt is never among these, as its logits are wanted. All or nothing, false when too few are free. */
bool kvcache_reserve(struct kvcache *kv, uint32_t slot, const uint32_t *prompt, uint32_t n_prompt, size_t n_positions);
/* Blocks that are missing for such a reservation; 0 = it would be made. */
uint32_t kvcache_n_lacking(const struct kvcache *kv, const uint32_t *prompt, uint32_t n_prompt, size_t n_positions);
/* Blocks of a slot that nobody else holds. */
uint32_t kvcache_n_alone(const struct kvcache *kv, uint32_t slot);
/* Takes back all blocks of a slot. */
void kvcache_release(struct kvcache *kv, uint32_t slot);

/* True when block i of the slot is whole in memory. */
bool kvcache_is_filled(const struct kvcache *kv, uint32_t slot, uint32_t i);
/* The slot is to fill its blocks first .. end - 1. Returns how many of them, from the first on, it may: up to one that is filled, or that
 * another slot fills. */
uint32_t kvcache_claim(struct kvcache *kv, uint32_t slot, uint32_t first, uint32_t end);
/* Block i of the slot, which the slot has claimed, is whole; it holds these tokens. */
void kvcache_fill(struct kvcache *kv, uint32_t slot, uint32_t i, const uint32_t tokens[KV_BLOCK_SIZE]);

#endif
