/* See model_series.h. */
#include "service/model_series.h"

#include <stdio.h>
#include <string.h>

#define LABEL_BYTES 32

static const double inference_buckets[] = {.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 25, 60};
static const double first_token_buckets[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80};
static const double gap_buckets[] = {.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5};
static const double load_buckets[] = {.1, .5, 1, 2.5, 5, 10, 30, 60, 120, 300};
static const double size_buckets[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048};

struct series_def {
    enum metrics_type type;
    const char *name, *help, *labels;
    const char *word; /* of the label that is neither the model's nor the device's */
    const double *buckets;
    size_t n_buckets;
};
#define HISTOGRAM(n, h, l, b) {METRICS_HISTOGRAM, "bitnet_" n, h, l, NULL, b, sizeof(b) / sizeof *(b)}
#define COUNTER(n, h, l, w) {METRICS_COUNTER, "bitnet_" n, h, l, w, NULL, 0}
#define GAUGE(n, h, l, w) {METRICS_GAUGE, "bitnet_" n, h, l, w, NULL, 0}
#define ENDED(w) COUNTER("inference_requests_total", "Requests by how they ended.", "model,finish_reason", w)
#define RECOMPUTED(w) COUNTER("accuracy_tokens_total", "Tokens that the portable reference computed again.", "model,result", w)
#define TURNS(w) COUNTER("accuracy_requests_total", "Requests whose turn it was to be computed again.", "model,result", w)
#define BLOCKS(w) GAUGE("kv_cache_blocks", "KV blocks.", "model,state", w)
#define MEMORY(w) GAUGE("model_memory_usage_bytes", "Memory of a model.", "model,component", w)

static const struct series_def defs[N_MODEL_SERIES] = {
    [M_INFERENCE] = HISTOGRAM("inference_duration_seconds", "Arrival to the last token.", "model,quantization,device", inference_buckets),
    [M_FIRST_TOKEN] = HISTOGRAM("time_to_first_token_seconds", "Arrival to the first token.", "model", first_token_buckets),
    [M_GAP] = HISTOGRAM("inter_token_latency_seconds", "Between two tokens of a sequence.", "model", gap_buckets),
    [M_QUEUE] = HISTOGRAM("request_queue_seconds", "Arrival to admission into the batch.", "model", first_token_buckets),
    [M_BATCH] = HISTOGRAM("batch_size", "Sequences in a step.", "model", size_buckets),
    [M_ROWS] = HISTOGRAM("iteration_tokens", "Rows in a step.", "model", size_buckets),
    [M_LOAD] = HISTOGRAM("model_load_duration_seconds", "Time to load a model.", "model,format", load_buckets),
    [M_STOP] = ENDED("stop"),
    [M_LENGTH] = ENDED("length"),
    [M_CANCELLED] = ENDED("cancelled"),
    [M_DEADLINE] = ENDED("deadline"),
    [M_ERROR] = ENDED("error"),
    [M_PREEMPTED] = COUNTER("preemptions_total", "Sequences that gave way to a request of high priority.", "model", NULL),
    [M_PROMPT_TOKENS] = COUNTER("prompt_tokens_total", "Prompt tokens.", "model,device,quantization", NULL),
    [M_GENERATED_TOKENS] = COUNTER("tokens_generated_total", "Generated tokens.", "model,device,quantization", NULL),
    [M_PREFIX_QUERIES] = COUNTER("prefix_cache_queries_total", "Tokens of prompts that were looked up in the KV cache.", "model", NULL),
    [M_PREFIX_HITS] = COUNTER("prefix_cache_hits_total", "Tokens of prompts that were found in it.", "model", NULL),
    [M_DRAFTED] = COUNTER("draft_tokens_total", "Tokens that were tried ahead.", "model", NULL),
    [M_DRAFT_ACCEPTED] = COUNTER("draft_tokens_accepted_total", "Tokens tried ahead that were the drawn ones.", "model", NULL),
    [M_ACCURACY] = GAUGE("quantization_accuracy_ratio", "Share of recomputed tokens that were the same, of the last 32 such requests.",
                         "model,quantization", NULL),
    [M_VIOLATIONS] = COUNTER("accuracy_violations_total", "Requests of whose recomputed tokens too few were the same.", "model", NULL),
    [M_SAME] = RECOMPUTED("same"),
    [M_OTHER] = RECOMPUTED("other"),
    [M_COMPARED] = TURNS("compared"),
    [M_DROPPED] = TURNS("dropped"),
    [M_RUNNING] = GAUGE("requests_running", "Requests in the batch.", "model", NULL),
    [M_WAITING] = GAUGE("requests_waiting", "Requests in the queue.", "model", NULL),
    [M_DEPTH] = GAUGE("queue_depth", "Requests in the queue.", "model", NULL),
    [M_QUEUE_TOKENS] = GAUGE("queue_tokens", "Tokens of prompts in the queue and of the answers they ask for.", "model", NULL),
    [M_ACTIVE] = GAUGE("requests_active", "Requests in the queue and in the batch.", "model", NULL),
    [M_RATE] = GAUGE("tokens_per_second", "Generated tokens a second, of the last 10 s.", "model", NULL),
    [M_EFFICIENCY] = GAUGE("batch_efficiency_ratio", "Share of the batch's places that were taken, in the steps of the last 10 s.", "model", NULL),
    [M_BREAKER] = GAUGE("breaker_state", "0: the device works; 1: it fails, requests are refused; 2: one is let through, to see.", "model", NULL),
    [M_KV_USAGE] = GAUGE("kv_cache_usage_ratio", "Share of the KV blocks in use.", "model", NULL),
    [M_KV_USED] = BLOCKS("used"),
    [M_KV_KEPT] = BLOCKS("kept"),
    [M_KV_FREE] = BLOCKS("free"),
    [M_CACHE_CONFIG] = GAUGE("cache_config_info", "Shape of the KV cache.", "model,block_size,num_blocks", NULL),
    [M_WEIGHTS] = MEMORY("weights"),
    [M_KV] = MEMORY("kv"),
    [M_SCRATCH] = MEMORY("scratch"),
    [M_DEVICE_INFO] = GAUGE("device_info", "A device that computes.", "device,name,kernels", NULL),
    [M_DEVICE_UTILIZATION] = GAUGE("device_utilization_ratio", "Share of the last 10 s in which the device made steps.", "device", NULL),
    [M_GPU_MEMORY] = GAUGE("gpu_memory_usage_bytes", "Memory of a GPU that models take.", "device", NULL),
    [M_GPU_SIZE] = GAUGE("gpu_memory_size_bytes", "Memory that a GPU has.", "device", NULL),
};

/* What a label has for value. */
static const char *label_value(const char *label, size_t n, const char *id, const struct engine_model *m, const char *word, char room[LABEL_BYTES])
{
#define IS(name) (n == sizeof(name) - 1 && strncmp(label, name, n) == 0)
    if (IS("model"))
        return id;
    if (IS("quantization") || IS("format"))
        return m->quantization;
    if (IS("device"))
        return m->device;
    if (IS("name"))
        return m->device_name;
    if (IS("kernels"))
        return m->isa;
    if (!IS("block_size") && !IS("num_blocks"))
        return word;
    snprintf(room, LABEL_BYTES, "%u", IS("block_size") ? m->kv_block_size : m->n_kv_blocks);
    return room;
#undef IS
}

static struct metrics_family *make_family(struct metrics *page, const struct series_def *d)
{
    return metrics_add(page, d->type, d->name, d->help, d->labels, d->buckets, d->n_buckets);
}

static struct metrics_series *make_series(struct metrics *page, const struct series_def *d, const char *id, const struct engine_model *m)
{
    char room[METRICS_MAX_LABELS][LABEL_BYTES];
    const char *values[METRICS_MAX_LABELS] = {0};
    size_t n = 0;
    for (const char *l = d->labels; *l && n < METRICS_MAX_LABELS; n++) {
        size_t length = strcspn(l, ",");
        values[n] = label_value(l, length, id, m, d->word, room[n]);
        l += length + (l[length] == ',');
    }
    return metrics_get(make_family(page, d), values[0], values[1], values[2]);
}

void model_series(struct metrics *page, const char *id, const struct engine_model *m, struct metrics_series *out[N_MODEL_SERIES])
{
    bool on_gpu = strncmp(m->device, "cuda", 4) == 0;
    for (size_t i = 0; i < N_MODEL_SERIES; i++) {
        bool fits = on_gpu || (i != M_GPU_MEMORY && i != M_GPU_SIZE);
        make_family(page, &defs[i]);
        out[i] = fits ? make_series(page, &defs[i], id, m) : NULL;
    }
}

bool model_series_is_gauge(size_t i)
{
    return defs[i].type == METRICS_GAUGE;
}
