/* Checks that a table cannot express, and the packing. */
#include "gateway/params.h"

#include "bitnet/v1/inference.pb-c.h"
#include "gateway/format.h"
#include "gateway/tool_params.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_MESSAGES 1024
#define MAX_BIAS 300
#define MAX_STOP 16

/* ---- messages ---- */

static bool check_content(const json_t *content, const char *field, struct failure *f)
{
    size_t i;
    json_t *part;
    if (json_is_string(content))
        return true;
    if (!json_is_array(content))
        return fields_fault(f, ERROR_INVALID_REQUEST, field, "a string or an array of text parts", content);
    json_array_foreach(content, i, part)
    {
        const char *type = json_string_value(json_object_get(part, "type"));
        if (!type || strcmp(type, "text") != 0 || !json_is_string(json_object_get(part, "text")))
            return fields_fault(f, ERROR_VALIDATION_FAILED, field, "parts of type \"text\" only",
                                json_object_get(part, "type"));
    }
    return true;
}

static const char *role_of(const json_t *message)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    const char *role = json_string_value(json_object_get(message, "role"));
    if (role && strcmp(role, "developer") == 0)
        return "system"; /* what OpenAI calls it for newer models */
    for (size_t i = 0; role && i < sizeof roles / sizeof *roles; i++)
        if (strcmp(role, roles[i]) == 0)
            return role;
    return NULL;
}

/* An assistant that makes calls need not say anything. */
static bool may_lack_content(const json_t *message)
{
    const json_t *content = json_object_get(message, "content");
    return (!content || json_is_null(content)) && json_array_size(json_object_get(message, "tool_calls")) > 0;
}

bool params_check_messages(const json_t *messages, struct failure *f)
{
    size_t i, n = json_array_size(messages);
    json_t *message;
    char field[64];
    if (!json_is_array(messages))
        return fields_fault(f, ERROR_INVALID_REQUEST, "messages", "an array of messages", messages);
    if (n == 0 || n > MAX_MESSAGES)
        return fields_fault(f, ERROR_VALIDATION_FAILED, "messages", "1..1024 messages", messages);
    json_array_foreach(messages, i, message)
    {
        snprintf(field, sizeof field, "messages[%zu]", i);
        if (!json_is_object(message))
            return fields_fault(f, ERROR_INVALID_REQUEST, field, "an object", message);
        snprintf(field, sizeof field, "messages[%zu].role", i);
        if (!role_of(message))
            return fields_fault(f, ERROR_VALIDATION_FAILED, field, "system, developer, user, assistant or tool",
                                json_object_get(message, "role"));
        if (!tool_params_check_message(messages, i, f))
            return false;
        snprintf(field, sizeof field, "messages[%zu].content", i);
        if (!may_lack_content(message) && !check_content(json_object_get(message, "content"), field, f))
            return false;
    }
    return true;
}

/* The parts of a message in one string, to be freed. */
static char *content_text(const json_t *content)
{
    size_t i;
    json_t *part;
    struct buffer text;
    if (json_is_string(content))
        return strdup(json_string_value(content));
    buffer_init(&text, SIZE_MAX / 2);
    json_array_foreach(content, i, part) buffer_append_str(&text, json_string_value(json_object_get(part, "text")));
    return text.n_bytes > 0 ? buffer_steal(&text) : strdup("");
}

/* ---- token ids, bias ---- */

bool params_check_tokens(const json_t *tokens, struct failure *f)
{
    size_t i;
    json_t *id;
    if (json_array_size(tokens) == 0)
        return fields_fault(f, ERROR_VALIDATION_FAILED, "prompt", "at least one token id", tokens);
    json_array_foreach(tokens, i, id)
    {
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > UINT32_MAX)
            return fields_fault(f, ERROR_VALIDATION_FAILED, "prompt", "token ids that are not negative", id);
    }
    return true;
}

/* "123" -> 123; false for anything but digits. */
static bool token_id(const char *text, uint32_t *id)
{
    size_t n = strspn(text, "0123456789");
    if (n == 0 || n > 10 || text[n] != '\0')
        return false;
    unsigned long long v = strtoull(text, NULL, 10);
    *id = (uint32_t)v;
    return v <= UINT32_MAX;
}

bool params_check_bias(const struct params *p, struct failure *f)
{
    const json_t *bias = p->logit_bias.json;
    const char *key;
    json_t *v;
    uint32_t id;
    if (!bias)
        return true;
    if (!json_is_object(bias))
        return fields_fault(f, ERROR_INVALID_REQUEST, "logit_bias", "an object of token ids and numbers", bias);
    if (json_object_size(bias) > MAX_BIAS)
        return fields_fault(f, ERROR_VALIDATION_FAILED, "logit_bias", "at most 300 tokens", bias);
    json_object_foreach((json_t *)(uintptr_t)bias, key, v)
    {
        if (!token_id(key, &id))
            return fields_fault(f, ERROR_VALIDATION_FAILED, "logit_bias", "token ids as keys", bias);
        if (!json_is_number(v) || json_number_value(v) < -100 || json_number_value(v) > 100)
            return fields_fault(f, ERROR_VALIDATION_FAILED, "logit_bias", "numbers from -100 to 100", v);
    }
    return true;
}

/* ---- packing ---- */

/* Everything that the packed message points to. */
struct scratch {
    Bitnet__V1__GenerateRequest request;
    Bitnet__V1__Sampling sampling;
    Bitnet__V1__LogitBias bias[MAX_BIAS], *bias_list[MAX_BIAS];
    char *stop[MAX_STOP];
    Bitnet__V1__Tokens tokens;
    Bitnet__V1__Chat chat;
    Bitnet__V1__Message *messages; /* owned */
    Bitnet__V1__ResponseFormat format;
    char *schema; /* owned */
    struct tool_room tools;
};

/* protobuf-c's strings are not const; packing only reads them. */
static char *mutable(const char *text)
{
    return (char *)(uintptr_t)text;
}

#define SET(name, NAME, from)                                                                                          \
    if (p->name.set) {                                                                                                 \
        s->_##name##_case = BITNET__V1__SAMPLING___##NAME##_##NAME;                                                    \
        s->name = from;                                                                                                \
    }

static void fill_sampling(const struct params *p, struct scratch *scratch)
{
    Bitnet__V1__Sampling *s = &scratch->sampling;
    bitnet__v1__sampling__init(s);
    SET(temperature, TEMPERATURE, (float)p->temperature.f)
    SET(top_k, TOP_K, p->top_k.i > 0 ? (uint32_t)p->top_k.i : 0)
    SET(top_p, TOP_P, (float)p->top_p.f)
    SET(min_p, MIN_P, (float)p->min_p.f)
    SET(repetition_penalty, REPETITION_PENALTY, (float)p->repetition_penalty.f)
    SET(presence_penalty, PRESENCE_PENALTY, (float)p->presence_penalty.f)
    SET(frequency_penalty, FREQUENCY_PENALTY, (float)p->frequency_penalty.f)
    SET(seed, SEED, (uint64_t)p->seed.i)
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)p->logit_bias.json, key, v)
    {
        Bitnet__V1__LogitBias *b = &scratch->bias[s->n_logit_bias];
        bitnet__v1__logit_bias__init(b);
        token_id(key, &b->token_id);
        b->bias = (float)json_number_value(v);
        scratch->bias_list[s->n_logit_bias++] = b;
    }
    s->logit_bias = scratch->bias_list;
    scratch->request.sampling = s;
}

static void fill_stop(const struct params *p, struct scratch *scratch)
{
    Bitnet__V1__GenerateRequest *r = &scratch->request;
    r->stop = scratch->stop;
    if (p->stop.text)
        r->stop[r->n_stop++] = mutable(p->stop.text);
    for (size_t i = 0; i < json_array_size(p->stop.json) && i < MAX_STOP; i++)
        r->stop[r->n_stop++] = mutable(json_string_value(json_array_get(p->stop.json, i)));
}

static bool fill_messages(const json_t *messages, struct scratch *scratch)
{
    size_t n = json_array_size(messages);
    Bitnet__V1__Chat *chat = &scratch->chat;
    bitnet__v1__chat__init(chat);
    scratch->messages = calloc(n, sizeof *scratch->messages);
    chat->messages = calloc(n, sizeof *chat->messages);
    for (size_t i = 0; scratch->messages && chat->messages && i < n; i++) {
        const json_t *message = json_array_get(messages, i);
        Bitnet__V1__Message *m = &scratch->messages[i];
        bitnet__v1__message__init(m);
        m->role = mutable(role_of(message));
        m->content = content_text(json_object_get(message, "content"));
        chat->messages[i] = m;
        chat->n_messages = i + 1;
        if (!m->content || !tool_params_fill_calls(message, m))
            return false;
    }
    scratch->request.input_case = BITNET__V1__GENERATE_REQUEST__INPUT_CHAT;
    scratch->request.chat = chat;
    return scratch->messages && chat->messages;
}

static bool fill_tokens(const json_t *ids, struct scratch *scratch)
{
    size_t n = json_array_size(ids);
    Bitnet__V1__Tokens *tokens = &scratch->tokens;
    bitnet__v1__tokens__init(tokens);
    tokens->ids = calloc(n, sizeof *tokens->ids);
    for (size_t i = 0; tokens->ids && i < n; i++)
        tokens->ids[tokens->n_ids++] = (uint32_t)json_integer_value(json_array_get(ids, i));
    scratch->request.input_case = BITNET__V1__GENERATE_REQUEST__INPUT_TOKENS;
    scratch->request.tokens = tokens;
    return tokens->ids;
}

static bool fill_input(const struct input *input, struct scratch *scratch)
{
    if (input->messages)
        return fill_messages(input->messages, scratch);
    if (input->tokens)
        return fill_tokens(input->tokens, scratch);
    scratch->request.input_case = BITNET__V1__GENERATE_REQUEST__INPUT_PROMPT;
    scratch->request.prompt = mutable(input->prompt);
    return true;
}

static void fill_rest(const struct params *p, const struct extras *extras, Bitnet__V1__GenerateRequest *r)
{
    if (p->model.text)
        r->model = mutable(p->model.text);
    r->max_tokens = (uint32_t)extras->max_tokens;
    r->n = p->n.set ? (uint32_t)p->n.i : 1;
    r->best_of = p->best_of.set ? (uint32_t)p->best_of.i : 0;
    r->logprobs = extras->logprobs;
    r->top_logprobs = (uint32_t)extras->top_logprobs;
    r->echo = extras->echo;
    r->prompt_logprobs = extras->prompt_logprobs;
    r->score_only = extras->score_only;
    r->timeout_ms = p->timeout_ms.set ? (uint32_t)p->timeout_ms.i : 0;
    r->priority = (Bitnet__V1__Priority)p->priority.i;
    r->quantization = (Bitnet__V1__Quantization)p->quantization.i;
    r->device = (Bitnet__V1__Device)p->device.i;
    r->request_id = mutable(extras->request_id);
    if (extras->client_id)
        r->client_id = mutable(extras->client_id);
}

static bool fill_format(const struct params *p, struct scratch *scratch)
{
    bool ok;
    bitnet__v1__response_format__init(&scratch->format);
    if (format_fill(p->response_format.json, &scratch->format, &scratch->schema, &ok))
        scratch->request.response_format = &scratch->format;
    return ok;
}

static bool fill_tools(const struct params *p, struct scratch *scratch)
{
    if (!tool_params_in_use(p))
        return true;
    scratch->request.tools = &scratch->tools.tools;
    return tool_params_fill(p, &scratch->tools);
}

bool params_pack(const struct params *p, const struct input *input, const struct extras *extras, struct buffer *out)
{
    struct scratch *scratch = calloc(1, sizeof *scratch);
    if (!scratch)
        return false;
    bitnet__v1__generate_request__init(&scratch->request);
    fill_rest(p, extras, &scratch->request);
    fill_sampling(p, scratch);
    fill_stop(p, scratch);
    bool ok = fill_input(input, scratch) && fill_format(p, scratch) && fill_tools(p, scratch);
    size_t n = ok ? bitnet__v1__generate_request__get_packed_size(&scratch->request) : 0;
    char *to = ok ? buffer_reserve(out, n) : NULL;
    if (to)
        out->n_bytes += bitnet__v1__generate_request__pack(&scratch->request, (uint8_t *)to);
    for (size_t i = 0; i < scratch->chat.n_messages; i++) {
        free(scratch->messages[i].content);
        tool_params_free_calls(&scratch->messages[i]);
    }
    tool_room_fini(&scratch->tools);
    free(scratch->messages);
    free(scratch->chat.messages);
    free(scratch->tokens.ids);
    free(scratch->schema);
    free(scratch);
    return to;
}
