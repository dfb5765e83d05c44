/* The policy under simulated arrivals: the budget is kept, decodes are never held up, nothing starves, order is
 * kept. */
#include "engine/scheduler.h"
#include "tests/suite.h"

#define N 64

START_TEST(test_decodes_first_then_prompts_in_order)
{
    struct scheduler s = {.max_rows = 100, .row_ns = 1};
    struct scheduler_item items[] = {
        {.n_left = 80}, {.n_left = 1, .decode = true}, {.n_left = 50}, {.n_left = 7}, {.n_left = 1, .decode = true}};
    ck_assert_uint_eq(scheduler_plan(&s, items, 5), 100);
    ck_assert_uint_eq(items[1].n_rows, 1);
    ck_assert_uint_eq(items[4].n_rows, 1);
    ck_assert_uint_eq(items[0].n_rows, 80);
    ck_assert_uint_eq(items[2].n_rows, 18);
    ck_assert_uint_eq(items[3].n_rows, 0);
}
END_TEST

START_TEST(test_paused_are_left_out)
{
    struct scheduler s = {.max_rows = 100};
    struct scheduler_item items[] = {{.n_left = 1, .decode = true, .paused = true}, {.n_left = 9}};
    ck_assert_uint_eq(scheduler_plan(&s, items, 2), 9);
    ck_assert_uint_eq(items[0].n_rows, 0);
    ck_assert_uint_eq(scheduler_plan(&s, items, 1), 0);
    items[1].paused = true;
    ck_assert_uint_eq(scheduler_plan(&s, items, 2), 0);
}
END_TEST

/* More decodes than rows: they take turns. */
START_TEST(test_decodes_take_turns)
{
    struct scheduler s = {.max_rows = 10};
    struct scheduler_item items[25];
    unsigned served[25] = {0};
    for (int step = 0; step < 50; step++) {
        for (int i = 0; i < 25; i++)
            items[i] = (struct scheduler_item){.n_left = 1, .decode = true};
        ck_assert_uint_eq(scheduler_plan(&s, items, 25), 10);
        for (int i = 0; i < 25; i++)
            served[i] += items[i].n_rows;
    }
    for (int i = 0; i < 25; i++)
        ck_assert_uint_eq(served[i], 20);
}
END_TEST

/* What was drafted fits beside all decodes, or is left out; prompts come after it. */
START_TEST(test_drafts_where_there_is_room)
{
    struct scheduler s = {.max_rows = 8, .row_ns = 1};
    struct scheduler_item items[] = {{.n_left = 4, .decode = true}, {.n_left = 3, .decode = true}, {.n_left = 1, .decode = true}, {.n_left = 9}};
    ck_assert_uint_eq(scheduler_plan(&s, items, 4), 8);
    ck_assert(items[0].n_rows == 4 && items[1].n_rows == 3 && items[2].n_rows == 1 && items[3].n_rows == 0);
    s.max_rows = 7;
    ck_assert_uint_eq(scheduler_plan(&s, items, 4), 7);
    ck_assert(items[0].n_rows == 4 && items[1].n_rows == 1 && items[2].n_rows == 1 && items[3].n_rows == 1);
}
END_TEST

#define MS INT64_C(1000000)

/* At 5 ms a row and 80 ms for 8 decodes alone, 85 with the prompt's, a step may take 136 ms: 11 rows of prompts; 200 without decodes. */
START_TEST(test_prefill_is_cut_to_bound_a_step)
{
    struct scheduler s = {.max_rows = 512};
    struct scheduler_item items[9], *prompt = &items[8];
    for (int i = 0; i < 8; i++)
        items[i] = (struct scheduler_item){.n_left = 1, .decode = true};
    *prompt = (struct scheduler_item){.n_left = 400};
    ck_assert_uint_eq(scheduler_plan(&s, prompt, 1), SCHEDULER_FIRST_PREFILL); /* not known yet */
    for (int i = 0; i < 50; i++)
        scheduler_learn(&s, 0, 100, 500 * MS);
    ck_assert_uint_eq(scheduler_plan(&s, items, 9), 8 + 20); /* nothing is known of decodes: 100 ms */
    for (int i = 0; i < 50; i++)
        scheduler_learn(&s, 8, 0, 80 * MS);
    ck_assert_uint_eq(scheduler_plan(&s, items, 9), 8 + 11);
    ck_assert_uint_eq(scheduler_plan(&s, prompt, 1), 200);
    ck_assert_uint_eq(scheduler_plan(&s, items + 4, 5), 4 + 8); /* 60 ms for 4 decodes, 104 for the step */
    for (int i = 0; i < 50; i++)
        scheduler_learn(&s, 8, 11, 135 * MS);
    ck_assert_uint_eq(scheduler_plan(&s, items, 9), 8 + 11); /* mixed steps confirm it */
    s.target_ns = 100 * MS;
    ck_assert_uint_eq(scheduler_plan(&s, items, 9), 8 + 4);
    s.target_ns = 0;
    for (int i = 0; i < 50; i++)
        scheduler_learn(&s, 0, 100, INT64_C(100000) * MS); /* a second a row: still some progress */
    ck_assert_uint_eq(scheduler_plan(&s, items, 9), 8 + SCHEDULER_MIN_PREFILL);
}
END_TEST

/* 45 ms for one decode, 85 when the 8 prompts are decodes too: they get 91 of 136 ms, and need not wait for each other. */
START_TEST(test_a_crowd_of_prompts_gets_room)
{
    struct scheduler s = {.max_rows = 512, .row_ns = 5 * MS, .decode_ns = 80 * MS, .n_decodes = 8};
    struct scheduler_item items[9] = {{.n_left = 1, .decode = true}};
    for (int i = 1; i < 9; i++)
        items[i] = (struct scheduler_item){.n_left = 320};
    ck_assert_uint_eq(scheduler_plan(&s, items, 9), 1 + 18);
    for (int i = 2; i < 9; i++)
        items[i].paused = true; /* will be none soon */
    ck_assert_uint_eq(scheduler_plan(&s, items, 9), 1 + 7);
}
END_TEST

/* A crowd is met in long steps: four prompts or more, soon over for the share that they are of all sequences: of 2,000 rows. */
START_TEST(test_a_crowd_goes_first)
{
    static const struct {
        int n_decodes, n_prompts, n_left;
        bool crowd;
    } cases[] = {{1, 32, 60, true},  {1, 32, 61, false}, {7, 25, 32, true},  {32, 4, 32, true},   {32, 4, 55, true},
                 {32, 4, 56, false}, {4, 4, 250, true},  {4, 4, 251, false}, {60, 4, 31, true}, {60, 4, 32, false}, {1, 3, 100, false}};
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        struct scheduler s = {.max_rows = 512, .row_ns = 5 * MS, .decode_ns = 80 * MS, .n_decodes = (size_t)cases[k].n_decodes};
        struct scheduler_item items[64];
        int n = cases[k].n_decodes + cases[k].n_prompts;
        for (int i = 0; i < n; i++)
            items[i] = i < cases[k].n_decodes ? (struct scheduler_item){.n_left = 1, .decode = true}
                                              : (struct scheduler_item){.n_left = (uint32_t)cases[k].n_left};
        size_t n_rows = scheduler_plan(&s, items, (size_t)n) - (size_t)cases[k].n_decodes, usual = (80 + 5 * (size_t)cases[k].n_prompts) * 8 / 5 / 5 - 16;
        size_t all = (size_t)(cases[k].n_prompts * cases[k].n_left), most = (1000 - 80) / 5;
        ck_assert_msg(n_rows == (cases[k].crowd ? all < most ? all : most : usual), "case %zu: %zu rows", k, n_rows);
        s.target_ns = 100 * MS; /* asked for, it is kept */
        ck_assert_uint_le(scheduler_plan(&s, items, (size_t)n), (size_t)cases[k].n_decodes + SCHEDULER_MIN_PREFILL);
    }
}
END_TEST

/* Prompts on an engine that has just started: no decodes were timed alone, and none will be while prompts go on. 33 of them take at least
 * 165 ms, so that a step may take 264: 52 rows, not the 20 of 100 ms. */
START_TEST(test_prompts_before_decodes_are_known)
{
    struct scheduler s = {.max_rows = 512, .row_ns = 5 * MS};
    struct scheduler_item items[33] = {{.n_left = 1, .decode = true}};
    for (int i = 1; i < 33; i++)
        items[i] = (struct scheduler_item){.n_left = 320};
    ck_assert_uint_eq(scheduler_plan(&s, items, 33), 1 + 52);
}
END_TEST

/* A machine with a time of its own for each kind of row: the limit is met after few steps, whatever the machine. */
START_TEST(test_the_time_between_tokens_stays_bounded)
{
    srand(5);
    for (int machine = 0; machine < 200; machine++) {
        int64_t row = 1000 + rand() % (10 * MS), base = rand() % (100 * MS);
        struct scheduler s = {.max_rows = 512};
        struct scheduler_item items[33];
        size_t n_decodes = 1 + (size_t)rand() % 32;
        int64_t alone = base + (int64_t)n_decodes * row, limit = alone * 2 > SCHEDULER_LEAST_NS * 2 ? alone * 2 : SCHEDULER_LEAST_NS * 2;
        for (int step = 0; step < 60; step++) {
            for (size_t i = 0; i < n_decodes; i++)
                items[i] = (struct scheduler_item){.n_left = 1, .decode = true};
            items[n_decodes] = (struct scheduler_item){.n_left = 100000, .paused = step < 5};
            size_t n_prefill = scheduler_plan(&s, items, n_decodes + 1) - n_decodes;
            int64_t noise = 95 + rand() % 11, ns = (alone + (int64_t)n_prefill * row) * noise / 100;
            ck_assert(step < 20 || n_prefill == SCHEDULER_MIN_PREFILL || ns <= limit);
            scheduler_learn(&s, n_decodes, n_prefill, ns);
        }
    }
}
END_TEST

struct simulated {
    uint32_t n_prompt, n_max, n_fed, n_generated;
    int born, first_token;
};

/* Random arrivals, lengths and pauses; slot i of the list is in order of admission. */
START_TEST(test_simulation)
{
    struct scheduler s = {.max_rows = 48, .row_ns = 1};
    struct simulated live[N];
    struct scheduler_item items[N];
    size_t n = 0, n_done = 0, n_born = 0;
    int last_started = -1; /* birth of the newest sequence that got its first token without having been paused */
    srand(11);
    for (int step = 0; n_done < 2000; step++) {
        ck_assert_int_lt(step, 200000); /* nothing starves: all finish */
        while (n < N && rand() % 3) {
            live[n++] =
                (struct simulated){1 + (uint32_t)rand() % 200, 1 + (uint32_t)rand() % 30, 0, 0, (int)n_born++, -1};
        }
        for (size_t i = 0; i < n; i++)
            items[i] = (struct scheduler_item){.n_left = live[i].n_prompt + live[i].n_generated - live[i].n_fed,
                                               .decode = live[i].n_generated > 0,
                                               .paused = live[i].n_generated && rand() % 8 == 0};
        size_t n_rows = scheduler_plan(&s, items, n), sum = 0, n_decodes = 0, n_decode_rows = 0;
        bool partial = false;
        for (size_t i = 0; i < n; i++) {
            sum += items[i].n_rows;
            ck_assert_uint_le(items[i].n_rows, items[i].n_left);
            ck_assert(!items[i].paused || !items[i].n_rows);
            n_decodes += items[i].decode && !items[i].paused;
            n_decode_rows += items[i].decode ? items[i].n_rows : 0;
            if (items[i].decode)
                continue;
            ck_assert(!partial || !items[i].n_rows); /* a prompt gets rows only when those before it are complete */
            partial |= items[i].n_rows < items[i].n_left;
        }
        ck_assert_uint_eq(sum, n_rows);
        ck_assert_uint_le(n_rows, s.max_rows);
        ck_assert_uint_eq(n_decode_rows, n_decodes < s.max_rows ? n_decodes : s.max_rows);
        ck_assert(n_rows == s.max_rows || !partial); /* nothing is left undone while there is room */
        size_t kept = 0;
        for (size_t i = 0; i < n; i++) {
            struct simulated q = live[i];
            q.n_fed += items[i].n_rows;
            if (items[i].n_rows && q.n_fed == q.n_prompt + q.n_generated && q.n_generated++ == 0) {
                ck_assert_int_gt(q.born, last_started); /* first tokens come in order of admission */
                last_started = q.born;
            }
            if (q.n_generated == q.n_max)
                n_done++;
            else
                live[kept++] = q;
        }
        n = kept;
    }
}
END_TEST

/* Prompts alone: a second's rows, or what another engine's streams may wait for. */
START_TEST(test_shared)
{
    struct scheduler s = {.max_rows = 4096, .row_ns = 1000000, .decode_ns = 1000000, .n_decodes = 1};
    struct scheduler_item item = {.n_left = 3000};
    ck_assert_uint_eq(scheduler_plan(&s, &item, 1), SCHEDULER_ALONE_NS / 1000000);
    s.shared = true;
    ck_assert_uint_eq(scheduler_plan(&s, &item, 1), SCHEDULER_SHARED_NS / 1000000);
}
END_TEST

SUITE("scheduler", test_drafts_where_there_is_room, test_decodes_first_then_prompts_in_order, test_paused_are_left_out, test_decodes_take_turns,
      test_prefill_is_cut_to_bound_a_step, test_a_crowd_of_prompts_gets_room, test_a_crowd_goes_first, test_prompts_before_decodes_are_known,
      test_the_time_between_tokens_stays_bounded, test_shared, test_simulation)
