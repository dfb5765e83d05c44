/*
 * JSON Schemas and regular expressions: the first byte says which, up to the first NUL comes the text, and what follows chooses bytes of
 * an answer. Nothing may crash, take long or much memory, and an answer that goes on as its grammar allows never comes to a place from
 * which it could not be ended.
 */
#include "engine/grammar/automaton.h"
#include "service/schema.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define MAX_ANSWER 256

static struct grammar *regex(const char *text, size_t n, bool search, bool in_json)
{
    struct grammar_builder *b = grammar_builder_open();
    struct grammar *g = NULL;
    struct error err;
    uint32_t e;
    if (!grammar_regex(b, text, n, search, in_json, &e, &err)) {
        uint32_t rule = grammar_rule(b);
        grammar_rule_set(b, rule, e);
        if (grammar_compile(b, rule, &g, &err))
            g = NULL;
    }
    grammar_builder_close(b);
    return g;
}

static void check(bool ok)
{
    if (!ok)
        abort();
}

/* Each byte of `choices` takes the next byte of the answer from the one it names on, around all 256. */
static void walk(struct grammar *g, const uint8_t *choices, size_t n)
{
    static struct automaton_work work;
    char answer[MAX_ANSWER];
    size_t n_answer = 0;
    work.budget = 2000000;
    struct automaton *a = automaton_open(g, &work);
    uint32_t state = automaton_start(a), next = AUTOMATON_DEAD;
    for (size_t i = 0; i < n && i < MAX_ANSWER && state < AUTOMATON_FAILED; i++, state = next) {
        uint8_t byte = choices[i];
        for (int k = 0; k < 256; k++, byte++)
            if ((next = automaton_next(a, state, byte)) != AUTOMATON_DEAD)
                break;
        if (next == AUTOMATON_DEAD) {
            check(automaton_is_over(a, state));
            break;
        }
        answer[n_answer++] = (char)byte;
    }
    if (state < AUTOMATON_FAILED)
        check(grammar_match(g, answer, n_answer) == (a->states[state].accepting ? GRAMMAR_WHOLE : GRAMMAR_BEGINS));
    check(state != AUTOMATON_DEAD);
    automaton_close(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct grammar *g = NULL;
    struct error err;
    if (n < 2)
        return 0;
    const char *text = (const char *)data + 1;
    const uint8_t *end = memchr(text, 0, n - 1);
    size_t n_text = end ? (size_t)(end - data) - 1 : n - 1;
    if (data[0] % 4 == 0) {
        if (schema_compile(text, n_text, &g, &err))
            g = NULL;
    } else {
        g = regex(text, n_text, data[0] & 1, data[0] & 2);
    }
    if (g)
        walk(g, end ? end + 1 : data + n, end ? n - n_text - 2 : 0);
    grammar_release(g);
    return 0;
}
