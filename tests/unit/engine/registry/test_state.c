/* The state file: what is written is read again, what is torn is told, and a process that is killed at any moment leaves a whole one. */
#include "tests/suite.h"
#include "tests/unit/engine/registry/support.h"

#include "engine/registry/state.h"

#include <signal.h>
#include <sys/wait.h>

static struct state_model models[] = {
    {"tales", "", {.path = "models/tales.gguf"}},
    {"b-2", "big,Org/Model:1", {.path = "/srv/my models/100%\n\x7f.gguf", .device = "cpu", .format = TERNARY_TL2, .kv_cache_bytes = 123456789, .no_prefix_cache = true}},
    {"c", "x", {.path = "/c.gguf", .format = TERNARY_TL1}},
    {"d", "", {.path = "/d\xc3\xa9.gguf", .device = "cuda:1", .format = TERNARY_I2S}},
};
static const struct state whole = {"tales", "models/ta les.gguf", "b-2", models, sizeof models / sizeof *models};

static void expect_same(const struct state *a, const struct state *b)
{
    ck_assert_str_eq(a->operator_id, b->operator_id);
    ck_assert_str_eq(a->operator_path, b->operator_path);
    ck_assert_str_eq(a->default_id, b->default_id);
    ck_assert_uint_eq(a->n_models, b->n_models);
    for (size_t i = 0; i < a->n_models; i++) {
        const struct state_model *x = &a->models[i], *y = &b->models[i];
        ck_assert_str_eq(x->id, y->id);
        ck_assert_str_eq(x->aliases, y->aliases);
        ck_assert_str_eq(x->source.path, y->source.path);
        ck_assert_str_eq(x->source.device, y->source.device);
        ck_assert_int_eq(x->source.format, y->source.format);
        ck_assert_uint_eq(x->source.kv_cache_bytes, y->source.kv_cache_bytes);
        ck_assert_int_eq(x->source.no_prefix_cache, y->source.no_prefix_cache);
    }
}

static struct buffer text_of(const struct state *s)
{
    struct buffer b;
    buffer_init(&b, 1 << 20);
    ck_assert(state_print(s, &b));
    return b;
}

START_TEST(round_trip)
{
    struct state back, none = {0};
    struct error err = {0};
    struct buffer b = text_of(&whole);
    ck_assert_msg(!state_parse(b.data, b.n_bytes, &back, &err), "%s", err.message);
    expect_same(&whole, &back);
    ck_assert_ptr_nonnull(strstr(b.data, "path /srv/my models/100%25%0A%7F.gguf\nalias big\nalias Org/Model:1\ndevice cpu\n"));
    state_fini(&back);
    buffer_fini(&b);
    b = text_of(&none);
    ck_assert(!state_parse(b.data, b.n_bytes, &back, &err));
    expect_same(&none, &back);
    buffer_fini(&b);
}
END_TEST

/* Cut anywhere, or any byte changed. */
START_TEST(torn)
{
    struct state back;
    struct buffer b = text_of(&whole);
    for (size_t n = 0; n < b.n_bytes; n++) {
        struct error err = {0};
        ck_assert_int_eq(state_parse(b.data, n, &back, &err), ERROR_VALIDATION_FAILED);
        ck_assert_ptr_nonnull(strstr(err.message, "not whole"));
        b.data[n] ^= 0x10;
        ck_assert_int_eq(state_parse(b.data, b.n_bytes, &back, &err), ERROR_VALIDATION_FAILED);
        b.data[n] ^= 0x10;
    }
    buffer_fini(&b);
}
END_TEST

START_TEST(odd_lines)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"bitnet-models 2\n", "line 1: expected \"bitnet-models 1\", found \"bitnet-models 2\""},
        {"", "not whole"},
        {"bitnet-models 1\ncolour red\n", "line 2: expected a word of this version with its value, found \"colour red\""},
        {"bitnet-models 1\nmodel a\n", "model a: expected a path, found none"},
        {"bitnet-models 1\nmodel a\npath\n", "line 3"},
        {"bitnet-models 1\nmodel a\npath /a%0\n", "line 3"},
        {"bitnet-models 1\nmodel a\npath /a%00b\n", "line 3"},
        {"bitnet-models 1\nmodel a\npath /a\nformat q4\n", "line 4"},
        {"bitnet-models 1\nmodel a\npath /a\nkv_cache_bytes -1\n", "line 4"},
        {"bitnet-models 1\nmodel a\npath /a\nprefix_cache on\n", "line 4"},
        {"bitnet-models 1\nmodel a\npath /a\ndevice a device with a long name\n", "line 4"},
        {"bitnet-models 1\noperator a\n", "line 2"},
        {"bitnet-models 1\nmodel 01234567890123456789012345678901234567890123456789012345678901234\n", "line 2"},
        {"bitnet-models 1\nmodel a\npath /a", "line 2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[1024];
        struct state back;
        struct error err = {0};
        size_t n = strlen(cases[i].text);
        snprintf(text, sizeof text, "%send %016lx\n", cases[i].text, (unsigned long)kernel_hash(0, cases[i].text, n));
        ck_assert_int_eq(state_parse(text, strlen(text), &back, &err), ERROR_VALIDATION_FAILED);
        ck_assert_msg(strstr(err.message, cases[i].message), "%zu: %s", i, err.message);
    }
}
END_TEST

START_TEST(files)
{
    struct state back;
    struct error err = {0};
    const char *path = at("state");
    ck_assert_int_eq(state_load(path, &back, &err), ERROR_NOT_FOUND);
    ck_assert_msg(!state_save(path, &whole, &err), "%s", err.message);
    ck_assert(!state_load(path, &back, &err));
    expect_same(&whole, &back);
    state_fini(&back);
    ck_assert(access(at("state.new"), F_OK) != 0);
    ck_assert_int_eq(state_save(at("none/state"), &whole, &err), ERROR_INTERNAL);
    ck_assert_ptr_nonnull(strstr(err.message, "cannot open the folder of"));
    ck_assert_int_eq(state_load(folder(), &back, &err), ERROR_VALIDATION_FAILED);
    mkdir(at("state.new"), 0755); /* in the way of the new one: the old one stays */
    ck_assert_int_eq(state_save(path, &(struct state){0}, &err), ERROR_INTERNAL);
    ck_assert(!state_load(path, &back, &err));
    expect_same(&whole, &back);
    state_fini(&back);
    rmdir(at("state.new"));
}
END_TEST

static void save_for_ever(const char *path)
{
    for (size_t n = 0;; n = (n + 1) % (whole.n_models + 1)) {
        struct state s = whole;
        s.n_models = n;
        state_save(path, &s, NULL);
    }
}

/* Killed while it writes one state after the other, 200 times: what is there is one of them. */
START_TEST(killed)
{
    const char *path = at("state");
    struct error err = {0};
    unsigned seen = 0;
    ck_assert(!state_save(path, &whole, &err));
    for (int i = 0; i < 200; i++) {
        struct state back;
        pid_t child = fork();
        if (child == 0)
            save_for_ever(path);
        usleep((useconds_t)(500 + i * 97 % 3000));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        ck_assert_msg(!state_load(path, &back, &err), "kill %d: %s", i, err.message);
        struct state expected = whole;
        expected.n_models = back.n_models;
        expect_same(&expected, &back);
        seen |= 1u << back.n_models;
        state_fini(&back);
    }
    ck_assert(seen & (seen - 1)); /* several of them */
    unlink(at("state.new"));
}
END_TEST

SUITE("state", round_trip, torn, odd_lines, files, killed)
