/* Direct evaluation: a row's logits are the same bytes whatever the chunking, the other rows, the threads and the
 * instruction set. */
#include "tests/unit/engine/harness.h"

#define N_TOKENS 70 /* three blocks of the KV cache, and none of the numbers below divides it */

static uint32_t tokens[N_TOKENS];
static float *expected; /* [N_TOKENS][HARNESS_VOCAB]: the whole as one batch, portable, one thread */

static struct session *open_with(struct engine_options options)
{
    struct session *s;
    struct error err = {0};
    log_init(LOG_OFF, LOG_FORMAT_TEXT);
    options.model_path = harness_model();
    options.device = "cpu";
    options.i2s_order = -1;
    ck_assert_msg(!session_open(&options, &s, &err), "%s", err.message);
    return s;
}

static void step(struct session *s, const struct session_row *rows, size_t n, float *logits)
{
    struct error err = {0};
    ck_assert_msg(!session_step(s, rows, n, false, logits, &err), "%s", err.message);
}

/* Feeds the tokens to `sequence` in chunks; each row's logits must be the expected bytes. */
static void check_chunks(struct session *s, uint32_t sequence, size_t chunk)
{
    struct session_row rows[N_TOKENS];
    float *logits = malloc(N_TOKENS * HARNESS_VOCAB * sizeof *logits);
    session_reset(s, sequence);
    for (size_t at = 0; at < N_TOKENS; at += chunk) {
        size_t n = N_TOKENS - at < chunk ? N_TOKENS - at : chunk;
        for (size_t i = 0; i < n; i++)
            rows[i] = (struct session_row){.sequence = sequence, .token = tokens[at + i], .want_logits = true};
        step(s, rows, n, logits);
        ck_assert_msg(memcmp(logits, expected + at * HARNESS_VOCAB, n * HARNESS_VOCAB * sizeof *logits) == 0,
                      "other logits in chunks of %zu, at row %zu", chunk, at);
    }
    free(logits);
}

static void setup(void)
{
    struct session_row rows[N_TOKENS];
    uint32_t random = 7;
    expected = malloc(N_TOKENS * HARNESS_VOCAB * sizeof *expected);
    for (size_t i = 0; i < N_TOKENS; i++) {
        random = random * 1664525u + 1013904223u;
        tokens[i] = (random >> 8) % HARNESS_VOCAB;
        rows[i] = (struct session_row){.token = tokens[i], .want_logits = true};
    }
    struct session *s = open_with((struct engine_options){.isa = "portable", .n_threads = 1});
    step(s, rows, N_TOKENS, expected);
    session_close(s);
}

static void teardown(void)
{
    free(expected);
}

START_TEST(values_are_sane)
{
    double square = 0;
    for (size_t i = 0; i < N_TOKENS * HARNESS_VOCAB; i++)
        square += (double)expected[i] * (double)expected[i];
    double rms = square / (N_TOKENS * HARNESS_VOCAB);
    ck_assert(rms > 0.5 && rms < 100.0);
    ck_assert_int_ne(memcmp(expected, expected + HARNESS_VOCAB, HARNESS_VOCAB * sizeof *expected), 0);
}
END_TEST

static const size_t chunks[] = {1, 2, 31, 32, 33, 69, N_TOKENS};

START_TEST(chunking)
{
    struct session *s = open_with((struct engine_options){.n_threads = 2});
    check_chunks(s, 0, chunks[_i]);
    session_close(s);
}
END_TEST

static const struct {
    const char *isa;
    int n_threads;
} variants[] = {{"portable", 1}, {"portable", 2}, {"portable", 3}, {NULL, 1}, {NULL, 2}, {NULL, 3}};

START_TEST(threads_and_isa)
{
    struct session *s =
        open_with((struct engine_options){.isa = variants[_i].isa, .n_threads = variants[_i].n_threads});
    check_chunks(s, 0, N_TOKENS);
    check_chunks(s, 0, 33);
    session_close(s);
}
END_TEST

enum { MIXED = 4 };

/* Sequence q of the mixed batches has tokens of its own: the shared ones, rotated. */
static uint32_t mixed_token(size_t q, size_t position)
{
    return tokens[(position + 7 * q) % N_TOKENS];
}

/* Logits [N_TOKENS][HARNESS_VOCAB] of sequence q alone, as one batch; to be freed. */
static float *run_alone(size_t q)
{
    struct session_row rows[N_TOKENS];
    float *logits = malloc(N_TOKENS * HARNESS_VOCAB * sizeof *logits);
    struct session *s = open_with((struct engine_options){.isa = "portable", .n_threads = 1});
    for (size_t i = 0; i < N_TOKENS; i++)
        rows[i] = (struct session_row){.token = mixed_token(q, i), .want_logits = true};
    step(s, rows, N_TOKENS, logits);
    session_close(s);
    return logits;
}

/* Four sequences advance by unequal steps in the same batches, decodes beside prefill; only some rows ask for
 * logits. */
START_TEST(mixed_batches)
{
    static const size_t pace[MIXED] = {1, 5, 17, 33};
    struct session_row rows[MIXED * 33];
    struct {
        size_t sequence, position;
    } wanted[MIXED * 33];
    size_t at[MIXED] = {0}, n;
    float *alone[MIXED], *logits = malloc(sizeof rows / sizeof rows[0] * HARNESS_VOCAB * sizeof *logits);
    struct session *s = open_with((struct engine_options){.n_threads = 3, .max_sequences = MIXED});
    for (size_t q = 0; q < MIXED; q++)
        alone[q] = run_alone(q);
    do {
        size_t n_out = 0;
        n = 0;
        for (size_t q = 0; q < MIXED; q++) {
            for (size_t i = 0; i < pace[q] && at[q] < N_TOKENS; i++, at[q]++, n++) {
                rows[n] = (struct session_row){(uint32_t)q, mixed_token(q, at[q]), at[q] % 3 == 0};
                wanted[n_out].sequence = q;
                wanted[n_out].position = at[q];
                n_out += rows[n].want_logits;
            }
        }
        step(s, rows, n, logits);
        for (size_t i = 0; i < n_out; i++)
            ck_assert_msg(memcmp(logits + i * HARNESS_VOCAB,
                                 alone[wanted[i].sequence] + wanted[i].position * HARNESS_VOCAB,
                                 HARNESS_VOCAB * sizeof *logits) == 0,
                          "sequence %zu: other logits at position %zu", wanted[i].sequence, wanted[i].position);
    } while (n);
    for (size_t q = 0; q < MIXED; q++)
        free(alone[q]);
    session_close(s);
    free(logits);
}
END_TEST

/* Rows without logits leave the same cache behind, and a sequence that was reset starts anew beside others. */
START_TEST(prefill_and_reset)
{
    struct session_row rows[N_TOKENS];
    float *logits = malloc(HARNESS_VOCAB * sizeof *logits);
    struct session *s = open_with((struct engine_options){.max_sequences = 2});
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < N_TOKENS - 1; i++)
            rows[i] = (struct session_row){.sequence = 1, .token = tokens[i]};
        step(s, rows, N_TOKENS - 1, NULL);
        rows[0] = (struct session_row){.sequence = 1, .token = tokens[N_TOKENS - 1], .want_logits = true};
        step(s, rows, 1, logits);
        ck_assert_int_eq(memcmp(logits, expected + (N_TOKENS - 1) * HARNESS_VOCAB, HARNESS_VOCAB * sizeof *logits), 0);
        session_reset(s, 1);
        session_reset(s, 99); /* of no sequence: nothing happens */
    }
    check_chunks(s, 0, 32);
    session_close(s);
    free(logits);
}
END_TEST

/* The rows of a sequence's tokens [from, to); the last one is sampled from. */
static size_t rows_of(struct session_row *rows, uint32_t sequence, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        rows[i - from] = (struct session_row){sequence, tokens[i], i + 1 == to};
    return to - from;
}

static const struct sampling samplings[] = {
    {.temperature = 0, .top_p = 1, .repetition_penalty = 1},
    {.temperature = 0.7f, .top_k = 50, .top_p = 0.9f, .repetition_penalty = 1, .seed = 3},
    {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 4},
    {.temperature = 1.5f, .top_p = 0.5f, .repetition_penalty = 1, .seed = 5},
};

/* A session draws what an engine answers a request, choice by choice. */
START_TEST(samples_as_the_engine)
{
    enum { PROMPT = 40, N = 20, CHOICES = 3 };
    struct session_row rows[PROMPT];
    struct request r = {.tokens = tokens, .n_tokens = PROMPT, .max_tokens = N, .n = CHOICES, .sampling = samplings[_i],
                        .ignore_eos = true, .deadline_ns = CLOCK_NEVER};
    struct engine *e = harness_open((struct engine_options){.n_threads = 1});
    struct harness_answer *answer = harness_finish(harness_submit(e, &r));
    struct session *s = open_with((struct engine_options){.max_sequences = CHOICES, .sampling = true, .n_threads = 2});
    struct error err = {0};
    uint32_t ids[CHOICES];
    for (uint32_t c = 0; c < CHOICES; c++)
        ck_assert(!session_sample(s, rows, rows_of(rows, c, 0, PROMPT), &samplings[_i], &ids[c], &err));
    for (size_t i = 0; i < N; i++) {
        for (uint32_t c = 0; c < CHOICES; c++) {
            ck_assert_uint_eq(ids[c], answer->choices[c].ids[i]);
            rows[c] = (struct session_row){c, ids[c], true};
        }
        ck_assert_msg(!session_sample(s, rows, CHOICES, &samplings[_i], ids, &err), "%s", err.message);
    }
    session_close(s);
    free(answer);
    engine_close(e);
}
END_TEST

/* What was cut off is as if it had never been, and its blocks go to others. */
START_TEST(truncation)
{
    struct session_row rows[N_TOKENS];
    float *logits = malloc(HARNESS_VOCAB * sizeof *logits);
    /* Told positions and the last, part empty block of each sequence: three blocks, which N_TOKENS need. */
    struct session *s = open_with((struct engine_options){.max_sequences = 2, .kv_positions = KV_BLOCK_SIZE});
    struct error err = {0};
    ck_assert_uint_eq(session_model(s)->n_kv_blocks, 3);
    for (size_t cut = 1; cut < N_TOKENS - 1; cut += 13) {
        step(s, rows, rows_of(rows, 0, 0, N_TOKENS), logits);
        session_truncate(s, 0, cut);
        session_truncate(s, 0, N_TOKENS); /* there are fewer: nothing happens */
        session_truncate(s, 99, 0);
        step(s, rows, rows_of(rows, 0, cut, N_TOKENS), logits);
        ck_assert_mem_eq(logits, expected + (N_TOKENS - 1) * HARNESS_VOCAB, HARNESS_VOCAB * sizeof *logits);
        session_reset(s, 0);
        check_chunks(s, 1, 32);
        ck_assert_int_eq(session_step(s, rows, rows_of(rows, 0, 0, 1), false, logits, &err), ERROR_VALIDATION_FAILED);
        ck_assert_msg(strstr(err.message, "no block") != NULL, "%s", err.message);
        session_reset(s, 1);
        session_reset(s, 0);
    }
    session_close(s);
    free(logits);
}
END_TEST

START_TEST(sampling_refused)
{
    struct session_row rows[3] = {{0, 1, true}, {0, 2, true}, {0, 3, true}};
    struct sampling penalty = samplings[0];
    struct error err = {0};
    uint32_t ids[3];
    penalty.presence_penalty = 0.5f;
    struct session *s = open_with((struct engine_options){.sampling = true});
    ck_assert_int_eq(session_sample(s, rows, 1, &penalty, ids, &err), ERROR_VALIDATION_FAILED);
    ck_assert_msg(strstr(err.message, "penalties") != NULL, "%s", err.message);
    ck_assert_int_eq(session_sample(s, rows, 3, &samplings[0], ids, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "rows");
    session_close(s);
    s = open_with((struct engine_options){.n_threads = 1});
    ck_assert_int_eq(session_sample(s, rows, 1, &samplings[0], ids, &err), ERROR_VALIDATION_FAILED);
    ck_assert_msg(strstr(err.message, "not opened") != NULL, "%s", err.message);
    session_close(s);
}
END_TEST

START_TEST(work)
{
    struct session *s = open_with((struct engine_options){.sampling = true});
    const struct engine_model *m = session_model(s);
    struct session_work all, greedy;
    session_work(s, 3, 2 * KV_BLOCK_SIZE, NULL, &all);
    session_work(s, 3, 2 * KV_BLOCK_SIZE, &samplings[0], &greedy);
    ck_assert_uint_eq(all.kv_bytes, 2 * m->kv_bytes / m->n_kv_blocks);
    ck_assert(all.weight_bytes > 0 && all.weight_bytes + greedy.head_bytes < m->weight_bytes);
    ck_assert(greedy.head_bytes > 0 && greedy.head_bytes < all.head_bytes);
    ck_assert_uint_eq(all.multiply_adds % 3, 0);
    ck_assert(all.multiply_adds / 3 > 4 * (all.weight_bytes / 2) && all.multiply_adds / 3 < m->n_parameters);
    session_close(s);
}
END_TEST

START_TEST(limits)
{
    struct engine_limits l;
    struct session *s = open_with((struct engine_options){.device = "cpu", .isa = "portable", .n_threads = 2});
    session_measure(s, &l);
    session_close(s);
    ck_assert(l.read_bytes_per_s > 0 && l.int8_per_s > 0);
    ck_assert_int_eq(l.n_threads, 2);
    ck_assert_str_eq(l.device, "cpu");
    ck_assert_str_eq(l.isa, "portable");
    ck_assert_uint_gt(strlen(l.device_name), 0);
}
END_TEST

START_TEST(refused)
{
    static const struct {
        struct session_row row;
        size_t n;
        const char *param, *message;
    } bad[] = {
        {{2, 0, false}, 1, "sequence", "expected a sequence below 2, found 2"},
        {{0, HARNESS_VOCAB, false}, 1, "token", "expected a token id below 1280, found 1280"},
        {{0, 0, true}, 1, "logits", "no room"},
        {{0, 0, false}, 41, "n_rows", "expected at most 40 rows, found 41"},
        {{1, 3, false}, 33, "sequence", "row 32: sequence 1 is full: the context has 32 positions"},
    };
    struct session *s =
        open_with((struct engine_options){.max_sequences = 2, .context_length = 32, .max_batch_tokens = 40});
    ck_assert_uint_eq(session_model(s)->context_length, 32);
    for (size_t b = 0; b < sizeof bad / sizeof bad[0]; b++) {
        struct session_row rows[41];
        struct error err = {0};
        for (size_t i = 0; i < bad[b].n; i++)
            rows[i] = bad[b].row;
        ck_assert_int_eq(session_step(s, rows, bad[b].n, false, NULL, &err), ERROR_VALIDATION_FAILED);
        ck_assert_str_eq(err.param, bad[b].param);
        ck_assert_msg(strstr(err.message, bad[b].message) != NULL, "%s", err.message);
    }
    /* A refused step leaves no tokens behind. */
    struct session_row rows[32];
    for (size_t i = 0; i < 32; i++)
        rows[i] = (struct session_row){.sequence = 1, .token = 3};
    step(s, rows, 32, NULL);
    session_close(s);
}
END_TEST

START_TEST(description)
{
    struct session *s = open_with((struct engine_options){.n_threads = 1});
    const struct engine_model *m = session_model(s);
    ck_assert_str_eq(m->architecture, "bitnet-b1.58");
    ck_assert_str_eq(m->device, "cpu");
    ck_assert_str_eq(m->chat_template, "bitnet-2b4t");
    ck_assert_uint_eq(m->vocab_size, HARNESS_VOCAB);
    ck_assert_uint_eq(m->context_length, HARNESS_CONTEXT);
    ck_assert_uint_eq(m->n_kv_blocks, HARNESS_CONTEXT / m->kv_block_size);
    ck_assert_ptr_null(m->fallback_reason);
    ck_assert(m->weight_bytes && m->kv_bytes && m->scratch_bytes && m->n_parameters > 3000000);
    ck_assert_ptr_null(strpbrk(m->id, "./"));
    ck_assert_uint_eq(tokenizer_n_tokens(session_tokenizer(s)), HARNESS_VOCAB);
    session_close(s);
}
END_TEST

/* auto and gpu run on the CPU where there is no GPU and say so; a named GPU that is not there is an error. */
START_TEST(devices)
{
    struct error err = {0};
    struct session *s = NULL;
    struct engine_options options = {.model_path = harness_model(), .i2s_order = -1, .device = "gpu"};
    log_init(LOG_OFF, LOG_FORMAT_TEXT);
    ck_assert_msg(!session_open(&options, &s, &err), "%s", err.message);
    const struct engine_model *m = session_model(s);
    ck_assert_int_eq(strcmp(m->device, "cpu") == 0, m->fallback_reason != NULL);
    session_close(s);
    options.device = "cuda:99";
    ck_assert_int_eq(session_open(&options, &s, &err), ERROR_DEVICE_UNAVAILABLE);
    options.device = "toaster";
    ck_assert_int_eq(session_open(&options, &s, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "device");
    options.model_path = NULL;
    ck_assert_int_eq(session_open(&options, &s, &err), ERROR_VALIDATION_FAILED);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("session");
    TCase *tests = tcase_create("session");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, values_are_sane);
    tcase_add_loop_test(tests, chunking, 0, sizeof chunks / sizeof chunks[0]);
    tcase_add_loop_test(tests, threads_and_isa, 0, sizeof variants / sizeof variants[0]);
    tcase_add_test(tests, mixed_batches);
    tcase_add_test(tests, prefill_and_reset);
    tcase_add_loop_test(tests, samples_as_the_engine, 0, sizeof samplings / sizeof samplings[0]);
    tcase_add_test(tests, truncation);
    tcase_add_test(tests, sampling_refused);
    tcase_add_test(tests, work);
    tcase_add_test(tests, limits);
    tcase_add_test(tests, refused);
    tcase_add_test(tests, description);
    tcase_add_test(tests, devices);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
