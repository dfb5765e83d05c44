/* Requests with a grammar through the whole engine, on the demo model. */
#include "tests/suite.h"

#include "tests/unit/engine/grammar/match.h"
#include "tests/unit/engine/harness.h"

static struct engine *open_tales(void)
{
    return harness_open(
        (struct engine_options){.model_path = "models/tales.gguf", .context_length = 512, .n_threads = 1});
}

static struct grammar *regex(const char *pattern)
{
    struct error err;
    struct grammar *g = match_regex(pattern, false, false, &err);
    ck_assert_msg(g != NULL, "%s", err.message);
    return g;
}

static struct request request_with(struct grammar *g, uint64_t seed, uint32_t max_tokens)
{
    return (struct request){.prompt = "Once upon a time the fox and the rabbit, the fox and the",
                            .prompt_bytes = 56,
                            .max_tokens = max_tokens,
                            .grammar = g,
                            .sampling = {.temperature = 1.3f, .top_p = 1, .repetition_penalty = 1, .seed = seed},
                            .deadline_ns = CLOCK_NEVER};
}

static enum grammar_match match(struct grammar *g, const struct harness_choice *c)
{
    return grammar_match(g, c->text, c->n_text);
}

static const char *const patterns[] = {
    "( fox| rabbit){3,5}\\.",
    "[A-Z][a-z]{2,9}( [a-z]+){2,4}[.!?]",
    "\\{\"n\": -?\\d{1,4}, \"s\": \"[^\"\\\\\\n]{0,12}\"\\}",
    "(yes|no)",
    "[\xc3\xa0-\xc3\xbf]{3}x?",
};

START_TEST(answers_are_of_the_grammar)
{
    struct engine *e = open_tales();
    for (size_t p = 0; p < sizeof patterns / sizeof *patterns; p++) {
        struct grammar *g = regex(patterns[p]);
        for (uint64_t seed = 0; seed < 4; seed++) {
            struct request r = request_with(g, seed, 200);
            r.sampling.temperature = seed == 3 ? 0 : 1.3f;
            r.sampling.top_k = seed == 1 ? 20 : 0;
            r.logprobs = seed == 2;
            r.top_logprobs = seed == 2 ? 5 : 0;
            struct harness_answer *a = harness_finish(harness_submit(e, &r));
            ck_assert_int_eq(a->finish, FINISH_STOP);
            ck_assert_msg(match(g, &a->choices[0]) == GRAMMAR_WHOLE, "%s: %.*s", patterns[p], (int)a->choices[0].n_text,
                          a->choices[0].text);
            free(a);
        }
        grammar_release(g);
    }
    engine_close(e);
}
END_TEST

START_TEST(a_cut_answer_is_the_beginning_of_one)
{
    struct engine *e = open_tales();
    struct grammar *g = regex("(the|fox| )*!");
    struct request r = request_with(g, 1, 6);
    struct harness_answer *a = harness_finish(harness_submit(e, &r));
    if (a->finish == FINISH_LENGTH)
        ck_assert_int_eq(match(g, &a->choices[0]), GRAMMAR_BEGINS);
    ck_assert_uint_le(a->choices[0].n_tokens, 6);
    free(a);
    grammar_release(g);
    engine_close(e);
}
END_TEST

/* Several grammars at once, several choices, requests without one: each is what it is alone. */
START_TEST(a_batch_changes_nothing)
{
    enum { N = 12 };
    struct engine *e = open_tales();
    struct grammar *g[5];
    struct stream *streams[N];
    struct request r[N];
    for (int i = 0; i < 5; i++)
        g[i] = regex(patterns[i]);
    for (int i = 0; i < N; i++) {
        r[i] = request_with(i % 6 == 5 ? NULL : g[i % 6], (uint64_t)i, 40);
        r[i].n = i % 3 == 0 ? 3 : 1;
        streams[i] = harness_submit(e, &r[i]);
    }
    struct harness_answer *together[N];
    for (int i = 0; i < N; i++)
        together[i] = harness_finish(streams[i]);
    for (int i = 0; i < N; i++) {
        struct harness_answer *alone = harness_finish(harness_submit(e, &r[i]));
        harness_expect_same(alone, together[i], r[i].n);
        for (uint32_t c = 0; c < r[i].n && r[i].grammar; c++)
            ck_assert_int_ne(match(r[i].grammar, &alone->choices[c]), GRAMMAR_NO);
        free(alone);
        free(together[i]);
    }
    for (int i = 0; i < 5; i++)
        grammar_release(g[i]);
    engine_close(e);
}
END_TEST

/* The grammar may be released as soon as the request is submitted. */
START_TEST(a_request_keeps_its_grammar)
{
    struct engine *e = open_tales();
    struct grammar *g = regex("(once|upon| a time){4}");
    struct request r = request_with(g, 3, 50);
    struct stream *s = harness_submit(e, &r);
    grammar_release(g);
    struct harness_answer *a = harness_finish(s);
    ck_assert_int_eq(a->finish, FINISH_STOP);
    free(a);
    engine_close(e);
}
END_TEST

START_TEST(refused_and_failed)
{
    struct engine *e = open_tales();
    struct grammar *g = regex("a");
    struct request r = request_with(g, 3, 50);
    struct stream *s;
    struct error err;
    r.ignore_eos = true;
    ck_assert_int_eq(engine_submit(e, &r, &s, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "ignore_eos");
    grammar_release(g);
    char pattern[1024] = "[a-z]*(x"; /* its states are sets of all places where any of these may have begun */
    for (char c = 'a'; c < 'a' + 20; c++)
        snprintf(pattern + strlen(pattern), 48, "|[%c-z][a-z]{2000}%c", c, c);
    strcat(pattern, ")");
    g = regex(pattern);
    r = request_with(g, 3, 400);
    struct harness_answer *a = harness_finish(harness_submit(e, &r));
    ck_assert_int_eq(a->finish, FINISH_ERROR);
    ck_assert_int_eq(a->error.code, ERROR_INFERENCE_FAILED);
    ck_assert(strstr(a->error.message, "too many states"));
    free(a);
    grammar_release(g);
    engine_close(e);
}
END_TEST

static bool some_tokens(const struct engine_stats *st)
{
    return st->n_generated_tokens >= 20;
}

/* A request that gives way finds its place in its grammar again. */
START_TEST(preempted_answers_are_the_same)
{
    struct grammar *g = regex("([A-Z][a-z]{1,6}[,.] ){120}");
    struct request r = request_with(g, 5, 400), high = request_with(NULL, 6, 5);
    struct engine_stats st;
    struct engine *e = open_tales();
    struct harness_answer *alone = harness_finish(harness_submit(e, &r));
    engine_close(e);
    e = harness_open((struct engine_options){
        .model_path = "models/tales.gguf", .context_length = 512, .n_threads = 1, .max_sequences = 1});
    r.priority = PRIORITY_LOW;
    high.priority = PRIORITY_HIGH;
    struct stream *s = harness_submit(e, &r);
    harness_await(e, some_tokens);
    free(harness_finish(harness_submit(e, &high)));
    struct harness_answer *a = harness_finish(s);
    engine_stats(e, &st);
    ck_assert_uint_eq(st.n_preempted, 1);
    harness_expect_same(alone, a, 1);
    ck_assert_uint_gt(a->choices[0].n_tokens, 300); /* more than its stream holds: it cannot have ended before the other came */
    free(alone);
    free(a);
    engine_close(e);
    grammar_release(g);
}
END_TEST

SUITE("engine grammar", preempted_answers_are_the_same, answers_are_of_the_grammar, a_cut_answer_is_the_beginning_of_one, a_batch_changes_nothing,
      a_request_keeps_its_grammar, refused_and_failed)
