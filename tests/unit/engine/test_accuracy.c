/* Live accuracy: whose turn it is, what is compared, what a wrong token does, and that nothing waits for it. */
#include "engine/accuracy.h"

#include "tests/unit/engine/harness.h"

#include <sched.h>

#define N_PROMPT 3
#define N_ANSWER 6

/* In the place of the C library's: at the lowest priority a machine with other work would let the thread wait for minutes. */
int sched_setscheduler(pid_t pid, int policy, const struct sched_param *param)
{
    (void)pid, (void)policy, (void)param;
    return 0;
}

static struct engine_accuracy await_requests(struct engine *e, uint64_t n)
{
    struct engine_accuracy a;
    int64_t deadline_ns = clock_now_ns() + 60 * CLOCK_NS_PER_S;
    do {
        engine_accuracy(e, &a);
        if (a.n_requests >= n)
            return a;
        usleep(500);
    } while (clock_now_ns() < deadline_ns);
    ck_abort_msg("%lu of %lu requests compared, %lu dropped", (unsigned long)a.n_requests, (unsigned long)n, (unsigned long)a.n_dropped);
}

static struct harness_answer *run(struct engine *e, uint32_t seed, uint32_t n_prompt, uint32_t n_answer)
{
    uint32_t ids[HARNESS_CONTEXT];
    struct request r = harness_request(seed, ids, n_prompt, n_answer);
    return harness_finish(harness_submit(e, &r));
}

START_TEST(all_are_the_same)
{
    struct engine *e = harness_open((struct engine_options){.accuracy_share = 1, .max_sequences = 3});
    struct engine_accuracy a;
    uint64_t n_tokens = 0;
    ck_assert(!engine_accuracy(e, &a));
    ck_assert(a.recent < 0 && a.lowest < 0);
    for (uint32_t i = 0; i < 6; i++) {
        struct harness_answer *answer = run(e, i, N_PROMPT + i, 1 + 14 * i); /* the last is cut at ACCURACY_MAX_TOKENS */
        uint32_t n = answer->choices[0].n_tokens + (answer->finish == FINISH_STOP);
        n_tokens += n < ACCURACY_MAX_TOKENS ? n : ACCURACY_MAX_TOKENS;
        free(answer);
        await_requests(e, i + 1);
    }
    ck_assert(engine_accuracy(e, &a));
    ck_assert_uint_eq(a.n_requests, 6);
    ck_assert_uint_eq(a.n_compared, n_tokens);
    ck_assert_uint_eq(a.n_same, n_tokens);
    ck_assert_uint_eq(a.n_violations + a.n_dropped, 0);
    ck_assert(a.recent == 1 && a.lowest == 1 && a.threshold == 0.99 && !a.degraded);
    engine_close(e);
}
END_TEST

/* A text's end is a token that was drawn, too: with a bias that leaves nothing else, an empty answer is compared. */
START_TEST(an_empty_answer_is_compared)
{
    struct engine *e = harness_open((struct engine_options){.accuracy_share = 1});
    uint32_t ids[N_PROMPT], eog = 0;
    while (!tokenizer_is_eog(engine_tokenizer(e), eog))
        eog++;
    struct logit_bias bias = {eog, 100};
    struct request r = harness_request(1, ids, N_PROMPT, N_ANSWER);
    r.sampling.bias = &bias;
    r.sampling.n_bias = 1;
    struct harness_answer *answer = harness_finish(harness_submit(e, &r));
    ck_assert_uint_eq(answer->choices[0].n_tokens, 0);
    free(answer);
    struct engine_accuracy a = await_requests(e, 1);
    ck_assert_uint_eq(a.n_compared, 1);
    ck_assert_uint_eq(a.n_same, 1);
    engine_close(e);
}
END_TEST

START_TEST(every_fourth_has_its_turn)
{
    struct engine *e = harness_open((struct engine_options){.accuracy_share = 0.25});
    for (uint32_t i = 0; i < 9; i++) {
        free(run(e, i, N_PROMPT, 3));
        await_requests(e, 1 + i / 4);
    }
    usleep(50000); /* for one too many */
    struct engine_accuracy a = await_requests(e, 3);
    ck_assert_uint_eq(a.n_requests, 3);
    ck_assert_uint_eq(a.n_compared, 9);
    engine_close(e);
}
END_TEST

/* ---- requests made by hand, offered in the place of the loop, which has none of its own then */

static struct job *make_job(uint32_t n_prompt, uint32_t n_drawn)
{
    struct job *j = calloc(1, sizeof *j + sizeof *j->sequences);
    j->prompt = calloc(n_prompt, sizeof *j->prompt);
    j->n_prompt = n_prompt;
    j->sampling = sampling_defaults();
    j->sequences[0].generated = calloc(n_drawn + 1, sizeof *j->sequences[0].generated);
    j->sequences[0].n_drawn = n_drawn;
    return j;
}

static void free_job(struct job *j)
{
    free(j->prompt);
    free(j->sequences[0].generated);
    free(j);
}

/* One whose tokens are those that the engine gives. */
static struct job *true_job(struct engine *e)
{
    struct job *j = make_job(N_PROMPT, N_ANSWER);
    struct request r = harness_request(7, j->prompt, N_PROMPT, N_ANSWER);
    j->sampling = r.sampling;
    r.ignore_eos = true;
    struct harness_answer *answer = harness_finish(harness_submit(e, &r));
    ck_assert_uint_eq(answer->choices[0].n_tokens, N_ANSWER);
    memcpy(j->sequences[0].generated, answer->choices[0].ids, N_ANSWER * sizeof(uint32_t));
    free(answer);
    return j;
}

static struct engine_accuracy await(struct accuracy *a, uint64_t n)
{
    struct engine_accuracy found;
    for (int i = 0; i < 60000; i++, usleep(1000)) {
        accuracy_read(a, &found);
        if (found.n_requests + found.n_dropped >= n)
            return found;
    }
    ck_abort_msg("%lu of %lu requests compared", (unsigned long)found.n_requests, (unsigned long)n);
}

START_TEST(a_wrong_token_degrades_for_a_while)
{
    struct engine *e = harness_open((struct engine_options){0});
    struct job *j = true_job(e);
    uint32_t *last = &j->sequences[0].generated[N_ANSWER - 1];
    struct accuracy *a;
    struct error err = {0};
    ck_assert(!accuracy_open(e, 1, 0.9, false, &a, &err));
    accuracy_offer(a, j);
    struct engine_accuracy f = await(a, 1);
    ck_assert(f.recent == 1 && !f.degraded && f.n_violations == 0);
    *last ^= 1;
    accuracy_offer(a, j);
    f = await(a, 2);
    ck_assert_uint_eq(f.n_compared - f.n_same, 1);
    ck_assert_uint_eq(f.n_violations, 1);
    ck_assert(f.lowest == 5.0 / 6);
    ck_assert_msg(f.recent == 11.0 / 12 && !f.degraded, "%g", f.recent);
    accuracy_offer(a, j);
    f = await(a, 3);
    ck_assert_msg(f.recent == 16.0 / 18 && f.degraded, "%g", f.recent);
    *last ^= 1;
    for (uint64_t n = 4; n <= ACCURACY_WINDOW + 3; n++) {
        accuracy_offer(a, j);
        f = await(a, n);
    }
    ck_assert(f.recent == 1 && !f.degraded && f.n_violations == 2 && f.lowest == 5.0 / 6);
    accuracy_close(a);
    free_job(j);
    engine_close(e);
}
END_TEST

START_TEST(what_cannot_be_compared_leaves_its_turn)
{
    struct engine *e = harness_open((struct engine_options){0});
    struct job *good = true_job(e), *empty = make_job(N_PROMPT, 0), *is_long = make_job(ACCURACY_MAX_PROMPT + 1, 1),
               *formal = make_job(N_PROMPT, 1);
    static char any; /* a grammar is not looked into */
    struct accuracy *a;
    struct error err = {0};
    formal->grammar = (struct grammar *)(void *)&any;
    ck_assert(!accuracy_open(e, 0.5, 0, false, &a, &err));
    for (uint64_t n = 1; n <= 3; n++) {
        accuracy_offer(a, empty);
        accuracy_offer(a, is_long);
        accuracy_offer(a, formal);
        accuracy_offer(a, good); /* compared */
        struct engine_accuracy f = await(a, n);
        ck_assert_uint_eq(f.n_compared, n * N_ANSWER);
        ck_assert_uint_eq(f.n_same, n * N_ANSWER);
        accuracy_offer(a, good); /* passes */
    }
    accuracy_close(a);
    free_job(good), free_job(empty), free_job(is_long), free_job(formal);
    engine_close(e);
}
END_TEST

START_TEST(too_many_are_dropped)
{
    struct engine *e = harness_open((struct engine_options){0});
    struct job *j = true_job(e);
    struct accuracy *a;
    struct error err = {0};
    ck_assert(!accuracy_open(e, 1, 0, false, &a, &err));
    for (int i = 0; i < 100; i++)
        accuracy_offer(a, j);
    struct engine_accuracy f = await(a, 100);
    ck_assert_uint_gt(f.n_dropped, 0);
    ck_assert_uint_eq(f.n_dropped + f.n_requests, 100);
    ck_assert_uint_eq(f.n_same, f.n_requests * N_ANSWER);
    for (int i = 0; i < 4; i++)
        accuracy_offer(a, j);
    accuracy_close(a); /* in the middle */
    accuracy_close(NULL);
    free_job(j);
    engine_close(e);
}
END_TEST

START_TEST(options)
{
    const struct null_options null = {0};
    struct engine_options o = {.model_path = harness_model(), .device = "cpu", .i2s_order = -1, .accuracy_share = 1.5};
    struct engine_accuracy a;
    struct engine *e;
    struct error err = {0};
    ck_assert_int_eq(engine_open(&o, &e, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "accuracy_share");
    o.accuracy_share = 0.5;
    o.accuracy_threshold = -1;
    ck_assert_int_eq(engine_open(&o, &e, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "accuracy_threshold");
    e = harness_open((struct engine_options){.accuracy_share = 1, .null_model = &null}); /* computes nothing that could be compared */
    for (uint32_t i = 0; i < 10; i++)
        free(run(e, i, N_PROMPT, 3));
    ck_assert(!engine_accuracy(e, &a));
    ck_assert_uint_eq(a.n_requests, 0);
    engine_close(e);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("accuracy");
    TCase *tcase = tcase_create("accuracy");
    tcase_add_test(tcase, all_are_the_same);
    tcase_add_test(tcase, an_empty_answer_is_compared);
    tcase_add_test(tcase, every_fourth_has_its_turn);
    tcase_add_test(tcase, a_wrong_token_degrades_for_a_while);
    tcase_add_test(tcase, what_cannot_be_compared_leaves_its_turn);
    tcase_add_test(tcase, too_many_are_dropped);
    tcase_add_test(tcase, options);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
