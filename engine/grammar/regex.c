/*
 * Regular expressions to expressions, by recursive descent.
 *
 *   whole  := part ('|' part)*          part := '^'? sequence '$'?
 *   group  := sequence ('|' sequence)*
 *   sequence := (atom quantifier?)*     atom := character | '.' | class | escape | '(' group ')'
 *
 * What is no regular language, or what an answer that is made byte by byte cannot be held to cheaply, is refused by name.
 */
#include "engine/grammar/builder.h"

#include "base/utf8.h"

#include <string.h>

#define MAX_PATTERN_BYTES 16384
#define MAX_GROUPS 64 /* inside of each other */
#define MAX_REPEAT 16384

struct parser {
    struct grammar_builder *b;
    const char *pattern, *at, *end;
    bool in_json;
    int depth;
    struct error *err;
    enum error_code code; /* the first fault */
};

static uint32_t group(struct parser *p);

static uint32_t fault(struct parser *p, const char *what)
{
    if (!p->code)
        p->code = error_set(p->err, ERROR_VALIDATION_FAILED, "the pattern has %s at byte %zu", what,
                            (size_t)(p->at - p->pattern));
    p->at = p->end;
    return GRAMMAR_EMPTY;
}

static bool more(const struct parser *p)
{
    return p->at < p->end;
}

static bool sees(const struct parser *p, const char *text)
{
    size_t n = strlen(text);
    return (size_t)(p->end - p->at) >= n && memcmp(p->at, text, n) == 0;
}

static bool eat(struct parser *p, const char *text)
{
    if (!sees(p, text))
        return false;
    p->at += strlen(text);
    return true;
}

static uint32_t character(struct parser *p)
{
    uint32_t c = 0;
    p->at += utf8_decode(p->at, (size_t)(p->end - p->at), &c); /* the whole was checked */
    return c;
}

/* ---- classes ----------------------------------------------------------------------------------------------------- */

static void add_ranges(struct char_set *s, const struct char_range *ranges, size_t n, bool inverted)
{
    struct char_set part = {.n = 0};
    for (size_t i = 0; i < n; i++)
        char_set_add(&part, ranges[i].first, ranges[i].last);
    if (inverted)
        char_set_invert(&part);
    for (size_t i = 0; i < part.n; i++)
        char_set_add(s, part.ranges[i].first, part.ranges[i].last);
    s->overflow |= part.overflow;
}

/* \d \w \s and their opposites; false when `name` is none of them. */
static bool add_named(struct char_set *s, char name)
{
    static const struct char_range digits[] = {{'0', '9'}}, word[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
    static const struct char_range space[] = {{0x09, 0x0D},     {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680},
                                              {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F},
                                              {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
    switch (name) {
    case 'd':
    case 'D':
        add_ranges(s, digits, 1, name == 'D');
        return true;
    case 'w':
    case 'W':
        add_ranges(s, word, 4, name == 'W');
        return true;
    case 's':
    case 'S':
        add_ranges(s, space, sizeof space / sizeof *space, name == 'S');
        return true;
    default:
        return false;
    }
}

/* n hexadecimal digits, or as many as there are up to '}' when n is 0. */
static uint32_t hexadecimal(struct parser *p, int n)
{
    uint32_t value = 0;
    int i = 0;
    for (; more(p) && (n ? i < n : *p->at != '}' && i < 6); i++, p->at++) {
        char c = *p->at;
        int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (digit < 0)
            return fault(p, "no hexadecimal digit");
        value = value * 16 + (uint32_t)digit;
    }
    if (i == 0 || i < n || value > 0x10FFFF)
        return fault(p, "a bad hexadecimal escape");
    return value;
}

/* The character of an escape that stands for one; p->at is behind the backslash. */
static uint32_t escaped_character(struct parser *p)
{
    static const char names[] = "tnrvf0", values[] = {'\t', '\n', '\r', '\v', '\f', 0};
    const char *name;
    if (!more(p))
        return fault(p, "a backslash at its end");
    if ((name = memchr(names, *p->at, sizeof names - 1)) &&
        !(*name == '0' && p->at + 1 < p->end && p->at[1] >= '0' && p->at[1] <= '9')) {
        p->at++;
        return (uint32_t)values[name - names];
    }
    if (eat(p, "x"))
        return hexadecimal(p, 2);
    if (eat(p, "u{")) {
        uint32_t c = hexadecimal(p, 0);
        return eat(p, "}") ? c : fault(p, "no } behind \\u{");
    }
    if (eat(p, "u")) {
        uint32_t high = hexadecimal(p, 4);
        if (high < 0xD800 || high > 0xDBFF || !eat(p, "\\u"))
            return high;
        uint32_t low = hexadecimal(p, 4);
        return low >= 0xDC00 && low <= 0xDFFF ? 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
                                              : fault(p, "half a surrogate pair");
    }
    if ((*p->at >= '0' && *p->at <= '9') || ((*p->at | 32) >= 'a' && (*p->at | 32) <= 'z'))
        return fault(p, "an escape that is not supported");
    return character(p);
}

/* One item of a class: a character, or the end of a range, into *c; true when it was a named class, which is in the set then. */
static bool class_item(struct parser *p, struct char_set *s, uint32_t *c)
{
    if (!eat(p, "\\")) {
        *c = character(p);
        return false;
    }
    if (more(p) && add_named(s, *p->at)) {
        p->at++;
        return true;
    }
    if (eat(p, "b"))
        *c = '\b';
    else
        *c = escaped_character(p);
    return false;
}

/* p->at is behind the bracket. */
static uint32_t class(struct parser *p)
{
    struct char_set s = {.n = 0};
    bool except = eat(p, "^");
    while (more(p) && *p->at != ']') {
        uint32_t first = 0, last = 0;
        if (class_item(p, &s, &first))
            continue;
        last = first;
        if (sees(p, "-") && p->at + 1 < p->end && p->at[1] != ']') {
            p->at++;
            if (class_item(p, &s, &last)) { /* [a-\d]: three items */
                char_set_add(&s, '-', '-');
                last = first;
            }
        }
        if (last < first)
            return fault(p, "a range whose end is before its beginning");
        char_set_add(&s, first, last);
    }
    if (!eat(p, "]"))
        return fault(p, "a class without ]");
    return grammar_set(p->b, &s, except, p->in_json);
}

/* ---- atoms ------------------------------------------------------------------------------------------------------- */

static uint32_t any(struct parser *p, bool newlines)
{
    static const struct char_range lines[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
    return grammar_chars(p->b, lines, newlines ? 0 : 3, true, p->in_json);
}

static uint32_t one(struct parser *p, uint32_t c)
{
    const struct char_range r = {c, c};
    return grammar_chars(p->b, &r, 1, false, p->in_json);
}

static uint32_t escape(struct parser *p)
{
    struct char_set s = {.n = 0};
    if (more(p) && add_named(&s, *p->at)) {
        p->at++;
        return grammar_set(p->b, &s, false, p->in_json);
    }
    if (more(p) && (*p->at == 'b' || *p->at == 'B'))
        return fault(p, "a word border, which is not supported,");
    if (more(p) && (*p->at == 'p' || *p->at == 'P'))
        return fault(p, "a Unicode property, which is not supported,");
    if (more(p) && ((*p->at >= '1' && *p->at <= '9') || *p->at == 'k'))
        return fault(p, "a back-reference, which is not supported,");
    return one(p, escaped_character(p));
}

/* p->at is behind the bracket. */
static uint32_t bracket(struct parser *p)
{
    if (eat(p, "?")) {
        if (sees(p, "<") && !sees(p, "<=") && !sees(p, "<!")) { /* a name, which changes nothing */
            while (more(p) && *p->at != '>')
                p->at++;
            if (!eat(p, ">"))
                return fault(p, "a group's name without >");
        } else if (!eat(p, ":")) {
            return fault(p, "a look-around or flag, which is not supported,");
        }
    }
    if (++p->depth > MAX_GROUPS)
        return fault(p, "too many groups inside of each other");
    uint32_t e = group(p);
    p->depth--;
    return eat(p, ")") ? e : fault(p, "a group without )");
}

static uint32_t atom(struct parser *p)
{
    if (eat(p, "("))
        return bracket(p);
    if (eat(p, "["))
        return class(p);
    if (eat(p, "."))
        return any(p, false);
    if (eat(p, "\\"))
        return escape(p);
    if (sees(p, "^") || sees(p, "$"))
        return fault(p, "an anchor that is not at its end, which is not supported,");
    if (sees(p, "*") || sees(p, "+") || sees(p, "?"))
        return fault(p, "a quantifier of nothing");
    return one(p, character(p));
}

/* ---- quantifiers ------------------------------------------------------------------------------------------------- */

static bool number(struct parser *p, uint32_t *out)
{
    const char *from = p->at;
    for (*out = 0; more(p) && *p->at >= '0' && *p->at <= '9'; p->at++)
        *out = *out > MAX_REPEAT ? *out : *out * 10 + (uint32_t)(*p->at - '0');
    return p->at > from;
}

/* {n}, {n,} or {n,m}; anything else that begins with { is a character. */
static bool braces(struct parser *p, uint32_t *min, uint32_t *max)
{
    const char *from = p->at;
    if (!eat(p, "{"))
        return false;
    bool ok = number(p, min);
    *max = *min;
    if (ok && eat(p, ",") && !number(p, max))
        *max = GRAMMAR_UNBOUNDED;
    if (ok && eat(p, "}"))
        return true;
    p->at = from;
    return false;
}

static uint32_t quantified(struct parser *p)
{
    uint32_t e = atom(p), min = 1, max = 1;
    if (eat(p, "*"))
        min = 0, max = GRAMMAR_UNBOUNDED;
    else if (eat(p, "+"))
        max = GRAMMAR_UNBOUNDED;
    else if (eat(p, "?"))
        min = 0;
    else if (!braces(p, &min, &max))
        return e;
    eat(p, "?"); /* lazy: the same texts */
    if (sees(p, "*") || sees(p, "+") || sees(p, "?"))
        return fault(p, "a quantifier behind a quantifier");
    if (min > MAX_REPEAT || (max > MAX_REPEAT && max != GRAMMAR_UNBOUNDED))
        return fault(p, "a repetition of more than 16384 times");
    if (max < min)
        return fault(p, "a repetition whose maximum is below its minimum");
    return grammar_repeat(p->b, e, min, max);
}

/* Up to '|', ')', a '$' that ends a part, or the end. */
static uint32_t sequence(struct parser *p)
{
    uint32_t e = GRAMMAR_EMPTY;
    while (more(p) && *p->at != '|' && *p->at != ')') {
        if (p->depth == 0 && *p->at == '$' && (p->at + 1 == p->end || p->at[1] == '|'))
            break;
        e = grammar_sequence(p->b, e, quantified(p));
    }
    return e;
}

static uint32_t group(struct parser *p)
{
    uint32_t e = sequence(p);
    while (eat(p, "|"))
        e = grammar_choice(p->b, e, sequence(p));
    return e;
}

static uint32_t part(struct parser *p, bool search)
{
    uint32_t rest = search ? grammar_repeat(p->b, any(p, true), 0, GRAMMAR_UNBOUNDED) : GRAMMAR_EMPTY;
    uint32_t e = eat(p, "^") ? GRAMMAR_EMPTY : rest;
    e = grammar_sequence(p->b, e, sequence(p));
    return eat(p, "$") ? e : grammar_sequence(p->b, e, rest);
}

enum error_code grammar_regex(struct grammar_builder *b, const char *pattern, size_t n_bytes, bool search, bool in_json,
                              uint32_t *out, struct error *err)
{
    struct parser p = {b, pattern, pattern, pattern + n_bytes, in_json, 0, err, ERROR_NONE};
    size_t bad;
    if (n_bytes > MAX_PATTERN_BYTES)
        return error_set(err, ERROR_VALIDATION_FAILED, "expected a pattern of at most %d bytes, found %zu",
                         MAX_PATTERN_BYTES, n_bytes);
    if (!utf8_valid(pattern, n_bytes, &bad))
        return error_set(err, ERROR_VALIDATION_FAILED, "the pattern is not UTF-8 at byte %zu", bad);
    uint32_t e = part(&p, search);
    while (eat(&p, "|"))
        e = grammar_choice(b, e, part(&p, search));
    if (more(&p))
        fault(&p, "a ) without a (");
    *out = e;
    return p.code;
}
