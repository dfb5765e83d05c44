/* What a model must show before it is served: sound ones do, others are refused with a failure that says what is wrong. */
#include "tests/suite.h"
#include "tests/unit/engine/registry/variants.h"

static enum error_code try_load(struct registry *r, const char *path, struct model_validation how, struct load_result *out, struct error *err)
{
    const struct load_request q = {.path = path, .id = "x", .validation = how};
    *err = (struct error){0};
    enum error_code code = registry_load(r, &q, out, err);
    served_release(out->served);
    ck_assert_int_eq(code, err->code);
    return code;
}

START_TEST(sound)
{
    struct registry_options o = options();
    struct registry *r = open_registry(&o);
    struct load_result l;
    struct error err;
    ck_assert_msg(!try_load(r, variant("good.gguf", surer), (struct model_validation){.n_samples = 40}, &l, &err), "%s", err.message);
    const struct validation_results *v = &l.validation;
    ck_assert(v->format_valid && v->gguf_version == 3 && v->n_tensors > 60 && v->n_failures == 0);
    ck_assert(v->accuracy == 1 && v->cosine > 0.999999 && v->p_value == 1);
    ck_assert_msg(v->bits_per_byte > 0.6 && v->bits_per_byte < 1.2, "%g", v->bits_per_byte);
    ck_assert(v->tokens_per_second > 0 && v->memory_bytes > 5 << 20);
    ck_assert_str_eq(v->devices, "cpu");
    struct served *s = acquire(r, "x");
    struct engine_stats st;
    engine_stats(served_engine(s), &st); /* what it was asked for that does not count */
    ck_assert(st.n_requests == 0 && st.n_generated_tokens == 0 && st.n_prompt_tokens == 0 && st.n_steps == 0 && st.n_prefix_queries == 0);
    generate(s, 1, 8);
    engine_stats(served_engine(s), &st);
    ck_assert(st.n_requests == 1 && st.n_generated_tokens == 8);
    served_release(s);
    registry_close(r);
}
END_TEST

START_TEST(not_compared)
{
    struct registry_options o = options();
    struct registry *r = open_registry(&o);
    struct load_result l;
    struct error err;
    ck_assert(!try_load(r, tales("a.gguf"), (struct model_validation){.no_cross_validation = true}, &l, &err));
    ck_assert(l.validation.accuracy < 0 && l.validation.cosine < 0 && l.validation.p_value < 0);
    ck_assert(l.validation.bits_per_byte > 0 && l.validation.tokens_per_second > 0);
    registry_close(r);
}
END_TEST

static const struct {
    const char *type, *actual;
    void (*change)(struct rw_file *f);
    size_t cut;
    bool loads_format;
} broken[] = {
    {"structure", "expected the magic", NULL, SIZE_MAX, false},
    {"structure", "tensor output_norm.weight: expected 1536 bytes", NULL, 100, false},
    {"structure", "tensor blk.2.attn_sub_norm.weight is missing", tensor_missing, 0, false},
    {"structure", "tensor blk.1.ffn_down.weight: expected 1024 x 384", wrong_rows, 0, false},
    {"tokenizer", "tokenizer.ggml.merges is missing", merges_missing, 0, true},
    {"weights", "tensor blk.0.ffn_up.weight: expected a finite and positive scale", scale_nan, 0, true},
    {"weights", "tensor blk.1.ffn_sub_norm.weight: expected finite weights", norm_nan, 0, true},
    {"weights", "tensor blk.1.ffn_down.weight: its columns do not belong", down_exchanged, 0, true},
    {"text", "weights, tokenizer or hyperparameters", wrong, 0, true},
};

START_TEST(refused)
{
    struct registry_options o = options();
    struct registry *r = open_registry(&o);
    uint64_t before, after, budget;
    registry_memory(r, &before, &budget);
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        struct load_result l;
        struct error err;
        const char *path = broken[i].change ? variant("b.gguf", broken[i].change) : tales("b.gguf");
        if (broken[i].cut == SIZE_MAX) {
            FILE *f = fopen(path, "w");
            fputs("no model at all, this is not one", f);
            fclose(f);
        } else if (broken[i].cut) {
            ck_assert(truncate(path, 5710208 - (off_t)broken[i].cut) == 0);
        }
        ck_assert_int_eq(try_load(r, path, (struct model_validation){.no_cross_validation = true}, &l, &err), ERROR_MODEL_LOAD_FAILED);
        ck_assert_uint_eq(l.validation.n_failures, 1);
        ck_assert_str_eq(l.validation.failures[0].type, broken[i].type);
        ck_assert_msg(strstr(l.validation.failures[0].actual, broken[i].actual), "%s", l.validation.failures[0].actual);
        ck_assert(l.validation.failures[0].expected[0]);
        ck_assert_msg(strstr(err.message, broken[i].actual), "%s", err.message);
        ck_assert_int_eq(l.validation.format_valid, broken[i].loads_format);
        expect_listed(r, "*tales:active");
    }
    for (int i = 0; i < 1000; i++, usleep(5000)) {
        registry_memory(r, &after, &budget);
        if (after == before)
            break;
    }
    ck_assert_uint_eq(after, before);
    registry_close(r);
}
END_TEST

START_TEST(bounds_and_time)
{
    static const struct {
        struct model_validation v;
        const char *param;
    } cases[] = {{{.min_accuracy = 0.5}, "validation.min_accuracy"},
                 {{.min_accuracy = 1.5}, "validation.min_accuracy"},
                 {{.n_samples = 9}, "validation.samples"},
                 {{.n_samples = 1001}, "validation.samples"},
                 {{.timeout_ns = 3601 * CLOCK_NS_PER_S}, "validation.timeout_seconds"}};
    struct registry_options o = options();
    struct registry *r = open_registry(&o);
    const char *path = tales("a.gguf");
    struct load_result l;
    struct error err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert_int_eq(try_load(r, path, cases[i].v, &l, &err), ERROR_VALIDATION_FAILED);
        ck_assert_str_eq(err.param, cases[i].param);
    }
    ck_assert_int_eq(try_load(r, path, (struct model_validation){.timeout_ns = 1}, &l, &err), ERROR_MODEL_LOAD_FAILED);
    ck_assert_str_eq(l.validation.failures[0].type, "timeout");
    registry_close(r);
}
END_TEST

struct progress { char phases[512]; double last; };

static void note(void *user, const struct model_progress *p)
{
    struct progress *seen = user;
    size_t n = strlen(seen->phases), m = strlen(p->phase);
    ck_assert(p->share >= 0 && p->elapsed_ms >= seen->last && p->message);
    seen->last = p->elapsed_ms;
    if (n < m || strcmp(seen->phases + n - m, p->phase) != 0)
        snprintf(seen->phases + n, sizeof seen->phases - n, "%s%s", n ? " " : "", p->phase);
}

START_TEST(progress)
{
    struct registry_options o = options();
    struct registry *r = open_registry(&o);
    struct progress seen = {0};
    const struct load_request q = {.path = tales("a.gguf"), .validation = {.n_samples = 10}, .on_progress = note, .user = &seen};
    struct load_result l;
    ck_assert(!registry_load(r, &q, &l, NULL));
    served_release(l.served);
    ck_assert_str_eq(seen.phases, "checking loading validating");
    registry_close(r);
}
END_TEST

/* The parts of a split file obey the rule of the first: one that is a link to outside, or no file, is not read. */
START_TEST(parts)
{
    struct registry_options o = options();
    struct registry *r = open_registry(&o);
    struct rw_file *f = rw_open(TALES);
    const char *first = at("p-00001-of-00002.gguf"), *second = at("p-00002-of-00002.gguf"), *outside = rw_path("part.gguf");
    size_t half = f->n_tensors / 2;
    struct error err = {0};
    uint64_t freed;
    rw_save_part(f, first, true, 0, half, 0, 2, (uint32_t)f->n_tensors);
    rw_save_part(f, second, false, half, f->n_tensors - half, 1, 2, (uint32_t)f->n_tensors);
    rw_close(f);
    must_load(r, first, "p");
    ck_assert(!registry_unload(r, "p", &freed, &err));
    copy_file(second, outside);
    ck_assert(!unlink(second) && !symlink(outside, second));
    ck_assert_int_eq(load(r, first, "p", &err), ERROR_MODEL_LOAD_FAILED);
    ck_assert_msg(strstr(err.message, "part 2 of 2: expected a file in one of the folders"), "%s", err.message);
    ck_assert(!unlink(second) && !mkfifo(second, 0644));
    ck_assert_int_eq(load(r, first, "p", &err), ERROR_MODEL_LOAD_FAILED);
    ck_assert_msg(strstr(err.message, "is a FIFO"), "%s", err.message);
    unlink(outside);
    registry_close(r);
}
END_TEST

SUITE("validation", sound, not_compared, refused, parts, bounds_and_time, progress)
