/* Whose turn it is: the policies on members made up here. */
#include "tests/suite.h"

#include "gateway/balance.h"

#define N 4

static struct balance_member members[N];
static size_t turn;

static void fresh(void)
{
    static const char *const names[N] = {"10.0.0.1:50051", "10.0.0.2:50051", "[::1]:50051", "unix:/run/e.sock"};
    turn = 0;
    for (size_t i = 0; i < N; i++)
        members[i] = (struct balance_member){.id = balance_hash(0, names[i], strlen(names[i])), .may = true};
}

static int choose(enum balance_policy policy, uint64_t key)
{
    return balance_choose(members, N, policy, key, &turn);
}

START_TEST(round_robin_is_even)
{
    int n[N] = {0};
    fresh();
    for (int i = 0; i < 100; i++)
        n[choose(BALANCE_ROUND_ROBIN, 0)]++;
    for (int i = 0; i < N; i++)
        ck_assert_int_eq(n[i], 25);
    members[1].may = false; /* its share goes to all others, not to its neighbour */
    memset(n, 0, sizeof n);
    for (int i = 0; i < 99; i++)
        n[choose(BALANCE_ROUND_ROBIN, 0)]++;
    ck_assert_int_eq(n[0], 33);
    ck_assert_int_eq(n[1], 0);
    ck_assert_int_eq(n[2], 33);
    ck_assert_int_eq(n[3], 33);
}
END_TEST

START_TEST(least_load_takes_the_idle_one_and_turns_among_equals)
{
    fresh();
    members[0].load = members[1].load = 3;
    members[2].load = members[3].load = 1;
    ck_assert_int_eq(choose(BALANCE_LEAST_LOAD, 0), 2);
    ck_assert_int_eq(choose(BALANCE_LEAST_LOAD, 0), 3);
    ck_assert_int_eq(choose(BALANCE_LEAST_LOAD, 0), 2);
    members[2].may = members[3].may = false;
    ck_assert_int_eq(choose(BALANCE_LEAST_LOAD, 0), 0);
    ck_assert_int_eq(choose(BALANCE_LEAST_LOAD, 0), 1);
}
END_TEST

START_TEST(nobody_may)
{
    fresh();
    for (int i = 0; i < N; i++)
        members[i].may = false;
    ck_assert_int_eq(choose(BALANCE_ROUND_ROBIN, 0), -1);
    ck_assert_int_eq(choose(BALANCE_LEAST_LOAD, 0), -1);
    ck_assert_int_eq(choose(BALANCE_ROUND_ROBIN, 7), -1);
    ck_assert_int_eq(balance_choose(NULL, 0, BALANCE_ROUND_ROBIN, 0, &turn), -1);
}
END_TEST

START_TEST(a_key_stays_and_keys_are_spread)
{
    int n[N] = {0};
    fresh();
    for (uint64_t i = 0; i < 4000; i++) {
        uint64_t key = balance_hash(0, &i, sizeof i);
        int first = choose(BALANCE_ROUND_ROBIN, key);
        ck_assert_int_eq(choose(BALANCE_LEAST_LOAD, key), first);
        n[first]++;
    }
    for (int i = 0; i < N; i++)
        ck_assert_int_ge(n[i], 800);
    ck_assert_uint_eq(turn, 0); /* keys take no turns */
}
END_TEST

START_TEST(only_the_keys_of_one_that_goes_move)
{
    fresh();
    for (uint64_t i = 0; i < 1000; i++) {
        uint64_t key = balance_hash(0, &i, sizeof i);
        members[2].may = true;
        int before = choose(BALANCE_ROUND_ROBIN, key);
        members[2].may = false;
        int after = choose(BALANCE_ROUND_ROBIN, key);
        if (before == 2)
            ck_assert_int_ne(after, 2);
        else
            ck_assert_int_eq(after, before);
    }
}
END_TEST

START_TEST(a_key_leaves_an_engine_that_is_far_busier)
{
    fresh();
    int own = choose(BALANCE_ROUND_ROBIN, 4711);
    for (int i = 0; i < N; i++)
        members[i].load = 10;
    members[own].load = 20; /* twice as many: not far */
    ck_assert_int_eq(choose(BALANCE_ROUND_ROBIN, 4711), own);
    members[own].load = 21;
    int other = choose(BALANCE_ROUND_ROBIN, 4711);
    ck_assert_int_ne(other, own);
    ck_assert_int_eq(choose(BALANCE_ROUND_ROBIN, 4711), other); /* the second choice is a fixed one too */
    for (int i = 0; i < N; i++)
        members[i].load = 0;
    members[own].load = BALANCE_FAR_MORE; /* a few more than none: not far either */
    ck_assert_int_eq(choose(BALANCE_ROUND_ROBIN, 4711), own);
}
END_TEST

START_TEST(hashes_know_where_texts_end)
{
    uint64_t a = balance_hash(balance_hash(0, "ab", 2), "c", 1), b = balance_hash(balance_hash(0, "a", 1), "bc", 2);
    ck_assert(a != b);
    ck_assert(balance_hash(0, "", 0) != 0);
    ck_assert(balance_hash(0, "x", 1) == balance_hash(0, "x", 1));
}
END_TEST

SUITE("balance", round_robin_is_even, least_load_takes_the_idle_one_and_turns_among_equals, nobody_may,
      a_key_stays_and_keys_are_spread, only_the_keys_of_one_that_goes_move, a_key_leaves_an_engine_that_is_far_busier,
      hashes_know_where_texts_end)
