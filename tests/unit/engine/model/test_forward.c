/* The forward pass of every architecture against one written from the definitions, and what may not change its
 * result. */
#include "engine/engine.h"

#include "base/log.h"
#include "tests/unit/engine/model/reference.h"

enum { N_TOKENS = 12 };

static const struct model {
    struct model_file file;
    bool neox, relu2, sub_norms;
} models[] = {
    {{.seed = 1}, true, true, true},
    {{.seed = 2, .arch = "bitnet-25", .separate_head = true}, true, true, true},
    {{.seed = 3, .arch = "bitnet"}, true, false, true},
    {{.seed = 4, .arch = "llama"}, false, false, false},
    {{.seed = 6, .arch = "qwen3"}, true, false, false},
    {{.seed = 5, .arch = "llama", .separate_head = true, .rope_freqs = true}, false, false, false},
};

static uint32_t token_at(size_t i)
{
    return (uint32_t)(i * 37 + 11) % MF_VOCAB;
}

/* Logits [N_TOKENS][MF_VOCAB] of the file at mf_path, to be freed. */
static float *run_order(size_t chunk, int i2s_order)
{
    struct session *s;
    struct session_row rows[N_TOKENS];
    struct error err = {0};
    float *logits = malloc(N_TOKENS * MF_VOCAB * sizeof *logits);
    const struct engine_options options = {.model_path = mf_path(), .device = "cpu", .i2s_order = i2s_order};
    log_init(LOG_OFF, LOG_FORMAT_TEXT);
    ck_assert_ptr_nonnull(logits);
    ck_assert_msg(!session_open(&options, &s, &err), "%s", err.message);
    for (size_t i = 0; i < N_TOKENS; i++)
        rows[i] = (struct session_row){.token = token_at(i), .want_logits = true};
    for (size_t at = 0; at < N_TOKENS; at += chunk)
        ck_assert_msg(!session_step(s, rows + at, N_TOKENS - at < chunk ? N_TOKENS - at : chunk, false,
                                    logits + at * MF_VOCAB, &err),
                      "%s", err.message);
    session_close(s);
    return logits;
}

static float *run(size_t chunk)
{
    return run_order(chunk, -1);
}

/* One activation that rounds the other way is a difference of about 1 %, a wrong rotation or activation function
 * one of tens. */
START_TEST(agrees_with_reference)
{
    const struct model *m = &models[_i];
    struct error err = {0};
    struct gguf *g;
    double want[MF_VOCAB];
    mf_write(&m->file, mf_path());
    float *got = run(N_TOKENS);
    ck_assert_msg(!gguf_open(mf_path(), &g, &err), "%s", err.message);
    struct reference *r = calloc(1, sizeof *r);
    *r = (struct reference){.g = g, .neox = m->neox, .relu2 = m->relu2, .sub_norms = m->sub_norms};
    for (int position = 0; position < N_TOKENS; position++) {
        double gw = 0, gg = 0, ww = 0, dd = 0;
        ref_token(r, token_at((size_t)position), position, want);
        for (int t = 0; t < MF_VOCAB; t++) {
            double x = (double)got[position * MF_VOCAB + t];
            gw += x * want[t];
            gg += x * x;
            ww += want[t] * want[t];
            dd += (x - want[t]) * (x - want[t]);
        }
        ck_assert_msg(gw / sqrt(gg * ww) > 0.9995 && sqrt(dd / ww) < 0.03,
                      "position %d: cosine %.6f, rms difference %.2f %%", position, gw / sqrt(gg * ww),
                      100 * sqrt(dd / ww));
    }
    free(r);
    gguf_close(g);
    free(got);
    unlink(mf_path());
}
END_TEST

START_TEST(chunks_agree)
{
    mf_write(&models[_i].file, mf_path());
    float *whole = run(N_TOKENS), *one = run(1), *five = run(5);
    ck_assert_int_eq(memcmp(whole, one, N_TOKENS * MF_VOCAB * sizeof *whole), 0);
    ck_assert_int_eq(memcmp(whole, five, N_TOKENS * MF_VOCAB * sizeof *whole), 0);
    free(whole);
    free(one);
    free(five);
    unlink(mf_path());
}
END_TEST

/* Linear scaling by 1 changes nothing, by 2 it does. */
START_TEST(rope_scaling)
{
    struct model_file file = {.seed = 4, .arch = "llama"};
    mf_write(&file, mf_path());
    float *plain = run(N_TOKENS);
    file.f32_key = "rope.scaling.factor";
    file.f32_value = 1.0f;
    mf_write(&file, mf_path());
    float *by_1 = run(N_TOKENS);
    file.f32_value = 2.0f;
    mf_write(&file, mf_path());
    float *by_2 = run(N_TOKENS);
    ck_assert_int_eq(memcmp(plain, by_1, N_TOKENS * MF_VOCAB * sizeof *plain), 0);
    ck_assert_int_ne(memcmp(plain, by_2, N_TOKENS * MF_VOCAB * sizeof *plain), 0);
    free(plain);
    free(by_1);
    free(by_2);
    unlink(mf_path());
}
END_TEST

/* The order of I2_S codes is the caller's to say: no file names it, and both readings of a file are valid codes. */
START_TEST(i2s_order)
{
    mf_write(&models[0].file, mf_path());
    float *by_default = run(N_TOKENS), *x86 = run_order(N_TOKENS, I2S_ORDER_128),
          *arm = run_order(N_TOKENS, I2S_ORDER_64);
    ck_assert_int_eq(memcmp(by_default, x86, N_TOKENS * MF_VOCAB * sizeof *x86), 0);
    ck_assert_int_ne(memcmp(by_default, arm, N_TOKENS * MF_VOCAB * sizeof *x86), 0);
    free(by_default);
    free(x86);
    free(arm);
    unlink(mf_path());
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("forward");
    TCase *tests = tcase_create("forward");
    tcase_add_loop_test(tests, agrees_with_reference, 0, sizeof models / sizeof models[0]);
    tcase_add_loop_test(tests, chunks_agree, 0, sizeof models / sizeof models[0]);
    tcase_add_test(tests, rope_scaling);
    tcase_add_test(tests, i2s_order);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
