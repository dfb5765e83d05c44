/* Results of the engine end to end: the same request gives the same tokens whatever runs beside it, its text is that
 * of its tokens, stop strings cut it, a slow reader stops nobody else. */
#include "tests/suite.h"
#include "tests/unit/engine/harness.h"

#include "base/clock.h"
#include "base/utf8.h"
#include "engine/text/tokenizer.h"

#include <pthread.h>

#define N_STREAMS 64

/* Requests that differ in everything. */
static struct request varied(uint32_t i, uint32_t *ids)
{
    struct request r = harness_request(i, ids, 1 + i * 7 % 150, 5 + i * 13 % 60);
    r.sampling.temperature = (float)(i % 5) * 0.5f;
    r.sampling.top_k = i % 3 ? 0 : 40;
    r.sampling.top_p = i % 4 ? 1 : 0.9f;
    r.sampling.min_p = i % 7 ? 0 : 0.05f;
    r.sampling.repetition_penalty = i % 6 ? 1 : 1.3f;
    r.sampling.frequency_penalty = i % 8 ? 0 : 0.7f;
    r.logprobs = i % 2;
    r.top_logprobs = i % 4 == 1 ? 3 : 0;
    r.n = i % 9 == 8 ? 3 : 1;
    r.ignore_eos = i % 5 != 0;
    r.priority = (enum priority)(i % 3);
    return r;
}

START_TEST(test_alone_and_together)
{
    static uint32_t ids[N_STREAMS][160];
    struct harness_answer *alone[N_STREAMS];
    struct stream *streams[N_STREAMS];
    struct engine *e = harness_open((struct engine_options){.max_sequences = 3, .max_batch_tokens = 7, .n_threads = 1});
    uint64_t n_tokens = 0;
    for (uint32_t i = 0; i < N_STREAMS; i++) {
        struct request r = varied(i, ids[i]);
        alone[i] = harness_finish(harness_submit(e, &r));
        n_tokens += alone[i]->summary.n_generated_tokens;
    }
    engine_close(e);
    ck_assert_uint_gt(n_tokens, 1000);
    e = harness_open((struct engine_options){.max_sequences = 20, .max_batch_tokens = 100, .n_threads = 2});
    for (uint32_t i = 0; i < N_STREAMS; i++) {
        struct request r = varied(i, ids[i]);
        streams[i] = harness_submit(e, &r);
    }
    for (uint32_t i = 0; i < N_STREAMS; i++) {
        struct harness_answer *together = harness_finish(streams[i]);
        harness_expect_same(alone[i], together, i % 9 == 8 ? 3 : 1);
        free(together);
        free(alone[i]);
    }
    struct engine_stats st;
    engine_stats(e, &st);
    ck_assert(harness_idle(&st));
    ck_assert_uint_eq(st.n_requests, N_STREAMS);
    ck_assert_uint_eq(st.n_finished_stop + st.n_finished_length, N_STREAMS);
    ck_assert_uint_eq(st.n_generated_tokens, n_tokens);
    ck_assert_uint_gt(st.n_step_rows / st.n_steps, 5); /* they did share steps */
    engine_close(e);
}
END_TEST

/* The same of a model with a norm before each projection, over instruction sets too. */
START_TEST(test_input_norms_alone_and_together)
{
    enum { N = 16 };
    static uint32_t ids[N][160];
    struct harness_answer *alone[N];
    struct stream *streams[N];
    char path[300];
    struct error err = {0};
    snprintf(path, sizeof path, "%s.qwen3", harness_model());
    const struct synth_options o = {.path = path, .preset = "tiny-qwen3", .seed = 5, .n_layers = 2};
    ck_assert_msg(!synth_write(&o, &err), "%s", err.message);
    struct engine *e = harness_open((struct engine_options){
        .model_path = path, .max_sequences = 3, .max_batch_tokens = 7, .n_threads = 1, .isa = "portable"});
    for (uint32_t i = 0; i < N; i++) {
        struct request r = varied(i, ids[i]);
        alone[i] = harness_finish(harness_submit(e, &r));
    }
    engine_close(e);
    e = harness_open((struct engine_options){.model_path = path, .max_batch_tokens = 100, .n_threads = 2});
    unlink(path);
    for (uint32_t i = 0; i < N; i++) {
        struct request r = varied(i, ids[i]);
        streams[i] = harness_submit(e, &r);
    }
    for (uint32_t i = 0; i < N; i++) {
        struct harness_answer *together = harness_finish(streams[i]);
        ck_assert_uint_gt(together->summary.n_generated_tokens, 0);
        harness_expect_same(alone[i], together, i % 9 == 8 ? 3 : 1);
        free(together);
        free(alone[i]);
    }
    engine_close(e);
}
END_TEST

/* Tokens that are one byte of a longer character: a text made of them opens characters and breaks them off. */
static size_t bias_to_open_characters(const struct tokenizer *t, struct logit_bias bias[300])
{
    size_t n = 0, n_bytes;
    for (uint32_t id = 0; id < tokenizer_n_tokens(t) && n < 300; id++) {
        const char *piece = tokenizer_piece(t, id, &n_bytes);
        if (piece && n_bytes == 1 && (unsigned char)*piece >= 0x80)
            bias[n++] = (struct logit_bias){id, 8};
    }
    return n;
}

START_TEST(test_text_is_that_of_the_tokens)
{
    uint32_t ids[20];
    struct logit_bias bias[300];
    struct engine *e = harness_open((struct engine_options){0});
    size_t n_bias = bias_to_open_characters(engine_tokenizer(e), bias);
    ck_assert_uint_gt(n_bias, 100);
    for (uint32_t seed = 0; seed < 20; seed++) {
        struct request r = harness_request(seed, ids, 20, 60 + seed);
        struct detokenizer d = {0};
        struct buffer text;
        r.ignore_eos = true;
        r.sampling.bias = bias;
        r.sampling.n_bias = seed % 2 ? n_bias : 0;
        struct harness_answer *a = harness_finish(harness_submit(e, &r));
        const struct harness_choice *c = &a->choices[0];
        ck_assert_uint_eq(c->n_tokens, 60 + seed);
        ck_assert_int_eq(c->finish, FINISH_LENGTH);
        ck_assert(utf8_valid(c->text, c->n_text, NULL));
        buffer_init(&text, 1 << 20);
        for (uint32_t i = 0; i < c->n_tokens; i++)
            detokenizer_push(&d, engine_tokenizer(e), c->ids[i], &text);
        detokenizer_finish(&d, &text);
        ck_assert_uint_eq(text.n_bytes, c->n_text);
        ck_assert_mem_eq(text.data, c->text, c->n_text);
        buffer_fini(&text);
        free(a);
    }
    engine_close(e);
}
END_TEST

/* Each piece of a text as a stop string: the text ends before its first occurrence, and the tokens are the same up
 * to there. */
START_TEST(test_stop_strings)
{
    uint32_t ids[20];
    struct engine *e = harness_open((struct engine_options){0});
    struct request r = harness_request(3, ids, 20, 60);
    r.ignore_eos = true;
    struct harness_answer *whole = harness_finish(harness_submit(e, &r));
    const struct harness_choice *c = &whole->choices[0];
    size_t n_cases = 0;
    for (size_t at = 0; at < c->n_text; at += 3) {
        for (size_t len = 1; len < 8 && at + len <= c->n_text; len += 2) {
            char stop[16];
            const char *list[] = {"not to be found", stop};
            memcpy(stop, c->text + at, len);
            stop[len] = '\0';
            if (!utf8_valid(stop, len, NULL) || strlen(stop) != len)
                continue;
            r.stop = list;
            r.n_stop = 2;
            struct harness_answer *a = harness_finish(harness_submit(e, &r));
            size_t first = (size_t)((char *)memmem(c->text, c->n_text, stop, len) - c->text);
            ck_assert_int_eq(a->finish, FINISH_STOP);
            ck_assert_uint_eq(a->choices[0].n_text, first);
            ck_assert_mem_eq(a->choices[0].text, c->text, first);
            ck_assert_uint_eq(a->choices[0].n_tokens, a->summary.n_generated_tokens);
            ck_assert_mem_eq(a->choices[0].ids, c->ids, a->choices[0].n_tokens * sizeof *c->ids);
            free(a);
            n_cases++;
        }
    }
    ck_assert_uint_gt(n_cases, 20);
    free(whole);
    engine_close(e);
}
END_TEST

/* A token that ends a generation is no part of the answer, unless it is asked to go on. */
START_TEST(test_end_of_generation)
{
    uint32_t ids[20], eog = 0;
    struct engine *e = harness_open((struct engine_options){0});
    while (!tokenizer_is_eog(engine_tokenizer(e), eog))
        eog++;
    struct logit_bias bias = {eog, 100};
    struct request r = harness_request(3, ids, 20, 10);
    r.sampling.bias = &bias;
    r.sampling.n_bias = 1;
    struct harness_answer *a = harness_finish(harness_submit(e, &r));
    ck_assert_int_eq(a->finish, FINISH_STOP);
    ck_assert_uint_eq(a->summary.n_generated_tokens, 0);
    ck_assert_uint_eq(a->choices[0].n_tokens, 0);
    free(a);
    r.ignore_eos = true;
    a = harness_finish(harness_submit(e, &r));
    ck_assert_int_eq(a->finish, FINISH_LENGTH);
    ck_assert_uint_eq(a->choices[0].n_tokens, 10);
    ck_assert_uint_eq(a->choices[0].ids[0], eog);
    free(a);
    engine_close(e);
}
END_TEST

START_TEST(test_context_ends_the_answer)
{
    static uint32_t ids[HARNESS_CONTEXT];
    struct engine *e = harness_open((struct engine_options){.max_batch_tokens = 64, .context_length = 100});
    for (uint32_t n_prompt = 97; n_prompt < 100; n_prompt++) {
        struct request r = harness_request(3, ids, n_prompt, 50);
        r.ignore_eos = true;
        struct harness_answer *a = harness_finish(harness_submit(e, &r));
        ck_assert_int_eq(a->finish, FINISH_LENGTH);
        ck_assert_uint_eq(a->summary.n_generated_tokens, 100 - n_prompt);
        ck_assert_uint_eq(a->summary.n_prompt_tokens, n_prompt);
        free(a);
    }
    engine_close(e);
}
END_TEST

/* A reader that does not read pauses its own sequence: another one starts, runs and ends beside it; then the first
 * goes on, and its answer is what it would have been. */
static bool paused(const struct engine_stats *st)
{
    return st->n_generated_tokens >= 256;
}

START_TEST(test_slow_reader)
{
    uint32_t ids[2][20];
    struct engine *e = harness_open((struct engine_options){.max_sequences = 2});
    struct request slow = harness_request(1, ids[0], 20, 480), quick = harness_request(2, ids[1], 20, 300);
    struct engine_stats st;
    slow.ignore_eos = quick.ignore_eos = true;
    struct harness_answer *expected = harness_finish(harness_submit(e, &slow));
    ck_assert_uint_eq(expected->choices[0].n_tokens, 480);
    engine_close(e);
    e = harness_open((struct engine_options){.max_sequences = 2});
    struct stream *s = harness_submit(e, &slow);
    harness_await(e, paused);
    free(harness_finish(harness_submit(e, &quick)));
    engine_stats(e, &st);
    ck_assert_uint_eq(st.n_running, 1);
    ck_assert_uint_le(st.n_generated_tokens, 300 + 256 + 64);
    struct harness_answer *a = calloc(1, sizeof *a);
    while (harness_read(s, 1, a)) /* one by one */
        ;
    stream_close(s);
    harness_expect_same(expected, a, 1);
    free(expected);
    free(a);
    engine_close(e);
}
END_TEST

/* ---- many threads ------------------------------------------------------------------------------------------------ */

struct client {
    struct engine *e;
    uint32_t first_seed;
    struct harness_answer **expected;
};

static void *submit_some(void *arg)
{
    struct client *c = arg;
    uint32_t ids[20];
    for (uint32_t i = 0; i < 5; i++) {
        struct request r = harness_request(c->first_seed + i, ids, 20, 20);
        struct harness_answer *a = harness_finish(harness_submit(c->e, &r));
        harness_expect_same(c->expected[c->first_seed + i], a, 1);
        free(a);
    }
    return NULL;
}

START_TEST(test_eight_threads)
{
    uint32_t ids[20];
    struct harness_answer *expected[40];
    pthread_t threads[8];
    struct client clients[8];
    struct engine *e = harness_open((struct engine_options){.max_sequences = 5});
    for (uint32_t i = 0; i < 40; i++) {
        struct request r = harness_request(i, ids, 20, 20);
        expected[i] = harness_finish(harness_submit(e, &r));
    }
    for (uint32_t i = 0; i < 8; i++) {
        clients[i] = (struct client){e, i * 5, expected};
        pthread_create(&threads[i], NULL, submit_some, &clients[i]);
    }
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 40; i++)
        free(expected[i]);
    engine_close(e);
}
END_TEST

START_TEST(test_text_prompt_and_chat)
{
    struct engine *e = harness_open((struct engine_options){0});
    struct chat_message messages[] = {{"user", "hello"}};
    struct request r = {.prompt = "hello",
                        .prompt_bytes = 5,
                        .max_tokens = 4,
                        .sampling = sampling_defaults(),
                        .ignore_eos = true,
                        .deadline_ns = CLOCK_NEVER};
    struct token_list list = {0};
    ck_assert_int_eq(tokenizer_encode(engine_tokenizer(e), "hello", 5, true, false, &list, NULL), ERROR_NONE);
    struct harness_answer *a = harness_finish(harness_submit(e, &r));
    ck_assert_uint_eq(a->summary.n_prompt_tokens, list.n);
    ck_assert_uint_eq(a->summary.n_generated_tokens, 4);
    free(a);
    r.prompt = NULL;
    r.tokens = list.ids;
    r.n_tokens = list.n;
    free(harness_finish(harness_submit(e, &r)));
    r.tokens = NULL;
    r.messages = messages;
    r.n_messages = 1;
    a = harness_finish(harness_submit(e, &r));
    ck_assert_uint_gt(a->summary.n_prompt_tokens, list.n);
    free(a);
    free(list.ids);
    engine_close(e);
}
END_TEST

/* Requests that begin alike: one after the other, all at once, and when the one that computes their beginning is cancelled. */
static void expect_answers(struct engine *e, struct harness_answer *const *expected, const struct request *requests, size_t n,
                           bool cancel_first)
{
    struct stream *streams[8];
    for (size_t i = 0; i < n; i++)
        streams[i] = harness_submit(e, &requests[i]);
    if (cancel_first)
        stream_cancel(streams[0]);
    for (size_t i = 0; i < n; i++) {
        struct harness_answer *a = harness_finish(streams[i]);
        if (!cancel_first || i > 0)
            harness_expect_same(expected[i], a, requests[i].n ? requests[i].n : 1);
        free(a);
    }
}

START_TEST(test_prompts_that_begin_alike)
{
    enum { N = 6, PROMPT = 300, STEM = 7 * KV_BLOCK_SIZE };
    static uint32_t ids[N][PROMPT];
    struct request requests[N];
    struct harness_answer *expected[N];
    struct engine_stats after;
    for (uint32_t i = 0; i < N; i++) {
        requests[i] = harness_request(40 + i, ids[i], PROMPT, 20);
        memcpy(ids[i], ids[0], STEM * sizeof ids[0][0]);
        requests[i].n = i == 3 ? 3 : 1;
    }
    struct engine *e = harness_open((struct engine_options){.no_prefix_cache = true, .n_threads = 1});
    for (size_t i = 0; i < N; i++)
        expected[i] = harness_finish(harness_submit(e, &requests[i]));
    engine_stats(e, &after);
    ck_assert_uint_eq(after.n_prefix_hits, 0);
    engine_close(e);
    for (int together = 0; together < 2; together++) {
        e = harness_open((struct engine_options){.n_threads = 2, .max_batch_tokens = 70});
        for (size_t i = 0; i < N && !together; i++)
            expect_answers(e, expected + i, requests + i, 1, false);
        if (together)
            expect_answers(e, expected, requests, N, false);
        engine_stats(e, &after);
        /* The stem is computed once, the choices of request 3 compute its prompt once but for its last block. */
        ck_assert_uint_eq(after.n_prefix_hits, (N - 1) * STEM + 2 * (PROMPT - 1) / KV_BLOCK_SIZE * KV_BLOCK_SIZE);
        ck_assert_uint_eq(after.n_prefix_queries, (N + 2) * PROMPT);
        ck_assert_uint_eq(after.n_kv_blocks_used, 0);
        ck_assert_uint_gt(after.n_kv_blocks_kept, 0);
        engine_close(e);
    }
    e = harness_open((struct engine_options){.n_threads = 2, .max_batch_tokens = 16});
    expect_answers(e, expected, requests, N, true);
    engine_stats(e, &after);
    ck_assert_uint_eq(after.n_kv_blocks_used, 0);
    engine_close(e);
    for (size_t i = 0; i < N; i++)
        free(expected[i]);
}
END_TEST

/* A conversation's next turn finds its earlier turns, with the answers. */
START_TEST(test_the_next_turn_finds_the_last)
{
    uint32_t ids[HARNESS_CONTEXT];
    struct engine *e = harness_open((struct engine_options){.n_threads = 1});
    struct request r = harness_request(9, ids, 100, 120);
    r.ignore_eos = true;
    struct harness_answer *first = harness_finish(harness_submit(e, &r));
    ck_assert_uint_eq(first->choices[0].n_tokens, 120);
    memcpy(ids + 100, first->choices[0].ids, 120 * sizeof *ids);
    r.n_tokens = 220;
    r.max_tokens = 5;
    struct harness_answer *second = harness_finish(harness_submit(e, &r));
    ck_assert_uint_eq(first->summary.n_cached_tokens, 0);
    ck_assert_uint_eq(second->summary.n_cached_tokens, 219 / KV_BLOCK_SIZE * KV_BLOCK_SIZE);
    free(first);
    free(second);
    engine_close(e);
}
END_TEST

/* A greedy answer of a model without sense soon repeats itself; drafted or not, its tokens are the same, as are those at temperature 1, with
 * stop strings, several choices, log-probabilities and penalties. */
START_TEST(test_drafted_tokens_change_nothing)
{
    enum { N = 6 };
    static uint32_t ids[N][60];
    struct request requests[N];
    struct harness_answer *expected[N];
    struct engine_stats stats;
    struct logit_bias few[6];
    const char *const stop[] = {"z"};
    for (uint32_t i = 0; i < N; i++) {
        requests[i] = harness_request(70 + i, ids[i], 60, 200);
        memcpy(ids[i] + 30, ids[i], 30 * sizeof ids[0][0]);
        requests[i].ignore_eos = true;
        requests[i].sampling.temperature = i % 2 ? 1 : 0;
    }
    requests[2].n = 3;
    requests[2].logprobs = true;
    requests[3].sampling.presence_penalty = 0.5f;
    requests[3].sampling.frequency_penalty = 0.1f;
    requests[4].stop = stop;
    requests[4].n_stop = 1;
    for (uint32_t k = 0; k < 6; k++)
        few[k] = (struct logit_bias){300 + k, 60};
    requests[5].sampling.bias = few; /* these alone are drawn: what followed two of them once seldom does again */
    requests[5].sampling.n_bias = 6;
    struct engine *e = harness_open((struct engine_options){.no_speculation = true, .n_threads = 1});
    for (size_t i = 0; i < N; i++)
        expected[i] = harness_finish(harness_submit(e, &requests[i]));
    engine_stats(e, &stats);
    ck_assert_uint_eq(stats.n_drafted, 0);
    engine_close(e);
    for (size_t rows = 4; rows <= 64; rows += 20) {
        e = harness_open((struct engine_options){.n_threads = 1, .max_batch_tokens = rows});
        for (size_t i = 0; i < N; i++)
            expect_answers(e, expected + i, requests + i, 1, false);
        expect_answers(e, expected, requests, N, false);
        engine_stats(e, &stats);
        ck_assert_uint_gt(stats.n_draft_accepted, 0); /* how many pays follows from times */
        ck_assert_uint_ge(stats.n_drafted, stats.n_draft_accepted);
        ck_assert_uint_eq(stats.n_kv_blocks_used, 0);
        engine_close(e);
    }
    for (size_t i = 0; i < N; i++)
        free(expected[i]);
}
END_TEST

/* A reader that stops, and then takes token by token, leaves room for some of what was drafted: the rest comes later, as it would have. */
START_TEST(test_slow_reader_of_drafted_tokens)
{
    uint32_t ids[60];
    struct engine_stats stats;
    for (uint32_t i = 0; i < 4; i++) {
        struct request r = harness_request(70 + i, ids, 60, 400);
        r.ignore_eos = true;
        r.sampling.temperature = 0;
        struct engine *e = harness_open((struct engine_options){.n_threads = 1});
        struct harness_answer *expected = harness_finish(harness_submit(e, &r)), *a = calloc(1, sizeof *a);
        engine_close(e);
        e = harness_open((struct engine_options){.n_threads = 1});
        struct stream *s = harness_submit(e, &r);
        harness_await(e, paused);
        usleep(5000); /* and it is asleep */
        while (harness_read(s, 1, a))
            ;
        stream_close(s);
        harness_expect_same(expected, a, 1);
        engine_stats(e, &stats);
        ck_assert_uint_gt(stats.n_draft_accepted, 0);
        free(expected);
        free(a);
        engine_close(e);
    }
}
END_TEST

SUITE("engine", test_alone_and_together, test_input_norms_alone_and_together, test_text_is_that_of_the_tokens, test_stop_strings, test_end_of_generation,
      test_context_ends_the_answer, test_slow_reader, test_eight_threads, test_text_prompt_and_chat, test_prompts_that_begin_alike,
      test_the_next_turn_finds_the_last, test_drafted_tokens_change_nothing,
      test_slow_reader_of_drafted_tokens)
