/* Choices by the mean log-probability of their tokens. */
#include "tests/suite.h"

#include "service/collect.h"

static struct collected choice(size_t n, double sum_logprob)
{
    return (struct collected){.n = n, .sum_logprob = sum_logprob};
}

static void ranked(const struct collected *choices, uint32_t n, const char *expected)
{
    uint32_t order[8];
    char text[16] = "";
    collect_rank(choices, n, order);
    for (uint32_t i = 0; i < n; i++)
        text[i] = (char)('0' + order[i]);
    ck_assert_str_eq(text, expected);
}

START_TEST(the_mean_counts_not_the_sum)
{
    const struct collected choices[] = {choice(2, -3), choice(10, -5), choice(1, -1)};
    ranked(choices, 3, "120");
    ranked(choices, 1, "0");
}
END_TEST

START_TEST(equal_ones_keep_their_order)
{
    const struct collected choices[] = {choice(2, -2), choice(1, -0.5), choice(4, -4), choice(2, -1), choice(3, -3)};
    ranked(choices, 5, "13024");
}
END_TEST

START_TEST(without_a_token_comes_last)
{
    const struct collected choices[] = {choice(0, 0), choice(1, -90), choice(0, 0), choice(1, 0)};
    ranked(choices, 4, "3102");
}
END_TEST

START_TEST(tokens_are_summed)
{
    const struct token tokens[] = {{.text = "a", .n_bytes = 1, .logprob = -1}, {.text = "b", .n_bytes = 1, .logprob = -0.25f}};
    const struct stream_event event = {.type = STREAM_TOKENS, .tokens = tokens, .n_tokens = 2};
    struct collected c;
    collect_init(&c);
    ck_assert(collect_add(&c, &event));
    ck_assert(collect_add(&c, &event));
    ck_assert_uint_eq(c.n, 4);
    ck_assert_double_eq(c.sum_logprob, -2.5);
    collect_fini(&c);
}
END_TEST

SUITE("collect", the_mean_counts_not_the_sum, equal_ones_keep_their_order, without_a_token_comes_last, tokens_are_summed)
