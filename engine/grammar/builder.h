/* Expressions as they are built, before compile.c makes a program of them. Public functions: engine/engine.h. */
#ifndef ENGINE_GRAMMAR_BUILDER_H
#define ENGINE_GRAMMAR_BUILDER_H

#include "engine/grammar/chars.h"

#define GRAMMAR_MAX_EXPRESSIONS (1u << 20)
#define GRAMMAR_MAX_RULES 4096
#define GRAMMAR_MAX_TEXT_BYTES (4u << 20)

enum expression_kind {
    EXPRESSION_EMPTY,
    EXPRESSION_TEXT,     /* a = offset in texts, b = bytes */
    EXPRESSION_CHARS,    /* a = state of the table */
    EXPRESSION_SEQUENCE, /* a, then b */
    EXPRESSION_CHOICE,   /* a or b */
    EXPRESSION_REPEAT,   /* a, b to c times */
    EXPRESSION_CALL,     /* a = rule */
};

struct expression {
    uint32_t kind, a, b, c;
};

struct grammar_builder {
    struct expression *expressions; /* [n]; 0 is the empty one */
    size_t n, capacity;
    uint32_t *rules; /* [n_rules] their expressions */
    size_t n_rules, rules_capacity;
    struct buffer texts;
    struct char_table chars;
    struct error error; /* the first failure */
};

/* The expression of one character of a set, which is normalised here. */
uint32_t grammar_set(struct grammar_builder *b, struct char_set *s, bool except, bool in_json);
/* Keeps the first failure. */
void grammar_fail(struct grammar_builder *b, enum error_code code, const char *what);

#endif
