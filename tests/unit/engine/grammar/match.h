/* What the tests of grammars share: grammars from expressions and patterns. */
#ifndef TESTS_UNIT_ENGINE_GRAMMAR_MATCH_H
#define TESTS_UNIT_ENGINE_GRAMMAR_MATCH_H

#include "engine/engine.h"

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

#endif
