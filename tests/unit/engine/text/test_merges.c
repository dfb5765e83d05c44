/* The merge loop against its definition: again and again the pair of lowest rank, the leftmost of those, is joined. */
#include "engine/text/merges.h"
#include "engine/text/specials.h"
#include "engine/text/strmap.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_BASE 4
#define MAX_PAIRS 64

struct pair {
    uint32_t left, right, rank, joined;
};

static const struct pair *find(const struct pair *pairs, size_t n, uint32_t left, uint32_t right)
{
    for (size_t i = 0; i < n; i++)
        if (pairs[i].left == left && pairs[i].right == right)
            return &pairs[i];
    return NULL;
}

static size_t naive(const struct pair *pairs, size_t n_pairs, uint32_t *ids, size_t n)
{
    for (;;) {
        const struct pair *best = NULL;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            const struct pair *p = find(pairs, n_pairs, ids[i], ids[i + 1]);
            if (p != NULL && (best == NULL || p->rank < best->rank)) {
                best = p;
                at = i;
            }
        }
        if (best == NULL)
            return n;
        ids[at] = best->joined;
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        n--;
    }
}

START_TEST(test_random_against_definition)
{
    srand((unsigned)_i + 1);
    struct merges m;
    struct merges_work work = {0};
    struct pair pairs[MAX_PAIRS];
    size_t n_pairs = 0;
    ck_assert(merges_init(&m, 0));
    for (uint32_t i = 0; i < MAX_PAIRS; i++) {
        struct pair p = {(uint32_t)rand() % (N_BASE + i / 2), (uint32_t)rand() % (N_BASE + i / 2), 0, N_BASE + i};
        p.rank = _i % 2 == 0 ? i : (uint32_t)rand() % 8; /* equal ranks: the leftmost goes first */
        ck_assert(merges_add(&m, p.left, p.right, p.rank, p.joined));
        if (find(pairs, n_pairs, p.left, p.right) == NULL) /* the first of two equal pairs counts */
            pairs[n_pairs++] = p;
    }
    for (int round = 0; round < 200; round++) {
        uint32_t ids[80];
        size_t n = (size_t)rand() % 80;
        work.n = 0;
        for (size_t i = 0; i < n; i++) {
            ids[i] = rand() % 40 == 0 ? MERGES_NO_SYMBOL : (uint32_t)rand() % N_BASE;
            ck_assert(merges_push(&work, ids[i], (uint32_t)i));
        }
        ck_assert(merges_apply(&m, &work));
        n = naive(pairs, n_pairs, ids, n);
        size_t k = 0;
        for (uint32_t i = 0; work.n > 0 && i != UINT32_MAX; i = work.symbols[i].next, k++) {
            ck_assert_uint_lt(k, n);
            ck_assert_uint_eq(work.symbols[i].id, ids[k]);
        }
        ck_assert_uint_eq(k, n);
    }
    merges_work_fini(&work);
    merges_fini(&m);
}
END_TEST

START_TEST(test_strmap_keeps_the_first)
{
    struct strmap m;
    char keys[3000][8];
    uint32_t found;
    ck_assert(strmap_init(&m, 4)); /* grows */
    for (uint32_t i = 0; i < 3000; i++) {
        size_t n = (size_t)snprintf(keys[i], sizeof keys[i], "%u", i % 2000);
        ck_assert(strmap_add(&m, keys[i], n, i, &found));
        ck_assert_uint_eq(found, i % 2000);
    }
    ck_assert_uint_eq(m.n, 2000);
    ck_assert_uint_eq(strmap_get(&m, "1999", 4), 1999);
    ck_assert_uint_eq(strmap_get(&m, "1999", 3), 199);
    ck_assert_uint_eq(strmap_get(&m, "2000", 4), STRMAP_NONE);
    strmap_fini(&m);
    ck_assert_uint_eq(strmap_get(&m, "1", 1), STRMAP_NONE);
}
END_TEST

struct special_row {
    const char *text;
    bool all;
    int64_t id; /* -1: none */
    size_t at;
};

/* Ids are places in this list; the two with a star are found always. */
static const char *const special_texts[] = {"<a>", "<a><b>", "<", "*::", "*:::x", "<a", "\xff"};
static const struct special_row special_rows[] = {
    {"", true, -1, 0},
    {"plain", true, -1, 0},
    {"x<a>", true, 0, 1},
    {"x<a><b>y", true, 1, 1}, /* the longest */
    {"x<a><c", true, 0, 1},   /* a longer one that does not come to its end */
    {"<b", true, 2, 0},       /* one that is the beginning of others */
    {"<a", true, 5, 0},
    {"<a>:::", false, 3, 3}, /* only user-defined ones */
    {"a:::x<a>", false, 4, 1},
    {"a:::y", false, 3, 1},
    {"<a> < \xff", false, -1, 0},
    {"\xc3\xbf\xff", true, 6, 2},
};

START_TEST(test_specials)
{
    struct specials s = {0};
    for (uint32_t i = 0; i < sizeof special_texts / sizeof *special_texts; i++) {
        bool always = special_texts[i][0] == '*';
        ck_assert(specials_add(&s, special_texts[i] + always, strlen(special_texts[i]) - always, i, always));
    }
    char too_long[SPECIALS_MAX_BYTES + 1];
    memset(too_long, 'l', sizeof too_long);
    ck_assert(specials_add(&s, too_long, sizeof too_long, 99, true));
    ck_assert(specials_add(&s, "", 0, 98, true));
    specials_sort(&s);
    const struct special_row *r = &special_rows[_i];
    size_t at = 0;
    const struct special *found = specials_find(&s, r->text, strlen(r->text), 0, r->all, &at);
    ck_assert_int_eq(found == NULL ? -1 : (int64_t)found->id, r->id);
    ck_assert_uint_eq(at, r->at);
    ck_assert_ptr_null(specials_find(&s, too_long, sizeof too_long, 0, true, &at));
    specials_fini(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("merges");
    TCase *c = tcase_create("merges");
    tcase_add_loop_test(c, test_random_against_definition, 0, 20);
    tcase_add_test(c, test_strmap_keeps_the_first);
    tcase_add_loop_test(c, test_specials, 0, (int)(sizeof special_rows / sizeof *special_rows));
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
