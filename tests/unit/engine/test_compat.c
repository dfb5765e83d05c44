/* Reports on files that can be served and on some that cannot, as text and as JSON. */
#include "engine/engine.h"

#include "tests/unit/engine/harness.h"
#include "tests/unit/engine/model/model_file.h"

static enum error_code report(const char *path, bool json, bool keys, struct buffer *out, struct error *err)
{
    buffer_init(out, 1 << 20);
    *err = (struct error){0};
    enum error_code code = model_compat_check(path, json, keys, false, out, err);
    ck_assert(!out->failed && out->n_bytes);
    return code;
}

static void expect(const struct buffer *out, const char *const *parts)
{
    for (; *parts; parts++)
        ck_assert_msg(strstr(out->data, *parts) != NULL, "expected \"%s\" in:\n%s", *parts, out->data);
}

/* Braces, brackets and quotes close, outside and inside of strings. */
static void check_balanced(const char *json)
{
    int depth = 0;
    bool quoted = false;
    for (; *json; json++) {
        if (*json == '\\' && quoted)
            json++;
        else if (*json == '"')
            quoted = !quoted;
        else if (!quoted)
            depth += (*json == '{' || *json == '[') - (*json == '}' || *json == ']');
        ck_assert_int_ge(depth, 0);
    }
    ck_assert(depth == 0 && !quoted);
}

START_TEST(servable)
{
    struct buffer out;
    struct error err;
    ck_assert_int_eq(report(harness_model(), false, false, &out, &err), ERROR_NONE);
    expect(&out,
           (const char *const[]){": can be served\n", "bitnet-b1.58", "28 of I2_S (36)", "128 weights in 32 bytes",
                                 "assumed", "4 layers of 256", "1280 tokens", "chat template bitnet-2b4t", NULL});
    ck_assert_ptr_null(strstr(out.data, "keys\n"));
    buffer_fini(&out);
    ck_assert_int_eq(report(harness_model(), false, true, &out, &err), ERROR_NONE);
    expect(&out, (const char *const[]){"general.architecture = \"bitnet-b1.58\"", "(1280 of string)", NULL});
    buffer_fini(&out);
}
END_TEST

START_TEST(servable_json)
{
    struct buffer out;
    struct error err;
    ck_assert_int_eq(report(harness_model(), true, true, &out, &err), ERROR_NONE);
    expect(&out,
           (const char *const[]){"\"servable\":true", "\"architecture\":\"bitnet-b1.58\"", "\"n_layers\":4",
                                 "{\"type\":36,\"name\":\"I2_S\",\"n\":28}",
                                 "\"i2s_order\":128,\"i2s_order_assumed\":true", "\"chat_template\":\"bitnet-2b4t\"",
                                 "{\"name\":\"general.file_type\",\"type\":\"u32\",\"value\":40}",
                                 "\"element_type\":\"string\",\"n\":1280,\"first\":[", NULL});
    check_balanced(out.data);
    buffer_fini(&out);
}
END_TEST

START_TEST(not_servable)
{
    struct buffer out;
    struct error err;
    const struct model_file file = {.change_tensor = "blk.1.attn_q.weight", .type = 12};
    mf_write(&file, mf_path());
    ck_assert_int_eq(report(mf_path(), false, false, &out, &err), ERROR_MODEL_LOAD_FAILED);
    expect(&out, (const char *const[]){": cannot be served\n", "tensor blk.1.attn_q.weight: unsupported type 12 (Q4_K)",
                                       "1 of Q4_K (12)", NULL});
    ck_assert_str_eq(err.param, "blk.1.attn_q.weight");
    buffer_fini(&out);
    ck_assert_int_eq(report(mf_path(), true, false, &out, &err), ERROR_MODEL_LOAD_FAILED);
    expect(&out, (const char *const[]){"\"servable\":false", "\"code\":\"MODEL_LOAD_FAILED\"",
                                       "\"param\":\"blk.1.attn_q.weight\"", NULL});
    check_balanced(out.data);
    buffer_fini(&out);
    unlink(mf_path());
}
END_TEST

START_TEST(no_file)
{
    struct buffer out;
    struct error err;
    ck_assert_int_eq(report("/nonexistent/\"odd\".gguf", true, true, &out, &err), ERROR_NOT_FOUND);
    expect(&out, (const char *const[]){"\"path\":\"/nonexistent/\\\"odd\\\".gguf\"", "\"code\":\"NOT_FOUND\"", NULL});
    check_balanced(out.data);
    buffer_fini(&out);
    ck_assert_int_eq(report("/", false, false, &out, &err), ERROR_MODEL_LOAD_FAILED);
    expect(&out, (const char *const[]){"is a directory", NULL});
    buffer_fini(&out);
}
END_TEST

/* A report that does not fit its buffer is an error, not half a report that looks whole. */
START_TEST(too_large)
{
    struct buffer out;
    struct error err = {0};
    buffer_init(&out, 100);
    ck_assert_int_eq(model_compat_check(harness_model(), true, true, false, &out, &err), ERROR_MEMORY_EXHAUSTED);
    buffer_fini(&out);
}
END_TEST

/* How a model pools is said, and that it does not chat is no fault of it. */
START_TEST(embeds)
{
    struct buffer out;
    struct error err = {0};
    const struct synth_options o = {.path = mf_path(), .preset = "tiny-qwen3", .n_layers = 1, .pooling = "last"};
    const struct model_file gemma = {.arch = "gemma3"};
    ck_assert_msg(!synth_write(&o, &err), "%s", err.message);
    ck_assert_int_eq(report(mf_path(), false, false, &out, &err), ERROR_NONE);
    expect(&out, (const char *const[]){"architecture  qwen3", "4 heads of 128, 2 KV heads", "embeddings    pooled by ", NULL});
    buffer_fini(&out);
    ck_assert_int_eq(report(mf_path(), true, false, &out, &err), ERROR_NONE);
    expect(&out, (const char *const[]){"\"sub_norms\":false,\"input_norms\":true", NULL});
    check_balanced(out.data);
    buffer_fini(&out);
    mf_write(&gemma, mf_path());
    ck_assert_int_eq(report(mf_path(), false, false, &out, &err), ERROR_MODEL_LOAD_FAILED);
    expect(&out, (const char *const[]){"reason        key general.architecture: expected", "found gemma3: its GELU", NULL});
    buffer_fini(&out);
    unlink(mf_path());
}
END_TEST

/* What is guessed fails the strict check only, and is listed by both. */
START_TEST(strict)
{
    struct buffer out;
    struct error err = {0};
    buffer_init(&out, 1 << 20);
    ck_assert_int_eq(model_compat_check("models/tales.gguf", false, false, true, &out, &err), ERROR_NONE);
    expect(&out, (const char *const[]){"128 weights in 32 bytes, as the weights tell", NULL});
    ck_assert_ptr_null(strstr(out.data, "warning"));
    buffer_clear(&out);
    ck_assert_int_eq(model_compat_check(harness_model(), true, false, false, &out, &err), ERROR_NONE);
    expect(&out, (const char *const[]){"\"warnings\":[\"the packing of I2_S tensors is assumed", NULL});
    check_balanced(out.data);
    buffer_clear(&out);
    ck_assert_int_eq(model_compat_check(harness_model(), false, false, true, &out, &err), ERROR_MODEL_LOAD_FAILED);
    expect(&out, (const char *const[]){": cannot be served\n", "strictly: the packing of I2_S tensors is assumed",
                                       "  warning       the packing", NULL});
    buffer_fini(&out);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("compat");
    TCase *tests = tcase_create("compat");
    tcase_add_test(tests, servable);
    tcase_add_test(tests, servable_json);
    tcase_add_test(tests, not_servable);
    tcase_add_test(tests, no_file);
    tcase_add_test(tests, too_large);
    tcase_add_test(tests, strict);
    tcase_add_test(tests, embeds);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
