/*
 * Calls over several engines: which failures go to another engine and which do not, hedging, health, and what travels with a
 * call.
 */
#include "tests/suite.h"
#include "tests/unit/gateway/fakes.h"

enum { CANCELLED = 1, INVALID = 3, DEADLINE = 4, NOT_FOUND = 5, EXHAUSTED = 8, INTERNAL = 13, UNAVAILABLE = 14 };

/* ---- which failures are tried again ---- */

static const struct {
    int code;
    const char *reason;
    int n_calls; /* in all, of at most three */
} failures[] = {
    {UNAVAILABLE, NULL, 3},
    {UNAVAILABLE, "SERVICE_UNAVAILABLE", 3},
    {CANCELLED, NULL, 3},
    {EXHAUSTED, "SERVICE_UNAVAILABLE", 2},
    {EXHAUSTED, "RATE_LIMIT_EXCEEDED", 1},
    {EXHAUSTED, NULL, 1},
    {INVALID, "VALIDATION_FAILED", 1},
    {NOT_FOUND, "MODEL_NOT_FOUND", 1},
    {INTERNAL, NULL, 1},
    {DEADLINE, NULL, 1},
};

START_TEST(failures_that_another_engine_may_not_have)
{
    struct answer a;
    setup(true);
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == N_FAKES);
    for (size_t i = 0; i < sizeof failures / sizeof *failures; i++) {
        for (int k = 0; k < N_FAKES; k++) {
            fakes[k].code = failures[i].code;
            fakes[k].reason = failures[i].reason;
        }
        int before = calls(), first = atomic_load(&fakes[0].n_calls);
        ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
        TURN_UNTIL(a.code >= 0);
        ck_assert_int_eq(a.code, failures[i].code);
        ck_assert_msg(calls() - before == failures[i].n_calls, "case %zu: %d calls", i, calls() - before);
        if (failures[i].n_calls == 2) /* one other engine, not the same one */
            ck_assert_int_le(atomic_load(&fakes[0].n_calls) - first, 1);
    }
    teardown();
}
END_TEST

START_TEST(another_engine_answers)
{
    struct answer a;
    setup(true);
    fakes[0].code = UNAVAILABLE;
    fakes[1].speaks_first = fakes[2].speaks_first = true;
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == N_FAKES);
    for (int i = 0; i < 6; i++) {
        ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
        TURN_UNTIL(a.code >= 0);
        ck_assert_int_eq(a.code, 0);
        ck_assert_int_eq(a.n_messages, 1);
    }
    ck_assert_int_eq(atomic_load(&fakes[0].n_calls), 2); /* its share of first attempts */
    ck_assert_int_eq((int)retries("unavailable"), 2);
    teardown();
}
END_TEST

START_TEST(all_are_tried_before_one_is_again)
{
    struct answer a;
    setup(true);
    for (int k = 0; k < N_FAKES; k++)
        fakes[k].code = UNAVAILABLE;
    config.engine_tries = N_FAKES + 1;
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == N_FAKES);
    ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
    TURN_UNTIL(a.code >= 0);
    ck_assert_int_eq(a.code, UNAVAILABLE);
    ck_assert_int_eq(calls(), N_FAKES + 1);
    for (int k = 0; k < N_FAKES; k++)
        ck_assert_int_ge(atomic_load(&fakes[k].n_calls), 1);
    teardown();
}
END_TEST

START_TEST(what_has_begun_is_not_begun_anew)
{
    struct answer a;
    setup(true);
    for (int k = 0; k < N_FAKES; k++) {
        fakes[k].code = UNAVAILABLE;
        fakes[k].speaks_first = true;
    }
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == N_FAKES);
    ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
    TURN_UNTIL(a.code >= 0);
    ck_assert_int_eq(a.code, UNAVAILABLE);
    ck_assert_int_eq(a.n_messages, 1);
    ck_assert_int_eq(calls(), 1);
    teardown();
}
END_TEST

START_TEST(tries_are_bounded)
{
    struct answer a;
    setup(true);
    fakes[0].code = fakes[1].code = fakes[2].code = UNAVAILABLE;
    config.engine_tries = 1;
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == N_FAKES);
    ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
    TURN_UNTIL(a.code >= 0);
    ck_assert_int_eq(calls(), 1);
    teardown();
}
END_TEST

START_TEST(time_is_not_exceeded_by_trying)
{
    struct answer a;
    setup(true);
    fakes[0].silent = fakes[1].silent = fakes[2].silent = true;
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == N_FAKES);
    ck_assert_int_eq(start(&a, 100, 0), ERROR_NONE);
    TURN_UNTIL(a.code >= 0);
    ck_assert_int_eq(a.code, DEADLINE);
    ck_assert_int_le(calls(), 1);
    teardown();
}
END_TEST

/* ---- hedging ---- */

START_TEST(a_silent_engine_is_hedged)
{
    struct answer a;
    setup(true);
    fakes[0].silent = true;
    fakes[1].speaks_first = fakes[2].speaks_first = true;
    config.hedge_ms = 20;
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == N_FAKES);
    for (int i = 0; i < N_FAKES; i++) { /* each engine is the first one once */
        ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
        TURN_UNTIL(a.code >= 0);
        ck_assert_int_eq(a.code, 0);
        ck_assert_int_eq(a.n_messages, 1);
    }
    ck_assert_int_ge(atomic_load(&fakes[0].n_calls), 1);
    ck_assert_int_ge((int)retries("hedge"), 1);
    teardown();
}
END_TEST

START_TEST(only_calls_that_say_so_are_hedged)
{
    struct answer a;
    setup(true);
    for (int i = 0; i < N_FAKES; i++)
        fakes[i].silent = true;
    config.hedge_ms = 1;
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == N_FAKES);
    hedged = false;
    ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
    hedged = true;
    TURN_UNTIL(calls() == 1);
    for (int i = 0; i < 50; i++)
        turn();
    ck_assert_int_eq(calls(), 1);
    engine_cancel(a.call);
    teardown();
}
END_TEST

START_TEST(the_loser_is_cancelled_at_the_first_word)
{
    struct answer a;
    setup(true);
    fakes[0].silent = true;
    fakes[1].speaks_first = fakes[2].speaks_first = true;
    fakes[1].holds = fakes[2].holds = true;
    config.hedge_ms = 20;
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == N_FAKES);
    do {
        ck_assert_int_eq(start(&a, 60000, 0), ERROR_NONE);
        TURN_UNTIL(a.n_messages == 1);
    } while (atomic_load(&fakes[0].n_calls) == 0);
    TURN_UNTIL(atomic_load(&fakes[0].n_cancelled) == 1);
    ck_assert_int_eq(a.code, -1); /* the winner's stream goes on */
    teardown();
}
END_TEST

START_TEST(a_hedge_that_fails_leaves_the_first)
{
    struct answer a;
    setup(true);
    fakes[0].silent = true;
    fakes[1].code = fakes[2].code = UNAVAILABLE;
    config.hedge_ms = 20;
    config.engine_tries = 2;
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == N_FAKES);
    do {
        ck_assert_int_eq(start(&a, 60000, 0), ERROR_NONE);
        TURN_UNTIL(a.code >= 0 || (retries("hedge") == 1 && calls() >= 2));
    } while (a.code >= 0);
    for (int i = 0; i < 50; i++)
        turn();
    ck_assert_int_eq(a.code, -1);
    engine_cancel(a.call);
    TURN_UNTIL(atomic_load(&fakes[0].n_cancelled) == 1);
    teardown();
}
END_TEST

/* ---- health ---- */

static void set_serving(struct fake *f, int status)
{
    atomic_store(&f->serving, status);
    struct rpc_call *watch = atomic_load(&f->watch);
    ck_assert_ptr_nonnull(watch);
    send_health(f, watch);
}

START_TEST(an_engine_that_drains_gets_nothing_new)
{
    struct answer a, running;
    setup(true);
    fakes[0].silent = true;
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == N_FAKES);
    do {
        ck_assert_int_eq(start(&running, 60000, 0), ERROR_NONE);
        TURN_UNTIL(running.code >= 0 || atomic_load(&fakes[0].n_calls) == 1);
    } while (running.code >= 0); /* until it is the silent one's turn */
    set_serving(&fakes[0], 2);
    TURN_UNTIL(n_in_state(ENGINE_NOT_SERVING) == 1);
    for (int i = 0; i < 2 * N_FAKES; i++) {
        ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
        TURN_UNTIL(a.code >= 0);
    }
    ck_assert_int_eq(atomic_load(&fakes[0].n_calls), 1);
    ck_assert_int_eq(running.code, -1); /* what runs goes on */
    for (int i = 1; i < N_FAKES; i++)
        set_serving(&fakes[i], 2);
    TURN_UNTIL(n_in_state(ENGINE_NOT_SERVING) == N_FAKES);
    ck_assert_int_eq(start(&a, 5000, 0), ERROR_SERVICE_UNAVAILABLE);
    set_serving(&fakes[1], 1);
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == 1);
    ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
    teardown();
}
END_TEST

START_TEST(an_engine_that_is_gone_is_down_until_it_is_back)
{
    struct answer a;
    struct error err;
    char listen[64];
    bool missed;
    setup(true);
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == N_FAKES);
    snprintf(listen, sizeof listen, "127.0.0.1:%d", rpc_server_port(fakes[0].server));
    rpc_server_close(fakes[0].server);
    TURN_UNTIL(n_in_state(ENGINE_DOWN) == 1);
    ck_assert_int_eq(engine_member(engine, 0, &missed), ENGINE_DOWN);
    ck_assert(missed);
    ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
    TURN_UNTIL(a.code == 0);
    const struct rpc_server_options options = {.methods = fakes[0].methods, .listen = listen};
    ck_assert_int_eq(rpc_server_open(&options, &fakes[0].server, &err), ERROR_NONE);
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == N_FAKES);
    teardown();
}
END_TEST

START_TEST(an_engine_without_a_health_service_serves)
{
    struct answer a;
    setup(false);
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == N_FAKES);
    ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
    TURN_UNTIL(a.code == 0);
    teardown();
}
END_TEST

/* ---- before the first verdict ---- */

START_TEST(a_call_waits_for_the_first_verdict)
{
    struct answer a;
    setup(true);
    fakes[0].speaks_first = fakes[1].speaks_first = fakes[2].speaks_first = true;
    open_engine();
    ck_assert_int_eq(start(&a, 5000, 0), ERROR_NONE);
    TURN_UNTIL(a.code == 0);
    ck_assert_int_eq(a.n_messages, 1);
    teardown();
}
END_TEST

START_TEST(calls_that_wait_end_with_the_last_hope)
{
    struct answer a[4];
    setup(true);
    for (int i = 0; i < N_FAKES; i++) {
        rpc_server_close(fakes[i].server);
        fakes[i].server = NULL;
    }
    open_engine();
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(start(&a[i], 5000, 0), ERROR_NONE);
    for (int i = 0; i < 4; i++)
        a[i].also = &a[i ^ 1]; /* as a request of two calls cancels the other one */
    TURN_UNTIL(n_in_state(ENGINE_DOWN) == N_FAKES);
    int n_ended = 0;
    for (int i = 0; i < 4; i++)
        n_ended += a[i].code == UNAVAILABLE;
    ck_assert_int_eq(n_ended, 2);
    ck_assert_int_eq(start(&a[0], 5000, 0), ERROR_SERVICE_UNAVAILABLE);
    teardown();
}
END_TEST

/* ---- the rest ---- */

START_TEST(metadata_and_deadline_travel)
{
    struct answer a;
    setup(true);
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == N_FAKES);
    ck_assert_int_eq(start(&a, 30000, 0), ERROR_NONE);
    TURN_UNTIL(a.code == 0);
    const struct fake *f = fakes;
    while (atomic_load(&f->n_calls) == 0)
        f++;
    ck_assert_str_eq(f->request_id, "rid");
    ck_assert_str_eq(f->trace, "00-1-2-01");
    ck_assert_str_eq(f->state, "a=b,c=d");
    ck_assert_int_le(atomic_load(&f->left_ms), 31000); /* the wire has it in coarse units */
    ck_assert_int_gt(atomic_load(&f->left_ms), 5000);
    teardown();
}
END_TEST

START_TEST(a_key_keeps_its_engine)
{
    struct answer a;
    setup(true);
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == N_FAKES);
    for (int i = 0; i < 6; i++) {
        ck_assert_int_eq(start(&a, 5000, 4711), ERROR_NONE);
        TURN_UNTIL(a.code == 0);
    }
    int most = 0;
    for (int i = 0; i < N_FAKES; i++)
        most = atomic_load(&fakes[i].n_calls) > most ? atomic_load(&fakes[i].n_calls) : most;
    ck_assert_int_eq(most, 6);
    teardown();
}
END_TEST

START_TEST(a_key_has_a_second_choice)
{
    struct answer a;
    setup(true);
    for (int i = 0; i < N_FAKES; i++)
        fakes[i].speaks_first = true;
    open_engine();
    TURN_UNTIL(n_in_state(ENGINE_SERVING) == N_FAKES);
    ck_assert_int_eq(start(&a, 5000, 4711), ERROR_NONE);
    TURN_UNTIL(a.code == 0);
    for (int i = 0; i < N_FAKES; i++)
        if (atomic_load(&fakes[i].n_calls) == 1) { /* its own fails from now on */
            fakes[i].speaks_first = false;
            fakes[i].code = UNAVAILABLE;
        }
    for (int i = 0; i < 6; i++) {
        ck_assert_int_eq(start(&a, 5000, 4711), ERROR_NONE);
        TURN_UNTIL(a.code == 0);
    }
    int n_used = 0;
    for (int i = 0; i < N_FAKES; i++)
        n_used += atomic_load(&fakes[i].n_calls) > 0;
    ck_assert_int_eq(n_used, 2);
    teardown();
}
END_TEST

START_TEST(closing_with_calls_in_all_conditions)
{
    static struct answer a[8];
    setup(true);
    fakes[0].silent = true;
    fakes[1].code = UNAVAILABLE;
    config.hedge_ms = 1;
    open_engine();
    for (int i = 0; i < 4; i++)
        start(&a[i], 5000, 0); /* wait for a verdict */
    TURN_UNTIL(calls() >= 4);
    for (int i = 4; i < 8; i++)
        start(&a[i], 5000, 0);
    engine_cancel(a[7].call);
    teardown();
}
END_TEST

SUITE("engine", failures_that_another_engine_may_not_have, another_engine_answers, all_are_tried_before_one_is_again,
      what_has_begun_is_not_begun_anew, tries_are_bounded, time_is_not_exceeded_by_trying, a_silent_engine_is_hedged, only_calls_that_say_so_are_hedged,
      the_loser_is_cancelled_at_the_first_word, a_hedge_that_fails_leaves_the_first,
      an_engine_that_drains_gets_nothing_new, an_engine_that_is_gone_is_down_until_it_is_back,
      an_engine_without_a_health_service_serves, a_call_waits_for_the_first_verdict,
      calls_that_wait_end_with_the_last_hope, metadata_and_deadline_travel, a_key_keeps_its_engine,
      a_key_has_a_second_choice, closing_with_calls_in_all_conditions)
