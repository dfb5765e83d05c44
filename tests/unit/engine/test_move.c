/* Devices: which one a model is loaded on, and what becomes of requests when it fails under them. GPUs are fakes that compute as the CPU does
 * (kernels/fake.h), so what a move must not change is every token. */
#include "tests/suite.h"
#include "tests/unit/engine/harness.h"

#define N_REQUESTS 12

static enum error_code open_on(const char *gpus, struct engine_options o, struct engine **out, struct error *err)
{
    log_init(LOG_OFF, LOG_FORMAT_TEXT);
    setenv("BITNET_GPU_FAKE", gpus, 1);
    o.model_path = harness_model();
    o.i2s_order = -1;
    return engine_open(&o, out, err);
}

static struct engine *must_open(const char *gpus, struct engine_options o)
{
    struct engine *e;
    struct error err = {0};
    ck_assert_msg(!open_on(gpus, o, &e, &err), "%s: %s", gpus, err.message);
    return e;
}

/* Requests of many kinds at once, more than the batch has places for. */
static void run_all(struct engine *e, struct harness_answer *answers[N_REQUESTS])
{
    uint32_t ids[N_REQUESTS][64];
    struct stream *streams[N_REQUESTS];
    for (uint32_t i = 0; i < N_REQUESTS; i++) {
        struct request r = harness_request(i, ids[i], 5 + 5 * i, 20 + i);
        r.n = i % 4 == 1 ? 2 : 1;
        r.logprobs = i % 2;
        r.top_logprobs = i % 2 ? 3 : 0;
        r.prompt_logprobs = i == 3;
        r.ignore_eos = true;
        r.sampling.temperature = i % 3 ? 1 : 0;
        r.sampling.top_k = i % 5 == 4 ? 10 : 0;
        r.sampling.repetition_penalty = i == 8 ? 1.3f : 1;
        streams[i] = harness_submit(e, &r);
    }
    for (uint32_t i = 0; i < N_REQUESTS; i++) {
        answers[i] = calloc(1, sizeof *answers[i]);
        while (stream_wait(streams[i], 60 * CLOCK_NS_PER_S)) {
            struct stream_event ev;
            stream_read(streams[i], 0, &ev);
            if (ev.type == STREAM_PROMPT)
                for (size_t k = 1; k < ev.n_tokens; k++)
                    answers[i]->choices[7].tops = kernel_hash(answers[i]->choices[7].tops, &ev.tokens[k].logprob, sizeof(float));
            else if (ev.type == STREAM_TOKENS)
                harness_take(&answers[i]->choices[ev.choice], &ev);
            else if (ev.type == STREAM_CHOICE_END)
                answers[i]->choices[ev.choice].ended = true;
            else if (ev.type == STREAM_COMPLETE) {
                answers[i]->finish = ev.finish;
                answers[i]->summary = ev.summary;
                answers[i]->error = ev.error;
                break;
            }
        }
        stream_close(streams[i]);
    }
}

static void free_all(struct harness_answer *answers[N_REQUESTS])
{
    for (uint32_t i = 0; i < N_REQUESTS; i++)
        free(answers[i]);
}

START_TEST(requests_go_on_where_the_model_is_next)
{
    static const struct {
        const char *gpus, *to, *devices;
        uint32_t n_moves;
    } cases[] = {{"fail:1", "cpu", "cuda:0,cpu", 1},
                 {"fail:2", "cpu", "cuda:0,cpu", 1},
                 {"fail:9", "cpu", "cuda:0,cpu", 1},
                 {"oom:17", "cpu", "cuda:0,cpu", 1},
                 {"fail:8,oom,broken,ok", "cuda:3", "cuda:0,cuda:3", 1},
                 {"fail:8,fail:5,ok", "cuda:2", "cuda:0,cuda:1,cuda:2", 2}};
    struct harness_answer *alone[N_REQUESTS], *moved[N_REQUESTS];
    const struct engine_options o = {.max_sequences = 8, .max_batch_tokens = 64, .device = "gpu", .accuracy_share = 0.5};
    struct engine *cpu = must_open("none", o);
    ck_assert_str_eq(engine_model(cpu)->device, "cpu");
    run_all(cpu, alone);
    engine_close(cpu);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct engine *e = must_open(cases[c].gpus, o);
        const struct engine_model *before = engine_model(e);
        ck_assert_str_eq(before->device, "cuda:0");
        ck_assert_ptr_null(before->fallback_reason);
        run_all(e, moved);
        for (uint32_t i = 0; i < N_REQUESTS; i++) {
            ck_assert_msg(moved[i]->finish != FINISH_ERROR, "%s: %s", cases[c].gpus, moved[i]->error.message);
            harness_expect_same(alone[i], moved[i], i % 4 == 1 ? 2 : 1);
            ck_assert(alone[i]->choices[7].tops == moved[i]->choices[7].tops);
        }
        ck_assert_str_eq(moved[0]->summary.devices, cases[c].devices);
        ck_assert_str_eq(before->device, "cuda:0"); /* still there for who has it */
        const struct engine_model *after = engine_model(e);
        ck_assert_str_eq(after->device, cases[c].to);
        ck_assert_ptr_nonnull(after->lost_device);
        ck_assert_ptr_nonnull(strstr(after->fallback_reason, "failed"));
        struct engine_stats st;
        engine_stats(e, &st);
        ck_assert_uint_eq(st.n_moves, cases[c].n_moves);
        ck_assert_uint_eq(st.n_device_failures, cases[c].n_moves);
        ck_assert_int_eq(st.breaker, BREAKER_CLOSED);
        harness_await(e, harness_idle);
        free_all(moved);
        run_all(e, moved); /* and what comes later */
        for (uint32_t i = 0; i < N_REQUESTS; i++)
            harness_expect_same(alone[i], moved[i], i % 4 == 1 ? 2 : 1);
        ck_assert_str_eq(moved[0]->summary.devices, cases[c].to);
        free_all(moved);
        engine_close(e);
    }
    free_all(alone);
}
END_TEST

/* A device that cannot take the model is passed by when it is loaded, too. */
START_TEST(a_model_is_loaded_where_it_can_be)
{
    static const struct {
        const char *gpus, *asked, *on, *reason;
    } cases[] = {{"none", "auto", "cpu", "0 devices"},
                 {"ok", "auto", "cuda:0", NULL},
                 {"ok", NULL, "cuda:0", NULL},
                 {"ok,ok", "cuda:1", "cuda:1", NULL},
                 {"ok", "cpu", "cpu", NULL},
                 {"oom", "gpu", "cpu", "no memory on cuda:0"},
                 {"broken", "auto", "cpu", "cuda:0 (fake GPU) failed its self-test"},
                 {"oom,broken,ok", "gpu", "cuda:2", "cuda:1 (fake GPU) failed its self-test"}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct engine *e = must_open(cases[c].gpus, (struct engine_options){.device = cases[c].asked});
        const struct engine_model *m = engine_model(e);
        ck_assert_str_eq(m->device, cases[c].on);
        ck_assert_ptr_null(m->lost_device);
        ck_assert_msg(!cases[c].reason == !m->fallback_reason && (!cases[c].reason || strstr(m->fallback_reason, cases[c].reason)), "%s: %s", cases[c].gpus,
                      m->fallback_reason);
        engine_close(e);
    }
}
END_TEST

START_TEST(what_cannot_be_is_told)
{
    static const struct {
        const char *gpus, *asked;
        enum error_code code;
        const char *message;
    } cases[] = {{"none", "cuda:0", ERROR_DEVICE_UNAVAILABLE, "has 0 devices"},
                 {"ok", "cuda:1", ERROR_DEVICE_UNAVAILABLE, "cuda:1 is not there"},
                 {"oom,ok", "cuda:0", ERROR_MEMORY_EXHAUSTED, "no memory on cuda:0"},
                 {"ok", "toaster", ERROR_VALIDATION_FAILED, "expected auto, cpu, gpu or cuda:N"},
                 {"", "auto", ERROR_VALIDATION_FAILED, "BITNET_GPU_FAKE: expected none"},
                 {"ok,", "auto", ERROR_VALIDATION_FAILED, "BITNET_GPU_FAKE"},
                 {"ok:3", "auto", ERROR_VALIDATION_FAILED, "BITNET_GPU_FAKE"},
                 {"fail:0", "auto", ERROR_VALIDATION_FAILED, "BITNET_GPU_FAKE"},
                 {"fail:x", "auto", ERROR_VALIDATION_FAILED, "BITNET_GPU_FAKE"},
                 {"failing", "auto", ERROR_VALIDATION_FAILED, "BITNET_GPU_FAKE"},
                 {"ok,ok,ok,ok,ok,ok,ok,ok,ok", "auto", ERROR_VALIDATION_FAILED, "up to 8"}};
    struct error bad = {0};
    struct engine *none;
    ck_assert_int_eq(open_on("ok", (struct engine_options){.device = "cpu", .isa = "an-instruction-set-of-a-long-name"}, &none, &bad), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(bad.param, "isa");
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct error err = {0};
        struct engine *e;
        ck_assert_int_eq(open_on(cases[c].gpus, (struct engine_options){.device = cases[c].asked}, &e, &err), cases[c].code);
        ck_assert_msg(strstr(err.message, cases[c].message) != NULL, "%s: %s", cases[c].gpus, err.message);
    }
}
END_TEST

/* The CPU cannot take over: it lacks the instruction set that was asked for. */
START_TEST(where_none_is_left_requests_end_with_an_error)
{
    uint32_t ids[20];
    struct engine *e = must_open("fail:3", (struct engine_options){.device = "gpu", .isa = "no-such"});
    struct request r = harness_request(1, ids, 20, 30);
    r.ignore_eos = true;
    struct harness_answer *a = harness_finish(harness_submit(e, &r));
    ck_assert_int_eq(a->finish, FINISH_ERROR);
    ck_assert_int_eq(a->error.code, ERROR_INFERENCE_FAILED);
    ck_assert_msg(strstr(a->error.message, "no device is left") != NULL, "%s", a->error.message);
    free(a);
    a = harness_finish(harness_submit(e, &r)); /* it is looked for another one, in vain */
    ck_assert_int_eq(a->finish, FINISH_ERROR);
    ck_assert_int_eq(a->error.code, ERROR_DEVICE_UNAVAILABLE);
    ck_assert_str_eq(a->error.reason, REFUSED_DEVICE);
    free(a);
    harness_await(e, harness_idle);
    engine_close(e);
}
END_TEST

/* Strings of the options are the caller's again once the engine is open. */
START_TEST(a_move_needs_nothing_of_the_caller)
{
    char device[] = "gpu", isa[] = "portable", numa[] = "off";
    uint32_t ids[20];
    struct engine *e = must_open("fail:3", (struct engine_options){.device = device, .isa = isa, .numa = numa});
    struct request r = harness_request(1, ids, 20, 10);
    memset(device, 'x', sizeof device - 1);
    memset(isa, 'x', sizeof isa - 1);
    memset(numa, 'x', sizeof numa - 1);
    r.ignore_eos = true;
    struct harness_answer *a = harness_finish(harness_submit(e, &r));
    ck_assert_msg(a->finish == FINISH_LENGTH, "%s", a->error.message);
    ck_assert_str_eq(a->summary.devices, "cuda:0,cpu");
    ck_assert_str_eq(engine_model(e)->isa, "portable");
    free(a);
    engine_close(e);
}
END_TEST

START_TEST(gpus_are_listed)
{
    struct backend_device found[2];
    struct error why = {0};
    setenv("BITNET_GPU_FAKE", "ok,oom,fail", 1);
    ck_assert_uint_eq(backend_gpus(found, 2, &why), 3);
    ck_assert_str_eq(found[0].id, "cuda:0");
    ck_assert_str_eq(found[1].id, "cuda:1");
    ck_assert_str_eq(found[1].name, "fake GPU");
    ck_assert_uint_gt(found[1].memory_bytes, 0);
    setenv("BITNET_GPU_FAKE", "none", 1);
    ck_assert_uint_eq(backend_gpus(found, 2, &why), 0);
    ck_assert_int_eq(why.code, ERROR_DEVICE_UNAVAILABLE);
    ck_assert_uint_eq(backend_gpus(NULL, 0, NULL), 0);
}
END_TEST

SUITE("move", requests_go_on_where_the_model_is_next, a_model_is_loaded_where_it_can_be, what_cannot_be_is_told,
      where_none_is_left_requests_end_with_an_error, a_move_needs_nothing_of_the_caller, gpus_are_listed)
