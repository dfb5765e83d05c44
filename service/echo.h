/* echo: what an answer says of its prompt: its text, and the log-probabilities of its tokens. */
#ifndef SERVICE_ECHO_H
#define SERVICE_ECHO_H

#include "service/collect.h"

struct echo {
    struct buffer text;         /* in front of each choice's; empty when it was not asked for */
    const struct token *tokens; /* [n_tokens] with log-probabilities, the stream's; NULL = they are not there */
    size_t n_tokens, n_sent;
};

void echo_init(struct echo *e);
void echo_fini(struct echo *e);
/* Takes the text of the request's prompt, when it asks for it. */
enum error_code echo_take(struct echo *e, const struct tokenizer *t, const Bitnet__V1__GenerateRequest *r,
                          struct error *err);
/* The prompt's tokens as messages, which point into `room`. False when memory is out. */
bool echo_fill(const struct echo *e, const struct tokenizer *t, size_t n_top, struct collect_room *room);
/* There are tokens that a stream has not been told. */
bool echo_waits(const struct echo *e);
/* Sends the next of them; `model` and `fingerprint` go with the first. False when the call cannot take it. */
bool echo_send(struct echo *e, struct rpc_call *call, const struct tokenizer *t, const char *model, const char *fingerprint);

#endif
