/* Blocks are conserved, a reservation is all or nothing, and what is shared is what was computed for the same tokens. */
#include "engine/kvcache.h"
#include "tests/suite.h"

#define N_BLOCKS 100
#define N_SLOTS 16
#define MAX_BLOCKS 20
#define B KV_BLOCK_SIZE

/* Every block is free, kept or held, once; its count of holders is right. */
static void check_owners(const struct kvcache *kv)
{
    unsigned holders[N_BLOCKS] = {0}, idle[N_BLOCKS] = {0};
    uint32_t n_kept = 0, n_used = 0;
    bool good = true; /* one assertion a round: each is a message to another process */
    for (uint32_t i = 0; i < kv->n_free; i++)
        idle[kv->free[i]]++;
    for (int32_t id = kv->oldest; id != KVCACHE_NONE; id = kv->blocks[id].newer, n_kept++) {
        good &= kv->blocks[id].indexed && kv->blocks[id].filled && n_kept < N_BLOCKS;
        idle[id]++;
    }
    for (uint32_t slot = 0; slot < kv->n_slots; slot++)
        for (uint32_t i = 0; i < kv->n_held[slot]; i++)
            holders[kv->tables[slot * kv->max_blocks + i]]++;
    for (size_t i = 0; i < N_BLOCKS; i++) {
        good &= idle[i] == (holders[i] == 0) && kv->blocks[i].n_holders == holders[i];
        n_used += holders[i] > 0;
    }
    ck_assert(good && n_kept == kv->n_kept && kvcache_n_used(kv) == n_used);
}

/* A sequence of the simulation: a prompt made of a stem that several have and a tail. */
struct sim {
    uint32_t prompt[MAX_BLOCKS * B], n_prompt, n_positions, n_fed;
    bool live;
};

static void make_prompt(struct sim *s)
{
    uint32_t stem = (uint32_t)rand() % 4, n_stem = (uint32_t)rand() % (12 * B), salt = (uint32_t)rand();
    s->n_prompt = n_stem + 1 + (uint32_t)rand() % (6 * B);
    s->n_positions = s->n_prompt + (uint32_t)rand() % (2 * B);
    s->n_fed = 0;
    for (uint32_t i = 0; i < s->n_prompt; i++)
        s->prompt[i] = i < n_stem ? 1000 * stem + i : salt + i;
}

/* What each block of the memory holds: the hash of all tokens up to its end. Written by who fills it. */
static uint64_t memory[N_BLOCKS];

static uint64_t content(const struct sim *s, uint32_t i) { return kernel_hash(7, s->prompt, (i + 1) * B * sizeof *s->prompt); }

/* Goes on with a sequence as the loop does: past what is filled, then it claims some blocks and fills some of these; checks what it is
 * given. False when it must wait for another. */
static bool advance(struct kvcache *kv, struct sim *s, uint32_t slot)
{
    const int32_t *table = kv->tables + slot * kv->max_blocks;
    while (s->n_fed + B < s->n_prompt && kvcache_is_filled(kv, slot, s->n_fed / B)) {
        ck_assert_uint_eq(memory[table[s->n_fed / B]], content(s, s->n_fed / B));
        s->n_fed += B;
    }
    uint32_t first = s->n_fed / B, n_whole = s->n_prompt / B, most = first + 1 + (uint32_t)rand() % 3;
    uint32_t n = kvcache_claim(kv, slot, first, most < n_whole ? most : n_whole);
    for (uint32_t i = first, end = first + (uint32_t)rand() % (n + 1); i < end; i++) {
        memory[table[i]] = content(s, i);
        kvcache_fill(kv, slot, i, s->prompt + i * B);
        s->n_fed += B;
    }
    return n > 0 || first >= n_whole;
}

START_TEST(test_random_sequences)
{
    static struct sim sims[N_SLOTS];
    struct kvcache kv;
    size_t n_refused = 0, n_shared = 0, n_waits = 0;
    ck_assert(kvcache_open(&kv, N_BLOCKS, N_SLOTS, MAX_BLOCKS, true));
    srand(3);
    for (int round = 0; round < 30000; round++) {
        uint32_t slot = (uint32_t)rand() % N_SLOTS;
        struct sim *s = &sims[slot];
        if (s->live && rand() % 8 == 0) {
            uint32_t n_alone = kvcache_n_alone(&kv, slot), used = kvcache_n_used(&kv);
            kvcache_release(&kv, slot);
            ck_assert(kv.n_held[slot] == 0 && kvcache_n_used(&kv) == used - n_alone);
            s->live = false;
        } else if (s->live) {
            n_waits += !advance(&kv, s, slot);
        } else {
            make_prompt(s);
            uint32_t used = kvcache_n_used(&kv), free_before = kv.n_free, kept = kv.n_kept, need = kvcache_blocks_for(s->n_positions);
            uint32_t n_lacking = kvcache_n_lacking(&kv, s->prompt, s->n_prompt, s->n_positions);
            s->live = kvcache_reserve(&kv, slot, s->prompt, s->n_prompt, s->n_positions);
            ck_assert(s->live == (n_lacking == 0) && n_lacking <= need);
            if (!s->live)
                ck_assert(kvcache_n_used(&kv) == used && kv.n_free == free_before && kv.n_kept == kept && need > free_before);
            n_refused += !s->live;
            n_shared += s->live ? need - (kvcache_n_used(&kv) - used) : 0;
        }
        check_owners(&kv);
    }
    ck_assert_uint_gt(n_refused, 100); /* the pool was really short at times, */
    ck_assert_uint_gt(n_shared, 1000); /* blocks were really shared, */
    ck_assert_uint_gt(n_waits, 100);   /* and sequences really met blocks that others were filling */
    for (uint32_t slot = 0; slot < N_SLOTS; slot++)
        kvcache_release(&kv, slot);
    ck_assert_uint_eq(kv.n_free + kv.n_kept, N_BLOCKS);
    kvcache_close(&kv);
}
END_TEST

static void tokens_from(uint32_t *out, size_t n, uint32_t first)
{
    for (size_t i = 0; i < n; i++)
        out[i] = first + (uint32_t)i;
}

/* Fills all whole blocks of the slot's prompt. */
static void fill_all(struct kvcache *kv, uint32_t slot, const uint32_t *prompt, uint32_t n_prompt)
{
    for (uint32_t i = 0; i < n_prompt / B; i++)
        if (!kvcache_is_filled(kv, slot, i)) {
            ck_assert_uint_eq(kvcache_claim(kv, slot, i, i + 1), 1);
            kvcache_fill(kv, slot, i, prompt + i * B);
        }
}

START_TEST(test_the_last_token_of_a_prompt_is_computed)
{
    struct kvcache kv;
    uint32_t prompt[4 * B];
    tokens_from(prompt, 4 * B, 0);
    ck_assert(kvcache_open(&kv, N_BLOCKS, N_SLOTS, MAX_BLOCKS, true));
    ck_assert(kvcache_reserve(&kv, 0, prompt, 4 * B, 4 * B));
    fill_all(&kv, 0, prompt, 4 * B);
    kvcache_release(&kv, 0);
    ck_assert_uint_eq(kv.n_kept, 4);
    ck_assert(kvcache_reserve(&kv, 1, prompt, 4 * B, 4 * B)); /* its last token is the last of block 3 */
    for (uint32_t i = 0; i < 4; i++)
        ck_assert_int_eq(kvcache_is_filled(&kv, 1, i), i < 3);
    ck_assert(kvcache_reserve(&kv, 2, prompt, 4 * B - 1, 4 * B));
    ck_assert(kvcache_is_filled(&kv, 2, 2) && !kvcache_is_filled(&kv, 2, 3));
    kvcache_close(&kv);
}
END_TEST

START_TEST(test_who_leaves_gives_up_its_claim)
{
    struct kvcache kv;
    uint32_t prompt[3 * B + 1];
    tokens_from(prompt, 3 * B + 1, 0);
    ck_assert(kvcache_open(&kv, N_BLOCKS, N_SLOTS, MAX_BLOCKS, true));
    ck_assert(kvcache_reserve(&kv, 0, prompt, 3 * B + 1, 4 * B));
    ck_assert_uint_eq(kvcache_claim(&kv, 0, 0, 3), 3);
    kvcache_fill(&kv, 0, 0, prompt);
    ck_assert(kvcache_reserve(&kv, 1, prompt, 3 * B + 1, 4 * B));
    ck_assert_mem_eq(kv.tables, kv.tables + MAX_BLOCKS, 3 * sizeof *kv.tables);
    ck_assert(kvcache_is_filled(&kv, 1, 0));
    ck_assert_uint_eq(kvcache_claim(&kv, 1, 1, 3), 0); /* the first one fills it */
    kvcache_release(&kv, 0);
    ck_assert_uint_eq(kvcache_claim(&kv, 1, 1, 3), 2);
    kvcache_release(&kv, 1);
    ck_assert_uint_eq(kv.n_kept, 1);
    ck_assert_uint_eq(kv.n_free, N_BLOCKS - 1);
    kvcache_close(&kv);
}
END_TEST

/* The later block of a sequence goes before the earlier, and what was used last stays. */
START_TEST(test_the_oldest_goes_first)
{
    struct kvcache kv;
    uint32_t a[2 * B + 1], b[2 * B + 1], other[MAX_BLOCKS * B];
    tokens_from(a, 2 * B + 1, 0);
    tokens_from(b, 2 * B + 1, 10000);
    tokens_from(other, MAX_BLOCKS * B, 20000);
    ck_assert(kvcache_open(&kv, 6, 3, 6, true));
    ck_assert(kvcache_reserve(&kv, 0, a, 2 * B + 1, 2 * B + 1) && kvcache_reserve(&kv, 1, b, 2 * B + 1, 2 * B + 1));
    fill_all(&kv, 0, a, 2 * B + 1);
    fill_all(&kv, 1, b, 2 * B + 1);
    kvcache_release(&kv, 0);
    kvcache_release(&kv, 1);
    ck_assert_uint_eq(kv.n_kept, 4);
    ck_assert(kvcache_reserve(&kv, 2, other, 1, 3 * B)); /* two free ones and the second block of `a` */
    ck_assert(kvcache_reserve(&kv, 0, a, 2 * B + 1, 2 * B + 1));
    ck_assert(kvcache_is_filled(&kv, 0, 0) && !kvcache_is_filled(&kv, 0, 1));
    kvcache_close(&kv);
}
END_TEST

START_TEST(test_without_sharing_nothing_is_kept)
{
    struct kvcache kv;
    uint32_t prompt[3 * B];
    tokens_from(prompt, 3 * B, 0);
    ck_assert(kvcache_open(&kv, N_BLOCKS, N_SLOTS, MAX_BLOCKS, false));
    ck_assert(kvcache_reserve(&kv, 0, prompt, 3 * B, 3 * B));
    fill_all(&kv, 0, prompt, 3 * B);
    ck_assert(kvcache_reserve(&kv, 1, prompt, 3 * B, 3 * B));
    ck_assert(!kvcache_is_filled(&kv, 1, 0));
    kvcache_release(&kv, 0);
    kvcache_release(&kv, 1);
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
    uint32_t prompt[1] = {5};
    ck_assert(kvcache_open(&kv, N_BLOCKS, N_SLOTS, MAX_BLOCKS, true));
    for (int round = 0; round < 50; round++) {
        ck_assert(kvcache_reserve(&kv, 0, prompt, 1, 3 * KV_BLOCK_SIZE));
        for (uint32_t i = 0; i < 3; i++)
            ck_assert_int_lt(kv.tables[i], 3);
        kvcache_release(&kv, 0);
    }
    kvcache_close(&kv);
}
END_TEST

SUITE("kvcache", test_random_sequences, test_the_last_token_of_a_prompt_is_computed, test_who_leaves_gives_up_its_claim,
      test_the_oldest_goes_first, test_without_sharing_nothing_is_kept, test_blocks_for, test_reuses_the_same_blocks)
