/* Whole levels over gRPC against a server of our own: loops, behaviours, refusals, planted faults, an end by the user. */
#include "tests/suite.h"
#include "tests/unit/load/server.h"

#include "base/clock.h"
#include "tools/load_run.h"

#include <event2/thread.h>
#include <sys/eventfd.h>
#include <unistd.h>

static struct fake fake;
static struct load_config config;
static struct load_plan plan;
static struct load_run run;
static struct load_trace trace;
static bool interrupted;

static void prepare(void)
{
    evthread_use_pthreads();
    rpc_init();
    if (fake.tokens_a_message == 0)
        fake.tokens_a_message = 1;
    fake_open(&fake);
    config = (struct load_config){.requests = 40,
                                  .threads = 2,
                                  .channels = 2,
                                  .max_in_flight = 10000,
                                  .retry_ms = -1,
                                  .prompt_tokens = 3,
                                  .prompts = 4,
                                  .vocab = 1000,
                                  .max_tokens = 20,
                                  .drain_s = 5,
                                  .cancel_after = 5,
                                  .slow_ms = 1,
                                  .dead_ms = 30,
                                  .deadline_ms = 50};
    plan = (struct load_plan){.config = &config};
    snprintf(plan.target, sizeof plan.target, "%s", fake.target);
    run = (struct load_run){.plan = &plan, .level = 5, .transport = &load_grpc, .n_requests = 40, .n_clients = 5};
    run.verify = load_verify_open(100);
}

static struct load_stats *measure(int stop_fd)
{
    struct error err = {0};
    interrupted = false;
    ck_assert_msg(load_run_level(&run, stop_fd, &interrupted, &err), "%s", err.message);
    load_run_free(&run);
    return &run.stats;
}

static void finish(void)
{
    load_verify_close(run.verify);
    fake_close(&fake);
    rpc_fini();
}

START_TEST(closed_loop)
{
    fake.tokens_a_message = 3;
    prepare();
    struct load_stats *s = measure(-1);
    ck_assert(s->n_ended[LOAD_COMPLETED] == 40 && load_stats_n_ended(s) == 40);
    ck_assert_int_eq(atomic_load(&fake.n_requests), 40);
    ck_assert_int_le(atomic_load(&fake.max_running), 5);
    ck_assert(s->n_tokens == 40 * 20 && s->n_messages == 40 * 7); /* 20 tokens by threes */
    ck_assert(s->ttft.n == 40 && s->end_to_end.n == 40 && s->per_message.n == 40 * 6 && s->per_token.n == 40 * 17);
    ck_assert(s->n_prompts == 40 && s->n_prompt_tokens == 40 * 3);
    ck_assert(s->n_verified == 36 && s->n_mismatched == 0);
    ck_assert(s->n_completed == 40 && s->n_good == 40 && s->n_good_tokens == 800);
    ck_assert(s->bytes_in > 0 && s->bytes_out > 0 && s->n_faults == 0 && run.seconds > 0);
    finish();
}
END_TEST

START_TEST(open_loop)
{
    prepare();
    plan.mode = LOAD_POISSON;
    run.n_clients = 0;
    run.n_requests = 0;
    run.level = 400;
    config.duration_s = 0.5;
    struct load_stats *s = measure(-1);
    ck_assert_uint_eq(s->n_ended[LOAD_COMPLETED], load_stats_n_ended(s));
    ck_assert(load_stats_n_ended(s) > 130 && load_stats_n_ended(s) < 270); /* 200 +- 5 standard deviations */
    uint64_t n = load_stats_n_ended(s);
    memset(&run.stats, 0, sizeof run.stats); /* arrivals are sent however late: the same plan sends as many */
    atomic_store(&run.n_sent, 0);
    ck_assert_uint_eq(load_stats_n_ended(measure(-1)), n);
    finish();
}
END_TEST

START_TEST(a_trace)
{
    static struct load_arrival arrivals[] = {{0, 1, 5}, {0.01, 2, 6}, {0.02, 3, 7}};
    prepare();
    trace = (struct load_trace){arrivals, 3};
    plan.trace = trace;
    plan.mode = LOAD_TRACE;
    run.n_clients = 0;
    run.n_requests = 3;
    run.level = 2;
    struct load_stats *s = measure(-1);
    ck_assert(s->n_ended[LOAD_COMPLETED] == 3 && s->n_tokens == 5 + 6 + 7 && s->n_prompt_tokens == 6);
    finish();
}
END_TEST

START_TEST(too_many_in_flight)
{
    fake.silent = true;
    prepare();
    plan.mode = LOAD_POISSON;
    run.n_clients = 0;
    run.n_requests = 10;
    run.level = 1000;
    config.max_in_flight = 4;
    config.threads = 1;
    config.duration_s = 0.5;
    config.drain_s = 0;
    struct load_stats *s = measure(-1);
    ck_assert_uint_eq(s->n_ended[LOAD_FAILED], 10);
    ck_assert(s->n_faults == 2 && s->faults[0].n + s->faults[1].n == 10);
    ck_assert_str_eq(s->faults[0].kind, "client: --max-in-flight reached");
    ck_assert(s->faults[0].n == 6 && s->faults[1].n == 4); /* the others were cancelled at the end */
    finish();
}
END_TEST

START_TEST(refusals_wait_as_told)
{
    fake.refuse_every = 4;
    fake.retry_ms = 60;
    prepare();
    run.n_clients = 1;
    run.n_requests = 8;
    int64_t began_ns = clock_now_ns();
    struct load_stats *s = measure(-1);
    ck_assert(s->n_ended[LOAD_COMPLETED] == 6 && s->n_ended[LOAD_REFUSED] == 2 && s->n_retry_told == 2 &&
              s->refusal.n == 2);
    ck_assert_str_eq(s->faults[0].kind, "RESOURCE_EXHAUSTED");
    ck_assert_int_ge(clock_now_ns() - began_ns,
                     60 * CLOCK_NS_PER_MS); /* after the first; nothing came after the second */
    finish();
}
END_TEST

START_TEST(behaviours)
{
    prepare();
    config.cancel_share = 0.3;
    config.slow_share = 0.3;
    config.dead_share = 0.2;
    struct load_stats *s = measure(-1);
    int planned[5] = {0};
    for (uint64_t i = 0; i < 40; i++) {
        struct load_spec spec;
        load_plan_spec(&plan, 0, i, &spec);
        planned[spec.behaviour]++;
    }
    ck_assert(planned[LOAD_CANCELS] > 4 && planned[LOAD_DEAD] > 2 && planned[LOAD_SLOW] > 4);
    ck_assert(s->n_ended[LOAD_FAILED] == 0 && load_stats_n_ended(s) == 40);
    /* A short stream may have ended before the cancel got there. */
    ck_assert_uint_le(s->n_ended[LOAD_CANCELLED], (uint64_t)(planned[LOAD_CANCELS] + planned[LOAD_DEAD]));
    ck_assert_uint_ge(s->n_ended[LOAD_CANCELLED], (uint64_t)planned[LOAD_DEAD]);
    ck_assert_uint_eq(s->n_mismatched, 0);
    ck_assert_uint_eq(s->ttft.n, 40);
    finish();
}
END_TEST

/* The server says one token and no more, so that only a cancel ends it. */
START_TEST(cancels)
{
    fake.silent = true;
    prepare();
    config.cancel_share = 1;
    config.cancel_after = 1;
    struct load_stats *s = measure(-1);
    ck_assert(s->n_ended[LOAD_CANCELLED] == 40 && load_stats_n_ended(s) == 40 && s->n_tokens == 40 && s->n_faults == 0);
    finish();
    ck_assert_int_eq(atomic_load(&fake.n_cancelled), 40);
}
END_TEST

/* A planted fault of the server, and where it shows. */
static void fault(const char *kind, uint64_t n_failed, uint64_t n_mismatched)
{
    prepare();
    struct load_stats *s = measure(-1);
    ck_assert_uint_eq(s->n_ended[LOAD_FAILED], n_failed);
    ck_assert_uint_eq(s->n_mismatched, n_mismatched);
    ck_assert_msg(s->n_faults > 0 && strstr(s->faults[0].kind, kind), "%s", s->faults[0].kind);
    finish();
}

START_TEST(other_texts_are_seen)
{
    fake.differ = true;
    fault("client: another text for prompt", 0, 36);
}
END_TEST

START_TEST(lost_tokens_are_seen)
{
    fake.lose = true;
    fault("client: tokens were lost", 40, 0);
}
END_TEST

START_TEST(failures_are_seen)
{
    fake.fail = true;
    fault("INTERNAL", 40, 0);
}
END_TEST

START_TEST(ended_by_the_user)
{
    fake.silent = true;
    prepare();
    int fd = eventfd(1, EFD_CLOEXEC);
    struct load_stats *s = measure(fd);
    ck_assert(interrupted);
    ck_assert(s->n_ended[LOAD_INTERRUPTED] == load_stats_n_ended(s) && load_stats_n_ended(s) <= 5 && s->n_faults == 0);
    close(fd);
    finish();
}
END_TEST

START_TEST(nobody_there)
{
    struct error err = {0};
    prepare();
    snprintf(plan.target, sizeof plan.target, "unix:/nowhere/%d", getpid());
    ck_assert(!load_run_level(&run, -1, &interrupted, &err));
    ck_assert_int_eq(err.code, ERROR_SERVICE_UNAVAILABLE);
    load_run_free(&run);
    finish();
}
END_TEST

SUITE("load run", closed_loop, open_loop, a_trace, too_many_in_flight, refusals_wait_as_told, behaviours, cancels,
      other_texts_are_seen, lost_tokens_are_seen, failures_are_seen, ended_by_the_user, nobody_there)
