/* Tables and JSON. */
#include "tools/load_report.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *title, *name;
    size_t offset;
} latencies[] = {
    {"first token", "time_to_first_token_ms", offsetof(struct load_stats, ttft)},
    {"between messages", "between_messages_ms", offsetof(struct load_stats, per_message)},
    {"between tokens", "between_tokens_ms", offsetof(struct load_stats, per_token)},
    {"whole answer", "end_to_end_ms", offsetof(struct load_stats, end_to_end)},
    {"refusal", "refusal_ms", offsetof(struct load_stats, refusal)},
};
#define N_LATENCIES (sizeof latencies / sizeof *latencies)

static const struct load_histogram *histogram(const struct load_stats *s, size_t i)
{
    return (const void *)((const char *)s + latencies[i].offset);
}

static double ms(double ns)
{
    return ns / 1e6;
}

static double ms_at(const struct load_histogram *h, double q)
{
    return ms((double)load_histogram_at(h, q));
}

static double rate(const struct load_level *l, uint64_t n)
{
    return l->seconds > 0 ? (double)n / l->seconds : 0;
}

static bool has_slo(const struct load_report *r)
{
    return r->plan->config->slo_ttft_ms > 0 || r->plan->config->slo_itl_ms > 0;
}

static uint64_t level_errors(const struct load_report *r, const struct load_level *l)
{
    return l->stats.n_ended[LOAD_FAILED] + (r->plan->config->allow_refused ? 0 : l->stats.n_ended[LOAD_REFUSED]);
}

uint64_t load_report_n_errors(const struct load_report *r)
{
    uint64_t n = r->alone ? level_errors(r, r->alone) : 0;
    for (size_t i = 0; i < r->n_levels; i++)
        n += level_errors(r, &r->levels[i]);
    return n;
}

uint64_t load_report_n_mismatched(const struct load_report *r)
{
    uint64_t n = r->alone ? r->alone->stats.n_mismatched : 0;
    for (size_t i = 0; i < r->n_levels; i++)
        n += r->levels[i].stats.n_mismatched;
    return n;
}

/* ---- tables ------------------------------------------------------------------------------------------------------------- */

/* The name of what a level counts. */
static const char *load_name(const struct load_plan *p)
{
    static const char *const names[LOAD_N_MODES] = {"clients", "rate/s", "speed"};
    return names[p->mode];
}

static void put_faults(const struct load_level *l, const char *indent, struct buffer *out)
{
    for (size_t i = 0; i < l->stats.n_faults; i++)
        buffer_printf(out, "%s%llu x %s\n", indent, (unsigned long long)l->stats.faults[i].n, l->stats.faults[i].kind);
}

static void put_outcomes(const struct load_stats *s, struct buffer *out)
{
    buffer_printf(out, "requests          %llu", (unsigned long long)load_stats_n_ended(s));
    for (int i = 0; i < LOAD_N_OUTCOMES; i++)
        if (s->n_ended[i])
            buffer_printf(out, ", %llu %s", (unsigned long long)s->n_ended[i], load_outcome_names[i]);
    if (s->n_ended[LOAD_REFUSED])
        buffer_printf(out, " (%llu with the time to retry)", (unsigned long long)s->n_retry_told);
    buffer_append_char(out, '\n');
}

static void put_verified(const struct load_stats *s, struct buffer *out)
{
    buffer_printf(out, "texts             %llu compared, %llu different, %llu not compared for lack of room\n",
                  (unsigned long long)s->n_verified, (unsigned long long)s->n_mismatched,
                  (unsigned long long)s->n_unverified);
}

static void put_latencies(const struct load_stats *s, struct buffer *out)
{
    buffer_printf(out, "%-18s%10s%10s%10s%10s%10s%12s\n", "ms", "mean", "p50", "p90", "p99", "max", "count");
    for (size_t i = 0; i < N_LATENCIES; i++) {
        const struct load_histogram *h = histogram(s, i);
        if (h->n)
            buffer_printf(out, "%-18s%10.3f%10.3f%10.3f%10.3f%10.3f%12llu\n", latencies[i].title,
                          ms(load_histogram_mean(h)), ms_at(h, 0.5), ms_at(h, 0.9), ms_at(h, 0.99), ms((double)h->max),
                          (unsigned long long)h->n);
    }
}

static void put_level(const struct load_report *r, const struct load_level *l, struct buffer *out)
{
    const struct load_stats *s = &l->stats;
    buffer_printf(out, "%-18s%g, %.2f s\n", load_name(r->plan), l->load, l->seconds);
    put_outcomes(s, out);
    put_faults(l, "                  ", out);
    buffer_printf(out, "a second          %.2f requests, %.1f tokens, %.1f messages\n", rate(l, s->n_completed),
                  rate(l, s->n_tokens), rate(l, s->n_messages));
    buffer_printf(out, "kB                %.1f received, %.1f sent\n", (double)s->bytes_in / 1000,
                  (double)s->bytes_out / 1000);
    if (has_slo(r))
        buffer_printf(out, "goodput           %.2f requests, %.1f tokens a second\n", rate(l, s->n_good),
                      rate(l, s->n_good_tokens));
    if (s->n_prompts)
        buffer_printf(out, "prompt tokens     %.1f, %.1f of them cached\n",
                      (double)s->n_prompt_tokens / (double)s->n_prompts,
                      (double)s->n_cached_tokens / (double)s->n_prompts);
    if (r->plan->config->verify || r->plan->config->verify_alone)
        put_verified(s, out);
    put_latencies(s, out);
}

static void put_row(const struct load_report *r, const struct load_level *l, struct buffer *out)
{
    const struct load_stats *s = &l->stats;
    buffer_printf(out, "%9g%10llu%9llu%8llu%10.2f%10.1f%10.1f", l->load, (unsigned long long)s->n_ended[LOAD_COMPLETED],
                  (unsigned long long)s->n_ended[LOAD_REFUSED], (unsigned long long)s->n_ended[LOAD_FAILED],
                  rate(l, s->n_completed), rate(l, s->n_tokens), rate(l, s->n_messages));
    if (has_slo(r))
        buffer_printf(out, "%10.2f", rate(l, s->n_good));
    buffer_printf(out, "%11.2f%10.2f%10.2f%10.2f%11.2f\n", ms_at(&s->ttft, 0.5), ms_at(&s->ttft, 0.99),
                  ms_at(&s->per_token, 0.5), ms_at(&s->per_token, 0.99), ms_at(&s->end_to_end, 0.99));
}

static void put_rows(const struct load_report *r, struct buffer *out)
{
    buffer_printf(out, "%9s%10s%9s%8s%10s%10s%10s%s%11s%10s%10s%10s%11s\n", load_name(r->plan), "completed", "refused",
                  "failed", "req/s", "tok/s", "msg/s", has_slo(r) ? "    good/s" : "", "ttft p50", "p99", "itl p50",
                  "p99", "e2e p99 ms");
    for (size_t i = 0; i < r->n_levels; i++)
        put_row(r, &r->levels[i], out);
    for (size_t i = 0; i < r->n_levels; i++) {
        if (r->levels[i].stats.n_faults)
            buffer_printf(out, "%s %g:\n", load_name(r->plan), r->levels[i].load);
        put_faults(&r->levels[i], "    ", out);
    }
}

static void put_sum_verified(const struct load_report *r, struct buffer *out)
{
    static struct load_stats sum;
    memset(&sum, 0, sizeof sum);
    for (size_t i = 0; i < r->n_levels; i++) {
        sum.n_verified += r->levels[i].stats.n_verified;
        sum.n_mismatched += r->levels[i].stats.n_mismatched;
        sum.n_unverified += r->levels[i].stats.n_unverified;
    }
    put_verified(&sum, out);
}

void load_report_table(const struct load_report *r, struct buffer *out)
{
    const struct load_plan *p = r->plan;
    buffer_printf(out, "%s %s%s, %s", load_api_names[p->api], p->target, p->path, load_mode_names[p->mode]);
    if (p->mode != LOAD_TRACE)
        buffer_printf(out, ", %lld + %lld tokens", (long long)p->config->prompt_tokens,
                      (long long)p->config->max_tokens);
    buffer_printf(out, "%s\n", r->interrupted ? ", interrupted" : "");
    if (r->n_levels == 1) {
        put_level(r, r->levels, out);
    } else if (r->n_levels > 1) {
        put_rows(r, out);
        if (p->config->verify || p->config->verify_alone)
            put_sum_verified(r, out);
    }
    if (r->alone && (level_errors(r, r->alone) || r->alone->stats.n_mismatched)) {
        buffer_append_str(out, "alone:\n");
        put_faults(r->alone, "    ", out);
    }
}

/* ---- JSON --------------------------------------------------------------------------------------------------------------- */

static void put_string(struct buffer *out, const char *name, const char *value)
{
    buffer_printf(out, "\"%s\":\"", name);
    buffer_append_json(out, value, strlen(value));
    buffer_append_char(out, '"');
}

static void put_json_faults(const struct load_stats *s, struct buffer *out)
{
    buffer_append_str(out, "\"errors\":[");
    for (size_t i = 0; i < s->n_faults; i++) {
        buffer_append_str(out, i ? ",{" : "{");
        put_string(out, "kind", s->faults[i].kind);
        buffer_printf(out, ",\"count\":%llu}", (unsigned long long)s->faults[i].n);
    }
    buffer_append_char(out, ']');
}

static void put_json_latencies(const struct load_stats *s, struct buffer *out)
{
    for (size_t i = 0; i < N_LATENCIES; i++) {
        const struct load_histogram *h = histogram(s, i);
        buffer_printf(out,
                      ",\n \"%s\":{\"count\":%llu,\"mean\":%.6f,\"p50\":%.6f,\"p90\":%.6f,\"p99\":%.6f,\"max\":%.6f}",
                      latencies[i].name, (unsigned long long)h->n, ms(load_histogram_mean(h)), ms_at(h, 0.5),
                      ms_at(h, 0.9), ms_at(h, 0.99), ms((double)h->max));
    }
}

static void put_json_level(const struct load_report *r, const struct load_level *l, struct buffer *out)
{
    const struct load_stats *s = &l->stats;
    buffer_printf(out, "{\"load\":%.9g,\"seconds\":%.6f,\n \"requests\":{\"ended\":%llu", l->load, l->seconds,
                  (unsigned long long)load_stats_n_ended(s));
    for (int i = 0; i < LOAD_N_OUTCOMES; i++)
        buffer_printf(out, ",\"%s\":%llu", load_outcome_names[i], (unsigned long long)s->n_ended[i]);
    buffer_printf(out, ",\"refused_with_retry\":%llu},\n ", (unsigned long long)s->n_retry_told);
    put_json_faults(s, out);
    buffer_printf(out, ",\n \"per_second\":{\"requests\":%.4f,\"tokens\":%.4f,\"messages\":%.4f",
                  rate(l, s->n_completed), rate(l, s->n_tokens), rate(l, s->n_messages));
    if (has_slo(r))
        buffer_printf(out, ",\"good_requests\":%.4f,\"good_tokens\":%.4f", rate(l, s->n_good),
                      rate(l, s->n_good_tokens));
    buffer_printf(
        out,
        "},\n \"bytes\":{\"received\":%llu,\"sent\":%llu},\"prompt_tokens\":{\"mean\":%.3f,\"cached_mean\":%.3f},\n",
        (unsigned long long)s->bytes_in, (unsigned long long)s->bytes_out,
        s->n_prompts ? (double)s->n_prompt_tokens / (double)s->n_prompts : 0,
        s->n_prompts ? (double)s->n_cached_tokens / (double)s->n_prompts : 0);
    buffer_printf(out, " \"texts\":{\"compared\":%llu,\"different\":%llu,\"not_compared\":%llu}",
                  (unsigned long long)s->n_verified, (unsigned long long)s->n_mismatched,
                  (unsigned long long)s->n_unverified);
    put_json_latencies(s, out);
    buffer_append_char(out, '}');
}

void load_report_json(const struct load_report *r, struct buffer *out)
{
    static const char *const modes[LOAD_N_MODES] = {"clients", "rate", "trace"};
    const struct load_plan *p = r->plan;
    const struct load_config *c = p->config;
    buffer_append_char(out, '{');
    put_string(out, "version", r->version);
    buffer_printf(out, ",\n\"plan\":{\"api\":\"%s\",", load_api_names[p->api]);
    put_string(out, "target", p->target);
    buffer_printf(out,
                  ",\"mode\":\"%s\",\"threads\":%lld,\"channels\":%lld,\"prompt_tokens\":%lld,\"prefix_tokens\":%lld,",
                  modes[p->mode], (long long)c->threads, (long long)c->channels, (long long)c->prompt_tokens,
                  (long long)c->prefix_tokens);
    buffer_printf(out,
                  "\"prompts\":%lld,\"max_tokens\":%lld,\"temperature\":%.9g,\"seed\":%lld,\"slo_ttft_ms\":%.9g,\"slo_"
                  "itl_ms\":%.9g},\n",
                  (long long)c->prompts, (long long)c->max_tokens, c->temperature, (long long)c->seed, c->slo_ttft_ms,
                  c->slo_itl_ms);
    buffer_printf(out, "\"interrupted\":%s,\"errors\":%llu,\"different_texts\":%llu,\n",
                  r->interrupted ? "true" : "false", (unsigned long long)load_report_n_errors(r),
                  (unsigned long long)load_report_n_mismatched(r));
    if (r->alone) {
        buffer_append_str(out, "\"alone\":");
        put_json_level(r, r->alone, out);
        buffer_append_str(out, ",\n");
    }
    buffer_append_str(out, "\"levels\":[");
    for (size_t i = 0; i < r->n_levels; i++) {
        buffer_append_str(out, i ? ",\n" : "\n");
        put_json_level(r, &r->levels[i], out);
    }
    buffer_append_str(out, "\n]}\n");
}
