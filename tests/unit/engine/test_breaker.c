/* The circuit breaker's states, and an engine whose device fails. */
#include "tests/suite.h"
#include "tests/unit/engine/harness.h"

#include "engine/breaker.h"

#include <stdatomic.h>

#define S CLOCK_NS_PER_S
#define MS CLOCK_NS_PER_MS

/* Each step at its time: what happens ('f' a failure, 's' a success, 'a' a request), and what then is: the state, for a request whether it was
 * let through, and else how long it is to wait. */
static const struct scene {
    int64_t at_ns;
    char what;
    enum breaker_state state;
    bool admitted;
    int64_t wait_ns;
} scenes[] = {
    {0, 'a', BREAKER_CLOSED, true, 0},
    {1, 'f', BREAKER_CLOSED, false, 0},
    {2, 'f', BREAKER_CLOSED, false, 0},
    {3, 's', BREAKER_CLOSED, false, 0}, /* not in a row */
    {4, 'f', BREAKER_CLOSED, false, 0},
    {5, 'f', BREAKER_CLOSED, false, 0},
    {10 * S, 'f', BREAKER_OPEN, false, 0},
    {10 * S, 'a', BREAKER_OPEN, false, 1 * S},
    {10 * S + 400 * MS, 'f', BREAKER_OPEN, false, 0}, /* a straggler */
    {10 * S + 500 * MS, 'a', BREAKER_OPEN, false, 500 * MS},
    {11 * S, 'a', BREAKER_HALF_OPEN, true, 0},
    {11 * S + 1, 'a', BREAKER_HALF_OPEN, false, 1 * S - 1},
    {11 * S + 100 * MS, 'f', BREAKER_OPEN, false, 0},
    {11 * S + 100 * MS, 'a', BREAKER_OPEN, false, 2 * S},
    {14 * S, 'a', BREAKER_HALF_OPEN, true, 0},
    {15 * S, 'a', BREAKER_HALF_OPEN, false, 1 * S},
    {16 * S, 'a', BREAKER_HALF_OPEN, true, 0}, /* the probe was never heard of */
    {16 * S, 'f', BREAKER_OPEN, false, 0},
    {20 * S, 'a', BREAKER_HALF_OPEN, true, 0},
    {20 * S, 'f', BREAKER_OPEN, false, 0},
    {28 * S, 'a', BREAKER_HALF_OPEN, true, 0},
    {28 * S, 'f', BREAKER_OPEN, false, 0},
    {44 * S, 'a', BREAKER_HALF_OPEN, true, 0},
    {44 * S, 'f', BREAKER_OPEN, false, 0},
    {44 * S, 'a', BREAKER_OPEN, false, 30 * S}, /* no longer than that */
    {74 * S, 'a', BREAKER_HALF_OPEN, true, 0},
    {74 * S, 's', BREAKER_CLOSED, false, 0},
    {74 * S, 'f', BREAKER_CLOSED, false, 0},
    {74 * S, 'f', BREAKER_CLOSED, false, 0},
    {74 * S, 'f', BREAKER_OPEN, false, 0},
    {74 * S, 'a', BREAKER_OPEN, false, 1 * S}, /* begins anew */
};

START_TEST(test_states)
{
    struct breaker b = {0};
    for (size_t i = 0; i < sizeof scenes / sizeof *scenes; i++) {
        const struct scene *s = &scenes[i];
        int64_t wait_ns = 0;
        bool admitted = false;
        if (s->what == 'a')
            admitted = breaker_admit(&b, s->at_ns, &wait_ns);
        else if (s->what == 'f')
            breaker_failed(&b, s->at_ns);
        else
            breaker_succeeded(&b);
        ck_assert_msg(breaker_state(&b, s->at_ns) == s->state && admitted == s->admitted && wait_ns == s->wait_ns,
                      "%zu: state %d, admitted %d, wait %ld ms", i, breaker_state(&b, s->at_ns), admitted, (long)(wait_ns / MS));
    }
}
END_TEST

static atomic_bool failing;

static bool fails(void *user)
{
    (void)user;
    return atomic_load(&failing);
}

static bool one_waits(const struct engine_stats *st)
{
    return st->n_waiting == 1;
}

static void expect_failure(struct engine *e, struct request *r)
{
    struct harness_answer *a = harness_finish(harness_submit(e, r));
    ck_assert_int_eq(a->finish, FINISH_ERROR);
    ck_assert_int_eq(a->error.code, ERROR_INFERENCE_FAILED);
    free(a);
}

START_TEST(test_failing_device)
{
    const struct null_options null = {.step_ns = 50 * MS, .fails = fails};
    struct engine *e = harness_open((struct engine_options){.model_path = "models/tales.gguf", .null_model = &null, .max_sequences = 1});
    uint32_t ids[8];
    struct request r = harness_request(1, ids, 8, 3);
    struct engine_stats st;
    struct error err = {0};
    struct stream *s;
    free(harness_finish(harness_submit(e, &r)));
    atomic_store(&failing, true);
    expect_failure(e, &r);
    expect_failure(e, &r);
    engine_stats(e, &st);
    ck_assert_int_eq(st.breaker, BREAKER_CLOSED);
    struct stream *third = harness_submit(e, &r), *waiting = harness_submit(e, &r); /* which was admitted before it opened */
    harness_await(e, one_waits);
    struct harness_answer *a = harness_finish(third), *b = harness_finish(waiting);
    ck_assert_int_eq(a->error.code, ERROR_INFERENCE_FAILED);
    ck_assert_int_eq(b->error.code, ERROR_DEVICE_UNAVAILABLE);
    ck_assert_int_gt(b->error.retry_after_ms, 0);
    free(a);
    free(b);
    int64_t start_ns = clock_now_ns();
    ck_assert_int_eq(engine_submit(e, &r, &s, &err), ERROR_DEVICE_UNAVAILABLE);
    ck_assert_int_lt(clock_now_ns() - start_ns, 20 * MS);
    ck_assert_int_gt(err.retry_after_ms, 0);
    ck_assert_int_le(err.retry_after_ms, 1000);
    engine_stats(e, &st);
    ck_assert_int_eq(st.breaker, BREAKER_OPEN);
    ck_assert_uint_eq(st.n_device_failures, 3);
    ck_assert(harness_idle(&st));
    usleep(1050000);
    engine_stats(e, &st);
    ck_assert_int_eq(st.breaker, BREAKER_HALF_OPEN);
    expect_failure(e, &r); /* the probe */
    ck_assert_int_eq(engine_submit(e, &r, &s, &err), ERROR_DEVICE_UNAVAILABLE);
    ck_assert_int_gt(err.retry_after_ms, 1000);
    usleep(2050000);
    atomic_store(&failing, false);
    s = harness_submit(e, &r);
    ck_assert_int_eq(engine_submit(e, &r, &third, &err), ERROR_DEVICE_UNAVAILABLE); /* one alone */
    a = harness_finish(s);
    ck_assert_int_eq(a->finish, FINISH_LENGTH);
    free(a);
    a = harness_finish(harness_submit(e, &r));
    ck_assert_int_eq(a->finish, FINISH_LENGTH);
    free(a);
    engine_close(e);
}
END_TEST

SUITE("breaker", test_states, test_failing_device)
