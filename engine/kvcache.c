/* See kvcache.h. */
#include "engine/kvcache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

bool kvcache_open(struct kvcache *kv, uint32_t n_blocks, uint32_t n_slots, uint32_t max_blocks, bool sharing)
{
    memset(kv, 0, sizeof *kv);
    kv->n_blocks = n_blocks;
    kv->n_slots = n_slots;
    kv->max_blocks = max_blocks;
    kv->sharing = sharing;
    kv->oldest = kv->newest = KVCACHE_NONE;
    for (kv->n_buckets = 1; kv->n_buckets < n_blocks; kv->n_buckets *= 2)
        ;
    kv->tables = calloc((size_t)n_slots * max_blocks, sizeof *kv->tables);
    kv->n_held = calloc(n_slots, sizeof *kv->n_held);
    kv->blocks = calloc(n_blocks, sizeof *kv->blocks);
    kv->buckets = calloc(kv->n_buckets, sizeof *kv->buckets);
    kv->free = calloc(n_blocks, sizeof *kv->free);
    if (!kv->tables || !kv->n_held || !kv->blocks || !kv->buckets || !kv->free) {
        kvcache_close(kv);
        return false;
    }
    for (uint32_t i = 0; i < kv->n_buckets; i++)
        kv->buckets[i] = KVCACHE_NONE;
    kv->n_free = n_blocks;
    for (uint32_t i = 0; i < n_blocks; i++)
        kv->free[i] = (int32_t)(n_blocks - 1 - i);
    return true;
}

void kvcache_close(struct kvcache *kv)
{
    free(kv->tables);
    free(kv->n_held);
    free(kv->blocks);
    free(kv->buckets);
    free(kv->free);
    memset(kv, 0, sizeof *kv);
}

uint32_t kvcache_blocks_for(size_t n_positions)
{
    return (uint32_t)((n_positions + KV_BLOCK_SIZE - 1) / KV_BLOCK_SIZE);
}

/* ---- the index --------------------------------------------------------------------------------------------------- */

static int32_t *bucket_of(const struct kvcache *kv, int32_t parent, const uint32_t *tokens)
{
    uint64_t hash = kernel_hash((uint64_t)(uint32_t)parent, tokens, KV_BLOCK_SIZE * sizeof *tokens);
    return &kv->buckets[(hash ^ hash >> 32) & (kv->n_buckets - 1)];
}

static int32_t find(const struct kvcache *kv, int32_t parent, const uint32_t *tokens)
{
    int32_t at = kv->sharing ? *bucket_of(kv, parent, tokens) : KVCACHE_NONE;
    while (at != KVCACHE_NONE && (kv->blocks[at].parent != parent ||
                                  memcmp(kv->blocks[at].tokens, tokens, sizeof kv->blocks[at].tokens) != 0))
        at = kv->blocks[at].next_in_bucket;
    return at;
}

/* Enters a block behind `parent`, unless that is not in the index itself or an equal one is. */
static void enter(struct kvcache *kv, int32_t id, int32_t parent, const uint32_t *tokens)
{
    struct kvcache_block *b = &kv->blocks[id];
    if (!kv->sharing || b->indexed || (parent != KVCACHE_NONE && !kv->blocks[parent].indexed) ||
        find(kv, parent, tokens) != KVCACHE_NONE)
        return;
    int32_t *bucket = bucket_of(kv, parent, tokens);
    memcpy(b->tokens, tokens, sizeof b->tokens);
    b->parent = parent;
    b->indexed = true;
    b->next_in_bucket = *bucket;
    *bucket = id;
}

static void leave(struct kvcache *kv, int32_t id)
{
    struct kvcache_block *b = &kv->blocks[id];
    if (!b->indexed)
        return;
    int32_t *at = bucket_of(kv, b->parent, b->tokens);
    while (*at != id)
        at = &kv->blocks[*at].next_in_bucket;
    *at = b->next_in_bucket;
    b->indexed = false;
}

/* ---- kept blocks, by age ------------------------------------------------------------------------------------------ */

static void keep(struct kvcache *kv, int32_t id)
{
    struct kvcache_block *b = &kv->blocks[id];
    b->older = kv->newest;
    b->newer = KVCACHE_NONE;
    *(kv->newest == KVCACHE_NONE ? &kv->oldest : &kv->blocks[kv->newest].newer) = id;
    kv->newest = id;
    kv->n_kept++;
}

static void unkeep(struct kvcache *kv, int32_t id)
{
    struct kvcache_block *b = &kv->blocks[id];
    *(b->older == KVCACHE_NONE ? &kv->oldest : &kv->blocks[b->older].newer) = b->newer;
    *(b->newer == KVCACHE_NONE ? &kv->newest : &kv->blocks[b->newer].older) = b->older;
    kv->n_kept--;
}

/* A block with nothing in it: a free one, or the oldest kept. */
static int32_t take(struct kvcache *kv)
{
    int32_t id = kv->oldest;
    if (kv->n_free) {
        id = kv->free[--kv->n_free];
    } else {
        unkeep(kv, id);
        leave(kv, id);
    }
    kv->blocks[id].filled = false;
    kv->blocks[id].filler = KVCACHE_NONE;
    return id;
}

/* ---- sequences ---------------------------------------------------------------------------------------------------- */

static int32_t *table_of(const struct kvcache *kv, uint32_t slot) { return kv->tables + (size_t)slot * kv->max_blocks; }

static int32_t block_at(const struct kvcache *kv, uint32_t slot, uint32_t i)
{
    assert(slot < kv->n_slots && i < kv->n_held[slot] && "kvcache: the slot holds the block");
    return table_of(kv, slot)[i];
}

/* Blocks that the index has for a prompt, into the table unless that is NULL; how many of them nobody holds is added to *n_kept. */
static uint32_t match(const struct kvcache *kv, int32_t *table, const uint32_t *prompt, uint32_t n_prompt, uint32_t *n_kept)
{
    uint32_t n = 0;
    int32_t id = KVCACHE_NONE;
    while ((n + 1) * KV_BLOCK_SIZE < n_prompt && (id = find(kv, id, prompt + n * KV_BLOCK_SIZE)) != KVCACHE_NONE) {
        if (table)
            table[n] = id;
        n++;
        *n_kept += kv->blocks[id].n_holders == 0;
    }
    return n;
}

bool kvcache_reserve(struct kvcache *kv, uint32_t slot, const uint32_t *prompt, uint32_t n_prompt, size_t n_positions)
{
    uint32_t n = kvcache_blocks_for(n_positions), n_kept = 0;
    assert(slot < kv->n_slots && kv->n_held[slot] == 0 && "kvcache: the slot is empty");
    assert(n <= kv->max_blocks && n_prompt <= n_positions + 1 && "kvcache: a sequence fits its block table");
    int32_t *table = table_of(kv, slot);
    uint32_t n_shared = match(kv, table, prompt, n_prompt, &n_kept);
    if (n - n_shared > kv->n_free + kv->n_kept - n_kept)
        return false;
    for (uint32_t i = 0; i < n_shared; i++)
        if (kv->blocks[table[i]].n_holders++ == 0)
            unkeep(kv, table[i]);
    for (uint32_t i = n_shared; i < n; i++) {
        table[i] = take(kv);
        kv->blocks[table[i]].n_holders = 1;
        if ((i + 1) * KV_BLOCK_SIZE < n_prompt) /* so that who begins alike waits for it */
            enter(kv, table[i], i ? table[i - 1] : KVCACHE_NONE, prompt + i * KV_BLOCK_SIZE);
    }
    kv->n_held[slot] = n;
    return true;
}

uint32_t kvcache_n_lacking(const struct kvcache *kv, const uint32_t *prompt, uint32_t n_prompt, size_t n_positions)
{
    uint32_t n_kept = 0, n = kvcache_blocks_for(n_positions) - match(kv, NULL, prompt, n_prompt, &n_kept);
    uint32_t n_free = kv->n_free + kv->n_kept - n_kept;
    return n > n_free ? n - n_free : 0;
}

uint32_t kvcache_n_alone(const struct kvcache *kv, uint32_t slot)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < kv->n_held[slot]; i++)
        n += kv->blocks[block_at(kv, slot, i)].n_holders == 1;
    return n;
}

void kvcache_release(struct kvcache *kv, uint32_t slot)
{
    assert(slot < kv->n_slots && "kvcache: slot in range");
    int32_t *table = table_of(kv, slot);
    for (uint32_t i = kv->n_held[slot]; i-- > 0;) {
        struct kvcache_block *b = &kv->blocks[table[i]];
        assert(b->n_holders > 0 && "kvcache: a block in a table has a holder");
        if (b->filler == (int32_t)slot)
            b->filler = KVCACHE_NONE;
        if (--b->n_holders > 0)
            continue;
        if (b->indexed && b->filled) {
            keep(kv, table[i]);
            continue;
        }
        leave(kv, table[i]);
        kv->free[kv->n_free++] = table[i];
    }
    kv->n_held[slot] = 0;
}

bool kvcache_is_filled(const struct kvcache *kv, uint32_t slot, uint32_t i) { return kv->blocks[block_at(kv, slot, i)].filled; }

uint32_t kvcache_claim(struct kvcache *kv, uint32_t slot, uint32_t first, uint32_t end)
{
    uint32_t n = 0;
    for (; first + n < end; n++) {
        struct kvcache_block *b = &kv->blocks[block_at(kv, slot, first + n)];
        if (b->filled || (b->filler != KVCACHE_NONE && b->filler != (int32_t)slot))
            break;
        b->filler = (int32_t)slot;
    }
    return n;
}

void kvcache_fill(struct kvcache *kv, uint32_t slot, uint32_t i, const uint32_t tokens[KV_BLOCK_SIZE])
{
    int32_t id = block_at(kv, slot, i);
    assert(!kv->blocks[id].filled && kv->blocks[id].filler == (int32_t)slot && "kvcache: a block is filled by who claimed it");
    kv->blocks[id].filled = true;
    kv->blocks[id].filler = KVCACHE_NONE;
    enter(kv, id, i ? block_at(kv, slot, i - 1) : KVCACHE_NONE, tokens);
}
