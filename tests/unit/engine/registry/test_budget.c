/* Memory of all models: known before a load, kept within the budget, and who gives way. */
#include "tests/suite.h"
#include "tests/unit/engine/registry/variants.h"

#include "engine/estimate.h"

START_TEST(estimates)
{
    static const struct {
        struct engine_options o;
        double most; /* of what it is */
    } cases[] = {
        {{.format = TERNARY_I2S}, 1.03},
        {{.format = TERNARY_I2S, .max_sequences = 2, .max_batch_tokens = 32, .context_length = 128}, 1.03},
        {{.format = TERNARY_I2S, .kv_cache_bytes = 4 << 20, .kv_type = KV_INT8, .no_speculation = true}, 1.03},
        {{.format = TERNARY_TL1}, 1.03},
        {{.format = TERNARY_TL2, .max_sequences = 1, .max_batch_tokens = 16}, 1.2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct engine_options o = cases[i].o;
        struct model_shape shape;
        struct gguf *g;
        ck_assert(!gguf_open(TALES, &g, NULL) && !model_shape_read(g, &shape, NULL));
        o.model_path = TALES;
        o.n_threads = 1;
        struct engine *e = harness_open(o);
        const struct engine_model *m = engine_model(e);
        double actual = (double)(m->weight_bytes + m->kv_bytes + m->scratch_bytes),
               estimate = (double)engine_estimate_bytes(g, &shape, &o, m->device_memory_bytes);
        ck_assert_msg(estimate >= actual && estimate <= cases[i].most * actual, "case %zu: %.0f for %.0f bytes", i, estimate, actual);
        engine_close(e);
        gguf_close(g);
    }
}
END_TEST

/* A registry over one model with room for n more. */
static struct registry *with_room(double n, bool evict)
{
    struct registry_options o = options();
    uint64_t used, budget;
    o.engine.format = TERNARY_I2S;
    struct registry *r = open_registry(&o);
    registry_memory(r, &used, &budget);
    ck_assert_uint_gt(budget, used);
    registry_close(r);
    o.memory_budget = used + (uint64_t)(n * (double)used);
    o.evict = evict;
    return open_registry(&o);
}

START_TEST(refused)
{
    struct registry *r = with_room(1.2, false);
    struct error err = {0};
    uint64_t freed, used, budget;
    const char *path = tales("a.gguf");
    must_load(r, path, "a");
    const struct load_request q = {.path = path, .id = "b"};
    struct load_result l;
    ck_assert_int_eq(registry_load(r, &q, &l, &err), ERROR_MEMORY_EXHAUSTED);
    ck_assert_str_eq(l.validation.failures[0].type, "memory");
    ck_assert_ptr_nonnull(strstr(err.message, "for all models"));
    registry_memory(r, &used, &budget);
    ck_assert(used <= budget);
    ck_assert(!registry_unload(r, "a", &freed, &err));
    must_load(r, path, "b");
    expect_listed(r, "b:active,*tales:active");
    registry_close(r);
}
END_TEST

START_TEST(least_used_gives_way)
{
    struct registry *r = with_room(3.2, true);
    struct error err = {0};
    const char *path = tales("a.gguf");
    must_load(r, path, "a");
    must_load(r, path, "b");
    must_load(r, path, "c");
    served_release(acquire(r, "a")); /* b is the one that was used least lately */
    struct model_entry *list;
    size_t n;
    ck_assert(registry_list(r, &list, &n)); /* looking at it is no use of it */
    registry_list_free(list, n);
    must_load(r, path, "d");
    expect_listed(r, "a:active,c:active,d:active,*tales:active");
    struct served *c = acquire(r, "c"), *a = acquire(r, "a"), *d = acquire(r, "d");
    ck_assert_int_eq(load(r, path, "e", &err), ERROR_MEMORY_EXHAUSTED); /* all are in use, or the default */
    served_release(a);
    must_load(r, path, "e");
    expect_listed(r, "c:active,d:active,e:active,*tales:active");
    generate(c, 1, 4);
    served_release(c);
    served_release(d);
    registry_close(r);
}
END_TEST

/* A model that does not fit at all drives nobody out. */
START_TEST(too_large)
{
    struct registry *r = with_room(1.2, true);
    struct error err = {0};
    const char *path = tales("a.gguf");
    must_load(r, path, "a");
    const struct load_request q = {.path = path, .id = "b", .kv_cache_bytes = (size_t)1 << 40};
    struct load_result l;
    ck_assert_int_eq(registry_load(r, &q, &l, &err), ERROR_NONE); /* cut to what sequences can use */
    served_release(l.served);
    registry_close(r);
    r = with_room(0.5, true);
    ck_assert_int_eq(load(r, path, "b", &err), ERROR_MEMORY_EXHAUSTED);
    expect_listed(r, "*tales:active");
    registry_close(r);
}
END_TEST

SUITE("budget", estimates, refused, least_used_gives_way, too_large)
