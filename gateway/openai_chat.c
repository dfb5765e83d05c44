/* POST /v1/chat/completions. */
#include "gateway/body.h"
#include "gateway/emit.h"
#include "gateway/format.h"
#include "gateway/openai.h"
#include "gateway/tool_params.h"

#include <stddef.h>
#include <string.h>

#define AT(member) .offset = offsetof(struct params, member)
#define REFUSED FIELD_REFUSED, AT(refused)

/* What an absent max_tokens means for a chat: as much as the contract's own API allows; the context may end it sooner. */
#define CHAT_MAX_TOKENS 2048

const struct field chat_fields[] = {
    {"messages", FIELD_JSON, AT(messages), .required = true, .form = "an array of messages"},
    {"model", FIELD_TEXT, AT(model), 1, 255},
    {"max_tokens", FIELD_INT, AT(max_tokens), 1, 1048576},
    {"max_completion_tokens", FIELD_INT, AT(max_completion_tokens), 1, 1048576},
    {"temperature", FIELD_FLOAT, AT(temperature), 0, 2},
    {"top_p", FIELD_FLOAT, AT(top_p), 0, 1},
    {"top_k", FIELD_INT, AT(top_k), -1, 1000},
    {"min_p", FIELD_FLOAT, AT(min_p), 0, 1},
    {"repetition_penalty", FIELD_FLOAT, AT(repetition_penalty), 0, 2},
    {"presence_penalty", FIELD_FLOAT, AT(presence_penalty), -2, 2},
    {"frequency_penalty", FIELD_FLOAT, AT(frequency_penalty), -2, 2},
    {"seed", FIELD_INT, AT(seed), -9223372036854775808.0, 9223372036854774784.0},
    {"stop", FIELD_TEXT_OR_TEXTS, AT(stop), .max = 4, .each = 64},
    {"n", FIELD_INT, AT(n), 1, OPENAI_MAX_CHOICES},
    {"logit_bias", FIELD_JSON, AT(logit_bias)},
    {"logprobs", FIELD_BOOL, AT(logprobs)},
    {"top_logprobs", FIELD_INT, AT(top_logprobs), 0, 20},
    {"stream", FIELD_BOOL, AT(stream)},
    {"stream_options", FIELD_JSON, AT(stream_options)},
    {"response_format", FIELD_JSON, AT(response_format)},
    {"tools", FIELD_JSON, AT(tools)},
    {"tool_choice", FIELD_JSON, AT(tool_choice)},
    {"parallel_tool_calls", FIELD_BOOL, AT(parallel_tool_calls), .preset = 1},
    {"modalities", FIELD_JSON, AT(modalities)},
    {"functions", REFUSED},
    {"function_call", REFUSED, .choices = "none|auto"},
    {"audio", REFUSED},
    {"prediction", REFUSED},
    {"reasoning_effort", REFUSED, .choices = "none"},
    {"verbosity", REFUSED, .choices = "medium"},
    {"web_search_options", REFUSED},
    {"store", REFUSED},
    {"service_tier", REFUSED, .choices = "auto|default"},
    {0},
};

static void chat_done(struct job *j)
{
    struct openai *o = j->state;
    const Bitnet__V1__GenerateResponse *a = j->calls[0].answer;
    struct buffer *b = &j->out;
    openai_count(o, a->usage);
    openai_origin(o, a->model, a->system_fingerprint);
    openai_head(b, o, false);
    emit_key(b, "choices");
    emit_open(b, '[');
    for (size_t i = 0; i < a->n_choices; i++) {
        emit_open(b, '{');
        emit_key(b, "index");
        emit_uint(b, a->choices[i]->index);
        openai_message(b, o, a->choices[i]);
        emit_close(b, '}');
    }
    emit_close(b, ']');
    openai_usage(b, o);
    emit_close(b, '}');
}

static void chat_token(struct job *j, int call, const Bitnet__V1__TokenEvent *event)
{
    (void)call;
    openai_origin(j->state, event->model, event->system_fingerprint);
    openai_begin_deltas(j);
    for (size_t i = 0; i < event->n_tokens; i++)
        openai_token_deltas(j, event->choice, event->tokens[i]);
}

static void chat_choice_end(struct job *j, int call, const Bitnet__V1__ChoiceEnd *end)
{
    (void)call;
    openai_begin_deltas(j);
    openai_end_deltas(j, end->choice, (int)end->finish_reason);
}

static const struct job_view whole_view = {.done = chat_done};
static const struct job_view stream_view = {
    .token = chat_token,
    .choice_end = chat_choice_end,
    .complete = openai_stream_complete,
    .done = openai_stream_done,
    .error = openai_stream_error,
};

static bool check_modalities(const struct params *p, struct failure *f)
{
    const json_t *list = p->modalities.json;
    const char *only = json_string_value(json_array_get(list, 0));
    if (!list || (json_array_size(list) == 1 && only && strcmp(only, "text") == 0))
        return true;
    failure_add(f, ERROR_VALIDATION_FAILED, "modalities", "[\"text\"] only", NULL);
    return false;
}

static bool check(const struct params *p, struct failure *f, bool *include_usage)
{
    bool ok = params_check_messages(p->messages.json, f) && format_check(p->response_format.json, f) &&
              params_check_bias(p, f) && tool_params_check(p, f) && check_modalities(p, f) &&
              openai_stream_options(p, include_usage, f);
    if (ok && p->top_logprobs.set && p->top_logprobs.i > 0 && !p->logprobs.truth) {
        failure_add(f, ERROR_VALIDATION_FAILED, "top_logprobs", "only together with logprobs", NULL);
        return false;
    }
    return ok;
}

static int64_t max_tokens(const struct params *p)
{
    return p->max_completion_tokens.set ? p->max_completion_tokens.i
           : p->max_tokens.set          ? p->max_tokens.i
                                        : CHAT_MAX_TOKENS;
}

static void start(struct request *r, const struct params *p, bool include_usage, struct failure *f)
{
    struct buffer packed;
    buffer_init(&packed, SIZE_MAX / 2);
    const struct input input = {.messages = p->messages.json};
    const struct extras extras = {.max_tokens = max_tokens(p),
                                  .logprobs = p->logprobs.truth,
                                  .top_logprobs = p->top_logprobs.i,
                                  .request_id = r->id,
                                  .client_id = r->access.client.id};
    struct openai *o = params_pack(p, &input, &extras, &packed) ? openai_open(p, true) : NULL;
    if (o) {
        o->include_usage = include_usage;
        o->logprobs = p->logprobs.truth;
        job_start(r, p->stream.truth ? &stream_view : &whole_view, o, p->stream.truth, &packed, 1, 0);
    } else {
        error_set(&f->error, ERROR_INTERNAL, "out of memory");
        error_respond(r, f);
    }
    buffer_fini(&packed);
}

void handle_chat(struct request *r)
{
    const struct fields_rules rules = {.strict = false, .max_prompt_chars = r->g->config->max_prompt_chars};
    struct params p = {0};
    struct failure f;
    bool include_usage = false;
    failure_init(&f);
    r->fields = chat_fields;
    json_t *root = body_json(r, &f);
    if (root && fields_parse(chat_fields, root, &rules, &p, &f) && check(&p, &f, &include_usage))
        start(r, &p, include_usage, &f);
    else
        error_respond(r, &f);
    json_decref(root);
    failure_fini(&f);
}
