/* How requests end other than by themselves: cancel in each phase, deadlines, a full queue, drain, close, a failing
 * model. After each of them nothing is held any more. A request whose reader does not read is paused in mid-answer: it
 * occupies its sequence for as long as a test needs. */
#include "tests/suite.h"
#include "tests/unit/engine/harness.h"

#include "base/clock.h"
#include "engine/model/gguf.h"

#include <pthread.h>
#include <stdatomic.h>

#define LONG_ANSWER 480
static uint32_t hog_ids[8];

static bool one_runs(const struct engine_stats *st)
{
    return st->n_running == 1 && st->n_generated_tokens >= 256;
}

/* Occupies one sequence until it is closed. */
static struct stream *start_hog(struct engine *e)
{
    struct request r = harness_request(1, hog_ids, 8, LONG_ANSWER);
    r.ignore_eos = true;
    struct stream *s = harness_submit(e, &r);
    harness_await(e, one_runs);
    return s;
}

static bool hog_alone(const struct engine_stats *st)
{
    return st->n_running == 1 && st->n_waiting == 0;
}

START_TEST(test_cancel_in_the_queue)
{
    uint32_t ids[20];
    struct engine *e = harness_open((struct engine_options){.max_sequences = 1});
    struct stream *hog = start_hog(e);
    struct request r = harness_request(2, ids, 20, 10);
    struct stream *s = harness_submit(e, &r);
    stream_cancel(s);
    struct harness_answer *a = harness_finish(s);
    ck_assert_int_eq(a->finish, FINISH_CANCELLED);
    ck_assert(!a->choices[0].ended); /* it never had a token: only COMPLETE */
    ck_assert_uint_eq(a->summary.n_generated_tokens, 0);
    free(a);
    stream_close(harness_submit(e, &r)); /* and by closing */
    harness_await(e, hog_alone);
    stream_close(hog);
    harness_await(e, harness_idle);
    engine_close(e);
}
END_TEST

static bool prefilling(const struct engine_stats *st)
{
    return st->n_step_rows > 0;
}

START_TEST(test_cancel_in_prefill)
{
    static uint32_t ids[500];
    struct engine *e = harness_open((struct engine_options){.max_sequences = 2, .max_batch_tokens = 1, .n_threads = 1});
    struct request r = harness_request(2, ids, 500, 10);
    struct stream *s = harness_submit(e, &r);
    harness_await(e, prefilling);
    stream_cancel(s);
    struct harness_answer *a = harness_finish(s);
    ck_assert_int_eq(a->finish, FINISH_CANCELLED);
    ck_assert_uint_eq(a->summary.n_generated_tokens, 0);
    struct engine_stats st;
    engine_stats(e, &st);
    ck_assert(harness_idle(&st)); /* it was free before the reader heard of the end */
    ck_assert_uint_eq(st.n_cancelled, 1);
    ck_assert_uint_lt(st.n_step_rows, 500);
    free(a);
    engine_close(e);
}
END_TEST

START_TEST(test_cancel_in_decode)
{
    struct engine *e = harness_open((struct engine_options){0});
    struct stream *s = start_hog(e);
    stream_cancel(s);
    struct harness_answer *a = harness_finish(s);
    ck_assert_int_eq(a->finish, FINISH_CANCELLED);
    ck_assert_int_eq(a->choices[0].finish, FINISH_CANCELLED);
    ck_assert_uint_ge(a->choices[0].n_tokens, 200); /* what was there stays readable */
    ck_assert_uint_eq(a->choices[0].n_tokens, a->summary.n_generated_tokens);
    free(a);
    s = start_hog(e);
    stream_close(s); /* a disconnect */
    harness_await(e, harness_idle);
    engine_close(e);
}
END_TEST

START_TEST(test_cancel_after_the_end)
{
    uint32_t ids[20];
    struct engine *e = harness_open((struct engine_options){0});
    struct request r = harness_request(2, ids, 20, 5);
    r.ignore_eos = true;
    struct stream *s = harness_submit(e, &r);
    harness_await(e, harness_idle);
    while (!stream_wait(s, CLOCK_NEVER))
        ;
    usleep(20000);
    stream_cancel(s);
    struct harness_answer *a = harness_finish(s);
    ck_assert_int_eq(a->finish, FINISH_LENGTH);
    ck_assert_uint_eq(a->choices[0].n_tokens, 5);
    free(a);
    engine_close(e);
}
END_TEST

/* Some choices run, some still wait. */
START_TEST(test_cancel_of_choices)
{
    uint32_t ids[20];
    struct engine *e = harness_open((struct engine_options){.max_sequences = 2});
    struct request r = harness_request(2, ids, 20, LONG_ANSWER);
    r.ignore_eos = true;
    r.n = 5;
    struct stream *s = harness_submit(e, &r);
    harness_await(e, one_runs);
    stream_cancel(s);
    struct harness_answer *a = harness_finish(s);
    ck_assert_int_eq(a->finish, FINISH_CANCELLED);
    for (int c = 0; c < 5; c++)
        ck_assert_int_eq(a->choices[c].finish, FINISH_CANCELLED);
    free(a);
    harness_await(e, harness_idle);
    r.max_tokens = 9; /* and five choices through two places end well */
    a = harness_finish(harness_submit(e, &r));
    for (int c = 0; c < 5; c++)
        ck_assert_uint_eq(a->choices[c].n_tokens, 9);
    ck_assert_uint_eq(a->summary.n_generated_tokens, 45);
    ck_assert_uint_eq(a->summary.n_prompt_tokens, 20);
    free(a);
    engine_close(e);
}
END_TEST

START_TEST(test_deadlines)
{
    uint32_t ids[20];
    struct engine *e = harness_open((struct engine_options){.max_sequences = 1});
    struct stream *hog = start_hog(e);
    struct request r = harness_request(2, ids, 20, 10);
    int64_t start_ns = clock_now_ns();
    r.deadline_ns = start_ns + 50 * CLOCK_NS_PER_MS;
    struct harness_answer *a = harness_finish(harness_submit(e, &r)); /* in the queue, with the loop asleep */
    ck_assert_int_eq(a->finish, FINISH_DEADLINE);
    ck_assert_uint_eq(a->summary.n_generated_tokens, 0);
    ck_assert_int_lt(clock_now_ns() - start_ns, 800 * CLOCK_NS_PER_MS);
    free(a);
    stream_close(hog);
    r = harness_request(1, hog_ids, 8, LONG_ANSWER);
    r.ignore_eos = true;
    r.deadline_ns = clock_now_ns() + 150 * CLOCK_NS_PER_MS;
    struct stream *s = harness_submit(e, &r); /* in decode, paused */
    usleep(200000);
    a = harness_finish(s);
    ck_assert_int_eq(a->finish, FINISH_DEADLINE);
    ck_assert_int_eq(a->choices[0].finish, a->choices[0].ended ? FINISH_DEADLINE : FINISH_NONE);
    free(a);
    engine_close(e);
    e = harness_open((struct engine_options){.max_sequences = 1, .default_timeout_ns = 50 * CLOCK_NS_PER_MS});
    r.deadline_ns = 0; /* the engine's default */
    s = harness_submit(e, &r);
    usleep(150000);
    a = harness_finish(s);
    ck_assert_int_eq(a->finish, FINISH_DEADLINE);
    free(a);
    engine_close(e);
}
END_TEST

START_TEST(test_full_queue)
{
    uint32_t ids[20];
    struct error err = {0};
    struct engine *e = harness_open((struct engine_options){.max_sequences = 1, .queue_limit = 5});
    struct stream *hog = start_hog(e), *waiting[5], *s;
    struct request r = harness_request(2, ids, 20, 3);
    for (int i = 0; i < 4; i++)
        waiting[i] = harness_submit(e, &r);
    int64_t start_ns = clock_now_ns();
    ck_assert_int_eq(engine_submit(e, &r, &s, &err), ERROR_SERVICE_UNAVAILABLE); /* 80 %: high alone */
    ck_assert_int_lt(clock_now_ns() - start_ns, 20 * CLOCK_NS_PER_MS);
    ck_assert_int_gt(err.retry_after_ms, 0);
    r.priority = PRIORITY_HIGH;
    waiting[4] = harness_submit(e, &r);
    ck_assert_int_eq(engine_submit(e, &r, &s, &err), ERROR_SERVICE_UNAVAILABLE);
    struct engine_stats st;
    engine_stats(e, &st);
    ck_assert_uint_eq(st.n_rejected, 2);
    ck_assert_uint_eq(st.n_waiting, 5);
    stream_close(hog);
    for (int i = 0; i < 5; i++)
        free(harness_finish(waiting[i]));
    harness_await(e, harness_idle);
    free(harness_finish(harness_submit(e, &r)));
    engine_close(e);
}
END_TEST

/* Blocks for one long request only: the next waits until they are back. */
START_TEST(test_waits_for_blocks)
{
    uint32_t ids[20];
    struct engine *probe = harness_open((struct engine_options){0});
    size_t block_bytes = engine_model(probe)->kv_bytes / engine_model(probe)->n_kv_blocks;
    engine_close(probe);
    struct engine *e = harness_open((struct engine_options){.kv_cache_bytes = block_bytes * 20});
    ck_assert_uint_eq(engine_model(e)->n_kv_blocks, 20);
    struct stream *hog = start_hog(e); /* 487 positions: 16 blocks */
    struct request r = harness_request(2, ids, 20, 130);
    r.ignore_eos = true;
    struct stream *s = harness_submit(e, &r); /* 149 positions: 5 blocks */
    ck_assert(!stream_wait(s, 100 * CLOCK_NS_PER_MS));
    stream_close(hog);
    struct harness_answer *a = harness_finish(s);
    ck_assert_uint_eq(a->choices[0].n_tokens, 130);
    free(a);
    engine_close(e);
}
END_TEST

struct drain {
    struct engine *e;
    int64_t deadline_ns;
    atomic_bool done;
};

static void *drain(void *arg)
{
    struct drain *d = arg;
    engine_drain(d->e, d->deadline_ns);
    atomic_store(&d->done, true);
    return NULL;
}

START_TEST(test_drain)
{
    uint32_t ids[20];
    pthread_t thread;
    struct error err = {0};
    struct engine *e = harness_open((struct engine_options){.max_sequences = 1});
    struct stream *running = start_hog(e), *s;
    struct request r = harness_request(2, ids, 20, 3);
    struct stream *queued = harness_submit(e, &r);
    struct drain d = {.e = e, .deadline_ns = CLOCK_NEVER};
    pthread_create(&thread, NULL, drain, &d);
    struct harness_answer *a = harness_finish(queued); /* handed back at once */
    ck_assert_int_eq(a->finish, FINISH_ERROR);
    ck_assert_int_eq(a->error.code, ERROR_SERVICE_UNAVAILABLE);
    ck_assert_int_gt(a->error.retry_after_ms, 0);
    free(a);
    ck_assert_int_eq(engine_submit(e, &r, &s, &err), ERROR_SERVICE_UNAVAILABLE);
    ck_assert(!atomic_load(&d.done));
    a = harness_finish(running); /* goes on to its end */
    ck_assert_int_eq(a->finish, FINISH_LENGTH);
    ck_assert_uint_eq(a->choices[0].n_tokens, LONG_ANSWER);
    free(a);
    pthread_join(thread, NULL);
    engine_close(e);
}
END_TEST

START_TEST(test_drain_limit)
{
    struct engine *e = harness_open((struct engine_options){.max_sequences = 1});
    struct stream *s = start_hog(e);
    int64_t start_ns = clock_now_ns();
    engine_drain(e, start_ns + 100 * CLOCK_NS_PER_MS);
    ck_assert_int_ge(clock_now_ns() - start_ns, 90 * CLOCK_NS_PER_MS);
    struct harness_answer *a = harness_finish(s);
    ck_assert_int_eq(a->finish, FINISH_ERROR);
    ck_assert_int_eq(a->error.code, ERROR_SERVICE_UNAVAILABLE);
    ck_assert_uint_ge(a->choices[0].n_tokens, 200);
    free(a);
    engine_close(e);
}
END_TEST

/* Streams outlive the engine. */
START_TEST(test_close_with_open_streams)
{
    uint32_t ids[20];
    struct engine *e = harness_open((struct engine_options){.max_sequences = 1});
    struct stream *s = start_hog(e);
    struct request r = harness_request(2, ids, 20, 3);
    struct stream *queued = harness_submit(e, &r);
    engine_close(e);
    stream_cancel(queued);
    struct harness_answer *a = harness_finish(s);
    ck_assert_int_eq(a->error.code, ERROR_SERVICE_UNAVAILABLE);
    ck_assert_uint_ge(a->choices[0].n_tokens, 200);
    free(a);
    a = harness_finish(queued);
    ck_assert_int_eq(a->error.code, ERROR_SERVICE_UNAVAILABLE);
    free(a);
}
END_TEST

/* Closing streams at random moments from several threads: nothing leaks, nothing is left running. */
static void *close_at_random(void *arg)
{
    struct engine *e = arg;
    uint32_t ids[40];
    unsigned random = (unsigned)(uintptr_t)&ids >> 4;
    for (uint32_t i = 0; i < 30; i++) {
        struct request r = harness_request(i, ids, 40, 100);
        r.n = 1 + i % 3;
        struct stream *s = harness_submit(e, &r);
        usleep((useconds_t)(rand_r(&random) % 4000));
        stream_close(s);
    }
    return NULL;
}

START_TEST(test_close_at_random)
{
    pthread_t threads[4];
    struct engine *e = harness_open((struct engine_options){.max_sequences = 6, .max_batch_tokens = 32});
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, close_at_random, e);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    harness_await(e, harness_idle);
    engine_close(e);
}
END_TEST

/* The observer hears of each request, step and gap. */
struct heard {
    unsigned n_finished, n_steps, n_gaps;
    struct engine_observation last;
};

static void on_finish(void *user, const struct engine_observation *o)
{
    ((struct heard *)user)->n_finished++;
    ((struct heard *)user)->last = *o;
}

static void on_step(void *user, size_t n_rows, size_t n_sequences, double seconds)
{
    ck_assert(n_rows >= n_sequences && n_sequences > 0 && seconds >= 0);
    ((struct heard *)user)->n_steps++;
}

static void on_token_gap(void *user, double seconds)
{
    ck_assert(seconds >= 0);
    ((struct heard *)user)->n_gaps++;
}

START_TEST(test_observer)
{
    uint32_t ids[20];
    struct heard heard = {0};
    struct engine *e = harness_open((struct engine_options){.no_speculation = true});
    engine_observe(e, &(struct engine_observer){&heard, on_finish, on_step, on_token_gap, NULL});
    struct request r = harness_request(2, ids, 20, 10);
    r.ignore_eos = true;
    free(harness_finish(harness_submit(e, &r)));
    engine_close(e);
    ck_assert_uint_eq(heard.n_finished, 1);
    ck_assert_uint_eq(heard.n_steps, 10);
    ck_assert_uint_eq(heard.n_gaps, 9);
    ck_assert_int_eq(heard.last.finish, FINISH_LENGTH);
    ck_assert(heard.last.queue_s >= 0 && heard.last.first_token_s >= heard.last.queue_s);
    ck_assert(heard.last.total_s >= heard.last.first_token_s);
    ck_assert_uint_eq(heard.last.n_prompt_tokens, 20);
    ck_assert_uint_eq(heard.last.n_generated_tokens, 10);
}
END_TEST

/* A model whose last norm holds a NaN: its logits are none. Each request fails by itself, and the engine goes on. */
static void poison(const char *path)
{
    static char bytes[16 << 20];
    struct gguf *g;
    FILE *in = fopen(harness_model(), "rb"), *out = fopen(path, "wb");
    size_t n = fread(bytes, 1, sizeof bytes, in);
    ck_assert_uint_lt(n, sizeof bytes);
    ck_assert_int_eq(gguf_open_memory(bytes, n, &g, NULL), ERROR_NONE);
    memset(bytes + ((const char *)gguf_find_tensor(g, "output_norm.weight")->data - bytes), 0xff, 4);
    gguf_close(g);
    ck_assert_uint_eq(fwrite(bytes, 1, n, out), n);
    fclose(in);
    fclose(out);
}

START_TEST(test_failing_model)
{
    char path[64];
    uint32_t ids[20];
    snprintf(path, sizeof path, "/tmp/bitnet-poison-%ld.gguf", (long)getpid());
    poison(path);
    struct engine *e = harness_open((struct engine_options){.model_path = path});
    unlink(path);
    for (uint32_t i = 0; i < 3; i++) {
        struct request r = harness_request(2, ids, 20, 10);
        r.n = 1 + i;
        struct harness_answer *a = harness_finish(harness_submit(e, &r));
        ck_assert_int_eq(a->finish, FINISH_ERROR);
        ck_assert_int_eq(a->error.code, ERROR_INFERENCE_FAILED);
        ck_assert(a->error.message[0]);
        ck_assert(!a->choices[0].ended);
        free(a);
    }
    harness_await(e, harness_idle);
    engine_close(e);
}
END_TEST

SUITE("engine_ends", test_cancel_in_the_queue, test_cancel_in_prefill, test_cancel_in_decode, test_cancel_after_the_end,
      test_cancel_of_choices, test_deadlines, test_full_queue, test_waits_for_blocks, test_drain, test_drain_limit,
      test_close_with_open_streams, test_close_at_random, test_observer, test_failing_model)
