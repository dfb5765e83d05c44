/* Longest match over a sorted list; see specials.h. */
#include "engine/text/specials.h"

#include <stdlib.h>
#include <string.h>

bool specials_add(struct specials *s, const char *text, size_t n_bytes, uint32_t id, bool always)
{
    if (n_bytes == 0 || n_bytes > SPECIALS_MAX_BYTES)
        return true;
    if (s->n == s->capacity) {
        size_t capacity = s->capacity == 0 ? 64 : s->capacity * 2;
        struct special *items = realloc(s->items, capacity * sizeof *items);
        if (items == NULL)
            return false;
        s->items = items;
        s->capacity = capacity;
    }
    s->items[s->n++] = (struct special){.text = text, .n_bytes = (uint32_t)n_bytes, .id = id, .always = always};
    s->starts[true][(unsigned char)text[0]] = true;
    if (always)
        s->starts[false][(unsigned char)text[0]] = true;
    return true;
}

static int compare(const void *a, const void *b)
{
    const struct special *x = a, *y = b;
    size_t n = x->n_bytes < y->n_bytes ? x->n_bytes : y->n_bytes;
    int order = memcmp(x->text, y->text, n);
    return order != 0 ? order : (x->n_bytes > y->n_bytes) - (x->n_bytes < y->n_bytes);
}

void specials_sort(struct specials *s)
{
    if (s->n > 1)
        qsort(s->items, s->n, sizeof *s->items, compare);
}

void specials_fini(struct specials *s)
{
    free(s->items);
    *s = (struct specials){0};
}

/* First item in [low, high), all of which are longer than `depth` and equal up to there, whose byte at `depth` is >= byte. */
static size_t lower_bound(const struct specials *s, size_t low, size_t high, size_t depth, int byte)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((unsigned char)s->items[middle].text[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest special token that text[0..n_bytes) begins with. Items that end at the current depth sort before the others,
 * so they are the first ones of the range. */
static const struct special *match(const struct specials *s, const char *text, size_t n_bytes, bool all)
{
    const struct special *best = NULL;
    size_t low = 0, high = s->n;
    for (size_t depth = 0; depth < n_bytes && low < high; depth++) {
        int byte = (unsigned char)text[depth];
        low = lower_bound(s, low, high, depth, byte);
        high = lower_bound(s, low, high, depth, byte + 1);
        for (; low < high && s->items[low].n_bytes == depth + 1; low++)
            if (all || s->items[low].always)
                best = &s->items[low];
    }
    return best;
}

const struct special *specials_find(const struct specials *s, const char *text, size_t n_bytes, size_t from, bool all,
                                    size_t *at)
{
    for (size_t i = from; s->n > 0 && i < n_bytes; i++) {
        if (!s->starts[all][(unsigned char)text[i]])
            continue;
        const struct special *found = match(s, text + i, n_bytes - i, all);
        if (found != NULL) {
            *at = i;
            return found;
        }
    }
    return NULL;
}
