/* The loop thread: turns of ending, admitting, planning and stepping; asleep when there is nothing to do. */
#include "engine/loop.h"

#include "base/clock.h"

#include <stdio.h>

#define IDLE_TURN_NS CLOCK_NS_PER_S /* an idle loop shows that it lives */
#define RETRY_DRAINING_MS 1000      /* another replica, or this one's successor */
#define WAIT_LOOK_NS (10 * CLOCK_NS_PER_MS) /* how late a sleeping loop may see that a request has waited too long */

/* ---- ending what must not go on ---------------------------------------------------------------------------------- */

struct sweep {
    int64_t now_ns;
    bool hand_back; /* draining: nothing starts any more */
    int64_t refused_until_ns; /* the device fails: likewise; 0 = it does not */
    int64_t max_wait_ns;      /* what has waited longer does not start; 0 = no bound */
};

static struct job *job_of(const struct queue_item *item)
{
    return (struct job *)item;
}

static enum finish_reason overdue(const struct job *j, int64_t now_ns)
{
    if (stream_cancelled(j->stream))
        return FINISH_CANCELLED;
    return now_ns >= j->deadline_ns ? FINISH_DEADLINE : FINISH_NONE;
}

static bool waited_too_long(const struct sweep *w, const struct job *j)
{
    return w->max_wait_ns && w->now_ns - j->item.arrival_ns >= w->max_wait_ns;
}

static bool must_leave(const struct queue_item *item, void *user)
{
    const struct sweep *w = user;
    const struct job *j = job_of(item);
    return overdue(j, w->now_ns) != FINISH_NONE ||
           (!j->n_started && (w->hand_back || w->refused_until_ns || waited_too_long(w, j)));
}

static void abort_with(struct engine *e, struct job *j, enum error_code code, const char *reason, int64_t retry_ms, const char *why)
{
    struct error err = {0};
    error_set(&err, code, "%s", why);
    err.reason = reason;
    err.retry_after_ms = retry_ms;
    loop_abort_job(e, j, FINISH_ERROR, &err);
}

/* A request that was promised a place, and that cannot start after all. */
static void hand_back(struct engine *e, struct job *j, const struct sweep *w)
{
    if (w->hand_back)
        abort_with(e, j, ERROR_SERVICE_UNAVAILABLE, REFUSED_DRAINING, RETRY_DRAINING_MS,
                   "the engine is shutting down; the request has not started");
    else if (w->refused_until_ns)
        abort_with(e, j, ERROR_DEVICE_UNAVAILABLE, REFUSED_DEVICE, (w->refused_until_ns - w->now_ns) / CLOCK_NS_PER_MS + 1,
                   "the device fails; the request has not started");
    else
        abort_with(e, j, ERROR_SERVICE_UNAVAILABLE, REFUSED_QUEUE_WAIT, w->max_wait_ns / CLOCK_NS_PER_MS,
                   "the request has waited as long as any may, and has not started");
}

static void sweep_queue(struct engine *e, struct sweep *w)
{
    struct queue_item *item;
    while ((item = queue_find(&e->queue, must_leave, w))) {
        struct job *j = job_of(item);
        enum finish_reason finish = overdue(j, w->now_ns);
        if (finish)
            loop_abort_job(e, j, finish, NULL);
        else
            hand_back(e, j, w);
    }
}

/* Has one of its choices had no room for the whole time allowed? It is asked anew whether there is room: the loop may have slept since. */
static bool reader_stalled(const struct engine *e, const struct job *j, int64_t now_ns)
{
    for (uint32_t c = 0; e->stall_timeout_ns && c < j->n_started; c++) {
        const struct sequence *q = &j->sequences[c];
        if (q->running && q->full_ns && now_ns - q->full_ns >= e->stall_timeout_ns && !stream_has_room(j->stream, c))
            return true;
    }
    return false;
}

static void abort_stalled(struct engine *e, struct job *j)
{
    struct error err = {0};
    error_set(&err, ERROR_READER_STALLED, "expected the stream to be read, found it full with nothing taken for %lld ms",
              (long long)(e->stall_timeout_ns / CLOCK_NS_PER_MS));
    pthread_mutex_lock(&e->stats_lock);
    e->stats.n_stalled++;
    pthread_mutex_unlock(&e->stats_lock);
    loop_abort_job(e, j, FINISH_ERROR, &err);
}

static void sweep_running(struct engine *e, int64_t now_ns, bool end_all)
{
    for (struct job *j = e->loop.jobs, *next; j; j = next) {
        next = j->next;
        enum finish_reason finish = overdue(j, now_ns);
        if (finish)
            loop_abort_job(e, j, finish, NULL);
        else if (reader_stalled(e, j, now_ns))
            abort_stalled(e, j);
        else if (end_all)
            abort_with(e, j, ERROR_SERVICE_UNAVAILABLE, NULL, RETRY_DRAINING_MS,
                       "the engine is shutting down; the request was ended at the drain limit");
    }
}

static void sweep(struct engine *e, int64_t now_ns)
{
    bool draining = atomic_load_explicit(&e->draining, memory_order_acquire);
    bool end_all = draining && now_ns >= atomic_load_explicit(&e->drain_deadline_ns, memory_order_relaxed);
    struct sweep w = {now_ns, draining, 0, e->queue.options.max_wait_ns};
    pthread_mutex_lock(&e->stats_lock);
    if (breaker_state(&e->breaker, now_ns) == BREAKER_OPEN)
        w.refused_until_ns = e->breaker.retry_ns;
    pthread_mutex_unlock(&e->stats_lock);
    sweep_queue(e, &w);
    sweep_running(e, now_ns, end_all);
}

/* Where no device was left: is there one now, for a request that waits? If not, it does not wait longer. */
static bool found_device(struct engine *e, int64_t now_ns)
{
    struct sweep w = {.now_ns = now_ns, .refused_until_ns = now_ns + BREAKER_FIRST_NS};
    if (!queue_n_waiting(&e->queue))
        return false;
    if (loop_find_device(e))
        return true;
    sweep_queue(e, &w);
    return false;
}

/* ---- admission --------------------------------------------------------------------------------------------------- */

static void note_start(struct engine *e, struct job *j, int64_t now_ns)
{
    struct loop *l = &e->loop;
    j->admitted_ns = now_ns;
    snprintf(j->devices, sizeof j->devices, "%s", engine_model(e)->device);
    j->previous = NULL;
    j->next = l->jobs;
    if (l->jobs)
        l->jobs->previous = j;
    l->jobs = j;
    pthread_mutex_lock(&e->stats_lock);
    e->stats.n_prompt_tokens += j->n_prompt;
    e->stats.n_prefix_queries += (uint64_t)j->n_prompt * j->n_choices;
    pthread_mutex_unlock(&e->stats_lock);
}

/* Starts a sequence, or starts it again; its blocks are reserved for the slot on top of the stack. */
static void start_sequence(struct engine *e, struct sequence *q, int64_t now_ns)
{
    struct loop *l = &e->loop;
    struct job *j = q->job;
    if (q->n_preempted)
        j->n_out--;
    else if (!j->n_started++)
        note_start(e, j, now_ns);
    q->slot = l->free_slots[--l->n_free_slots];
    q->running = true;
    l->running[l->n_running++] = q;
    if (j->grammar)
        matcher_start(l->masker, j->grammar, &q->matcher); /* without memory the first step fails it */
    loop_note_running(e, j);
    if (j->n_started == j->n_choices && !j->n_out)
        queue_remove(&e->queue, &j->item, true, now_ns);
}

/* A request with several choices starts them one by one and stays at its place in the queue until all have. Those behind the first
 * wait until it fits; one of high priority makes itself room. */
static void admit(struct engine *e, int64_t now_ns)
{
    struct queue_item *item;
    while ((item = queue_first(&e->queue, now_ns))) {
        struct sequence *q = job_next_sequence(job_of(item));
        if (loop_reserve(&e->loop, q)) {
            start_sequence(e, q, now_ns);
        } else if (!loop_preempt_for(e, q, now_ns)) {
            queue_blocked(&e->queue, now_ns);
            return;
        }
    }
}

/* Goes past the blocks of known tokens that are filled by now. */
static void skip_cached(struct loop *l, struct sequence *q)
{
    while (q->n_fed % KV_BLOCK_SIZE == 0 && q->n_fed + KV_BLOCK_SIZE < sequence_n_known(q) &&
           kvcache_is_filled(&l->kvcache, q->slot, q->n_fed / KV_BLOCK_SIZE)) {
        q->n_fed += KV_BLOCK_SIZE;
        q->n_filled++;
        if (q->n_preempted) /* its prompt has been counted */
            continue;
        q->n_cached += KV_BLOCK_SIZE;
        l->n_prefix_hits += KV_BLOCK_SIZE;
    }
}

/* Tokens that a sequence may compute now; 0 while another one fills the block it has come to. */
static uint32_t n_computable(struct loop *l, struct sequence *q)
{
    skip_cached(l, q);
    uint32_t n_left = sequence_n_left(q) + q->n_draft, first = q->n_fed / KV_BLOCK_SIZE;
    uint32_t n = kvcache_claim(&l->kvcache, q->slot, first, kvcache_blocks_for(q->n_fed + n_left));
    uint32_t n_claimed = n ? (first + n) * KV_BLOCK_SIZE - q->n_fed : 0;
    return n_left < n_claimed ? n_left : n_claimed;
}

/* Drafts the next tokens of a sequence that decodes, where they go when they are drawn; never the last that it may have. */
static void draft(struct loop *l, struct sequence *q)
{
    const struct job *j = q->job;
    uint32_t room = j->max_tokens - q->n_generated - 1, n = 0;
    if (room > 0) {
        double cost = l->draft_row_ns && l->scheduler.decode_ns ? (double)l->draft_row_ns / (double)l->scheduler.decode_ns : 0.1;
        n = draft_length(&q->draft, cost);
        n = draft_find(j->prompt, j->n_prompt, q->generated, q->n_generated, q->generated + q->n_generated, n < room ? n : room);
        if (j->grammar)
            n = matcher_follow(l->masker, &q->matcher, q->generated, q->n_generated, n);
    }
    q->n_draft = n;
}

static void draft_all(struct loop *l)
{
    size_t n = 0;
    for (size_t i = 0; i < l->n_running; i++) {
        l->running[i]->n_draft = 0;
        n += sequence_decodes(l->running[i]);
    }
    for (size_t i = 0; i < l->n_running && l->speculate && n <= DRAFT_MAX_SEQUENCES; i++)
        if (sequence_decodes(l->running[i]))
            draft(l, l->running[i]);
}

/* Notes since when there has been none. */
static bool has_room(struct sequence *q, int64_t now_ns)
{
    bool room = stream_has_room(q->job->stream, q->choice);
    q->full_ns = room ? 0 : q->full_ns ? q->full_ns : now_ns;
    return room;
}

static size_t plan(struct engine *e, int64_t now_ns)
{
    struct loop *l = &e->loop;
    uint32_t score_room = LOOP_MAX_SCORES;
    draft_all(l);
    for (size_t i = 0; i < l->n_running; i++) {
        struct sequence *q = l->running[i];
        uint32_t n = n_computable(l, q);
        if (sequence_scores(q)) {
            n = n < score_room ? n : score_room;
            score_room -= n;
        } else if (q->job->prompt_logprobs && !q->job->prompt_shown) {
            n = 0; /* another choice: the prompt comes before all tokens */
        }
        bool room = has_room(q, now_ns);
        l->items[i] = (struct scheduler_item){.n_left = n, .decode = sequence_decodes(q), .paused = n == 0 || !room};
    }
    return e->model->shape.causal ? scheduler_plan(&l->scheduler, l->items, l->n_running) : embed_plan(l);
}

/* ---- turns ------------------------------------------------------------------------------------------------------- */

static void note_turn(struct engine *e, int64_t now_ns, bool idle)
{
    size_t n_waiting = queue_n_waiting(&e->queue);
    const struct kvcache *kv = &e->loop.kvcache;
    atomic_store_explicit(&e->idle, idle, memory_order_relaxed);
    pthread_mutex_lock(&e->stats_lock);
    e->stats.last_turn_ns = now_ns;
    e->stats.n_waiting = (uint32_t)n_waiting;
    e->stats.n_kv_blocks_used = kvcache_n_used(kv);
    e->stats.n_kv_blocks_kept = kv->n_kept;
    e->stats.n_prefix_hits = e->loop.n_prefix_hits;
    e->stats.n_drafted = e->loop.n_drafted;
    e->stats.n_draft_accepted = e->loop.n_accepted;
    if (idle)
        e->stats.batch_size = 0;
    if (atomic_load_explicit(&e->draining, memory_order_relaxed))
        pthread_cond_broadcast(&e->drained);
    pthread_mutex_unlock(&e->stats_lock);
}

static bool note_deadline(const struct queue_item *item, void *user)
{
    int64_t *earliest_ns = user, deadline_ns = job_of(item)->deadline_ns;
    if (deadline_ns < *earliest_ns)
        *earliest_ns = deadline_ns;
    return false; /* go on with the next */
}

/* When a sleeping loop must look again, if nobody wakes it before. */
static int64_t next_look(struct engine *e, int64_t now_ns)
{
    int64_t at_ns = now_ns + IDLE_TURN_NS;
    for (const struct job *j = e->loop.jobs; j; j = j->next)
        note_deadline(&j->item, &at_ns);
    for (size_t i = 0; e->stall_timeout_ns && i < e->loop.n_running; i++) {
        int64_t full_ns = e->loop.running[i]->full_ns;
        if (full_ns && full_ns + e->stall_timeout_ns < at_ns)
            at_ns = full_ns + e->stall_timeout_ns;
    }
    queue_find(&e->queue, note_deadline, &at_ns);
    if (e->queue.options.max_wait_ns && queue_n_waiting(&e->queue) && now_ns + WAIT_LOOK_NS < at_ns)
        at_ns = now_ns + WAIT_LOOK_NS;
    int64_t drain_ns = atomic_load_explicit(&e->drain_deadline_ns, memory_order_relaxed);
    return e->loop.jobs && drain_ns < at_ns ? drain_ns : at_ns;
}

void *loop_main(void *arg)
{
    struct engine *e = arg;
    pthread_setname_np(pthread_self(), "engine-loop");
    backend_adopt_thread(e->backend);
    for (;;) {
        int64_t now_ns = clock_now_ns();
        bool closing = atomic_load_explicit(&e->closing, memory_order_acquire);
        sweep(e, now_ns);
        if (!e->loop.no_device || found_device(e, now_ns))
            admit(e, now_ns);
        e->loop.scheduler.shared = turn_is_shared(e->turn, e, now_ns);
        size_t n_rows = plan(e, now_ns);
        note_turn(e, now_ns, n_rows == 0);
        if (n_rows)
            loop_step(e, n_rows);
        else if (closing)
            return NULL; /* closing set the drain deadline to now, so the sweep has ended everything */
        else
            waker_sleep(&e->waker, next_look(e, now_ns));
    }
}
