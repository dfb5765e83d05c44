/* What chat and text completions have in common (contract, section 7). */
#ifndef GATEWAY_OPENAI_H
#define GATEWAY_OPENAI_H

#include "gateway/job.h"
#include "gateway/params.h"
#include "gateway/tools.h"

#define OPENAI_ID_BYTES 48
#define OPENAI_MAX_PROMPTS 64
#define OPENAI_MAX_CHOICES 8 /* of one prompt */

extern const struct field chat_fields[], completion_fields[]; /* fill a struct params */
extern const struct field embedding_fields[];

/* One answer, whole or as a stream; a job's state. */
struct openai {
    char id[OPENAI_ID_BYTES];
    const char *object, *chunk_object; /* static */
    int64_t created;
    bool chat, include_usage;
    int n_choices; /* of one prompt */
    bool logprobs;
    bool tools, must_call; /* the answer may have calls; it is nothing else */
    char model[256];       /* as it was asked for, until the engine names it */
    char fingerprint[64];  /* "" until the engine says it */
    /* streams */
    bool begun;                                                  /* chat: the first deltas are out */
    size_t text_offset[OPENAI_MAX_PROMPTS * OPENAI_MAX_CHOICES]; /* characters, for logprobs of completions */
    struct tool_parser parsers[OPENAI_MAX_CHOICES];              /* chat with tools */
    uint32_t prompt_tokens, completion_tokens, cached_tokens;
};

/* Makes the state from the checked parameters. NULL when memory is out. */
struct openai *openai_open(const struct params *p, bool chat);
/* Checks and reads stream_options. */
bool openai_stream_options(const struct params *p, bool *include_usage, struct failure *f);
/* Takes what the engine says of itself; "" says nothing. */
void openai_origin(struct openai *o, const char *model, const char *fingerprint);

/* `"id":..,"object":..,"created":..,"model":..` and the opening brace in front. */
void openai_head(struct buffer *b, const struct openai *o, bool chunk);
/* `"finish_reason":..`; deadline is told as length, an answer that stopped behind calls as tool_calls. */
void openai_finish_reason(struct buffer *b, int reason, bool called);
/* `"usage":{..}` */
void openai_usage(struct buffer *b, const struct openai *o);
/* Adds the usage of one call. */
void openai_count(struct openai *o, const Bitnet__V1__Usage *usage);

/* For job_view: what is the same for both. */
void openai_stream_complete(struct job *j, int call, const Bitnet__V1__GenerateResponse *answer);
void openai_stream_done(struct job *j);
void openai_stream_error(struct job *j, const struct failure *f);
/* One chunk that is complete but for its choices: head, then the caller's `choices`, then openai_chunk_end. */
void openai_chunk_begin(struct job *j);
void openai_chunk_end(struct job *j);

/* ---- log-probabilities (openai_logprobs.c) ---- */

/* Tokens of two lists, one after the other: those of the prompt, which may be none, and those of the answer. */
struct openai_tokens {
    Bitnet__V1__TokenLogprob *const *prompt, *const *answer;
    size_t n_prompt, n_answer;
};

/* Of chat: `{"content":[..],"refusal":null}`. */
void openai_chat_logprobs(struct buffer *b, Bitnet__V1__TokenLogprob *const *tokens, size_t n);
/* Of completions: `{"tokens":..,"token_logprobs":..,"top_logprobs":..,"text_offset":..}`; *offset, of the first token in the text, goes on. */
void openai_text_logprobs(struct buffer *b, const struct openai_tokens *tokens, size_t *offset);

/* ---- messages of chats (openai_message.c) ---- */

/* `"message":{..},"logprobs":..,"finish_reason":..` of a whole answer. */
void openai_message(struct buffer *b, const struct openai *o, const Bitnet__V1__Choice *c);
/* The first chunks of all choices, once. */
void openai_begin_deltas(struct job *j);
/* The chunks of one token of a choice, and of its end. */
void openai_token_deltas(struct job *j, uint32_t choice, const Bitnet__V1__Token *token);
void openai_end_deltas(struct job *j, uint32_t choice, int reason);

#endif
