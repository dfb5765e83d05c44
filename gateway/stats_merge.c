/* The rules of the merge. */
#include "gateway/stats_merge.h"

const char *const stats_formats[STATS_N_FORMATS] = {"i2s", "tl1", "tl2"};

/* One that is there counts, also where what it is of was counted as nothing yet. */
static void add(struct stats_mean *m, int is_there, double mean, uint64_t n)
{
    double weight = is_there ? (double)(n > 0 ? n : 1) : 0;
    m->sum += weight > 0 ? mean * weight : 0;
    m->weight += weight;
}

static void add_engine(struct stats *s, const Bitnet__V1__StatsResponse *a)
{
    if (a->uptime_seconds > s->uptime_seconds)
        s->uptime_seconds = a->uptime_seconds;
    s->total_requests += a->total_requests;
    s->successful_requests += a->successful_requests;
    s->failed_requests += a->failed_requests;
    s->generated_tokens += a->generated_tokens;
    const uint64_t by_format[STATS_N_FORMATS] = {a->inferences_i2s, a->inferences_tl1, a->inferences_tl2};
    for (size_t i = 0; i < STATS_N_FORMATS; i++)
        s->by_format[i] += by_format[i];
    s->on_cpu += a->inferences_cpu;
    s->on_gpu += a->inferences_gpu;
    s->fallback_events += a->fallback_events;
    s->batches += a->batches;
    add(&s->response_ms, a->_avg_response_time_ms_case != 0, a->avg_response_time_ms, a->total_requests);
    add(&s->tokens_per_second, a->_avg_tokens_per_second_case != 0, a->avg_tokens_per_second, a->inferences);
    add(&s->cpu_utilization, a->_cpu_utilization_case != 0, a->cpu_utilization < 1 ? a->cpu_utilization : 1, 1);
    add(&s->batch_size, a->_avg_batch_size_case != 0, a->avg_batch_size, a->batches);
    add(&s->formation_ms, a->_batch_formation_ms_case != 0, a->batch_formation_ms, a->inferences);
    if (a->_accuracy_case != 0 && (s->accuracy.weight == 0 || a->lowest_accuracy < s->lowest_accuracy))
        s->lowest_accuracy = a->lowest_accuracy;
    s->accuracy_violations += a->accuracy_violations;
    add(&s->accuracy, a->_accuracy_case != 0, a->accuracy, a->recomputed_tokens);
    add(&s->efficiency, a->_batch_efficiency_case != 0, a->batch_efficiency, a->batches);
}

struct stats stats_merge(Bitnet__V1__StatsResponse *const *answers, size_t n)
{
    struct stats s = {0};
    for (size_t i = 0; i < n; i++)
        add_engine(&s, answers[i]);
    return s;
}

double stats_mean(const struct stats_mean *m)
{
    return m->weight > 0 ? m->sum / m->weight : 0;
}
