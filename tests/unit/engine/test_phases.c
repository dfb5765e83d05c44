/* Whatever ends a request, in whatever phase: its sequence is free by the next step. The null model's steps are as long as a phase needs to be met. */
#include "tests/suite.h"
#include "tests/unit/engine/harness.h"

#include <stdatomic.h>

#define STEP_NS (2 * CLOCK_NS_PER_MS)
#define SOON_NS (5 * CLOCK_NS_PER_S) /* what a loaded machine may add; what hangs takes for ever */

static uint32_t hog_ids[8], ids[400];

static bool queued(const struct engine_stats *st)
{
    return st->n_waiting == 1 && st->n_running == 1;
}
static bool prefilling(const struct engine_stats *st)
{
    return st->n_step_rows >= 8 && st->n_generated_tokens == 0;
}
static bool decoding(const struct engine_stats *st)
{
    return st->n_generated_tokens >= 3;
}
static bool paused(const struct engine_stats *st)
{
    return st->n_generated_tokens >= 256 && st->batch_size == 0;
}
static bool hog_alone(const struct engine_stats *st)
{
    return st->n_running == 1 && st->n_waiting == 0;
}

static const struct phase {
    const char *name;
    bool (*reached)(const struct engine_stats *st), (*freed)(const struct engine_stats *st);
    bool behind_another; /* which has the only slot */
    uint32_t n_prompt;
    int64_t deadline_ms; /* that comes in the middle of it */
} phases[] = {
    {"queued", queued, hog_alone, true, 20, 100},
    {"prefilling", prefilling, harness_idle, false, 400, 90},
    {"decoding", decoding, harness_idle, false, 8, 200},
    {"paused", paused, harness_idle, false, 8, 2500},
};
enum { BY_CANCEL, BY_DISCONNECT, BY_DEADLINE, N_CAUSES };
static const char *const causes[] = {"cancel", "disconnect", "deadline"};

static struct engine *open_null(int64_t stall_timeout_ns)
{
    static const struct null_options null = {.step_ns = STEP_NS};
    return harness_open((struct engine_options){.model_path = "models/tales.gguf",
                                                .null_model = &null,
                                                .max_sequences = 1,
                                                .max_batch_tokens = 4,
                                                .stall_timeout_ns = stall_timeout_ns});
}

static void end_by(struct engine *e, const struct phase *p, int cause)
{
    struct request hog_request = harness_request(1, hog_ids, 8, 480), r = harness_request(2, ids, p->n_prompt, 480);
    struct stream *hog = p->behind_another ? harness_submit(e, &hog_request) : NULL;
    struct engine_stats before, after;
    if (hog)
        harness_await(e, hog_alone);
    if (cause == BY_DEADLINE)
        r.deadline_ns = clock_now_ns() + p->deadline_ms * CLOCK_NS_PER_MS;
    struct stream *s = harness_submit(e, &r);
    harness_await(e, p->reached);
    engine_stats(e, &before);
    int64_t start_ns = cause == BY_DEADLINE ? r.deadline_ns : clock_now_ns();
    if (cause == BY_CANCEL)
        stream_cancel(s);
    if (cause == BY_DISCONNECT)
        stream_close(s);
    harness_await(e, p->freed);
    engine_stats(e, &after);
    ck_assert_msg(clock_now_ns() - start_ns < SOON_NS, "%s, %s: late", p->name, causes[cause]);
    if (cause != BY_DEADLINE && !hog) /* the one that had begun, and one if it was planned already */
        ck_assert_msg(after.n_steps - before.n_steps <= 1, "%s, %s: %lu steps", p->name, causes[cause],
                      (unsigned long)(after.n_steps - before.n_steps));
    ck_assert_uint_eq(cause == BY_DEADLINE ? after.n_deadline : after.n_cancelled, 1);
    if (cause != BY_DISCONNECT) {
        struct harness_answer *a = harness_finish(s);
        ck_assert_int_eq(a->finish, cause == BY_DEADLINE ? FINISH_DEADLINE : FINISH_CANCELLED);
        free(a);
    }
    if (hog)
        stream_close(hog);
    harness_await(e, harness_idle);
}

START_TEST(test_every_end_in_every_phase)
{
    for (size_t p = 0; p < sizeof phases / sizeof *phases; p++)
        for (int cause = 0; cause < N_CAUSES; cause++) {
            struct engine *e = open_null(0);
            end_by(e, &phases[p], cause);
            engine_close(e);
        }
}
END_TEST

static bool one_stalled(const struct engine_stats *st)
{
    return st->n_stalled == 1;
}

static atomic_int n_ready;

static void count_ready(void *user)
{
    (void)user;
    atomic_fetch_add(&n_ready, 1);
}

/* What was not read stays readable, the end says why, and the sequence is free meanwhile. */
START_TEST(test_stalled_reader)
{
    struct engine *e = open_null(150 * CLOCK_NS_PER_MS);
    struct request r = harness_request(1, hog_ids, 8, 480);
    struct engine_stats st;
    r.on_ready = count_ready;
    struct stream *s = harness_submit(e, &r);
    harness_await(e, paused);
    ck_assert(!stream_stalled(s));
    int n_before = atomic_load(&n_ready);
    harness_await(e, one_stalled);
    harness_await(e, harness_idle);
    struct harness_answer *a = calloc(1, sizeof *a);
    while (!stream_stalled(s) || atomic_load(&n_ready) == n_before)
        usleep(500);
    while (harness_read(s, 0, a))
        ;
    stream_close(s);
    ck_assert_int_eq(a->finish, FINISH_ERROR);
    ck_assert_int_eq(a->error.code, ERROR_READER_STALLED);
    ck_assert_uint_ge(a->choices[0].n_tokens, 256);
    engine_stats(e, &st);
    ck_assert_uint_eq(st.n_failed, 1);
    free(a);
    engine_close(e);
}
END_TEST

/* Slow is not stalled: it is only the time in which nothing at all is taken that counts. */
START_TEST(test_slow_reader_goes_on)
{
    struct engine *e = open_null(300 * CLOCK_NS_PER_MS);
    struct request r = harness_request(1, hog_ids, 8, 280);
    struct stream *s = harness_submit(e, &r);
    struct harness_answer *a = calloc(1, sizeof *a);
    harness_await(e, paused);
    for (int i = 0; i < 8; i++) {
        usleep(60000);
        harness_read(s, 1, a);
    }
    while (harness_read(s, 0, a))
        ;
    stream_close(s);
    ck_assert_int_eq(a->finish, FINISH_LENGTH);
    ck_assert_uint_eq(a->choices[0].n_tokens, 280);
    free(a);
    engine_close(e);
}
END_TEST

SUITE("phases", test_every_end_in_every_phase, test_stalled_reader, test_slow_reader_goes_on)
