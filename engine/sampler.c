/* See sampler.h for the definitions. Sums of weights are in double and in a stated order, so they are the same bits on
 * every machine; exp, log and the noise are the kernels' own. */
#include "engine/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* No value of kernel_gumbel is above -log(2^-32) = 22.19; used to skip tokens that cannot win. */
#define MAX_NOISE 22.5
/* Penalised logits stay where differences of two are finite. */
#define LOGIT_BOUND 1e37f
#define PENALISED 0x80000000u

struct candidate {
    float logit;
    uint32_t id;
};

struct sampler {
    uint32_t vocab_size;
    uint32_t *counts;             /* [vocab_size], all zero between draws; PENALISED marks a token that had its turn */
    struct candidate *candidates; /* [vocab_size] */
};

enum error_code sampler_open(uint32_t vocab_size, struct sampler **out, struct error *err)
{
    struct sampler *s = calloc(1, sizeof *s);
    if (s) {
        s->vocab_size = vocab_size;
        s->counts = calloc(vocab_size, sizeof *s->counts);
        s->candidates = calloc(vocab_size, sizeof *s->candidates);
        if (s->counts && s->candidates) {
            *out = s;
            return ERROR_NONE;
        }
    }
    sampler_close(s);
    return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a sampler over %u tokens", vocab_size);
}

void sampler_close(struct sampler *s)
{
    if (!s)
        return;
    free(s->candidates);
    free(s->counts);
    free(s);
}

size_t sampler_memory_bytes(const struct sampler *s)
{
    return sizeof *s + s->vocab_size * (sizeof *s->counts + sizeof *s->candidates);
}

/* ---- penalties and bias ------------------------------------------------------------------------------------------ */

struct penalties {
    float repetition, presence, frequency;
};

static void penalise(struct sampler *s, const struct penalties *p, uint32_t id, float *logits)
{
    uint32_t count = s->counts[id];
    if (count & PENALISED)
        return;
    s->counts[id] = count | PENALISED;
    float l = logits[id] > 0 ? logits[id] / p->repetition : logits[id] * p->repetition;
    if (count)
        l -= (float)count * p->frequency + p->presence;
    if (l > LOGIT_BOUND && logits[id] < INFINITY) /* a tiny repetition penalty must not make an infinity */
        l = LOGIT_BOUND;
    logits[id] = l;
}

static void apply_penalties(struct sampler *s, const struct sampling *sp, const struct sample_input *in, float *logits)
{
    struct penalties p = {sp->repetition_penalty == 0 ? 1 : sp->repetition_penalty, sp->presence_penalty,
                          sp->frequency_penalty};
    if (p.repetition == 1 && p.presence == 0 && p.frequency == 0)
        return;
    for (size_t i = 0; i < in->n_generated; i++)
        s->counts[in->generated[i]]++;
    for (size_t i = 0; i < in->n_generated; i++)
        penalise(s, &p, in->generated[i], logits);
    for (size_t i = 0; i < in->n_prompt && p.repetition != 1; i++)
        penalise(s, &p, in->prompt[i], logits);
    /* Clearing what was set keeps the cost at the sequence's length rather than the vocabulary's. */
    for (size_t i = 0; i < in->n_generated; i++)
        s->counts[in->generated[i]] = 0;
    for (size_t i = 0; i < in->n_prompt; i++)
        s->counts[in->prompt[i]] = 0;
}

static void apply_bias(const struct sampling *p, float *logits)
{
    for (size_t i = 0; i < p->n_bias; i++)
        logits[p->bias[i].id] += p->bias[i].bias;
}

static void apply_mask(const uint64_t *allowed, uint32_t n, float *logits)
{
    for (uint32_t first = 0; first < n; first += 64) {
        uint32_t n_here = n - first < 64 ? n - first : 64;
        uint64_t word = allowed[first / 64];
        for (uint32_t i = 0; i < n_here && word != UINT64_MAX; i++)
            logits[first + i] = word >> i & 1 ? logits[first + i] : -INFINITY;
    }
}

/* ---- order ------------------------------------------------------------------------------------------------------- */

#define LANES 16
#define RUNS_PER_TOKEN 4 /* of the first k: more cost more to order, fewer let more tokens through */

/* The largest logit. False when one is NaN or +infinity. In lanes, so that it is one pass of vector instructions over
 * what may be half a megabyte. */
static bool find_max(const float *logits, uint32_t n, float *max)
{
    float lane[LANES];
    int bad[LANES] = {0};
    uint32_t whole = n - n % LANES;
    for (int k = 0; k < LANES; k++)
        lane[k] = -INFINITY;
    for (const float *run = logits; run < logits + whole; run += LANES) {
        for (int k = 0; k < LANES; k++) {
            float l = run[k];
            lane[k] = l > lane[k] ? l : lane[k];
            bad[k] |= !(l < INFINITY); /* true for NaN too */
        }
    }
    for (uint32_t i = whole; i < n; i++) {
        lane[0] = logits[i] > lane[0] ? logits[i] : lane[0];
        bad[0] |= !(logits[i] < INFINITY);
    }
    *max = -INFINITY;
    for (int k = 0; k < LANES; k++) {
        *max = lane[k] > *max ? lane[k] : *max;
        bad[0] |= bad[k];
    }
    return !bad[0];
}

/* The first token from i on whose logit is above `bound`, or n; most are not, so they are skipped in lanes. */
static uint32_t next_above(const float *logits, uint32_t i, uint32_t n, float bound)
{
    for (; i + LANES <= n; i += LANES) {
        const float *run = logits + i;
        int any = 0;
        for (int k = 0; k < LANES; k++)
            any |= run[k] > bound;
        if (any)
            break;
    }
    while (i < n && !(logits[i] > bound))
        i++;
    return i;
}

/* The best token, which is also the one of temperature 0; false, and the token at fault, when a logit is none. */
static bool find_best(const float *logits, uint32_t n, struct candidate *best, uint32_t *bad)
{
    *bad = 0;
    if (!find_max(logits, n, &best->logit)) {
        while (logits[*bad] < INFINITY)
            ++*bad;
        return false;
    }
    best->id = next_above(logits, 0, n, nextafterf(best->logit, -INFINITY));
    return best->logit > -INFINITY;
}

static bool comes_before(struct candidate a, struct candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* Restores a heap whose root is the last in order. */
static void sift_down(struct candidate *heap, size_t n, size_t i)
{
    struct candidate moved = heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n)
            break;
        if (child + 1 < n && comes_before(heap[child], heap[child + 1]))
            child++;
        if (!comes_before(moved, heap[child]))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moved;
}

/* Of n candidates the first k in order, as a heap whose root is the last of them. */
static void keep_first(struct candidate *c, size_t n, size_t k)
{
    for (size_t j = k / 2; j-- > 0;)
        sift_down(c, k, j);
    for (size_t i = k; i < n; i++)
        if (comes_before(c[i], c[0])) {
            c[0] = c[i];
            sift_down(c, k, 0);
        }
}

/* A logit that at least k tokens reach, and mostly few more: the k-th of the largest logits of runs of tokens. -infinity when there are
 * fewer than k runs with a token that is possible. */
static float floor_of_first(struct sampler *s, const float *logits, size_t k)
{
    size_t run = s->vocab_size / (RUNS_PER_TOKEN * k) / LANES * LANES;
    run = run ? run : LANES;
    size_t n = s->vocab_size / run;
    if (n < k)
        return -INFINITY;
    for (size_t r = 0; r < n; r++) {
        s->candidates[r].id = (uint32_t)r;
        find_max(logits + r * run, (uint32_t)run, &s->candidates[r].logit);
    }
    keep_first(s->candidates, n, k);
    return s->candidates[0].logit;
}

/* The first k possible tokens in order, or as many as there are, into s->candidates. What cannot be among them is passed over in lanes,
 * because k is small and the vocabulary is not; of many that are alike at the floor, only the first k can be. No qsort, because glibc's may
 * allocate. */
static size_t select_first(struct sampler *s, const float *logits, size_t k)
{
    struct candidate *c = s->candidates;
    k = k < s->vocab_size ? k : s->vocab_size;
    float floor = floor_of_first(s, logits, k), below = nextafterf(floor, -INFINITY);
    size_t n = 0;
    for (uint32_t i = 0; (i = next_above(logits, i, s->vocab_size, n < k ? below : floor)) < s->vocab_size; i++)
        c[n++] = (struct candidate){logits[i], i};
    k = k < n ? k : n;
    keep_first(c, n, k);
    for (n = k; n > 1; n--) { /* heap sort: the last in order goes to the end */
        struct candidate last = c[0];
        c[0] = c[n - 1];
        c[n - 1] = last;
        sift_down(c, n - 1, 0);
    }
    return k;
}

/* ---- truncation and draw ----------------------------------------------------------------------------------------- */

struct draw {
    const struct sampling *params;
    uint32_t choice, position;
    float max; /* the best logit */
};

static uint32_t position_of(const struct sample_input *in)
{
    return (uint32_t)(in->n_prompt + in->n_generated);
}

static float scaled(const struct draw *d, float logit)
{
    return (logit - d->max) / d->params->temperature;
}

/* Length of the shortest prefix with a weight of at least `target`; n + 1 when all together have less. */
static size_t prefix_of_weight(const struct draw *d, const struct candidate *c, size_t n, double target)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)kernel_exp(scaled(d, c[i].logit));
        if (sum >= target)
            return i + 1;
    }
    return n + 1;
}

static size_t top_p_of_candidates(const struct draw *d, const struct candidate *c, size_t n)
{
    double total = 0;
    for (size_t i = 0; i < n; i++)
        total += (double)kernel_exp(scaled(d, c[i].logit));
    size_t kept = prefix_of_weight(d, c, n, (double)d->params->top_p * total);
    return kept < n ? kept : n;
}

/* top-p without top-k: the normaliser is over the whole vocabulary, but only as much of it is put in order as the
 * nucleus needs, which is mostly a few dozen tokens. */
static size_t top_p_of_all(struct sampler *s, const struct draw *d, const float *logits)
{
    double total = 0;
    for (uint32_t i = 0; i < s->vocab_size; i++)
        total += (double)kernel_exp(scaled(d, logits[i]));
    double target = (double)d->params->top_p * total;
    for (size_t k = 64;; k *= 16) {
        size_t n = select_first(s, logits, k), kept = prefix_of_weight(d, s->candidates, n, target);
        if (kept <= n)
            return kept;
        if (n < k)
            return n;
    }
}

/* The best score so far; -infinity, which no score is, when there is none. */
struct winner {
    double score;
    uint32_t id;
};

static double score_of(const struct draw *d, float logit, float noise)
{
    return (double)logit / (double)d->params->temperature + (double)noise;
}

static void consider(const struct draw *d, struct winner *w, struct candidate c, float noise)
{
    double score = score_of(d, c.logit, noise);
    if (score < w->score || (score == w->score && c.id > w->id))
        return;
    if (d->params->min_p > 0 && kernel_exp(scaled(d, c.logit)) < d->params->min_p)
        return;
    *w = (struct winner){score, c.id};
}

/* A logit that is not above this cannot have a score of `score`: one place below T * (score - MAX_NOISE) in float, which is far more
 * than what rounding in double moves. */
static float bound_of(const struct draw *d, double score)
{
    return nextafterf((float)((score - MAX_NOISE) * (double)d->params->temperature), -INFINITY);
}

/* All tokens, most of which may have been left out: noise is made for runs of them in which one can win. */
static uint32_t draw_of_all(const struct sampler *s, const struct draw *d, const float *logits, struct candidate best)
{
    struct winner w = {-INFINITY, 0};
    float noise[KERNEL_GUMBELS];
    consider(d, &w, best, kernel_gumbel(d->params->seed, d->choice, d->position, best.id)); /* so that many are skipped */
    for (uint32_t i = 0; (i = next_above(logits, i, s->vocab_size, bound_of(d, w.score))) < s->vocab_size;) {
        uint32_t first = i - i % KERNEL_GUMBELS, end = first + KERNEL_GUMBELS;
        kernel_gumbels(d->params->seed, d->choice, d->position, first, noise);
        for (; i < end && i < s->vocab_size; i++)
            if (logits[i] > -INFINITY)
                consider(d, &w, (struct candidate){logits[i], i}, noise[i - first]);
    }
    return w.id;
}

static uint32_t draw_token(struct sampler *s, const struct draw *d, const float *logits, struct candidate best)
{
    const struct sampling *p = d->params;
    bool has_top_k = p->top_k > 0 && p->top_k < s->vocab_size, has_top_p = p->top_p < 1;
    if (!has_top_k && !has_top_p)
        return draw_of_all(s, d, logits, best);
    struct winner w = {-INFINITY, 0};
    size_t n;
    if (has_top_k) {
        n = select_first(s, logits, p->top_k);
        if (has_top_p)
            n = top_p_of_candidates(d, s->candidates, n);
    } else {
        n = top_p_of_all(s, d, logits);
    }
    for (size_t i = 0; i < n; i++) {
        struct candidate c = s->candidates[i];
        consider(d, &w, c, kernel_gumbel(p->seed, d->choice, d->position, c.id));
    }
    return w.id;
}

/* ---- log-probabilities ------------------------------------------------------------------------------------------- */

static void report_logprobs(struct sampler *s, const struct sample_input *in, const float *logits, float max,
                            struct sample *out)
{
    double sum = 0;
    for (uint32_t i = 0; i < s->vocab_size; i++)
        sum += (double)kernel_exp(logits[i] - max);
    float log_sum = kernel_log((float)sum);
    out->logprob = logits[out->id] - max - log_sum;
    if (!in->n_top)
        return;
    out->n_top = (uint32_t)select_first(s, logits, in->n_top < SAMPLER_MAX_TOP ? in->n_top : SAMPLER_MAX_TOP);
    for (uint32_t i = 0; i < out->n_top; i++)
        out->top[i] = (struct token_logprob){s->candidates[i].id, s->candidates[i].logit - max - log_sum};
}

/* How far below the best logit a token may be whose weight, exp((logit - max) / T) in float, is at least min_p: a little more than
 * -T log(min_p). Nothing below the smallest normal number is a weight but 0. */
static float reach_of(float min_p, float temperature)
{
    float log = kernel_log(min_p > 0x1p-126f ? min_p : 0x1p-126f);
    return temperature * (-log * 1.0001f + 0.001f);
}

/* Tokens that penalties or a bias move are listed. As a bias can but raise the best logit above that of the others, the reach of min-p
 * is counted from the best of these. */
struct logits_need sampler_need(const struct sampling *p, const struct sample_input *in)
{
    bool repetition = p->repetition_penalty != 0 && p->repetition_penalty != 1;
    struct logits_need need = {.allowed = in->allowed, .n_allowed = in->n_allowed};
    if (in->logprobs || (p->temperature > 0 && p->top_k == 0 && p->top_p < 1))
        return need; /* a sum over all tokens */
    if (p->temperature == 0)
        need.top = 1;
    else if (p->top_k)
        need.top = p->top_k;
    else if (p->min_p > 0)
        need.within = reach_of(p->min_p, p->temperature);
    else {
        need.temperature = p->temperature;
        need.seed = p->seed;
        need.choice = in->choice;
        need.position = position_of(in);
    }
    if (repetition || p->presence_penalty != 0 || p->frequency_penalty != 0)
        need.lists[0] = (struct logits_list){in->generated, in->n_generated, 1};
    if (repetition)
        need.lists[1] = (struct logits_list){in->prompt, in->n_prompt, 1};
    if (p->n_bias)
        need.lists[2] = (struct logits_list){&p->bias->id, p->n_bias, sizeof *p->bias / sizeof p->bias->id};
    return need;
}

enum error_code sampler_draw(struct sampler *s, const struct sampling *p, const struct sample_input *in, float *logits,
                             struct sample *out, struct error *err)
{
    struct candidate best;
    uint32_t bad;
    apply_penalties(s, p, in, logits);
    apply_bias(p, logits);
    if (in->allowed)
        apply_mask(in->allowed, s->vocab_size, logits);
    if (!find_best(logits, s->vocab_size, &best, &bad))
        return error_set(err, ERROR_INFERENCE_FAILED, "expected finite logits, found %f for token %u",
                         (double)logits[bad], bad);
    out->id = best.id;
    out->logprob = 0;
    out->n_top = 0;
    if (p->temperature > 0) {
        struct draw d = {p, in->choice, position_of(in), best.logit};
        out->id = draw_token(s, &d, logits, best);
    }
    if (in->logprobs)
        report_logprobs(s, in, logits, best.logit, out);
    return ERROR_NONE;
}

enum error_code sampler_score(struct sampler *s, const float *logits, uint32_t id, uint32_t n_top, struct sample *out,
                              struct error *err)
{
    const struct sample_input in = {.n_top = n_top};
    struct candidate best;
    uint32_t bad;
    if (!find_best(logits, s->vocab_size, &best, &bad))
        return error_set(err, ERROR_INFERENCE_FAILED, "expected finite logits, found %f for token %u",
                         (double)logits[bad], bad);
    *out = (struct sample){.id = id};
    report_logprobs(s, &in, logits, best.logit, out);
    return ERROR_NONE;
}
