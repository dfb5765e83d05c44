/* Bounds of a request: each error names its field, and what is at the bound passes. */
#include "tests/suite.h"
#include "tests/unit/engine/harness.h"

#include <math.h>

static const char *longer_than_256 =
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
    "012345678901234567890123456789012345678901234567890123456";

static uint32_t many_ids[HARNESS_CONTEXT + 1];
static struct logit_bias many_bias[301];

static void no_input(struct request *r)
{
    r->tokens = NULL;
    r->n_tokens = 0;
}
static void two_inputs(struct request *r)
{
    r->prompt = "x";
    r->prompt_bytes = 1;
}
static void no_tokens(struct request *r)
{
    r->n_tokens = 0;
}
static void bad_token(struct request *r)
{
    static uint32_t ids[] = {1, HARNESS_VOCAB};
    r->tokens = ids;
    r->n_tokens = 2;
}
static void context_full(struct request *r)
{
    r->tokens = many_ids;
    r->n_tokens = HARNESS_CONTEXT;
}
static void context_nearly_full(struct request *r)
{
    r->tokens = many_ids;
    r->n_tokens = HARNESS_CONTEXT - 1;
}
static void bad_utf8(struct request *r)
{
    no_input(r);
    r->prompt = "a\xff";
    r->prompt_bytes = 2;
}
static void long_text(struct request *r)
{
    static char text[1 << 20];
    memset(text, 'a', sizeof text);
    no_input(r);
    r->prompt = text;
    r->prompt_bytes = sizeof text;
}
static void no_messages(struct request *r)
{
    static struct chat_message m[1];
    no_input(r);
    r->messages = m;
}
static void no_role(struct request *r)
{
    static struct chat_message m[1] = {{NULL, "x"}};
    no_input(r);
    r->messages = m;
    r->n_messages = 1;
}
static void bad_role(struct request *r)
{
    static struct chat_message m[1] = {{"king", "x"}};
    no_input(r);
    r->messages = m;
    r->n_messages = 1;
}
static void no_max(struct request *r)
{
    r->max_tokens = 0;
}
static void nine(struct request *r)
{
    r->n = 9;
}
static void eight(struct request *r)
{
    r->n = 8;
}
static void top_21(struct request *r)
{
    r->logprobs = true;
    r->top_logprobs = 21;
}
static void top_20(struct request *r)
{
    r->logprobs = true;
    r->top_logprobs = 20;
}
static void top_alone(struct request *r)
{
    r->top_logprobs = 1;
}
static void hot(struct request *r)
{
    r->sampling.temperature = 2.01f;
}
static void hottest(struct request *r)
{
    r->sampling.temperature = 2;
}
static void cold(struct request *r)
{
    r->sampling.temperature = -0.01f;
}
static void nan_temperature(struct request *r)
{
    r->sampling.temperature = NAN;
}
static void top_p(struct request *r)
{
    r->sampling.top_p = 1.01f;
}
static void min_p(struct request *r)
{
    r->sampling.min_p = -1;
}
static void repetition(struct request *r)
{
    r->sampling.repetition_penalty = 2.5f;
}
static void repetition_zero(struct request *r)
{
    r->sampling.repetition_penalty = 0;
}
static void presence(struct request *r)
{
    r->sampling.presence_penalty = -2.5f;
}
static void frequency(struct request *r)
{
    r->sampling.frequency_penalty = INFINITY;
}
static void bias_301(struct request *r)
{
    r->sampling.bias = many_bias;
    r->sampling.n_bias = 301;
}
static void bias_300(struct request *r)
{
    r->sampling.bias = many_bias;
    r->sampling.n_bias = 300;
}
static void bias_id(struct request *r)
{
    static struct logit_bias b = {HARNESS_VOCAB, 1};
    r->sampling.bias = &b;
    r->sampling.n_bias = 1;
}
static void bias_value(struct request *r)
{
    static struct logit_bias b = {1, 101};
    r->sampling.bias = &b;
    r->sampling.n_bias = 1;
}
static void stop_empty(struct request *r)
{
    static const char *s[] = {"a", ""};
    r->stop = s;
    r->n_stop = 2;
}
static void stop_long(struct request *r)
{
    r->stop = &longer_than_256;
    r->n_stop = 1;
}
static void stop_256(struct request *r)
{
    static const char *s[1];
    s[0] = longer_than_256 + 1;
    r->stop = s;
    r->n_stop = 1;
}
static void stop_bytes(struct request *r)
{
    static const char *s[] = {"\xc3"};
    r->stop = s;
    r->n_stop = 1;
}
static void stop_17(struct request *r)
{
    static const char *s[17];
    for (int i = 0; i < 17; i++)
        s[i] = "a";
    r->stop = s;
    r->n_stop = 17;
}
static void bad_priority(struct request *r)
{
    r->priority = (enum priority)7;
}

static const struct {
    void (*change)(struct request *r);
    const char *param; /* NULL: it is accepted */
} cases[] = {
    {no_input, "prompt"},
    {two_inputs, "prompt"},
    {no_tokens, "tokens"},
    {bad_token, "tokens"},
    {context_full, "tokens"},
    {context_nearly_full, NULL},
    {bad_utf8, "prompt"},
    {long_text, "prompt"},
    {no_messages, "messages"},
    {no_role, "messages"},
    {bad_role, "messages[0].role"},
    {no_max, "max_tokens"},
    {nine, "n"},
    {eight, NULL},
    {top_21, "top_logprobs"},
    {top_20, NULL},
    {top_alone, "top_logprobs"},
    {hot, "sampling.temperature"},
    {hottest, NULL},
    {cold, "sampling.temperature"},
    {nan_temperature, "sampling.temperature"},
    {top_p, "sampling.top_p"},
    {min_p, "sampling.min_p"},
    {repetition, "sampling.repetition_penalty"},
    {repetition_zero, NULL},
    {presence, "sampling.presence_penalty"},
    {frequency, "sampling.frequency_penalty"},
    {bias_301, "sampling.logit_bias"},
    {bias_300, NULL},
    {bias_id, "sampling.logit_bias"},
    {bias_value, "sampling.logit_bias"},
    {stop_empty, "stop"},
    {stop_long, "stop"},
    {stop_256, NULL},
    {stop_bytes, "stop"},
    {stop_17, "stop"},
    {bad_priority, "priority"},
};

START_TEST(test_cases)
{
    uint32_t ids[20];
    struct engine *e = harness_open((struct engine_options){0});
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct request r = harness_request(2, ids, 20, 2);
        struct error err = {0};
        struct stream *s = NULL;
        cases[i].change(&r);
        enum error_code code = engine_submit(e, &r, &s, &err);
        if (!cases[i].param) {
            ck_assert_msg(!code, "case %zu: %s", i, err.message);
            free(harness_finish(s));
            continue;
        }
        ck_assert_msg(code == ERROR_VALIDATION_FAILED, "case %zu: expected VALIDATION_FAILED, found %d", i, (int)code);
        ck_assert_msg(!strcmp(err.param, cases[i].param), "case %zu: expected %s, found %s", i, cases[i].param,
                      err.param);
        ck_assert_int_ne(err.message[0], 0);
        ck_assert_ptr_null(s);
    }
    struct engine_stats st;
    engine_stats(e, &st);
    ck_assert(harness_idle(&st));
    ck_assert_uint_eq(st.n_rejected, 0); /* the queue's word is for a server that has no place */
    engine_close(e);
}
END_TEST

/* Both numbers are named. */
START_TEST(test_context_message)
{
    struct engine *e = harness_open((struct engine_options){.context_length = 64});
    struct request r = harness_request(2, many_ids, 70, 2);
    struct stream *s;
    struct error err = {0};
    ck_assert_int_eq(engine_submit(e, &r, &s, &err), ERROR_VALIDATION_FAILED);
    ck_assert_ptr_nonnull(strstr(err.message, "64"));
    ck_assert_ptr_nonnull(strstr(err.message, "70"));
    engine_close(e);
}
END_TEST

START_TEST(test_engine_options)
{
    struct engine *e;
    struct error err = {0};
    struct engine_options o = {.device = "cpu", .i2s_order = -1};
    ck_assert_int_eq(engine_open(&o, &e, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "model_path");
    o.model_path = "/nonexistent/model.gguf";
    ck_assert_int_ne(engine_open(&o, &e, &err), ERROR_NONE);
    o.model_path = harness_model();
    o.max_sequences = 100000;
    ck_assert_int_eq(engine_open(&o, &e, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "max_sequences");
    o.max_sequences = 0;
    o.kv_cache_bytes = 1;
    ck_assert_int_eq(engine_open(&o, &e, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "kv_cache_bytes");
}
END_TEST

SUITE("validate", test_cases, test_context_message, test_engine_options)
