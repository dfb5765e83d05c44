/*
 * A request inside the engine: everything copied, tokenised, and all the memory that it needs until its end. Made on
 * the caller's thread, owned by the queue, then by the loop. Each choice is a sequence of its own.
 *
 *   waiting (in the queue) -> running (some sequences have a slot; still in the queue until all have) -> ended
 *                         <- preempted (back in the queue; what was generated is kept, its K and V are computed again)
 */
#ifndef ENGINE_JOB_H
#define ENGINE_JOB_H

#include "engine/draft.h"
#include "engine/grammar/masker.h"
#include "engine/queue.h"
#include "engine/stopper.h"
#include "engine/stream.h"
#include "engine/text/tokenizer.h"
#include "engine/validate.h"

#define JOB_TRACE_ID_BYTES 33

/* One choice. Owned by the loop once its job is in the queue. */
struct sequence {
    struct job *job;
    uint32_t choice;
    uint32_t slot; /* row of the block tables, while running */
    bool running, ended; /* neither: it waits, for the first time or preempted */
    uint32_t n_preempted;
    uint32_t n_fed; /* tokens whose K and V are in the cache, or will be after this step */
    uint32_t n_cached; /* of these, what was there already when it first began */
    uint32_t n_filled; /* KV blocks that are known to be whole */
    uint32_t n_draft, n_accepted; /* tokens behind the generated ones in `generated` that this step tries; of these, drawn */
    struct draft_state draft;
    uint32_t n_generated;
    uint32_t n_drawn;    /* n_generated, and the token that ended the text, which lies behind them in `generated` */
    uint32_t *generated; /* [max_tokens], in the job's pool */
    struct detokenizer detokenizer;
    struct stopper_state stop;
    uint64_t safe; /* bytes of the choice's text that may be shown */
    struct matcher matcher; /* its place in the job's grammar, while running */
    int64_t last_token_ns;
    int64_t full_ns; /* since when its reader has left no room; 0 = there is room */
};

struct job {
    struct queue_item item;      /* first: a queue_item is cast back */
    struct job *next, *previous; /* started jobs, in the loop's list */
    char *id;
    char trace_id[JOB_TRACE_ID_BYTES]; /* "" = none */
    char devices[32]; /* see stream_summary */
    uint32_t *prompt; /* [n_prompt] */
    uint32_t n_prompt, max_tokens, n_choices, n_top;
    bool logprobs, ignore_eos;
    double *pooled; /* [embedding_size] what an embedding is so far; NULL: it generates */
    bool prompt_logprobs, prompt_shown; /* shown: all of them are with the reader */
    bool in_step; /* has rows in the step that is made */
    bool in_batch; /* started, and not all of it preempted */
    struct sampling sampling;
    struct logit_bias *bias; /* owned; sampling.bias points to it */
    struct stopper *stopper;
    struct grammar *grammar; /* a reference, or NULL */
    struct stream *stream;                            /* the loop's reference */
    int64_t deadline_ns, admitted_ns, first_token_ns; /* arrival is item.arrival_ns; 0 = not yet */
    uint32_t n_started, n_ended, n_generated;         /* sequences that ever had a slot, sequences, tokens of all */
    uint32_t n_out;                                   /* sequences that were preempted and wait */
    uint64_t n_steps, n_step_sequences;               /* steps that it took part in; sequences in them */
    enum finish_reason finish;                        /* of choice 0 */
    uint32_t *pool;
    struct sequence sequences[]; /* [n_choices] */
};

struct job_options {
    const struct tokenizer *tokenizer;
    const struct request_limits *limits;
    struct waker *waker;
    size_t max_stream_bytes; /* text that one token can add to a stream */
    int64_t now_ns, default_timeout_ns;
};

/* Tokens that a validated request asks for, of prompt and answers: about, as the prompt is not tokenised. */
uint64_t job_estimate_tokens(const struct request_limits *limits, const struct request *r);
/* Whose it is, for fairness: equal for equal client_ids. */
uint64_t job_client(const struct request *r);
/* When it must have ended. */
int64_t job_deadline_ns(const struct job_options *options, const struct request *r);

/* Tokenises and copies a validated request. VALIDATION_FAILED when its prompt does not fit the context. */
enum error_code job_open(const struct job_options *options, const struct request *r, struct job **out,
                         struct error *err);
/* Frees it with its reference to the stream. */
void job_close(struct job *j);

/* Token i of a sequence: prompt, then generated. */
static inline uint32_t sequence_token(const struct sequence *q, uint32_t i)
{
    return i < q->job->n_prompt ? q->job->prompt[i] : q->generated[i - q->job->n_prompt];
}

/* Known tokens that are not in the KV cache, drafted ones left out. */
static inline uint32_t sequence_n_left(const struct sequence *q)
{
    return q->job->n_prompt + q->n_generated - q->n_fed;
}

/* Known tokens, in the KV cache or not, drafted ones left out. */
static inline uint32_t sequence_n_known(const struct sequence *q)
{
    return q->job->n_prompt + q->n_generated;
}

/* It goes on token by token; else it computes its prompt, or what it lost when it was preempted. */
static inline bool sequence_decodes(const struct sequence *q)
{
    return q->n_generated > 0 && sequence_n_left(q) == 1;
}

/* Positions that it can ever store: the last token is drawn, not stored. */
static inline uint32_t job_n_positions(const struct job *j)
{
    return j->n_prompt + (j->max_tokens ? j->max_tokens - 1 : 0);
}

/* Its prompt's log-probabilities are wanted of it, so that each position has to be computed. */
static inline bool sequence_scores(const struct sequence *q)
{
    return q->choice == 0 && q->job->prompt_logprobs && !q->job->prompt_shown;
}

#endif
