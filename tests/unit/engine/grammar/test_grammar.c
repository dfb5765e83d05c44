/* Rules: recursion and its bounds, what is refused, and that nothing is begun that cannot be ended. */
#include "tests/suite.h"

#include "engine/grammar/program.h"
#include "tests/unit/engine/grammar/match.h"

static struct grammar_builder *b;

static uint32_t text(const char *t)
{
    return grammar_text(b, t, strlen(t));
}

static uint32_t seq(uint32_t x, uint32_t y)
{
    return grammar_sequence(b, x, y);
}

static enum grammar_match match(struct grammar *g, const char *t)
{
    return grammar_match(g, t, strlen(t));
}

static void refused(uint32_t rule, const char *says)
{
    struct grammar *g = NULL;
    struct error err = {0};
    ck_assert_int_eq(grammar_compile(b, rule, &g, &err), ERROR_VALIDATION_FAILED);
    ck_assert_msg(strstr(err.message, says) != NULL, "%s", err.message);
    ck_assert_ptr_null(g);
    grammar_builder_close(b);
}

/* r = '[' r* ']' */
static struct grammar *brackets(void)
{
    struct grammar *g = NULL;
    struct error err;
    b = grammar_builder_open();
    uint32_t r = grammar_rule(b), inside = grammar_repeat(b, grammar_call(b, r), 0, GRAMMAR_UNBOUNDED);
    grammar_rule_set(b, r, seq(seq(text("["), inside), text("]")));
    ck_assert_msg(!grammar_compile(b, r, &g, &err), "%s", err.message);
    grammar_builder_close(b);
    return g;
}

START_TEST(rules_contain_themselves)
{
    struct grammar *g = brackets();
    ck_assert_int_eq(match(g, "[[][[]]]"), GRAMMAR_WHOLE);
    ck_assert_int_eq(match(g, "[[][[]]"), GRAMMAR_BEGINS);
    ck_assert_int_eq(match(g, "[]["), GRAMMAR_NO);
    ck_assert_int_eq(match(g, "]"), GRAMMAR_NO);
    grammar_release(g);
}
END_TEST

START_TEST(depth_has_an_end)
{
    struct grammar *g = brackets();
    char deep[2 * GRAMMAR_MAX_DEPTH + 4] = "";
    size_t n = GRAMMAR_MAX_DEPTH + 1; /* the first is not a call */
    memset(deep, '[', n);
    ck_assert_int_eq(match(g, deep), GRAMMAR_BEGINS);
    memset(deep + n, ']', n);
    ck_assert_int_eq(match(g, deep), GRAMMAR_WHOLE);
    memset(deep, '[', n + 1);
    deep[n + 1] = '\0';
    ck_assert_int_eq(match(g, deep), GRAMMAR_NO);
    grammar_release(g);
}
END_TEST

/* Where a rule needs calls to end, it is not begun with too few left: r = '(' r ')' | '<' s '>', s = t, t = 'x' y, y = 'y'. */
START_TEST(what_is_begun_can_be_ended)
{
    struct grammar *g = NULL;
    struct error err;
    b = grammar_builder_open();
    uint32_t r = grammar_rule(b), s = grammar_rule(b), t = grammar_rule(b), y = grammar_rule(b);
    uint32_t round = seq(seq(text("("), grammar_call(b, r)), text(")"));
    uint32_t sharp = seq(seq(text("<"), grammar_call(b, s)), text(">"));
    grammar_rule_set(b, r, grammar_choice(b, round, sharp));
    grammar_rule_set(b, s, seq(grammar_call(b, t), text("z")));
    grammar_rule_set(b, t, seq(seq(text("x"), grammar_call(b, y)), text("w")));
    grammar_rule_set(b, y, text("y"));
    ck_assert_msg(!grammar_compile(b, r, &g, &err), "%s", err.message);
    grammar_builder_close(b);
    char deep[2 * GRAMMAR_MAX_DEPTH + 8] = "";
    size_t n = GRAMMAR_MAX_DEPTH - 3; /* s, t and y are inside */
    memset(deep, '(', n + 1);
    ck_assert_int_eq(match(g, deep), GRAMMAR_NO);
    strcpy(deep + n, "<xywz>");
    ck_assert_int_eq(match(g, deep), GRAMMAR_BEGINS);
    memset(deep + n + 6, ')', n);
    ck_assert_int_eq(match(g, deep), GRAMMAR_WHOLE);
    grammar_release(g);
}
END_TEST

/* A rule at the end of another takes its place, so lists by recursion have no bound. */
START_TEST(calls_at_the_end_do_not_nest)
{
    struct grammar *g = NULL;
    struct error err;
    char many[10000];
    b = grammar_builder_open();
    uint32_t r = grammar_rule(b);
    grammar_rule_set(b, r, seq(text("a"), grammar_repeat(b, grammar_call(b, r), 0, 1)));
    ck_assert_msg(!grammar_compile(b, r, &g, &err), "%s", err.message);
    grammar_builder_close(b);
    memset(many, 'a', sizeof many);
    ck_assert_int_eq(grammar_match(g, many, sizeof many), GRAMMAR_WHOLE);
    grammar_release(g);
}
END_TEST

START_TEST(what_has_no_end_is_never_begun)
{
    b = grammar_builder_open();
    uint32_t r = grammar_rule(b);
    grammar_rule_set(b, r, seq(text("a"), grammar_call(b, r)));
    struct grammar *g = match_compile(b, grammar_choice(b, grammar_call(b, r), text("b")));
    ck_assert_int_eq(match(g, "a"), GRAMMAR_NO);
    ck_assert_int_eq(match(g, "b"), GRAMMAR_WHOLE);
    grammar_release(g);
    b = grammar_builder_open();
    r = grammar_rule(b);
    grammar_rule_set(b, r, seq(text("a"), grammar_call(b, r)));
    refused(r, "no text is possible");
}
END_TEST

START_TEST(left_recursion_is_refused)
{
    b = grammar_builder_open();
    uint32_t r = grammar_rule(b);
    grammar_rule_set(b, r, grammar_choice(b, seq(grammar_call(b, r), text("a")), text("b")));
    refused(r, "begins with itself");
    b = grammar_builder_open(); /* behind what may be empty, by way of another */
    r = grammar_rule(b);
    uint32_t s = grammar_rule(b), empty = grammar_rule(b);
    grammar_rule_set(b, empty, grammar_repeat(b, text("x"), 0, 1));
    grammar_rule_set(b, r, grammar_choice(b, text("b"), grammar_call(b, s)));
    grammar_rule_set(b, s, seq(grammar_call(b, empty), seq(grammar_call(b, r), text("c"))));
    refused(r, "begins with itself");
}
END_TEST

START_TEST(empty_repetitions_end)
{
    b = grammar_builder_open();
    uint32_t maybe = grammar_repeat(b, text("a"), 0, 1), rule = grammar_rule(b);
    grammar_rule_set(b, rule, maybe);
    uint32_t e =
        grammar_repeat(b, grammar_repeat(b, grammar_call(b, rule), 0, GRAMMAR_UNBOUNDED), 2, GRAMMAR_UNBOUNDED);
    struct grammar *g = match_compile(b, e);
    ck_assert_int_eq(match(g, ""), GRAMMAR_WHOLE);
    ck_assert_int_eq(match(g, "aaaa"), GRAMMAR_WHOLE);
    ck_assert_int_eq(match(g, "ab"), GRAMMAR_NO);
    grammar_release(g);
}
END_TEST

START_TEST(sizes_have_bounds)
{
    b = grammar_builder_open();
    uint32_t r = grammar_rule(b), e = text("a");
    for (int i = 0; i < 40; i++)
        e = seq(e, e);
    grammar_rule_set(b, r, e);
    refused(r, "too large");
    b = grammar_builder_open();
    r = grammar_rule(b);
    grammar_rule_set(b, r, grammar_repeat(b, text("a"), 4000000000u, 4000000000u));
    refused(r, "too large");
    b = grammar_builder_open();
    r = grammar_rule(b);
    for (int i = 0; i < 5000; i++)
        grammar_rule(b);
    refused(r, "too many rules");
    b = grammar_builder_open();
    r = grammar_rule(b);
    grammar_rule_set(b, r, grammar_repeat(b, text("a"), 3, 2));
    refused(r, "below its minimum");
    b = grammar_builder_open();
    refused(7, "no such rule");
}
END_TEST

/* Long lists are no deep nests. */
START_TEST(long_choices_and_sequences)
{
    b = grammar_builder_open();
    uint32_t all = text("0"), row = GRAMMAR_EMPTY;
    char word[16];
    for (int i = 1; i < 5000; i++) {
        snprintf(word, sizeof word, "%d", i);
        all = grammar_choice(b, all, text(word));
        row = seq(row, text("ab"));
    }
    struct grammar *g = match_compile(b, seq(row, all));
    char *long_text = calloc(1, 10008);
    for (int i = 0; i < 4999; i++)
        memcpy(long_text + 2 * i, "ab", 2);
    strcpy(long_text + 9998, "4711");
    ck_assert_int_eq(match(g, long_text), GRAMMAR_WHOLE);
    strcpy(long_text + 9998, "5000");
    ck_assert_int_eq(match(g, long_text), GRAMMAR_NO);
    free(long_text);
    grammar_release(g);
}
END_TEST

SUITE("grammar", rules_contain_themselves, depth_has_an_end, what_is_begun_can_be_ended, calls_at_the_end_do_not_nest,
      what_has_no_end_is_never_begun, left_recursion_is_refused, empty_repetitions_end, sizes_have_bounds,
      long_choices_and_sequences)
