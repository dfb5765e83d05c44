/* Synthetic models and the writer below them: the same seed gives the same file, presets have the shapes they
 * name, text can be tokenised, and a failure leaves nothing behind. */
#include "tools/synth.h"

#include "engine/engine.h"
#include "tools/gguf_write.h"

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RANKS "../shared/data/tokenizers/llama3.tokenizer.model"

static char folder[256];

static const char *path_of(const char *name)
{
    static char paths[4][512];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static void setup(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/bitnet-synth-XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static size_t n_files(void)
{
    size_t n = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));)
        n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

static void teardown(void)
{
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] != '.')
            unlink(path_of(e->d_name));
    closedir(dir);
    rmdir(folder);
}

static void write_tiny(const char *name, uint64_t seed, const char *vocab)
{
    struct error err = {0};
    const struct synth_options options = {.path = path_of(name), .preset = "tiny", .seed = seed, .vocab_path = vocab};
    ck_assert_msg(!synth_write(&options, &err), "%s", err.message);
}

static char *read_all(const char *name, size_t *n)
{
    char *data = malloc((size_t)8 << 20);
    FILE *file = fopen(path_of(name), "rb");
    ck_assert(data && file);
    *n = fread(data, 1, (size_t)8 << 20, file);
    fclose(file);
    return data;
}

START_TEST(same_seed_same_file)
{
    size_t n_a, n_b, n_c;
    write_tiny("a", 1, NULL);
    write_tiny("b", 1, NULL);
    write_tiny("c", 2, NULL);
    char *a = read_all("a", &n_a), *b = read_all("b", &n_b), *c = read_all("c", &n_c);
    ck_assert(n_a == n_b && memcmp(a, b, n_a) == 0);
    ck_assert(n_a == n_c && memcmp(a, c, n_a) != 0);
    ck_assert_uint_eq(n_files(), 3);
    free(a);
    free(b);
    free(c);
}
END_TEST

/* The published shapes, cut to one layer; the two of 128,256 tokens take a gigabyte, so only the smaller ones are
 * written here. */
static const struct {
    const char *preset, *parts[6];
} presets[] = {
    {"tiny",
     {"bitnet-b1.58", "1 layers of 256, FFN 768 (relu2), vocabulary 1280, context 512", "4 heads of 64, 2 KV heads"}},
    {"0.7b",
     {"bitnet", "1 layers of 1536, FFN 4096 (silu), vocabulary 32002, context 2048", "16 heads of 96, 16 KV heads",
      "rotation neox over 96, base 10000"}},
};

static void on_progress(void *user, uint64_t n_done, uint64_t n_total)
{
    uint64_t *last = user;
    ck_assert(n_done > *last && n_done <= n_total);
    *last = n_done == n_total ? UINT64_MAX : n_done;
}

START_TEST(preset_shapes)
{
    struct error err = {0};
    struct buffer out;
    uint64_t last = 0;
    const struct synth_options options = {.path = path_of("m"),
                                          .preset = presets[_i].preset,
                                          .seed = 1,
                                          .n_layers = 1,
                                          .on_progress = on_progress,
                                          .user = &last};
    ck_assert_msg(!synth_write(&options, &err), "%s", err.message);
    ck_assert_msg(last == UINT64_MAX, "the last progress was not the whole");
    buffer_init(&out, 1 << 20);
    ck_assert_msg(!model_compat_check(path_of("m"), false, false, false, &out, &err), "%s", err.message);
    for (const char *const *part = presets[_i].parts; *part; part++)
        ck_assert_msg(strstr(out.data, *part) != NULL, "expected \"%s\" in:\n%s", *part, out.data);
    buffer_fini(&out);
}
END_TEST

START_TEST(what_pools_is_told)
{
    struct error err = {0};
    struct buffer out;
    const struct synth_options options = {.path = path_of("m"), .preset = "tiny", .n_layers = 1, .pooling = "cls", .not_causal = true};
    ck_assert_msg(!synth_write(&options, &err), "%s", err.message);
    for (int json = 0; json < 2; json++) {
        buffer_init(&out, 1 << 20);
        ck_assert_msg(!model_compat_check(path_of("m"), json, false, false, &out, &err), "%s", err.message);
        ck_assert_ptr_nonnull(strstr(out.data, json ? "\"pooling\":\"cls\"" : "pooled by cls, each token sees the whole text"));
        buffer_fini(&out);
    }
}
END_TEST

static void round_trip(const char *path, const char *text, size_t n_expected)
{
    struct tokenizer *t;
    struct error err = {0};
    struct token_list ids = {0};
    struct buffer out;
    ck_assert_msg(!tokenizer_open(path, &t, &err), "%s", err.message);
    ck_assert_msg(!tokenizer_encode(t, text, strlen(text), false, false, &ids, &err), "%s", err.message);
    buffer_init(&out, 1 << 16);
    ck_assert(!tokenizer_decode(t, ids.ids, ids.n, true, &out, &err));
    ck_assert_str_eq(out.data, text);
    if (n_expected)
        ck_assert_uint_eq(ids.n, n_expected);
    ck_assert(tokenizer_bos(t) == 1024 && tokenizer_is_eog(t, 1033));
    buffer_fini(&out);
    free(ids.ids);
    tokenizer_close(t);
}

START_TEST(text_tokenises)
{
    write_tiny("bytes", 1, NULL);
#ifdef HAVE_PCRE2
    round_trip(path_of("bytes"),
               "Once upon a time, Gr\xc3\xbc\xc3\x9f"
               "e \xf0\x9f\x90\xbb!",
               31);
#else
    printf("skip text_tokenises built without PCRE2\n");
#endif
}
END_TEST

START_TEST(rank_file)
{
    if (access(RANKS, R_OK) != 0) {
        printf("skip rank_file %s is not there\n", RANKS);
        return;
    }
    write_tiny("ranks", 1, RANKS);
#ifdef HAVE_PCRE2
    round_trip(path_of("ranks"), "in the other", 3);
#endif
}
END_TEST

START_TEST(refused)
{
    struct error err = {0};
    struct synth_options options = {.path = path_of("x"), .preset = "900b"};
    ck_assert_int_eq(synth_write(&options, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "preset");
    options.preset = "tiny";
    options.vocab_path = "/nonexistent/ranks";
    ck_assert_int_eq(synth_write(&options, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "vocab");
    options.vocab_path = "Makefile";
    ck_assert_int_eq(synth_write(&options, &err), ERROR_VALIDATION_FAILED);
    ck_assert_uint_eq(n_files(), 0);
    options.vocab_path = NULL;
    options.path = "/nonexistent/folder/x";
    ck_assert_int_eq(synth_write(&options, &err), ERROR_INTERNAL);
}
END_TEST

/* Writers that are misused or abandoned report it and leave no file. */
START_TEST(writer_misuse)
{
    const uint64_t dims[1] = {8};
    for (int kind = 0; kind < 5; kind++) {
        struct gguf_writer *w;
        struct error err = {0};
        char zeros[64] = {0};
        ck_assert(!gguf_writer_open(path_of("w"), &w, &err));
        gguf_write_tensor(w, "t", 0, 1, dims, 32);
        if (kind == 0)
            gguf_write_data(w, zeros, 33); /* too much */
        else if (kind == 1)
            gguf_write_data(w, zeros, 31); /* too little */
        else if (kind == 2)
            gguf_write_strings(w, "k", 2), gguf_write_element(w, "a", 1); /* one element missing */
        else if (kind == 3)
            gguf_write_data(w, zeros, 32), gguf_write_u32(w, "late", 1);
        if (kind < 4)
            ck_assert_int_eq(gguf_writer_finish(w, &err), ERROR_INTERNAL);
        gguf_writer_close(w);
        ck_assert_uint_eq(n_files(), 0);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("synth");
    TCase *tests = tcase_create("synth");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, same_seed_same_file);
    tcase_add_loop_test(tests, preset_shapes, 0, sizeof presets / sizeof presets[0]);
    tcase_add_test(tests, text_tokenises);
    tcase_add_test(tests, rank_file);
    tcase_add_test(tests, refused);
    tcase_add_test(tests, what_pools_is_told);
    tcase_add_test(tests, writer_misuse);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
