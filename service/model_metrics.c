/*
 * The metrics of models: histograms from the loops' observations, counters and gauges brought up to date when a page is asked for. During a swap
 * two engines share an id, and with it the series whose labels are the same: a counter takes what both have counted, a gauge is that of both
 * together. Counters are followed by differences, so one goes on where it was when a model comes back.
 */
#include "service/latency.h"
#include "service/metrics_parts.h"
#include "service/model_series.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RATE_SECONDS 10 /* what is shown as a rate is one of this time */

struct model_metrics {
    struct service_metrics *metrics;
    struct engine *engine;
    struct metrics_series *series[N_MODEL_SERIES]; /* NULL: not of this device */
    int format, device;     /* in the history's counts; -1: neither of them */
    uint64_t n_tokens_seen; /* by steps; the loop's */
    int64_t opened_ns;
    struct engine_stats opened; /* when it was opened: requests before it are no users' */

    /* under the metrics' lock */
    struct model_metrics *next;
    struct engine_stats followed; /* what the counters have taken */
    struct engine_accuracy accuracy; /* the same */
    struct history history;
    uint64_t n_ended;
    double total_ms;
};

/* ---- observations: on the engine's loop ---- */

static void remember(struct model_metrics *mm, const struct history_sums *what)
{
    struct service_metrics *m = mm->metrics;
    int64_t now_ns = clock_now_ns();
    pthread_mutex_lock(&m->lock);
    history_add(&m->history, now_ns, what, service_cpu_ns);
    history_add(&mm->history, now_ns, what, service_cpu_ns);
    mm->n_ended += what->n_ended;
    mm->total_ms += what->total_ms;
    pthread_mutex_unlock(&m->lock);
}

static void note_fallback(struct model_metrics *mm, const char *from, const char *to, const char *reason)
{
    struct metrics_family *f = metrics_add(mm->metrics->page, METRICS_COUNTER, METRICS_FALLBACKS, NULL, 0);
    metrics_inc(metrics_get(f, from, to, reason), 1);
    remember(mm, &(struct history_sums){.n_fallbacks = 1});
}

static void on_finish(void *user, const struct engine_observation *o)
{
    struct model_metrics *mm = user;
    struct history_sums sums = history_request(o);
    if (mm->format >= 0)
        sums.n_by_format[mm->format] = sums.n_started;
    if (mm->device >= 0)
        sums.n_by_device[mm->device] = sums.n_started;
    if (o->queue_s >= 0)
        metrics_observe_traced(mm->series[M_QUEUE], o->queue_s, o->trace_id);
    if (o->first_token_s >= 0)
        metrics_observe_traced(mm->series[M_FIRST_TOKEN], o->first_token_s, o->trace_id);
    if (o->total_s >= 0)
        metrics_observe_traced(mm->series[M_INFERENCE], o->total_s, o->trace_id);
    if (o->finish >= FINISH_STOP && o->finish <= FINISH_ERROR)
        metrics_inc(mm->series[M_STOP + o->finish - FINISH_STOP], 1);
    remember(mm, &sums);
}

static void on_step(void *user, size_t n_rows, size_t n_sequences, double seconds)
{
    struct model_metrics *mm = user;
    struct engine_stats now;
    engine_stats(mm->engine, &now);
    const struct history_sums sums = {.n_steps = 1,
                                      .n_step_sequences = n_sequences,
                                      .n_step_tokens = now.n_generated_tokens - mm->n_tokens_seen,
                                      .busy_s = seconds};
    mm->n_tokens_seen = now.n_generated_tokens;
    latency_step(n_rows, n_sequences, seconds);
    metrics_observe(mm->series[M_BATCH], (double)n_sequences);
    metrics_observe(mm->series[M_ROWS], (double)n_rows);
    remember(mm, &sums);
}

static void on_token_gap(void *user, double seconds)
{
    metrics_observe(((struct model_metrics *)user)->series[M_GAP], seconds);
}

/* Has an engine, at `from` or behind it, this series i? Under the lock. */
static bool has_series(const struct model_metrics *from, size_t i, const struct metrics_series *series)
{
    while (from && from->series[i] != series)
        from = from->next;
    return from != NULL;
}

/* Has another engine, at `from` or behind it, series i of mm too? Under the lock. */
static bool shared_from(const struct model_metrics *from, const struct model_metrics *mm, size_t i)
{
    for (; from; from = from->next)
        if (from != mm && from->series[i] == mm->series[i])
            return true;
    return false;
}

/* What does not change while it is there. */
static void show_place(struct model_metrics *mm, const struct engine_model *m)
{
    metrics_set(mm->series[M_CACHE_CONFIG], 1);
    metrics_set(mm->series[M_DEVICE_INFO], 1);
    if (mm->series[M_GPU_SIZE])
        metrics_set(mm->series[M_GPU_SIZE], (double)m->device_memory_bytes);
}

/* Where a model counts in the history. */
static void place(struct model_metrics *mm, const struct engine_model *m)
{
    static const char *const formats[HISTORY_FORMATS] = {"i2s", "tl1", "tl2"};
    mm->format = -1;
    for (int i = 0; i < HISTORY_FORMATS; i++)
        if (strcmp(m->quantization, formats[i]) == 0)
            mm->format = i;
    mm->device = strcmp(m->device, "cpu") == 0 ? 0 : strncmp(m->device, "cuda", 4) == 0 ? 1 : -1;
}

/* ---- the page ---- */

/* Takes what an engine has counted since it was last looked at. Under the lock. */
static void follow(struct service_metrics *m, struct model_metrics *mm, const struct engine_stats *now)
{
    struct engine_stats *then = &mm->followed;
#define FOLLOW(counter, field) metrics_inc(counter, (double)(now->field - then->field))
    FOLLOW(mm->series[M_PROMPT_TOKENS], n_prompt_tokens);
    FOLLOW(mm->series[M_GENERATED_TOKENS], n_generated_tokens);
    FOLLOW(mm->series[M_PREFIX_QUERIES], n_prefix_queries);
    FOLLOW(mm->series[M_PREFIX_HITS], n_prefix_hits);
    FOLLOW(mm->series[M_PREEMPTED], n_preempted);
    FOLLOW(mm->series[M_DRAFTED], n_drafted);
    FOLLOW(mm->series[M_DRAFT_ACCEPTED], n_draft_accepted);
    FOLLOW(m->cancelled, n_cancelled);
    FOLLOW(m->deadline, n_deadline);
    FOLLOW(m->stalled, n_stalled);
    FOLLOW(m->device_failures, n_device_failures);
#undef FOLLOW
    m->n_generated += now->n_generated_tokens - then->n_generated_tokens;
    *then = *now;
}

/* On the loop's thread, as all that observes is. What the device before has counted stays on the page, its gauges do not. */
static void on_move(void *user)
{
    struct model_metrics *mm = user;
    struct service_metrics *m = mm->metrics;
    const struct engine_model *model = engine_model(mm->engine);
    struct metrics_series *before[N_MODEL_SERIES];
    struct engine_stats now;
    engine_stats(mm->engine, &now);
    pthread_mutex_lock(&m->lock);
    follow(m, mm, &now);
    memcpy(before, mm->series, sizeof before);
    model_series(m->page, model->id, model, mm->series);
    for (size_t i = 0; i < N_MODEL_SERIES; i++)
        if (before[i] && before[i] != mm->series[i] && model_series_is_gauge(i) && !has_series(m->models, i, before[i]))
            metrics_hide(before[i]);
    place(mm, model);
    show_place(mm, model);
    pthread_mutex_unlock(&m->lock);
    note_fallback(mm, model->lost_device, model->device, METRICS_FAILED);
}

struct model_metrics *model_metrics_open(struct service_metrics *m, const char *id, struct engine *e)
{
    struct model_metrics *mm = calloc(1, sizeof *mm);
    const struct engine_model *model = engine_model(e);
    if (!mm)
        return NULL;
    mm->metrics = m;
    mm->engine = e;
    mm->opened_ns = clock_now_ns();
    place(mm, model);
    engine_stats(e, &mm->opened);
    mm->followed = mm->opened;
    mm->n_tokens_seen = mm->opened.n_generated_tokens;
    pthread_mutex_lock(&m->lock); /* or one that closes would hide what this one takes */
    model_series(m->page, id, model, mm->series);
    metrics_hide(mm->series[M_EFFICIENCY]); /* until there are steps */
    if (!shared_from(m->models, mm, M_ACCURACY))
        metrics_hide(mm->series[M_ACCURACY]); /* until something has been compared */
    mm->next = m->models;
    m->models = mm;
    pthread_mutex_unlock(&m->lock);
    show_place(mm, model);
    metrics_observe(mm->series[M_LOAD], model->load_seconds);
    if (model->fallback_reason)
        note_fallback(mm, "gpu", model->device, METRICS_UNAVAILABLE);
    engine_observe(e, &(struct engine_observer){mm, on_finish, on_step, on_token_gap, on_move});
    return mm;
}

static void follow_accuracy(struct service_metrics *m, struct model_metrics *mm)
{
    struct engine_accuracy now, *then = &mm->accuracy, *all = &m->accuracy;
    if (engine_accuracy(mm->engine, &now) && (!all->n_compared || now.lowest < all->lowest))
        all->lowest = now.lowest;
#define FOLLOW(counter, field)                                                                                         \
    metrics_inc(counter, (double)(now.field - then->field));                                                           \
    all->field += now.field - then->field
    FOLLOW(mm->series[M_VIOLATIONS], n_violations);
    FOLLOW(mm->series[M_SAME], n_same);
    FOLLOW(mm->series[M_COMPARED], n_requests);
    FOLLOW(mm->series[M_DROPPED], n_dropped);
#undef FOLLOW
    all->n_compared += now.n_compared - then->n_compared;
    metrics_inc(mm->series[M_OTHER], (double)(now.n_compared - now.n_same) - (double)(then->n_compared - then->n_same));
    *then = now;
}

/* What is shown of engines that share a model's gauges. */
struct sum {
    struct engine_stats stats; /* of gauges, those that are shown */
    struct history_sums recent;
    uint64_t weight_bytes, kv_bytes, scratch_bytes;
    int64_t opened_ns; /* of the first */
    double accuracy;   /* the lowest; negative: none */
};

static void sum_add(struct sum *s, struct model_metrics *mm, int64_t now_ns)
{
    const struct engine_model *m = engine_model(mm->engine);
    const struct engine_stats *x = &mm->followed;
    const struct history_window w = history_window(&mm->history, now_ns, RATE_SECONDS);
    s->stats.n_running += x->n_running;
    s->stats.n_waiting += x->n_waiting;
    s->stats.n_waiting_tokens += x->n_waiting_tokens;
    s->stats.n_kv_blocks += x->n_kv_blocks;
    s->stats.n_kv_blocks_used += x->n_kv_blocks_used;
    s->stats.n_kv_blocks_kept += x->n_kv_blocks_kept;
    s->stats.breaker = s->stats.breaker == BREAKER_OPEN || !x->breaker ? s->stats.breaker : x->breaker;
    s->recent.n_steps += w.sums.n_steps;
    s->recent.n_step_sequences += w.sums.n_step_sequences;
    s->recent.n_step_tokens += w.sums.n_step_tokens;
    s->recent.busy_s += w.sums.busy_s;
    if (mm->accuracy.recent >= 0 && (s->accuracy < 0 || mm->accuracy.recent < s->accuracy))
        s->accuracy = mm->accuracy.recent;
    s->weight_bytes += m->weight_bytes;
    s->kv_bytes += m->kv_bytes;
    s->scratch_bytes += m->scratch_bytes;
    if (!s->opened_ns || mm->opened_ns < s->opened_ns)
        s->opened_ns = mm->opened_ns;
}

/* How long the recent time is: whole seconds, of which the last is not over. */
static double recent_s(const struct sum *s, int64_t now_ns)
{
    double window_s = RATE_SECONDS - 1 + (double)(now_ns % CLOCK_NS_PER_S) / CLOCK_NS_PER_S;
    double open_s = (double)(now_ns - s->opened_ns) / CLOCK_NS_PER_S;
    return open_s < window_s ? open_s : window_s;
}

static double ratio(double x, double of)
{
    return of > 0 ? x / of : 0;
}

static void show_model(struct service_metrics *m, struct metrics_series *const *series, const struct sum *s, int64_t now_ns)
{
    const struct engine_stats *x = &s->stats;
    metrics_set(series[M_RUNNING], x->n_running);
    metrics_set(series[M_WAITING], x->n_waiting);
    metrics_set(series[M_DEPTH], x->n_waiting);
    metrics_set(series[M_QUEUE_TOKENS], (double)x->n_waiting_tokens);
    metrics_set(series[M_ACTIVE], x->n_running + x->n_waiting);
    metrics_set(series[M_KV_USED], x->n_kv_blocks_used);
    metrics_set(series[M_KV_KEPT], x->n_kv_blocks_kept);
    metrics_set(series[M_KV_FREE], x->n_kv_blocks - x->n_kv_blocks_used - x->n_kv_blocks_kept);
    metrics_set(series[M_KV_USAGE], ratio(x->n_kv_blocks_used, x->n_kv_blocks));
    metrics_set(series[M_BREAKER], x->breaker);
    metrics_set(series[M_WEIGHTS], (double)s->weight_bytes);
    metrics_set(series[M_KV], (double)s->kv_bytes);
    metrics_set(series[M_SCRATCH], (double)s->scratch_bytes);
    metrics_set(series[M_RATE], ratio((double)s->recent.n_step_tokens, recent_s(s, now_ns)));
    metrics_set(series[M_EFFICIENCY], ratio((double)s->recent.n_step_sequences, (double)(s->recent.n_steps * m->max_sequences)));
    metrics_set(series[M_ACCURACY], s->accuracy);
    if (s->accuracy >= 0)
        metrics_show(series[M_ACCURACY]);
    else
        metrics_hide(series[M_ACCURACY]);
    if (s->recent.n_steps)
        metrics_show(series[M_EFFICIENCY]);
    else
        metrics_hide(series[M_EFFICIENCY]);
}

static void show_device(struct metrics_series *const *series, const struct sum *s, int64_t now_ns)
{
    double busy = ratio(s->recent.busy_s, recent_s(s, now_ns));
    metrics_set(series[M_DEVICE_UTILIZATION], busy < 1 ? busy : 1);
    if (series[M_GPU_MEMORY])
        metrics_set(series[M_GPU_MEMORY], (double)(s->weight_bytes + s->kv_bytes + s->scratch_bytes));
}

/* Of all engines that have series i in common with mm. Under the lock. */
static struct sum sum_of(struct service_metrics *m, const struct model_metrics *mm, size_t i, int64_t now_ns)
{
    struct sum s = {.accuracy = -1};
    for (struct model_metrics *other = m->models; other; other = other->next)
        if (other->series[i] == mm->series[i])
            sum_add(&s, other, now_ns);
    return s;
}

void model_metrics_collect(struct service_metrics *m)
{
    int64_t now_ns = clock_now_ns();
    struct engine_stats now;
    pthread_mutex_lock(&m->lock);
    for (struct model_metrics *mm = m->models; mm; mm = mm->next) {
        engine_stats(mm->engine, &now);
        follow(m, mm, &now);
        follow_accuracy(m, mm);
    }
    for (struct model_metrics *mm = m->models; mm; mm = mm->next) {
        struct sum model = sum_of(m, mm, M_RUNNING, now_ns), device = sum_of(m, mm, M_DEVICE_UTILIZATION, now_ns);
        if (!shared_from(mm->next, mm, M_RUNNING)) /* the last of them shows it */
            show_model(m, mm->series, &model, now_ns);
        if (!shared_from(mm->next, mm, M_DEVICE_UTILIZATION))
            show_device(mm->series, &device, now_ns);
    }
    pthread_mutex_unlock(&m->lock);
}

struct model_figures model_metrics_figures(const struct model_metrics *mm)
{
    struct model_figures f = {0};
    struct engine_stats now;
    if (!mm)
        return f;
    engine_stats(mm->engine, &now);
    pthread_mutex_lock(&mm->metrics->lock);
    f.mean_ms = ratio(mm->total_ms, (double)mm->n_ended);
    pthread_mutex_unlock(&mm->metrics->lock);
    f.n_requests = now.n_requests - mm->opened.n_requests;
    f.tokens_per_second = ratio((double)(now.n_generated_tokens - mm->opened.n_generated_tokens), now.busy_seconds - mm->opened.busy_seconds);
    return f;
}

void model_metrics_close(struct model_metrics *mm)
{
    if (!mm)
        return;
    struct service_metrics *m = mm->metrics;
    struct model_metrics **link = &m->models;
    struct engine_stats now;
    engine_stop(mm->engine); /* its last words have been heard then */
    pthread_mutex_lock(&m->lock);
    engine_stats(mm->engine, &now);
    follow(m, mm, &now);
    follow_accuracy(m, mm);
    while (*link != mm)
        link = &(*link)->next;
    *link = mm->next;
    for (size_t i = 0; i < N_MODEL_SERIES; i++)
        if (mm->series[i] && !shared_from(m->models, mm, i))
            metrics_hide(mm->series[i]);
    pthread_mutex_unlock(&m->lock);
    free(mm);
}
