/* See automaton.h. A thread is packed as node (20 bits), state of the character (16 bits), frame (28 bits). */
#include "engine/grammar/automaton.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FRAMES (1u << 24)
#define FORK_STATE 0xFFFFu /* of a place that is not in a character, in `seen` and `todo` */

static uint64_t pack(uint32_t node, uint32_t state, uint32_t frame)
{
    return (uint64_t)node << 44 | (uint64_t)state << 28 | frame;
}

static uint32_t node_of(uint64_t thread)
{
    return (uint32_t)(thread >> 44);
}

static uint32_t char_state_of(uint64_t thread)
{
    return (uint32_t)(thread >> 28) & 0xFFFF;
}

static uint32_t frame_of(uint64_t thread)
{
    return (uint32_t)thread & 0xFFFFFFF;
}

static uint64_t mix(uint64_t a, uint64_t b)
{
    a = (a ^ (b + UINT64_C(0x9e3779b97f4a7c15))) * UINT64_C(0xbf58476d1ce4e5b9);
    a = (a ^ (a >> 32)) * UINT64_C(0x94d049bb133111eb);
    return a ^ (a >> 29);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* Makes room for n more of `size` bytes; false when memory is out. */
static bool reserve(void *array, size_t *capacity, size_t n_needed, size_t size)
{
    void **p = array;
    size_t n = *capacity ? *capacity : 64;
    while (n < n_needed)
        n *= 2;
    if (n == *capacity)
        return true;
    void *more = realloc(*p, n * size);
    if (!more)
        return false;
    *p = more;
    *capacity = n;
    return true;
}

size_t automaton_memory_bytes(const struct automaton *a)
{
    return a->n_states * (sizeof *a->states + a->grammar->n_classes * sizeof *a->next) +
           a->n_threads * sizeof *a->threads + a->n_frames * sizeof *a->frames +
           (a->state_table.n_slots + a->frame_table.n_slots) * sizeof(uint32_t);
}

/* Doubles a table, whose entries are hashed by `hash`. */
static bool grow_table(struct automaton *a, struct table *t, size_t n,
                       uint64_t (*hash)(const struct automaton *, uint32_t))
{
    size_t n_slots = t->n_slots ? 2 * t->n_slots : 64;
    uint32_t *slots = calloc(n_slots, sizeof *slots);
    if (!slots)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        size_t at = (size_t)hash(a, i) & (n_slots - 1);
        while (slots[at])
            at = (at + 1) & (n_slots - 1);
        slots[at] = i + 1;
    }
    free(t->slots);
    *t = (struct table){slots, n_slots};
    return true;
}

/* ---- frames ------------------------------------------------------------------------------------------------------ */

static uint64_t hash_frame(const struct automaton *a, uint32_t f)
{
    return mix(a->frames[f].back, a->frames[f].parent);
}

/* The frame that goes back to node `back` in frame `parent`. UINT32_MAX when there can be no more. */
static uint32_t frame_with(struct automaton *a, uint32_t back, uint32_t parent)
{
    if (2 * (a->n_frames + 1) > a->frame_table.n_slots && !grow_table(a, &a->frame_table, a->n_frames, hash_frame))
        return UINT32_MAX;
    size_t mask = a->frame_table.n_slots - 1, at = (size_t)mix(back, parent) & mask;
    for (; a->frame_table.slots[at]; at = (at + 1) & mask) {
        uint32_t f = a->frame_table.slots[at] - 1;
        if (a->frames[f].back == back && a->frames[f].parent == parent)
            return f;
    }
    if (a->n_frames >= MAX_FRAMES || !reserve(&a->frames, &a->frames_capacity, a->n_frames + 1, sizeof *a->frames))
        return UINT32_MAX;
    a->frames[a->n_frames] = (struct frame){back, parent, a->n_frames ? a->frames[parent].depth + 1 : 0};
    a->frame_table.slots[at] = (uint32_t)a->n_frames + 1;
    return (uint32_t)a->n_frames++;
}

/* ---- making a state ---------------------------------------------------------------------------------------------- */

static void begin_state(struct automaton_work *w, size_t n_threads)
{
    w->budget -= w->budget > n_threads ? n_threads : w->budget;
    w->n_made = w->n_todo = 0;
    w->accepting = false;
    w->failed = w->budget == 0;
    if (++w->stamp == 0) {
        memset(w->stamps, 0, sizeof w->stamps);
        w->stamp = 1;
    }
}

static bool fail(struct automaton_work *w)
{
    w->failed = true;
    return false;
}

/* True when it was not there; false too when there is no more room. */
static bool see(struct automaton_work *w, uint64_t key)
{
    const size_t mask = 2 * AUTOMATON_MAX_THREADS - 1;
    size_t at = (size_t)mix(key, 0) & mask, n = 0;
    for (; w->stamps[at] == w->stamp; at = (at + 1) & mask)
        if (w->seen[at] == key || ++n == AUTOMATON_MAX_THREADS)
            return w->seen[at] == key ? false : fail(w);
    w->stamps[at] = w->stamp;
    w->seen[at] = key;
    return true;
}

static void add_thread(struct automaton_work *w, uint64_t thread)
{
    if (!see(w, thread))
        return;
    w->budget -= w->budget > 0;
    if (w->n_made == AUTOMATON_MAX_THREADS)
        fail(w);
    else
        w->made[w->n_made++] = thread;
}

/* A place to go on from, unless the rule could not be ended from there any more. */
static void add_place(struct automaton *a, uint32_t node, uint32_t frame)
{
    struct automaton_work *w = a->work;
    if (a->grammar->needs[node] + a->frames[frame].depth > GRAMMAR_MAX_DEPTH || !see(w, pack(node, FORK_STATE, frame)))
        return;
    if (w->n_todo == AUTOMATON_MAX_THREADS)
        fail(w);
    else
        w->todo[w->n_todo++] = pack(node, 0, frame);
}

static void add_call(struct automaton *a, const struct node *n, uint32_t frame)
{
    uint32_t inner = n->next == GRAMMAR_END ? frame : frame_with(a, n->next, frame); /* nothing to come back for */
    if (inner == UINT32_MAX)
        fail(a->work);
    else
        add_place(a, n->other, inner);
}

/* All threads that are reached from a place without reading. */
static void add_closure(struct automaton *a, uint32_t node, uint32_t frame)
{
    struct automaton_work *w = a->work;
    add_place(a, node, frame);
    while (w->n_todo > 0 && !w->failed) {
        uint64_t place = w->todo[--w->n_todo];
        const struct node *n = &a->grammar->nodes[node_of(place)];
        uint32_t f = frame_of(place);
        switch (n->kind) {
        case NODE_CHARS:
            add_thread(w, pack(node_of(place), n->state, f));
            break;
        case NODE_FORK:
            add_place(a, n->next, f);
            add_place(a, n->other, f);
            break;
        case NODE_CALL:
            add_call(a, n, f);
            break;
        default:
            if (f == 0)
                w->accepting = true;
            else
                add_place(a, a->frames[f].back, a->frames[f].parent);
        }
    }
}

static int by_value(const void *x, const void *y)
{
    uint64_t a = *(const uint64_t *)x, b = *(const uint64_t *)y;
    return a < b ? -1 : a > b;
}

static uint64_t hash_threads(const uint64_t *threads, size_t n, bool accepting)
{
    uint64_t h = accepting;
    for (size_t i = 0; i < n; i++)
        h = mix(h, threads[i]);
    return h;
}

static uint64_t hash_state(const struct automaton *a, uint32_t s)
{
    return hash_threads(a->threads + a->states[s].first_thread, a->states[s].n_threads, a->states[s].accepting);
}

static bool is_made(const struct automaton *a, uint32_t s)
{
    const struct state *x = &a->states[s];
    return x->n_threads == a->work->n_made && x->accepting == a->work->accepting &&
           memcmp(a->threads + x->first_thread, a->work->made, a->work->n_made * sizeof *a->work->made) == 0;
}

static bool reserve_state(struct automaton *a)
{
    size_t n_classes = a->grammar->n_classes, capacity = a->states_capacity, same = capacity;
    if (automaton_memory_bytes(a) > AUTOMATON_MAX_BYTES ||
        (2 * (a->n_states + 1) > a->state_table.n_slots && !grow_table(a, &a->state_table, a->n_states, hash_state)))
        return false;
    if (!reserve(&a->states, &capacity, a->n_states + 1, sizeof *a->states) ||
        !reserve(&a->next, &same, a->n_states + 1, n_classes * sizeof *a->next))
        return false;
    a->states_capacity = capacity;
    return reserve(&a->threads, &a->threads_capacity, a->n_threads + a->work->n_made, sizeof *a->threads);
}

/* The state of the threads that were made. */
static uint32_t end_state(struct automaton *a)
{
    struct automaton_work *w = a->work;
    size_t n_classes = a->grammar->n_classes;
    if (!w->failed && w->n_made == 0 && !w->accepting)
        return AUTOMATON_DEAD;
    if (w->failed || !reserve_state(a))
        return AUTOMATON_FAILED;
    qsort(w->made, w->n_made, sizeof *w->made, by_value);
    size_t mask = a->state_table.n_slots - 1, at = (size_t)hash_threads(w->made, w->n_made, w->accepting) & mask;
    for (; a->state_table.slots[at]; at = (at + 1) & mask)
        if (is_made(a, a->state_table.slots[at] - 1))
            return a->state_table.slots[at] - 1;
    uint32_t s = (uint32_t)a->n_states++;
    a->state_table.slots[at] = s + 1;
    a->states[s] = (struct state){(uint32_t)a->n_threads, (uint32_t)w->n_made, w->accepting, UINT32_MAX};
    memcpy(a->threads + a->n_threads, w->made, w->n_made * sizeof *w->made);
    a->n_threads += w->n_made;
    for (size_t c = 0; c < n_classes; c++)
        a->next[s * n_classes + c] = AUTOMATON_UNKNOWN;
    return s;
}

uint32_t automaton_start(struct automaton *a)
{
    if (a->n_frames == 0 && frame_with(a, GRAMMAR_END, 0) != 0)
        return AUTOMATON_FAILED;
    begin_state(a->work, 1);
    add_closure(a, a->grammar->start, 0);
    return end_state(a);
}

uint32_t automaton_make(struct automaton *a, uint32_t state, uint32_t class)
{
    const struct grammar *g = a->grammar;
    const struct state s = a->states[state];
    begin_state(a->work, s.n_threads + 1);
    for (uint32_t i = 0; i < s.n_threads && !a->work->failed; i++) {
        uint64_t thread = a->threads[s.first_thread + i];
        uint32_t node = node_of(thread), frame = frame_of(thread);
        uint16_t next = g->next[char_state_of(thread) * g->n_classes + class];
        if (next == CHARS_DONE)
            add_closure(a, g->nodes[node].next, frame);
        else if (next != CHARS_DEAD)
            add_thread(a->work, pack(node, next, frame));
    }
    uint32_t made = end_state(a);
    if (made != AUTOMATON_FAILED)
        a->next[state * g->n_classes + class] = made;
    return made;
}

/* ---- open and close ---------------------------------------------------------------------------------------------- */

struct automaton *automaton_open(struct grammar *g, struct automaton_work *work)
{
    struct automaton *a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    a->grammar = grammar_ref(g);
    a->work = work;
    return a;
}

void automaton_clear(struct automaton *a)
{
    free(a->states);
    free(a->next);
    free(a->threads);
    free(a->frames);
    free(a->state_table.slots);
    free(a->frame_table.slots);
    a->states = NULL;
    a->next = NULL;
    a->threads = NULL;
    a->frames = NULL;
    a->state_table = a->frame_table = (struct table){0};
    a->n_states = a->n_threads = a->n_frames = 0;
    a->states_capacity = a->threads_capacity = a->frames_capacity = 0;
    a->epoch++;
}

void automaton_close(struct automaton *a)
{
    if (!a)
        return;
    automaton_clear(a);
    grammar_release(a->grammar);
    free(a);
}

enum grammar_match grammar_match(struct grammar *g, const char *text, size_t n_bytes)
{
    struct automaton_work *work = calloc(1, sizeof *work);
    struct automaton *a = work ? automaton_open(g, work) : NULL;
    if (work)
        work->budget = SIZE_MAX;
    uint32_t state = a ? automaton_start(a) : AUTOMATON_FAILED;
    for (size_t i = 0; i < n_bytes && state < AUTOMATON_FAILED; i++)
        state = automaton_next(a, state, (uint8_t)text[i]);
    enum grammar_match match = state >= AUTOMATON_FAILED    ? GRAMMAR_NO
                               : a->states[state].accepting ? GRAMMAR_WHOLE
                                                            : GRAMMAR_BEGINS;
    automaton_close(a);
    free(work);
    return match;
}
