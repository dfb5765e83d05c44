/* Log-probabilities of prompts: by the forward pass itself, and the same whatever else the engine does. */
#include "tests/suite.h"

#include "tests/unit/engine/harness.h"

#include <math.h>

#define N_PROMPT 100
#define N_TOP 4

struct scores {
    uint32_t n, n_generated, generated[64], ids[N_PROMPT];
    float logprobs[N_PROMPT];
    struct token_logprob tops[N_PROMPT][N_TOP];
    enum finish_reason finish;
    struct stream_summary summary;
};

static struct request request_of(uint32_t *ids, uint32_t n_prompt, uint32_t max_tokens)
{
    struct request r = harness_request(7, ids, n_prompt, max_tokens);
    r.logprobs = r.prompt_logprobs = true;
    r.top_logprobs = N_TOP;
    return r;
}

static void take_prompt(struct scores *s, const struct stream_event *ev)
{
    s->n = (uint32_t)ev->n_tokens;
    for (uint32_t i = 0; i < s->n; i++) {
        ck_assert_uint_eq(ev->tokens[i].n_top, i ? N_TOP : 0);
        s->ids[i] = ev->tokens[i].id;
        s->logprobs[i] = ev->tokens[i].logprob;
        for (uint32_t k = 0; i && k < N_TOP; k++)
            s->tops[i][k] = ev->tokens[i].top[k];
    }
}

/* Reads to the end: the prompt once, before everything else. */
static struct scores finish(struct stream *stream)
{
    struct scores s = {0};
    struct stream_event ev = {0};
    for (int i = 0; ev.type != STREAM_COMPLETE; i++) {
        ck_assert(stream_wait(stream, 120 * CLOCK_NS_PER_S));
        stream_read(stream, 0, &ev);
        ck_assert((ev.type == STREAM_PROMPT) == (i == 0));
        if (i == 0)
            take_prompt(&s, &ev);
        for (size_t k = 0; ev.type == STREAM_TOKENS && k < ev.n_tokens; k++)
            s.generated[s.n_generated++] = ev.tokens[k].id;
    }
    ck_assert_msg(ev.finish != FINISH_ERROR, "%s", ev.error.message);
    s.finish = ev.finish;
    s.summary = ev.summary;
    stream_close(stream);
    return s;
}

static void expect_same(const struct scores *a, const struct scores *b)
{
    ck_assert_uint_eq(a->n, b->n);
    ck_assert_mem_eq(a->ids, b->ids, sizeof a->ids);
    ck_assert_mem_eq(a->logprobs + 1, b->logprobs + 1, (a->n - 1) * sizeof *a->logprobs);
    ck_assert_mem_eq(a->tops, b->tops, sizeof a->tops);
}

static struct scores score_with(struct engine_options options, uint32_t max_tokens)
{
    uint32_t ids[N_PROMPT];
    struct engine *e = harness_open(options);
    struct request r = request_of(ids, N_PROMPT, max_tokens);
    struct scores s = finish(harness_submit(e, &r));
    engine_close(e);
    return s;
}

/* All logits of the prompt, from the forward pass that `bitnet logits` runs. */
static float *forward_logits(const uint32_t *ids)
{
    struct engine_options options = {.model_path = harness_model(), .device = "cpu", .i2s_order = -1, .n_threads = 1, .max_batch_tokens = 128};
    struct session *session;
    struct session_row rows[N_PROMPT];
    struct error err;
    float *logits = malloc((size_t)N_PROMPT * HARNESS_VOCAB * sizeof *logits);
    ck_assert_msg(!session_open(&options, &session, &err), "%s", err.message);
    for (uint32_t i = 0; i < N_PROMPT; i++)
        rows[i] = (struct session_row){.token = ids[i], .want_logits = true};
    ck_assert_msg(!session_step(session, rows, N_PROMPT, false, logits, &err), "%s", err.message);
    session_close(session);
    return logits;
}

START_TEST(they_are_those_of_the_forward_pass)
{
    const struct scores s = score_with((struct engine_options){.n_threads = 1, .max_batch_tokens = 48}, 0);
    float *logits = forward_logits(s.ids);
    ck_assert_uint_eq(s.n, N_PROMPT);
    ck_assert(isnan(s.logprobs[0]));
    for (uint32_t i = 1; i < N_PROMPT; i++) {
        const float *row = logits + (size_t)(i - 1) * HARNESS_VOCAB;
        double sum = 0;
        uint32_t best = 0;
        for (uint32_t v = 0; v < HARNESS_VOCAB; v++) {
            best = row[v] > row[best] ? v : best;
            sum += exp((double)row[v]);
        }
        ck_assert_double_eq_tol((double)row[s.ids[i]] - log(sum), (double)s.logprobs[i], 2e-5);
        ck_assert_uint_eq(s.tops[i][0].id, best);
        ck_assert_double_eq_tol((double)row[best] - log(sum), (double)s.tops[i][0].logprob, 2e-5);
    }
    free(logits);
}
END_TEST

START_TEST(scoring_alone_generates_nothing)
{
    const struct scores s = score_with((struct engine_options){.n_threads = 1}, 0);
    ck_assert_int_eq(s.finish, FINISH_LENGTH);
    ck_assert_uint_eq(s.n_generated, 0);
    ck_assert_uint_eq(s.summary.n_generated_tokens, 0);
    ck_assert_uint_eq(s.summary.n_prompt_tokens, N_PROMPT);
}
END_TEST

START_TEST(batches_threads_and_answers_change_nothing)
{
    const struct scores s = score_with((struct engine_options){.n_threads = 1}, 0);
    const struct engine_options others[] = {{.n_threads = 1, .max_batch_tokens = 7},
                                            {.n_threads = 1, .max_batch_tokens = 33},
                                            {.n_threads = 2},
                                            {.n_threads = 1, .max_sequences = 1},
                                            {.n_threads = 1, .no_prefix_cache = true},
                                            {.n_threads = 1, .no_speculation = true}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        struct scores other = score_with(others[i], i % 2 ? 20 : 0);
        expect_same(&s, &other);
        ck_assert_uint_eq(other.n_generated, i % 2 ? 20 : 0);
    }
}
END_TEST

/* What is in the cache is computed again, and what was computed is found by others; many at once share what a step has room for. */
START_TEST(the_cache_and_others_change_nothing)
{
    uint32_t ids[N_PROMPT], more[N_PROMPT];
    struct engine *e = harness_open((struct engine_options){.n_threads = 1});
    struct request r = request_of(ids, N_PROMPT, 20), plain = harness_request(7, more, N_PROMPT, 20);
    struct harness_answer *before = harness_finish(harness_submit(e, &plain));
    struct stream *streams[6];
    for (int i = 0; i < 6; i++) {
        r.max_tokens = i % 2 ? 0 : 20;
        streams[i] = harness_submit(e, &r);
    }
    struct scores first = finish(streams[0]);
    ck_assert_uint_eq(first.summary.n_cached_tokens, 0);
    ck_assert_mem_eq(first.generated, before->choices[0].ids, 20 * sizeof *ids);
    for (int i = 1; i < 6; i++) {
        struct scores s = finish(streams[i]);
        expect_same(&first, &s);
    }
    struct harness_answer *after = harness_finish(harness_submit(e, &plain));
    ck_assert_uint_gt(after->summary.n_cached_tokens, 0);
    ck_assert_mem_eq(after->choices[0].ids, before->choices[0].ids, 20 * sizeof *ids);
    free(before);
    free(after);
    harness_await(e, harness_idle);
    engine_close(e);
}
END_TEST

START_TEST(several_choices_hear_of_one_prompt)
{
    uint32_t ids[N_PROMPT];
    struct engine *e = harness_open((struct engine_options){.n_threads = 1, .max_sequences = 2});
    struct request r = request_of(ids, N_PROMPT, 8);
    r.n = 3;
    struct scores s = finish(harness_submit(e, &r));
    const struct scores alone = score_with((struct engine_options){.n_threads = 1}, 0);
    expect_same(&alone, &s);
    ck_assert_uint_eq(s.n_generated, 24);
    harness_await(e, harness_idle);
    engine_close(e);
}
END_TEST

START_TEST(a_prompt_of_one_token_has_none)
{
    uint32_t ids[1];
    struct engine *e = harness_open((struct engine_options){.n_threads = 1});
    struct request r = request_of(ids, 1, 0);
    struct scores s = finish(harness_submit(e, &r));
    ck_assert_uint_eq(s.n, 1);
    ck_assert(isnan(s.logprobs[0]));
    ck_assert_int_eq(s.finish, FINISH_LENGTH);
    engine_close(e);
}
END_TEST

static bool some_tokens(const struct engine_stats *st)
{
    return st->n_generated_tokens >= 5;
}

/* One that gives way before and after its prompt is whole says the same, once. */
START_TEST(preempted_ones_are_the_same)
{
    uint32_t ids[N_PROMPT], other[8];
    const struct scores alone = score_with((struct engine_options){.n_threads = 1}, 60);
    struct engine_stats st;
    struct engine *e = harness_open((struct engine_options){.n_threads = 1, .max_sequences = 1, .max_batch_tokens = 8});
    struct request r = request_of(ids, N_PROMPT, 60), high = harness_request(9, other, 8, 2);
    r.priority = PRIORITY_LOW;
    high.priority = PRIORITY_HIGH;
    struct stream *s = harness_submit(e, &r);
    free(harness_finish(harness_submit(e, &high)));
    harness_await(e, some_tokens);
    free(harness_finish(harness_submit(e, &high)));
    struct scores preempted = finish(s);
    engine_stats(e, &st);
    ck_assert_uint_ge(st.n_preempted, 1);
    expect_same(&alone, &preempted);
    ck_assert_uint_eq(preempted.n_generated, 60);
    ck_assert_mem_eq(preempted.generated, alone.generated, 60 * sizeof *ids);
    engine_close(e);
}
END_TEST

START_TEST(refuses)
{
    uint32_t ids[N_PROMPT];
    struct engine *e = harness_open((struct engine_options){.n_threads = 1});
    struct request r = request_of(ids, N_PROMPT, 0);
    struct stream *s;
    struct error err;
    r.n = 2;
    ck_assert_int_eq(engine_submit(e, &r, &s, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "max_tokens");
    r = harness_request(7, ids, N_PROMPT, 0);
    ck_assert_int_eq(engine_submit(e, &r, &s, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "max_tokens");
    r.max_tokens = 1;
    r.prompt_logprobs = true;
    ck_assert_int_eq(engine_submit(e, &r, &s, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "prompt_logprobs");
    engine_close(e);
}
END_TEST

SUITE("scores", they_are_those_of_the_forward_pass, scoring_alone_generates_nothing, batches_threads_and_answers_change_nothing,
      the_cache_and_others_change_nothing, several_choices_hear_of_one_prompt, a_prompt_of_one_token_has_none,
      preempted_ones_are_the_same, refuses)
