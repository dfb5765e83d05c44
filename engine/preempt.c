/*
 * Preemption: a request of high priority that finds no slot or no KV blocks takes those of sequences of low priority, the youngest first. Such a
 * sequence keeps its tokens and its place in its text; its blocks go to the prefix cache, it waits in front of its class, and when it starts
 * again it computes what the cache has not kept of its prompt and its answer, as one long prompt. As a draw is a function of the tokens before
 * it, its tokens are the same; its reader sees a pause. It happens between two steps, to a sequence at most twice, and only where it makes
 * enough room.
 */
#include "engine/loop.h"

#include "base/log.h"

#define MAX_PREEMPTIONS 2 /* of a sequence: then it runs to its end */

struct sequence *job_next_sequence(struct job *j)
{
    uint32_t c = 0;
    if (!j->n_out)
        return &j->sequences[j->n_started];
    while (j->sequences[c].running || j->sequences[c].ended)
        c++;
    return &j->sequences[c];
}

/* The tokens that a sequence begins with, in one piece; valid until the next call. */
static const uint32_t *known_tokens(struct loop *l, const struct sequence *q)
{
    if (!q->n_generated)
        return q->job->prompt;
    for (uint32_t i = 0; i < sequence_n_known(q); i++)
        l->known[i] = sequence_token(q, i);
    return l->known;
}

/* How many of them may lie in blocks that were computed for another one. */
static uint32_t n_shareable(const struct sequence *q)
{
    return sequence_scores(q) ? 0 : sequence_n_known(q);
}

bool loop_reserve(struct loop *l, const struct sequence *q)
{
    return l->n_free_slots && kvcache_reserve(&l->kvcache, l->free_slots[l->n_free_slots - 1], known_tokens(l, q),
                                              n_shareable(q), job_n_positions(q->job));
}

void loop_note_running(struct engine *e, struct job *j)
{
    bool any = false;
    for (uint32_t c = 0; c < j->n_started; c++)
        any |= j->sequences[c].running;
    pthread_mutex_lock(&e->stats_lock);
    e->stats.n_running = e->stats.n_running + any - j->in_batch;
    pthread_mutex_unlock(&e->stats_lock);
    j->in_batch = any;
}

static bool may_be_preempted(const struct sequence *q)
{
    return q->job->item.priority == PRIORITY_LOW && q->n_preempted < MAX_PREEMPTIONS;
}

/* The youngest that may go, if all of them together make room for `wanted`; NULL if not. */
static struct sequence *choose(struct loop *l, const struct sequence *wanted)
{
    struct sequence *youngest = NULL;
    uint32_t n_blocks = 0;
    for (size_t i = 0; i < l->n_running; i++) {
        if (!may_be_preempted(l->running[i]))
            continue;
        youngest = l->running[i];
        n_blocks += kvcache_n_alone(&l->kvcache, youngest->slot);
    }
    if (!youngest || n_blocks < kvcache_n_lacking(&l->kvcache, known_tokens(l, wanted), n_shareable(wanted),
                                                  job_n_positions(wanted->job)))
        return NULL;
    return youngest;
}

void loop_put_back(struct engine *e, struct sequence *q, int64_t now_ns)
{
    struct job *j = q->job;
    loop_free_slot(&e->loop, q);
    q->n_fed = q->n_filled = q->n_draft = q->n_accepted = 0;
    q->n_preempted++;
    j->n_out++;
    if (!j->item.queued)
        queue_return(&e->queue, &j->item, now_ns);
    loop_note_running(e, j);
}

static void preempt(struct engine *e, struct sequence *q, int64_t now_ns)
{
    loop_fill_blocks(&e->loop, q);
    loop_put_back(e, q, now_ns);
    pthread_mutex_lock(&e->stats_lock);
    e->stats.n_preempted++;
    pthread_mutex_unlock(&e->stats_lock);
    log_debug("engine", "sequence preempted", LOG_STR("request_id", q->job->id), LOG_INT("choice", q->choice),
              LOG_INT("generated_tokens", q->n_generated));
}

bool loop_preempt_for(struct engine *e, const struct sequence *wanted, int64_t now_ns)
{
    struct sequence *q = wanted->job->item.priority == PRIORITY_HIGH ? choose(&e->loop, wanted) : NULL;
    if (q)
        preempt(e, q, now_ns);
    return q != NULL;
}
