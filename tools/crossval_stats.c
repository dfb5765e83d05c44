/*
 * See crossval.h. Of listed log-probabilities KL is taken over the listed tokens and one bucket for all others, whose probabilities are
 * what is left to 1 on both sides; merging outcomes never raises KL (Cover and Thomas, Elements of Information Theory, 2.7, the
 * log sum inequality), so that is a lower bound.
 *
 * Paired test: t = mean(d) / (sd(d) / sqrt(n)) over d = ln p(ours) - ln p(reference) (Student 1908), two-sided by the normal
 * approximation p = erfc(|t| / sqrt(2)), which n in the hundreds permits. Neighbouring positions are not independent, so p is rather
 * too small than too large.
 */
#include "tools/crossval.h"

#include <math.h>
#include <stdlib.h>

/* ln sum exp(logits). */
static double log_sum(const float *logits, size_t n)
{
    double max = logits[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        max = logits[i] > max ? logits[i] : max;
    for (size_t i = 0; i < n; i++)
        sum += exp(logits[i] - max);
    return max + log(sum);
}

/* The ids of the CROSSVAL_TOP largest, best first, the lower id of equals; returns how many. */
static size_t best_of(const float *logits, size_t n, uint32_t *ids)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        size_t at = k;
        while (at > 0 && logits[i] > logits[ids[at - 1]])
            at--;
        if (at == CROSSVAL_TOP)
            continue;
        k += k < CROSSVAL_TOP;
        for (size_t j = k - 1; j > at; j--)
            ids[j] = ids[j - 1];
        ids[at] = (uint32_t)i;
    }
    return k;
}

static bool all_finite(const float *logits, size_t n, const char *whose, struct error *err)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(logits[i])) {
            error_set(err, ERROR_VALIDATION_FAILED, "%s logits: expected numbers, found %g for token %zu", whose, (double)logits[i], i);
            return false;
        }
    return true;
}

/* NAN when one of them has no length. */
static double cosine(const float *a, const float *b, size_t n)
{
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++) {
        ab += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : NAN;
}

/* One outcome's part of KL; an outcome that the reference excludes has none. */
static double kl_part(double reference_logprob, double our_logprob)
{
    return exp(reference_logprob) > 0 ? exp(reference_logprob) * (reference_logprob - our_logprob) : 0;
}

static double kl_whole(const float *reference, double reference_sum, const float *ours, double our_sum, size_t n)
{
    double kl = 0;
    for (size_t i = 0; i < n; i++)
        kl += kl_part(reference[i] - reference_sum, ours[i] - our_sum);
    return kl > 0 ? kl : 0; /* below zero by rounding only */
}

static double kl_listed(const struct crossval_row *r, const float *ours, double our_sum, size_t n_vocab)
{
    double kl = 0, reference_left = 1, our_left = 1;
    for (size_t i = 0; i < r->n_entries; i++) {
        double our_logprob = ours[r->entries[i].id] - our_sum;
        kl += kl_part(r->entries[i].logprob, our_logprob);
        reference_left -= exp(r->entries[i].logprob);
        our_left -= exp(our_logprob);
    }
    /* Of a whole list nothing is left but rounding. */
    if (r->n_entries < n_vocab && reference_left > 1e-9)
        kl += kl_part(log(reference_left), log(our_left > 1e-12 ? our_left : 1e-12));
    return kl > 0 ? kl : 0;
}

static bool check_entries(const struct crossval_row *r, size_t n_vocab, struct error *err)
{
    if (r->n_entries == 0) {
        error_set(err, ERROR_VALIDATION_FAILED, "the reference lists no token");
        return false;
    }
    for (size_t i = 0; i < r->n_entries; i++)
        if (r->entries[i].id >= n_vocab || isnan(r->entries[i].logprob) || r->entries[i].logprob > 1e-3) {
            error_set(err, ERROR_VALIDATION_FAILED, "the reference: expected token ids below %zu and log-probabilities up to 0, found "
                      "token %u with %g", n_vocab, r->entries[i].id, r->entries[i].logprob);
            return false;
        }
    return true;
}

static void add_scored(struct crossval_stats *s, double our_logprob, double reference_logprob)
{
    double difference = our_logprob - reference_logprob, delta = difference - s->difference_mean;
    s->n_scored++;
    s->our_nll -= our_logprob;
    s->reference_nll -= reference_logprob;
    s->difference_mean += delta / (double)s->n_scored;
    s->difference_m2 += delta * (difference - s->difference_mean);
}

/* ln p of one token less ln p of another, by the reference; NAN when it does not tell. */
static double reference_gap(const struct crossval_row *r, uint32_t above, uint32_t below)
{
    double a = NAN, b = NAN;
    if (r->logits)
        return (double)r->logits[above] - r->logits[below];
    for (size_t i = 0; i < r->n_entries; i++) {
        a = r->entries[i].id == above ? r->entries[i].logprob : a;
        b = r->entries[i].id == below ? r->entries[i].logprob : b;
    }
    return a - b;
}

/* best: of the reference. */
static void add_gaps(struct crossval_stats *s, const float *ours, const uint32_t *our_best, size_t n_ours, const struct crossval_row *r,
                     uint32_t best)
{
    if (n_ours > 1) {
        double margin = (double)ours[our_best[0]] - ours[our_best[1]] - reference_gap(r, our_best[0], our_best[1]);
        s->n_margins += !isnan(margin);
        s->margin_sum2 += isnan(margin) ? 0 : margin * margin;
    }
    if (best == our_best[0])
        return;
    double gap = fmax((double)ours[our_best[0]] - ours[best], reference_gap(r, best, our_best[0])); /* of one that is NAN the other */
    s->n_ties += gap < s->tie;
    s->gap_sum += gap;
    s->gap_max = gap > s->gap_max ? gap : s->gap_max;
}

bool crossval_add(struct crossval_stats *s, const float *ours, size_t n_vocab, const struct crossval_row *reference,
                  bool has_target, uint32_t target, struct error *err)
{
    const struct crossval_row *r = reference;
    if (!all_finite(ours, n_vocab, "our", err) ||
        !(r->logits ? all_finite(r->logits, n_vocab, "the reference's", err) : check_entries(r, n_vocab, err)))
        return false;
    uint32_t our_best[CROSSVAL_TOP], best[CROSSVAL_TOP];
    size_t n_ours = best_of(ours, n_vocab, our_best), n_best = 0, n_shared = 0;
    double our_sum = log_sum(ours, n_vocab), kl, reference_logprob = r->target;
    if (r->logits) {
        double reference_sum = log_sum(r->logits, n_vocab), c = cosine(ours, r->logits, n_vocab);
        n_best = best_of(r->logits, n_vocab, best);
        kl = kl_whole(r->logits, reference_sum, ours, our_sum, n_vocab);
        reference_logprob = has_target ? r->logits[target] - reference_sum : NAN;
        if (!isnan(c)) {
            s->cosine_min = s->n_cosine == 0 || c < s->cosine_min ? c : s->cosine_min;
            s->cosine_sum += c;
            s->n_cosine++;
        }
    } else {
        for (; n_best < CROSSVAL_TOP && n_best < r->n_entries; n_best++)
            best[n_best] = r->entries[n_best].id;
        kl = kl_listed(r, ours, our_sum, n_vocab);
    }
    for (size_t i = 0; i < n_best; i++)
        for (size_t j = 0; j < n_ours; j++)
            n_shared += best[i] == our_best[j];
    add_gaps(s, ours, our_best, n_ours, r, best[0]);
    s->n_positions++;
    s->n_top1 += best[0] == our_best[0];
    s->top_shared += (double)n_shared / (double)n_best;
    s->n_whole += r->logits || r->n_entries == n_vocab;
    s->kl_sum += kl;
    s->kl_max = kl > s->kl_max ? kl : s->kl_max;
    if (has_target && !isnan(reference_logprob))
        add_scored(s, ours[target] - our_sum, reference_logprob);
    return true;
}

void crossval_finish(const struct crossval_stats *s, struct crossval_result *out)
{
    double n = s->n_positions > 0 ? (double)s->n_positions : NAN, scored = s->n_scored > 0 ? (double)s->n_scored : NAN;
    double sd = s->n_scored > 1 ? sqrt(s->difference_m2 / (scored - 1)) : NAN;
    *out = (struct crossval_result){
        .gap_mean = s->n_positions > s->n_top1 ? s->gap_sum / (double)(s->n_positions - s->n_top1) : NAN,
        .gap_max = s->n_positions > s->n_top1 ? s->gap_max : NAN,
        .tied = (double)s->n_ties / n,
        .margin_rms = s->n_margins > 0 ? sqrt(s->margin_sum2 / (double)s->n_margins) : NAN,
        .top1 = (double)s->n_top1 / n,
        .top5 = s->top_shared / n,
        .cosine_mean = s->n_cosine > 0 ? s->cosine_sum / (double)s->n_cosine : NAN,
        .cosine_min = s->n_cosine > 0 ? s->cosine_min : NAN,
        .kl_mean = s->kl_sum / n,
        .kl_max = s->n_positions > 0 ? s->kl_max : NAN,
        .kl_is_bound = s->n_whole < s->n_positions,
        .our_perplexity = exp(s->our_nll / scored),
        .reference_perplexity = exp(s->reference_nll / scored),
        /* Of the differences, as a quotient of two exponentials would lose what a small difference is. */
        .perplexity_difference = s->n_scored > 0 ? expm1(-s->difference_mean) + 0.0 : NAN,
        .mean_difference = s->n_scored > 0 ? s->difference_mean : NAN,
    };
    if (sd > 0)
        out->t = s->difference_mean / (sd / sqrt(scored));
    else /* all differences are the same: none at all, or one that is certain */
        out->t = s->n_scored < 2 ? NAN : s->difference_mean == 0 ? 0 : copysign(HUGE_VAL, s->difference_mean);
    out->p = erfc(fabs(out->t) / M_SQRT2);
}

static bool fails(struct buffer *why, const char *what, double value, const char *relation, double limit)
{
    buffer_printf(why, "%s%s %.6g is %s %.6g", why->n_bytes ? "; " : "", what, value, relation, limit);
    return false;
}

bool crossval_judge(const struct crossval_result *r, const struct crossval_limits *l, struct buffer *why)
{
    bool ok = true;
    if (l->min_top1 > 0 && !(r->top1 + r->tied >= l->min_top1))
        ok = fails(why, "top-1 agreement", r->top1 + r->tied, "not at least", l->min_top1);
    if (l->min_top5 > 0 && r->top5 < l->min_top5)
        ok = fails(why, "top-5 agreement", r->top5, "not at least", l->min_top5);
    if (l->min_cosine > 0 && r->cosine_min < l->min_cosine)
        ok = fails(why, "the lowest cosine", r->cosine_min, "not at least", l->min_cosine);
    if (l->max_ppl_difference > 0 && !(fabs(r->perplexity_difference) <= l->max_ppl_difference))
        ok = fails(why, "perplexity difference", r->perplexity_difference, "not within", l->max_ppl_difference);
    if (l->max_kl > 0 && r->kl_mean > l->max_kl)
        ok = fails(why, "KL divergence", r->kl_mean, "not at most", l->max_kl);
    if (l->min_p > 0 && r->p < l->min_p)
        ok = fails(why, "p-value", r->p, "not at least", l->min_p);
    return ok;
}
