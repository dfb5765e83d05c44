/*
 * Expressions to a program, and the proofs that the program may be run: no rule begins with itself, and of each node it is known how
 * deep calls must at least nest from there to the end, so that nothing is begun that could not be ended within GRAMMAR_MAX_DEPTH.
 */
#include "engine/grammar/builder.h"
#include "engine/grammar/program.h"

#include <stdlib.h>
#include <string.h>

#define MAX_NESTING 1000 /* of expressions */
#define UNSET UINT32_MAX

struct compiler {
    struct grammar_builder *b;
    struct grammar *g;
    size_t capacity;
    uint32_t *starts;  /* [n_rules] their first nodes, UNSET before */
    uint8_t *nullable; /* [n_nodes] the end of the rule can be reached without reading */
    const char *failure;
};

static uint32_t new_node(struct compiler *c, struct node n)
{
    struct grammar *g = c->g;
    if (g->n_nodes == c->capacity) {
        size_t capacity = c->capacity ? 2 * c->capacity : 1024;
        void *more = capacity <= GRAMMAR_MAX_NODES ? realloc(g->nodes, capacity * sizeof *g->nodes) : NULL;
        if (!more) {
            c->failure = "the grammar is too large";
            return GRAMMAR_END;
        }
        g->nodes = more;
        c->capacity = capacity;
    }
    g->nodes[g->n_nodes] = n;
    return g->n_nodes++;
}

/* ---- expressions to nodes: from the end to the beginning, so that each knows what follows it ---------------------- */

static uint32_t emit(struct compiler *c, uint32_t e, uint32_t next, int depth);

static uint32_t emit_text(struct compiler *c, const struct expression *x, uint32_t next)
{
    for (uint32_t i = x->b; i-- > 0 && !c->failure;) {
        uint16_t state = char_table_byte(&c->b->chars, (uint8_t)c->b->texts.data[x->a + i]);
        next = new_node(c, (struct node){NODE_CHARS, state, next, 0});
    }
    return next;
}

static uint32_t emit_repeat(struct compiler *c, const struct expression *x, uint32_t next, int depth)
{
    uint32_t at = next;
    if (x->c == GRAMMAR_UNBOUNDED) {
        at = new_node(c, (struct node){NODE_FORK, 0, next, next});
        uint32_t body = emit(c, x->a, at, depth);
        if (!c->failure)
            c->g->nodes[at].other = body;
    }
    for (uint32_t i = x->b; x->c != GRAMMAR_UNBOUNDED && i < x->c && !c->failure; i++)
        at = new_node(c, (struct node){NODE_FORK, 0, next, emit(c, x->a, at, depth)});
    for (uint32_t i = 0; i < x->b && !c->failure; i++)
        at = emit(c, x->a, at, depth);
    return at;
}

/* The first node of expression e followed by node `next`. */
static uint32_t emit(struct compiler *c, uint32_t e, uint32_t next, int depth)
{
    if (depth > MAX_NESTING)
        c->failure = "the grammar is nested too deeply";
    for (; !c->failure;) {
        const struct expression *x = &c->b->expressions[e];
        switch ((enum expression_kind)x->kind) {
        case EXPRESSION_EMPTY:
            return next;
        case EXPRESSION_TEXT:
            return emit_text(c, x, next);
        case EXPRESSION_CHARS:
            return new_node(c, (struct node){NODE_CHARS, (uint16_t)x->a, next, 0});
        case EXPRESSION_SEQUENCE: /* the left side goes on here, so that long lists do not nest */
            next = emit(c, x->b, next, depth + 1);
            e = x->a;
            break;
        case EXPRESSION_CHOICE: {
            uint32_t other = emit(c, x->b, next, depth + 1);
            for (; !c->failure && c->b->expressions[x->a].kind == EXPRESSION_CHOICE;) { /* nor do long choices */
                x = &c->b->expressions[x->a];
                other = new_node(c, (struct node){NODE_FORK, 0, other, emit(c, x->b, next, depth + 1)});
            }
            return new_node(c, (struct node){NODE_FORK, 0, emit(c, x->a, next, depth + 1), other});
        }
        case EXPRESSION_REPEAT:
            return emit_repeat(c, x, next, depth + 1);
        case EXPRESSION_CALL:
            return new_node(c, (struct node){NODE_CALL, 0, next, x->a}); /* linked when all rules are there */
        }
    }
    return GRAMMAR_END;
}

static void emit_rules(struct compiler *c)
{
    new_node(c, (struct node){.kind = NODE_END});
    for (size_t r = 0; r < c->b->n_rules && !c->failure; r++)
        c->starts[r] = emit(c, c->b->rules[r], GRAMMAR_END, 0);
    for (uint32_t i = 0; i < c->g->n_nodes && !c->failure; i++)
        if (c->g->nodes[i].kind == NODE_CALL)
            c->g->nodes[i].other = c->starts[c->g->nodes[i].other];
}

/* ---- proofs ------------------------------------------------------------------------------------------------------ */

static uint16_t deeper(uint16_t need)
{
    return need >= GRAMMAR_MAX_DEPTH ? GRAMMAR_HOPELESS : (uint16_t)(need + 1);
}

static uint16_t need_of(const struct grammar *g, const struct node *n)
{
    uint16_t next = g->needs[n->next], other = g->needs[n->other];
    switch (n->kind) {
    case NODE_CHARS:
        return n->state == CHARS_DEAD ? GRAMMAR_HOPELESS : next;
    case NODE_FORK:
        return next < other ? next : other;
    case NODE_CALL:
        other = n->next == GRAMMAR_END ? other : deeper(other); /* a call at the end takes its rule's place */
        return next > other ? next : other;
    default:
        return 0;
    }
}

static uint8_t nullable_of(const struct compiler *c, const struct node *n)
{
    switch (n->kind) {
    case NODE_FORK:
        return c->nullable[n->next] || c->nullable[n->other];
    case NODE_CALL:
        return c->nullable[n->next] && c->nullable[n->other];
    default:
        return n->kind == NODE_END;
    }
}

/* Least solutions, by going over the nodes until nothing changes. Most nodes come after what they lead to. */
static void solve(struct compiler *c)
{
    struct grammar *g = c->g;
    for (uint32_t i = 0; i < g->n_nodes; i++)
        g->needs[i] = GRAMMAR_HOPELESS;
    for (bool changed = true; changed;) {
        changed = false;
        for (uint32_t i = 0; i < g->n_nodes; i++) {
            uint16_t need = need_of(g, &g->nodes[i]);
            uint8_t nullable = nullable_of(c, &g->nodes[i]);
            changed |= need != g->needs[i] || nullable != c->nullable[i];
            g->needs[i] = need;
            c->nullable[i] = nullable;
        }
    }
}

/* What can be reached from a rule's beginning without reading: a rule that is met again below itself begins with itself. */
struct walk {
    const struct compiler *c;
    uint8_t *seen;                                         /* [n_nodes] */
    uint32_t *stack;                                       /* what is free of it; each node is on it once at most */
    enum { RULE_NEW, RULE_OPEN, RULE_GOOD } * rule_states; /* [n_nodes] by their first nodes */
    bool found;
};

static void walk_rule(struct walk *w, uint32_t start)
{
    uint32_t *stack = w->stack, n = 0;
    w->found |= w->rule_states[start] == RULE_OPEN;
    if (w->rule_states[start] != RULE_NEW)
        return;
    w->rule_states[start] = RULE_OPEN;
    w->seen[start] = 1;
    stack[n++] = start;
    while (n > 0 && !w->found) {
        const struct node *node = &w->c->g->nodes[stack[--n]];
        bool passes = node->kind == NODE_FORK || (node->kind == NODE_CALL && w->c->nullable[node->other]);
        if (passes && !w->seen[node->next]) {
            w->seen[node->next] = 1;
            stack[n++] = node->next;
        }
        if (node->kind == NODE_FORK && !w->seen[node->other]) {
            w->seen[node->other] = 1;
            stack[n++] = node->other;
        }
        if (node->kind == NODE_CALL) {
            w->stack = stack + n;
            walk_rule(w, node->other); /* nests at most as deep as there are rules */
            w->stack = stack;
        }
    }
    w->rule_states[start] = RULE_GOOD;
}

static void refuse_left_recursion(struct compiler *c)
{
    size_t n = c->g->n_nodes;
    struct walk w = {.c = c,
                     .seen = calloc(n, 1),
                     .stack = calloc(n + 1, sizeof *w.stack),
                     .rule_states = calloc(n, sizeof *w.rule_states)};
    uint32_t *stack = w.stack;
    if (!w.seen || !w.stack || !w.rule_states)
        c->failure = "no memory";
    for (size_t r = 0; r < c->b->n_rules && !c->failure && !w.found; r++)
        walk_rule(&w, c->starts[r]);
    if (w.found)
        c->failure = "a rule of the grammar begins with itself";
    free(w.seen);
    free(stack);
    free(w.rule_states);
}

/* ---- classes of bytes --------------------------------------------------------------------------------------------- */

/* Bytes are alike when all states treat them alike. Class numbers are in order of the first byte of each. */
static void classify(struct grammar *g, const struct char_table *t)
{
    uint64_t hashes[256];
    g->n_classes = 0;
    for (int b = 0; b < 256; b++) {
        hashes[b] = 0;
        for (size_t s = 0; s < t->n; s++)
            hashes[b] = kernel_hash(hashes[b], &t->next[s][b], sizeof t->next[s][b]);
        int same = 0;
        for (; same < b; same++) {
            size_t s = 0;
            while (hashes[same] == hashes[b] && s < t->n && t->next[s][same] == t->next[s][b])
                s++;
            if (hashes[same] == hashes[b] && s == t->n)
                break;
        }
        g->class_of[b] = same < b ? g->class_of[same] : (uint8_t)g->n_classes++;
    }
}

static bool copy_table(struct grammar *g, const struct char_table *t)
{
    classify(g, t);
    g->n_states = (uint32_t)t->n;
    g->next = calloc(t->n * g->n_classes + 1, sizeof *g->next);
    for (size_t s = 0; g->next && s < t->n; s++)
        for (int b = 0; b < 256; b++)
            g->next[s * g->n_classes + g->class_of[b]] = t->next[s][b];
    return g->next != NULL;
}

/* ---- public ------------------------------------------------------------------------------------------------------ */

static void finish(struct compiler *c, uint32_t start)
{
    struct grammar *g = c->g;
    g->needs = calloc(g->n_nodes, sizeof *g->needs);
    c->nullable = calloc(g->n_nodes, 1);
    if (!g->needs || !c->nullable || !copy_table(g, &c->b->chars)) {
        c->failure = "no memory";
        return;
    }
    solve(c);
    refuse_left_recursion(c);
    g->start = c->starts[start];
    if (!c->failure && g->needs[g->start] == GRAMMAR_HOPELESS)
        c->failure = "no text is possible";
    g->memory_bytes = sizeof *g + g->n_nodes * (sizeof *g->nodes + sizeof *g->needs) +
                      (size_t)g->n_states * g->n_classes * sizeof *g->next;
}

enum error_code grammar_compile(struct grammar_builder *b, uint32_t start, struct grammar **out, struct error *err)
{
    struct compiler c = {.b = b, .g = calloc(1, sizeof *c.g), .starts = calloc(b->n_rules + 1, sizeof *c.starts)};
    if (b->error.code)
        c.failure = b->error.message;
    else if (start >= b->n_rules)
        c.failure = "the grammar has no such rule";
    else if (!c.g || !c.starts)
        c.failure = "no memory";
    if (!c.failure)
        emit_rules(&c);
    if (!c.failure && b->chars.failed)
        c.failure = "the characters of the grammar are too many";
    if (!c.failure)
        finish(&c, start);
    free(c.starts);
    free(c.nullable);
    if (c.g)
        atomic_init(&c.g->n_references, 1);
    if (c.failure) {
        grammar_release(c.g);
        return error_set(err, b->error.code ? b->error.code : ERROR_VALIDATION_FAILED, "%s", c.failure);
    }
    *out = c.g;
    return ERROR_NONE;
}

struct grammar *grammar_ref(struct grammar *g)
{
    atomic_fetch_add_explicit(&g->n_references, 1, memory_order_relaxed);
    return g;
}

void grammar_release(struct grammar *g)
{
    if (!g || atomic_fetch_sub_explicit(&g->n_references, 1, memory_order_acq_rel) > 1)
        return;
    free(g->next);
    free(g->needs);
    free(g->nodes);
    free(g);
}

size_t grammar_memory_bytes(const struct grammar *g)
{
    return g->memory_bytes;
}
