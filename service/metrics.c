/*
 * The engine's metrics: histograms from the loop's observations, counters and gauges brought up to date when a page is asked for. Nothing is
 * shown that was not measured.
 */
#include "base/clock.h"
#include "service/history.h"
#include "service/latency.h"
#include "service/service.h"

#include "version.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static const double inference_buckets[] = {.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 25, 60};
static const double first_token_buckets[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,
                                             .75,  1,    2.5, 5,   7.5, 10,  20,  40, 80};
static const double gap_buckets[] = {.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5};
static const double load_buckets[] = {.1, .5, 1, 2.5, 5, 10, 30, 60, 120, 300};
static const double size_buckets[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048};
#define BUCKETS(b) (b), sizeof(b) / sizeof *(b)

static const char *const finish_names[] = {[FINISH_STOP] = "stop",
                                           [FINISH_LENGTH] = "length",
                                           [FINISH_CANCELLED] = "cancelled",
                                           [FINISH_DEADLINE] = "deadline",
                                           [FINISH_ERROR] = "error"};
#define N_FINISHES (sizeof finish_names / sizeof *finish_names)
static const char *const refusals[] = {REFUSED_QUEUE_FULL, REFUSED_QUEUE_TOKENS, REFUSED_QUEUE_WAIT,
                                       REFUSED_PRIORITY,   REFUSED_DEADLINE,     REFUSED_DRAINING,   REFUSED_DEVICE};
#define N_REFUSALS (sizeof refusals / sizeof *refusals)

struct service_metrics {
    struct engine *engine;
    struct metrics *page;
    struct metrics_series *inference, *first_token, *gap, *queue, *batch, *rows;
    struct metrics_series *finished[N_FINISHES], *errors[ERROR_N_CODES], *rejected[N_REFUSALS];
    struct metrics_series *running, *waiting, *active, *depth, *queue_tokens, *preempted, *prompt_tokens, *generated_tokens, *kv_usage, *kv_used,
        *kv_kept, *kv_free, *prefix_queries, *prefix_hits, *drafted, *draft_accepted, *cancelled, *deadline, *stalled, *device_failures, *breaker;
    int64_t started_ns;
    pthread_mutex_t lock; /* guards the history */
    struct history history;
};

int64_t service_cpu_ns(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * CLOCK_NS_PER_S +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000;
}

static void remember(struct service_metrics *m, const struct history_sums *what)
{
    pthread_mutex_lock(&m->lock);
    history_add(&m->history, clock_now_ns(), what, service_cpu_ns);
    pthread_mutex_unlock(&m->lock);
}

static void on_finish(void *user, const struct engine_observation *o)
{
    struct service_metrics *m = user;
    const struct history_sums sums = history_request(o);
    if (o->queue_s >= 0)
        metrics_observe_traced(m->queue, o->queue_s, o->trace_id);
    if (o->first_token_s >= 0)
        metrics_observe_traced(m->first_token, o->first_token_s, o->trace_id);
    if (o->total_s >= 0)
        metrics_observe_traced(m->inference, o->total_s, o->trace_id);
    if (o->finish > FINISH_NONE && (size_t)o->finish < N_FINISHES)
        metrics_inc(m->finished[o->finish], 1);
    remember(m, &sums);
}

static void on_step(void *user, size_t n_rows, size_t n_sequences, double seconds)
{
    struct service_metrics *m = user;
    const struct history_sums sums = {.n_steps = 1, .n_step_sequences = n_sequences};
    latency_step(n_rows, n_sequences, seconds);
    metrics_observe(m->batch, (double)n_sequences);
    metrics_observe(m->rows, (double)n_rows);
    remember(m, &sums);
}

static void on_token_gap(void *user, double seconds)
{
    metrics_observe(((struct service_metrics *)user)->gap, seconds);
}

/* Counters that the engine keeps are shown as it has them. */
static void follow(struct metrics_series *counter, uint64_t value)
{
    double behind = (double)value - metrics_value(counter);
    if (behind > 0)
        metrics_inc(counter, behind);
}

static void on_collect(void *user)
{
    struct service_metrics *m = user;
    struct engine_stats s;
    engine_stats(m->engine, &s);
    metrics_set(m->running, s.n_running);
    metrics_set(m->waiting, s.n_waiting);
    metrics_set(m->depth, s.n_waiting);
    metrics_set(m->queue_tokens, (double)s.n_waiting_tokens);
    metrics_set(m->active, s.n_running + s.n_waiting);
    metrics_set(m->kv_used, s.n_kv_blocks_used);
    metrics_set(m->kv_kept, s.n_kv_blocks_kept);
    metrics_set(m->kv_free, s.n_kv_blocks - s.n_kv_blocks_used - s.n_kv_blocks_kept);
    metrics_set(m->kv_usage, s.n_kv_blocks ? (double)s.n_kv_blocks_used / s.n_kv_blocks : 0);
    follow(m->prompt_tokens, s.n_prompt_tokens);
    follow(m->generated_tokens, s.n_generated_tokens);
    follow(m->prefix_queries, s.n_prefix_queries);
    follow(m->prefix_hits, s.n_prefix_hits);
    follow(m->preempted, s.n_preempted);
    follow(m->drafted, s.n_drafted);
    follow(m->draft_accepted, s.n_draft_accepted);
    follow(m->cancelled, s.n_cancelled);
    follow(m->deadline, s.n_deadline);
    follow(m->stalled, s.n_stalled);
    follow(m->device_failures, s.n_device_failures);
    metrics_set(m->breaker, s.breaker);
}

static struct metrics_family *family(struct service_metrics *m, enum metrics_type type, const char *name,
                                     const char *help, const char *labels)
{
    return metrics_add(m->page, type, name, help, labels, NULL, 0);
}

static void add_histograms(struct service_metrics *m, const struct engine_model *model)
{
#define HISTOGRAM(name, help, labels, b) metrics_add(m->page, METRICS_HISTOGRAM, name, help, labels, BUCKETS(b))
    m->inference = metrics_get(HISTOGRAM("bitnet_inference_duration_seconds", "Arrival to the last token.",
                                         "model,quantization,device", inference_buckets),
                               model->id, model->quantization, model->device);
    m->first_token = metrics_get(
        HISTOGRAM("bitnet_time_to_first_token_seconds", "Arrival to the first token.", "model", first_token_buckets),
        model->id);
    m->gap = metrics_get(
        HISTOGRAM("bitnet_inter_token_latency_seconds", "Between two tokens of a sequence.", "model", gap_buckets),
        model->id);
    m->queue = metrics_get(
        HISTOGRAM("bitnet_request_queue_seconds", "Arrival to admission into the batch.", "model", first_token_buckets),
        model->id);
    m->batch = metrics_get(HISTOGRAM("bitnet_batch_size", "Sequences in a step.", "model", size_buckets), model->id);
    m->rows = metrics_get(HISTOGRAM("bitnet_iteration_tokens", "Rows in a step.", "model", size_buckets), model->id);
    metrics_observe(metrics_get(HISTOGRAM("bitnet_model_load_duration_seconds", "Time to load a model.", "model,format",
                                          load_buckets),
                                model->id, model->quantization),
                    model->load_seconds);
#undef HISTOGRAM
}

static void add_counters(struct service_metrics *m, const struct engine_model *model)
{
    struct metrics_family *f = family(m, METRICS_COUNTER, "bitnet_inference_requests_total",
                                      "Requests by how they ended.", "model,finish_reason");
    for (size_t i = FINISH_STOP; i < N_FINISHES; i++)
        m->finished[i] = metrics_get(f, model->id, finish_names[i]);
    f = family(m, METRICS_COUNTER, "bitnet_errors_total", "Calls that ended with an error.", "type,component");
    for (int i = 1; i < ERROR_N_CODES; i++)
        m->errors[i] = metrics_get(f, error_info((enum error_code)i)->name, "service");
    m->device_failures = metrics_get(f, "device", "engine");
    f = family(m, METRICS_COUNTER, "bitnet_cancellations_total", "Requests that ended before their end.", "cause");
    m->cancelled = metrics_get(f, "client");
    m->deadline = metrics_get(f, "deadline");
    m->stalled = metrics_get(f, "stalled");
    f = family(m, METRICS_COUNTER, "bitnet_admission_rejections_total", "Requests that were not admitted.", "reason");
    for (size_t i = 0; i < N_REFUSALS; i++)
        m->rejected[i] = metrics_get(f, refusals[i]);
    m->preempted = metrics_get(family(m, METRICS_COUNTER, "bitnet_preemptions_total",
                                      "Sequences that gave way to a request of high priority.", "model"),
                               model->id);
    m->prompt_tokens = metrics_get(
        family(m, METRICS_COUNTER, "bitnet_prompt_tokens_total", "Prompt tokens.", "model,device,quantization"),
        model->id, model->device, model->quantization);
    m->prefix_queries = metrics_get(family(m, METRICS_COUNTER, "bitnet_prefix_cache_queries_total",
                                           "Tokens of prompts that were looked up in the KV cache.", "model"),
                                    model->id);
    m->prefix_hits = metrics_get(family(m, METRICS_COUNTER, "bitnet_prefix_cache_hits_total",
                                        "Tokens of prompts that were found in it.", "model"),
                                 model->id);
    m->drafted = metrics_get(family(m, METRICS_COUNTER, "bitnet_draft_tokens_total", "Tokens that were tried ahead.", "model"),
                             model->id);
    m->draft_accepted = metrics_get(family(m, METRICS_COUNTER, "bitnet_draft_tokens_accepted_total",
                                           "Tokens tried ahead that were the drawn ones.", "model"),
                                    model->id);
    m->generated_tokens = metrics_get(
        family(m, METRICS_COUNTER, "bitnet_tokens_generated_total", "Generated tokens.", "model,device,quantization"),
        model->id, model->device, model->quantization);
}

static void add_gauges(struct service_metrics *m, const struct engine_model *model)
{
#define GAUGE(name, help) metrics_get(family(m, METRICS_GAUGE, name, help, "model"), model->id)
    m->running = GAUGE("bitnet_requests_running", "Requests in the batch.");
    m->waiting = GAUGE("bitnet_requests_waiting", "Requests in the queue.");
    m->depth = GAUGE("bitnet_queue_depth", "Requests in the queue.");
    m->queue_tokens = GAUGE("bitnet_queue_tokens", "Tokens of prompts in the queue and of the answers they ask for.");
    m->active = GAUGE("bitnet_requests_active", "Requests in the queue and in the batch.");
    m->kv_usage = GAUGE("bitnet_kv_cache_usage_ratio", "Share of the KV blocks in use.");
    m->breaker = GAUGE("bitnet_breaker_state", "0: the device works; 1: it fails, requests are refused; 2: one is let through, to see.");
#undef GAUGE
    struct metrics_family *f = family(m, METRICS_GAUGE, "bitnet_kv_cache_blocks", "KV blocks.", "model,state");
    m->kv_used = metrics_get(f, model->id, "used");
    m->kv_kept = metrics_get(f, model->id, "kept");
    m->kv_free = metrics_get(f, model->id, "free");
    char size[16], count[16];
    snprintf(size, sizeof size, "%u", model->kv_block_size);
    snprintf(count, sizeof count, "%u", model->n_kv_blocks);
    metrics_set(metrics_get(family(m, METRICS_GAUGE, "bitnet_cache_config_info", "Shape of the KV cache.",
                                   "model,block_size,num_blocks"),
                            model->id, size, count),
                1);
    f = family(m, METRICS_GAUGE, "bitnet_model_memory_usage_bytes", "Memory of a model.", "model,component");
    metrics_set(metrics_get(f, model->id, "weights"), (double)model->weight_bytes);
    metrics_set(metrics_get(f, model->id, "kv"), (double)model->kv_bytes);
    metrics_set(metrics_get(f, model->id, "scratch"), (double)model->scratch_bytes);
    metrics_set(
        metrics_get(family(m, METRICS_GAUGE, "bitnet_build_info", "What is running.", "version,git_sha,features"),
                    BITNET_VERSION, BITNET_GIT_SHA, BITNET_FEATURES),
        1);
}

struct service_metrics *service_metrics_open(struct engine *e)
{
    struct service_metrics *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->engine = e;
    m->started_ns = clock_now_ns();
    m->page = metrics_open();
    if (!m->page) {
        free(m);
        return NULL;
    }
    pthread_mutex_init(&m->lock, NULL);
    const struct engine_model *model = engine_model(e);
    add_histograms(m, model);
    add_counters(m, model);
    add_gauges(m, model);
    metrics_add_process(m->page);
    metrics_on_collect(m->page, on_collect, m);
    remember(m, &(struct history_sums){.n_fallbacks = model->fallback_reason != NULL});
    engine_observe(e, &(struct engine_observer){m, on_finish, on_step, on_token_gap});
    return m;
}

void service_metrics_close(struct service_metrics *m)
{
    if (!m)
        return;
    metrics_close(m->page);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

struct metrics *service_metrics_page(struct service_metrics *m)
{
    return m->page;
}

void service_metrics_error(struct service_metrics *m, enum error_code code)
{
    if (m && code > ERROR_NONE && code < ERROR_N_CODES)
        metrics_inc(m->errors[code], 1);
}

void service_metrics_reject(struct service_metrics *m, const char *reason)
{
    for (size_t i = 0; reason && i < N_REFUSALS; i++)
        if (strcmp(reason, refusals[i]) == 0) {
            metrics_inc(m->rejected[i], 1);
            remember(m, &(struct history_sums){.n_refused = 1});
        }
}

struct history_window service_metrics_history(struct service_metrics *m, int64_t now_ns, int64_t seconds)
{
    pthread_mutex_lock(&m->lock);
    struct history_window w = history_window(&m->history, now_ns, seconds);
    pthread_mutex_unlock(&m->lock);
    return w;
}

struct service_window service_metrics_window(struct service_metrics *m)
{
    int64_t now_ns = clock_now_ns();
    double up_s = (double)(now_ns - m->started_ns) / CLOCK_NS_PER_S;
    const struct history_window h = service_metrics_history(m, now_ns, HISTORY_SECONDS);
    const struct history_sums *s = &h.sums;
    struct service_window w = {.n = s->n_ended + s->n_refused};
    if (s->n_ended)
        w.mean_ms = s->total_ms / (double)s->n_ended;
    if (w.n) {
        w.per_second = (double)w.n / (up_s < 1 ? 1 : up_s < HISTORY_SECONDS ? up_s : HISTORY_SECONDS);
        w.error_rate = (double)(s->n_failed + s->n_refused) / (double)w.n;
        w.in_time = (double)s->n_in_time / (double)w.n;
    }
    return w;
}
