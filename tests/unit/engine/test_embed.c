/* Embeddings: against a reference in double precision, and what may not change them. */
#include "tests/suite.h"

#include "tests/unit/engine/harness.h"
#include "tests/unit/engine/model/reference.h"

#define N_TOKENS 12

enum { MEAN = 1, CLS, LAST };

static const struct kind {
    const char *arch;
    bool neox, relu2, sub_norms;
    uint32_t pooling;
    bool causal;
} kinds[] = {
    {"bitnet-b1.58", true, true, true, MEAN, true}, {"bitnet-b1.58", true, true, true, MEAN, false},
    {"bitnet-b1.58", true, true, true, CLS, false}, {"bitnet-b1.58", true, true, true, LAST, true},
    {"bitnet", true, false, true, MEAN, false},     {"llama", false, false, false, LAST, true},
    {"llama", false, false, false, MEAN, true},     {"llama", false, false, false, LAST, false},
    {"qwen3", true, false, false, LAST, true},      {"qwen3", true, false, false, MEAN, false},
};
#define N_KINDS (sizeof kinds / sizeof *kinds)

static void make(const struct kind *k)
{
    const struct model_file file = {
        .arch = k->arch, .seed = 7, .u32_key = "pooling_type", .u32_value = k->pooling, .not_causal = !k->causal};
    mf_write(&file, mf_path());
}

static struct engine *open_kind(const struct kind *k, struct engine_options options)
{
    make(k);
    options.model_path = mf_path();
    struct engine *e = harness_open(options);
    unlink(mf_path());
    return e;
}

static struct request ask(uint32_t *ids, uint32_t n, uint32_t seed)
{
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (seed * 29 + i * 37 + 11) % MF_VOCAB;
    return (struct request){.tokens = ids, .n_tokens = n, .embed = true, .deadline_ns = CLOCK_NEVER};
}

/* The end of the stream, which stays open: the vector is its own. */
static struct stream_event end_of(struct stream *s)
{
    struct stream_event ev;
    do {
        ck_assert(stream_wait(s, 60 * CLOCK_NS_PER_S));
        stream_read(s, 0, &ev);
        ck_assert_int_ne(ev.type, STREAM_TOKENS);
    } while (ev.type != STREAM_COMPLETE);
    return ev;
}

static void embed(struct engine *e, uint32_t n, uint32_t seed, float out[MF_DIM])
{
    uint32_t ids[MF_CONTEXT];
    const struct request r = ask(ids, n, seed);
    struct stream *s = harness_submit(e, &r);
    struct stream_event ev = end_of(s);
    ck_assert_int_eq(ev.finish, FINISH_STOP);
    ck_assert_uint_eq(ev.n_embedding, MF_DIM);
    ck_assert_uint_eq(ev.summary.n_prompt_tokens, n);
    ck_assert_uint_eq(ev.summary.n_generated_tokens, 0);
    memcpy(out, ev.embedding, MF_DIM * sizeof *out);
    stream_close(s);
}

static void reference(const struct kind *k, int n, uint32_t seed, double out[MF_DIM])
{
    static double hidden[REF_MAX_TOKENS][MF_DIM];
    uint32_t ids[MF_CONTEXT];
    struct error err = {0};
    struct gguf *g;
    ask(ids, (uint32_t)n, seed);
    make(k);
    ck_assert_msg(!gguf_open(mf_path(), &g, &err), "%s", err.message);
    struct reference *r = calloc(1, sizeof *r);
    *r = (struct reference){.g = g, .neox = k->neox, .relu2 = k->relu2, .sub_norms = k->sub_norms};
    ref_text(r, ids, n, k->causal, hidden);
    double square = 0;
    for (int d = 0; d < MF_DIM; d++) {
        out[d] = k->pooling == CLS ? hidden[0][d] : k->pooling == LAST ? hidden[n - 1][d] : 0;
        for (int t = 0; t < n && k->pooling == MEAN; t++)
            out[d] += hidden[t][d];
        square += out[d] * out[d];
    }
    for (int d = 0; d < MF_DIM; d++)
        out[d] /= sqrt(square);
    free(r);
    gguf_close(g);
    unlink(mf_path());
}

START_TEST(agrees_with_the_reference)
{
    for (size_t k = 0; k < N_KINDS; k++) {
        double want[MF_DIM], dot = 0, square = 0;
        float got[MF_DIM];
        struct engine *e = open_kind(&kinds[k], (struct engine_options){0});
        ck_assert_uint_eq(engine_model(e)->embedding_size, MF_DIM);
        embed(e, N_TOKENS, 3, got);
        reference(&kinds[k], N_TOKENS, 3, want);
        for (int d = 0; d < MF_DIM; d++) {
            dot += (double)got[d] * want[d];
            square += (double)got[d] * (double)got[d];
        }
        ck_assert_msg(dot > 0.9995, "kind %zu: cosine %.6f", k, dot);
        ck_assert_msg(fabs(square - 1) < 1e-6, "kind %zu: length %.9f", k, sqrt(square));
        engine_close(e);
    }
}
END_TEST

/* The kinds differ, or agreement would mean nothing. */
START_TEST(pooling_and_causality_count)
{
    float vectors[4][MF_DIM];
    for (size_t k = 0; k < 4; k++) {
        struct engine *e = open_kind(&kinds[k], (struct engine_options){0});
        embed(e, N_TOKENS, 3, vectors[k]);
        engine_close(e);
        for (size_t i = 0; i < k; i++) {
            double dot = 0;
            for (int d = 0; d < MF_DIM; d++)
                dot += (double)vectors[i][d] * (double)vectors[k][d];
            ck_assert_msg(dot < 0.999, "kinds %zu and %zu: cosine %.6f", i, k, dot);
        }
    }
}
END_TEST

START_TEST(a_vector_depends_on_nothing_but_its_text)
{
    for (size_t k = 0; k < N_KINDS; k++) {
        float alone[MF_DIM], cut[MF_DIM];
        uint32_t ids[8][MF_CONTEXT];
        struct stream *streams[8];
        struct engine *e = open_kind(&kinds[k], (struct engine_options){0});
        embed(e, 40, 5, alone);
        for (uint32_t i = 0; i < 8; i++) { /* texts that begin alike too, and one that is the same */
            struct request r = ask(ids[i], i == 4 ? 40 : 33 + i, i % 2 ? 5 : 5 + i - 4);
            streams[i] = harness_submit(e, &r);
        }
        struct stream_event ev = end_of(streams[4]);
        ck_assert_mem_eq(ev.embedding, alone, sizeof alone);
        for (uint32_t i = 0; i < 8; i++)
            stream_close(streams[i]);
        harness_await(e, harness_idle);
        engine_close(e);
        e = open_kind(&kinds[k], (struct engine_options){
                                     .max_batch_tokens = kinds[k].causal ? 7 : 40, .n_threads = 2, .isa = "portable"});
        embed(e, 40, 5, cut);
        ck_assert_mem_eq(cut, alone, sizeof alone);
        engine_close(e);
    }
}
END_TEST

static struct error refusal(struct engine *e, const struct request *r)
{
    struct stream *s;
    struct error err = {0};
    ck_assert_int_ne(engine_submit(e, r, &s, &err), ERROR_NONE);
    return err;
}

START_TEST(a_model_does_one_or_the_other)
{
    uint32_t ids[HARNESS_CONTEXT];
    struct engine *e = open_kind(&kinds[0], (struct engine_options){0});
    struct request r = ask(ids, 4, 1);
    r.embed = false;
    r.max_tokens = 4;
    struct error err = refusal(e, &r);
    ck_assert_int_eq(err.code, ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "model");
    r.embed = true;
    ck_assert_str_eq(refusal(e, &r).param, "embed"); /* with max_tokens */
    engine_close(e);
    e = harness_open((struct engine_options){0});
    ck_assert_uint_eq(engine_model(e)->embedding_size, 0);
    r = ask(ids, 4, 1);
    ck_assert_str_eq(refusal(e, &r).param, "model");
    engine_close(e);
}
END_TEST

START_TEST(the_whole_context_may_be_used)
{
    float out[MF_DIM];
    uint32_t ids[MF_CONTEXT + 1];
    for (size_t k = 0; k < 2; k++) { /* not causal: as much as a step holds */
        uint32_t most = kinds[k].causal ? MF_CONTEXT : 20;
        struct engine *e = open_kind(&kinds[k], (struct engine_options){.max_batch_tokens = 20});
        ck_assert_uint_eq(engine_model(e)->context_length, most);
        embed(e, most, 1, out);
        struct request r = ask(ids, most + 1, 1);
        ck_assert_str_eq(refusal(e, &r).param, "tokens");
        engine_close(e);
    }
}
END_TEST

START_TEST(limits_hold)
{
    uint32_t ids[MF_CONTEXT];
    struct engine *e = open_kind(&kinds[0], (struct engine_options){0});
    struct request r = ask(ids, 60, 1);
    r.deadline_ns = clock_now_ns() - 1;
    struct stream *s = harness_submit(e, &r);
    struct stream_event ev = end_of(s);
    ck_assert_int_eq(ev.finish, FINISH_DEADLINE);
    ck_assert_ptr_null(ev.embedding);
    stream_close(s);
    r.deadline_ns = CLOCK_NEVER;
    for (int i = 0; i < 50; i++)
        stream_close(harness_submit(e, &r)); /* cancelled wherever it is */
    harness_await(e, harness_idle);
    engine_close(e);
}
END_TEST

static void expect_refused(const struct model_file *file, const char *key)
{
    struct engine *e;
    struct error err = {0};
    const struct engine_options options = {.model_path = mf_path(), .device = "cpu", .i2s_order = -1};
    log_init(LOG_OFF, LOG_FORMAT_TEXT);
    mf_write(file, mf_path());
    ck_assert_int_eq(engine_open(&options, &e, &err), ERROR_MODEL_LOAD_FAILED);
    ck_assert_str_eq(err.param, key);
    unlink(mf_path());
}

START_TEST(what_cannot_be_is_refused)
{
    const struct model_file no_pooling = {.seed = 1, .not_causal = true},
                            rank = {.seed = 1, .u32_key = "pooling_type", .u32_value = 4};
    expect_refused(&no_pooling, "bitnet-b1.58.attention.causal");
    expect_refused(&rank, "bitnet-b1.58.pooling_type");
}
END_TEST

SUITE("embed", agrees_with_the_reference, pooling_and_causality_count, a_vector_depends_on_nothing_but_its_text,
      a_model_does_one_or_the_other, the_whole_context_may_be_used, limits_hold, what_cannot_be_is_refused)
