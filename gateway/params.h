/*
 * The parameters of a generation as both APIs give them, and their way into bitnet.v1.GenerateRequest. Each endpoint has a
 * table of fields that fills a struct params; what an API lacks stays unset, so that the engine's default holds.
 */
#ifndef GATEWAY_PARAMS_H
#define GATEWAY_PARAMS_H

#include "gateway/fields.h"

struct params {
    struct value prompt, messages, model, max_tokens, max_completion_tokens;
    struct value temperature, top_p, top_k, min_p, repetition_penalty, presence_penalty, frequency_penalty, seed;
    struct value logit_bias, stop, n, logprobs, top_logprobs, echo;
    struct value quantization, device, priority, timeout_ms;
    struct value stream, stream_options, response_format, best_of, refused;
    struct value tools, tool_choice, parallel_tool_calls, modalities;
};

/* What a generation starts from; one of the three. Borrowed from the JSON. */
struct input {
    const char *prompt;
    const json_t *tokens; /* array of integers */
    const json_t *messages;
};

/* What the endpoint has worked out of fields that differ between the APIs. */
struct extras {
    int64_t max_tokens; /* 0 = not told */
    bool logprobs;
    int64_t top_logprobs;
    bool echo;
    bool prompt_logprobs; /* of the prompt's tokens too */
    bool score_only;      /* nothing is generated */
    const char *request_id;
    const char *client_id; /* for turns at the engine; NULL = the gateway itself */
};

/* Checks `messages` (role, content as string or text parts, calls and their results). */
bool params_check_messages(const json_t *messages, struct failure *f);
/* Checks an array of token ids. */
bool params_check_tokens(const json_t *tokens, struct failure *f);
/* Checks logit_bias: {"id": -100..100}, at most 300. */
bool params_check_bias(const struct params *p, struct failure *f);
/* Appends the packed GenerateRequest. All checks have been passed. False when memory is out. */
bool params_pack(const struct params *p, const struct input *input, const struct extras *extras, struct buffer *out);

#endif
