/* The ends of sequences and requests. What a request held is free, and the statistics know of its end, before its
 * reader hears of it, so a client that saw the end sees its effect. */
#include "engine/accuracy.h"
#include "engine/loop.h"

#include "base/clock.h"
#include "base/log.h"

#include <assert.h>
#include <string.h>

void loop_free_slot(struct loop *l, struct sequence *q)
{
    size_t i = 0;
    while (i < l->n_running && l->running[i] != q)
        i++;
    assert(i < l->n_running && "loop: a running sequence is in the list");
    memmove(l->running + i, l->running + i + 1, (l->n_running - i - 1) * sizeof *l->running);
    l->n_running--;
    kvcache_release(&l->kvcache, q->slot);
    l->free_slots[l->n_free_slots++] = q->slot;
    q->running = false;
    if (q->job->grammar)
        matcher_stop(l->masker, &q->matcher);
    for (size_t k = 0; k < l->n_out; k++)
        if (l->out_sequences[k] == q)
            l->out_sequences[k] = NULL;
}

/* Shows the rest of a choice's text, up to the stop string if one was found. */
static void end_choice(struct engine *e, struct sequence *q, enum finish_reason finish, bool stop_found)
{
    struct buffer *text = &e->loop.text;
    buffer_clear(text);
    if (!stop_found) {
        detokenizer_finish(&q->detokenizer, text);
        stop_found = stopper_push(q->job->stopper, &q->stop, text->data, text->n_bytes, &q->safe);
    }
    stream_end_choice(q->job->stream, q->choice, text->data, text->n_bytes, stop_found ? q->safe : UINT64_MAX, finish);
}

static double seconds_between(int64_t from_ns, int64_t to_ns)
{
    /* A turn's time is read before what comes during the turn. */
    return !from_ns ? -1 : to_ns > from_ns ? (double)(to_ns - from_ns) / (double)CLOCK_NS_PER_S : 0;
}

static void count_end(struct engine *e, const struct job *j, enum finish_reason finish, bool refused)
{
    pthread_mutex_lock(&e->stats_lock);
    struct engine_stats *st = &e->stats;
    uint64_t *counters[] = {[FINISH_STOP] = &st->n_finished_stop,
                            [FINISH_LENGTH] = &st->n_finished_length,
                            [FINISH_CANCELLED] = &st->n_cancelled,
                            [FINISH_DEADLINE] = &st->n_deadline,
                            [FINISH_ERROR] = refused ? &st->n_rejected : &st->n_failed};
    ++*counters[finish];
    if (j->in_batch)
        st->n_running--;
    st->n_kv_blocks_used = kvcache_n_used(&e->loop.kvcache);
    pthread_mutex_unlock(&e->stats_lock);
}

static void observe_end(struct engine *e, const struct job *j, enum finish_reason finish, int64_t now_ns)
{
    struct engine_observation o = {.finish = finish,
                                   .queue_s =
                                       seconds_between(j->item.arrival_ns, j->admitted_ns ? j->admitted_ns : now_ns),
                                   .first_token_s = -1,
                                   .total_s = seconds_between(j->item.arrival_ns, now_ns),
                                   .n_prompt_tokens = j->n_prompt,
                                   .n_generated_tokens = j->n_generated,
                                   .trace_id = j->trace_id[0] ? j->trace_id : NULL};
    if (!j->admitted_ns)
        o.queue_s = -1;
    if (j->first_token_ns)
        o.first_token_s = seconds_between(j->item.arrival_ns, j->first_token_ns);
    const struct engine_observer *observer = loop_observer(e);
    if (observer && observer->on_finish)
        observer->on_finish(observer->user, &o);
}

static struct stream_summary summarise(const struct job *j, int64_t now_ns)
{
    struct stream_summary s = {
        .n_prompt_tokens = j->n_prompt, .n_generated_tokens = j->n_generated, .n_cached_tokens = j->sequences[0].n_cached,
        .arrival_ns = j->item.arrival_ns, .admitted = j->admitted_ns != 0};
    memcpy(s.devices, j->devices, sizeof s.devices);
    double running_s = seconds_between(j->admitted_ns, now_ns);
    s.queue_ms = 1e3 * seconds_between(j->item.arrival_ns, j->admitted_ns ? j->admitted_ns : now_ns);
    s.total_ms = 1e3 * seconds_between(j->item.arrival_ns, now_ns);
    if (j->first_token_ns)
        s.first_token_ms = 1e3 * seconds_between(j->item.arrival_ns, j->first_token_ns);
    if (running_s > 0)
        s.tokens_per_second = j->n_generated / running_s;
    if (j->n_steps)
        s.mean_batch_size = (double)j->n_step_sequences / (double)j->n_steps;
    return s;
}

/* `finish` is what is counted; the stream reports that of choice 0 unless it is an error. */
static void retire(struct engine *e, struct job *j, enum finish_reason finish, const struct error *error)
{
    int64_t now_ns = clock_now_ns();
    if (j->item.queued)
        queue_remove(&e->queue, &j->item, false, now_ns);
    if (j->n_started) {
        *(j->previous ? &j->previous->next : &e->loop.jobs) = j->next;
        if (j->next)
            j->next->previous = j->previous;
    }
    count_end(e, j, finish, error && error->reason);
    observe_end(e, j, finish, now_ns);
    if (e->accuracy)
        accuracy_offer(e->accuracy, j);
    log_debug("engine", "request ended", LOG_STR("request_id", j->id), LOG_INT("finish", finish),
              LOG_INT("prompt_tokens", j->n_prompt), LOG_INT("generated_tokens", j->n_generated));
    struct stream_summary summary = summarise(j, now_ns);
    enum finish_reason shown = finish == FINISH_ERROR || j->finish == FINISH_NONE ? finish : j->finish;
    stream_complete(j->stream, shown, error, &summary);
    job_close(j);
    pthread_mutex_lock(&e->stats_lock);
    e->n_live--;
    pthread_mutex_unlock(&e->stats_lock);
}

void loop_end_sequence(struct engine *e, struct sequence *q, enum finish_reason finish, bool stop_found)
{
    struct job *j = q->job;
    if (q->choice == 0)
        j->finish = finish;
    loop_fill_blocks(&e->loop, q);
    loop_free_slot(&e->loop, q);
    q->ended = true;
    end_choice(e, q, finish, stop_found);
    if (++j->n_ended == j->n_choices)
        retire(e, j, j->finish, NULL);
}

void loop_abort_job(struct engine *e, struct job *j, enum finish_reason finish, const struct error *error)
{
    bool show_ends = finish != FINISH_ERROR && (j->n_generated || j->n_ended);
    for (uint32_t c = 0; c < j->n_choices; c++) {
        struct sequence *q = &j->sequences[c];
        if (q->running)
            loop_free_slot(&e->loop, q);
        if (q->ended || !show_ends)
            continue;
        if (c == 0)
            j->finish = finish;
        end_choice(e, q, finish, false);
    }
    retire(e, j, finish, error);
}
