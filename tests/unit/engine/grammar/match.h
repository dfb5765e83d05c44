/* What the tests of grammars share: a grammar from a pattern, and what it says of a text. */
#ifndef TESTS_UNIT_ENGINE_GRAMMAR_MATCH_H
#define TESTS_UNIT_ENGINE_GRAMMAR_MATCH_H

#include "engine/grammar/automaton.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

/* The grammar of one expression; closes the builder. */
static inline struct grammar *match_compile(struct grammar_builder *b, uint32_t e)
{
    struct grammar *g = NULL;
    struct error err = {0};
    uint32_t rule = grammar_rule(b);
    grammar_rule_set(b, rule, e);
    ck_assert_msg(!grammar_compile(b, rule, &g, &err), "%s", err.message);
    grammar_builder_close(b);
    return g;
}

/* NULL and *err when the pattern is refused. */
static inline struct grammar *match_regex(const char *pattern, bool search, bool in_json, struct error *err)
{
    struct grammar_builder *b = grammar_builder_open();
    uint32_t e;
    *err = (struct error){0};
    if (grammar_regex(b, pattern, strlen(pattern), search, in_json, &e, err)) {
        grammar_builder_close(b);
        return NULL;
    }
    return match_compile(b, e);
}

static inline struct automaton *match_open(struct grammar *g)
{
    struct automaton *a = automaton_open(g, calloc(1, sizeof(struct automaton_work)));
    ck_assert_ptr_nonnull(a);
    return a;
}

static inline void match_close(struct automaton *a)
{
    struct automaton_work *work = a->work;
    automaton_close(a);
    free(work);
}

enum match { MATCH_NO, MATCH_PREFIX, MATCH_WHOLE };

/* Whether the text is one of the grammar, or could become one. */
static inline enum match match_text(struct automaton *a, const char *text, size_t n_bytes)
{
    uint32_t state = automaton_start(a);
    for (size_t i = 0; i < n_bytes && state != AUTOMATON_DEAD; i++) {
        ck_assert_uint_ne(state, AUTOMATON_FAILED);
        state = automaton_next(a, state, (uint8_t)text[i]);
    }
    if (state == AUTOMATON_DEAD)
        return MATCH_NO;
    ck_assert_uint_ne(state, AUTOMATON_FAILED);
    return a->states[state].accepting ? MATCH_WHOLE : MATCH_PREFIX;
}

static inline enum match match_string(struct automaton *a, const char *text)
{
    return match_text(a, text, strlen(text));
}

#endif
