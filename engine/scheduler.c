/* See scheduler.h. */
#include "engine/scheduler.h"

static size_t plan_decodes(struct scheduler *s, struct scheduler_item *items, size_t n)
{
    size_t n_rows = 0, start = s->next_decode < n ? s->next_decode : 0, i = start;
    for (size_t seen = 0; seen < n && n_rows < s->max_rows; seen++) {
        if (items[i].decode && !items[i].paused) {
            items[i].n_rows = 1;
            n_rows++;
        }
        i = i + 1 < n ? i + 1 : 0;
    }
    s->next_decode = n_rows == s->max_rows ? i : 0;
    for (i = 0; i < n && n_rows < s->max_rows; i++) /* drafts where there is room: all or nothing */
        if (items[i].n_rows && items[i].n_left - 1 <= s->max_rows - n_rows) {
            n_rows += items[i].n_left - 1;
            items[i].n_rows = items[i].n_left;
        }
    return n_rows;
}

/* What n decodes alone take: each more or fewer than were timed is a row. */
int64_t scheduler_decode_ns(const struct scheduler *s, size_t n)
{
    if (!s->decode_ns || n == 0)
        return 0;
    int64_t ns = s->decode_ns + ((int64_t)n - (int64_t)s->n_decodes) * s->row_ns;
    return ns > s->decode_ns / 4 ? ns : s->decode_ns / 4;
}

/* The prompts that wait, and their rows. */
struct waiting {
    size_t n;
    uint64_t n_rows;
};

/* Many prompts that are soon over: the sooner, the more decodes wait for them. */
static bool is_crowd(const struct scheduler *s, size_t n_decodes, const struct waiting *w)
{
    return w->n >= SCHEDULER_CROWD && w->n_rows * (n_decodes + w->n) <= (uint64_t)(SCHEDULER_CROWD_NS / s->row_ns) * w->n;
}

/* What a step with n decodes may take beside prompts, which will soon be decodes too. */
static int64_t step_limit_ns(const struct scheduler *s, size_t n, const struct waiting *w)
{
    size_t n_prompts = w->n;
    if (n == 0)
        return s->shared ? SCHEDULER_SHARED_NS : SCHEDULER_ALONE_NS;
    if (s->target_ns)
        return s->target_ns;
    if (!s->shared && is_crowd(s, n, w))
        return SCHEDULER_ALONE_NS;
    int64_t decodes_ns = s->decode_ns ? scheduler_decode_ns(s, n + n_prompts) : (int64_t)(n + n_prompts) * s->row_ns;
    int64_t ns = decodes_ns * 8 / 5, least_ns = s->decode_ns ? SCHEDULER_LEAST_NS : SCHEDULER_UNKNOWN_NS;
    return ns > least_ns ? ns : least_ns;
}

/* Rows that prompts may have beside the n_decodes rows of decodes. */
static size_t prefill_room(const struct scheduler *s, size_t n_decodes, const struct waiting *w)
{
    size_t room = s->max_rows - n_decodes, affordable = SCHEDULER_FIRST_PREFILL;
    if (s->row_ns) {
        int64_t left_ns = step_limit_ns(s, n_decodes, w) - scheduler_decode_ns(s, n_decodes);
        affordable = left_ns > 0 ? (size_t)(left_ns / s->row_ns) : 0;
    }
    if (affordable < SCHEDULER_MIN_PREFILL)
        affordable = SCHEDULER_MIN_PREFILL;
    return affordable < room ? affordable : room;
}

size_t scheduler_plan(struct scheduler *s, struct scheduler_item *items, size_t n)
{
    struct waiting w = {0};
    for (size_t i = 0; i < n; i++) {
        items[i].n_rows = 0;
        if (items[i].decode || items[i].paused)
            continue;
        w.n++;
        w.n_rows += items[i].n_left;
    }
    size_t n_rows = plan_decodes(s, items, n), room = prefill_room(s, n_rows, &w);
    for (size_t i = 0; i < n && room; i++) {
        if (items[i].decode || items[i].paused)
            continue;
        items[i].n_rows = items[i].n_left < room ? items[i].n_left : (uint32_t)room;
        room -= items[i].n_rows;
        n_rows += items[i].n_rows;
    }
    return n_rows;
}

/* A moving average; the first sample is taken as it is. */
static int64_t towards(int64_t mean, int64_t sample)
{
    mean = mean ? mean + (sample - mean) / 4 : sample;
    return mean > 0 ? mean : 1;
}

void scheduler_learn(struct scheduler *s, size_t n_decodes, size_t n_prefill, int64_t step_ns)
{
    if (n_prefill == 0) {
        s->decode_ns = towards(scheduler_decode_ns(s, n_decodes), step_ns);
        s->n_decodes = n_decodes;
        return;
    }
    /* Few rows read all weights for themselves; their time says nothing about a row's. Beside decodes it does. */
    if (n_prefill >= SCHEDULER_FIRST_PREFILL / 4 || (s->decode_ns && n_decodes && n_prefill >= SCHEDULER_MIN_PREFILL)) {
        int64_t sample = (step_ns - scheduler_decode_ns(s, n_decodes)) / (int64_t)n_prefill;
        s->row_ns = towards(s->row_ns, sample > 0 ? sample : 1);
    }
}
