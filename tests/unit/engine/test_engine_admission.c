/* What the engine lets in and what gives way: refusals come before the prompt is looked at, a flood of one client does not hold another up, and
 * a request that was preempted has the same answer, to the bit, as one that was not. */
#include "tests/suite.h"
#include "tests/unit/engine/harness.h"

#include "base/clock.h"

#include <pthread.h>

static uint32_t hog_ids[8];

static bool one_is_paused(const struct engine_stats *st)
{
    return st->n_running == 1 && st->n_generated_tokens >= 256;
}

/* A request whose reader does not read keeps the one sequence there is. */
static struct stream *start_hog(struct engine *e)
{
    struct request r = harness_request(1, hog_ids, 8, 480);
    r.ignore_eos = true;
    r.priority = PRIORITY_HIGH; /* nothing makes it give way */
    struct stream *s = harness_submit(e, &r);
    harness_await(e, one_is_paused);
    return s;
}

static struct request invalid_text(uint32_t max_tokens)
{
    static const char text[] = "not \xff UTF-8";
    return (struct request){.prompt = text,
                            .prompt_bytes = sizeof text - 1,
                            .max_tokens = max_tokens,
                            .sampling = sampling_defaults(),
                            .deadline_ns = CLOCK_NEVER};
}

START_TEST(test_refused_before_tokenising)
{
    uint32_t ids[20];
    struct error err = {0};
    struct stream *s, *waiting;
    struct engine *e =
        harness_open((struct engine_options){.max_sequences = 1, .queue_limit = 4, .queue_tokens = 150, .n_threads = 1});
    struct request text = invalid_text(10), r = harness_request(2, ids, 20, 30);
    ck_assert_int_eq(engine_submit(e, &text, &s, &err), ERROR_VALIDATION_FAILED);
    ck_assert_ptr_null(err.reason);
    struct stream *hog = start_hog(e);
    waiting = harness_submit(e, &r);
    text.max_tokens = 120; /* and 50 tokens wait */
    ck_assert_int_eq(engine_submit(e, &text, &s, &err), ERROR_SERVICE_UNAVAILABLE);
    ck_assert_str_eq(err.reason, REFUSED_QUEUE_TOKENS);
    text.priority = PRIORITY_LOW; /* half of 150 are for all, 50 and 33 are more */
    text.max_tokens = 30;
    ck_assert_int_eq(engine_submit(e, &text, &s, &err), ERROR_SERVICE_UNAVAILABLE);
    ck_assert_str_eq(err.reason, REFUSED_PRIORITY);
    text.priority = PRIORITY_HIGH;
    ck_assert_int_eq(engine_submit(e, &text, &s, &err), ERROR_VALIDATION_FAILED); /* there is room: now it is looked at */
    struct engine_stats st;
    engine_stats(e, &st);
    ck_assert_uint_eq(st.n_waiting_tokens, 50); /* those that were not admitted have given back what they had claimed */
    ck_assert_uint_eq(st.n_rejected, 2);
    stream_close(hog);
    free(harness_finish(waiting));
    harness_await(e, harness_idle);
    engine_stats(e, &st);
    ck_assert_uint_eq(st.n_waiting_tokens, 0);
    engine_drain(e, 0);
    ck_assert_int_eq(engine_submit(e, &text, &s, &err), ERROR_SERVICE_UNAVAILABLE);
    ck_assert_str_eq(err.reason, REFUSED_DRAINING);
    engine_close(e);
}
END_TEST

START_TEST(test_full_queue_is_said_before_tokenising)
{
    uint32_t ids[20];
    struct error err = {0};
    struct stream *s, *waiting[2];
    struct engine *e = harness_open((struct engine_options){.max_sequences = 1, .queue_limit = 2, .n_threads = 1});
    struct stream *hog = start_hog(e);
    struct request text = invalid_text(10), r = harness_request(2, ids, 20, 3);
    r.priority = text.priority = PRIORITY_HIGH;
    for (int i = 0; i < 2; i++)
        waiting[i] = harness_submit(e, &r);
    ck_assert_int_eq(engine_submit(e, &text, &s, &err), ERROR_SERVICE_UNAVAILABLE);
    ck_assert_str_eq(err.reason, REFUSED_QUEUE_FULL);
    stream_close(hog);
    for (int i = 0; i < 2; i++)
        free(harness_finish(waiting[i]));
    engine_close(e);
}
END_TEST

/* Nothing has left the queue yet, so there is no estimate; and a class that nobody serves any more: the bound holds all the same. */
START_TEST(test_who_waited_too_long_is_handed_back)
{
    uint32_t ids[20];
    struct engine *e =
        harness_open((struct engine_options){.max_sequences = 1, .queue_wait_ns = 30 * CLOCK_NS_PER_MS, .n_threads = 1});
    struct stream *hog = start_hog(e);
    struct request r = harness_request(2, ids, 10, 5);
    int64_t before_ns = clock_now_ns();
    struct stream *s = harness_submit(e, &r);
    struct stream_event event;
    do {
        stream_read(s, 16, &event);
    } while (event.type == STREAM_NOTHING);
    ck_assert_int_ge(clock_now_ns() - before_ns, 30 * CLOCK_NS_PER_MS);
    ck_assert_int_eq(event.type, STREAM_COMPLETE);
    ck_assert_int_eq(event.finish, FINISH_ERROR);
    ck_assert_int_eq(event.error.code, ERROR_SERVICE_UNAVAILABLE);
    ck_assert_str_eq(event.error.reason, REFUSED_QUEUE_WAIT);
    ck_assert_int_gt(event.error.retry_after_ms, 0);
    stream_close(s);
    struct engine_stats st;
    engine_stats(e, &st);
    ck_assert_uint_eq(st.n_rejected, 1);
    ck_assert_uint_eq(st.n_failed, 0);
    ck_assert_uint_eq(st.n_running, 1); /* who has started goes on, however long */
    stream_close(hog);
    engine_close(e);
}
END_TEST

#define N_FLOOD 20

static void count_finish(void *user, const struct engine_observation *o)
{
    unsigned *seen = user; /* [0]: how many have ended, [1]: which of them the one with 11 prompt tokens was */
    ++seen[0];
    if (o->n_prompt_tokens == 11)
        seen[1] = seen[0];
}

static void ignore_step(void *user, size_t n_rows, size_t n_sequences, double seconds)
{
    (void)user, (void)n_rows, (void)n_sequences, (void)seconds;
}

static void ignore_gap(void *user, double seconds) { (void)user, (void)seconds; }

START_TEST(test_clients_take_turns)
{
    uint32_t ids[20];
    unsigned seen[2] = {0};
    struct stream *flood[N_FLOOD], *other;
    struct engine *e = harness_open((struct engine_options){.max_sequences = 1, .n_threads = 1});
    engine_observe(e, &(struct engine_observer){seen, count_finish, ignore_step, ignore_gap, NULL});
    struct stream *hog = start_hog(e);
    struct request r = harness_request(2, ids, 11, 5);
    r.n_tokens = 10;
    r.client_id = "flood";
    for (int i = 0; i < N_FLOOD; i++)
        flood[i] = harness_submit(e, &r);
    r.client_id = "other";
    r.n_tokens = 11;
    other = harness_submit(e, &r);
    stream_close(hog);
    free(harness_finish(other));
    for (int i = 0; i < N_FLOOD; i++)
        free(harness_finish(flood[i]));
    engine_close(e);
    ck_assert_uint_eq(seen[0], N_FLOOD + 2);
    ck_assert_uint_le(seen[1], 4); /* the hog, one or two of the flood */
}
END_TEST

/* ---- preemption -------------------------------------------------------------------------------------------------- */

#define N_LOW 4

/* Long answers that differ in everything that is kept over a preemption. */
static struct request low_request(uint32_t i, uint32_t *ids)
{
    struct request r = harness_request(10 + i, ids, 40 + i * 30, 300);
    r.priority = PRIORITY_LOW;
    r.ignore_eos = true;
    r.logprobs = true;
    r.top_logprobs = i;
    r.sampling.temperature = (float)(i % 3) * 0.6f;
    r.sampling.frequency_penalty = i % 2 ? 0.5f : 0;
    r.n = i == 2 ? 2 : 1;
    return r;
}

static bool four_generate(const struct engine_stats *st)
{
    return st->n_running == N_LOW && st->n_generated_tokens > 200;
}

/* Runs low requests, which nobody reads until four high ones have ended in the middle of them; by_blocks: blocks are short, else slots. */
static void interrupt(struct engine_options options, bool by_blocks)
{
    static uint32_t ids[N_LOW][160], high_ids[4][200];
    struct harness_answer *alone[N_LOW], *high_alone[4];
    struct stream *low[N_LOW], *high[4];
    struct engine *e = harness_open((struct engine_options){.n_threads = 1});
    for (uint32_t i = 0; i < N_LOW; i++) {
        struct request r = low_request(i, ids[i]);
        alone[i] = harness_finish(harness_submit(e, &r));
    }
    for (uint32_t i = 0; i < 4; i++) {
        struct request r = harness_request(90 + i, high_ids[i], by_blocks ? 200 : 30, 40);
        high_alone[i] = harness_finish(harness_submit(e, &r));
    }
    engine_close(e);
    e = harness_open(options);
    for (uint32_t i = 0; i < N_LOW; i++) {
        struct request r = low_request(i, ids[i]);
        low[i] = harness_submit(e, &r);
    }
    harness_await(e, four_generate);
    for (uint32_t i = 0; i < 4; i++) {
        struct request r = harness_request(90 + i, high_ids[i], by_blocks ? 200 : 30, 40);
        r.priority = PRIORITY_HIGH;
        high[i] = harness_submit(e, &r);
    }
    for (uint32_t i = 0; i < 4; i++) { /* they end while none of the low ones is read: these are not what they wait for */
        struct harness_answer *a = harness_finish(high[i]);
        harness_expect_same(high_alone[i], a, 1);
        free(a);
        free(high_alone[i]);
    }
    struct engine_stats st;
    engine_stats(e, &st);
    ck_assert_uint_ge(st.n_preempted, 1);
    ck_assert_uint_le(st.n_preempted, 2 * (N_LOW + 1));
    for (uint32_t i = 0; i < N_LOW; i++) {
        struct harness_answer *a = harness_finish(low[i]);
        harness_expect_same(alone[i], a, i == 2 ? 2 : 1);
        free(a);
        free(alone[i]);
    }
    harness_await(e, harness_idle);
    engine_close(e);
}

START_TEST(test_preempted_for_a_slot)
{
    interrupt((struct engine_options){.max_sequences = N_LOW + 1, .n_threads = 1}, false);
}
END_TEST

START_TEST(test_preempted_without_prefix_cache)
{
    interrupt((struct engine_options){.max_sequences = N_LOW + 1, .n_threads = 2, .no_prefix_cache = true, .max_batch_tokens = 24},
              false);
}
END_TEST

static size_t bytes_of_blocks(size_t n)
{
    struct engine *probe = harness_open((struct engine_options){0});
    size_t block_bytes = engine_model(probe)->kv_bytes / engine_model(probe)->n_kv_blocks;
    engine_close(probe);
    return n * block_bytes;
}

/* The low ones take 11 + 12 + 13 + 13 + 14 blocks. */
START_TEST(test_preempted_for_blocks)
{
    interrupt((struct engine_options){.max_sequences = 30, .kv_cache_bytes = bytes_of_blocks(66), .n_threads = 1}, true);
}
END_TEST

static bool is_preempted(const struct engine_stats *st)
{
    return st->n_preempted == 1 && st->n_waiting == 1;
}

/* Cancel, deadline and drain reach a preempted request; it holds nothing then. */
START_TEST(test_ends_of_a_preempted_one)
{
    uint32_t ids[20];
    struct engine *e = harness_open((struct engine_options){.max_sequences = 1, .n_threads = 1});
    struct request r = harness_request(3, ids, 20, 480);
    r.ignore_eos = true;
    for (int how = 0; how < 3; how++) {
        struct engine_stats before;
        r.priority = PRIORITY_LOW;
        r.deadline_ns = CLOCK_NEVER;
        struct stream *low = harness_submit(e, &r);
        harness_await(e, one_is_paused);
        engine_stats(e, &before);
        struct request h = harness_request(1, hog_ids, 8, 480);
        h.ignore_eos = true;
        h.priority = PRIORITY_HIGH;
        struct stream *high = harness_submit(e, &h);
        harness_await(e, is_preempted);
        if (how == 0)
            stream_cancel(low);
        if (how == 1)
            stream_close(low);
        if (how == 2)
            engine_drain(e, clock_now_ns());
        if (how != 1) {
            struct harness_answer *a = harness_finish(low);
            ck_assert_int_eq(a->finish, how == 0 ? FINISH_CANCELLED : FINISH_ERROR);
            ck_assert_uint_ge(a->choices[0].n_tokens, 200);
            free(a);
        }
        stream_close(high);
        harness_await(e, harness_idle);
        if (how == 2)
            break;
        engine_close(e);
        e = harness_open((struct engine_options){.max_sequences = 1, .n_threads = 1});
    }
    engine_close(e);
}
END_TEST

/* The same sequence gives way twice and no more; a third request of high priority waits. */
START_TEST(test_at_most_twice)
{
    uint32_t ids[20];
    struct engine *e = harness_open((struct engine_options){.max_sequences = 1, .n_threads = 1});
    struct request r = harness_request(3, ids, 20, 480);
    r.ignore_eos = true;
    struct harness_answer *alone = harness_finish(harness_submit(e, &r));
    struct harness_answer *a = calloc(1, sizeof *a);
    r.priority = PRIORITY_LOW;
    struct stream *low = harness_submit(e, &r);
    for (uint32_t i = 0; i < 3; i++) {
        for (uint32_t n = a->choices[0].n_tokens; a->choices[0].n_tokens < n + 50;) /* it runs */
            ck_assert(harness_read(low, 10, a));
        struct request h = harness_request(4, hog_ids, 8, 3);
        h.priority = PRIORITY_HIGH;
        struct stream *high = harness_submit(e, &h);
        if (i < 2) {
            free(harness_finish(high));
            continue;
        }
        while (harness_read(low, 0, a))
            ;
        stream_close(low);
        free(harness_finish(high));
    }
    struct engine_stats st;
    engine_stats(e, &st);
    ck_assert_uint_eq(st.n_preempted, 2);
    harness_expect_same(alone, a, 1);
    free(a);
    free(alone);
    engine_close(e);
}
END_TEST

/* ---- everything at once ------------------------------------------------------------------------------------------ */

#define N_KINDS 24
#define N_LOAD_THREADS 3
#define N_EACH 70

struct load {
    struct engine *e;
    struct harness_answer **alone;
    unsigned random;
    size_t n_whole, n_refused, n_ended;
};

static struct request kind(uint32_t i, uint32_t *ids)
{
    struct request r = harness_request(200 + i % 7, ids, 1 + i * 23 % 150, 1 + i * 31 % 90); /* some begin alike */
    r.sampling.temperature = i % 2 ? 1 : 0;
    r.ignore_eos = i % 3 > 0;
    r.n = i % 5 == 4 ? 2 : 1;
    r.logprobs = i % 2;
    return r;
}

/* The finish of all is that of choice 0; another may have been cut off. */
static bool is_whole(const struct harness_answer *a, uint32_t n_choices)
{
    bool whole = true;
    for (uint32_t c = 0; c < n_choices; c++)
        whole &= a->choices[c].finish == FINISH_STOP || a->choices[c].finish == FINISH_LENGTH;
    return whole;
}

/* Up to eight at once; some are cancelled, some have a deadline that is short. */
static void *put_load(void *arg)
{
    static const char *const clients[] = {NULL, "a", "b", "c"};
    struct load *l = arg;
    struct stream *streams[8] = {NULL};
    uint32_t kinds[8], ids[160];
    for (int n = 0; n < N_EACH + 8; n++) {
        int at = n % 8;
        if (streams[at] && rand_r(&l->random) % 8 == 0)
            stream_cancel(streams[at]);
        if (streams[at]) {
            struct harness_answer *a = harness_finish(streams[at]);
            uint32_t n_choices = kinds[at] % 5 == 4 ? 2 : 1;
            ck_assert_int_ne(a->finish, FINISH_ERROR);
            if (is_whole(a, n_choices)) {
                harness_expect_same(l->alone[kinds[at]], a, n_choices);
                l->n_whole++;
            } else {
                l->n_ended++;
            }
            free(a);
            streams[at] = NULL;
        }
        if (n >= N_EACH)
            continue;
        struct error err = {0};
        struct request r = kind(kinds[at] = (uint32_t)rand_r(&l->random) % N_KINDS, ids);
        r.priority = (enum priority)(rand_r(&l->random) % 3);
        r.client_id = clients[rand_r(&l->random) % 4];
        if (rand_r(&l->random) % 6 == 0)
            r.deadline_ns = clock_now_ns() + rand_r(&l->random) % 40 * CLOCK_NS_PER_MS;
        if (engine_submit(l->e, &r, &streams[at], &err)) {
            ck_assert_msg(err.code == ERROR_SERVICE_UNAVAILABLE && err.reason && err.retry_after_ms > 0, "%s", err.message);
            streams[at] = NULL;
            l->n_refused++;
        }
    }
    return NULL;
}

/* Few slots, few blocks, short bounds, and requests of all kinds: who gets to its end has its own answer, and in the end nothing is held. */
START_TEST(test_random_load)
{
    static uint32_t ids[160];
    struct harness_answer *alone[N_KINDS];
    struct load loads[N_LOAD_THREADS];
    pthread_t threads[N_LOAD_THREADS];
    struct engine_stats st;
    size_t n_whole = 0, n_refused = 0, n_ended = 0;
    struct engine *e = harness_open((struct engine_options){.n_threads = 1});
    for (uint32_t i = 0; i < N_KINDS; i++) {
        struct request r = kind(i, ids);
        alone[i] = harness_finish(harness_submit(e, &r));
    }
    engine_close(e);
    e = harness_open((struct engine_options){.n_threads = 1,
                                             .max_sequences = 5,
                                             .kv_cache_bytes = bytes_of_blocks(20),
                                             .max_batch_tokens = 48,
                                             .queue_limit = 22,
                                             .queue_tokens = 2500});
    for (unsigned i = 0; i < N_LOAD_THREADS; i++) {
        loads[i] = (struct load){.e = e, .alone = alone, .random = 31 * i + 1};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, put_load, &loads[i]), 0);
    }
    for (unsigned i = 0; i < N_LOAD_THREADS; i++) {
        pthread_join(threads[i], NULL);
        n_whole += loads[i].n_whole;
        n_refused += loads[i].n_refused;
        n_ended += loads[i].n_ended;
    }
    harness_await(e, harness_idle);
    engine_stats(e, &st);
    ck_assert_uint_eq(st.n_waiting_tokens, 0);
    ck_assert_uint_eq(st.n_requests, n_whole + n_ended);
    ck_assert_uint_eq(st.n_rejected, n_refused);
    ck_assert_uint_eq(n_whole + n_ended + n_refused, N_LOAD_THREADS * N_EACH);
    ck_assert_uint_gt(st.n_preempted, 0);
    ck_assert_uint_gt(n_whole, 30);
    engine_close(e);
    for (uint32_t i = 0; i < N_KINDS; i++)
        free(alone[i]);
}
END_TEST

SUITE("engine_admission", test_refused_before_tokenising, test_full_queue_is_said_before_tokenising, test_who_waited_too_long_is_handed_back, test_clients_take_turns,
      test_preempted_for_a_slot, test_preempted_without_prefix_cache, test_preempted_for_blocks, test_ends_of_a_preempted_one,
      test_at_most_twice, test_random_load)
