/* See chars.h. States are made from their ends, so that equal ones are found by their rows. */
#include "engine/grammar/chars.h"

#include <stdlib.h>
#include <string.h>

#define LAST_CHARACTER 0x10FFFFu
#define FIRST_SURROGATE 0xD800u
#define LAST_SURROGATE 0xDFFFu

/* ---- sets -------------------------------------------------------------------------------------------------------- */

void char_set_add(struct char_set *s, uint32_t first, uint32_t last)
{
    if (s->n == CHARS_MAX_RANGES)
        s->overflow = true;
    else if (first <= last)
        s->ranges[s->n++] = (struct char_range){first, last};
}

static int by_first(const void *a, const void *b)
{
    const struct char_range *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

/* Sorts, joins what overlaps or touches. */
static void join(struct char_set *s)
{
    size_t n = 0;
    qsort(s->ranges, s->n, sizeof *s->ranges, by_first);
    for (size_t i = 0; i < s->n; i++) {
        struct char_range r = s->ranges[i];
        if (n > 0 && r.first <= s->ranges[n - 1].last + 1)
            s->ranges[n - 1].last = r.last > s->ranges[n - 1].last ? r.last : s->ranges[n - 1].last;
        else
            s->ranges[n++] = r;
    }
    s->n = n;
}

/* What of a set lies in first..last. */
static void cut(const struct char_set *s, uint32_t first, uint32_t last, struct char_set *out)
{
    out->n = 0;
    out->overflow = false;
    for (size_t i = 0; i < s->n; i++) {
        struct char_range r = s->ranges[i];
        r.first = r.first < first ? first : r.first;
        r.last = r.last > last ? last : r.last;
        char_set_add(out, r.first, r.last);
    }
}

void char_set_normalise(struct char_set *s)
{
    struct char_set low, high;
    join(s);
    cut(s, 1, FIRST_SURROGATE - 1, &low);
    cut(s, LAST_SURROGATE + 1, LAST_CHARACTER, &high);
    bool overflow = s->overflow;
    *s = low;
    for (size_t i = 0; i < high.n; i++)
        char_set_add(s, high.ranges[i].first, high.ranges[i].last);
    s->overflow |= overflow;
}

void char_set_invert(struct char_set *s)
{
    struct char_set out = {.overflow = s->overflow};
    uint32_t next = 1;
    char_set_normalise(s);
    for (size_t i = 0; i < s->n; i++) {
        if (s->ranges[i].first > next)
            char_set_add(&out, next, s->ranges[i].first - 1);
        next = s->ranges[i].last + 1;
    }
    char_set_add(&out, next, LAST_CHARACTER);
    char_set_normalise(&out);
    *s = out;
}

enum coverage { NONE, SOME, ALL };

static enum coverage coverage(const struct char_set *s, uint32_t first, uint32_t last)
{
    for (size_t i = 0; i < s->n && s->ranges[i].first <= last; i++) {
        if (s->ranges[i].last < first)
            continue;
        return s->ranges[i].first <= first && s->ranges[i].last >= last ? ALL : SOME;
    }
    return NONE;
}

static bool contains(const struct char_set *s, uint32_t c)
{
    return coverage(s, c, c) == ALL;
}

/* All characters but U+0000. */
static bool is_whole(const struct char_set *s)
{
    return contains(s, 1) && coverage(s, 1, FIRST_SURROGATE - 1) == ALL &&
           coverage(s, LAST_SURROGATE + 1, LAST_CHARACTER) == ALL;
}

/* ---- states ------------------------------------------------------------------------------------------------------ */

struct row {
    uint16_t next[256];
};

static void row_clear(struct row *r)
{
    for (int b = 0; b < 256; b++)
        r->next[b] = CHARS_DEAD;
}

static bool table_grow(struct char_table *t)
{
    size_t capacity = t->capacity ? 2 * t->capacity : 64;
    void *next = realloc(t->next, capacity * sizeof *t->next);
    uint32_t *slots = calloc(4 * capacity, sizeof *slots);
    t->next = next ? next : t->next;
    if (!next || !slots) {
        free(slots);
        return false;
    }
    free(t->slots);
    t->slots = slots;
    t->n_slots = 4 * capacity;
    t->capacity = capacity;
    for (size_t i = 0; i < t->n; i++) {
        size_t at = (size_t)kernel_hash(0, t->next[i], sizeof *t->next) & (t->n_slots - 1);
        while (slots[at])
            at = (at + 1) & (t->n_slots - 1);
        slots[at] = (uint32_t)i + 1;
    }
    return true;
}

/* The state with this row. One that reads nothing is no state. */
static uint16_t state_of(struct char_table *t, const struct row *r)
{
    bool any = false;
    for (int b = 0; b < 256 && !any; b++)
        any = r->next[b] != CHARS_DEAD;
    if (!any || t->failed)
        return CHARS_DEAD;
    if (t->n == t->capacity && (t->n >= CHARS_MAX_STATES || !table_grow(t))) {
        t->failed = true;
        return CHARS_DEAD;
    }
    size_t at = (size_t)kernel_hash(0, r->next, sizeof r->next) & (t->n_slots - 1);
    for (; t->slots[at]; at = (at + 1) & (t->n_slots - 1))
        if (memcmp(t->next[t->slots[at] - 1], r->next, sizeof r->next) == 0)
            return (uint16_t)(t->slots[at] - 1);
    memcpy(t->next[t->n], r->next, sizeof r->next);
    t->slots[at] = (uint32_t)++t->n;
    return (uint16_t)(t->n - 1);
}

void char_table_fini(struct char_table *t)
{
    free(t->next);
    free(t->slots);
    *t = (struct char_table){0};
}

uint16_t char_table_byte(struct char_table *t, uint8_t byte)
{
    struct row r;
    row_clear(&r);
    r.next[byte] = CHARS_DONE;
    return state_of(t, &r);
}

/* ---- UTF-8 ------------------------------------------------------------------------------------------------------- */

/* Reads n_more continuation bytes of the characters first .. first + 64^n_more - 1 that are in the set. */
static uint16_t continuation(struct char_table *t, const struct char_set *s, uint32_t first, int n_more)
{
    uint32_t step = n_more > 0 ? 1u << 6 * (n_more - 1) : 0, last = first + (1u << 6 * n_more) - 1;
    enum coverage c = coverage(s, first, last);
    struct row r;
    if (c == NONE)
        return CHARS_DEAD;
    if (n_more == 0)
        return CHARS_DONE;
    if (c == ALL && t->all[n_more])
        return (uint16_t)(t->all[n_more] - 1);
    row_clear(&r);
    for (uint32_t i = 0; i < 64; i++)
        r.next[0x80 + i] = continuation(t, s, c == ALL ? first : first + i * step, n_more - 1);
    uint16_t state = state_of(t, &r);
    if (c == ALL && !t->failed)
        t->all[n_more] = (uint16_t)(state + 1);
    return state;
}

/* The leading bytes of characters of more than one byte. The cuts leave overlong forms out. */
static void put_multibyte(struct char_table *t, const struct char_set *s, struct row *r)
{
    static const struct {
        uint32_t lead, n_leads, first, last;
    } lengths[] = {{0xC0, 32, 0x80, 0x7FF}, {0xE0, 16, 0x800, 0xFFFF}, {0xF0, 8, 0x10000, LAST_CHARACTER}};
    struct char_set part;
    for (int l = 0; l < 3; l++) {
        int n_more = l + 1;
        cut(s, lengths[l].first, lengths[l].last, &part);
        for (uint32_t i = 0; i < lengths[l].n_leads; i++)
            r->next[lengths[l].lead + i] = continuation(t, &part, i << 6 * n_more, n_more);
    }
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static void put_hex(struct row *r, uint32_t digit, uint16_t next)
{
    r->next[(unsigned char)"0123456789abcdef"[digit]] = next;
    r->next[(unsigned char)"0123456789ABCDEF"[digit]] = next;
}

/* Reads hexadecimal digits digit_min..15, then goes on. */
static uint16_t hex_digit(struct char_table *t, uint32_t digit_min, uint16_t next)
{
    struct row r;
    row_clear(&r);
    for (uint32_t d = digit_min; d < 16; d++)
        put_hex(&r, d, next);
    return state_of(t, &r);
}

static uint16_t one_byte(struct char_table *t, char byte, uint16_t next)
{
    struct row r;
    row_clear(&r);
    r.next[(unsigned char)byte] = next;
    return state_of(t, &r);
}

/* Two more digits of a high surrogate, and \uDC00..\uDFFF behind it. */
static uint16_t surrogate_pair(struct char_table *t)
{
    struct row d;
    uint16_t low = hex_digit(t, 12, hex_digit(t, 0, hex_digit(t, 0, CHARS_DONE)));
    row_clear(&d);
    put_hex(&d, 13, low);
    uint16_t escape = one_byte(t, '\\', one_byte(t, 'u', state_of(t, &d)));
    return hex_digit(t, 0, hex_digit(t, 0, escape));
}

/* Reads n_more hexadecimal digits of the characters first .. first + 16^n_more - 1 that are in the set. */
static uint16_t hex(struct char_table *t, const struct char_set *s, uint32_t first, int n_more, bool pairs)
{
    struct row r;
    uint32_t step = n_more > 0 ? 1u << 4 * (n_more - 1) : 0;
    if (pairs && n_more == 2 && first >= FIRST_SURROGATE && first < 0xDC00)
        return surrogate_pair(t);
    enum coverage c = coverage(s, first, first + (1u << 4 * n_more) - 1);
    if (n_more == 0)
        return c == ALL ? CHARS_DONE : CHARS_DEAD;
    if (c == ALL)
        return hex_digit(t, 0, hex(t, s, first, n_more - 1, pairs));
    row_clear(&r);
    for (uint32_t d = 0; d < 16; d++)
        put_hex(&r, d, hex(t, s, first + d * step, n_more - 1, pairs));
    return state_of(t, &r);
}

/* What stands behind a backslash. A set of all characters may write any as \uXXXX; others only those that have no plain form, so that
 * a string has few ways to be written. */
static uint16_t escape(struct char_table *t, const struct char_set *s)
{
    static const struct {
        char name;
        uint8_t character;
    } names[] = {{'"', '"'}, {'\\', '\\'}, {'b', '\b'}, {'f', '\f'}, {'n', '\n'}, {'r', '\r'}, {'t', '\t'}};
    struct char_set part;
    struct row r;
    bool whole = is_whole(s);
    row_clear(&r);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (contains(s, names[i].character))
            r.next[(unsigned char)names[i].name] = CHARS_DONE;
    if (whole)
        r.next['/'] = CHARS_DONE;
    cut(s, 1, whole ? 0xFFFF : 0x1F, &part);
    r.next['u'] = hex(t, &part, 0, 4, whole);
    return state_of(t, &r);
}

uint16_t char_table_set(struct char_table *t, const struct char_set *s, bool in_json)
{
    struct row r;
    if (s->overflow)
        t->failed = true;
    row_clear(&r);
    for (uint32_t c = in_json ? 0x20 : 1; c < 0x80; c++)
        if (contains(s, c) && !(in_json && (c == '"' || c == '\\')))
            r.next[c] = CHARS_DONE;
    put_multibyte(t, s, &r);
    if (in_json)
        r.next['\\'] = escape(t, s);
    return state_of(t, &r);
}
