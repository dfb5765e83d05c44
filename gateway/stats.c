/* GET /v1/stats: what the engine has counted in a window. A mean of nothing is left out. */
#include "gateway/stats.h"

#include "bitnet/v1/admin.pb-c.h"
#include "gateway/ask.h"
#include "gateway/emit.h"
#include "gateway/query.h"

#include <stddef.h>
#include <string.h>

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

static void put_fixed(struct buffer *b, const char *key, bool measured, double v, int decimals)
{
    if (measured) {
        emit_key(b, key);
        emit_fixed(b, v, decimals);
    }
}

/* ---- parts ---- */

static void put_server(struct buffer *b, const Bitnet__V1__StatsResponse *a)
{
    emit_key(b, "server_stats");
    emit_open(b, '{');
    put_fixed(b, "uptime_seconds", true, a->uptime_seconds, 3);
    put_uint(b, "total_requests", a->total_requests);
    put_uint(b, "successful_requests", a->successful_requests);
    put_uint(b, "failed_requests", a->failed_requests);
    put_fixed(b, "error_rate", a->total_requests > 0,
              (double)a->failed_requests / (double)(a->total_requests > 0 ? a->total_requests : 1), 6);
    put_fixed(b, "avg_response_time_ms", a->_avg_response_time_ms_case != 0, a->avg_response_time_ms, 3);
    emit_close(b, '}');
}

static void put_inference(struct buffer *b, const Bitnet__V1__StatsResponse *a)
{
    static const char *const formats[] = {"i2s", "tl1", "tl2"};
    emit_key(b, "inference_stats");
    emit_open(b, '{');
    put_uint(b, "total_tokens_generated", a->generated_tokens);
    put_fixed(b, "avg_tokens_per_second", a->_avg_tokens_per_second_case != 0, a->avg_tokens_per_second, 3);
    emit_key(b, "quantization_distribution");
    emit_open(b, '{');
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        put_uint(b, formats[i], strcmp(a->quantization, formats[i]) == 0 ? a->inferences : 0);
    emit_close(b, '}');
    emit_close(b, '}');
}

static void put_device(struct buffer *b, const Bitnet__V1__StatsResponse *a)
{
    bool gpu = strncmp(a->device, "cuda", 4) == 0, cpu = strcmp(a->device, "cpu") == 0;
    emit_key(b, "device_stats");
    emit_open(b, '{');
    put_uint(b, "cpu_inference_count", cpu ? a->inferences : 0);
    put_uint(b, "gpu_inference_count", gpu ? a->inferences : 0);
    put_uint(b, "fallback_events", a->fallback_events);
    emit_key(b, "device_utilization");
    emit_open(b, '{');
    put_fixed(b, "avg_cpu_utilization", a->_cpu_utilization_case != 0,
              a->cpu_utilization < 1 ? a->cpu_utilization : 1, 4);
    emit_close(b, '}');
    emit_close(b, '}');
}

static void put_batch(struct buffer *b, const Bitnet__V1__StatsResponse *a)
{
    emit_key(b, "batch_stats");
    emit_open(b, '{');
    put_uint(b, "total_batches_processed", a->batches);
    put_fixed(b, "avg_batch_size", a->_avg_batch_size_case != 0, a->avg_batch_size, 3);
    put_fixed(b, "batch_formation_time_ms", a->_batch_formation_ms_case != 0, a->batch_formation_ms, 3);
    put_fixed(b, "batch_efficiency", a->_batch_efficiency_case != 0, a->batch_efficiency, 4);
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

static void answer(struct request *r, const void *data, size_t n_bytes)
{
    struct stats_params p = {0};
    struct failure f;
    Bitnet__V1__StatsResponse *a = bitnet__v1__stats_response__unpack(NULL, n_bytes, data);
    if (!a) {
        error_answer(r, ERROR_INTERNAL, "the engine's answer cannot be read");
        return;
    }
    failure_init(&f);
    parse(r, &p, &f); /* as it was when the question was asked */
    struct buffer b;
    buffer_init(&b, 65536);
    emit_open(&b, '{');
    put_server(&b, a);
    put_inference(&b, a);
    if (p.include_details.truth) {
        put_device(&b, a);
        put_batch(&b, a);
    }
    emit_close(&b, '}');
    request_json(r, 200, &b);
    buffer_fini(&b);
    failure_fini(&f);
    bitnet__v1__stats_response__free_unpacked(a, NULL);
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
        ask_engine(r, "/bitnet.v1.AdminService/Stats", packed, n, TIMEOUT_MS, answer);
    } else {
        error_respond(r, &f);
    }
    failure_fini(&f);
}
