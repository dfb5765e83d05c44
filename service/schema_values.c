/* Strings, numbers, fixed values, and the rules of any JSON value. */
#include "service/schema_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Whole numbers of up to 15 digits are exact in the doubles that most readers use. */
#define MAX_WHOLE 999999999999999.0
/* Of numbers with bounds: with 6 decimals behind, still exact enough to stay between their neighbours. */
#define MAX_BOUND 999999999.0
#define INDENT 24 /* spaces at the beginning of a line, at most: white space must not go on for ever */

uint32_t schema_text(struct schema *s, const char *text)
{
    return grammar_text(s->b, text, strlen(text));
}

static uint32_t pattern(struct schema *s, const char *keyword, const char *text, bool search, bool in_json)
{
    struct error err = {0};
    uint32_t e = GRAMMAR_EMPTY;
    if (grammar_regex(s->b, text, strlen(text), search, in_json, &e, &err))
        return schema_fault(s, keyword, "%s", err.message);
    return e;
}

static uint32_t list_of(struct schema *s, const char *open, uint32_t item, const char *close)
{
    uint32_t space = schema_rule(s, RULE_SPACE);
    uint32_t more = grammar_repeat(s->b, schema_next(s, item), 0, GRAMMAR_UNBOUNDED);
    uint32_t items = grammar_sequence(s->b, grammar_sequence(s->b, item, more), space);
    uint32_t body = grammar_sequence(s->b, schema_text(s, open), space);
    body = grammar_sequence(s->b, body, grammar_repeat(s->b, items, 0, 1));
    return grammar_sequence(s->b, body, schema_text(s, close));
}

static uint32_t quoted(struct schema *s, uint32_t inside)
{
    uint32_t quote = schema_text(s, "\"");
    return grammar_sequence(s->b, grammar_sequence(s->b, quote, inside), quote);
}

static uint32_t any_character(struct schema *s)
{
    return grammar_chars(s->b, NULL, 0, true, true);
}

static uint32_t any_value(struct schema *s)
{
    static const enum schema_rule rules[] = {RULE_OBJECT, RULE_ARRAY, RULE_STRING, RULE_NUMBER};
    static const char *const words[] = {"true", "false", "null"};
    uint32_t e = schema_rule(s, rules[0]);
    for (int i = 1; i < 4; i++)
        e = grammar_choice(s->b, e, schema_rule(s, rules[i]));
    for (int i = 0; i < 3; i++)
        e = grammar_choice(s->b, e, schema_text(s, words[i]));
    return e;
}

static uint32_t any_member(struct schema *s)
{
    uint32_t colon = grammar_sequence(s->b, schema_text(s, ":"), grammar_repeat(s->b, schema_text(s, " "), 0, 1));
    uint32_t key = grammar_sequence(s->b, schema_rule(s, RULE_STRING), colon);
    return grammar_sequence(s->b, key, schema_rule(s, RULE_VALUE));
}

static uint32_t make_rule(struct schema *s, enum schema_rule rule)
{
    switch (rule) {
    case RULE_SPACE: /* nothing, a space, or a new line and its indent */
        return pattern(s, NULL, "( |\\n {0,24})?", false, false);
    case RULE_STRING:
        return quoted(s, grammar_repeat(s->b, any_character(s), 0, GRAMMAR_UNBOUNDED));
    case RULE_NUMBER:
        return pattern(s, NULL, "-?(0|[1-9][0-9]{0,14})(\\.[0-9]{1,15})?([eE][+-]?[0-9]{1,2})?", false, false);
    case RULE_INTEGER:
        return pattern(s, NULL, "0|-?[1-9][0-9]{0,14}", false, false);
    case RULE_OBJECT:
        return list_of(s, "{", any_member(s), "}");
    case RULE_ARRAY:
        return list_of(s, "[", schema_rule(s, RULE_VALUE), "]");
    default:
        return any_value(s);
    }
}

uint32_t schema_rule(struct schema *s, enum schema_rule rule)
{
    if (!s->has_rule[rule]) {
        s->has_rule[rule] = true; /* before it is made, as it may contain itself */
        s->rules[rule] = grammar_rule(s->b);
        grammar_rule_set(s->b, s->rules[rule], make_rule(s, rule));
    }
    return grammar_call(s->b, s->rules[rule]);
}

uint32_t schema_constant(struct schema *s, const json_t *value)
{
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    uint32_t e = text ? schema_text(s, text) : schema_fault(s, NULL, "out of memory");
    free(text);
    return e;
}

/* ---- strings ------------------------------------------------------------------------------------------------------ */

/* Formats in forms that all validators take; a calendar's last days are left out. */
#define DATE                                                                                                           \
    "[0-9]{4}-(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|[0-9]{4}-(0[469]|11)-(0[1-9]|[12][0-9]|30)|"                   \
    "[0-9]{4}-02-(0[1-9]|1[0-9]|2[0-8])"
#define TIME "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
#define LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,20}[A-Za-z0-9])?"
#define BYTE "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"

static const struct {
    const char *name, *pattern;
} formats[] = {
    {"date", DATE},
    {"time", TIME},
    {"date-time", "(" DATE ")T" TIME},
    {"uuid", "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"},
    {"email", "[A-Za-z0-9_+-]{1,32}(\\.[A-Za-z0-9_+-]{1,16}){0,2}@(" LABEL "\\.){1,3}[A-Za-z]{2,10}"},
    {"ipv4", "(" BYTE "\\.){3}" BYTE},
};

uint32_t schema_count(struct schema *s, const json_t *schema, const char *keyword, uint32_t preset)
{
    const json_t *v = json_object_get(schema, keyword);
    double n = json_number_value(v);
    if (!v)
        return preset;
    if (!json_is_number(v) || n < 0 || n != floor(n))
        return schema_fault(s, keyword, "expected a whole number that is not negative");
    return n < GRAMMAR_UNBOUNDED ? (uint32_t)n : GRAMMAR_UNBOUNDED - 1;
}

static uint32_t string_of_length(struct schema *s, const json_t *schema)
{
    uint32_t min = schema_count(s, schema, "minLength", 0),
             max = schema_count(s, schema, "maxLength", GRAMMAR_UNBOUNDED);
    if (min > SCHEMA_MAX_COUNT)
        return schema_fault(s, "minLength", "expected at most %d", SCHEMA_MAX_COUNT);
    if (max != GRAMMAR_UNBOUNDED && max > SCHEMA_MAX_COUNT)
        max = SCHEMA_MAX_COUNT;
    if (max < min)
        return schema_fault(s, "maxLength", "expected at least minLength");
    return quoted(s, grammar_repeat(s->b, any_character(s), min, max));
}

uint32_t schema_string(struct schema *s, const json_t *schema)
{
    const json_t *regex = json_object_get(schema, "pattern"), *format = json_object_get(schema, "format");
    bool has_length = json_object_get(schema, "minLength") || json_object_get(schema, "maxLength");
    const char *name = json_string_value(format);
    if (!regex && !format)
        return has_length ? string_of_length(s, schema) : schema_rule(s, RULE_STRING);
    if (has_length || (regex && format))
        return schema_fault(s, regex ? "pattern" : "format", "cannot be combined with %s",
                            has_length ? "a length" : "a format");
    if (regex && !json_is_string(regex))
        return schema_fault(s, "pattern", "expected a string");
    if (regex)
        return quoted(s, pattern(s, "pattern", json_string_value(regex), true, true));
    for (size_t i = 0; name && i < sizeof formats / sizeof *formats; i++)
        if (strcmp(formats[i].name, name) == 0)
            return quoted(s, pattern(s, "format", formats[i].pattern, false, true));
    return schema_fault(s, "format", "expected date-time, date, time, uuid, email or ipv4");
}

/* ---- numbers: ranges as regular expressions ------------------------------------------------------------------------ */

/* Whole numbers of n digits from low to high, which have as many. */
static void put_digits(struct buffer *out, const char *low, const char *high, size_t n)
{
    if (n == 0)
        return;
    bool all = strspn(low, "0") == n && strspn(high, "9") == n;
    if (all) {
        buffer_printf(out, "[0-9]{%zu}", n);
    } else if (*low == *high) {
        buffer_append_char(out, *low);
        put_digits(out, low + 1, high + 1, n - 1);
    } else {
        static const char zeros[] = "0000000000000000", nines[] = "9999999999999999";
        const char *most = nines + sizeof nines - n, *least = zeros + sizeof zeros - n; /* of n - 1 digits */
        buffer_printf(out, "(%c", *low);
        put_digits(out, low + 1, most, n - 1);
        if (*high - *low > 1)
            buffer_printf(out, "|[%c-%c][0-9]{%zu}", *low + 1, *high - 1, n - 1);
        buffer_printf(out, "|%c", *high);
        put_digits(out, least, high + 1, n - 1);
        buffer_append_char(out, ')');
    }
}

/* Whole numbers from low to high, neither negative, low <= high. */
static void put_range(struct buffer *out, double low, double high)
{
    char from[24], to[24];
    const char *separator = "(";
    for (double least = 0, most = 9; least <= high; least = most + 1, most = most * 10 + 9) {
        if (most < low)
            continue;
        snprintf(from, sizeof from, "%.0f", low > least ? low : least);
        snprintf(to, sizeof to, "%.0f", high < most ? high : most);
        buffer_append_str(out, separator);
        put_digits(out, from, to, strlen(from));
        separator = "|";
    }
    buffer_append_char(out, ')');
}

struct bounds {
    double low, high; /* the whole numbers that are allowed */
    bool any;         /* there are bounds */
    bool whole;       /* the bounds are whole numbers themselves */
    double min, max;  /* the bounds, as they are */
};

static bool read_bound(struct schema *s, const json_t *schema, const char *keyword, double *out)
{
    const json_t *v = json_object_get(schema, keyword);
    if (v && !json_is_number(v))
        schema_fault(s, keyword, "expected a number");
    *out = json_number_value(v);
    return json_is_number(v);
}

static struct bounds read_bounds(struct schema *s, const json_t *schema, double limit)
{
    struct bounds b = {-limit, limit, false, true, -limit, limit};
    static const char *const keywords[] = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"};
    for (int i = 0; i < 4; i++) {
        double v;
        bool exclusive = i & 1, upper = i > 1;
        if (!read_bound(s, schema, keywords[i], &v))
            continue;
        b.any = true;
        b.whole &= v == floor(v);
        double whole = upper ? (exclusive ? ceil(v) - 1 : floor(v)) : (exclusive ? floor(v) + 1 : ceil(v));
        if (upper) {
            b.high = whole < b.high ? whole : b.high;
            b.max = v < b.max ? v : b.max;
        } else {
            b.low = whole > b.low ? whole : b.low;
            b.min = v > b.min ? v : b.min;
        }
    }
    return b;
}

/* low..high as an expression's text; false when there is none. */
static bool put_whole(struct buffer *out, double low, double high)
{
    if (low > high)
        return false;
    buffer_append_char(out, '(');
    if (low < 0) {
        buffer_append_char(out, '-');
        put_range(out, high < 0 ? -high : 1, -low);
    }
    if (low < 0 && high >= 0)
        buffer_append_char(out, '|');
    if (high >= 0)
        put_range(out, low > 0 ? low : 0, high);
    buffer_append_char(out, ')');
    return true;
}

uint32_t schema_integer(struct schema *s, const json_t *schema)
{
    struct bounds b = read_bounds(s, schema, MAX_WHOLE);
    struct buffer text;
    if (!b.any)
        return schema_rule(s, RULE_INTEGER);
    buffer_init(&text, 65536);
    bool some = put_whole(&text, b.low, b.high);
    uint32_t e = some ? pattern(s, NULL, text.data, false, false)
                      : schema_fault(s, NULL, "no integer of at most 15 digits is within the bounds");
    buffer_fini(&text);
    return e;
}

/* Between whole bounds lie the whole numbers, and for each n between them n.d, with a last digit that is not 0. */
uint32_t schema_number(struct schema *s, const json_t *schema)
{
    struct bounds b = read_bounds(s, schema, MAX_BOUND);
    struct buffer text;
    if (!b.any)
        return schema_rule(s, RULE_NUMBER);
    if (!b.whole || b.min < -MAX_BOUND || b.max > MAX_BOUND)
        return schema_fault(s, NULL, "expected bounds that are whole numbers of at most 9 digits");
    buffer_init(&text, 65536);
    bool some = put_whole(&text, b.low, b.high);
    const char *fraction = "\\.[0-9]{0,5}[1-9]";
    if (b.max >= 1 && b.max > b.min) { /* n.d is above n and below n + 1 */
        buffer_append_str(&text, some ? "|" : "");
        put_range(&text, b.min > 0 ? b.min : 0, b.max - 1);
        buffer_append_str(&text, fraction);
        some = true;
    }
    if (b.min <= -1 && b.max > b.min) {
        buffer_append_str(&text, some ? "|-" : "-");
        put_range(&text, b.max < 0 ? -b.max : 0, -b.min - 1);
        buffer_append_str(&text, fraction);
        some = true;
    }
    uint32_t e =
        some ? pattern(s, NULL, text.data, false, false) : schema_fault(s, NULL, "no number is within the bounds");
    buffer_fini(&text);
    return e;
}
