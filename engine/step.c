/* One step: planned rows -> batch arrays -> forward pass -> sampler -> streams. */
#include "engine/loop.h"

#include "base/clock.h"
#include "base/log.h"

#include <assert.h>

/* What the next token of a sequence, behind n_ahead drafted ones, depends on beside logits: its tokens, its choice, its position. */
static struct sample_input input_of(const struct sequence *q, uint32_t n_ahead)
{
    const struct job *j = q->job;
    return (struct sample_input){.prompt = j->prompt,
                                 .n_prompt = j->n_prompt,
                                 .generated = q->generated,
                                 .n_generated = q->n_generated + n_ahead,
                                 .choice = q->choice,
                                 .logprobs = j->logprobs,
                                 .n_top = j->n_top};
}

/* What may be drawn behind n_ahead drafted tokens, over which `ahead` has gone by then. A drafted token that the grammar does not allow is
 * not drawn, so what is behind it does not matter. */
static const struct token_mask *mask_of(struct loop *l, struct sequence *q, uint32_t n_ahead, struct matcher *ahead)
{
    if (n_ahead > 0)
        matcher_push(l->masker, ahead, q->generated, q->n_generated + n_ahead);
    const struct token_mask *mask = matcher_mask(l->masker, ahead, q->generated, q->n_generated + n_ahead);
    if (n_ahead == 0)
        q->matcher = *ahead;
    return mask;
}

/* Row `at` gets logits, for sequence q. */
static void want_logits(struct loop *l, struct sequence *q, size_t at, struct logits_need need, const struct token_mask *mask)
{
    l->masks[l->n_out] = mask;
    l->out_rows[l->n_out] = (int32_t)at;
    l->needs[l->n_out] = need;
    l->out_sequences[l->n_out++] = q;
}

/* Appends the next n rows of a sequence; those of its last known token and of the drafted ones get logits, and before them those of a
 * prompt whose log-probabilities are wanted. */
static size_t add_rows(struct engine *e, struct sequence *q, uint32_t n, size_t at)
{
    struct loop *l = &e->loop;
    uint32_t n_draft = n > sequence_n_left(q) ? n - sequence_n_left(q) : 0, n_known = q->job->n_prompt + q->n_generated;
    struct matcher ahead = q->matcher;
    q->n_draft = n_draft;
    q->n_accepted = 0;
    for (uint32_t i = 0; i < n; i++, at++) {
        uint32_t position = q->n_fed + i;
        l->ids[at] = (int32_t)sequence_token(q, position);
        l->positions[at] = (int32_t)position;
        l->slots[at] = (int32_t)q->slot;
        if (q->job->pooled) {
            if (embed_wants(e, q, position))
                want_logits(l, q, at, (struct logits_need){0}, NULL);
            continue;
        }
        if (position + 1 < n_known || !q->job->max_tokens) {
            if (position + 1 < q->job->n_prompt && sequence_scores(q))
                want_logits(l, q, at, (struct logits_need){0}, NULL);
            continue;
        }
        struct sample_input in = input_of(q, position + 1 - n_known);
        const struct token_mask *mask = q->job->grammar ? mask_of(l, q, position + 1 - n_known, &ahead) : NULL;
        if (mask) {
            in.allowed = mask->allowed;
            in.n_allowed = mask->n_allowed;
        }
        want_logits(l, q, at, sampler_need(&q->job->sampling, &in), mask);
    }
    q->n_fed += n - n_draft;
    l->n_drafted += n_draft;
    return at;
}

/* What a step is made of. */
struct step_rows {
    size_t n_rows, n_sequences, n_decodes, n_drafts; /* the rest are rows of prompts */
};

static void build_batch(struct engine *e, struct step_rows *rows)
{
    struct loop *l = &e->loop;
    *rows = (struct step_rows){0};
    l->n_out = 0;
    for (struct job *j = l->jobs; j; j = j->next)
        j->in_step = false;
    for (size_t i = 0; i < l->n_running; i++) {
        if (!l->items[i].n_rows)
            continue;
        rows->n_rows = add_rows(e, l->running[i], l->items[i].n_rows, rows->n_rows);
        rows->n_decodes += l->items[i].decode;
        rows->n_drafts += l->running[i]->n_draft;
        l->running[i]->job->in_step = true;
        rows->n_sequences++;
    }
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
    const struct engine_observer *observer = loop_observer(e);
    if (q->last_token_ns && observer && observer->on_token_gap)
        observer->on_token_gap(observer->user, (double)(now_ns - q->last_token_ns) / (double)CLOCK_NS_PER_S);
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
    assert(q->n_generated < j->max_tokens && "step: room for the token");
    q->generated[q->n_generated] = drawn->id;
    q->n_drawn = q->n_generated + 1;
    if (!j->ignore_eos && tokenizer_is_eog(e->model->tokenizer, drawn->id)) {
        loop_end_sequence(e, q, FINISH_STOP, false);
        return;
    }
    q->n_generated++;
    note_token(e, q);
    buffer_clear(text);
    detokenizer_push(&q->detokenizer, e->model->tokenizer, drawn->id, text);
    bool stop_found = stopper_push(j->stopper, &q->stop, text->data, text->n_bytes, &q->safe);
    bool complete = j->grammar && matcher_push(e->loop.masker, &q->matcher, q->generated, q->n_generated);
    struct stream_token token = {drawn->id, drawn->logprob, drawn->top, drawn->n_top};
    stream_push(j->stream, q->choice, &token, text->data, text->n_bytes, q->safe,
                stop_found || q->detokenizer.n_held > 0);
    if (stop_found)
        loop_end_sequence(e, q, FINISH_STOP, true);
    else if (complete)
        loop_end_sequence(e, q, FINISH_STOP, false);
    else if (q->n_generated == j->max_tokens)
        loop_end_sequence(e, q, FINISH_LENGTH, false);
}

/* The token that was drawn before row k of the step's output has been taken into q, which may have ended. If row k is that of a drafted
 * token of q, it stands when this is the one that was drawn; else all that was drafted behind it falls. Where the reader has no room for what
 * row k would bring, the token stands but its row is computed again later: its logits are wanted then. */
static void judge_draft(struct loop *l, struct sequence *q, size_t k, uint32_t drafted, uint32_t drawn)
{
    if (k >= l->n_out || l->out_sequences[k] != q)
        return;
    bool stands = drafted == drawn, room = stream_has_room(q->job->stream, q->choice);
    if (stands) {
        q->n_accepted++;
        q->n_fed += room;
        l->n_accepted++;
    }
    if (!stands || q->n_accepted == q->n_draft)
        draft_learn(&q->draft, q->n_draft, q->n_accepted);
    for (; (!stands || !room) && k < l->n_out && l->out_sequences[k] == q; k++)
        l->out_sequences[k] = NULL;
}

/* Draws a token for row i of the step's output. */
static enum error_code draw(struct engine *e, size_t i, struct sample *drawn, struct error *err)
{
    struct loop *l = &e->loop;
    struct sequence *q = l->out_sequences[i];
    struct sample_input in = input_of(q, 0);
    if (q->job->grammar && !l->masks[i])
        return error_set(err, ERROR_INFERENCE_FAILED, "the grammar has too many states to be followed further");
    if (q->job->grammar && !l->masks[i]->n_allowed)
        return error_set(err, ERROR_INFERENCE_FAILED, "no token of the vocabulary goes on as the grammar asks");
    in.allowed = q->job->grammar ? l->masks[i]->allowed : NULL;
    return sampler_draw(l->sampler, &q->job->sampling, &in, l->logits + i * e->limits.vocab_size, drawn, err);
}

/* Gives the log-probability of the prompt's token behind `position` by row i of the step's output. */
static enum error_code score(struct engine *e, size_t i, uint32_t position, struct error *err)
{
    struct loop *l = &e->loop;
    const struct job *j = l->out_sequences[i]->job;
    struct sample scored;
    enum error_code code = sampler_score(l->sampler, l->logits + i * e->limits.vocab_size, j->prompt[position + 1], j->n_top, &scored, err);
    if (!code)
        stream_score(j->stream, position + 1, &(struct stream_token){scored.id, scored.logprob, scored.top, scored.n_top});
    return code;
}

/* Shows a prompt's log-probabilities once all are there; where nothing else was asked for, that is the end. */
static void end_scores(struct engine *e)
{
    struct loop *l = &e->loop;
    for (size_t i = 0; i < l->n_running;) {
        struct sequence *q = l->running[i];
        if (sequence_scores(q) && q->n_fed >= q->job->n_prompt) {
            stream_show_prompt(q->job->stream);
            q->job->prompt_shown = true;
        }
        if (!q->job->max_tokens && q->n_fed >= q->job->n_prompt)
            loop_end_sequence(e, q, FINISH_LENGTH, false);
        else
            i++;
    }
}

static void fail_sampling(struct engine *e, struct job *j, const struct error *err)
{
    log_error("engine", "sampling failed", LOG_STR("request_id", j->id), LOG_STR("error", err->message));
    loop_abort_job(e, j, FINISH_ERROR, err);
}

/* Scores come first, so that they are shown before a token is. */
static void score_all(struct engine *e)
{
    struct loop *l = &e->loop;
    for (size_t i = 0; i < l->n_out; i++) {
        struct sequence *q = l->out_sequences[i];
        struct error err = {0};
        uint32_t position = (uint32_t)l->positions[l->out_rows[i]];
        if (!q || position + 1 >= q->job->n_prompt)
            continue;
        if (score(e, i, position, &err))
            fail_sampling(e, q->job, &err);
        else
            l->out_sequences[i] = NULL; /* nothing is drawn by this row */
    }
    end_scores(e);
}

static void sample_all(struct engine *e)
{
    struct loop *l = &e->loop;
    for (size_t i = 0; i < l->n_out; i++) {
        struct sequence *q = l->out_sequences[i];
        struct sample drawn;
        struct error err = {0};
        if (!q) /* its request ended with another choice's failure, or the row was for a score */
            continue;
        if (draw(e, i, &drawn, &err)) {
            fail_sampling(e, q->job, &err);
            continue;
        }
        uint32_t drafted = q->generated[q->n_generated];
        accept(e, q, &drawn);
        judge_draft(l, q, i + 1, drafted, drawn.id);
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

void loop_fill_blocks(struct loop *l, struct sequence *q)
{
    uint32_t tokens[KV_BLOCK_SIZE];
    for (; q->n_filled < q->n_fed / KV_BLOCK_SIZE; q->n_filled++) {
        for (uint32_t k = 0; k < KV_BLOCK_SIZE; k++)
            tokens[k] = sequence_token(q, q->n_filled * KV_BLOCK_SIZE + k);
        kvcache_fill(&l->kvcache, q->slot, q->n_filled, tokens);
    }
}

/* What a step's time says of the next ones'. */
static void learn(struct loop *l, const struct step_rows *rows, int64_t step_ns)
{
    size_t n_prefill = rows->n_rows - rows->n_decodes - rows->n_drafts;
    if (!rows->n_drafts) {
        scheduler_learn(&l->scheduler, rows->n_decodes, n_prefill, step_ns);
    } else if (!n_prefill && l->scheduler.decode_ns) {
        int64_t row_ns = (step_ns - scheduler_decode_ns(&l->scheduler, rows->n_decodes)) / (int64_t)rows->n_drafts;
        l->draft_row_ns += ((row_ns > 1 ? row_ns : 1) - l->draft_row_ns) / (l->draft_row_ns ? 8 : 1);
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

void loop_note_device(struct engine *e, bool works)
{
    int64_t now_ns = clock_now_ns();
    pthread_mutex_lock(&e->stats_lock);
    bool was_open = e->breaker.open;
    e->stats.n_device_failures += !works;
    if (works)
        breaker_succeeded(&e->breaker);
    else
        breaker_failed(&e->breaker, now_ns);
    bool open = e->breaker.open;
    int64_t backoff_ns = e->breaker.backoff_ns;
    pthread_mutex_unlock(&e->stats_lock);
    if (open && !works)
        log_error("engine", "the device fails: requests are refused", LOG_INT("retry_ms", backoff_ns / CLOCK_NS_PER_MS));
    else if (was_open && !open)
        log_info("engine", "the device works again");
}

static bool compute(struct engine *e, const struct batch_view *batch, struct error *err)
{
    struct loop *l = &e->loop;
    return !(e->limits.embedding_size ? forward_hidden(l->forward, &e->kv, batch, l->ids, l->out_rows, l->n_out, l->logits, err)
                                      : forward_run(l->forward, &e->kv, batch, l->ids, l->out_rows, l->n_out, l->needs, false, l->logits, err));
}

void loop_step(struct engine *e, size_t n_planned)
{
    struct loop *l = &e->loop;
    struct error err = {0};
    struct step_rows rows;
    turn_take(e->turn, e);
    int64_t start_ns = clock_now_ns();
    build_batch(e, &rows);
    assert(rows.n_rows == n_planned && "step: the plan is what is run");
    (void)n_planned;
    note_batch(l, rows.n_sequences);
    count_step(e, rows.n_rows, rows.n_sequences);
    struct batch_view batch = {.n = rows.n_rows,
                               .positions = l->positions,
                               .sequences = l->slots,
                               .block_tables = l->kvcache.tables,
                               .n_sequences = l->kvcache.n_slots,
                               .max_blocks = l->kvcache.max_blocks};
    bool works = compute(e, &batch, &err);
    turn_give(e->turn);
    loop_note_device(e, works); /* before its requests hear of it */
    if (works) {
        learn(l, &rows, clock_now_ns() - start_ns);
        for (size_t i = 0; i < l->n_running; i++)
            loop_fill_blocks(l, l->running[i]);
    } else if (!loop_move(e, &err)) {
        fail_batch(e, &err);
    }
    if (e->limits.embedding_size) {
        embed_all(e);
    } else {
        score_all(e);
        sample_all(e);
    }
    double seconds = (double)(clock_now_ns() - start_ns) / (double)CLOCK_NS_PER_S;
    pthread_mutex_lock(&e->stats_lock);
    e->stats.busy_seconds += seconds;
    pthread_mutex_unlock(&e->stats_lock);
    const struct engine_observer *observer = loop_observer(e);
    if (observer && observer->on_step)
        observer->on_step(observer->user, rows.n_rows, rows.n_sequences, seconds);
}
