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
    return n_rows;
}

/* Rows that prompts may have beside n_decodes decodes. */
static size_t prefill_room(const struct scheduler *s, size_t n_decodes)
{
    size_t room = s->max_rows - n_decodes, affordable = SCHEDULER_FIRST_PREFILL;
    if (s->row_ns) {
        affordable = (size_t)((n_decodes ? SCHEDULER_STEP_NS : SCHEDULER_ALONE_NS) / s->row_ns);
        affordable = affordable > n_decodes ? affordable - n_decodes : 0;
    }
    if (affordable < SCHEDULER_MIN_PREFILL)
        affordable = SCHEDULER_MIN_PREFILL;
    return affordable < room ? affordable : room;
}

size_t scheduler_plan(struct scheduler *s, struct scheduler_item *items, size_t n)
{
    for (size_t i = 0; i < n; i++)
        items[i].n_rows = 0;
    size_t n_rows = plan_decodes(s, items, n), room = prefill_room(s, n_rows);
    for (size_t i = 0; i < n && room; i++) {
        if (items[i].decode || items[i].paused)
            continue;
        items[i].n_rows = items[i].n_left < room ? items[i].n_left : (uint32_t)room;
        room -= items[i].n_rows;
        n_rows += items[i].n_rows;
    }
    return n_rows;
}

void scheduler_learn(struct scheduler *s, size_t n_rows, int64_t step_ns)
{
    /* Small steps read all weights for few rows; their time by row says nothing about a prompt's. */
    if (n_rows < SCHEDULER_MIN_PREFILL)
        return;
    int64_t row_ns = step_ns / (int64_t)n_rows;
    s->row_ns = s->row_ns ? s->row_ns + (row_ns - s->row_ns) / 4 : row_ns;
    if (s->row_ns < 1)
        s->row_ns = 1;
}
