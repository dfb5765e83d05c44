/* Plans from options, requests from plans, and requests as bytes. */
#include "tests/suite.h"

#include "tools/load_plan.h"

#include "bitnet/v1/inference.pb-c.h"

#include <jansson.h>
#include <math.h>

static struct load_config config;
static struct load_plan plan;
static struct error err;

/* A plan from a command line of options and perhaps a URL. */
static enum error_code open_plan(const char *line)
{
    static char text[512];
    char *argv[32] = {"bitnet-load"}, *rest = text;
    struct option_result result;
    int argc = 1;
    option_free(&load_options, &config);
    load_plan_free(&plan);
    memset(&config, 0, sizeof config);
    memset(&err, 0, sizeof err);
    snprintf(text, sizeof text, "%s", line);
    for (char *word; (word = strsep(&rest, " "));)
        if (*word)
            argv[argc++] = word;
    ck_assert_msg(!option_parse(&load_options, argc, argv, &config, &result, &err), "%s", err.message);
    return load_plan_open(&config, result.n_args ? result.args[0] : NULL, &plan, &err);
}

START_TEST(urls)
{
    static const struct {
        const char *url, *target;
        enum load_api api;
    } good[] = {
        {"", "127.0.0.1:50051", LOAD_GRPC},
        {"grpc://[::1]:5", "[::1]:5", LOAD_GRPC},
        {"grpc://h:1/", "h:1", LOAD_GRPC},
        {"unix:/run/x.sock", "unix:/run/x.sock", LOAD_GRPC},
        {"http://h:80/v1/inference/stream", "h:80", LOAD_INFERENCE},
        {"http://h:80/v1/completions", "h:80", LOAD_COMPLETIONS},
        {"http://h:80/v1/chat/completions", "h:80", LOAD_CHAT},
    };
    static const char *const bad[] = {
        "h:80", "grpc://h", "grpc://:/x", "http://h:80", "http://h:80/v1/inference", "https://h:1/v1/completions",
        "unix:"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        ck_assert_msg(!open_plan(good[i].url), "%s", err.message);
        ck_assert_str_eq(plan.target, good[i].target);
        ck_assert_int_eq(plan.api, good[i].api);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(open_plan(bad[i]) == ERROR_VALIDATION_FAILED, "%s", bad[i]);
}
END_TEST

START_TEST(levels)
{
    ck_assert(!open_plan(""));
    ck_assert(plan.mode == LOAD_CLOSED && plan.n_levels == 1 && plan.levels[0] == 1);
    ck_assert(!open_plan("--clients 1,8,100"));
    ck_assert(plan.mode == LOAD_CLOSED && plan.n_levels == 3 && plan.levels[2] == 100);
    ck_assert(!open_plan("--rate 0.5,10"));
    ck_assert(plan.mode == LOAD_POISSON && plan.n_levels == 2 && plan.levels[0] == 0.5);
}
END_TEST

START_TEST(what_does_not_go_together)
{
    static const char *const bad[] = {
        "--clients 0",
        "--clients 1.5",
        "--clients 1,",
        "--clients ,1",
        "--clients 1e9",
        "--rate -1",
        "--rate nan",
        "--rate 1;2",
        "--clients 1 --rate 1",
        "--trace /nowhere",
        "--cancel-share 0.6 --slow-share 0.6",
        "--low-share 0.6 --high-share 0.6",
        "--deadline-share 0.1 http://h:1/v1/completions",
        "--low-share 0.1 http://h:1/v1/chat/completions",
        "--ignore-eos http://h:1/v1/inference/stream",
        "--tls-ca x http://h:1/v1/completions",
        "--verify-alone",
        "--vocab 10",
        "--clients "
        "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,"
        "1,1,1,1,1,1,1,1,1,1",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ck_assert_msg(open_plan(bad[i]), "%s", bad[i]);
        ck_assert_msg(strstr(err.message, "expected") || strstr(err.message, "--") || strstr(err.message, "cannot"),
                      "%s", err.message);
    }
}
END_TEST

START_TEST(shares_are_met)
{
    int counts[5] = {0}, low = 0, high = 0;
    ck_assert(!open_plan(
        "--cancel-share 0.1 --deadline-share 0.2 --slow-share 0.3 --dead-share 0.05 --low-share 0.25 --high-share 0.5 "
        "--cancel-after 8"));
    for (uint64_t i = 0; i < 20000; i++) {
        struct load_spec s, again;
        load_plan_spec(&plan, 0, i, &s);
        load_plan_spec(&plan, 0, i, &again);
        ck_assert_mem_eq(&s, &again, sizeof s);
        counts[s.behaviour]++;
        low += s.priority < 0;
        high += s.priority > 0;
        if (s.behaviour == LOAD_CANCELS)
            ck_assert(s.cancel_after >= 1 && s.cancel_after <= 8);
    }
    static const double shares[5] = {0.35, 0.1, 0.2, 0.3, 0.05};
    for (int b = 0; b < 5; b++)
        ck_assert_double_eq_tol(counts[b] / 20000.0, shares[b], 0.02);
    ck_assert_double_eq_tol(low / 20000.0, 0.25, 0.02);
    ck_assert_double_eq_tol(high / 20000.0, 0.5, 0.02);
}
END_TEST

START_TEST(prompts_repeat_as_asked)
{
    struct load_spec a, b, c;
    ck_assert(!open_plan("--prompts 3"));
    load_plan_spec(&plan, 0, 1, &a);
    load_plan_spec(&plan, 50, 4, &b);
    load_plan_spec(&plan, 0, 2, &c);
    ck_assert(a.seed == b.seed && load_spec_key(&a) == load_spec_key(&b));
    ck_assert(a.seed != c.seed && load_spec_key(&a) != load_spec_key(&c));
    ck_assert(!open_plan("--prompts 0"));
    load_plan_spec(&plan, 0, 1, &a);
    load_plan_spec(&plan, 50, 1, &b); /* at a later level: a new prompt */
    ck_assert_uint_ne(load_spec_key(&a), load_spec_key(&b));
}
END_TEST

static Bitnet__V1__GenerateRequest *packed(uint64_t index, struct buffer *bytes)
{
    struct load_spec s;
    load_plan_spec(&plan, 0, index, &s);
    ck_assert(load_request_pack(&plan, &s, bytes));
    Bitnet__V1__GenerateRequest *r =
        bitnet__v1__generate_request__unpack(NULL, bytes->n_bytes, (const uint8_t *)bytes->data);
    ck_assert_ptr_nonnull(r);
    return r;
}

START_TEST(messages_hold_what_was_planned)
{
    struct buffer bytes;
    buffer_init(&bytes, 1 << 20);
    ck_assert(!open_plan("--prompt-tokens 40 --prefix-tokens 25 --vocab 1000 --max-tokens 9 --ignore-eos --temperature "
                         "0.5 --high-share 1 "
                         "--deadline-share 1 --deadline-ms 77 --model-id m"));
    Bitnet__V1__GenerateRequest *a = packed(0, &bytes), *b = packed(1, &bytes);
    ck_assert(a->tokens->n_ids == 40 && b->tokens->n_ids == 40);
    ck_assert_mem_eq(a->tokens->ids, b->tokens->ids, 25 * sizeof(uint32_t));
    ck_assert_mem_ne(a->tokens->ids + 25, b->tokens->ids + 25, 15 * sizeof(uint32_t));
    for (size_t i = 0; i < 40; i++)
        ck_assert(a->tokens->ids[i] >= 260 && a->tokens->ids[i] < 1000);
    ck_assert(a->max_tokens == 9 && a->ignore_eos && a->timeout_ms == 77);
    ck_assert_int_eq((int)a->priority, BITNET__V1__PRIORITY__PRIORITY_HIGH);
    ck_assert(a->sampling->temperature == 0.5f && a->sampling->seed != b->sampling->seed);
    ck_assert_str_eq(a->model, "m");
    bitnet__v1__generate_request__free_unpacked(a, NULL);
    bitnet__v1__generate_request__free_unpacked(b, NULL);
    ck_assert(!open_plan("--text --prompt-tokens 12"));
    a = packed(0, &bytes);
    size_t n_words = 1;
    for (const char *c = a->prompt; *c; c++)
        n_words += *c == ' ';
    ck_assert_uint_eq(n_words, 12);
    bitnet__v1__generate_request__free_unpacked(a, NULL);
    buffer_fini(&bytes);
}
END_TEST

START_TEST(bodies_are_json)
{
    static const char *const lines[] = {
        "http://h:1/v1/inference/stream --prompt \"q\\ --low-share 1 --deadline-share 1 --model-id m",
        "http://h:1/v1/completions --prompt-tokens 5 --ignore-eos",
        "http://h:1/v1/chat/completions --prompt-tokens 5 --temperature 0"};
    struct buffer bytes;
    struct load_spec s;
    buffer_init(&bytes, 1 << 20);
    for (int i = 0; i < 3; i++) {
        json_error_t why;
        ck_assert_msg(!open_plan(lines[i]), "%s", err.message);
        load_plan_spec(&plan, 0, 0, &s);
        ck_assert(load_request_pack(&plan, &s, &bytes));
        json_t *root = json_loadb(bytes.data, bytes.n_bytes, JSON_REJECT_DUPLICATES, &why);
        ck_assert_msg(root, "%s: %s", bytes.data, why.text);
        ck_assert_int_eq(json_integer_value(json_object_get(root, "max_tokens")), 32);
        ck_assert_int_eq(json_is_true(json_object_get(root, "stream")), i > 0);
        if (i == 0) {
            ck_assert_str_eq(json_string_value(json_object_get(root, "prompt")), "\"q\\");
            ck_assert_str_eq(json_string_value(json_object_get(root, "priority")), "low");
            ck_assert_int_eq(json_integer_value(json_object_get(root, "timeout_ms")), 1000);
        }
        if (i == 1)
            ck_assert(json_array_size(json_object_get(root, "prompt")) == 5 &&
                      json_is_true(json_object_get(root, "ignore_eos")));
        if (i == 2)
            ck_assert_ptr_nonnull(json_object_get(json_array_get(json_object_get(root, "messages"), 0), "content"));
        json_decref(root);
    }
    buffer_fini(&bytes);
}
END_TEST

SUITE("load plan", urls, levels, what_does_not_go_together, shares_are_met, prompts_repeat_as_asked,
      messages_hold_what_was_planned, bodies_are_json)
