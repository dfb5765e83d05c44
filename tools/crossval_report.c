/* Table and JSON of one model's comparison. See crossval.h. */
#include "tools/crossval.h"

#include <math.h>
#include <string.h>

void crossval_report_text(const struct crossval_report *r, struct buffer *out)
{
    const struct crossval_stats *s = r->stats;
    const struct crossval_result *v = r->result;
    buffer_printf(out, "%s\n  served       %s\n  reference    %s\n", r->model, r->served, r->reference);
    buffer_printf(out, "  positions    %zu of %zu sequences, %zu with a next token\n", s->n_positions, r->n_sequences, s->n_scored);
    buffer_printf(out, "  top-1        %.4f\n  top-5        %.4f\n", v->top1, v->top5);
    if (s->n_ties)
        buffer_printf(out, "  with ties    %.4f, of less than %g nats\n", v->top1 + v->tied, s->tie);
    if (s->n_top1 < s->n_positions)
        buffer_printf(out, "  other best   %zu, %.4f nats apart on average, %.4f at most; rounding moves two tokens by %.4f (rms)\n",
                      s->n_positions - s->n_top1, v->gap_mean, v->gap_max, v->margin_rms);
    if (s->n_cosine)
        buffer_printf(out, "  cosine       %.6f mean, %.6f lowest\n", v->cosine_mean, v->cosine_min);
    buffer_printf(out, "  KL           %.3e mean, %.3e highest, nats%s\n", v->kl_mean, v->kl_max,
                  v->kl_is_bound ? "; of listed tokens, so at least this" : "");
    if (s->n_scored)
        buffer_printf(out, "  perplexity   %.5f, reference %.5f, %+.4f %%\n", v->our_perplexity, v->reference_perplexity,
                      100 * v->perplexity_difference);
    if (s->n_scored > 1)
        buffer_printf(out, "  paired test  mean difference %+.3e nats, t %.3f, p %.4f\n", v->mean_difference, v->t, v->p);
    buffer_printf(out, "  %s%s\n", r->failures[0] ? "DIFFERS: " : "agrees", r->failures);
}

/* JSON has no NAN and no infinity. */
static void put_number(struct buffer *out, const char *name, double value)
{
    if (isfinite(value))
        buffer_printf(out, ",\"%s\":%.9g", name, value);
    else
        buffer_printf(out, ",\"%s\":null", name);
}

static void put_text(struct buffer *out, const char *name, const char *value)
{
    buffer_printf(out, "\"%s\":\"", name);
    buffer_append_json(out, value, strlen(value));
    buffer_append_char(out, '"');
}

void crossval_report_json(const struct crossval_report *r, struct buffer *out)
{
    const struct crossval_stats *s = r->stats;
    const struct crossval_result *v = r->result;
    buffer_append_char(out, '{');
    put_text(out, "model", r->model);
    buffer_append_char(out, ',');
    put_text(out, "served", r->served);
    buffer_append_char(out, ',');
    put_text(out, "reference", r->reference);
    buffer_printf(out, ",\"n_sequences\":%zu,\"n_positions\":%zu,\"n_scored\":%zu", r->n_sequences, s->n_positions, s->n_scored);
    put_number(out, "top1", v->top1);
    put_number(out, "top5", v->top5);
    put_number(out, "tied", v->tied);
    put_number(out, "gap_mean", v->gap_mean);
    put_number(out, "gap_max", v->gap_max);
    put_number(out, "margin_rms", v->margin_rms);
    put_number(out, "cosine_mean", v->cosine_mean);
    put_number(out, "cosine_min", v->cosine_min);
    put_number(out, "kl_mean", v->kl_mean);
    put_number(out, "kl_max", v->kl_max);
    buffer_printf(out, ",\"kl_is_bound\":%s", v->kl_is_bound ? "true" : "false");
    put_number(out, "perplexity", v->our_perplexity);
    put_number(out, "reference_perplexity", v->reference_perplexity);
    put_number(out, "perplexity_difference", v->perplexity_difference);
    put_number(out, "mean_difference", v->mean_difference);
    put_number(out, "t", v->t);
    put_number(out, "p", v->p);
    buffer_printf(out, ",\"agrees\":%s,", r->failures[0] ? "false" : "true");
    put_text(out, "failures", r->failures);
    buffer_append_char(out, '}');
}
