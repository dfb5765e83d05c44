/* See draft.h. */
#include "engine/draft.h"

#define LONGEST 3     /* tokens of the end that are looked for, then fewer */
#define SHORTEST 2
#define FIRST_CHANCE 0.5f
#define RETRY_STEPS 32
#define LEAST_GAIN 1.02 /* less is not worth the rows */

/* Speed of plain decoding times this. */
static double gain(double chance, double cost, uint32_t n)
{
    double tokens = 1, power = 1;
    for (uint32_t i = 0; i < n; i++)
        tokens += power *= chance;
    return tokens / (1 + cost * n);
}

uint32_t draft_length(struct draft_state *d, double cost)
{
    double chance = (double)(d->n_tested ? d->chance : FIRST_CHANCE), best = LEAST_GAIN;
    uint32_t length = 0;
    for (uint32_t n = 1; n <= DRAFT_MAX; n++) {
        double g = gain(chance, cost, n);
        if (g > best) {
            best = g;
            length = n;
        }
    }
    if (!length && ++d->n_idle >= RETRY_STEPS)
        length = 1;
    if (length)
        d->n_idle = 0;
    return length;
}

/* A draft ends with its first wrong token; those behind it say nothing. */
void draft_learn(struct draft_state *d, uint32_t n, uint32_t n_accepted)
{
    uint32_t n_tested = n_accepted < n ? n_accepted + 1 : n;
    for (uint32_t i = 0; i < n_tested; i++) {
        float hit = i < n_accepted ? 1.0f : 0.0f, weight = d->n_tested < 7 ? 1.0f / (float)(d->n_tested + 2) : 0.125f;
        float chance = d->n_tested ? d->chance : FIRST_CHANCE;
        d->chance = chance + (hit - chance) * weight;
        d->n_tested++;
    }
}

struct tokens {
    const uint32_t *prompt, *generated;
    uint32_t n_prompt, n;
};

static uint32_t token_at(const struct tokens *t, uint32_t i) { return i < t->n_prompt ? t->prompt[i] : t->generated[i - t->n_prompt]; }

/* True when the `length` tokens before `end` are those before the end of all. */
static int matches(const struct tokens *t, uint32_t end, uint32_t length)
{
    for (uint32_t i = 1; i <= length; i++)
        if (token_at(t, end - i) != token_at(t, t->n - i))
            return 0;
    return 1;
}

uint32_t draft_find(const uint32_t *prompt, uint32_t n_prompt, const uint32_t *generated, uint32_t n_generated, uint32_t *out,
                    uint32_t max)
{
    const struct tokens t = {prompt, generated, n_prompt, n_prompt + n_generated};
    for (uint32_t length = LONGEST; length >= SHORTEST; length--)
        for (uint32_t end = t.n; end-- > length;) /* the latest occurrence first */
            if (matches(&t, end, length)) {
                uint32_t n = t.n - end < max ? t.n - end : max;
                for (uint32_t i = 0; i < n; i++)
                    out[i] = token_at(&t, end + i);
                return n;
            }
    return 0;
}
