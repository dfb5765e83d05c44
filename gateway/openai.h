/* What chat and text completions have in common (contract, section 7). */
#ifndef GATEWAY_OPENAI_H
#define GATEWAY_OPENAI_H

#include "gateway/job.h"
#include "gateway/params.h"

#define OPENAI_ID_BYTES 48
#define OPENAI_MAX_PROMPTS 16
#define OPENAI_MAX_CHOICES 8 /* of one prompt */

extern const struct field chat_fields[], completion_fields[]; /* fill a struct params */

/* One answer, whole or as a stream; a job's state. */
struct openai {
    char id[OPENAI_ID_BYTES];
    const char *object, *chunk_object; /* static */
    int64_t created;
    bool chat, include_usage;
    int n_choices; /* of one prompt */
    bool logprobs;
    char model[256]; /* as it was asked for, until the engine names it */
    /* streams */
    bool role_sent[OPENAI_MAX_PROMPTS * OPENAI_MAX_CHOICES];
    size_t text_offset[OPENAI_MAX_PROMPTS * OPENAI_MAX_CHOICES]; /* characters, for logprobs of completions */
    uint32_t prompt_tokens, completion_tokens, cached_tokens;
};

/* Makes the state from the checked parameters. NULL when memory is out. */
struct openai *openai_open(const struct params *p, bool chat);
/* Checks and reads stream_options. */
bool openai_stream_options(const struct params *p, bool *include_usage, struct failure *f);

/* `"id":..,"object":..,"created":..,"model":..` and the opening brace in front. */
void openai_head(struct buffer *b, const struct openai *o, bool chunk);
/* `"finish_reason":..`; deadline is told as length. */
void openai_finish_reason(struct buffer *b, int reason);
/* `"usage":{..}` */
void openai_usage(struct buffer *b, const struct openai *o);
/* Adds the usage of one call. */
void openai_count(struct openai *o, const Bitnet__V1__Usage *usage);
/* logprobs of chat: `{"content":[..],"refusal":null}`. */
void openai_chat_logprobs(struct buffer *b, Bitnet__V1__TokenLogprob *const *tokens, size_t n);
/* logprobs of completions: `{"tokens":..,"token_logprobs":..,"top_logprobs":..,"text_offset":..}`; *offset goes on. */
void openai_text_logprobs(struct buffer *b, Bitnet__V1__TokenLogprob *const *tokens, size_t n, size_t *offset);

/* For job_view: what is the same for both. */
void openai_stream_complete(struct job *j, int call, const Bitnet__V1__GenerateResponse *answer);
void openai_stream_done(struct job *j);
void openai_stream_error(struct job *j, const struct failure *f);
/* One chunk that is complete but for its choices: head, then the caller's `choices`, then openai_chunk_end. */
void openai_chunk_begin(struct job *j);
void openai_chunk_end(struct job *j);

#endif
