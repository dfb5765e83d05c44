/* POST /v1/completions. Each prompt is a call of its own to the engine; choice = prompt * n + choice of the call. */
#include "gateway/body.h"
#include "gateway/emit.h"
#include "gateway/openai.h"

#include "base/utf8.h"

#include <stddef.h>
#include <string.h>

#define AT(member) .offset = offsetof(struct params, member)
#define COMPLETION_MAX_TOKENS 16 /* what OpenAI's API does when max_tokens is absent */

const struct field completion_fields[] = {
    {"prompt", FIELD_JSON, AT(prompt), .required = true, .form = "a string, an array of strings, or token ids"},
    {"model", FIELD_TEXT, AT(model), 1, 255},
    {"max_tokens", FIELD_INT, AT(max_tokens), 0, 1048576, COMPLETION_MAX_TOKENS},
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
    {"best_of", FIELD_INT, AT(best_of), 1, OPENAI_MAX_CHOICES},
    {"logit_bias", FIELD_JSON, AT(logit_bias)},
    {"logprobs", FIELD_INT, AT(logprobs), 0, 20, .proto = "top_logprobs"},
    {"echo", FIELD_BOOL, AT(echo)},
    {"stream", FIELD_BOOL, AT(stream)},
    {"stream_options", FIELD_JSON, AT(stream_options)},
    {"suffix", FIELD_REFUSED, AT(refused)},
    {0},
};

/* ---- answers ---- */

static void put_choice(struct buffer *b, uint32_t index, const char *text, const struct openai_tokens *tokens,
                       size_t *offset, int reason)
{
    emit_open(b, '{');
    emit_key(b, "index");
    emit_uint(b, index);
    emit_key(b, "text");
    emit_text(b, text);
    emit_key(b, "logprobs");
    if (tokens->n_prompt + tokens->n_answer > 0)
        openai_text_logprobs(b, tokens, offset);
    else
        emit_null(b);
    openai_finish_reason(b, reason, false);
    emit_close(b, '}');
}

/* The choices of one prompt. */
static void put_choices(struct buffer *b, const struct openai *o, uint32_t first, const Bitnet__V1__GenerateResponse *a)
{
    for (size_t k = 0; k < a->n_choices; k++) {
        const Bitnet__V1__Choice *c = a->choices[k];
        struct openai_tokens tokens = {0};
        size_t offset = 0;
        if (o->logprobs)
            tokens = (struct openai_tokens){a->prompt_logprobs, c->logprobs, a->n_prompt_logprobs, c->n_logprobs};
        put_choice(b, first + c->index, c->text, &tokens, &offset, (int)c->finish_reason);
    }
}

static void completion_done(struct job *j)
{
    struct openai *o = j->state;
    struct buffer *b = &j->out;
    for (int i = 0; i < j->n_calls; i++)
        openai_count(o, j->calls[i].answer->usage);
    openai_origin(o, j->calls[0].answer->model, j->calls[0].answer->system_fingerprint);
    openai_head(b, o, false);
    emit_key(b, "choices");
    emit_open(b, '[');
    for (int i = 0; i < j->n_calls; i++)
        put_choices(b, o, (uint32_t)(i * o->n_choices), j->calls[i].answer);
    emit_close(b, ']');
    openai_usage(b, o);
    emit_close(b, '}');
}

static void put_chunk(struct job *j, uint32_t index, const char *text, const struct openai_tokens *tokens, int reason)
{
    struct openai *o = j->state;
    openai_chunk_begin(j);
    emit_key(&j->out, "choices");
    emit_open(&j->out, '[');
    put_choice(&j->out, index, text, tokens, &o->text_offset[index % (OPENAI_MAX_PROMPTS * OPENAI_MAX_CHOICES)], reason);
    emit_close(&j->out, ']');
    openai_chunk_end(j);
}

/* Each choice begins with the prompt. */
static void completion_prompt(struct job *j, int call, const Bitnet__V1__PromptEvent *event)
{
    struct openai *o = j->state;
    const struct openai_tokens tokens = {.prompt = event->tokens, .n_prompt = o->logprobs ? event->n_tokens : 0};
    openai_origin(o, event->model, event->system_fingerprint);
    for (int c = 0; c < o->n_choices; c++)
        put_chunk(j, (uint32_t)(call * o->n_choices + c), event->text, &tokens, 0);
}

static void completion_token(struct job *j, int call, const Bitnet__V1__TokenEvent *event)
{
    struct openai *o = j->state;
    uint32_t index = (uint32_t)(call * o->n_choices) + event->choice;
    openai_origin(o, event->model, event->system_fingerprint);
    for (size_t i = 0; i < event->n_tokens; i++) {
        const Bitnet__V1__Token *token = event->tokens[i];
        const struct openai_tokens tokens = {.answer = &token->logprob, .n_answer = o->logprobs && token->logprob};
        if (token->text[0] != '\0' || o->logprobs)
            put_chunk(j, index, token->text, &tokens, 0);
    }
}

static void completion_choice_end(struct job *j, int call, const Bitnet__V1__ChoiceEnd *end)
{
    const struct openai *o = j->state;
    put_chunk(j, (uint32_t)(call * o->n_choices) + end->choice, "", &(struct openai_tokens){0}, (int)end->finish_reason);
}

static const struct job_view whole_view = {.done = completion_done};
static const struct job_view stream_view = {
    .token = completion_token,
    .prompt = completion_prompt,
    .choice_end = completion_choice_end,
    .complete = openai_stream_complete,
    .done = openai_stream_done,
    .error = openai_stream_error,
};

/* ---- request ---- */

static bool prompt_fault(struct failure *f, const json_t *found, const char *expected)
{
    char actual[224];
    failure_add(f, ERROR_VALIDATION_FAILED, "prompt", expected, fields_describe(found, actual, sizeof actual));
    return false;
}

/* One prompt: a string, or an array of token ids. */
static bool read_prompt(const json_t *v, struct input *input, struct failure *f)
{
    *input = (struct input){0};
    if (json_is_string(v)) {
        input->prompt = json_string_value(v);
        return input->prompt[0] != '\0' || prompt_fault(f, v, "a string that is not empty");
    }
    if (!json_is_array(v))
        return prompt_fault(f, v, "a string or an array of token ids");
    input->tokens = v;
    return params_check_tokens(v, f);
}

/* Returns how many prompts there are, 0 when they are faulty. */
static int read_prompts(const json_t *v, struct input inputs[OPENAI_MAX_PROMPTS], struct failure *f)
{
    const json_t *first = json_array_get(v, 0);
    if (!json_is_string(first) && !json_is_array(first))
        return read_prompt(v, &inputs[0], f) ? 1 : 0;
    size_t n = json_array_size(v);
    if (n > OPENAI_MAX_PROMPTS) {
        prompt_fault(f, v, "at most 64 prompts");
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        if (!read_prompt(json_array_get(v, i), &inputs[i], f))
            return 0;
    return (int)n;
}

static bool check(const struct params *p, struct failure *f, bool *include_usage)
{
    int64_t n = p->n.set ? p->n.i : 1;
    if (p->best_of.set && (p->best_of.i < n || (p->stream.truth && p->best_of.i > n))) {
        failure_add(f, ERROR_VALIDATION_FAILED, "best_of", p->stream.truth ? "n in a stream" : "at least n", NULL);
        return false;
    }
    if (p->max_tokens.i == 0 && !(p->echo.truth && p->logprobs.set && n == 1 && (!p->best_of.set || p->best_of.i == 1))) {
        failure_add(f, ERROR_VALIDATION_FAILED, "max_tokens", "0 only together with echo and logprobs, and with one choice", NULL);
        return false;
    }
    return params_check_bias(p, f) && openai_stream_options(p, include_usage, f);
}

static bool pack_all(struct request *r, const struct params *p, const struct input *inputs, struct buffer *packed,
                     int n)
{
    const struct extras extras = {.max_tokens = p->max_tokens.i,
                                  .logprobs = p->logprobs.set,
                                  .top_logprobs = p->logprobs.i,
                                  .echo = p->echo.truth,
                                  .prompt_logprobs = p->echo.truth && p->logprobs.set,
                                  .score_only = p->max_tokens.i == 0,
                                  .request_id = r->id,
                                  .client_id = r->access.client.id};
    for (int i = 0; i < n; i++)
        if (!params_pack(p, &inputs[i], &extras, &packed[i]))
            return false;
    return true;
}

static void start(struct request *r, const struct params *p, const struct input *inputs, int n, bool include_usage)
{
    struct buffer packed[OPENAI_MAX_PROMPTS];
    for (int i = 0; i < n; i++)
        buffer_init(&packed[i], SIZE_MAX / 2);
    struct openai *o = pack_all(r, p, inputs, packed, n) ? openai_open(p, false) : NULL;
    if (o) {
        o->include_usage = include_usage;
        o->logprobs = p->logprobs.set;
        job_start(r, p->stream.truth ? &stream_view : &whole_view, o, p->stream.truth, packed, n, 0);
    } else {
        error_answer(r, ERROR_INTERNAL, "out of memory");
    }
    for (int i = 0; i < n; i++)
        buffer_fini(&packed[i]);
}

void handle_completions(struct request *r)
{
    const struct fields_rules rules = {.strict = false, .max_prompt_chars = r->g->config->max_prompt_chars};
    struct params p = {0};
    struct input inputs[OPENAI_MAX_PROMPTS];
    struct failure f;
    bool include_usage = false;
    int n = 0;
    failure_init(&f);
    r->fields = completion_fields;
    json_t *root = body_json(r, &f);
    if (root && fields_parse(completion_fields, root, &rules, &p, &f) && check(&p, &f, &include_usage))
        n = read_prompts(p.prompt.json, inputs, &f);
    if (n > 0)
        start(r, &p, inputs, n, include_usage);
    else
        error_respond(r, &f);
    json_decref(root);
    failure_fini(&f);
}
