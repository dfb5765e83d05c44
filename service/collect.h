/* collect: the tokens of a choice, gathered until the answer is given, and log-probabilities as messages. */
#ifndef SERVICE_COLLECT_H
#define SERVICE_COLLECT_H

#include "bitnet/v1/inference.pb-c.h"
#include "service/service.h"

#define COLLECT_MAX_TOP 20                        /* alternatives of a token */
#define COLLECT_MAX_TEXT_BYTES (16 * 1024 * 1024) /* of a choice */
/* Tokens of one message of a stream, at most; of those with log-probabilities as many as have so many of them together with their alternatives, but
 * one at least: a message is all that a reader who stopped makes the ones before it hold. */
#define COLLECT_EVENT_TOKENS 64

struct collected_token;

/* One choice. Zero but for the text's bound: see collect_init. */
struct collected {
    struct buffer text;
    struct collected_token *tokens;
    size_t n, capacity;
    double sum_logprob; /* of the tokens */
    enum finish_reason finish;
};

/* See COLLECT_EVENT_TOKENS; logprobs: n_top alternatives come with each token. */
size_t collect_event_tokens(bool logprobs, size_t n_top);

void collect_init(struct collected *c);
void collect_fini(struct collected *c);
/* Takes the tokens of an event with their alternatives. False when memory is out or the text too long. */
bool collect_add(struct collected *c, const struct stream_event *e);

/* order[] becomes the numbers of the choices by the mean log-probability of their tokens, the highest first, equal ones in the order that
 * they have; those without a token come last. */
void collect_rank(const struct collected *choices, uint32_t n, uint32_t *order);

/* What the message of a choice points to. Zeroed before collect_choice; freed with collect_room_free. */
struct collect_room {
    uint32_t *ids;
    Bitnet__V1__TokenLogprob *entry, **entry_list;
    Bitnet__V1__TopLogprob *top, **top_list;
};

/* The choice as a message, which points into `c` and `room`. False when memory is out. */
bool collect_choice(const struct collected *c, const struct tokenizer *t, bool logprobs, size_t n_top,
                    Bitnet__V1__Choice *out, struct collect_room *room);
void collect_room_free(struct collect_room *room);

/* One token's log-probability as a message; top and list have room for n_top. */
void collect_logprob(const struct tokenizer *t, uint32_t id, float logprob, const struct token_logprob *alternatives,
                     size_t n_top, Bitnet__V1__TokenLogprob *out, Bitnet__V1__TopLogprob *top,
                     Bitnet__V1__TopLogprob **list);

#endif
