/* Blocks are conserved: no block has two owners, none is lost, and a reservation is all or nothing. */
#include "engine/kvcache.h"
#include "tests/suite.h"

#define N_BLOCKS 100
#define N_SLOTS 16
#define MAX_BLOCKS 20

static void check_owners(const struct kvcache *kv)
{
    unsigned char owners[N_BLOCKS] = {0};
    size_t n = 0;
    for (uint32_t i = 0; i < kv->n_free; i++, n++)
        owners[kv->free[i]]++;
    for (uint32_t slot = 0; slot < kv->n_slots; slot++)
        for (uint32_t i = 0; i < kv->n_reserved[slot]; i++, n++)
            owners[kv->tables[slot * kv->max_blocks + i]]++;
    ck_assert_uint_eq(n, N_BLOCKS);
    for (size_t i = 0; i < N_BLOCKS; i++)
        ck_assert_uint_eq(owners[i], 1);
}

START_TEST(test_random_conserves)
{
    struct kvcache kv;
    ck_assert(kvcache_open(&kv, N_BLOCKS, N_SLOTS, MAX_BLOCKS));
    srand(3);
    size_t n_refused = 0;
    for (int round = 0; round < 20000; round++) {
        uint32_t slot = (uint32_t)rand() % N_SLOTS;
        if (kv.n_reserved[slot]) {
            kvcache_release(&kv, slot);
            ck_assert_uint_eq(kv.n_reserved[slot], 0);
        } else {
            size_t n_positions = 1 + (size_t)rand() % (MAX_BLOCKS * KV_BLOCK_SIZE);
            uint32_t free_before = kv.n_free, need = kvcache_blocks_for(n_positions);
            bool ok = kvcache_reserve(&kv, slot, n_positions);
            ck_assert_int_eq(ok, need <= free_before);
            ck_assert_uint_eq(kv.n_free, ok ? free_before - need : free_before);
            n_refused += !ok;
        }
        check_owners(&kv);
    }
    ck_assert_uint_gt(n_refused, 100); /* the pool was really short at times */
    for (uint32_t slot = 0; slot < N_SLOTS; slot++)
        kvcache_release(&kv, slot);
    ck_assert_uint_eq(kv.n_free, N_BLOCKS);
    kvcache_close(&kv);
}
END_TEST

START_TEST(test_blocks_for)
{
    ck_assert_uint_eq(kvcache_blocks_for(0), 0);
    ck_assert_uint_eq(kvcache_blocks_for(1), 1);
    ck_assert_uint_eq(kvcache_blocks_for(KV_BLOCK_SIZE), 1);
    ck_assert_uint_eq(kvcache_blocks_for(KV_BLOCK_SIZE + 1), 2);
}
END_TEST

/* What was just given back goes out next, so a quiet engine keeps to few blocks. */
START_TEST(test_reuses_the_same_blocks)
{
    struct kvcache kv;
    ck_assert(kvcache_open(&kv, N_BLOCKS, N_SLOTS, MAX_BLOCKS));
    for (int round = 0; round < 50; round++) {
        ck_assert(kvcache_reserve(&kv, 0, 3 * KV_BLOCK_SIZE));
        for (uint32_t i = 0; i < 3; i++)
            ck_assert_int_lt(kv.tables[i], 3);
        kvcache_release(&kv, 0);
    }
    kvcache_close(&kv);
}
END_TEST

SUITE("kvcache", test_random_conserves, test_blocks_for, test_reuses_the_same_blocks)
