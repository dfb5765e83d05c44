/*
 * The tracer: all spans there can be, a bounded queue of those that ended, and the thread that sends them to the collector in batches.
 *
 *   take a batch (full, or delay_ns after its first span) -> encode -> Export -> OK: exported
 *                                                               ^       | may be tried again: wait, twice as long each time
 *                                                               +-------+ within export_timeout_ns; else: dropped
 *
 * While a collector is slow or away the queue fills and new spans are dropped at its end; nobody waits. An idle tracer sleeps.
 */
#include "trace/span.h"

#include "base/clock.h"
#include "base/log.h"
#include "rpc/rpc.h"

#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "opentelemetry/proto/collector/trace/v1/trace_service.pb-c.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXPORT_PATH "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
#define MAX_BATCH_BYTES (64 << 20)
#define MAX_ANSWER_BYTES (64 << 10)
#define MAX_OPEN 4096 /* spans that have not ended, beside a full queue and a batch */
#define CLOSE_NS (3 * CLOCK_NS_PER_S)
#define TURN_NS (20 * CLOCK_NS_PER_MS) /* between two looks for an answer */
#define CLOSING_TURN_NS CLOCK_NS_PER_MS
#define FIRST_BACKOFF_NS CLOCK_NS_PER_S
#define MAX_BACKOFF_NS (8 * CLOCK_NS_PER_S)

enum { GRPC_CANCELLED = 1, GRPC_DEADLINE_EXCEEDED = 4, GRPC_RESOURCE_EXHAUSTED = 8, GRPC_ABORTED = 10, GRPC_OUT_OF_RANGE = 11, GRPC_UNAVAILABLE = 14,
       GRPC_DATA_LOSS = 15 };

/* The answer to one Export. */
struct answer {
    bool done;
    int code;
    int64_t retry_ns; /* when the collector says so; else 0 */
    int64_t n_rejected;
    char message[256];
};

struct tracer {
    struct trace_config config;
    struct encoder *encoder;
    struct rpc_queue *queue; /* turned by the exporter's thread while a call is under way */
    struct rpc_tls *tls; /* NULL = plain text */
    struct rpc_client *client;
    const char *metadata[2 * CONFIG_MAX_PAIRS + 1];
    struct metrics_series *exported, *queue_full, *failed, *rejected;
    pthread_t thread;
    /* The exporter's thread alone: */
    struct span **batch;  /* [max_batch] */
    struct buffer packed;
    bool failing;         /* the last batch did not get out; said once */
    struct answer answer;
    /* Under the lock: */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* of the monotonic clock */
    struct span *spans;     /* [max_queue + max_batch + MAX_OPEN]; from n_made on never touched, so that they are no memory yet */
    size_t n_made;
    struct span *unused;    /* of those before n_made, the last that came back first */
    struct span **ring;     /* [max_queue] */
    size_t first;
    atomic_size_t n; /* written under the lock; whether it is full is also looked at without */
    int64_t close_ns; /* 0, or when the last try must have ended */
};

const struct trace_config *tracer_config(const struct tracer *t)
{
    return &t->config;
}

bool tracer_admits(struct tracer *t)
{
    bool room = atomic_load_explicit(&t->n, memory_order_relaxed) < t->config.max_queue;
    if (!room)
        metrics_inc(t->queue_full, 1);
    return room;
}

static size_t n_spans(const struct tracer *t)
{
    return t->config.max_queue + t->config.max_batch + MAX_OPEN;
}

struct span *tracer_lend(struct tracer *t)
{
    pthread_mutex_lock(&t->lock);
    struct span *s = t->unused;
    if (s)
        t->unused = s->next;
    else if (t->n_made < n_spans(t))
        s = &t->spans[t->n_made++];
    pthread_mutex_unlock(&t->lock);
    if (!s)
        metrics_inc(t->queue_full, 1);
    return s;
}

/* Under the lock. */
static void give_back(struct tracer *t, struct span *s)
{
    s->next = t->unused;
    t->unused = s;
}

void tracer_take(struct tracer *t, struct span *s)
{
    pthread_mutex_lock(&t->lock);
    bool full = t->n == t->config.max_queue;
    if (!full)
        t->ring[(t->first + t->n++) % t->config.max_queue] = s;
    else
        give_back(t, s);
    bool wake = !full && (t->n == 1 || t->n == t->config.max_batch);
    if (wake)
        pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
    if (full)
        metrics_inc(t->queue_full, 1);
}

/* Waits under the lock until `deadline_ns` or a change; false when the time has passed. */
static bool wait_until(struct tracer *t, int64_t deadline_ns)
{
    const struct timespec at = {deadline_ns / CLOCK_NS_PER_S, deadline_ns % CLOCK_NS_PER_S};
    return pthread_cond_timedwait(&t->changed, &t->lock, &at) == 0;
}

/* The next batch; 0 when the tracer is closed and nothing is left, or no time to send it. */
static size_t take_batch(struct tracer *t)
{
    size_t n = 0;
    pthread_mutex_lock(&t->lock);
    while (t->n == 0 && !t->close_ns)
        pthread_cond_wait(&t->changed, &t->lock);
    int64_t full_ns = clock_now_ns() + t->config.delay_ns;
    while (t->n < t->config.max_batch && !t->close_ns && wait_until(t, full_ns))
        ;
    while (n < t->config.max_batch && t->n > 0 && (!t->close_ns || clock_now_ns() < t->close_ns)) {
        t->batch[n++] = t->ring[t->first];
        t->first = (t->first + 1) % t->config.max_queue;
        t->n--;
    }
    pthread_mutex_unlock(&t->lock);
    return n;
}

/* ---- one call ---- */

static void on_message(void *user, const void *data, size_t n_bytes)
{
    struct tracer *t = user;
    Opentelemetry__Proto__Collector__Trace__V1__ExportTraceServiceResponse *r =
        opentelemetry__proto__collector__trace__v1__export_trace_service_response__unpack(NULL, n_bytes, data);
    if (r && r->partial_success) {
        t->answer.n_rejected = r->partial_success->rejected_spans;
        snprintf(t->answer.message, sizeof t->answer.message, "%s", r->partial_success->error_message);
    }
    opentelemetry__proto__collector__trace__v1__export_trace_service_response__free_unpacked(r, NULL);
}

/* RetryInfo of a status; 0 when there is none. */
static int64_t retry_info_ns(const struct rpc_status *status)
{
    int64_t ns = 0;
    Google__Rpc__Status *s = status->details ? google__rpc__status__unpack(NULL, status->details_n_bytes, status->details) : NULL;
    for (size_t i = 0; s && i < s->n_details; i++) {
        const Google__Protobuf__Any *any = s->details[i];
        const char *slash = strrchr(any->type_url, '/');
        if (!slash || strcmp(slash + 1, "google.rpc.RetryInfo") != 0)
            continue;
        Google__Rpc__RetryInfo *info = google__rpc__retry_info__unpack(NULL, any->value.len, any->value.data);
        if (info && info->retry_delay && info->retry_delay->seconds >= 0 && info->retry_delay->seconds < 3600)
            ns = info->retry_delay->seconds * CLOCK_NS_PER_S + info->retry_delay->nanos;
        google__rpc__retry_info__free_unpacked(info, NULL);
    }
    google__rpc__status__free_unpacked(s, NULL);
    return ns > 0 ? ns : 0;
}

static void on_status(void *user, const struct rpc_status *status)
{
    struct tracer *t = user;
    t->answer.done = true;
    t->answer.code = status->code;
    t->answer.retry_ns = status->code ? retry_info_ns(status) : 0;
    if (status->code)
        snprintf(t->answer.message, sizeof t->answer.message, "%s", status->message);
}

/* Waits a moment, or until the tracer is being closed; then true once its time is up. */
static bool rest(struct tracer *t)
{
    pthread_mutex_lock(&t->lock);
    bool closing = t->close_ns != 0;
    int64_t now_ns = clock_now_ns(), turn_ns = now_ns + (closing ? CLOSING_TURN_NS : TURN_NS);
    while (clock_now_ns() < turn_ns && closing == (t->close_ns != 0))
        wait_until(t, turn_ns);
    bool over = t->close_ns && clock_now_ns() >= t->close_ns;
    pthread_mutex_unlock(&t->lock);
    return over;
}

/* Sends what is packed and waits for the answer: by looks from time to time, as nobody is in a hurry, and a thread that waited in gRPC would take
 * part in reading for all others. */
static struct answer call(struct tracer *t, int64_t deadline_ns)
{
    struct error err = {0};
    struct rpc_request *handle = NULL;
    const struct rpc_request_options options = {.path = EXPORT_PATH,
                                                .data = t->packed.data,
                                                .n_bytes = t->packed.n_bytes,
                                                .deadline_ns = deadline_ns,
                                                .metadata = t->metadata,
                                                .user = t,
                                                .on_message = on_message,
                                                .on_status = on_status};
    t->answer = (struct answer){0};
    if (rpc_request_start(t->client, &options, &handle, &err))
        return (struct answer){.done = true, .code = GRPC_UNAVAILABLE};
    for (rpc_queue_turn(t->queue); !t->answer.done; rpc_queue_turn(t->queue))
        if (rest(t))
            rpc_request_cancel(handle);
    rpc_request_close(handle);
    return t->answer;
}

/* ---- a batch ---- */

/* OTLP specification, "Failures": what may be sent again. */
static bool may_retry(const struct answer *a)
{
    switch (a->code) {
    case GRPC_CANCELLED:
    case GRPC_DEADLINE_EXCEEDED:
    case GRPC_ABORTED:
    case GRPC_OUT_OF_RANGE:
    case GRPC_UNAVAILABLE:
    case GRPC_DATA_LOSS:
        return true;
    case GRPC_RESOURCE_EXHAUSTED:
        return a->retry_ns > 0;
    default:
        return false;
    }
}

/* False when the tracer is being closed: then nothing is tried again. */
static bool pause_until(struct tracer *t, int64_t at_ns)
{
    pthread_mutex_lock(&t->lock);
    while (!t->close_ns && clock_now_ns() < at_ns)
        wait_until(t, at_ns);
    bool goes_on = !t->close_ns;
    pthread_mutex_unlock(&t->lock);
    return goes_on;
}

/* Sends the batch until it is taken or given up. */
static struct answer send(struct tracer *t)
{
    int64_t limit_ns = clock_now_ns() + t->config.export_timeout_ns, backoff_ns = FIRST_BACKOFF_NS;
    for (;;) {
        int64_t now_ns = clock_now_ns(), deadline_ns = now_ns + t->config.timeout_ns;
        struct answer a = call(t, deadline_ns < limit_ns ? deadline_ns : limit_ns);
        if (a.code == 0 || !may_retry(&a))
            return a;
        int64_t at_ns = clock_now_ns() + (a.retry_ns ? a.retry_ns : backoff_ns);
        if (at_ns >= limit_ns || !pause_until(t, at_ns))
            return a;
        backoff_ns = backoff_ns < MAX_BACKOFF_NS ? 2 * backoff_ns : MAX_BACKOFF_NS;
    }
}

/* Says when the collector stops to take spans, and when it does again. */
static void note(struct tracer *t, const struct answer *a, size_t n)
{
    size_t n_rejected = a->n_rejected > 0 ? (size_t)a->n_rejected < n ? (size_t)a->n_rejected : n : 0;
    if (a->code) {
        metrics_inc(t->failed, (double)n);
        LOG_AT(t->failing ? LOG_DEBUG : LOG_WARN, "trace", "spans were dropped: the collector does not take them",
               LOG_INT("grpc_status", a->code), LOG_STR("reason", a->message), LOG_STR("collector", t->config.target),
               LOG_INT("spans", n));
    } else {
        metrics_inc(t->exported, (double)(n - n_rejected));
        metrics_inc(t->rejected, (double)n_rejected);
        if (t->failing)
            log_info("trace", "the collector takes spans again", LOG_STR("collector", t->config.target));
        if (n_rejected > 0)
            log_debug("trace", "the collector rejected spans", LOG_INT("spans", n_rejected), LOG_STR("reason", a->message));
    }
    t->failing = a->code != 0;
}

static void *run(void *user)
{
    struct tracer *t = user;
    size_t n;
    while ((n = take_batch(t)) > 0) {
        struct answer a = {.code = GRPC_RESOURCE_EXHAUSTED, .message = "out of memory"};
        if (encoder_encode(t->encoder, t->batch, n, &t->packed))
            a = send(t);
        note(t, &a, n);
        pthread_mutex_lock(&t->lock);
        for (size_t i = 0; i < n; i++)
            give_back(t, t->batch[i]);
        pthread_mutex_unlock(&t->lock);
        buffer_clear(&t->packed);
    }
    return NULL;
}

/* ---- open and close ---- */

static void add_metrics(struct tracer *t, struct metrics *m)
{
    struct metrics_family *dropped = metrics_add(m, METRICS_COUNTER, "bitnet_trace_spans_dropped_total",
                                                 "Spans that the collector did not get.", "reason", NULL, 0);
    struct metrics_series *const series[] = {
        metrics_get(metrics_add(m, METRICS_COUNTER, "bitnet_trace_spans_exported_total", "Spans that the collector took.", "", NULL, 0)),
        metrics_get(dropped, "queue_full"), metrics_get(dropped, "export_failed"), metrics_get(dropped, "rejected")};
    if (!t)
        return;
    t->exported = series[0];
    t->queue_full = series[1];
    t->failed = series[2];
    t->rejected = series[3];
}

static enum error_code start(struct tracer *t, const struct trace_options *options, struct error *err)
{
    const struct trace_config *c = &t->config;
    enum error_code code = rpc_queue_open_idle(&t->queue, err);
    if (code)
        return code;
    if (c->tls && (code = rpc_tls_open(c->ca_file, c->cert_file, c->key_file, &t->tls, err))) {
        error_prefix(err, "tracing");
        return code;
    }
    const struct rpc_client_options client = {.target = c->target,
                                              .tls = t->tls,
                                              .queue = t->queue,
                                              .max_message_bytes = MAX_ANSWER_BYTES,
                                              .unhurried = true};
    t->encoder = encoder_open(c, options);
    t->batch = calloc(c->max_batch, sizeof(struct span *));
    t->ring = calloc(c->max_queue, sizeof(struct span *));
    t->spans = calloc(n_spans(t), sizeof(struct span));
    if (!t->encoder || !t->batch || !t->ring || !t->spans)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for tracing");
    for (size_t i = 0; i < c->headers.n; i++) {
        t->metadata[2 * i] = c->headers.keys[i];
        t->metadata[2 * i + 1] = c->headers.values[i];
    }
    code = rpc_client_open(&client, &t->client, err);
    if (code) {
        error_prefix(err, "tracing");
        return code;
    }
    int failed = pthread_create(&t->thread, NULL, run, t);
    if (failed)
        return error_set(err, ERROR_INTERNAL, "cannot start the exporter's thread: %s", strerror(failed));
    pthread_setname_np(t->thread, "trace-export");
    return ERROR_NONE;
}

static void tracer_free(struct tracer *t)
{
    rpc_client_close(t->client);
    rpc_queue_close(t->queue);
    rpc_tls_close(t->tls);
    encoder_close(t->encoder);
    if (t->n > 0)
        metrics_inc(t->failed, (double)t->n); /* no time was left to send them */
    free(t->spans);
    free(t->ring);
    free(t->batch);
    buffer_fini(&t->packed);
    config_free(&t->config);
    pthread_cond_destroy(&t->changed);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

enum error_code trace_open(const struct trace_options *options, struct tracer **out, struct error *err)
{
    struct trace_config config;
    *out = NULL;
    add_metrics(NULL, options->metrics); /* they are there, at 0, also when tracing is off */
    if (!config_read(&config)) {
        config_free(&config);
        return ERROR_NONE;
    }
    struct tracer *t = calloc(1, sizeof *t);
    if (!t) {
        config_free(&config);
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for tracing");
    }
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&t->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&t->lock, NULL);
    t->config = config;
    buffer_init(&t->packed, MAX_BATCH_BYTES);
    add_metrics(t, options->metrics);
    enum error_code code = start(t, options, err);
    if (code) {
        tracer_free(t);
        return code;
    }
    log_info("trace", "spans are exported", LOG_STR("collector", config.target), LOG_BOOL("tls", config.tls),
             LOG_FLOAT("ratio", config.sampler == SAMPLER_ALWAYS_OFF ? 0 : config.ratio), LOG_BOOL("parent_based", config.parent_based));
    *out = t;
    return ERROR_NONE;
}

void trace_close(struct tracer *t)
{
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    t->close_ns = clock_now_ns() + CLOSE_NS;
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);
    tracer_free(t);
}
