/* The account of each request: what came when, how it ended, and what its slot does next. */
#include "tools/load_slot.h"

#include "base/clock.h"

#include <stdlib.h>
#include <unistd.h>

#define NS_PER_MS 1000000
#define DEFAULT_RETRY_MS 100 /* after a refusal that does not say when to come back, and after a failure */

void load_no_memory(void)
{
    abort(); /* there is no measuring without */
}

static bool in_window(const struct load_run *r, int64_t t)
{
    return t >= r->window_ns && t < r->end_ns;
}

/* ---- sending ----------------------------------------------------------------------------------------------------- */

bool load_run_take(struct load_run *r, int64_t due_ns, uint64_t *index)
{
    if (atomic_load(&r->stopping) || due_ns >= r->end_ns)
        return false;
    *index = atomic_fetch_add(&r->n_sent, 1);
    return r->n_requests == 0 || *index < r->n_requests;
}

void load_run_leave(struct load_run *r)
{
    const uint64_t one = 1;
    if (atomic_fetch_sub(&r->n_running, 1) == 1 && write(r->wake_fd, &one, sizeof one) != sizeof one)
        abort(); /* an eventfd takes 2^64 - 1 of these */
}

void load_slot_begin(struct load_slot *s, uint64_t index, int64_t due_ns)
{
    struct load_run *r = s->worker->run;
    s->state = SLOT_RUNNING;
    s->due_ns = CLOCK_NEVER;
    s->begin_ns = due_ns;
    s->first_ns = s->last_ns = 0;
    s->n_tokens = 0;
    s->text = LOAD_HASH_START;
    s->in_window = in_window(r, due_ns);
    s->paused = s->cancelled = s->interrupted = false;
    load_plan_spec(r->plan, r->n_before, index, &s->spec);
    if (r->alone) {
        s->spec.behaviour = LOAD_READS;
        s->spec.priority = 0;
    }
    if (!load_request_pack(r->plan, &s->spec, &s->body))
        load_no_memory();
    s->worker->stats.bytes_out += s->body.n_bytes;
    r->transport->start(s);
}

static void arm(struct load_slot *s, int64_t now_ns)
{
    int64_t us = (s->due_ns - now_ns + 999) / 1000;
    const struct timeval after = {us / 1000000, us % 1000000};
    event_add(s->timer, &after);
}

static void wake_at(struct load_slot *s, int64_t now_ns, int64_t after_ms)
{
    s->due_ns = now_ns + after_ms * NS_PER_MS;
    arm(s, now_ns);
}

/* What an ended request's slot does: a client of a closed loop sends its next one, now or later. */
static void go_on(struct load_slot *s, int64_t after_ms, int64_t now_ns)
{
    struct load_run *r = s->worker->run;
    uint64_t index;
    s->state = SLOT_IDLE;
    if (r->n_clients == 0) {
        s->next_idle = s->worker->idle;
        s->worker->idle = s;
    } else if (after_ms > 0) {
        s->state = SLOT_WAITING;
        wake_at(s, now_ns, after_ms);
    } else if (load_run_take(r, now_ns, &index)) {
        load_slot_begin(s, index, now_ns);
        return;
    }
    load_run_leave(r);
}

static void start_waiting(struct load_slot *s, int64_t now_ns)
{
    struct load_run *r = s->worker->run;
    uint64_t index;
    atomic_fetch_add(&r->n_running, 1);
    s->state = SLOT_IDLE;
    if (load_run_take(r, now_ns, &index))
        load_slot_begin(s, index, now_ns);
    else
        load_run_leave(r);
}

void load_slot_on_timer(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    struct load_slot *s = user;
    pthread_mutex_lock(&s->worker->lock);
    int64_t now_ns = clock_now_ns();
    if (s->due_ns > now_ns) {
        if (s->due_ns != CLOCK_NEVER) /* it was set for an earlier request */
            arm(s, now_ns);
    } else {
        s->due_ns = CLOCK_NEVER;
        if (s->state == SLOT_WAITING)
            start_waiting(s, now_ns);
        else if (s->state == SLOT_RUNNING && s->spec.behaviour == LOAD_DEAD)
            load_slot_cancel(s);
        else if (s->state == SLOT_RUNNING && s->paused)
            s->paused = false, s->worker->run->transport->resume(s);
    }
    pthread_mutex_unlock(&s->worker->lock);
}

void load_slot_cancel(struct load_slot *s)
{
    if (s->cancelled)
        return;
    s->cancelled = true;
    s->worker->run->transport->cancel(s);
}

/* ---- receiving ---------------------------------------------------------------------------------------------------- */

void load_slot_text(struct load_slot *s, const char *text, size_t n_bytes)
{
    if (s->worker->run->verify)
        s->text = load_hash(s->text, text, n_bytes);
}

static bool patient(const struct load_slot *s)
{
    return s->spec.behaviour != LOAD_SLOW && s->spec.behaviour != LOAD_DEAD;
}

static void pause_for(struct load_slot *s, int64_t now_ns, int64_t ms)
{
    s->paused = true;
    s->worker->run->transport->pause(s);
    wake_at(s, now_ns, ms);
}

static void behave(struct load_slot *s, bool first, int64_t now_ns)
{
    const struct load_config *c = s->worker->run->plan->config;
    if (s->spec.behaviour == LOAD_CANCELS && s->n_tokens >= s->spec.cancel_after)
        load_slot_cancel(s);
    else if (s->spec.behaviour == LOAD_SLOW && !s->paused)
        pause_for(s, now_ns, c->slow_ms);
    else if (s->spec.behaviour == LOAD_DEAD && first)
        pause_for(s, now_ns, c->dead_ms);
}

void load_slot_tokens(struct load_slot *s, uint64_t n_messages, uint64_t n_tokens, int64_t now_ns)
{
    struct load_stats *stats = &s->worker->stats;
    bool first = s->first_ns == 0;
    if (s->cancelled || n_tokens == 0)
        return;
    if (in_window(s->worker->run, now_ns)) {
        stats->n_messages += n_messages;
        stats->n_tokens += n_tokens;
    }
    if (first) {
        s->first_ns = now_ns;
        if (s->in_window)
            load_histogram_add(&stats->ttft, now_ns - s->begin_ns, 1);
    } else if (s->in_window && patient(s)) {
        int64_t gap_ns = now_ns - s->last_ns;
        load_histogram_add(&stats->per_message, gap_ns / (int64_t)n_messages, n_messages);
        load_histogram_add(&stats->per_token, gap_ns / (int64_t)n_tokens, n_tokens);
    }
    s->last_ns = now_ns;
    s->n_tokens += n_tokens;
    behave(s, first, now_ns);
}

/* ---- the end ------------------------------------------------------------------------------------------------------- */

static enum load_outcome judge(const struct load_slot *s, const struct load_end *end)
{
    if (end->how == END_COMPLETED) /* also when a cancel came too late */
        return LOAD_COMPLETED;
    if (s->interrupted)
        return LOAD_INTERRUPTED;
    if (s->cancelled)
        return LOAD_CANCELLED;
    if (end->how == END_EXPIRED && s->spec.behaviour == LOAD_DEADLINE)
        return LOAD_EXPIRED;
    if (end->how == END_REFUSED && s->n_tokens == 0)
        return LOAD_REFUSED;
    return !patient(s) && s->n_tokens > 0 ? LOAD_SHED : LOAD_FAILED;
}

static bool is_good(const struct load_slot *s, int64_t now_ns)
{
    const struct load_config *c = s->worker->run->plan->config;
    int64_t ttft_ns = (s->n_tokens > 0 ? s->first_ns : now_ns) - s->begin_ns;
    double itl_ns = s->n_tokens > 1 ? (double)(s->last_ns - s->first_ns) / (double)(s->n_tokens - 1) : 0;
    return (c->slo_ttft_ms == 0 || (double)ttft_ns <= c->slo_ttft_ms * NS_PER_MS) &&
           (c->slo_itl_ms == 0 || itl_ns <= c->slo_itl_ms * NS_PER_MS);
}

static void compare(struct load_slot *s)
{
    struct load_stats *stats = &s->worker->stats;
    enum load_verdict verdict = load_verify_text(s->worker->run->verify, load_spec_key(&s->spec), s->text);
    char kind[LOAD_FAULT_BYTES];
    stats->n_verified += verdict == LOAD_SAME || verdict == LOAD_DIFFERENT;
    stats->n_unverified += verdict == LOAD_NO_ROOM;
    if (verdict != LOAD_DIFFERENT)
        return;
    stats->n_mismatched++;
    snprintf(kind, sizeof kind, "client: another text for prompt %llu", (unsigned long long)s->spec.prompt);
    load_stats_fault(stats, kind, 1);
}

static void completed(struct load_slot *s, int64_t now_ns)
{
    struct load_run *r = s->worker->run;
    struct load_stats *stats = &s->worker->stats;
    bool good = is_good(s, now_ns);
    if (s->in_window && patient(s))
        load_histogram_add(&stats->end_to_end, now_ns - s->begin_ns, 1);
    if (in_window(r, now_ns)) {
        stats->n_completed++;
        stats->n_good += good;
        stats->n_good_tokens += good ? s->n_tokens : 0;
    }
    if (r->verify)
        compare(s);
}

/* The server's count against ours. A stream of text may leave out tokens that have none; the others may not. */
static bool settle_tokens(struct load_slot *s, const struct load_end *end, int64_t now_ns)
{
    struct load_run *r = s->worker->run;
    if (end->n_tokens < 0 || (uint64_t)end->n_tokens == s->n_tokens)
        return true;
    if (r->plan->api < LOAD_COMPLETIONS)
        return false;
    if ((uint64_t)end->n_tokens > s->n_tokens && in_window(r, now_ns))
        s->worker->stats.n_tokens += (uint64_t)end->n_tokens - s->n_tokens;
    s->n_tokens = (uint64_t)end->n_tokens;
    return true;
}

static void count_prompt(struct load_stats *stats, const struct load_end *end)
{
    if (end->n_prompt < 0)
        return;
    stats->n_prompts++;
    stats->n_prompt_tokens += (uint64_t)end->n_prompt;
    stats->n_cached_tokens += end->n_cached > 0 ? (uint64_t)end->n_cached : 0;
}

void load_slot_ended(struct load_slot *s, const struct load_end *end, int64_t now_ns)
{
    const struct load_config *c = s->worker->run->plan->config;
    struct load_stats *stats = &s->worker->stats;
    enum load_outcome outcome = judge(s, end);
    const char *kind = end->kind;
    int64_t after_ms = c->think_ms;
    if (outcome == LOAD_COMPLETED && !s->cancelled && !settle_tokens(s, end, now_ns)) {
        outcome = LOAD_FAILED;
        kind = "client: tokens were lost";
    }
    stats->n_ended[outcome]++;
    count_prompt(stats, end);
    if (outcome == LOAD_COMPLETED)
        completed(s, now_ns);
    if (outcome == LOAD_REFUSED || outcome == LOAD_FAILED) {
        load_stats_fault(stats, kind, 1);
        after_ms = c->retry_ms >= 0 ? c->retry_ms : DEFAULT_RETRY_MS;
    }
    if (outcome == LOAD_REFUSED) {
        if (s->in_window)
            load_histogram_add(&stats->refusal, now_ns - s->begin_ns, 1);
        stats->n_retry_told += end->retry_ms >= 0;
        if (c->retry_ms < 0 && end->retry_ms >= 0)
            after_ms = end->retry_ms;
    }
    go_on(s, after_ms, now_ns);
}
