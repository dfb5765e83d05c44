/* Where drafts come from, and how many are worth their rows. */
#include "engine/draft.h"
#include "tests/suite.h"

static uint32_t find(const char *prompt, const char *generated, uint32_t max, char *out)
{
    uint32_t p[64], g[64], drafted[DRAFT_MAX], np = (uint32_t)strlen(prompt), ng = (uint32_t)strlen(generated);
    for (uint32_t i = 0; i < np; i++)
        p[i] = (uint32_t)prompt[i];
    for (uint32_t i = 0; i < ng; i++)
        g[i] = (uint32_t)generated[i];
    uint32_t n = draft_find(p, np, g, ng, drafted, max);
    for (uint32_t i = 0; i < n; i++)
        out[i] = (char)drafted[i];
    out[n] = 0;
    return n;
}

START_TEST(test_what_followed_is_drafted)
{
    static const struct {
        const char *prompt, *generated, *draft;
        uint32_t max;
    } cases[] = {
        {"abcdefg", "xabc", "def", 3},     /* from the prompt */
        {"abcdefg", "xabc", "", 0},        /* none asked for */
        {"abcXabcY", "abc", "Y", 1},       /* the latest occurrence */
        {"qbcdYxyz", "bc", "dYxy", 4},     /* two tokens, when three have not occurred */
        {"hello", "qr", "", 4},            /* nothing has */
        {"c", "c", "", 4},                 /* a single token is not enough */
        {"", "ababab", "ab", 4},           /* no further than the end of what is known: it overlaps it */
        {"ab", "cdabc", "dabc", 8},        /* across the border of prompt and answer */
        {"", "", "", 4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char found[DRAFT_MAX + 1];
        find(cases[i].prompt, cases[i].generated, cases[i].max, found);
        ck_assert_msg(strcmp(found, cases[i].draft) == 0, "case %zu: expected \"%s\", found \"%s\"", i, cases[i].draft, found);
    }
}
END_TEST

/* Drafts whose tokens stand with some chance, at some cost: the length settles near the best one, and on 0 where none pays. */
START_TEST(test_lengths_follow_what_is_gained)
{
    static const struct {
        double chance, cost;
        uint32_t least, most;
    } cases[] = {{1.0, 0.1, 8, 8}, {0.9, 0.05, 5, 8}, {0.5, 0.1, 1, 4}, {0.5, 0.9, 0, 0}, {0.02, 0.2, 0, 0}, {1.0, 1.0, 0, 0}};
    srand(3);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct draft_state d = {0};
        uint32_t length = 0, n_drafts = 0;
        double sum = 0;
        for (int step = 0; step < 2000; step++) {
            length = draft_length(&d, cases[i].cost);
            ck_assert_uint_le(length, DRAFT_MAX);
            uint32_t n = 0;
            while (n < length && rand() < cases[i].chance * RAND_MAX)
                n++;
            if (length)
                draft_learn(&d, length, n);
            sum += step >= 100 ? length : 0;
            n_drafts += step >= 100 && length > 0;
        }
        double mean = sum / 1900;
        ck_assert_msg(mean >= cases[i].least * 0.7 && mean <= cases[i].most + 0.1, "case %zu: mean length %f", i, mean);
        ck_assert_uint_gt(n_drafts, 1900 / 40); /* even then it looks now and then whether it would pay */
    }
}
END_TEST

SUITE("draft", test_what_followed_is_drafted, test_lengths_follow_what_is_gained)
