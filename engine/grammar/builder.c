/* Making expressions. They only refer to what is there already, so they form no cycles; rules do. */
#include "engine/grammar/builder.h"

#include <stdlib.h>

void grammar_fail(struct grammar_builder *b, enum error_code code, const char *what)
{
    if (!b->error.code)
        error_set(&b->error, code, "%s", what);
}

static uint32_t add(struct grammar_builder *b, enum expression_kind kind, uint32_t x, uint32_t y, uint32_t z)
{
    if (b->n == b->capacity) {
        size_t capacity = b->capacity ? 2 * b->capacity : 256;
        void *more =
            capacity <= GRAMMAR_MAX_EXPRESSIONS ? realloc(b->expressions, capacity * sizeof *b->expressions) : NULL;
        if (!more) {
            grammar_fail(b, capacity > GRAMMAR_MAX_EXPRESSIONS ? ERROR_VALIDATION_FAILED : ERROR_MEMORY_EXHAUSTED,
                         "the grammar has too many parts");
            return GRAMMAR_EMPTY;
        }
        b->expressions = more;
        b->capacity = capacity;
    }
    b->expressions[b->n] = (struct expression){kind, x, y, z};
    return (uint32_t)b->n++;
}

struct grammar_builder *grammar_builder_open(void)
{
    struct grammar_builder *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    buffer_init(&b->texts, GRAMMAR_MAX_TEXT_BYTES);
    add(b, EXPRESSION_EMPTY, 0, 0, 0);
    return b;
}

void grammar_builder_close(struct grammar_builder *b)
{
    if (!b)
        return;
    char_table_fini(&b->chars);
    buffer_fini(&b->texts);
    free(b->rules);
    free(b->expressions);
    free(b);
}

uint32_t grammar_text(struct grammar_builder *b, const char *bytes, size_t n_bytes)
{
    size_t at = b->texts.n_bytes;
    if (n_bytes == 0)
        return GRAMMAR_EMPTY;
    if (!buffer_append(&b->texts, bytes, n_bytes)) {
        grammar_fail(b, ERROR_VALIDATION_FAILED, "the texts of the grammar are too long");
        return GRAMMAR_EMPTY;
    }
    return add(b, EXPRESSION_TEXT, (uint32_t)at, (uint32_t)n_bytes, 0);
}

uint32_t grammar_set(struct grammar_builder *b, struct char_set *s, bool except, bool in_json)
{
    if (except)
        char_set_invert(s);
    else
        char_set_normalise(s);
    uint16_t state = char_table_set(&b->chars, s, in_json);
    if (b->chars.failed)
        grammar_fail(b, ERROR_VALIDATION_FAILED, "the character classes of the grammar are too many");
    return add(b, EXPRESSION_CHARS, state, 0, 0);
}

uint32_t grammar_chars(struct grammar_builder *b, const struct char_range *ranges, size_t n, bool except, bool in_json)
{
    struct char_set set = {.n = 0};
    for (size_t i = 0; i < n; i++)
        char_set_add(&set, ranges[i].first, ranges[i].last);
    return grammar_set(b, &set, except, in_json);
}

uint32_t grammar_sequence(struct grammar_builder *b, uint32_t first, uint32_t second)
{
    if (first == GRAMMAR_EMPTY || second == GRAMMAR_EMPTY)
        return first == GRAMMAR_EMPTY ? second : first;
    return add(b, EXPRESSION_SEQUENCE, first, second, 0);
}

uint32_t grammar_choice(struct grammar_builder *b, uint32_t first, uint32_t second)
{
    return add(b, EXPRESSION_CHOICE, first, second, 0);
}

uint32_t grammar_repeat(struct grammar_builder *b, uint32_t what, uint32_t min, uint32_t max)
{
    if (max < min) {
        grammar_fail(b, ERROR_VALIDATION_FAILED, "the grammar has a repetition whose maximum is below its minimum");
        return GRAMMAR_EMPTY;
    }
    if (what == GRAMMAR_EMPTY || max == 0)
        return GRAMMAR_EMPTY;
    return add(b, EXPRESSION_REPEAT, what, min, max);
}

uint32_t grammar_rule(struct grammar_builder *b)
{
    if (b->n_rules == b->rules_capacity) {
        size_t capacity = b->rules_capacity ? 2 * b->rules_capacity : 32;
        void *more = capacity <= GRAMMAR_MAX_RULES ? realloc(b->rules, capacity * sizeof *b->rules) : NULL;
        if (!more) {
            grammar_fail(b, capacity > GRAMMAR_MAX_RULES ? ERROR_VALIDATION_FAILED : ERROR_MEMORY_EXHAUSTED,
                         "the grammar has too many rules");
            return 0;
        }
        b->rules = more;
        b->rules_capacity = capacity;
    }
    b->rules[b->n_rules] = GRAMMAR_EMPTY;
    return (uint32_t)b->n_rules++;
}

void grammar_rule_set(struct grammar_builder *b, uint32_t rule, uint32_t what)
{
    if (rule < b->n_rules)
        b->rules[rule] = what;
}

uint32_t grammar_call(struct grammar_builder *b, uint32_t rule)
{
    return add(b, EXPRESSION_CALL, rule, 0, 0);
}
