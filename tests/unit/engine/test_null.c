/* The null model: tokens by their position alone, words only, no end by itself, steps that take what they are told to. */
#include "tests/suite.h"
#include "tests/unit/engine/harness.h"

static const char bundled[] = "models/tales.gguf";

static struct engine *open_null(const struct null_options *null)
{
    return harness_open((struct engine_options){.model_path = bundled, .null_model = null, .max_sequences = 8});
}

START_TEST(test_tokens_are_those_of_their_positions)
{
    const struct null_options null = {0};
    uint32_t ids[40], other[40];
    struct engine *e = open_null(&null);
    struct request r = harness_request(1, ids, 33, 100), s = harness_request(2, other, 40, 93);
    s.sampling.temperature = 2;
    s.sampling.repetition_penalty = 1.5f;
    struct stream *stream = harness_submit(e, &s);
    struct harness_answer *a = harness_finish(harness_submit(e, &r)), *b = harness_finish(stream);
    ck_assert_int_eq(a->finish, FINISH_LENGTH); /* without ignore_eos */
    ck_assert_uint_eq(a->choices[0].n_tokens, 100);
    ck_assert_uint_eq(b->choices[0].n_tokens, 93);
    ck_assert_mem_eq(a->choices[0].ids + 7, b->choices[0].ids, 93 * sizeof *b->choices[0].ids);
    for (size_t i = 0; i < a->choices[0].n_text; i++) {
        char c = a->choices[0].text[i];
        ck_assert_msg(c == ' ' || ((c | 32) >= 'a' && (c | 32) <= 'z'), "%d in an answer of words", c);
    }
    free(a);
    free(b);
    engine_close(e);
}
END_TEST

START_TEST(test_says_what_it_is)
{
    const struct null_options null = {0};
    struct engine *e = harness_open((struct engine_options){.model_path = bundled, .null_model = &null});
    ck_assert_str_eq(engine_model(e)->id, "null-model");
    ck_assert_str_eq(engine_model(e)->device, "null");
    engine_close(e);
    struct engine_options o = {.model_path = bundled, .device = "null", .i2s_order = -1};
    struct error err = {0};
    ck_assert_int_eq(engine_open(&o, &e, &err), ERROR_VALIDATION_FAILED); /* no name opens it */
}
END_TEST

START_TEST(test_steps_take_their_time)
{
    const struct null_options null = {.step_ns = 5 * CLOCK_NS_PER_MS};
    uint32_t ids[20];
    struct engine *e = open_null(&null);
    struct request r = harness_request(1, ids, 20, 10);
    int64_t start_ns = clock_now_ns();
    free(harness_finish(harness_submit(e, &r)));
    ck_assert_int_ge(clock_now_ns() - start_ns, 50 * CLOCK_NS_PER_MS);
    engine_close(e);
}
END_TEST

SUITE("null", test_tokens_are_those_of_their_positions, test_says_what_it_is, test_steps_take_their_time)
