/* What ModelService is asked for: bounds, the field that an error names, and what the registry gets. */
#include "tests/suite.h"

#include "base/clock.h"
#include "service/model_requests.h"

static Bitnet__V1__LoadModelRequest load(const char *path)
{
    Bitnet__V1__LoadModelRequest r = BITNET__V1__LOAD_MODEL_REQUEST__INIT;
    r.path = (char *)(uintptr_t)path;
    return r;
}

static Bitnet__V1__SwapModelRequest swap(void)
{
    Bitnet__V1__SwapModelRequest r = BITNET__V1__SWAP_MODEL_REQUEST__INIT;
    r.path = (char *)(uintptr_t) "/m/a.gguf";
    r.id = (char *)(uintptr_t) "a";
    return r;
}

/* The field at fault, "" when the request is good. */
static const char *fault(enum error_code (*check)(const void *, struct error *), const void *r)
{
    static struct error err;
    err = (struct error){0};
    enum error_code code = check(r, &err);
    ck_assert_int_eq(code, err.code);
    ck_assert(!code || code == ERROR_VALIDATION_FAILED);
    ck_assert(!code || strstr(err.message, "expected"));
    return err.param;
}

START_TEST(paths_are_absolute_and_of_gguf_files)
{
    static const char *const good[] = {"/a.gguf", "/models/x/y.gguf"}, *const bad[] = {"",        "a.gguf", "/a.gguf ",
                                                                                       "/.gguf",  "/a",     "/a.gguf/",
                                                                                       "./a.gguf"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        const Bitnet__V1__LoadModelRequest r = load(good[i]);
        ck_assert_str_eq(fault(model_check_load, &r), "");
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const Bitnet__V1__LoadModelRequest r = load(bad[i]);
        ck_assert_msg(strcmp(fault(model_check_load, &r), "path") == 0, "%s", bad[i]);
    }
    char *long_path = malloc(5001);
    memset(long_path, 'a', 5000);
    memcpy(long_path, "/", 1);
    memcpy(long_path + 4995, ".gguf", 6);
    const Bitnet__V1__LoadModelRequest r = load(long_path);
    ck_assert_str_eq(fault(model_check_load, &r), "path");
    free(long_path);
}
END_TEST

START_TEST(ids_have_64_characters_of_a_few)
{
    char id[66];
    memset(id, 'x', sizeof id);
    id[64] = '\0';
    Bitnet__V1__LoadModelRequest r = load("/a.gguf");
    ck_assert_str_eq(fault(model_check_load, &r), ""); /* none: from the file's name */
    r.id = id;
    ck_assert_str_eq(fault(model_check_load, &r), "");
    id[64] = 'x';
    id[65] = '\0';
    ck_assert_str_eq(fault(model_check_load, &r), "id");
    static const char *const bad[] = {"a b", "a/b", "../a", "a.b", "\xC3\xA9"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        r.id = (char *)(uintptr_t)bad[i];
        ck_assert_str_eq(fault(model_check_load, &r), "id");
    }
    Bitnet__V1__SwapModelRequest s = swap();
    Bitnet__V1__UnloadModelRequest u = BITNET__V1__UNLOAD_MODEL_REQUEST__INIT;
    Bitnet__V1__SetDefaultModelRequest d = BITNET__V1__SET_DEFAULT_MODEL_REQUEST__INIT;
    s.id = (char *)(uintptr_t) "";
    ck_assert_str_eq(fault(model_check_swap, &s), "id");
    ck_assert_str_eq(fault(model_check_unload, &u), "id");
    ck_assert_str_eq(fault(model_check_default, &d), "id");
}
END_TEST

START_TEST(bounds_of_validation)
{
    Bitnet__V1__Validation v = BITNET__V1__VALIDATION__INIT;
    Bitnet__V1__LoadModelRequest r = load("/a.gguf");
    r.validation = &v;
    ck_assert_str_eq(fault(model_check_load, &r), "");
    const struct {
        double accuracy;
        uint32_t samples, timeout;
        const char *fault;
    } cases[] = {{0.9, 10, 10, ""},
                 {1, 1000, 3600, ""},
                 {0.89, 10, 10, "validation.min_accuracy"},
                 {1.01, 10, 10, "validation.min_accuracy"},
                 {1, 9, 10, "validation.samples"},
                 {1, 1001, 10, "validation.samples"},
                 {1, 10, 9, "validation.timeout_seconds"},
                 {1, 10, 3601, "validation.timeout_seconds"}};
    v._min_accuracy_case = BITNET__V1__VALIDATION___MIN_ACCURACY_MIN_ACCURACY;
    v._samples_case = BITNET__V1__VALIDATION___SAMPLES_SAMPLES;
    v._timeout_seconds_case = BITNET__V1__VALIDATION___TIMEOUT_SECONDS_TIMEOUT_SECONDS;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        v.min_accuracy = cases[i].accuracy;
        v.samples = cases[i].samples;
        v.timeout_seconds = cases[i].timeout;
        ck_assert_str_eq(fault(model_check_load, &r), cases[i].fault);
    }
}
END_TEST

START_TEST(words_and_aliases_of_a_load)
{
    char *aliases[17] = {(char *)(uintptr_t) "gpt-4o", (char *)(uintptr_t) "org/model.v2"}, room[MODELS_ALIASES_BYTES];
    Bitnet__V1__LoadModelRequest r = load("/a.gguf");
    r.device = (char *)(uintptr_t) "tpu";
    ck_assert_str_eq(fault(model_check_load, &r), "device");
    r.device = (char *)(uintptr_t) "cpu";
    r.quantization_format = (char *)(uintptr_t) "q4";
    ck_assert_str_eq(fault(model_check_load, &r), "quantization_format");
    r.quantization_format = (char *)(uintptr_t) "tl2";
    r.aliases = aliases;
    r.n_aliases = 2;
    ck_assert_str_eq(fault(model_check_load, &r), "");
    const struct load_request q = model_load_request(&r, room);
    ck_assert_str_eq(q.aliases, "gpt-4o,org/model.v2");
    ck_assert_str_eq(q.device, "cpu");
    ck_assert_int_eq(q.format, TERNARY_TL2);
    aliases[1] = (char *)(uintptr_t) "a,b";
    ck_assert_str_eq(fault(model_check_load, &r), "aliases");
    aliases[1] = (char *)(uintptr_t) "";
    ck_assert_str_eq(fault(model_check_load, &r), "aliases");
    for (size_t i = 0; i < 17; i++)
        aliases[i] = (char *)(uintptr_t) "x";
    r.n_aliases = 17;
    ck_assert_str_eq(fault(model_check_load, &r), "aliases");
}
END_TEST

START_TEST(bounds_of_a_swap)
{
    static char long_prompt[600];
    char *prompts[6] = {(char *)(uintptr_t) "a", long_prompt};
    Bitnet__V1__SwapModelRequest r = swap();
    r.prompts = prompts;
    r.n_prompts = 2;
    for (size_t i = 0; i < 256; i++)
        memcpy(long_prompt + 2 * i, "\xC3\xA9", 2); /* characters count, not bytes */
    ck_assert_str_eq(fault(model_check_swap, &r), "");
    memcpy(long_prompt + 512, "x", 2);
    ck_assert_str_eq(fault(model_check_swap, &r), "prompts");
    prompts[1] = prompts[2] = prompts[3] = prompts[4] = prompts[5] = prompts[0];
    r.n_prompts = 5;
    ck_assert_str_eq(fault(model_check_swap, &r), "");
    r.n_prompts = 6;
    ck_assert_str_eq(fault(model_check_swap, &r), "prompts");
    r.n_prompts = 0;
    r.strategy = (Bitnet__V1__SwapStrategy)3;
    ck_assert_str_eq(fault(model_check_swap, &r), "strategy");
    r.strategy = BITNET__V1__SWAP_STRATEGY__SWAP_STRATEGY_ROLLING;
    r._watch_seconds_case = BITNET__V1__SWAP_MODEL_REQUEST___WATCH_SECONDS_WATCH_SECONDS;
    static const double bad[] = {0, -1, 601};
    for (size_t i = 0; i < 3; i++) {
        r.watch_seconds = bad[i];
        ck_assert_str_eq(fault(model_check_swap, &r), "watch_seconds");
    }
    r.watch_seconds = 0.5;
    ck_assert_str_eq(fault(model_check_swap, &r), "");
    const struct swap_request q = model_swap_request(&r);
    ck_assert_int_eq(q.strategy, SWAP_ROLLING);
    ck_assert_int_eq(q.watch_ns, CLOCK_NS_PER_S / 2);
    ck_assert(!q.no_rollback);
}
END_TEST

SUITE("model_requests", paths_are_absolute_and_of_gguf_files, ids_have_64_characters_of_a_few, bounds_of_validation,
      words_and_aliases_of_a_load, bounds_of_a_swap)
