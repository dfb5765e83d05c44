/*
 * The bounds of a request, checked before it takes a place in the queue or costs anything. Messages say what was
 * expected and what was found; the error's param is the field's name in bitnet/v1/inference.proto. Any thread.
 */
#ifndef ENGINE_VALIDATE_H
#define ENGINE_VALIDATE_H

#include "engine/engine.h"

#define REQUEST_MAX_CHOICES 8
#define REQUEST_MAX_STOP 16
#define REQUEST_MAX_STOP_BYTES 256
#define REQUEST_MAX_BIAS 300
#define REQUEST_MAX_TOP 20

struct request_limits {
    uint32_t vocab_size;
    uint32_t context_length;
    uint32_t embedding_size; /* of a model that computes embeddings only; 0 = it generates */
    size_t max_token_bytes; /* longest text of a token: a longer prompt than a context of those cannot fit */
};

enum error_code request_validate(const struct request_limits *limits, const struct request *r, struct error *err);

/* For a prompt of n tokens: at least one, and one position left for the answer, if there is to be one. `param` names the input. */
enum error_code request_validate_length(const struct request_limits *limits, const char *param, size_t n,
                                        struct error *err);

/* "prompt", "messages" or "tokens". */
const char *request_input_name(const struct request *r);

#endif
