/* What a start serves: what was last complete, the operator's model when that was changed, and always something when anything can be. */
#include "tests/suite.h"
#include "tests/unit/engine/registry/support.h"

#include "engine/registry/state.h"

#include <stdatomic.h>

static struct registry_options with_state(void)
{
    struct registry_options o = options();
    o.state_file = at("state");
    return o;
}

/* A first life with b, c and the default b. */
static struct registry_options lived(void)
{
    struct registry_options o = with_state();
    struct registry *r = open_registry(&o);
    struct error err = {0};
    ck_assert(access(o.state_file, F_OK) != 0);
    struct load_request q = {.path = tales("b.gguf"), .id = "b", .aliases = "bee", .format = TERNARY_TL1, .kv_cache_bytes = 1 << 20,
                             .validation = {.no_cross_validation = true}};
    struct load_result result;
    ck_assert(!registry_load(r, &q, &result, &err));
    served_release(result.served);
    must_load(r, tales("c.gguf"), "c");
    ck_assert(!registry_set_default(r, "b", &err));
    registry_close(r);
    return o;
}

START_TEST(as_it_was)
{
    struct registry_options o = lived();
    struct registry *r = open_registry(&o);
    uint64_t freed;
    expect_listed(r, "*b:active,c:active,tales:active");
    struct served *s = acquire(r, "bee");
    ck_assert_str_eq(engine_model(served_engine(s))->quantization, "tl1");
    ck_assert_uint_le(engine_model(served_engine(s))->kv_bytes, 1 << 20);
    served_release(s);
    ck_assert(!registry_unload(r, "tales", &freed, NULL));
    registry_close(r);
    r = open_registry(&o);
    expect_listed(r, "*b:active,c:active");
    registry_close(r);
    o.engine.model_path = NULL; /* the state names models */
    o.engine.model_id = NULL;
    r = open_registry(&o);
    expect_listed(r, "*b:active,c:active");
    registry_close(r);
}
END_TEST

START_TEST(a_missing_model)
{
    struct registry_options o = lived();
    unlink(at("c.gguf"));
    struct registry *r = open_registry(&o);
    struct model_entry *list;
    struct error err = {0};
    size_t n;
    uint64_t freed;
    expect_listed(r, "*b:active,c:failed,tales:active");
    ck_assert(registry_list(r, &list, &n));
    ck_assert_ptr_nonnull(strstr(list[1].message, "cannot open"));
    ck_assert_ptr_null(list[1].served);
    registry_list_free(list, n);
    struct served *s;
    ck_assert_int_eq(registry_acquire(r, "c", &s, &err), ERROR_MODEL_NOT_FOUND);
    ck_assert_ptr_nonnull(strstr(err.message, "the model \"c\" did not load: cannot open"));
    ck_assert(!registry_set_default(r, "tales", &err)); /* writes: it is not forgotten */
    registry_close(r);
    tales("c.gguf");
    r = open_registry(&o);
    expect_listed(r, "b:active,c:active,*tales:active");
    registry_close(r);
    unlink(at("c.gguf"));
    r = open_registry(&o);
    must_load(r, at("b.gguf"), "c"); /* one that failed gives way */
    ck_assert(!registry_unload(r, "c", &freed, &err));
    registry_close(r);
    r = open_registry(&o);
    expect_listed(r, "b:active,*tales:active");
    registry_close(r);
}
END_TEST

START_TEST(a_missing_default)
{
    struct registry_options o = lived();
    struct error err = {0};
    struct registry *r;
    unlink(at("b.gguf"));
    r = open_registry(&o);
    expect_listed(r, "b:failed,c:active,*tales:active");
    registry_close(r);
    o.engine.model_path = NULL;
    ck_assert_int_eq(registry_open(&o, &r, &err), ERROR_MODEL_LOAD_FAILED);
    ck_assert_ptr_nonnull(strstr(err.message, "the default model b does not load"));
}
END_TEST

START_TEST(another_operators_model)
{
    struct registry_options o = lived();
    o.engine.model_path = tales("new.gguf");
    struct registry *r = open_registry(&o);
    expect_listed(r, "b:active,c:active,*new:active");
    registry_close(r);
    o.engine.model_id = "c"; /* the operator's wins */
    r = open_registry(&o);
    expect_listed(r, "b:active,*c:active");
    struct served *s = acquire(r, "c");
    ck_assert_str_eq(engine_model(served_engine(s))->path, o.engine.model_path);
    served_release(s);
    registry_close(r);
}
END_TEST

START_TEST(no_longer_allowed)
{
    struct registry_options o = lived();
    mkdir(at("sub"), 0755);
    o.allowed_dirs = at("sub");
    struct registry *r = open_registry(&o);
    expect_listed(r, "b:failed,c:failed,*tales:active");
    registry_close(r);
    o.allowed_dirs = folder();
    unlink(at("c.gguf"));
    ck_assert(!symlink("/dev/zero", at("c.gguf")));
    r = open_registry(&o);
    expect_listed(r, "*b:active,c:failed,tales:active");
    registry_close(r);
    rmdir(at("sub"));
}
END_TEST

START_TEST(torn)
{
    struct registry_options o = lived();
    struct error err = {0};
    struct state back;
    ck_assert(truncate(o.state_file, 100) == 0);
    struct registry *r = open_registry(&o);
    expect_listed(r, "*tales:active");
    ck_assert(access(at("state.unreadable"), F_OK) == 0 && access(o.state_file, F_OK) != 0);
    must_load(r, at("b.gguf"), "b");
    registry_close(r);
    ck_assert(!state_load(o.state_file, &back, &err));
    ck_assert_uint_eq(back.n_models, 2);
    state_fini(&back);
    o.engine.model_path = NULL;
    ck_assert(truncate(o.state_file, 100) == 0);
    ck_assert_int_eq(registry_open(&o, &r, &err), ERROR_VALIDATION_FAILED);
}
END_TEST

/* What cannot be remembered is not done. */
START_TEST(state_cannot_be_written)
{
    struct registry_options o = lived();
    struct registry *r = open_registry(&o);
    struct error err = {0};
    uint64_t freed;
    mkdir(at("state.new"), 0755);
    ck_assert_int_eq(load(r, at("c.gguf"), "d", &err), ERROR_INTERNAL);
    ck_assert_ptr_nonnull(strstr(err.message, "state file"));
    ck_assert_int_eq(registry_unload(r, "c", &freed, &err), ERROR_INTERNAL);
    ck_assert_int_eq(registry_set_default(r, "c", &err), ERROR_INTERNAL);
    expect_listed(r, "*b:active,c:active,tales:active");
    struct served *s = acquire(r, "c");
    served_release(s);
    rmdir(at("state.new"));
    ck_assert(!registry_unload(r, "c", &freed, &err));
    registry_close(r);
}
END_TEST

struct asking {
    struct registry *r;
    atomic_bool over;
    atomic_uint n_got;
};

/* Takes the model whenever it is there, and uses it. */
static void *ask_for_d(void *arg)
{
    struct asking *a = arg;
    while (!atomic_load(&a->over)) {
        struct served *s;
        usleep(20); /* or others hardly get the lock */
        if (registry_acquire(a->r, "d", &s, NULL))
            continue;
        a->n_got += strcmp(served_id(s), "d") == 0 && engine_model(served_engine(s))->vocab_size > 0;
        served_release(s);
    }
    return NULL;
}

/* A model that is served until it turns out that it cannot be remembered: who got it keeps it, nobody gets what is gone. */
START_TEST(taken_back_while_it_is_asked_for)
{
    struct registry_options o = options();
    o.engine.null_model = &(struct null_options){0};
    o.state_file = at("state");
    const char *path = tales("c.gguf");
    struct asking a = {.r = open_registry(&o)};
    struct error err = {0};
    pthread_t thread;
    mkdir(at("state.new"), 0755);
    ck_assert(!pthread_create(&thread, NULL, ask_for_d, &a));
    for (int i = 0; i < 8; i++) {
        const struct load_request q = {.path = path, .id = "d", .make_default = true};
        struct load_result result;
        ck_assert_int_eq(registry_load(a.r, &q, &result, &err), ERROR_INTERNAL);
        ck_assert_ptr_null(result.served);
        expect_listed(a.r, "*null-model:active");
    }
    atomic_store(&a.over, true);
    pthread_join(thread, NULL);
    rmdir(at("state.new"));
    registry_close(a.r);
}
END_TEST

SUITE("restore", taken_back_while_it_is_asked_for, as_it_was, a_missing_model, a_missing_default, another_operators_model, no_longer_allowed, torn, state_cannot_be_written)
