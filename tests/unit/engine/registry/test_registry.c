/* Several models under ids: which one a request gets, how they come and go, and who may still use them. */
#include "tests/suite.h"
#include "tests/unit/engine/registry/support.h"

#include <stdatomic.h>

static bool is_gone(struct registry *r, uint64_t used)
{
    uint64_t now, budget;
    for (int i = 0; i < 4000; i++, usleep(5000)) {
        registry_memory(r, &now, &budget);
        if (now == used)
            return true;
    }
    return false;
}

START_TEST(names)
{
    static const struct {
        const char *name, *id; /* id NULL: not found */
    } cases[] = {
        {"", "tales"},       {"tales", "tales"},        {"b-2_x", "b-2_x"}, {"b.2_x", "b-2_x"}, {"b/2_x", "b-2_x"},
        {"big", "b-2_x"},    {"Org/Model.1", "b-2_x"},  {"Org-Model-1", "b-2_x"}, {"bi", NULL}, {"bigg", NULL},
        {"TALES", NULL},     {"tale", NULL},            {"taless", NULL},   {",", NULL},        {"b-2_x,big", NULL},
    };
    struct registry_options o = options();
    struct registry *r = open_registry(&o);
    struct load_request q = {.path = tales("b.gguf"), .id = "b-2_x", .aliases = "big,Org/Model.1", .validation = {.no_cross_validation = true}};
    struct load_result result;
    struct error err = {0};
    ck_assert_msg(!registry_load(r, &q, &result, &err), "%s", err.message);
    ck_assert_str_eq(result.id, "b-2_x");
    ck_assert_str_eq(served_id(result.served), "b-2_x");
    served_release(result.served);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct served *s;
        enum error_code code = registry_acquire(r, cases[i].name, &s, &err);
        if (cases[i].id) {
            ck_assert_msg(!code, "%s: %s", cases[i].name, err.message);
            ck_assert_str_eq(served_id(s), cases[i].id);
            ck_assert_str_eq(engine_model(served_engine(s))->id, cases[i].id);
        } else {
            ck_assert_int_eq(code, ERROR_MODEL_NOT_FOUND);
            ck_assert_ptr_nonnull(strstr(err.message, "; \"b-2_x\", \"tales\" are served"));
            ck_assert_ptr_null(s);
        }
        served_release(s);
    }
    registry_close(r);
}
END_TEST

/* A wish for a kind of device is met by another model of the same file, if there is one. */
START_TEST(wishes)
{
    static const struct {
        const char *name;
        enum device_wish wish;
        const char *id;
    } cases[] = {{"tales", DEVICE_ANY, "tales"},  {"tales", DEVICE_CPU, "tales"}, {"tales", DEVICE_GPU, "on-gpu"}, {"", DEVICE_GPU, "on-gpu"},
                 {"on-gpu", DEVICE_CPU, "tales"}, {"on-gpu", DEVICE_GPU, "on-gpu"}, {"other", DEVICE_GPU, "other"}, {"other", DEVICE_CPU, "other"}};
    struct registry_options o = options();
    setenv("BITNET_GPU_FAKE", "ok", 1);
    const char *path = tales("a.gguf");
    o.engine.model_path = path;
    o.engine.model_id = "tales";
    struct registry *r = open_registry(&o);
    must_load(r, tales("other.gguf"), "other");
    const struct load_request q = {.path = path, .id = "on-gpu", .device = "gpu", .validation = {.no_cross_validation = true}};
    struct load_result result;
    struct error err = {0};
    ck_assert_msg(!registry_load(r, &q, &result, &err), "%s", err.message);
    served_release(result.served);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct served *s;
        ck_assert_int_eq(registry_acquire_on(r, cases[i].name, cases[i].wish, &s, &err), ERROR_NONE);
        ck_assert_msg(strcmp(served_id(s), cases[i].id) == 0, "%s: %s for %s", cases[i].name, served_id(s), cases[i].id);
        served_release(s);
    }
    struct served *s;
    ck_assert_int_eq(registry_acquire_on(r, "nobody", DEVICE_GPU, &s, &err), ERROR_MODEL_NOT_FOUND);
    registry_close(r);
}
END_TEST

/* What the list says of "b" meanwhile. */
static void on_progress(void *user, const struct model_progress *p)
{
    struct model_entry *list;
    size_t n;
    char want[64];
    snprintf(want, sizeof want, "is being loaded: %s, ", p->phase);
    ck_assert(registry_list(user, &list, &n) && n == 2);
    ck_assert_msg(strncmp(list[0].message, want, strlen(want)) == 0, "%s", list[0].message);
    registry_list_free(list, n);
}

START_TEST(a_load_says_how_it_stands)
{
    struct registry_options o = options();
    struct registry *r = open_registry(&o);
    struct load_request q = {.path = tales("b.gguf"), .id = "b", .on_progress = on_progress, .user = r, .validation = {.no_cross_validation = true}};
    struct load_result result;
    struct model_entry *list;
    struct error err = {0};
    size_t n;
    ck_assert_msg(!registry_load(r, &q, &result, &err), "%s", err.message);
    served_release(result.served);
    ck_assert(registry_list(r, &list, &n));
    ck_assert_str_eq(list[0].message, "");
    registry_list_free(list, n);
    registry_close(r);
}
END_TEST

START_TEST(taken_names)
{
    static const struct {
        const char *id, *aliases, *param;
        enum error_code code;
    } cases[] = {
        {"tales", NULL, "id", ERROR_CONFLICT},       {"one", NULL, "id", ERROR_CONFLICT},     {"x", "tales", "aliases", ERROR_CONFLICT},
        {"x", "y,o.ne", "aliases", ERROR_CONFLICT},  {"a b", NULL, "id", ERROR_VALIDATION_FAILED}, {"x", "a b", "aliases", ERROR_VALIDATION_FAILED},
        {"a/b", NULL, "id", ERROR_VALIDATION_FAILED},
        {"0123456789012345678901234567890123456789012345678901234567890123456", NULL, "id", ERROR_VALIDATION_FAILED},
    };
    struct registry_options o = options();
    struct registry *r = open_registry(&o);
    const char *path = tales("b.gguf");
    must_load(r, path, "o-ne");
    struct load_request alias = {.path = path, .id = "two", .aliases = "one", .validation = {.no_cross_validation = true}};
    struct load_result result;
    struct error err = {0};
    ck_assert(!registry_load(r, &alias, &result, &err));
    served_release(result.served);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct load_request q = {.path = path, .id = cases[i].id, .aliases = cases[i].aliases};
        ck_assert_int_eq(registry_load(r, &q, &result, &err), cases[i].code);
        ck_assert_str_eq(err.param, cases[i].param);
        ck_assert_ptr_null(result.served);
    }
    expect_listed(r, "o-ne:active,*tales:active,two:active");
    registry_close(r);
}
END_TEST

START_TEST(id_of_the_file)
{
    struct registry_options o = options();
    struct registry *r = open_registry(&o);
    must_load(r, tales("my model.v2.gguf"), NULL);
    must_load(r, tales("0123456789012345678901234567890123456789012345678901234567890123456789.gguf"), "");
    expect_listed(r, "0123456789012345678901234567890123456789012345678901234567890123:active,my-model-v2:active,*tales:active");
    registry_close(r);
}
END_TEST

struct unload {
    struct registry *r;
    uint64_t *freed;
    enum error_code code;
};

static void *unload_b(void *arg)
{
    struct unload *u = arg;
    u->code = registry_unload(u->r, "b", u->freed, NULL);
    return NULL;
}

START_TEST(unload_waits_for_users)
{
    struct registry_options o = options();
    struct registry *r = open_registry(&o);
    uint64_t before, with, budget;
    registry_memory(r, &before, &budget);
    must_load(r, tales("b.gguf"), "b");
    registry_memory(r, &with, &budget);
    ck_assert_uint_gt(with, before + (2 << 20));
    struct served *s = acquire(r, "b");
    uint64_t hash = generate(s, 1, 20), freed = 0;
    struct error err = {0};
    pthread_t thread;
    struct unload u = {r, &freed, ERROR_INTERNAL};
    ck_assert(!pthread_create(&thread, NULL, unload_b, &u));
    while (strcmp(listed(r), "b:unloading,*tales:active") != 0)
        usleep(1000);
    struct served *none;
    ck_assert_int_eq(registry_acquire(r, "b", &none, &err), ERROR_MODEL_NOT_FOUND);
    ck_assert_str_eq(err.message, "the model \"b\" is being unloaded");
    ck_assert_int_eq(registry_unload(r, "b", &(uint64_t){0}, &err), ERROR_CONFLICT);
    ck_assert_int_eq(load(r, at("b.gguf"), "b", &err), ERROR_CONFLICT);
    ck_assert(generate(s, 1, 20) == hash); /* it is served on */
    struct served *again = served_ref(s);
    served_release(s);
    ck_assert(generate(again, 1, 20) == hash);
    ck_assert_uint_eq(freed, 0);
    served_release(again);
    pthread_join(thread, NULL);
    ck_assert_int_eq(u.code, ERROR_NONE);
    ck_assert_uint_eq(freed, with - before);
    expect_listed(r, "*tales:active");
    ck_assert(is_gone(r, before));
    must_load(r, at("b.gguf"), "b");
    registry_close(r);
}
END_TEST

START_TEST(the_default)
{
    struct registry_options o = options();
    struct registry *r = open_registry(&o);
    struct error err = {0};
    uint64_t freed;
    ck_assert_int_eq(registry_unload(r, "tales", &freed, &err), ERROR_CONFLICT);
    ck_assert_int_eq(registry_unload(r, "", &freed, &err), ERROR_MODEL_NOT_FOUND);
    ck_assert_int_eq(registry_set_default(r, "b", &err), ERROR_MODEL_NOT_FOUND);
    ck_assert_int_eq(registry_set_default(r, "", &err), ERROR_MODEL_NOT_FOUND);
    must_load(r, tales("b.gguf"), "b");
    expect_listed(r, "b:active,*tales:active");
    ck_assert_int_eq(registry_set_default(r, "b", &err), ERROR_NONE);
    expect_listed(r, "*b:active,tales:active");
    ck_assert_int_eq(registry_unload(r, "b", &freed, &err), ERROR_CONFLICT);
    ck_assert_int_eq(registry_unload(r, "tales", &freed, &err), ERROR_NONE);
    struct served *s = acquire(r, "");
    ck_assert_str_eq(served_id(s), "b");
    served_release(s);
    struct load_request q = {.path = at("b.gguf"), .id = "c", .make_default = true, .validation = {.no_cross_validation = true}};
    struct load_result result;
    ck_assert(!registry_load(r, &q, &result, &err));
    served_release(result.served);
    expect_listed(r, "b:active,*c:active");
    registry_close(r);
}
END_TEST

START_TEST(draining)
{
    struct registry_options o = options();
    struct registry *r = open_registry(&o);
    struct error err = {0};
    uint64_t freed;
    must_load(r, tales("b.gguf"), "b");
    struct served *s = acquire(r, "b");
    registry_drain(r, clock_now_ns());
    ck_assert_int_eq(load(r, at("b.gguf"), "c", &err), ERROR_SERVICE_UNAVAILABLE);
    ck_assert_str_eq(err.reason, REFUSED_DRAINING);
    ck_assert_int_eq(registry_unload(r, "b", &freed, &err), ERROR_SERVICE_UNAVAILABLE);
    ck_assert_int_eq(registry_set_default(r, "b", &err), ERROR_SERVICE_UNAVAILABLE);
    uint32_t ids[8];
    struct request q = harness_request(1, ids, 8, 4);
    struct stream *stream;
    ck_assert_int_eq(engine_submit(served_engine(s), &q, &stream, &err), ERROR_SERVICE_UNAVAILABLE);
    served_release(s);
    registry_close(r);
}
END_TEST

struct seen { int n_open, n_close, n_failed; char last[64]; };

static void *seen_open(void *user, const char *id, struct engine *e)
{
    struct seen *seen = user;
    seen->n_open++;
    snprintf(seen->last, sizeof seen->last, "%s", id);
    ck_assert_str_eq(engine_model(e)->id, id);
    return strdup(id);
}
static void seen_close(void *user, void *served_user)
{
    struct seen *seen = user;
    seen->n_close++;
    free(served_user);
}
static void seen_failed(void *user, const char *id, const struct error *err)
{
    struct seen *seen = user;
    seen->n_failed++;
    ck_assert_str_eq(id, "bad");
    ck_assert_int_eq(err->code, ERROR_MODEL_LOAD_FAILED);
}

START_TEST(the_observer)
{
    struct seen seen = {0};
    struct registry_options o = options();
    o.observer = (struct registry_observer){&seen, seen_open, seen_close, seen_failed, NULL};
    struct registry *r = open_registry(&o);
    struct error err = {0};
    uint64_t freed;
    ck_assert_int_eq(seen.n_open, 1);
    must_load(r, tales("b.gguf"), "b");
    ck_assert_int_eq(seen.n_open, 2);
    struct served *s = acquire(r, "b");
    ck_assert_str_eq(served_user(s), "b");
    served_release(s);
    FILE *f = fopen(at("bad.gguf"), "w");
    fputs("GGUF, or so it says", f);
    fclose(f);
    ck_assert_int_eq(load(r, at("bad.gguf"), "bad", &err), ERROR_MODEL_LOAD_FAILED);
    ck_assert_int_eq(seen.n_failed, 1);
    expect_listed(r, "b:active,*tales:active");
    ck_assert_int_eq(registry_unload(r, "b", &freed, &err), ERROR_NONE);
    ck_assert_int_eq(seen.n_close, 1);
    registry_close(r);
    ck_assert_int_eq(seen.n_close, 2);
}
END_TEST

struct gate {
    atomic_bool closing, open, over;
    struct registry *r;
};

static void *gate_open(void *user, const char *id, struct engine *e)
{
    (void)e;
    return strcmp(id, "b") == 0 ? user : NULL;
}

static void gate_close(void *user, void *served_user)
{
    struct gate *g = user;
    atomic_store(&g->closing, true);
    while (served_user && !atomic_load(&g->open))
        usleep(1000);
}

static void *unload_at_gate(void *arg)
{
    struct gate *g = arg;
    uint64_t freed;
    ck_assert(!registry_unload(g->r, "b", &freed, NULL));
    ck_assert_uint_gt(freed, 0);
    atomic_store(&g->over, true);
    return NULL;
}

/* What else happens meanwhile does not end the wait. */
START_TEST(unload_waits_for_the_memory)
{
    struct gate g = {0};
    struct registry_options o = options();
    o.observer = (struct registry_observer){.user = &g, .on_open = gate_open, .on_close = gate_close};
    struct registry *r = g.r = open_registry(&o);
    pthread_t thread;
    must_load(r, tales("b.gguf"), "b");
    ck_assert(!pthread_create(&thread, NULL, unload_at_gate, &g));
    while (!atomic_load(&g.closing))
        usleep(1000);
    for (int i = 0; i < 20; i++, usleep(1000)) {
        ck_assert(!registry_set_default(r, "tales", NULL));
        ck_assert(!atomic_load(&g.over));
    }
    atomic_store(&g.open, true);
    pthread_join(thread, NULL);
    registry_close(r);
}
END_TEST

SUITE("registry", wishes, unload_waits_for_the_memory, names, a_load_says_how_it_stands, taken_names, id_of_the_file, unload_waits_for_users, the_default, draining, the_observer)
