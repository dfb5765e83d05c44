/* What the sampler says that it needs is enough: a token drawn from the logits of a screened head is the one drawn from all logits. */
#include "engine/sampler.h"
#include "tests/suite.h"

#include <math.h>
#include <stdlib.h>

#define V 3000
#define DIM 96
#define N_X 5

/* A small reproducible generator: bits of the noise. */
static float random_value(uint32_t round, uint32_t i)
{
    return 0.8f * kernel_gumbel(77, 0, round, i) - 0.46f; /* about mean 0, deviation 1 */
}

static uint16_t to_f16(float x) /* of -1..1, to the nearest 1/1024 below */
{
    int e;
    float m = frexpf(x, &e);
    int bits = (int)(fabsf(m) * 2048.0f);
    if (bits == 0 || e < -13)
        return 0;
    return (uint16_t)((x < 0 ? 0x8000 : 0) | (e + 14) << 10 | (bits & 1023));
}

struct head {
    struct backend *be;
    struct dense *plain, *screened;
    uint16_t *weights;
};

/* Every eighth token is almost the one before it, so that there are near ties and ties. */
static void head_open(struct head *h, const char *isa, int n_threads)
{
    struct backend_options options = {.device = "cpu", .n_threads = n_threads, .isa = isa};
    ck_assert_int_eq(backend_open(&options, &h->be, NULL), ERROR_NONE);
    h->weights = malloc(V * DIM * sizeof *h->weights);
    for (uint32_t r = 0; r < V; r++)
        for (uint32_t i = 0; i < DIM; i++) {
            uint32_t at = r * DIM + i;
            h->weights[at] = to_f16(0.1f * random_value(1000, at));
            if (r % 8 == 7)
                h->weights[at] = (uint16_t)(h->weights[at - DIM] ^ (r % 16 == 7 && i == r % DIM));
        }
    struct tensor_view view = {
        .type = TENSOR_F16, .data = h->weights, .n_bytes = V * DIM * 2, .n_rows = V, .n_cols = DIM};
    ck_assert(!dense_open(h->be, &view, &h->plain, NULL) && !dense_open(h->be, &view, &h->screened, NULL));
    ck_assert(dense_screen(h->be, h->screened));
}

static void head_close(struct head *h)
{
    dense_close(h->be, h->plain);
    dense_close(h->be, h->screened);
    backend_close(h->be);
    free(h->weights);
}

static const uint32_t prompt[] = {5, 17, 17, 2999, 64, 1024}, generated[] = {8, 9, 5, 5, 1500};
static struct logit_bias bias[] = {{3, 4.0f}, {17, -100}, {2048, 3}, {3, 0.5f}, {2999, 9}};

struct row {
    const char *name;
    struct sampling p;
};

#define P(...)                                                                                                         \
    {                                                                                                                  \
        __VA_ARGS__                                                                                                    \
    } /* top_p 0 counts as 1 here */
static const struct row rows[] = {
    {"greedy", P(.temperature = 0)},
    {"top-k", P(.temperature = 1, .top_k = 40)},
    {"top-k, top-p", P(.temperature = 0.7f, .top_k = 20, .top_p = 0.9f)},
    {"top-k, min-p", P(.temperature = 2, .top_k = 64, .min_p = 0.1f)},
    {"draw", P(.temperature = 1)},
    {"draw, cold", P(.temperature = 1e-3f)},
    {"draw, colder", P(.temperature = 1e-30f)},
    {"draw, hot", P(.temperature = 2)},
    {"draw, very hot", P(.temperature = 2000)},
    {"min-p", P(.temperature = 1, .min_p = 0.05f)},
    {"min-p 1", P(.temperature = 1.5f, .min_p = 1)},
    {"min-p, cold", P(.temperature = 1e-3f, .min_p = 0.2f)},
    {"min-p, tiny", P(.temperature = 0.3f, .min_p = 1e-40f)},
    {"repetition", P(.temperature = 0, .repetition_penalty = 1.3f)},
    {"repetition, draw", P(.temperature = 0.8f, .repetition_penalty = 0.1f)},
    {"presence, top-k", P(.temperature = 0.5f, .top_k = 5, .presence_penalty = 1.5f)},
    {"frequency, draw", P(.temperature = 1, .frequency_penalty = -2)},
    {"penalties, min-p", P(.temperature = 1, .min_p = 0.3f, .frequency_penalty = 2, .repetition_penalty = 1.9f)},
    {"bias", P(.temperature = 0, .bias = bias, .n_bias = 2)},
    {"bias, draw", P(.temperature = 1, .bias = bias, .n_bias = 5)},
    {"bias, top-k", P(.temperature = 1, .top_k = 30, .bias = bias, .n_bias = 5)},
    {"bias, min-p", P(.temperature = 1, .min_p = 0.02f, .bias = bias, .n_bias = 5)},
    {"top-p", P(.temperature = 1, .top_p = 0.8f)},
};
#define N_PARAMS (sizeof rows / sizeof *rows)

/* Rows of x are of unlike sizes, so that the logits are crowded, spread, or all equal; one has outliers. */
static void new_state(uint32_t round, float *x)
{
    for (uint32_t j = 0; j < N_X; j++)
        for (uint32_t i = 0; i < DIM; i++) {
            float size = j == 0 && round % 8 == 0 ? 0 : j == 1 ? 0.01f : j == 2 ? 30 : 3;
            x[j * DIM + i] = size * random_value(round, j * DIM + i) * (j == 3 && i % 31 == 0 ? 40.0f : 1.0f);
        }
}

/* Tokens that a grammar would allow: a few, half of them, nearly all. */
static uint64_t masks[3][(V + 63) / 64];
static size_t n_allowed[3];

static void make_masks(void)
{
    static const float least[] = {1.9f, 0.0f, -1.0f};
    for (int m = 0; m < 3 && !n_allowed[m]; m++)
        for (uint32_t id = 0; id < V; id++) {
            bool allowed = random_value(2000 + (uint32_t)m, id) > least[m];
            masks[m][id / 64] |= (uint64_t)allowed << id % 64;
            n_allowed[m] += allowed;
        }
}

/* One round: every row of x with its own parameters and place; n_x of them share a call. */
static size_t compare(struct head *h, struct sampler *s, uint32_t round, size_t n_x, const float *x)
{
    static float full[N_X * V], found[N_X * V];
    static const int32_t order[N_X] = {3, 1, 4, 0, 2};
    struct logits_need needs[N_X];
    struct sample_input in[N_X];
    struct sampling p[N_X];
    size_t n_left_out = 0;
    for (size_t j = 0; j < n_x; j++) {
        p[j] = rows[(round + j * 5) % N_PARAMS].p;
        p[j].top_p = p[j].top_p > 0 ? p[j].top_p : 1;
        p[j].seed = round / 7;
        in[j] = (struct sample_input){.prompt = prompt, .n_prompt = 6, .generated = generated, .n_generated = round % 6, .choice = (uint32_t)j};
        if (round / 2 % 4 < 3) {
            in[j].allowed = masks[(round / 2 + j) % 3];
            in[j].n_allowed = n_allowed[(round / 2 + j) % 3];
        }
        needs[j] = sampler_need(&p[j], &in[j]);
    }
    op_logits(h->be, h->plain, x, order, n_x, false, full);
    op_logits_needed(h->be, h->screened, x, order, n_x, needs, found);
    for (size_t j = 0; j < n_x; j++) {
        struct sample a, b;
        for (size_t i = 0; i < V; i++)
            n_left_out += found[j * V + i] == -INFINITY;
        ck_assert_int_eq(sampler_draw(s, &p[j], &in[j], full + j * V, &a, NULL), ERROR_NONE);
        ck_assert_int_eq(sampler_draw(s, &p[j], &in[j], found + j * V, &b, NULL), ERROR_NONE);
        ck_assert(!in[j].allowed || (in[j].allowed[a.id / 64] >> a.id % 64 & 1));
        ck_assert_msg(a.id == b.id, "%s, round %u, row %zu of %zu: expected token %u, drew %u", rows[(round + j * 5) % N_PARAMS].name, round, j,
                      n_x, a.id, b.id);
    }
    return n_left_out;
}

static void compare_all(const char *isa, int n_threads, uint32_t n_rounds)
{
    struct head h;
    struct sampler *s;
    float x[N_X * DIM];
    size_t n_left_out = 0;
    make_masks();
    head_open(&h, isa, n_threads);
    ck_assert_int_eq(sampler_open(V, &s, NULL), ERROR_NONE);
    for (uint32_t round = 0; round < n_rounds * N_PARAMS; round++) {
        new_state(round, x);
        n_left_out += compare(&h, s, round, round % 3 ? 1 : N_X, x);
    }
    ck_assert_uint_gt(n_left_out, n_rounds * N_PARAMS * V); /* of 7/3 rows a round */
    sampler_close(s);
    head_close(&h);
}

START_TEST(test_needs_are_enough)
{
    compare_all(NULL, 1, 80);
    compare_all(NULL, 2, 4);
}
END_TEST

START_TEST(test_needs_are_enough_portable)
{
    compare_all("portable", 1, 2);
}
END_TEST

/* What is beyond the reach of min-p has a smaller weight. */
START_TEST(test_reach_of_min_p)
{
    static const float min_p[] = {1, 0.9999f, 0.5f, 0.05f, 1e-6f, 1e-30f, 1e-40f}, temperature[] = {2, 1, 0.3f, 1e-3f};
    struct sample_input in = {0};
    for (size_t i = 0; i < sizeof min_p / sizeof *min_p; i++)
        for (size_t k = 0; k < sizeof temperature / sizeof *temperature; k++) {
            struct sampling p = {.top_p = 1, .min_p = min_p[i], .temperature = temperature[k]};
            float within = sampler_need(&p, &in).within;
            ck_assert_float_gt(within, 0);
            ck_assert_float_lt(kernel_exp(-within / p.temperature), min_p[i]);
        }
}
END_TEST

/* A sum over all tokens has no smaller need. */
START_TEST(test_sums_need_all)
{
    struct sampling p = {.temperature = 1, .top_p = 0.9f}, greedy = {.top_p = 1};
    struct sample_input in = {0}, logprobs = {.logprobs = true};
    struct logits_need a = sampler_need(&p, &in), b = sampler_need(&greedy, &logprobs);
    ck_assert(a.top == 0 && a.within == 0 && a.temperature == 0);
    ck_assert(b.top == 0 && b.within == 0 && b.temperature == 0);
}
END_TEST

SUITE("sampler needs", test_needs_are_enough, test_needs_are_enough_portable, test_reach_of_min_p, test_sums_need_all)
