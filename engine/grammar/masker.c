/* See masker.h. */
#include "engine/grammar/masker.h"

#include <stdlib.h>
#include <string.h>

#define MASK_BYTES ((size_t)32 << 20) /* of all masks, unless the sequences need more */
#define MAX_MASKS 2048
#define IDLE_AUTOMATA 32 /* kept for requests to come */
/* Of all automata; beyond, they are cleared, which costs their sequences the way back. One grows by AUTOMATON_MAX_BYTES at most between
 * two looks. */
#define AUTOMATA_BYTES ((size_t)64 << 20)
#define AUTOMATON_BYTES (AUTOMATON_MAX_BYTES / 2)
/* Threads that may be looked at for one mask, and for one way back: what these take holds up all sequences. */
#define MASK_BUDGET 500000
#define PLACE_BUDGET 4000000

struct entry {
    struct automaton *automaton;
    uint32_t n_users;
    uint64_t used;
};

struct masker {
    const struct tokenizer *tokenizer;
    struct trie trie;
    uint32_t *path; /* [max_depth + 1] states on the way from the root */
    struct automaton_work work;
    struct entry *entries; /* [n_entries] */
    size_t n_entries, entries_capacity;
    size_t n_words;           /* of a mask */
    struct token_mask *masks; /* [n_masks] */
    uint64_t *words;          /* [n_masks][n_words] */
    size_t n_masks;
    uint64_t now; /* counts uses */
};

enum error_code masker_open(const struct tokenizer *t, uint32_t n_vocab, size_t n_sequences, struct masker **out,
                            struct error *err)
{
    struct masker *m = calloc(1, sizeof *m);
    if (m && trie_open(&m->trie, t, n_vocab)) {
        m->tokenizer = t;
        m->n_words = ((size_t)n_vocab + 63) / 64;
        m->n_masks = MASK_BYTES / (m->n_words * sizeof *m->words + 1);
        m->n_masks = m->n_masks > MAX_MASKS ? MAX_MASKS : m->n_masks;
        m->n_masks = m->n_masks < 2 * n_sequences ? 2 * n_sequences : m->n_masks;
        m->path = calloc(m->trie.max_depth + 1, sizeof *m->path);
        m->masks = calloc(m->n_masks, sizeof *m->masks);
        m->words = calloc(m->n_masks * m->n_words, sizeof *m->words); /* touched as masks are made */
    }
    if (!m || !m->path || !m->masks || !m->words) {
        masker_close(m);
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the masks of a vocabulary of %u tokens", n_vocab);
    }
    for (size_t i = 0; i < m->n_masks; i++)
        m->masks[i].allowed = m->words + i * m->n_words;
    *out = m;
    return ERROR_NONE;
}

void masker_close(struct masker *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->n_entries; i++)
        automaton_close(m->entries[i].automaton);
    free(m->entries);
    free(m->words);
    free(m->masks);
    free(m->path);
    trie_close(&m->trie);
    free(m);
}

size_t masker_memory_bytes(const struct masker *m)
{
    return sizeof *m + m->n_masks * (m->n_words * sizeof *m->words + sizeof *m->masks) +
           m->trie.n_nodes * sizeof *m->trie.nodes + m->trie.n_tokens * sizeof *m->trie.order;
}

/* ---- automata ---------------------------------------------------------------------------------------------------- */

static void drop(struct masker *m, size_t i)
{
    struct automaton *a = m->entries[i].automaton;
    for (size_t k = 0; k < m->n_masks; k++)
        m->masks[k].owner = m->masks[k].owner == a ? NULL : m->masks[k].owner;
    automaton_close(a);
    m->entries[i] = m->entries[--m->n_entries];
}

/* Drops the one that has been idle for the longest time, when there are too many. */
static void drop_idle(struct masker *m)
{
    size_t n_idle = 0, oldest = 0;
    for (size_t i = 0; i < m->n_entries; i++) {
        if (m->entries[i].n_users > 0)
            continue;
        oldest = n_idle++ == 0 || m->entries[i].used < m->entries[oldest].used ? i : oldest;
    }
    if (n_idle > IDLE_AUTOMATA)
        drop(m, oldest);
}

static struct entry *add_entry(struct masker *m, struct grammar *g)
{
    if (m->n_entries == m->entries_capacity) {
        size_t capacity = m->entries_capacity ? 2 * m->entries_capacity : 16;
        void *more = realloc(m->entries, capacity * sizeof *m->entries);
        if (!more)
            return NULL;
        m->entries = more;
        m->entries_capacity = capacity;
    }
    struct automaton *a = automaton_open(g, &m->work);
    if (!a)
        return NULL;
    m->entries[m->n_entries] = (struct entry){.automaton = a};
    return &m->entries[m->n_entries++];
}

bool matcher_start(struct masker *m, struct grammar *g, struct matcher *x)
{
    struct entry *e = NULL;
    for (size_t i = 0; i < m->n_entries && !e; i++)
        e = m->entries[i].automaton->grammar == g ? &m->entries[i] : NULL;
    if (!e)
        e = add_entry(m, g);
    *x = (struct matcher){0};
    if (!e)
        return false;
    e->n_users++;
    e->used = ++m->now;
    *x = (struct matcher){.automaton = e->automaton,
                          .epoch = e->automaton->epoch - 1}; /* the place is found at the first look */
    return true;
}

void matcher_stop(struct masker *m, struct matcher *x)
{
    for (size_t i = 0; i < m->n_entries && x->automaton; i++)
        if (m->entries[i].automaton == x->automaton)
            m->entries[i].n_users--;
    *x = (struct matcher){0};
    drop_idle(m);
}

static void bound_memory(struct masker *m, struct automaton *a)
{
    size_t n_bytes = 0;
    for (size_t i = 0; i < m->n_entries; i++)
        n_bytes += automaton_memory_bytes(m->entries[i].automaton);
    if (n_bytes > AUTOMATA_BYTES)
        for (size_t i = 0; i < m->n_entries; i++)
            automaton_clear(m->entries[i].automaton);
    else if (automaton_memory_bytes(a) > AUTOMATON_BYTES)
        automaton_clear(a);
}

/* ---- places ------------------------------------------------------------------------------------------------------ */

static bool is_state(uint32_t state)
{
    return state < AUTOMATON_FAILED;
}

static uint32_t push_token(const struct masker *m, struct automaton *a, uint32_t state, uint32_t id)
{
    size_t n_bytes = 0;
    const char *text = tokenizer_text(m->tokenizer, id, &n_bytes);
    for (size_t i = 0; i < n_bytes && is_state(state); i++)
        state = automaton_next(a, state, (uint8_t)text[i]);
    return state;
}

/* Finds the place again when the states have been forgotten. False when there is none. */
static bool find(const struct masker *m, struct matcher *x, const uint32_t *ids, size_t n)
{
    struct automaton *a = x->automaton;
    if (x->epoch == a->epoch)
        return is_state(x->state);
    x->epoch = a->epoch;
    a->work->budget = PLACE_BUDGET;
    x->state = automaton_start(a);
    for (size_t i = 0; i < n && is_state(x->state); i++)
        x->state = push_token(m, a, x->state, ids[i]);
    return is_state(x->state);
}

bool matcher_push(struct masker *m, struct matcher *x, const uint32_t *ids, size_t n)
{
    if (!x->automaton || !find(m, x, ids, n - 1))
        return false;
    m->work.budget = PLACE_BUDGET;
    x->state = push_token(m, x->automaton, x->state, ids[n - 1]);
    return is_state(x->state) && automaton_is_over(x->automaton, x->state);
}

uint32_t matcher_follow(struct masker *m, struct matcher *x, const uint32_t *ids, size_t n, uint32_t n_more)
{
    uint32_t state, i = 0;
    size_t n_bytes;
    if (!x->automaton || !find(m, x, ids, n))
        return 0;
    m->work.budget = PLACE_BUDGET;
    for (state = x->state; i < n_more && tokenizer_text(m->tokenizer, ids[n + i], &n_bytes); i++)
        if (!is_state(state = push_token(m, x->automaton, state, ids[n + i])))
            break;
    return i;
}

/* ---- masks ------------------------------------------------------------------------------------------------------- */

static void allow(struct token_mask *mask, uint32_t id)
{
    mask->allowed[id / 64] |= UINT64_C(1) << id % 64;
    mask->n_allowed++;
}

/* Tries all tokens. False when the automaton cannot grow as far. */
static bool fill(struct masker *m, struct automaton *a, uint32_t state, struct token_mask *mask)
{
    const struct trie *t = &m->trie;
    memset(mask->allowed, 0, m->n_words * sizeof *mask->allowed);
    mask->n_allowed = 0;
    m->work.budget = MASK_BUDGET;
    m->path[0] = state;
    for (uint32_t i = 0; i < t->n_nodes;) {
        const struct trie_node *node = &t->nodes[i];
        uint32_t next = automaton_next(a, m->path[node->depth - 1], node->byte);
        if (next == AUTOMATON_DEAD) {
            i = node->skip;
            continue;
        }
        if (next == AUTOMATON_FAILED)
            return false;
        m->path[node->depth] = next;
        for (uint32_t k = node->first_token; k < node[1].first_token; k++)
            allow(mask, t->order[k]);
        i++;
    }
    for (uint32_t i = 0; i < t->n_ends && a->states[state].accepting; i++)
        allow(mask, t->ends[i]);
    return true;
}

/* The mask that has not been used for the longest time. Free or not: one whose state was forgotten may still be read in this step. */
static struct token_mask *take_mask(struct masker *m)
{
    struct token_mask *oldest = &m->masks[0];
    for (size_t i = 0; i < m->n_masks && oldest->used > 0; i++)
        oldest = m->masks[i].used < oldest->used ? &m->masks[i] : oldest;
    if (oldest->owner && oldest->owner->epoch == oldest->epoch)
        oldest->owner->states[oldest->state].mask = UINT32_MAX;
    oldest->owner = NULL;
    return oldest;
}

const struct token_mask *matcher_mask(struct masker *m, struct matcher *x, const uint32_t *ids, size_t n)
{
    struct automaton *a = x->automaton;
    if (!a)
        return NULL;
    bound_memory(m, a);
    if (!find(m, x, ids, n))
        return NULL;
    uint32_t number = a->states[x->state].mask;
    struct token_mask *mask = number != UINT32_MAX ? &m->masks[number] : take_mask(m);
    if (number == UINT32_MAX) {
        if (!fill(m, a, x->state, mask)) {
            automaton_clear(a);
            return NULL;
        }
        mask->owner = a;
        mask->state = x->state;
        mask->epoch = a->epoch;
        a->states[x->state].mask = (uint32_t)(mask - m->masks);
    }
    mask->used = ++m->now;
    return mask;
}
