/*
 * Logits of a small model against bitnet.cpp's, from ../shared/data/golden when it is there. Its README gives the
 * rules: sequences 0 and 1 to 1e-4 absolute; longer ones by cosine and rms difference at every position, and by the
 * same best token wherever the reference's margin is above a tenth of its rms. A batch of one token has its head
 * input rounded to F16, as the reference does.
 */
#include "engine/engine.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FOLDER "../shared/data/golden/"
#define N_SEQUENCES 6
#define MAX_TOKENS 128

static struct session *session;
static uint32_t n_vocab;

static bool available(void)
{
    if (access(FOLDER "tinyA.gguf", R_OK) == 0)
        return true;
    printf("skip golden %s is not there\n", FOLDER "tinyA.gguf");
    return false;
}

static void open_session(const char *isa, int n_threads)
{
    struct error err = {0};
    const struct engine_options options = {
        .model_path = FOLDER "tinyA.gguf", .device = "cpu", .isa = isa, .n_threads = n_threads, .i2s_order = -1};
    ck_assert_msg(session_open(&options, &session, &err) == ERROR_NONE, "%s", err.message);
    n_vocab = session_model(session)->vocab_size;
}

static void close_session(void)
{
    session_close(session);
    session = NULL;
}

static size_t read_sequence(int wanted, struct session_row rows[MAX_TOKENS])
{
    char line[4096];
    size_t n = 0;
    FILE *file = fopen(FOLDER "tinyA.seqs.txt", "r");
    ck_assert_ptr_nonnull(file);
    for (int i = 0; i <= wanted; i++)
        ck_assert_ptr_nonnull(fgets(line, sizeof line, file));
    fclose(file);
    for (char *at = line, *end; n < MAX_TOKENS; at = end, n++) {
        unsigned long id = strtoul(at, &end, 10);
        if (end == at)
            break;
        rows[n] = (struct session_row){.sequence = 0, .token = (uint32_t)id, .want_logits = true};
    }
    return n;
}

static float *read_reference(int sequence, size_t n_values)
{
    char path[128];
    float *values = malloc(n_values * sizeof *values);
    snprintf(path, sizeof path, FOLDER "tinyA.seq%d.logits.f32", sequence);
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    ck_assert_ptr_nonnull(values);
    ck_assert_uint_eq(fread(values, sizeof *values, n_values, file), n_values);
    fclose(file);
    return values;
}

struct difference {
    double max_abs, cosine, rms; /* rms: of the difference, as a part of the reference's */
    bool same_best;              /* or the reference's margin is too small to say */
};

static struct difference compare(const float *got, const float *want, size_t n)
{
    double gg = 0, ww = 0, gw = 0, dd = 0;
    size_t best = 0, best_got = 0;
    float second = -INFINITY;
    struct difference d = {0};
    for (size_t i = 0; i < n; i++) {
        double g = (double)got[i], w = (double)want[i], diff = fabs(g - w);
        gg += g * g;
        ww += w * w;
        gw += g * w;
        dd += diff * diff;
        d.max_abs = diff > d.max_abs || isnan(diff) ? diff : d.max_abs;
        best = want[i] > want[best] ? i : best;
        best_got = got[i] > got[best_got] ? i : best_got;
    }
    for (size_t i = 0; i < n; i++)
        second = i != best && want[i] > second ? want[i] : second;
    d.cosine = gw / sqrt(gg * ww);
    d.rms = sqrt(dd / ww);
    d.same_best = best == best_got || (double)(want[best] - second) <= 0.1 * sqrt(ww / (double)n);
    return d;
}

static void check_sequence(int sequence)
{
    struct session_row rows[MAX_TOKENS];
    struct error err = {0};
    struct difference worst = {.cosine = 1};
    size_t n = read_sequence(sequence, rows);
    float *want = read_reference(sequence, n * n_vocab), *got = malloc(n * n_vocab * sizeof *got);
    session_reset(session, 0);
    ck_assert_msg(session_step(session, rows, n, n == 1, got, &err) == ERROR_NONE, "%s", err.message);
    for (size_t i = 0; i < n; i++) {
        struct difference d = compare(got + i * n_vocab, want + i * n_vocab, n_vocab);
        worst.max_abs = d.max_abs > worst.max_abs ? d.max_abs : worst.max_abs;
        worst.cosine = d.cosine < worst.cosine ? d.cosine : worst.cosine;
        worst.rms = d.rms > worst.rms ? d.rms : worst.rms;
        ck_assert_msg(d.same_best, "sequence %d position %zu: another best token", sequence, i);
    }
    printf("sequence %d: %zu tokens, max abs %.3g, cosine %.6f, rms %.3f %%\n", sequence, n, worst.max_abs,
           worst.cosine, 100 * worst.rms);
    if (sequence <= 3) /* no activation is near enough to a rounding boundary to flip */
        ck_assert_double_le(worst.max_abs, 1e-4);
    ck_assert_double_ge(worst.cosine, 0.999);
    ck_assert_double_le(worst.rms, 0.04);
    free(got);
    free(want);
}

START_TEST(agrees)
{
    if (!available())
        return;
    open_session(NULL, 0);
    check_sequence(_i);
    close_session();
}
END_TEST

/* The continuation that bitnet.cpp chose, one token at a time, for as long as its margins say more than noise. */
START_TEST(greedy)
{
    struct session_row rows[MAX_TOKENS];
    struct error err = {0};
    char path[128];
    int id, best = 0;
    double logit, margin;
    if (!available())
        return;
    open_session(NULL, 0);
    size_t n = read_sequence(_i, rows);
    float *logits = malloc(n_vocab * sizeof *logits);
    for (size_t i = 0; i + 1 < n; i++)
        rows[i].want_logits = false;
    ck_assert_msg(session_step(session, rows, n, n == 1, logits, &err) == ERROR_NONE, "%s", err.message);
    snprintf(path, sizeof path, FOLDER "tinyA.seq%d.greedy.txt", _i);
    FILE *file = fopen(path, "r");
    ck_assert_ptr_nonnull(file);
    while (fscanf(file, "%d %lf %lf", &id, &logit, &margin) == 3) {
        double square = 0;
        best = 0;
        for (uint32_t t = 0; t < n_vocab; t++) {
            best = logits[t] > logits[best] ? (int)t : best;
            square += (double)logits[t] * (double)logits[t];
        }
        if (margin > 0.1 * sqrt(square / n_vocab))
            ck_assert_int_eq(best, id);
        rows[0] = (struct session_row){.sequence = 0, .token = (uint32_t)id, .want_logits = true};
        ck_assert_msg(session_step(session, rows, 1, true, logits, &err) == ERROR_NONE, "%s", err.message);
    }
    fclose(file);
    free(logits);
    close_session();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("golden");
    TCase *tests = tcase_create("bitnet.cpp");
    tcase_add_loop_test(tests, agrees, 0, N_SEQUENCES);
    tcase_add_loop_test(tests, greedy, 0, N_SEQUENCES);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
