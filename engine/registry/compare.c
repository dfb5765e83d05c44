/* Cross-validation: windows of the text, scored by the engine and by the portable reference over the same weights. */
#include "engine/reference.h"
#include "engine/registry/ask.h"
#include "engine/registry/validation.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW 32        /* tokens, read by themselves: 31 positions */
#define MIN_COSINE 0.99
#define SAME_LOGPROB 1e-4 /* the rounding of a float and of two ways to sum */

struct comparison {
    struct validation *v;
    struct reference *reference;
    size_t vocab_size, n_text;
    float *logits; /* [WINDOW][vocab_size] */
    uint64_t n, n_same;
    double cosine, sum, squares; /* of all positions: cosines; differences of log-probabilities */
};

/* Where window w begins: one behind the other, then again a little further on. */
static size_t window_start(const struct comparison *c, size_t w)
{
    size_t last = c->n_text - WINDOW, n_windows = last / WINDOW + 1;
    return (w % n_windows * WINDOW + w / n_windows * 7) % (last + 1);
}

static double log_sum_exp(const float *logits, size_t n, size_t *best)
{
    double sum = 0;
    *best = 0;
    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[*best])
            *best = i;
    for (size_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - (double)logits[*best]);
    return log(sum) + (double)logits[*best];
}

/* One position: the engine's score of its token, and the reference's logits there. */
static void add_position(struct comparison *c, const struct score *s, const float *logits)
{
    size_t best;
    double all = log_sum_exp(logits, c->vocab_size, &best), xy = 0, xx = 0, yy = 0;
    for (uint32_t i = 0; i < s->n_top; i++) {
        double x = (double)s->top[i].logprob, y = (double)logits[s->top[i].id] - all;
        xy += x * y, xx += x * x, yy += y * y;
    }
    double d = (double)s->logprob - ((double)logits[s->id] - all);
    d = fabs(d) < SAME_LOGPROB ? 0 : d;
    c->n++;
    c->n_same += s->n_top && s->top[0].id == best;
    c->cosine += xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : 0;
    c->sum += d;
    c->squares += d * d;
}

static enum error_code compare_window(struct comparison *c, size_t w, struct error *err)
{
    struct score scores[WINDOW];
    const uint32_t *ids = c->v->ids->ids + window_start(c, w);
    enum error_code code = ask_scores(c->v->engine, ids, WINDOW, c->v->deadline_ns, scores, err);
    if (!code)
        code = reference_logits(c->reference, ids, WINDOW, WINDOW, c->logits, err);
    for (size_t i = 0; !code && i + 1 < WINDOW; i++)
        add_position(c, &scores[i + 1], c->logits + i * c->vocab_size);
    return code;
}

/* The p-value of the paired test that both score the text alike: of a mean difference this large by chance. */
static double p_value(const struct comparison *c)
{
    double n = (double)c->n, mean = c->sum / n, variance = c->squares / n - mean * mean;
    if (variance <= 0)
        return mean == 0 ? 1 : 0;
    return erfc(fabs(mean) / sqrt(variance / n) / M_SQRT2);
}

static enum error_code judge(struct comparison *c, struct error *err)
{
    struct validation_results *r = c->v->results;
    char expected[64];
    if (c->n < VALIDATION_MIN_SAMPLES)
        return validation_fail(r, err, ERROR_MODEL_LOAD_FAILED, "timeout", "10 positions to be compared in time", "%llu",
                               (unsigned long long)c->n);
    r->accuracy = (double)c->n_same / (double)c->n;
    r->cosine = c->cosine / (double)c->n;
    r->p_value = p_value(c);
    snprintf(expected, sizeof expected, "at least %g of the tokens, cosine %g", c->v->asked.min_accuracy, MIN_COSINE);
    if (r->accuracy >= c->v->asked.min_accuracy && r->cosine >= MIN_COSINE)
        return ERROR_NONE;
    return validation_fail(r, err, ERROR_CROSS_VALIDATION_FAILED, "cross_validation", expected, "%.4f of %llu, cosine %.4f", r->accuracy,
                           (unsigned long long)c->n, r->cosine);
}

static enum error_code compare(struct comparison *c, struct error *err)
{
    enum error_code code = ERROR_NONE;
    double n_wanted = (double)c->v->asked.n_samples;
    for (size_t w = 0; !code && c->n < c->v->asked.n_samples; w++) {
        if (!c->v->go_on(c->v->user, 0.25 + 0.75 * (double)c->n / n_wanted))
            break;
        code = compare_window(c, w, err);
        if (code == ERROR_DEADLINE_EXCEEDED)
            break;
    }
    return code && code != ERROR_DEADLINE_EXCEEDED ? code : judge(c, err);
}

enum error_code validation_compare(struct validation *v, struct error *err)
{
    const struct engine_model *m = engine_model(v->engine);
    struct comparison c = {.v = v, .vocab_size = m->vocab_size, .n_text = v->ids->n};
    if (v->ids->n < WINDOW || m->context_length <= WINDOW)
        return validation_fail(v->results, err, ERROR_MODEL_LOAD_FAILED, "cross_validation", "a context of more than 32 positions", "%u",
                               m->context_length);
    enum error_code code = reference_open(v->engine, &(struct reference_options){.n_positions = WINDOW, .load = true}, &c.reference, err);
    if (code)
        return code;
    c.logits = malloc(WINDOW * c.vocab_size * sizeof *c.logits);
    code = c.logits ? compare(&c, err) : error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the logits of %d positions", WINDOW);
    free(c.logits);
    reference_close(c.reference);
    return code;
}
