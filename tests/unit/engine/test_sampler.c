/* The sampler: penalties and log-probabilities by hand, which tokens each truncation leaves, the draw against
 * softmax. */
#include "engine/sampler.h"
#include "tests/suite.h"

#include <math.h>

#define V 8

static const float base_logits[V] = {2.0f, 1.0f, 3.0f, 0.5f, 3.0f, -1.0f, 0.0f, -4.0f};

static struct sampling greedy(void)
{
    return (struct sampling){.top_p = 1, .repetition_penalty = 1};
}

static struct sample draw(const struct sampling *p, const struct sample_input *in, const float *logits)
{
    struct sampler *s;
    struct sample out;
    float copy[V];
    memcpy(copy, logits, sizeof copy);
    ck_assert_int_eq(sampler_open(V, &s, NULL), ERROR_NONE);
    ck_assert_int_eq(sampler_draw(s, p, in, copy, &out, NULL), ERROR_NONE);
    sampler_close(s);
    return out;
}

START_TEST(test_greedy_takes_the_lowest_of_equals)
{
    struct sampling p = greedy();
    struct sample_input in = {0};
    ck_assert_uint_eq(draw(&p, &in, base_logits).id, 2); /* 2 and 4 are equal */
    float flat[V] = {0};
    ck_assert_uint_eq(draw(&p, &in, flat).id, 0);
}
END_TEST

START_TEST(test_penalties)
{
    uint32_t prompt[] = {2, 5, 5}, generated[] = {4, 4, 0, 4};
    struct sample_input in = {prompt, 3, generated, 4, 0, true, V, NULL, 0};
    struct sampling p = greedy();
    p.repetition_penalty = 2;
    p.presence_penalty = 0.5f;
    p.frequency_penalty = 0.25f;
    /* 2: 3/2. 5: -1*2. 4: 3/2 - 3*0.25 - 0.5. 0: 2/2 - 0.25 - 0.5. The prompt counts for repetition only. */
    float expected[V] = {0.25f, 1.0f, 1.5f, 0.5f, 0.25f, -2.0f, 0.0f, -4.0f};
    struct sample out = draw(&p, &in, base_logits);
    ck_assert_uint_eq(out.id, 2);
    ck_assert_uint_eq(out.n_top, V);
    double sum = 0;
    for (int i = 0; i < V; i++)
        sum += exp(expected[i]);
    for (int i = 0; i < V; i++)
        ck_assert_float_eq_tol(out.top[i].logprob, (float)(expected[out.top[i].id] - log(sum)), 1e-5f);
    uint32_t order[V] = {2, 1, 3, 0, 4, 6, 5, 7}; /* descending, of equals the lower id first */
    for (int i = 0; i < V; i++)
        ck_assert_uint_eq(out.top[i].id, order[i]);
    ck_assert_float_eq(out.logprob, out.top[0].logprob);
    p = greedy();
    p.repetition_penalty = 0; /* counts as 1 */
    ck_assert_uint_eq(draw(&p, &in, base_logits).id, 2);
}
END_TEST

/* The scratch counts are clean after a draw: the next sequence is not penalised for the tokens of the one before. */
START_TEST(test_penalties_leave_nothing_behind)
{
    struct sampler *s;
    struct sample a[2], b[2];
    uint32_t prompt[] = {1, 4}, seen[] = {2, 2}, other = 7;
    struct sample_input penalised = {prompt, 2, seen, 2, 0, true, 3, NULL, 0}, fresh = {&other, 1, NULL, 0, 0, true, 3, NULL, 0};
    memset(a, 0, sizeof a); /* compared byte by byte */
    memset(b, 0, sizeof b);
    struct sampling p = greedy();
    float logits[V];
    p.frequency_penalty = 2;
    p.repetition_penalty = 2;
    ck_assert_int_eq(sampler_open(V, &s, NULL), ERROR_NONE);
    for (int round = 0; round < 2; round++) {
        memcpy(logits, base_logits, sizeof logits);
        ck_assert_int_eq(sampler_draw(s, &p, &fresh, logits, &a[round], NULL), ERROR_NONE);
        memcpy(logits, base_logits, sizeof logits);
        ck_assert_int_eq(sampler_draw(s, &p, &penalised, logits, &b[round], NULL), ERROR_NONE);
    }
    ck_assert_uint_ne(a[0].id, b[0].id);
    ck_assert_mem_eq(&a[0], &a[1], sizeof *a);
    ck_assert_mem_eq(&b[0], &b[1], sizeof *b);
    sampler_close(s);
}
END_TEST

START_TEST(test_bias)
{
    struct logit_bias bias[] = {{7, 100}, {7, -90}, {2, -3}};
    struct sampling p = greedy();
    struct sample_input in = {0};
    p.bias = bias;
    p.n_bias = 3;
    ck_assert_uint_eq(draw(&p, &in, base_logits).id, 7); /* -4 + 10 */
    bias[0].bias = 0;
    ck_assert_uint_eq(draw(&p, &in, base_logits).id, 4);
}
END_TEST

/* ---- which tokens a truncation leaves: everything that many draws at a high temperature give
 * ----------------------- */

struct row {
    uint32_t top_k;
    float top_p, min_p, temperature;
    unsigned kept; /* bit i: token i */
};

/* Weights at T = 1 relative to the best: 2, 4: 1; 0: .368; 1: .135; 3: .082; 6: .050; 5: .018; 7: .0009; sum 2.654. */
static const struct row rows[] = {
    {0, 1, 0, 1, 0xff},
    {1, 1, 0, 1, 1u << 2},
    {2, 1, 0, 1, 1u << 2 | 1u << 4},
    {3, 1, 0, 1, 1u << 2 | 1u << 4 | 1u << 0},
    {5, 1, 0, 1, 1u << 2 | 1u << 4 | 1u << 0 | 1u << 1 | 1u << 3},
    {100, 1, 0, 1, 0xff},      /* more than there are */
    {0, 0, 0, 1, 1u << 2},     /* one is always left */
    {0, 0.37f, 0, 1, 1u << 2}, /* 1/2.654 = .3768 */
    {0, 0.38f, 0, 1, 1u << 2 | 1u << 4},
    {0, 0.75f, 0, 1, 1u << 2 | 1u << 4}, /* .7536 */
    {0, 0.76f, 0, 1, 1u << 2 | 1u << 4 | 1u << 0},
    {0, 0.92f, 0, 1, 1u << 2 | 1u << 4 | 1u << 0 | 1u << 1}, /* .8922 after three, .9431 after four */
    {3, 0.84f, 0, 1, 1u << 2 | 1u << 4},                     /* over the rest: 2/2.368 = .8446 */
    {3, 0.85f, 0, 1, 1u << 2 | 1u << 4 | 1u << 0},
    {0, 1, 0.36f, 1, 1u << 2 | 1u << 4 | 1u << 0}, /* e^-1 = .3679 */
    {0, 1, 0.37f, 1, 1u << 2 | 1u << 4},
    {0, 1, 0.6f, 2, 1u << 2 | 1u << 4 | 1u << 0}, /* at T = 2: e^-.5 = .6065 */
    {0, 1, 1, 1, 1u << 2 | 1u << 4},
    {4, 0.9f, 0.3f, 1, 1u << 2 | 1u << 4 | 1u << 0}, /* all three at once */
};

START_TEST(test_truncation_tables)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct row *r = &rows[i];
        struct sampling p = greedy();
        unsigned seen = 0;
        p.top_k = r->top_k;
        p.top_p = r->top_p;
        p.min_p = r->min_p;
        p.temperature = r->temperature;
        for (uint32_t n = 0; n < 12000; n++) {
            p.seed = n;
            struct sample_input in = {.choice = n % 3};
            seen |= 1u << draw(&p, &in, base_logits).id;
        }
        ck_assert_msg(seen == r->kept, "row %zu: expected tokens %#x, drew %#x", i, r->kept, seen);
    }
}
END_TEST

/* ---- the draw ---------------------------------------------------------------------------------------------------- */

/* Pearson's chi-square against softmax at temperature T over N draws; 7 degrees of freedom: 24.3 is p = .001. */
static double chi_square(float temperature, bool by_position, bool by_choice)
{
    enum { N = 40000 };
    struct sampling p = greedy();
    double expected[V], sum = 0, chi = 0;
    unsigned counts[V] = {0};
    static uint32_t prompt[N];
    p.temperature = temperature;
    for (uint32_t n = 0; n < N; n++) {
        p.seed = by_position || by_choice ? 99 : n;
        struct sample_input in = {.prompt = prompt, .n_prompt = by_position ? n : 5, .choice = by_choice ? n : 0};
        counts[draw(&p, &in, base_logits).id]++;
    }
    for (int i = 0; i < V; i++)
        sum += expected[i] = exp(base_logits[i] / temperature);
    for (int i = 0; i < V; i++) {
        double e = N * expected[i] / sum;
        chi += (counts[i] - e) * (counts[i] - e) / e;
    }
    return chi;
}

START_TEST(test_draw_is_softmax)
{
    ck_assert_double_lt(chi_square(1, false, false), 24.3);
    ck_assert_double_lt(chi_square(2, false, false), 24.3);
    ck_assert_double_lt(chi_square(1.5f, true, false), 24.3); /* along a sequence */
    ck_assert_double_lt(chi_square(1.5f, false, true), 24.3); /* over choices */
}
END_TEST

/* Choices of one request draw independently: pairs agree as often as two draws from softmax do. */
START_TEST(test_choices_are_independent)
{
    enum { N = 40000 };
    struct sampling p = greedy();
    double sum = 0, agree = 0;
    unsigned n_equal = 0;
    p.temperature = 1;
    for (uint32_t n = 0; n < N; n++) {
        struct sample_input a = {.choice = 0}, b = {.choice = 1};
        p.seed = n;
        n_equal += draw(&p, &a, base_logits).id == draw(&p, &b, base_logits).id;
    }
    for (int i = 0; i < V; i++)
        sum += exp(base_logits[i]);
    for (int i = 0; i < V; i++)
        agree += exp(2 * base_logits[i]) / (sum * sum);
    ck_assert_double_eq_tol(n_equal / (double)N, agree, 4 * sqrt(agree * (1 - agree) / N));
}
END_TEST

/* The position of a draw is that in the sequence, however it is cut into prompt and output. */
START_TEST(test_position_counts_prompt_and_output)
{
    static const uint32_t tokens[8];
    unsigned n_other = 0;
    for (uint32_t n = 0; n < 1000; n++) {
        struct sampling p = greedy();
        p.temperature = 2;
        p.seed = n;
        struct sample_input a = {.prompt = tokens, .n_prompt = 5}, b = {tokens, 2, tokens, 3, 0, false, 0, NULL, 0},
                            c = {.prompt = tokens, .n_prompt = 6};
        uint32_t drawn = draw(&p, &a, base_logits).id;
        ck_assert_uint_eq(draw(&p, &b, base_logits).id, drawn);
        n_other += draw(&p, &c, base_logits).id != drawn;
    }
    ck_assert_uint_gt(n_other, 300);
}
END_TEST

/* Tokens that are not allowed are as if their logits were -infinity, and are not reported. */
START_TEST(test_a_mask_leaves_tokens_out)
{
    static const uint64_t allowed = 0xB2; /* 1, 4, 5, 7 */
    static const struct logit_bias bias[] = {{2, 50}};
    float left[V];
    for (int i = 0; i < V; i++)
        left[i] = allowed >> i & 1 ? base_logits[i] : -INFINITY;
    for (uint32_t n = 0; n < 200; n++) {
        struct sampling p = {.temperature = n % 4 ? 1.5f : 0, .top_k = n % 3, .top_p = n % 5 ? 1 : 0.8f, .repetition_penalty = 1,
                             .seed = n, .bias = bias, .n_bias = n % 2};
        struct sample_input masked = {.logprobs = true, .n_top = 6, .allowed = &allowed, .n_allowed = 4}, plain = masked;
        plain.allowed = NULL;
        struct sample a = draw(&p, &masked, base_logits);
        p.n_bias = 0;
        struct sample b = draw(&p, &plain, left);
        ck_assert_uint_eq(a.id, b.id);
        ck_assert_float_eq(a.logprob, b.logprob);
        ck_assert_uint_eq(a.n_top, 4);
        ck_assert_uint_eq(a.top[0].id, 4);
        ck_assert_uint_eq(a.top[3].id, 7);
    }
}
END_TEST

/* A large vocabulary: screening and partial selection give what doing it the long way gives. */
START_TEST(test_large_vocabulary_by_definition)
{
    enum { BIG = 20000 };
    static float logits[BIG], copy[BIG];
    struct sampler *s;
    struct sample out;
    ck_assert_int_eq(sampler_open(BIG, &s, NULL), ERROR_NONE);
    for (uint32_t round = 0; round < 60; round++) {
        struct sampling p = greedy();
        struct sample_input in = {.choice = round % 2};
        for (uint32_t i = 0; i < BIG; i++)
            logits[i] = 6 * kernel_gumbel(1234, 0, round, i) / 3;
        p.temperature = 0.1f + 0.03f * (float)round;
        p.seed = round;
        p.top_k = round % 3 == 1 ? 500 : 0; /* the 500th logit as a bound: ties are next to impossible here */
        float bound = -INFINITY;
        if (p.top_k) {
            for (uint32_t i = 0; i < BIG; i++) {
                uint32_t above = 0;
                for (uint32_t k = 0; k < BIG && above <= p.top_k; k++)
                    above += logits[k] > logits[i] || (logits[k] == logits[i] && k < i);
                if (above == p.top_k - 1)
                    bound = logits[i];
            }
        }
        double best = -INFINITY;
        uint32_t expected = 0;
        for (uint32_t i = 0; i < BIG; i++) {
            double score = (double)logits[i] / (double)p.temperature + (double)kernel_gumbel(p.seed, in.choice, 0, i);
            if (logits[i] >= bound && score > best) {
                best = score;
                expected = i;
            }
        }
        memcpy(copy, logits, sizeof copy);
        ck_assert_int_eq(sampler_draw(s, &p, &in, copy, &out, NULL), ERROR_NONE);
        ck_assert_uint_eq(out.id, expected);
    }
    sampler_close(s);
}
END_TEST

/* Which tokens come first, by picking the best of all again and again: over odd sizes, with many that are equal, few that are possible,
 * and the best side by side or far apart. */
START_TEST(test_the_first_in_order)
{
    enum { BIG = 5003, TOP = SAMPLER_MAX_TOP };
    static float logits[BIG], copy[BIG];
    static const uint32_t sizes[] = {1, 7, 16, 33, 1000, BIG};
    static const struct sample_input in = {.logprobs = true, .n_top = TOP};
    const struct sampling p = greedy();
    for (size_t z = 0; z < sizeof sizes / sizeof *sizes; z++) {
        uint32_t n = sizes[z];
        struct sampler *s;
        struct sample out;
        ck_assert_int_eq(sampler_open(n, &s, NULL), ERROR_NONE);
        for (uint32_t round = 0; round < 48; round++) {
            uint32_t levels = round % 3 == 0 ? 4 : round % 3 == 1 ? 100 : 1u << 24, every = round % 4 == 3 ? 97 : 1;
            for (uint32_t i = 0; i < n; i++) {
                float l = floorf((float)levels * kernel_gumbel(77, 0, round, i)) / (float)levels;
                logits[i] = i % every == 0 ? (round % 5 == 4 ? l - (float)i : l) : -INFINITY;
            }
            memcpy(copy, logits, n * sizeof *copy);
            ck_assert_int_eq(sampler_draw(s, &p, &in, copy, &out, NULL), ERROR_NONE);
            uint32_t possible = (n + every - 1) / every;
            ck_assert_uint_eq(out.n_top, possible < TOP ? possible : TOP);
            for (uint32_t k = 0; k < out.n_top; k++) {
                uint32_t best = 0;
                for (uint32_t i = 1; i < n; i++)
                    best = logits[i] > logits[best] ? i : best;
                ck_assert_uint_eq(out.top[k].id, best);
                logits[best] = -INFINITY;
            }
        }
        sampler_close(s);
    }
}
END_TEST

START_TEST(test_bad_logits)
{
    struct sampler *s;
    struct sample out;
    struct sampling p = greedy();
    struct sample_input in = {0};
    const float bad[] = {NAN, INFINITY};
    ck_assert_int_eq(sampler_open(V, &s, NULL), ERROR_NONE);
    for (int i = 0; i < 2; i++) {
        struct error err = {0};
        float logits[V];
        memcpy(logits, base_logits, sizeof logits);
        logits[5] = bad[i];
        ck_assert_int_eq(sampler_draw(s, &p, &in, logits, &out, &err), ERROR_INFERENCE_FAILED);
        ck_assert_ptr_nonnull(strstr(err.message, "token 5"));
    }
    float none[V];
    for (int i = 0; i < V; i++)
        none[i] = -INFINITY;
    ck_assert_int_eq(sampler_draw(s, &p, &in, none, &out, NULL), ERROR_INFERENCE_FAILED);
    float extreme[V] = {-3e38f, 3e38f, 0, 3e38f, -3e38f, 1, 2, 3};
    p.temperature = 1e-30f;
    ck_assert_int_eq(sampler_draw(s, &p, &in, extreme, &out, NULL), ERROR_NONE);
    ck_assert(out.id == 1 || out.id == 3);
    uint32_t seen = 1;
    in.prompt = &seen;
    in.n_prompt = 1;
    p.repetition_penalty = 1e-30f; /* 3e38 / 1e-30 is above what a float holds */
    ck_assert_int_eq(sampler_draw(s, &p, &in, extreme, &out, NULL), ERROR_NONE);
    sampler_close(s);
}
END_TEST

SUITE("sampler", test_greedy_takes_the_lowest_of_equals, test_penalties, test_penalties_leave_nothing_behind, test_bias,
      test_truncation_tables, test_draw_is_softmax, test_choices_are_independent,
      test_position_counts_prompt_and_output, test_a_mask_leaves_tokens_out, test_large_vocabulary_by_definition,
      test_the_first_in_order, test_bad_logits)
