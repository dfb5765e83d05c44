/* GET /v1/stats: what the engines have counted in a window. A mean of nothing is left out. */
#include "gateway/stats.h"

#include "gateway/ask.h"
#include "gateway/emit.h"
#include "gateway/query.h"
#include "gateway/stats_merge.h"

#include <stddef.h>

#define TIMEOUT_MS 5000
#define AT(member) .offset = offsetof(struct stats_params, member)

struct stats_params {
    struct value time_range, include_details;
};

const struct field stats_fields[] = {
    {"time_range", FIELD_CHOICE, AT(time_range), .choices = "1h|24h|7d|30d"},
    {"include_details", FIELD_BOOL, AT(include_details)},
    {0},
};

static const uint64_t window_seconds[] = {3600, 24 * 3600, 7 * 24 * 3600, 30 * 24 * 3600};

static void put_uint(struct buffer *b, const char *key, uint64_t v)
{
    emit_key(b, key);
    emit_uint(b, v);
}

static void put_mean(struct buffer *b, const char *key, const struct stats_mean *m, int decimals)
{
    emit_fixed_if(b, key, m->weight > 0, stats_mean(m), decimals);
}

/* ---- parts ---- */

static void put_server(struct buffer *b, const struct stats *s)
{
    emit_key(b, "server_stats");
    emit_open(b, '{');
    emit_fixed_if(b, "uptime_seconds", true, s->uptime_seconds, 3);
    put_uint(b, "total_requests", s->total_requests);
    put_uint(b, "successful_requests", s->successful_requests);
    put_uint(b, "failed_requests", s->failed_requests);
    emit_fixed_if(b, "error_rate", s->total_requests > 0,
              (double)s->failed_requests / (double)(s->total_requests > 0 ? s->total_requests : 1), 6);
    put_mean(b, "avg_response_time_ms", &s->response_ms, 3);
    emit_close(b, '}');
}

static void put_inference(struct buffer *b, const struct stats *s)
{
    emit_key(b, "inference_stats");
    emit_open(b, '{');
    put_uint(b, "total_tokens_generated", s->generated_tokens);
    put_mean(b, "avg_tokens_per_second", &s->tokens_per_second, 3);
    emit_key(b, "quantization_distribution");
    emit_open(b, '{');
    for (size_t i = 0; i < STATS_N_FORMATS; i++)
        put_uint(b, stats_formats[i], s->by_format[i]);
    emit_close(b, '}');
    if (s->accuracy.weight > 0) {
        emit_key(b, "accuracy_metrics");
        emit_open(b, '{');
        put_mean(b, "avg_quantization_accuracy", &s->accuracy, 6);
        emit_fixed_if(b, "min_accuracy_seen", true, s->lowest_accuracy, 6);
        put_uint(b, "accuracy_violations", s->accuracy_violations);
        emit_close(b, '}');
    }
    emit_close(b, '}');
}

static void put_device(struct buffer *b, const struct stats *s)
{
    emit_key(b, "device_stats");
    emit_open(b, '{');
    put_uint(b, "cpu_inference_count", s->on_cpu);
    put_uint(b, "gpu_inference_count", s->on_gpu);
    put_uint(b, "fallback_events", s->fallback_events);
    emit_key(b, "device_utilization");
    emit_open(b, '{');
    put_mean(b, "avg_cpu_utilization", &s->cpu_utilization, 4);
    emit_close(b, '}');
    emit_close(b, '}');
}

static void put_batch(struct buffer *b, const struct stats *s)
{
    emit_key(b, "batch_stats");
    emit_open(b, '{');
    put_uint(b, "total_batches_processed", s->batches);
    put_mean(b, "avg_batch_size", &s->batch_size, 3);
    put_mean(b, "batch_formation_time_ms", &s->formation_ms, 3);
    put_mean(b, "batch_efficiency", &s->efficiency, 4);
    emit_close(b, '}');
}

/* ---- request ---- */

static bool parse(const struct request *r, struct stats_params *p, struct failure *f)
{
    json_t *holder = NULL;
    bool ok = query_parse(r, stats_fields, p, &holder, f);
    json_decref(holder); /* index and truth are all that is read */
    return ok;
}

static void answer(struct request *r, const struct ask_all_answers *answers)
{
    struct stats_params p = {0};
    struct failure f;
    const struct stats s = stats_merge((Bitnet__V1__StatsResponse **)answers->messages, answers->n);
    failure_init(&f);
    parse(r, &p, &f); /* as it was when the question was asked */
    struct buffer b;
    buffer_init(&b, 65536);
    emit_open(&b, '{');
    put_server(&b, &s);
    put_inference(&b, &s);
    if (p.include_details.truth) {
        put_device(&b, &s);
        put_batch(&b, &s);
    }
    emit_close(&b, '}');
    request_json(r, 200, &b);
    buffer_fini(&b);
    failure_fini(&f);
}

void handle_stats(struct request *r)
{
    struct stats_params p = {0};
    struct failure f;
    failure_init(&f);
    if (parse(r, &p, &f)) {
        Bitnet__V1__StatsRequest q = BITNET__V1__STATS_REQUEST__INIT;
        uint8_t packed[32]; /* one number */
        q.window_seconds = window_seconds[p.time_range.i];
        size_t n = bitnet__v1__stats_request__pack(&q, packed);
        ask_engines(r, "/bitnet.v1.AdminService/Stats", packed, n, TIMEOUT_MS, &bitnet__v1__stats_response__descriptor,
                    answer);
    } else {
        error_respond(r, &f);
    }
    failure_fini(&f);
}
