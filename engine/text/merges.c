/* The pair table and the merge loop; see merges.h. */
#include "engine/text/merges.h"

#include "base/id.h"
#include "engine/text/strmap.h"

#include <stdlib.h>

#define END UINT32_MAX
#define FREE UINT64_MAX

static struct merges_slot *new_slots(size_t capacity)
{
    struct merges_slot *slots = malloc(capacity * sizeof *slots);
    for (size_t i = 0; slots != NULL && i < capacity; i++)
        slots[i].pair = FREE;
    return slots;
}

static struct merges_slot *find_slot(const struct merges *m, uint64_t pair)
{
    size_t i = (size_t)strmap_mix(m->seed, pair) & (m->capacity - 1);
    while (m->slots[i].pair != FREE && m->slots[i].pair != pair)
        i = (i + 1) & (m->capacity - 1);
    return &m->slots[i];
}

bool merges_init(struct merges *m, size_t n_expected)
{
    size_t capacity = 16;
    while (capacity / 2 < n_expected)
        capacity *= 2;
    *m = (struct merges){.slots = new_slots(capacity), .capacity = capacity, .seed = id_random_u64()};
    return m->slots != NULL;
}

void merges_fini(struct merges *m)
{
    free(m->slots);
    *m = (struct merges){0};
}

static bool grow_table(struct merges *m)
{
    struct merges bigger = {
        .slots = new_slots(m->capacity * 2), .capacity = m->capacity * 2, .n = m->n, .seed = m->seed};
    if (bigger.slots == NULL)
        return false;
    for (size_t i = 0; i < m->capacity; i++)
        if (m->slots[i].pair != FREE)
            *find_slot(&bigger, m->slots[i].pair) = m->slots[i];
    free(m->slots);
    *m = bigger;
    return true;
}

bool merges_add(struct merges *m, uint32_t left, uint32_t right, uint32_t rank, uint32_t joined)
{
    if (m->n >= m->capacity / 2 && !grow_table(m))
        return false;
    uint64_t pair = (uint64_t)left << 32 | right;
    struct merges_slot *slot = find_slot(m, pair);
    if (slot->pair == FREE) {
        *slot = (struct merges_slot){.pair = pair, .rank = rank, .joined = joined};
        m->n++;
    }
    return true;
}

/* Room for one more element in an array that doubles. */
static bool reserve(void **array, size_t n, size_t *capacity, size_t size)
{
    if (n < *capacity)
        return true;
    size_t bigger = *capacity == 0 ? 64 : *capacity * 2;
    if (bigger > SIZE_MAX / size)
        return false;
    void *grown = realloc(*array, bigger * size);
    if (grown == NULL)
        return false;
    *array = grown;
    *capacity = bigger;
    return true;
}

bool merges_push(struct merges_work *w, uint32_t id, uint32_t start)
{
    if (w->n > INT32_MAX)
        return false;
    void *array = w->symbols;
    if (!reserve(&array, w->n, &w->symbols_capacity, sizeof *w->symbols))
        return false;
    w->symbols = array;
    w->symbols[w->n++] = (struct symbol){.id = id, .start = start, .prev = END, .next = END};
    return true;
}

static bool heap_push(struct merges_work *w, struct merges_candidate c)
{
    void *array = w->heap;
    if (!reserve(&array, w->n_heap, &w->heap_capacity, sizeof *w->heap))
        return false;
    w->heap = array;
    size_t i = w->n_heap++;
    for (; i > 0 && w->heap[(i - 1) / 2].key > c.key; i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = c;
    return true;
}

static struct merges_candidate heap_pop(struct merges_work *w)
{
    struct merges_candidate top = w->heap[0], last = w->heap[--w->n_heap];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= w->n_heap)
            break;
        if (child + 1 < w->n_heap && w->heap[child + 1].key < w->heap[child].key)
            child++;
        if (w->heap[child].key >= last.key)
            break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = last;
    return top;
}

/* Queues the pair that begins at symbol `i`, when it may be joined. */
static bool offer(const struct merges *m, struct merges_work *w, uint32_t i)
{
    if (i == END || w->symbols[i].next == END)
        return true;
    uint32_t left = w->symbols[i].id, right = w->symbols[w->symbols[i].next].id;
    if (left == MERGES_NO_SYMBOL || right == MERGES_NO_SYMBOL)
        return true;
    const struct merges_slot *slot = find_slot(m, (uint64_t)left << 32 | right);
    if (slot->pair == FREE)
        return true;
    return heap_push(w,
                     (struct merges_candidate){
                         .key = (uint64_t)slot->rank << 32 | i, .left = left, .right = right, .joined = slot->joined});
}

/* A queued pair is stale when one of its symbols has been joined to something else since: ids only ever change by growing,
 * and a symbol that was swallowed is given MERGES_NO_SYMBOL, so two equal ids prove it fresh. */
static bool is_fresh(const struct merges_work *w, const struct merges_candidate *c)
{
    const struct symbol *s = &w->symbols[(uint32_t)c->key];
    return s->id == c->left && s->next != END && w->symbols[s->next].id == c->right;
}

static void link_symbols(struct merges_work *w)
{
    for (size_t i = 0; i < w->n; i++) {
        w->symbols[i].prev = i == 0 ? END : (uint32_t)(i - 1);
        w->symbols[i].next = i + 1 == w->n ? END : (uint32_t)(i + 1);
    }
}

bool merges_apply(const struct merges *m, struct merges_work *w)
{
    link_symbols(w);
    w->n_heap = 0;
    for (size_t i = 0; i + 1 < w->n; i++)
        if (!offer(m, w, (uint32_t)i))
            return false;
    while (w->n_heap > 0) {
        struct merges_candidate c = heap_pop(w);
        if (!is_fresh(w, &c))
            continue;
        uint32_t i = (uint32_t)c.key, swallowed = w->symbols[i].next, next = w->symbols[swallowed].next;
        w->symbols[i].id = c.joined;
        w->symbols[i].next = next;
        w->symbols[swallowed].id = MERGES_NO_SYMBOL;
        if (next != END)
            w->symbols[next].prev = i;
        if (!offer(m, w, w->symbols[i].prev) || !offer(m, w, i))
            return false;
    }
    return true;
}

void merges_work_fini(struct merges_work *w)
{
    free(w->symbols);
    free(w->heap);
    *w = (struct merges_work){0};
}
