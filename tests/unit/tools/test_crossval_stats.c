/* The statistics of crossval against values computed by hand. */
#include "tools/crossval.h"

#include "tests/suite.h"

#include <math.h>

#define L2 0.69314718055994531 /* ln 2 */
#define NEAR(a, b) ck_assert_double_eq_tol(a, b, 1e-7)

/* Probabilities 1/2, 1/4, 1/8, 1/8 and 1/4, 1/2, 1/8, 1/8: logits up to a constant. */
static const float ours[4] = {(float)(3 * L2), (float)(2 * L2), (float)L2, (float)L2};
static const float other[4] = {(float)(2 * L2), (float)(3 * L2), (float)L2, (float)L2};

static void add(struct crossval_stats *s, const float *logits, const struct crossval_row *row, int target)
{
    struct error err = {0};
    ck_assert_msg(crossval_add(s, logits, 4, row, target >= 0, target >= 0 ? (uint32_t)target : 0, &err), "%s", err.message);
}

START_TEST(equal)
{
    struct crossval_stats s = {0};
    struct crossval_result r;
    struct crossval_row row = {.logits = ours, .target = NAN};
    add(&s, ours, &row, 0);
    add(&s, ours, &row, 2);
    add(&s, ours, &row, -1);
    crossval_finish(&s, &r);
    ck_assert_uint_eq(s.n_positions, 3);
    ck_assert_uint_eq(s.n_scored, 2);
    ck_assert_double_eq(r.top1, 1);
    ck_assert_double_eq(r.top5, 1);
    NEAR(r.cosine_min, 1);
    ck_assert_double_eq(r.kl_mean, 0);
    ck_assert(!r.kl_is_bound);
    NEAR(r.our_perplexity, 4); /* sqrt(2 * 8) */
    NEAR(r.reference_perplexity, 4);
    ck_assert_double_eq(r.perplexity_difference, 0);
    ck_assert_double_eq(r.t, 0);
    ck_assert_double_eq(r.p, 1);
}
END_TEST

START_TEST(whole_distributions)
{
    struct crossval_stats s = {0};
    struct crossval_result r;
    struct crossval_row row = {.logits = other, .target = NAN};
    add(&s, ours, &row, 0);
    add(&s, ours, &(struct crossval_row){.logits = ours, .target = NAN}, 0);
    crossval_finish(&s, &r);
    ck_assert_double_eq(r.top1, 0.5);
    ck_assert_double_eq(r.top5, 1); /* four tokens, the same four */
    NEAR(r.kl_mean, L2 / 8);        /* (1/4 ln 1/2 + 1/2 ln 2) / 2 */
    NEAR(r.kl_max, L2 / 4);
    NEAR(r.cosine_min, 14.0 / 15);  /* (6 + 6 + 1 + 1) / (9 + 4 + 1 + 1) */
    NEAR(r.our_perplexity, 2);
    NEAR(r.reference_perplexity, 2 * M_SQRT2); /* sqrt(4 * 2) */
    NEAR(r.perplexity_difference, M_SQRT1_2 - 1);
    NEAR(r.mean_difference, L2 / 2);
    NEAR(r.t, 1);                   /* differences ln 2 and 0: sd ln 2 / sqrt 2, n = 2 */
    NEAR(r.p, 0.31731050786291415); /* two-sided, one standard deviation */
}
END_TEST

/* Best tokens that differ: the wider of the two distances, and what the two make of our two best tokens. */
START_TEST(gaps)
{
    static const float a[4] = {1.0f, 0.75f, 0, 0}, b[4] = {1.0f, 1.5f, 0, 0}, c[4] = {0, 0.125f, 0.25f, 0};
    const struct crossval_entry entries[] = {{2, -0.5}, {3, -4}};
    struct crossval_stats s = {0};
    struct crossval_result r;
    add(&s, a, &(struct crossval_row){.logits = a, .target = NAN}, -1);
    crossval_finish(&s, &r);
    ck_assert(isnan(r.gap_mean) && isnan(r.gap_max) && r.margin_rms == 0);
    add(&s, a, &(struct crossval_row){.logits = b, .target = NAN}, -1); /* 0.25 with us, 0.5 there: 0.75 between the two margins */
    add(&s, c, &(struct crossval_row){.logits = a, .target = NAN}, -1); /* 0.25 with us, 1 there; our two are 0.125 and -0.75 apart */
    crossval_finish(&s, &r);
    NEAR(r.gap_mean, 0.75);
    NEAR(r.gap_max, 1);
    NEAR(r.margin_rms, sqrt((0 + 0.75 * 0.75 + 0.875 * 0.875) / 3));
    s = (struct crossval_stats){0};
    add(&s, a, &(struct crossval_row){.entries = entries, .n_entries = 2, .target = NAN}, -1); /* it does not tell of token 0 */
    crossval_finish(&s, &r);
    NEAR(r.gap_max, 1);
    ck_assert(isnan(r.margin_rms));
    ck_assert_double_eq(r.tied, 0);
    /* 0.5 apart is a tie for one who says so, 1 apart is not. */
    const struct crossval_limits limits = {.min_top1 = 0.5};
    struct buffer why;
    buffer_init(&why, 4096);
    s = (struct crossval_stats){.tie = 0.6};
    add(&s, a, &(struct crossval_row){.logits = b, .target = NAN}, -1);
    add(&s, c, &(struct crossval_row){.logits = a, .target = NAN}, -1);
    crossval_finish(&s, &r);
    ck_assert_double_eq(r.top1, 0);
    ck_assert_double_eq(r.tied, 0.5);
    ck_assert(crossval_judge(&r, &limits, &why));
    r.tied = 0;
    ck_assert(!crossval_judge(&r, &limits, &why));
    buffer_fini(&why);
}
END_TEST

START_TEST(top_five)
{
    static const float a[7] = {7, 6, 5, 4, 3, 2, 1}, b[7] = {7, 6, 5, 1, 2, 4, 3};
    struct crossval_stats s = {0};
    struct crossval_result r;
    struct error err = {0};
    ck_assert(crossval_add(&s, a, 7, &(struct crossval_row){.logits = b, .target = NAN}, false, 0, &err));
    crossval_finish(&s, &r);
    ck_assert_double_eq(r.top1, 1);
    NEAR(r.top5, 0.6); /* 0 1 2 of 0 1 2 5 6 */
    ck_assert(isnan(r.our_perplexity) && isnan(r.p));
    /* Of equals the first. */
    static const float flat[7] = {1, 1, 1, 1, 1, 1, 1}, first[7] = {2, 1, 1, 1, 1, 0, 0};
    s = (struct crossval_stats){0};
    ck_assert(crossval_add(&s, flat, 7, &(struct crossval_row){.logits = first, .target = NAN}, false, 0, &err));
    crossval_finish(&s, &r);
    ck_assert_double_eq(r.top1, 1);
    ck_assert_double_eq(r.top5, 1);
}
END_TEST

START_TEST(listed_tokens)
{
    /* The reference tells of token 1 only: 1/2, the other half is one bucket. Ours: 1/4 and 3/4. */
    const struct crossval_entry entries[] = {{1, -L2}};
    struct crossval_stats s = {0};
    struct crossval_result r;
    add(&s, ours, &(struct crossval_row){.entries = entries, .n_entries = 1, .target = -L2}, 1);
    add(&s, ours, &(struct crossval_row){.entries = entries, .n_entries = 1, .target = NAN}, 1); /* not told: not scored */
    crossval_finish(&s, &r);
    ck_assert_uint_eq(s.n_positions, 2);
    ck_assert_uint_eq(s.n_scored, 1);
    ck_assert_double_eq(r.top1, 0);
    ck_assert(r.kl_is_bound);
    NEAR(r.kl_mean, 0.5 * log(4.0 / 3)); /* 1/2 ln 2 + 1/2 ln 2/3 */
    ck_assert(isnan(r.cosine_mean) && isnan(r.p));
    NEAR(r.our_perplexity, 4);
    NEAR(r.reference_perplexity, 2);
    NEAR(r.perplexity_difference, 1);
    /* A whole list is no bound. */
    const struct crossval_entry whole[] = {{1, -L2}, {0, -2 * L2}, {2, -3 * L2}, {3, -3 * L2}};
    s = (struct crossval_stats){0};
    add(&s, ours, &(struct crossval_row){.entries = whole, .n_entries = 4, .target = -L2}, 1);
    crossval_finish(&s, &r);
    ck_assert(!r.kl_is_bound);
    NEAR(r.kl_mean, L2 / 4);
}
END_TEST

START_TEST(paired)
{
    /* Differences 0.1, 0.2, 0.3, 0.4: mean 0.25, sd 0.1290994, t = 0.25 / (sd / 2) = 3.8729833. */
    struct crossval_stats s = {0};
    struct crossval_result r;
    const struct crossval_entry entries[] = {{0, -L2}};
    for (int i = 1; i <= 4; i++)
        add(&s, ours, &(struct crossval_row){.entries = entries, .n_entries = 1, .target = -L2 - 0.1 * i}, 0);
    crossval_finish(&s, &r);
    NEAR(r.mean_difference, 0.25);
    ck_assert_double_eq_tol(r.t, sqrt(15), 1e-5);
    ck_assert_double_eq_tol(r.p, 1.0751e-4, 1e-7);
    NEAR(r.perplexity_difference, exp(-0.25) - 1);
    /* A difference that is always the same is certain. */
    s = (struct crossval_stats){0};
    for (int i = 0; i < 2; i++)
        add(&s, ours, &(struct crossval_row){.entries = entries, .n_entries = 1, .target = -2}, 0);
    crossval_finish(&s, &r);
    ck_assert(isinf(r.t) && r.t > 0);
    ck_assert_double_eq(r.p, 0);
}
END_TEST

START_TEST(refused)
{
    static const float bad[4] = {0, NAN, 0, 0}, infinite[4] = {0, 0, 0, INFINITY};
    const struct crossval_entry outside[] = {{4, -1}}, positive[] = {{0, 0.5}}, no_number[] = {{0, NAN}};
    const struct crossval_row rows[] = {
        {.logits = bad}, {.logits = infinite}, {.entries = outside, .n_entries = 1}, {.entries = positive, .n_entries = 1},
        {.entries = no_number, .n_entries = 1}, {.entries = outside, .n_entries = 0}};
    struct crossval_stats s = {0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct error err = {0};
        ck_assert_msg(!crossval_add(&s, ours, 4, &rows[i], true, 0, &err) && err.message[0], "row %zu", i);
    }
    struct error err = {0};
    ck_assert(!crossval_add(&s, bad, 4, &(struct crossval_row){.logits = ours}, true, 0, &err));
    ck_assert_str_eq(err.message, "our logits: expected numbers, found nan for token 1");
    ck_assert_uint_eq(s.n_positions, 0);
}
END_TEST

START_TEST(judged)
{
    const struct crossval_result good = {.top1 = 0.99, .top5 = 0.9, .cosine_min = 0.999, .kl_mean = 0.01, .perplexity_difference = -0.005,
                                         .p = 0.05};
    const struct crossval_limits limits = {0.99, 0.9, 0.999, 0.005, 0.01, 0.05}, none = {0};
    struct buffer why;
    buffer_init(&why, 4096);
    ck_assert(crossval_judge(&good, &limits, &why));
    ck_assert_uint_eq(why.n_bytes, 0);
    struct crossval_result cases[6] = {good, good, good, good, good, good};
    cases[0].top1 = 0.98;
    cases[1].top5 = 0.89;
    cases[2].cosine_min = 0.99;
    cases[3].perplexity_difference = -0.006;
    cases[4].kl_mean = 0.02;
    cases[5].p = 0.04;
    static const char *const what[] = {"top-1", "top-5", "cosine", "perplexity", "KL", "p-value"};
    for (size_t i = 0; i < 6; i++) {
        buffer_clear(&why);
        ck_assert_msg(!crossval_judge(&cases[i], &limits, &why) && strstr(why.data, what[i]), "%s", what[i]);
        ck_assert(crossval_judge(&cases[i], &none, &why));
    }
    /* What is not known: no cosine is no failure, no perplexity is. */
    struct crossval_result unknown = good;
    unknown.cosine_min = NAN;
    ck_assert(crossval_judge(&unknown, &limits, &why));
    unknown.perplexity_difference = NAN;
    ck_assert(!crossval_judge(&unknown, &limits, &why));
    buffer_fini(&why);
}
END_TEST

SUITE("crossval_stats", equal, whole_distributions, gaps, top_five, listed_tokens, paired, refused, judged)
