/*
 * Inside of the engine: what the callers' threads share with the loop thread, and what the loop alone owns.
 *
 *   a turn:  end what was cancelled, expired or drained -> admit from the queue -> plan -> step -> tokens to streams
 *
 * loop.c is the thread and its turns, step.c one step, preempt.c what gives way, move.c the change of the device, retire.c the ends of
 * sequences and requests.
 */
#ifndef ENGINE_LOOP_H
#define ENGINE_LOOP_H

#include "engine/breaker.h"
#include "engine/describe.h"
#include "engine/job.h"
#include "engine/kvcache.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "engine/turn.h"

#include <stdatomic.h>

/* Rows of prompts in a step that get all their logits, as prompts whose log-probabilities are wanted need: bounds their memory. */
#define LOOP_MAX_SCORES 32

/* Owned by the loop thread; made and freed by engine_open and engine_close while there is no such thread. */
struct loop {
    struct forward *forward;
    struct kvcache kvcache;
    struct sampler *sampler;
    struct masker *masker; /* NULL until the first request with a grammar; made by engine_submit */
    struct scheduler scheduler;
    struct buffer text; /* of the token at hand; its memory is reserved at open */
    struct job *jobs;   /* that have started */
    size_t max_sequences;
    struct sequence **running; /* [max_sequences] in order of admission */
    size_t n_running;
    uint64_t n_prefix_hits; /* prompt tokens that were found in the cache */
    bool speculate;
    size_t max_out;
    bool no_device;       /* none was left when the last one failed: nothing starts */
    int64_t draft_row_ns; /* what a drafted row adds to a step; 0 = not known */
    uint64_t n_drafted, n_accepted;
    uint32_t *known;      /* [context] scratch: the tokens of a sequence that starts again */
    uint32_t *free_slots; /* [max_sequences] stack */
    size_t n_free_slots;
    /* The step: */
    struct scheduler_item *items;     /* [max_sequences] of running[] */
    int32_t *ids, *positions, *slots; /* [max_batch_tokens] */
    int32_t *out_rows;                /* [max_out] rows that get logits; max_out is max_sequences, the rows of drafts and LOOP_MAX_SCORES */
    struct logits_need *needs;        /* [max_out] what will be read of their logits */
    const struct token_mask **masks;  /* [max_out] of sequences with a grammar: what may be drawn; NULL: it cannot be followed */
    struct sequence **out_sequences;  /* [max_out] whose they are; NULL when it ended meanwhile */
    size_t n_out;
    float *logits; /* [max_out][vocab_size]; of a model that pools hidden states, [max_out][dim] */
};

struct engine {
    /* Constant once open. */
    struct engine_options options; /* for a move: its strings are the engine's own, device is NULL */
    char *isa, *numa;              /* its own; or NULL */
    const struct tokenizer *tokenizer;
    struct request_limits limits;
    size_t max_stream_bytes;
    int64_t default_timeout_ns, stall_timeout_ns;
    struct accuracy *accuracy; /* NULL: nothing is computed again */
    struct engine_observer observer; /* written before `observed`, which hands it to the loop */
    atomic_bool observed, stopped;

    /* Changed by the loop when the device fails (move.c), under model_lock; without it others read the tokenizer only. */
    struct backend *backend;
    struct model *model;
    struct kv_cache kv;
    pthread_mutex_t model_lock;
    _Atomic(struct model_description *) description; /* the newest */

    /* Shared. */
    struct queue queue;
    struct waker waker;
    atomic_bool draining; /* set with release after drain_deadline_ns, read with acquire */
    _Atomic int64_t drain_deadline_ns;
    atomic_bool closing;
    atomic_bool idle;           /* the loop's last turn had nothing to compute */
    pthread_mutex_t stats_lock; /* for stats and what follows; never held while another lock is taken */
    pthread_cond_t drained;     /* with stats_lock: the loop ended a turn while draining */
    struct engine_stats stats;
    struct breaker breaker; /* under stats_lock */
    uint32_t n_live; /* under stats_lock: submitted jobs whose stream has not got its COMPLETE */
    pthread_mutex_t masker_lock; /* for making the masker, which the queue's lock then hands to the loop */
    bool has_sync;   /* the locks have been made */
    pthread_t thread;

    struct turn *turn; /* the loop's; or NULL */
    struct loop loop;
};

/* Who observes, or NULL. */
static inline const struct engine_observer *loop_observer(const struct engine *e)
{
    return atomic_load_explicit(&e->observed, memory_order_acquire) ? &e->observer : NULL;
}

/* Waits until an engine that nobody asks any more is idle, and sets what it counted to 0, so that what was asked before it is served does not
 * count. */
void engine_forget(struct engine *e);

/* Takes weights, scratch and KV cache off their device, where they are on one, and to the next: see devices_open. While there is no loop, or by it. */
enum error_code engine_to_device(struct engine *e, const char *after, char reason[DEVICE_REASON_BYTES], struct error *err);
/* Describes the model where it is now. lost_device: where it was before, or NULL. Likewise. */
enum error_code engine_describe(struct engine *e, const char *reason, const char *lost_device, double load_seconds, struct error *err);

/* The thread's function; `arg` is the engine. Returns once closing is set and nothing is left. */
void *loop_main(void *arg);

/* The step's device has failed: takes the model to the next one, and all that runs back to the queue, from where it goes on with the tokens that it
 * has. Where none is left, what has started ends with an error. False, and nothing done, when the device is not one that others stand in for. */
bool loop_move(struct engine *e, const struct error *why);
/* Where none was left: looks again. False when there is none still. */
bool loop_find_device(struct engine *e);
/* Tells the breaker whether the device computes. */
void loop_note_device(struct engine *e, bool works);

/* Runs the planned items; n_rows > 0. */
void loop_step(struct engine *e, size_t n_rows);

/* What is special about a model that pools (embed.c). Whether the row of a sequence's token at `position` goes into its vector. */
bool embed_wants(const struct engine *e, const struct sequence *q, uint32_t position);
/* Plans in place of the scheduler where texts must be computed whole; returns the rows of the step. */
size_t embed_plan(struct loop *l);
/* Takes the hidden states of a step into the vectors of their sequences, and ends those that are whole. */
void embed_all(struct engine *e);

/* Tells the cache of the blocks that a sequence's tokens have made whole. */
void loop_fill_blocks(struct loop *l, struct sequence *q);

/* The sequence of a waiting job that starts next: one that was preempted, or else a new one. */
struct sequence *job_next_sequence(struct job *j);
/* Takes a running sequence out of the batch and puts its request back in front of its class in the queue. */
void loop_put_back(struct engine *e, struct sequence *q, int64_t now_ns);
/* Reserves the blocks of all its length for the slot on top of the stack; false when there is no slot or too few are free. */
bool loop_reserve(struct loop *l, const struct sequence *q);
/* Sequences of the job have started or were preempted: brings the count of requests in the batch up to date. */
void loop_note_running(struct engine *e, struct job *j);
/* Makes some room for a sequence for which loop_reserve was false. False when nothing may give way, or not enough. */
bool loop_preempt_for(struct engine *e, const struct sequence *wanted, int64_t now_ns);

/* Takes a sequence out of the batch: its slot and its blocks are free. */
void loop_free_slot(struct loop *l, struct sequence *q);
/* Ends one running choice: its text, its slot, and with the last choice the job, which is freed. */
void loop_end_sequence(struct engine *e, struct sequence *q, enum finish_reason finish, bool stop_found);
/* Ends a job in any phase, which is freed. `error` with FINISH_ERROR. */
void loop_abort_job(struct engine *e, struct job *j, enum finish_reason finish, const struct error *error);

#endif
