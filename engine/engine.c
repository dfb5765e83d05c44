/* Requests in, statistics out: what callers' threads do, without touching what the loop owns. */
#include "engine/accuracy.h"
#include "engine/loop.h"

#include "base/clock.h"

#include <unistd.h>

#define FORGET_POLL_US 500
#define DRAIN_POLL_NS (20 * CLOCK_NS_PER_MS) /* a refused submit gives its place back without waking anybody */

struct sampling sampling_defaults(void)
{
    return (struct sampling){.temperature = 0.7f, .top_k = 50, .top_p = 0.9f, .repetition_penalty = 1};
}

static enum error_code refuse(struct engine *e, enum error_code code)
{
    pthread_mutex_lock(&e->stats_lock);
    e->stats.n_rejected++;
    pthread_mutex_unlock(&e->stats_lock);
    return code;
}

static enum error_code ask_breaker(struct engine *e, struct error *err)
{
    int64_t wait_ns = 0;
    pthread_mutex_lock(&e->stats_lock);
    bool admitted = breaker_admit(&e->breaker, clock_now_ns(), &wait_ns);
    pthread_mutex_unlock(&e->stats_lock);
    if (admitted)
        return ERROR_NONE;
    error_set(err, ERROR_DEVICE_UNAVAILABLE, "the device fails; it is tried again in a while");
    err->reason = REFUSED_DEVICE;
    err->retry_after_ms = wait_ns / CLOCK_NS_PER_MS + 1;
    return refuse(e, ERROR_DEVICE_UNAVAILABLE);
}

static enum error_code reserve_place(struct engine *e, const struct queue_claim *claim, struct error *err)
{
    if (atomic_load_explicit(&e->draining, memory_order_acquire)) {
        error_set(err, ERROR_SERVICE_UNAVAILABLE, "the engine is shutting down");
        err->reason = REFUSED_DRAINING;
        err->retry_after_ms = 1000;
        return refuse(e, ERROR_SERVICE_UNAVAILABLE);
    }
    enum error_code code = queue_reserve(&e->queue, claim, err);
    return code ? refuse(e, code) : ERROR_NONE;
}

/* The first request with a grammar pays for the tree of the vocabulary, on its own thread. */
static enum error_code prepare_grammars(struct engine *e, struct error *err)
{
    enum error_code code = ERROR_NONE;
    pthread_mutex_lock(&e->masker_lock);
    if (!e->loop.masker)
        code = masker_open(e->tokenizer, e->limits.vocab_size, e->loop.max_out, &e->loop.masker, err);
    pthread_mutex_unlock(&e->masker_lock);
    return code;
}

static struct queue_claim claim_of(const struct engine *e, const struct job_options *options, const struct request *r)
{
    return (struct queue_claim){.priority = r->priority,
                                .client = job_client(r),
                                .n_tokens = job_estimate_tokens(&e->limits, r),
                                .now_ns = options->now_ns,
                                .deadline_ns = job_deadline_ns(options, r)};
}

enum error_code engine_admits(struct engine *e, const struct request *r, struct error *err)
{
    const struct job_options options = {.now_ns = clock_now_ns(), .default_timeout_ns = e->default_timeout_ns};
    enum error_code code = request_validate(&e->limits, r, err);
    if (code)
        return code;
    const struct queue_claim claim = claim_of(e, &options, r);
    code = reserve_place(e, &claim, err);
    if (!code)
        queue_give_back(&e->queue, claim.n_tokens);
    return code;
}

enum error_code engine_submit(struct engine *e, const struct request *r, struct stream **out, struct error *err)
{
    struct error unused;
    struct job_options options = {.tokenizer = e->tokenizer,
                                  .limits = &e->limits,
                                  .waker = &e->waker,
                                  .max_stream_bytes = e->max_stream_bytes,
                                  .now_ns = clock_now_ns(),
                                  .default_timeout_ns = e->default_timeout_ns};
    struct job *j;
    err = err ? err : &unused;
    *err = (struct error){0};
    enum error_code code = request_validate(&e->limits, r, err);
    if (code)
        return code;
    const struct queue_claim claim = claim_of(e, &options, r);
    code = reserve_place(e, &claim, err);
    if (code)
        return code;
    if (r->grammar)
        code = prepare_grammars(e, err);
    if (!code)
        code = ask_breaker(e, err);
    if (!code)
        code = job_open(&options, r, &j, err);
    if (code) { /* tokenises: only for a request that has its place */
        queue_give_back(&e->queue, claim.n_tokens);
        return code;
    }
    pthread_mutex_lock(&e->stats_lock);
    e->stats.n_requests++;
    e->n_live++;
    pthread_mutex_unlock(&e->stats_lock);
    *out = j->stream; /* before the loop can end and free the job */
    queue_put(&e->queue, &j->item, claim.n_tokens);
    waker_wake(&e->waker);
    return ERROR_NONE;
}

void engine_stats(struct engine *e, struct engine_stats *out)
{
    size_t n_waiting = queue_n_waiting(&e->queue);
    pthread_mutex_lock(&e->stats_lock);
    *out = e->stats;
    out->breaker = breaker_state(&e->breaker, clock_now_ns());
    pthread_mutex_unlock(&e->stats_lock);
    out->n_waiting = (uint32_t)n_waiting;
    out->n_waiting_tokens = queue_n_tokens(&e->queue);
}

void engine_forget(struct engine *e)
{
    struct engine_stats st;
    do {
        engine_stats(e, &st);
    } while ((st.n_running || st.n_waiting || st.batch_size) && !usleep(FORGET_POLL_US));
    pthread_mutex_lock(&e->stats_lock); /* the loop reads its counters under it when it is idle */
    e->stats = (struct engine_stats){.n_kv_blocks = st.n_kv_blocks, .n_kv_blocks_kept = st.n_kv_blocks_kept, .last_turn_ns = st.last_turn_ns};
    e->loop.n_prefix_hits = e->loop.n_drafted = e->loop.n_accepted = 0;
    pthread_mutex_unlock(&e->stats_lock);
}

bool engine_accuracy(struct engine *e, struct engine_accuracy *out)
{
    *out = (struct engine_accuracy){.recent = -1, .lowest = -1};
    if (e->accuracy)
        accuracy_read(e->accuracy, out);
    return e->accuracy && out->recent >= 0;
}

void engine_observe(struct engine *e, const struct engine_observer *observer)
{
    e->observer = *observer;
    atomic_store_explicit(&e->observed, true, memory_order_release);
}

void engine_spare_thread(const struct engine *e)
{
    backend_spare_thread(e->backend);
}

const struct engine_model *engine_model(const struct engine *e)
{
    return &atomic_load_explicit(&((struct engine *)(uintptr_t)e)->description, memory_order_acquire)->model;
}

const struct tokenizer *engine_tokenizer(const struct engine *e)
{
    return e->tokenizer;
}

void engine_refuse(struct engine *e, int64_t deadline_ns)
{
    atomic_store_explicit(&e->drain_deadline_ns, deadline_ns, memory_order_relaxed);
    atomic_store_explicit(&e->draining, true, memory_order_release);
    waker_wake(&e->waker);
}

void engine_drain(struct engine *e, int64_t deadline_ns)
{
    engine_refuse(e, deadline_ns);
    pthread_mutex_lock(&e->stats_lock);
    while (e->n_live || queue_n_taken(&e->queue))
        waker_cond_wait(&e->drained, &e->stats_lock, clock_now_ns() + DRAIN_POLL_NS);
    pthread_mutex_unlock(&e->stats_lock);
}
