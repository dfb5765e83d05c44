/* The reference gives the bits of the portable kernels over whatever an engine holds, beside its loop, and draws the engine's tokens again. */
#include "engine/reference.h"

#include "tests/unit/engine/harness.h"

#define N_TOKENS 70 /* three blocks of the KV cache, and more than two chunks */
#define N_PROMPT 20 /* with the answer more than one chunk and block, and an end of a full chunk is in the answer */
#define N_ANSWER 24

static void fill_tokens(uint32_t *tokens)
{
    for (uint32_t i = 0, random = 7; i < N_TOKENS; i++) {
        random = random * 1664525u + 1013904223u;
        tokens[i] = (random >> 8) % HARNESS_VOCAB;
    }
}

static struct reference *open_reference(struct engine *e, size_t n_positions)
{
    struct reference *r;
    struct error err = {0};
    ck_assert_msg(!reference_open(e, &(struct reference_options){.n_positions = n_positions}, &r, &err), "%s", err.message);
    return r;
}

/* [N_TOKENS][HARNESS_VOCAB] of a session on the portable kernels, to be freed. */
static float *portable_logits(const uint32_t *tokens, enum kv_type kv_type)
{
    struct engine_options options = {.model_path = harness_model(), .device = "cpu", .isa = "portable", .n_threads = 1, .i2s_order = -1, .kv_type = kv_type};
    struct session_row rows[N_TOKENS];
    struct session *s;
    struct error err = {0};
    float *logits = malloc(N_TOKENS * HARNESS_VOCAB * sizeof *logits);
    for (size_t i = 0; i < N_TOKENS; i++)
        rows[i] = (struct session_row){.token = tokens[i], .want_logits = true};
    ck_assert_msg(!session_open(&options, &s, &err), "%s", err.message);
    ck_assert_msg(!session_step(s, rows, N_TOKENS, false, logits, &err), "%s", err.message);
    session_close(s);
    return logits;
}

static const struct {
    enum ternary_format format;
    enum kv_type kv_type;
} layouts[] = {{TERNARY_I2S, KV_F16},  {TERNARY_TL1, KV_F16},  {TERNARY_TL2, KV_F16},
               {TERNARY_I2S, KV_INT8}, {TERNARY_TL1, KV_INT8}, {TERNARY_TL2, KV_INT8}};

START_TEST(logits_are_the_portable_kernels)
{
    static const size_t n_last[] = {N_TOKENS, 33};
    uint32_t tokens[N_TOKENS];
    struct error err = {0};
    fill_tokens(tokens);
    struct engine *e = harness_open((struct engine_options){.format = layouts[_i].format, .kv_type = layouts[_i].kv_type});
    struct reference *r = open_reference(e, 1000);
    float *expected = portable_logits(tokens, layouts[_i].kv_type), *found = calloc(N_TOKENS * HARNESS_VOCAB, sizeof *found);
    for (size_t i = 0; i < sizeof n_last / sizeof *n_last; i++) {
        ck_assert_msg(!reference_logits(r, tokens, N_TOKENS, n_last[i], found, &err), "%s", err.message);
        ck_assert_msg(memcmp(found, expected + (N_TOKENS - n_last[i]) * HARNESS_VOCAB, n_last[i] * HARNESS_VOCAB * sizeof *found) == 0,
                      "other logits of the last %zu", n_last[i]);
    }
    ck_assert_uint_gt(reference_memory_bytes(r), 0);
    free(found);
    free(expected);
    reference_close(r);
    engine_close(e);
}
END_TEST

/* The prompt and the tokens of an answer, one after the other. */
static size_t answer_tokens(struct engine *e, const struct sampling *sampling, uint32_t *tokens)
{
    struct request request = harness_request(3, tokens, N_PROMPT, N_ANSWER);
    request.sampling = *sampling;
    request.ignore_eos = true;
    struct harness_answer *a = harness_finish(harness_submit(e, &request));
    ck_assert_uint_eq(a->choices[0].n_tokens, N_ANSWER);
    memcpy(tokens + N_PROMPT, a->choices[0].ids, N_ANSWER * sizeof *tokens);
    free(a);
    return N_PROMPT + N_ANSWER;
}

static const struct logit_bias bias[] = {{3, 4.0f}, {17, -100}, {1200, 3}};
static const struct sampling samplings[] = {
    {.temperature = 0, .top_p = 1},
    {.temperature = 1, .top_p = 1, .seed = 9},
    {.temperature = 0.7f, .top_k = 50, .top_p = 0.9f, .seed = 1},
    {.temperature = 1, .top_p = 0.8f, .seed = 2},
    {.temperature = 1.5f, .top_p = 1, .min_p = 0.05f, .seed = 3},
    {.temperature = 0.8f, .top_p = 1, .repetition_penalty = 1.3f, .presence_penalty = 0.5f, .frequency_penalty = 0.7f, .seed = 4},
    {.temperature = 1, .top_k = 30, .top_p = 1, .bias = bias, .n_bias = 3, .seed = 5},
};

START_TEST(tokens_are_drawn_again)
{
    uint32_t tokens[N_PROMPT + N_ANSWER];
    struct agreement same, other;
    struct error err = {0};
    struct engine *e = harness_open((struct engine_options){0});
    struct reference *r = open_reference(e, 200);
    size_t n = answer_tokens(e, &samplings[_i], tokens);
    ck_assert_msg(!reference_compare(r, tokens, N_PROMPT, n, &samplings[_i], NULL, NULL, &same, &err), "%s", err.message);
    ck_assert_uint_eq(same.n_compared, N_ANSWER);
    ck_assert_uint_eq(same.n_same, N_ANSWER);
    tokens[n - 1] = (tokens[n - 1] + 1) % HARNESS_VOCAB;
    ck_assert_msg(!reference_compare(r, tokens, N_PROMPT, n, &samplings[_i], NULL, NULL, &other, &err), "%s", err.message);
    ck_assert_uint_eq(other.n_compared, N_ANSWER);
    ck_assert_uint_eq(other.n_same, N_ANSWER - 1);
    reference_close(r);
    engine_close(e);
}
END_TEST

static bool count_down(void *user)
{
    return --*(int *)user >= 0;
}

static void count_up(void *user)
{
    ++*(int *)user;
}

/* What computes beside requests is asked to wait many times in an answer, not once a token; that changes no result. */
START_TEST(a_pace_is_kept)
{
    uint32_t tokens[N_PROMPT + N_ANSWER];
    struct agreement a;
    struct error err = {0};
    int n_calls = 0;
    struct reference *r;
    struct engine *e = harness_open((struct engine_options){0});
    ck_assert(!reference_open(e, &(struct reference_options){.n_positions = 200, .pace = count_up, .pace_user = &n_calls}, &r, &err));
    size_t n = answer_tokens(e, &samplings[1], tokens);
    n_calls = 0;
    ck_assert(!reference_compare(r, tokens, N_PROMPT, n, &samplings[1], NULL, NULL, &a, &err));
    ck_assert_uint_eq(a.n_compared, N_ANSWER);
    ck_assert_uint_eq(a.n_same, N_ANSWER);
    ck_assert_int_gt(n_calls, 4 * N_ANSWER);
    reference_close(r);
    engine_close(e);
}
END_TEST

START_TEST(a_comparison_can_be_ended)
{
    uint32_t tokens[N_PROMPT + N_ANSWER];
    struct agreement a;
    struct error err = {0};
    int n_chunks = 0;
    struct engine *e = harness_open((struct engine_options){0});
    struct reference *r = open_reference(e, 200);
    size_t n = answer_tokens(e, &samplings[1], tokens);
    ck_assert(!reference_compare(r, tokens, N_PROMPT, n, &samplings[1], count_down, &n_chunks, &a, &err));
    ck_assert_uint_eq(a.n_compared, 0);
    for (int again = 0; again < 6; again++) /* until chunks are as long as they get */
        ck_assert(!reference_compare(r, tokens, N_PROMPT, n, &samplings[1], NULL, NULL, &a, &err));
    for (int again = 0; again < 200 && (a.n_compared == 0 || a.n_compared == N_ANSWER); again++) {
        int left = 1 + again % (N_PROMPT + N_ANSWER); /* chunks are as long as this machine, now, computes in their time */
        ck_assert(!reference_compare(r, tokens, N_PROMPT, n, &samplings[1], count_down, &left, &a, &err));
        ck_assert_uint_eq(a.n_same, a.n_compared);
    }
    ck_assert_msg(a.n_compared > 0 && a.n_compared < N_ANSWER, "no end in the middle");
    reference_close(r);
    engine_close(e);
}
END_TEST

START_TEST(refusals)
{
    uint32_t tokens[N_TOKENS];
    struct agreement a;
    struct error err = {0};
    float *logits = malloc(HARNESS_VOCAB * sizeof *logits);
    struct reference *r;
    fill_tokens(tokens);
    struct engine *e = harness_open((struct engine_options){0});
    r = open_reference(e, 50);
    ck_assert_int_eq(reference_compare(r, tokens, 20, 52, &samplings[0], NULL, NULL, &a, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.message, "expected at most 50 positions, found 51");
    ck_assert_int_eq(reference_compare(r, tokens, 20, 51, &samplings[0], NULL, NULL, &a, &err), ERROR_NONE);
    ck_assert_int_eq(reference_compare(r, tokens, 20, 20, &samplings[0], NULL, NULL, &a, &err), ERROR_VALIDATION_FAILED);
    ck_assert_int_eq(reference_compare(r, tokens, 0, 20, &samplings[0], NULL, NULL, &a, &err), ERROR_VALIDATION_FAILED);
    ck_assert_int_eq(reference_logits(r, tokens, 51, 1, logits, &err), ERROR_VALIDATION_FAILED);
    ck_assert_int_eq(reference_logits(r, tokens, 0, 0, logits, &err), ERROR_VALIDATION_FAILED);
    ck_assert_int_eq(reference_logits(r, tokens, 3, 4, logits, &err), ERROR_VALIDATION_FAILED);
    tokens[4] = HARNESS_VOCAB;
    ck_assert_int_eq(reference_logits(r, tokens, 9, 1, logits, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.message, "expected token ids below 1280, found 1280 at 4");
    reference_close(r);
    reference_close(NULL);
    engine_close(e);
    const struct null_options null = {0};
    e = harness_open((struct engine_options){.null_model = &null});
    ck_assert_int_eq(reference_open(e, &(struct reference_options){.n_positions = 50}, &r, &err), ERROR_DEVICE_UNAVAILABLE);
    ck_assert_int_eq(reference_open(e, &(struct reference_options){.n_positions = 50, .load = true}, &r, &err), ERROR_DEVICE_UNAVAILABLE);
    engine_close(e);
    free(logits);
}
END_TEST

/* Both at work at once: neither changes the other. */
START_TEST(beside_the_loop)
{
    enum { N_STREAMS = 4 };
    uint32_t tokens[N_PROMPT + N_ANSWER], prompts[N_STREAMS][N_PROMPT];
    struct harness_answer *first[N_STREAMS], *second;
    struct stream *streams[N_STREAMS];
    struct agreement a;
    struct error err = {0};
    struct engine *e = harness_open((struct engine_options){.n_threads = 2, .format = layouts[_i].format});
    struct reference *r = open_reference(e, 200);
    size_t n = answer_tokens(e, &samplings[1], tokens);
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < N_STREAMS; i++) {
            struct request request = harness_request(100 + i, prompts[i], N_PROMPT, N_ANSWER);
            streams[i] = harness_submit(e, &request);
        }
        for (int again = 0; again < 3 && round > 0; again++) {
            ck_assert_msg(!reference_compare(r, tokens, N_PROMPT, n, &samplings[1], NULL, NULL, &a, &err), "%s", err.message);
            ck_assert_uint_eq(a.n_same, N_ANSWER);
        }
        for (uint32_t i = 0; i < N_STREAMS; i++) {
            if (round == 0) {
                first[i] = harness_finish(streams[i]);
                continue;
            }
            second = harness_finish(streams[i]);
            harness_expect_same(first[i], second, 1);
            free(second);
            free(first[i]);
        }
    }
    reference_close(r);
    engine_close(e);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("reference");
    TCase *tcase = tcase_create("reference");
    tcase_add_loop_test(tcase, logits_are_the_portable_kernels, 0, sizeof layouts / sizeof *layouts);
    tcase_add_loop_test(tcase, tokens_are_drawn_again, 0, sizeof samplings / sizeof *samplings);
    tcase_add_test(tcase, a_pace_is_kept);
    tcase_add_test(tcase, a_comparison_can_be_ended);
    tcase_add_test(tcase, refusals);
    tcase_add_loop_test(tcase, beside_the_loop, 0, 3);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
