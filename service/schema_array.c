/* Arrays: items of prefixItems in their places, then any number of `items`; where a prefix is all that is said, no more. */
#include "service/schema_parts.h"

#define MAX_PREFIX 256

struct array {
    const json_t *prefix; /* array or NULL */
    const json_t *items;  /* schema, NULL: none */
    uint32_t n_prefix, min, max;
};

static void read_array(struct schema *s, struct array *a, const json_t *schema)
{
    const json_t *items = json_object_get(schema, "items");
    a->prefix = json_object_get(schema, "prefixItems");
    a->min = schema_count(s, schema, "minItems", 0);
    a->max = schema_count(s, schema, "maxItems", GRAMMAR_UNBOUNDED);
    if (json_is_true(json_object_get(schema, "uniqueItems")))
        schema_fault(s, "uniqueItems", "not supported");
    if (json_is_array(items))
        schema_fault(s, "items", "expected one schema; prefixItems has those of single places");
    if (a->prefix && !json_is_array(a->prefix))
        schema_fault(s, "prefixItems", "expected an array of schemas");
    if (json_array_size(a->prefix) > MAX_PREFIX)
        schema_fault(s, "prefixItems", "expected at most %d", MAX_PREFIX);
    a->n_prefix = (uint32_t)json_array_size(a->prefix);
    a->items = items && !json_is_false(items) ? items : NULL;
    if (!items && (a->n_prefix == 0 || a->min > a->n_prefix))
        a->items = json_true();
    if (!a->items && a->max > a->n_prefix)
        a->max = a->n_prefix;
    if (a->min > SCHEMA_MAX_ITEMS)
        schema_fault(s, "minItems", "expected at most %d", SCHEMA_MAX_ITEMS);
    if (a->max != GRAMMAR_UNBOUNDED && a->max > SCHEMA_MAX_ITEMS)
        a->max = SCHEMA_MAX_ITEMS;
    if (a->max < a->min)
        schema_fault(s, "maxItems", "expected room for minItems");
}

static uint32_t less(uint32_t n, uint32_t by)
{
    return n == GRAMMAR_UNBOUNDED ? n : n > by ? n - by : 0;
}

/* The items from place `first` on, each but the array's first with a comma in front. */
static uint32_t repeated(struct schema *s, const struct array *a)
{
    uint32_t min = less(a->min, a->n_prefix), max = less(a->max, a->n_prefix);
    if (!a->items || max == 0)
        return GRAMMAR_EMPTY;
    size_t mark = schema_enter(s, "items");
    uint32_t item = schema_value_call(s, a->items), next = schema_next(s, item);
    schema_leave(s, mark);
    if (a->n_prefix)
        return grammar_repeat(s->b, next, min, max);
    uint32_t e = grammar_sequence(s->b, item, grammar_repeat(s->b, next, less(min, 1), less(max, 1)));
    return min ? e : grammar_repeat(s->b, e, 0, 1);
}

uint32_t schema_array(struct schema *s, const json_t *schema)
{
    struct array a = {0};
    read_array(s, &a, schema);
    if (s->code)
        return GRAMMAR_EMPTY;
    uint32_t list = repeated(s, &a);
    for (uint32_t i = a.n_prefix < a.max ? a.n_prefix : a.max; i-- > 0;) {
        size_t mark = schema_enter_index(s, "prefixItems", i);
        uint32_t item = schema_value(s, json_array_get(a.prefix, i));
        schema_leave(s, mark);
        list = grammar_sequence(s->b, i ? schema_next(s, item) : item, list);
        if (i >= a.min)
            list = grammar_repeat(s->b, list, 0, 1);
    }
    uint32_t space = schema_rule(s, RULE_SPACE), inside = grammar_sequence(s->b, list, space);
    if (list == GRAMMAR_EMPTY)
        inside = GRAMMAR_EMPTY;
    else if (a.min == 0)
        inside = grammar_repeat(s->b, inside, 0, 1);
    uint32_t e = grammar_sequence(s->b, schema_text(s, "["), space);
    return grammar_sequence(s->b, grammar_sequence(s->b, e, inside), schema_text(s, "]"));
}
