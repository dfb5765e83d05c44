/* One step: planned rows -> batch arrays -> forward pass -> sampler -> streams. */
#include "engine/loop.h"

#include "base/clock.h"
#include "base/log.h"

#include <assert.h>

/* What the next token of a sequence depends on, beside logits: its tokens, its choice, its position. */
static struct sample_input input_of(const struct sequence *q)
{
    const struct job *j = q->job;
    return (struct sample_input){.prompt = j->prompt,
                                 .n_prompt = j->n_prompt,
                                 .generated = q->generated,
                                 .n_generated = q->n_generated,
                                 .choice = q->choice,
                                 .logprobs = j->logprobs,
                                 .n_top = j->n_top};
}

/* Appends the next n rows of a sequence; the row of its last known token gets logits. */
static size_t add_rows(struct loop *l, struct sequence *q, uint32_t n, size_t at)
{
    for (uint32_t i = 0; i < n; i++, at++) {
        l->ids[at] = (int32_t)sequence_token(q, q->n_fed);
        l->positions[at] = (int32_t)q->n_fed++;
        l->slots[at] = (int32_t)q->slot;
    }
    if (sequence_n_left(q) == 0) {
        l->out_rows[l->n_out] = (int32_t)at - 1;
        struct sample_input in = input_of(q);
        l->needs[l->n_out] = sampler_need(&q->job->sampling, &in);
        l->out_sequences[l->n_out++] = q;
    }
    return at;
}

static size_t build_batch(struct loop *l, size_t *n_rows, size_t *n_decodes)
{
    size_t n_sequences = 0;
    *n_rows = *n_decodes = 0;
    l->n_out = 0;
    for (struct job *j = l->jobs; j; j = j->next)
        j->in_step = false;
    for (size_t i = 0; i < l->n_running; i++) {
        if (!l->items[i].n_rows)
            continue;
        *n_rows = add_rows(l, l->running[i], l->items[i].n_rows, *n_rows);
        *n_decodes += l->items[i].decode;
        l->running[i]->job->in_step = true;
        n_sequences++;
    }
    return n_sequences;
}

/* Notes for each request how full the steps were that it took part in. */
static void note_batch(struct loop *l, size_t n_sequences)
{
    for (struct job *j = l->jobs; j; j = j->next) {
        if (j->in_step) {
            j->n_steps++;
            j->n_step_sequences += n_sequences;
        }
    }
}

static void note_token(struct engine *e, struct sequence *q)
{
    int64_t now_ns = clock_now_ns();
    if (!q->job->first_token_ns)
        q->job->first_token_ns = now_ns;
    if (q->last_token_ns && e->observer.on_token_gap)
        e->observer.on_token_gap(e->observer.user, (double)(now_ns - q->last_token_ns) / (double)CLOCK_NS_PER_S);
    q->last_token_ns = now_ns;
    q->job->n_generated++;
    pthread_mutex_lock(&e->stats_lock);
    e->stats.n_generated_tokens++;
    pthread_mutex_unlock(&e->stats_lock);
}

/* Takes a drawn token into its sequence and its stream; may end both. */
static void accept(struct engine *e, struct sequence *q, const struct sample *drawn)
{
    struct job *j = q->job;
    struct buffer *text = &e->loop.text;
    if (!j->ignore_eos && tokenizer_is_eog(e->model->tokenizer, drawn->id)) {
        loop_end_sequence(e, q, FINISH_STOP, false);
        return;
    }
    assert(q->n_generated < j->max_tokens && "step: room for the token");
    q->generated[q->n_generated++] = drawn->id;
    note_token(e, q);
    buffer_clear(text);
    detokenizer_push(&q->detokenizer, e->model->tokenizer, drawn->id, text);
    bool stop_found = stopper_push(j->stopper, &q->stop, text->data, text->n_bytes, &q->safe);
    struct stream_token token = {drawn->id, drawn->logprob, drawn->top, drawn->n_top};
    stream_push(j->stream, q->choice, &token, text->data, text->n_bytes, q->safe,
                stop_found || q->detokenizer.n_held > 0);
    if (stop_found)
        loop_end_sequence(e, q, FINISH_STOP, true);
    else if (q->n_generated == j->max_tokens)
        loop_end_sequence(e, q, FINISH_LENGTH, false);
}

static void sample_all(struct engine *e)
{
    struct loop *l = &e->loop;
    for (size_t i = 0; i < l->n_out; i++) {
        struct sequence *q = l->out_sequences[i];
        struct sample drawn;
        struct error err = {0};
        if (!q) /* its request ended with another choice's failure */
            continue;
        struct sample_input in = input_of(q);
        if (sampler_draw(l->sampler, &q->job->sampling, &in, l->logits + i * e->limits.vocab_size, &drawn, &err)) {
            log_error("engine", "sampling failed", LOG_STR("request_id", q->job->id), LOG_STR("error", err.message));
            loop_abort_job(e, q->job, FINISH_ERROR, &err);
            continue;
        }
        accept(e, q, &drawn);
    }
    l->n_out = 0;
}

/* Everything that had rows in a failed step is in an unknown state; the rest goes on. */
static void fail_batch(struct engine *e, const struct error *cause)
{
    struct loop *l = &e->loop;
    struct error err = *cause;
    err.code = ERROR_INFERENCE_FAILED;
    error_prefix(&err, "forward pass");
    err.code = ERROR_INFERENCE_FAILED;
    log_error("engine", "step failed", LOG_STR("error", err.message));
    l->n_out = 0;
    for (size_t i = 0; i < l->n_running;) {
        struct job *j = l->running[i]->job;
        if (!j->in_step) {
            i++;
            continue;
        }
        loop_abort_job(e, j, FINISH_ERROR, &err);
        i = 0; /* the list has changed, before i too */
    }
}

/* Blocks that the step has made whole. */
static void fill_blocks(struct loop *l)
{
    for (size_t i = 0; i < l->n_running; i++) {
        const struct sequence *q = l->running[i];
        uint32_t tokens[KV_BLOCK_SIZE];
        for (uint32_t b = (q->n_fed - l->items[i].n_rows) / KV_BLOCK_SIZE; b < q->n_fed / KV_BLOCK_SIZE; b++) {
            for (uint32_t k = 0; k < KV_BLOCK_SIZE; k++)
                tokens[k] = sequence_token(q, b * KV_BLOCK_SIZE + k);
            kvcache_fill(&l->kvcache, q->slot, b, tokens);
        }
    }
}

static void count_step(struct engine *e, size_t n_rows, size_t n_sequences)
{
    pthread_mutex_lock(&e->stats_lock);
    e->stats.n_steps++;
    e->stats.n_step_rows += n_rows;
    e->stats.batch_size = (uint32_t)n_sequences;
    pthread_mutex_unlock(&e->stats_lock);
}

void loop_step(struct engine *e, size_t n_planned)
{
    struct loop *l = &e->loop;
    struct error err = {0};
    size_t n_rows, n_decodes;
    int64_t start_ns = clock_now_ns();
    size_t n_sequences = build_batch(l, &n_rows, &n_decodes);
    assert(n_rows == n_planned && "step: the plan is what is run");
    (void)n_planned;
    note_batch(l, n_sequences);
    count_step(e, n_rows, n_sequences);
    struct batch_view batch = {.n = n_rows,
                               .positions = l->positions,
                               .sequences = l->slots,
                               .block_tables = l->kvcache.tables,
                               .n_sequences = l->kvcache.n_slots,
                               .max_blocks = l->kvcache.max_blocks};
    if (forward_run(l->forward, &e->kv, &batch, l->ids, l->out_rows, l->n_out, l->needs, false, l->logits, &err))
        fail_batch(e, &err);
    else {
        scheduler_learn(&l->scheduler, n_decodes, n_rows - n_decodes, clock_now_ns() - start_ns);
        fill_blocks(l);
    }
    sample_all(e);
    double seconds = (double)(clock_now_ns() - start_ns) / (double)CLOCK_NS_PER_S;
    pthread_mutex_lock(&e->stats_lock);
    e->stats.busy_seconds += seconds;
    pthread_mutex_unlock(&e->stats_lock);
    if (e->observer.on_step)
        e->observer.on_step(e->observer.user, n_rows, n_sequences, seconds);
}
