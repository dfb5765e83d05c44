/* OpenAI's API beside plain answers: tools into the proto, calls out of texts, log-probabilities of prompts. */
#include "tests/suite.h"
#include "tests/unit/gateway/app.h"

#include <math.h>

#define STOP BITNET__V1__FINISH_REASON__FINISH_REASON_STOP
#define LENGTH BITNET__V1__FINISH_REASON__FINISH_REASON_LENGTH
#define USER "{\"role\":\"user\",\"content\":\"a\"}"
#define TOOLS                                                                                                          \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"D\",\"strict\":true,"            \
    "\"parameters\":{\"type\":\"object\",\"properties\":{\"z\":{},\"a\":{}}}}},"                                       \
    "{\"type\":\"function\",\"function\":{\"name\":\"g\",\"description\":null,\"parameters\":null}}]"
#define CALL_TEXT(name, arguments) "<tool_call>\n{\"name\": \"" name "\", \"arguments\": " arguments "}\n</tool_call>"

static struct app app;

static Bitnet__V1__GenerateRequest *packed_of(const char *body)
{
    app_open(&app);
    app_post(&app, "/v1/chat/completions", body);
    ck_assert_msg(app_n_calls == 1, "%s", app_sent(&app));
    return app_generate_request(0);
}

static void done_with(Bitnet__V1__GenerateRequest *q)
{
    bitnet__v1__generate_request__free_unpacked(q, NULL);
    app_close(&app);
}

START_TEST(tools_are_packed)
{
    Bitnet__V1__GenerateRequest *q = packed_of("{\"messages\":[" USER "]," TOOLS "}");
    ck_assert_ptr_nonnull(q->tools);
    ck_assert_uint_eq(q->tools->n_tools, 2);
    ck_assert_str_eq(q->tools->tools[0]->name, "f");
    ck_assert_str_eq(q->tools->tools[0]->description, "D");
    ck_assert(q->tools->tools[0]->strict && !q->tools->tools[1]->strict);
    ck_assert_str_eq(q->tools->tools[0]->parameters, "{\"type\":\"object\",\"properties\":{\"z\":{},\"a\":{}}}");
    ck_assert_str_eq(q->tools->tools[1]->parameters, "");
    ck_assert_int_eq(q->tools->mode, BITNET__V1__TOOL_MODE__TOOL_MODE_AUTO);
    ck_assert(!q->tools->single);
    done_with(q);
}
END_TEST

START_TEST(choices_are_packed)
{
    static const struct {
        const char *fields, *name;
        bool used, required, single;
    } rows[] = {
        {"\"tool_choice\":null,\"parallel_tool_calls\":null," TOOLS, "", true, false, false},
        {"\"tool_choice\":\"auto\",\"parallel_tool_calls\":true," TOOLS, "", true, false, false},
        {"\"tool_choice\":\"required\",\"parallel_tool_calls\":false," TOOLS, "", true, true, true},
        {"\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"g\"}}," TOOLS, "g", true, true, false},
        {"\"tool_choice\":\"none\"," TOOLS, "", false, false, false},
        {"\"tool_choice\":\"none\",\"tools\":[]", "", false, false, false},
        {"\"tools\":null", "", false, false, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char body[1024];
        snprintf(body, sizeof body, "{\"messages\":[" USER "],%s}", rows[i].fields);
        Bitnet__V1__GenerateRequest *q = packed_of(body);
        ck_assert_msg((q->tools != NULL) == rows[i].used, "%s", body);
        if (q->tools) {
            ck_assert_int_eq(q->tools->mode == BITNET__V1__TOOL_MODE__TOOL_MODE_REQUIRED, rows[i].required);
            ck_assert_str_eq(q->tools->name, rows[i].name);
            ck_assert(q->tools->single == rows[i].single);
        }
        done_with(q);
    }
}
END_TEST

START_TEST(calls_of_messages_are_packed)
{
    Bitnet__V1__GenerateRequest *q = packed_of(
        "{\"messages\":[" USER ",{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\","
        "\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\"}},{\"id\":\"c2\",\"type\":\"function\",\"function\":{"
        "\"name\":\"g\",\"arguments\":\"{}\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"c2\",\"content\":\"42\"},"
        "{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":[{\"type\":\"text\",\"text\":\"43\"}]}]}");
    const Bitnet__V1__Message *m = q->chat->messages[1];
    ck_assert_str_eq(m->content, "");
    ck_assert_uint_eq(m->n_tool_calls, 2);
    ck_assert_str_eq(m->tool_calls[0]->id, "c1");
    ck_assert_str_eq(m->tool_calls[0]->arguments, "{\"x\":1}");
    ck_assert_str_eq(m->tool_calls[1]->name, "g");
    ck_assert_str_eq(q->chat->messages[2]->role, "tool");
    ck_assert_str_eq(q->chat->messages[3]->content, "43");
    done_with(q);
}
END_TEST

/* What is random in an answer: ids, as "call_#". */
static const char *without_ids(const char *text)
{
    static char out[65536];
    size_t n = 0;
    while (*text && n + 8 < sizeof out) {
        bool is_id = strncmp(text, "call_", 5) == 0 && strspn(text + 5, "0123456789abcdef") == 24;
        n += (size_t)snprintf(out + n, 8, "%.*s", is_id ? 6 : 1, is_id ? "call_#" : text);
        text += is_id ? 29 : 1;
    }
    out[n] = '\0';
    return out;
}

static void expect_message(const char *text, Bitnet__V1__FinishReason reason, const char *part)
{
    Bitnet__V1__GenerateResponse a = BITNET__V1__GENERATE_RESPONSE__INIT;
    Bitnet__V1__Choice choice = BITNET__V1__CHOICE__INIT, *choices[1] = {&choice};
    choice.text = (char *)(uintptr_t)text;
    choice.finish_reason = reason;
    a.model = (char *)(uintptr_t) "tales";
    a.system_fingerprint = (char *)(uintptr_t) "fp_1";
    a.n_choices = 1;
    a.choices = choices;
    app_open(&app);
    app_post(&app, "/v1/chat/completions", "{\"messages\":[" USER "]," TOOLS "}");
    app_message(0, &a.base);
    app_end(0, 0, "");
    ck_assert_msg(strstr(without_ids(app_body(&app)), part) != NULL, "%s: %s", part, app_body(&app));
    ck_assert_ptr_nonnull(strstr(app_body(&app), "\"model\":\"tales\",\"system_fingerprint\":\"fp_1\",\"choices\""));
    app_close(&app);
}

START_TEST(calls_are_found_in_answers)
{
    expect_message(CALL_TEXT("f", "{\"s\": \"a\\n\\\"b\\\"\"}") "\n" CALL_TEXT("g", "{}"), STOP,
                   "\"message\":{\"role\":\"assistant\",\"content\":null,\"refusal\":null,\"tool_calls\":["
                   "{\"id\":\"call_#\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"
                   "\"{\\\"s\\\": \\\"a\\\\n\\\\\\\"b\\\\\\\"\\\"}\"}},"
                   "{\"id\":\"call_#\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"{}\"}}]},"
                   "\"logprobs\":null,\"finish_reason\":\"tool_calls\"}");
    expect_message("Words.", STOP, "\"content\":\"Words.\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}");
    expect_message("Words.\n" CALL_TEXT("g", "{}"), STOP, "\"content\":\"Words.\",\"refusal\":null,\"tool_calls\":[{");
    expect_message("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\"", LENGTH,
                   "\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\"\"}}]},\"logprobs\":null,\"finish_reason\":\"length\"}");
    expect_message("", STOP, "\"content\":\"\",\"refusal\":null},");
}
END_TEST

/* The deltas of a stream of these pieces, one after the other. */
static const char *deltas_of(const char *fields, const char *const *pieces, size_t n, Bitnet__V1__FinishReason reason)
{
    static char out[16384];
    char body[1024];
    app_open(&app);
    snprintf(body, sizeof body, "{\"messages\":[" USER "],\"stream\":true%s}", fields);
    app_post(&app, "/v1/chat/completions", body);
    for (uint32_t i = 0; i < n; i++)
        app_token(0, 0, i, i, pieces[i], 0);
    app_choice_end(0, 0, reason);
    app_answer(0, true, "");
    app_end(0, 0, "");
    const char *from = without_ids(app_body(&app));
    size_t at = 0;
    while ((from = strstr(from, "\"delta\":"))) {
        from += strlen("\"delta\":");
        const char *end = strstr(from, ",\"logprobs\"");
        at += (size_t)snprintf(out + at, sizeof out - at, "%.*s%.*s\n", (int)(end - from), from,
                               (int)strcspn(strstr(end, "finish_reason\":") + 15, "}"), strstr(end, "finish_reason\":") + 15);
    }
    app_close(&app);
    return out;
}

START_TEST(calls_are_streamed)
{
    static const char *const pieces[] = {"Let", " me ", "<tool", "_call>\n{\"na", "me\": \"f\", \"argu", "ments\": {\"a\"", ": \"}\"", "}}\n",
                                         "</tool_call>", "\n<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>"};
    ck_assert_str_eq(deltas_of("," TOOLS, pieces, sizeof pieces / sizeof *pieces, STOP),
                     "{\"role\":\"assistant\",\"content\":\"\"}null\n"
                     "{\"content\":\"Let\"}null\n"
                     "{\"content\":\" me\"}null\n"
                     "{\"tool_calls\":[{\"index\":0,\"id\":\"call_#\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}null\n"
                     "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\\\"a\\\"\"}}]}null\n"
                     "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\": \\\"}\\\"\"}}]}null\n"
                     "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"}\"}}]}null\n"
                     "{\"tool_calls\":[{\"index\":1,\"id\":\"call_#\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"\"}}]}null\n"
                     "{\"tool_calls\":[{\"index\":1,\"function\":{\"arguments\":\"{}\"}}]}null\n"
                     "{}\"tool_calls\"\n");
    ck_assert_str_eq(deltas_of("," TOOLS ",\"tool_choice\":\"required\"", pieces + 2, 3, LENGTH),
                     "{\"role\":\"assistant\",\"content\":null}null\n"
                     "{}\"length\"\n");
    ck_assert_str_eq(deltas_of("", pieces + 2, 2, STOP), /* no tools: words, whatever they look like */
                     "{\"role\":\"assistant\",\"content\":\"\"}null\n{\"content\":\"<tool\"}null\n{\"content\":\"_call>\\n{\\\"na\"}null\n{}\"stop\"\n");
}
END_TEST

/* ---- log-probabilities of prompts ---- */

static Bitnet__V1__TokenLogprob entry_of(uint32_t id, const char *token, float logprob, bool special)
{
    Bitnet__V1__TokenLogprob e = BITNET__V1__TOKEN_LOGPROB__INIT;
    e.token_id = id;
    e.token = (ProtobufCBinaryData){strlen(token), (uint8_t *)(uintptr_t)token};
    e.logprob = logprob;
    e.special = special;
    return e;
}

START_TEST(scores_of_a_prompt)
{
    Bitnet__V1__GenerateResponse a = BITNET__V1__GENERATE_RESPONSE__INIT;
    Bitnet__V1__Choice choice = BITNET__V1__CHOICE__INIT, *choices[1] = {&choice};
    Bitnet__V1__TopLogprob best = BITNET__V1__TOP_LOGPROB__INIT, *top[1] = {&best};
    Bitnet__V1__TokenLogprob e[] = {entry_of(0, "<s>", NAN, true), entry_of(5, "a\xc3", -1, false),
                                    entry_of(6, "\xa9", -0.5f, false), entry_of(7, "b", -2, false)};
    Bitnet__V1__TokenLogprob *prompt[] = {&e[0], &e[1], &e[2]}, *answer[] = {&e[3]};
    best.token_id = 6;
    best.token = e[2].token;
    best.logprob = -0.5f;
    e[2].n_top = e[3].n_top = 1;
    e[2].top = e[3].top = top;
    choice.text = (char *)(uintptr_t) "a\xc3\xa9" "b";
    choice.n_logprobs = 1;
    choice.logprobs = answer;
    a.n_choices = 1;
    a.choices = choices;
    a.n_prompt_logprobs = 3;
    a.prompt_logprobs = prompt;
    app_open(&app);
    app_post(&app, "/v1/completions", "{\"prompt\":[0,5,6],\"max_tokens\":1,\"echo\":true,\"logprobs\":1}");
    Bitnet__V1__GenerateRequest *q = app_generate_request(0);
    ck_assert(q->echo && q->logprobs && q->prompt_logprobs && !q->score_only);
    bitnet__v1__generate_request__free_unpacked(q, NULL);
    app_message(0, &a.base);
    app_end(0, 0, "");
    ck_assert_msg(strstr(app_body(&app), "\"text\":\"a\xc3\xa9" "b\",\"logprobs\":{\"tokens\":[\"<s>\",\"bytes:a\\\\xc3\",\"bytes:\\\\xa9\",\"b\"],"
                                         "\"token_logprobs\":[null,-1,-0.5,-2],"
                                         "\"top_logprobs\":[null,{\"bytes:a\\\\xc3\":-1},{\"bytes:\\\\xa9\":-0.5},{\"bytes:\\\\xa9\":-0.5,\"b\":-2}],"
                                         "\"text_offset\":[0,0,2,2]}"),
                  "%s", app_body(&app));
    app_close(&app);
}
END_TEST

START_TEST(scoring_asks_for_nothing_else)
{
    app_open(&app);
    app_post(&app, "/v1/completions", "{\"prompt\":[[0,5],[6]],\"max_tokens\":0,\"echo\":true,\"logprobs\":0}");
    ck_assert_int_eq(app_n_calls, 2);
    Bitnet__V1__GenerateRequest *q = app_generate_request(0);
    ck_assert(q->echo && q->logprobs && q->prompt_logprobs && q->score_only);
    ck_assert_uint_eq(q->top_logprobs, 0);
    done_with(q);
}
END_TEST

/* A prompt in two events for two choices: its text once for each, its offsets go on through the answer. */
START_TEST(a_prompt_in_a_stream)
{
    Bitnet__V1__StreamGenerateResponse r = BITNET__V1__STREAM_GENERATE_RESPONSE__INIT;
    Bitnet__V1__PromptEvent event = BITNET__V1__PROMPT_EVENT__INIT;
    Bitnet__V1__TokenLogprob e[] = {entry_of(5, "ab", NAN, false), entry_of(6, "c", -0.5f, false)};
    Bitnet__V1__TokenLogprob *first[] = {&e[0]}, *second[] = {&e[1]};
    app_open(&app);
    app_post(&app, "/v1/completions", "{\"prompt\":\"abc\",\"n\":2,\"stream\":true,\"echo\":true,\"logprobs\":0}");
    r.event_case = BITNET__V1__STREAM_GENERATE_RESPONSE__EVENT_PROMPT;
    r.prompt = &event;
    event.text = (char *)(uintptr_t) "abc";
    event.model = (char *)(uintptr_t) "tales";
    event.system_fingerprint = (char *)(uintptr_t) "fp_2";
    event.n_tokens = 1;
    event.tokens = first;
    app_message(0, &r.base);
    event.text = event.model = event.system_fingerprint = (char *)(uintptr_t) "";
    event.tokens = second;
    app_message(0, &r.base);
    app_token(0, 1, 0, 9, "d", -1);
    const char *sent = app_sent(&app);
    ck_assert_ptr_nonnull(strstr(sent, "\"model\":\"tales\",\"system_fingerprint\":\"fp_2\",\"choices\":[{\"index\":1,\"text\":\"abc\",\"logprobs\":"
                                       "{\"tokens\":[\"ab\"],\"token_logprobs\":[null],\"top_logprobs\":[null],\"text_offset\":[0]}"));
    ck_assert_ptr_nonnull(strstr(sent, "{\"index\":0,\"text\":\"\",\"logprobs\":{\"tokens\":[\"c\"],\"token_logprobs\":[-0.5],"
                                       "\"top_logprobs\":[{\"c\":-0.5}],\"text_offset\":[2]}"));
    ck_assert_ptr_nonnull(strstr(sent, "{\"index\":1,\"text\":\"d\",\"logprobs\":{\"tokens\":[\"d\"],\"token_logprobs\":[-1],"
                                       "\"top_logprobs\":[{\"d\":-1}],\"text_offset\":[3]}"));
    app_close(&app);
}
END_TEST

SUITE("openai", tools_are_packed, choices_are_packed, calls_of_messages_are_packed, calls_are_found_in_answers, calls_are_streamed,
      scores_of_a_prompt, scoring_asks_for_nothing_else, a_prompt_in_a_stream)
