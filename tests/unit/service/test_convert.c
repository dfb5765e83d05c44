/* From GenerateRequest to the engine's request: defaults, deadlines, seeds. */
#include "tests/suite.h"

#include "service/convert.h"

#include "base/clock.h"
#include "base/log.h"

static struct service_config config = {.seed = -1};
static struct service service = {.config = &config};
static const struct tokenizer *tokenizer; /* that chats are rendered by */

static enum error_code convert(const Bitnet__V1__GenerateRequest *r, int64_t deadline_ns, struct converted *out,
                               struct error *err)
{
    *err = (struct error){0};
    enum error_code code = convert_request(&service, tokenizer, r, deadline_ns, out, err);
    return !code && convert_has_form(r) ? convert_form(&service, r, out, err) : code;
}

static Bitnet__V1__GenerateRequest with_prompt(void)
{
    Bitnet__V1__GenerateRequest r = BITNET__V1__GENERATE_REQUEST__INIT;
    r.input_case = BITNET__V1__GENERATE_REQUEST__INPUT_PROMPT;
    r.prompt = (char *)(uintptr_t) "Once";
    return r;
}

START_TEST(defaults_where_nothing_is_set)
{
    const Bitnet__V1__GenerateRequest r = with_prompt();
    struct converted c;
    struct error err;
    ck_assert_int_eq(convert(&r, CLOCK_NEVER, &c, &err), ERROR_NONE);
    ck_assert_str_eq(c.request.prompt, "Once");
    ck_assert_uint_eq(c.request.prompt_bytes, 4);
    ck_assert_uint_eq(c.request.max_tokens, 100);
    ck_assert_float_eq(c.request.sampling.temperature, 0.7f);
    ck_assert_uint_eq(c.request.sampling.top_k, 50);
    ck_assert_int_eq(c.request.deadline_ns, CLOCK_NEVER);
    ck_assert(!c.call_deadline);
    convert_fini(&c);
}
END_TEST

START_TEST(zero_is_a_value)
{
    Bitnet__V1__Sampling sampling = BITNET__V1__SAMPLING__INIT;
    Bitnet__V1__GenerateRequest r = with_prompt();
    struct converted c;
    struct error err;
    sampling._temperature_case = BITNET__V1__SAMPLING___TEMPERATURE_TEMPERATURE;
    sampling._top_k_case = BITNET__V1__SAMPLING___TOP_K_TOP_K;
    sampling._seed_case = BITNET__V1__SAMPLING___SEED_SEED;
    r.sampling = &sampling;
    ck_assert_int_eq(convert(&r, CLOCK_NEVER, &c, &err), ERROR_NONE);
    ck_assert_float_eq(c.request.sampling.temperature, 0);
    ck_assert_uint_eq(c.request.sampling.top_k, 0);
    ck_assert_uint_eq(c.request.sampling.seed, 0);
    ck_assert_float_eq(c.request.sampling.top_p, 0.9f);
    convert_fini(&c);
}
END_TEST

static uint64_t seed_of(int64_t seed, bool deterministic)
{
    const Bitnet__V1__GenerateRequest r = with_prompt();
    struct converted c;
    struct error err;
    config.seed = seed;
    config.deterministic = deterministic;
    ck_assert_int_eq(convert(&r, CLOCK_NEVER, &c, &err), ERROR_NONE);
    convert_fini(&c);
    return c.request.sampling.seed;
}

START_TEST(seeds_can_be_pinned)
{
    ck_assert_uint_eq(seed_of(17, false), 17);
    ck_assert_uint_eq(seed_of(17, true), 17);
    ck_assert_uint_eq(seed_of(-1, true), 0);
    uint64_t first = seed_of(-1, false);
    ck_assert(first != seed_of(-1, false) || first != seed_of(-1, false));
    ck_assert_uint_le(first, UINT32_MAX);
}
END_TEST

START_TEST(the_earlier_deadline_counts)
{
    Bitnet__V1__GenerateRequest r = with_prompt();
    struct converted c;
    struct error err;
    int64_t now = clock_now_ns(), second = CLOCK_NS_PER_S;
    r.timeout_ms = 5000;
    ck_assert_int_eq(convert(&r, now + second, &c, &err), ERROR_NONE);
    ck_assert_int_eq(c.request.deadline_ns, now + second);
    ck_assert(c.call_deadline);
    ck_assert_int_eq(convert(&r, now + 60 * second, &c, &err), ERROR_NONE);
    ck_assert_int_ge(c.request.deadline_ns, now + 5 * second);
    ck_assert_int_lt(c.request.deadline_ns, now + 50 * second);
    ck_assert(!c.call_deadline);
    r.timeout_ms = 0;
    config.default_timeout_ms = 2000;
    ck_assert_int_eq(convert(&r, CLOCK_NEVER, &c, &err), ERROR_NONE);
    ck_assert_int_lt(c.request.deadline_ns, now + 50 * second);
}
END_TEST

static void refused(const Bitnet__V1__GenerateRequest *r, const char *param)
{
    struct converted c;
    struct error err;
    ck_assert_int_eq(convert(r, CLOCK_NEVER, &c, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, param);
    convert_fini(&c);
}

START_TEST(refuses_what_cannot_be_converted)
{
    Bitnet__V1__GenerateRequest r = BITNET__V1__GENERATE_REQUEST__INIT;
    Bitnet__V1__Tokens none = BITNET__V1__TOKENS__INIT;
    Bitnet__V1__Chat chat = BITNET__V1__CHAT__INIT;
    Bitnet__V1__Sampling sampling = BITNET__V1__SAMPLING__INIT;
    refused(&r, "prompt");
    r.input_case = BITNET__V1__GENERATE_REQUEST__INPUT_TOKENS;
    r.tokens = &none;
    refused(&r, "tokens");
    r.input_case = BITNET__V1__GENERATE_REQUEST__INPUT_CHAT;
    r.chat = &chat;
    refused(&r, "messages");
    r.echo = true;
    refused(&r, "echo");
    r = with_prompt();
    r.sampling = &sampling;
    sampling.n_logit_bias = CONVERT_MAX_BIAS + 1;
    refused(&r, "sampling.logit_bias");
}
END_TEST

START_TEST(best_of_is_what_is_generated)
{
    static const struct { uint32_t n, best_of, generated; bool logprobs; } rows[] = {
        {0, 0, 1, false}, {3, 0, 3, false}, {0, 1, 1, false}, {3, 3, 3, false}, {0, 2, 2, true}, {2, 8, 8, true}};
    Bitnet__V1__GenerateRequest r = with_prompt();
    struct converted c;
    struct error err;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        r.n = rows[i].n;
        r.best_of = rows[i].best_of;
        ck_assert_int_eq(convert(&r, CLOCK_NEVER, &c, &err), ERROR_NONE);
        ck_assert_uint_eq(c.request.n, rows[i].generated);
        ck_assert(c.request.logprobs == rows[i].logprobs);
        convert_fini(&c);
    }
    r.n = 3;
    r.best_of = 2;
    refused(&r, "best_of");
    r.best_of = 9;
    refused(&r, "best_of");
}
END_TEST

static struct engine *open_tales(void)
{
    const struct engine_options options = {.model_path = "models/tales.gguf", .device = "cpu", .i2s_order = -1, .n_threads = 1};
    struct error err;
    log_init(LOG_OFF, LOG_FORMAT_TEXT);
    struct engine *e;
    ck_assert(!engine_open(&options, &e, &err));
    tokenizer = engine_tokenizer(e);
    return e;
}

START_TEST(chat_is_carried_over)
{
    struct engine *e = open_tales();
    Bitnet__V1__Message m = BITNET__V1__MESSAGE__INIT, *list[] = {&m, &m};
    Bitnet__V1__Chat chat = BITNET__V1__CHAT__INIT;
    Bitnet__V1__GenerateRequest r = BITNET__V1__GENERATE_REQUEST__INIT;
    struct converted c;
    struct error err;
    m.role = (char *)(uintptr_t) "user";
    m.content = (char *)(uintptr_t) "hello";
    chat.n_messages = 2;
    chat.messages = list;
    r.input_case = BITNET__V1__GENERATE_REQUEST__INPUT_CHAT;
    r.chat = &chat;
    ck_assert_int_eq(convert(&r, CLOCK_NEVER, &c, &err), ERROR_NONE);
    ck_assert_uint_eq(c.request.n_messages, 2);
    ck_assert_str_eq(c.request.messages[1].content, "hello");
    ck_assert_ptr_null(c.grammar);
    convert_fini(&c);
    engine_close(e);
}
END_TEST

START_TEST(tools_become_words_and_a_grammar)
{
    struct engine *e = open_tales();
    Bitnet__V1__Message m = BITNET__V1__MESSAGE__INIT, *list[] = {&m};
    Bitnet__V1__Chat chat = BITNET__V1__CHAT__INIT;
    Bitnet__V1__Tool tool = BITNET__V1__TOOL__INIT, *tools[] = {&tool};
    Bitnet__V1__Tools all = BITNET__V1__TOOLS__INIT;
    Bitnet__V1__GenerateRequest r = BITNET__V1__GENERATE_REQUEST__INIT;
    struct converted c;
    struct error err;
    service.formats = formats_open();
    m.role = (char *)(uintptr_t) "user";
    m.content = (char *)(uintptr_t) "hello";
    chat.n_messages = all.n_tools = 1;
    chat.messages = list;
    tool.name = (char *)(uintptr_t) "f";
    all.tools = tools;
    r.input_case = BITNET__V1__GENERATE_REQUEST__INPUT_CHAT;
    r.chat = &chat;
    r.tools = &all;
    ck_assert_int_eq(convert(&r, CLOCK_NEVER, &c, &err), ERROR_NONE);
    ck_assert_uint_eq(c.request.n_messages, 2);
    ck_assert_str_eq(c.request.messages[0].role, "system");
    ck_assert_ptr_nonnull(c.grammar);
    convert_fini(&c);
    all.mode = BITNET__V1__TOOL_MODE__TOOL_MODE_NONE;
    ck_assert_int_eq(convert(&r, CLOCK_NEVER, &c, &err), ERROR_NONE);
    ck_assert_uint_eq(c.request.n_messages, 1);
    ck_assert_ptr_null(c.grammar);
    convert_fini(&c);
    all.mode = BITNET__V1__TOOL_MODE__TOOL_MODE_AUTO;
    r.input_case = BITNET__V1__GENERATE_REQUEST__INPUT_PROMPT;
    r.prompt = (char *)(uintptr_t) "Once";
    refused(&r, "tools");
    formats_close(service.formats);
    engine_close(e);
}
END_TEST

START_TEST(scoring)
{
    Bitnet__V1__GenerateRequest r = with_prompt();
    struct converted c;
    struct error err;
    r.logprobs = r.prompt_logprobs = r.score_only = true;
    r.max_tokens = 7;
    ck_assert_int_eq(convert(&r, CLOCK_NEVER, &c, &err), ERROR_NONE);
    ck_assert(c.request.prompt_logprobs && c.request.max_tokens == 0);
    convert_fini(&c);
    r.prompt_logprobs = false;
    refused(&r, "score_only");
}
END_TEST

SUITE("convert", defaults_where_nothing_is_set, zero_is_a_value, seeds_can_be_pinned, the_earlier_deadline_counts,
      refuses_what_cannot_be_converted, best_of_is_what_is_generated, chat_is_carried_over,
      tools_become_words_and_a_grammar, scoring)
