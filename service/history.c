/* See history.h. */
#include "service/history.h"

#include "base/clock.h"

#include <stddef.h>

/* The level of service that is promised: a hundred tokens within so many seconds. */
#define PROMISED_TOKENS 100
#define PROMISED_SECONDS 2.0

/* A ring's slots and how long one is. */
struct ring {
    struct history_slot *slots;
    int64_t n, slot_s;
};

static struct ring ring_of(const struct history *h, int index)
{
    struct history *own = (struct history *)(uintptr_t)h; /* who reads does not write through it */
    switch (index) {
    case 0:
        return (struct ring){own->seconds, HISTORY_SECONDS, 1};
    case 1:
        return (struct ring){own->minutes, HISTORY_MINUTES, 60};
    default:
        return (struct ring){own->hours, HISTORY_HOURS, 3600};
    }
}

/* Slots are numbered from 1, so that an empty one is never of now. */
static int64_t number_at(const struct ring *r, int64_t now_ns)
{
    return now_ns / (r->slot_s * CLOCK_NS_PER_S) + 1;
}

static void sums_add(struct history_sums *to, const struct history_sums *what)
{
    to->n_ended += what->n_ended;
    to->n_successful += what->n_successful;
    to->n_failed += what->n_failed;
    to->n_refused += what->n_refused;
    to->n_started += what->n_started;
    for (int i = 0; i < HISTORY_FORMATS; i++)
        to->n_by_format[i] += what->n_by_format[i];
    for (int i = 0; i < HISTORY_DEVICES; i++)
        to->n_by_device[i] += what->n_by_device[i];
    to->n_in_time += what->n_in_time;
    to->n_tokens += what->n_tokens;
    to->n_steps += what->n_steps;
    to->n_step_sequences += what->n_step_sequences;
    to->n_step_tokens += what->n_step_tokens;
    to->n_fallbacks += what->n_fallbacks;
    to->total_ms += what->total_ms;
    to->queue_ms += what->queue_ms;
    to->running_s += what->running_s;
    to->busy_s += what->busy_s;
}

void history_add(struct history *h, int64_t now_ns, const struct history_sums *what, int64_t (*cpu_ns)(void))
{
    for (int i = 0; i < 3; i++) {
        const struct ring r = ring_of(h, i);
        int64_t number = number_at(&r, now_ns);
        struct history_slot *slot = &r.slots[number % r.n];
        if (slot->number != number)
            *slot = (struct history_slot){.number = number, .began_ns = now_ns, .cpu_ns = cpu_ns()};
        sums_add(&slot->sums, what);
    }
}

struct history_window history_window(const struct history *h, int64_t now_ns, int64_t seconds)
{
    struct history_window w = {.began_ns = -1};
    int i = seconds <= HISTORY_SECONDS ? 0 : seconds <= HISTORY_MINUTES * 60 ? 1 : 2;
    const struct ring r = ring_of(h, i);
    int64_t now = number_at(&r, now_ns), wanted = (seconds + r.slot_s - 1) / r.slot_s, n = wanted < r.n ? wanted : r.n;
    const struct history_slot *oldest = NULL;
    for (int64_t k = 0; k < r.n; k++) {
        const struct history_slot *slot = &r.slots[k];
        if (slot->number == 0 || now - slot->number >= n)
            continue;
        sums_add(&w.sums, &slot->sums);
        if (!oldest || slot->number < oldest->number)
            oldest = slot;
    }
    if (oldest) {
        w.began_ns = oldest->began_ns;
        w.cpu_ns = oldest->cpu_ns;
    }
    return w;
}

struct history_sums history_request(const struct engine_observation *o)
{
    bool failed = o->finish == FINISH_ERROR || (o->finish == FINISH_DEADLINE && o->n_generated_tokens == 0);
    bool good = !failed && o->finish != FINISH_CANCELLED;
    uint32_t hundreds = (o->n_generated_tokens + PROMISED_TOKENS - 1) / PROMISED_TOKENS;
    struct history_sums s = {.n_ended = 1, .n_failed = failed, .n_successful = good, .n_tokens = o->n_generated_tokens};
    s.n_in_time = good && o->total_s <= PROMISED_SECONDS * (hundreds ? hundreds : 1);
    s.total_ms = o->total_s > 0 ? o->total_s * 1e3 : 0;
    if (o->queue_s >= 0) {
        s.n_started = 1;
        s.queue_ms = o->queue_s * 1e3;
        s.running_s = o->total_s > o->queue_s ? o->total_s - o->queue_s : 0;
    }
    return s;
}
