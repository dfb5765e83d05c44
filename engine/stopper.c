/* See stopper.h. */
#include "engine/stopper.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct pattern {
    const unsigned char *text; /* [n_bytes] in the stopper's pool */
    const unsigned char
        *fail; /* [n_bytes] length of the longest proper beginning of text[0..i] that it also ends with */
    uint16_t n_bytes;
};

struct stopper {
    size_t n;
    struct pattern patterns[STOPPER_MAX_STRINGS];
    unsigned char pool[];
};

static void fill_fail(const unsigned char *text, size_t n_bytes, unsigned char *fail)
{
    size_t k = 0;
    fail[0] = 0;
    for (size_t i = 1; i < n_bytes; i++) {
        while (k && text[i] != text[k])
            k = fail[k - 1];
        if (text[i] == text[k])
            k++;
        fail[i] = (unsigned char)k; /* below n_bytes, at most 255 */
    }
}

struct stopper *stopper_open(const char *const *strings, size_t n)
{
    size_t total = 0;
    assert(n <= STOPPER_MAX_STRINGS && "stopper: too many strings");
    for (size_t i = 0; i < n; i++)
        total += 2 * strlen(strings[i]);
    struct stopper *s = calloc(1, sizeof *s + total);
    if (!s)
        return NULL;
    unsigned char *next = s->pool;
    for (size_t i = 0; i < n; i++) {
        size_t n_bytes = strlen(strings[i]);
        assert(n_bytes >= 1 && n_bytes <= STOPPER_MAX_BYTES && "stopper: string of 1..256 bytes");
        memcpy(next, strings[i], n_bytes);
        fill_fail(next, n_bytes, next + n_bytes);
        s->patterns[i] = (struct pattern){next, next + n_bytes, (uint16_t)n_bytes};
        next += 2 * n_bytes;
    }
    s->n = n;
    return s;
}

void stopper_close(struct stopper *s)
{
    free(s);
}

static uint16_t advance(const struct pattern *p, uint16_t k, unsigned char byte)
{
    while (k && p->text[k] != byte)
        k = p->fail[k - 1];
    return p->text[k] == byte ? (uint16_t)(k + 1) : k;
}

bool stopper_push(const struct stopper *s, struct stopper_state *state, const char *text, size_t n_bytes,
                  uint64_t *safe)
{
    uint16_t held = 0;
    for (size_t i = 0; i < s->n; i++)
        held = state->matched[i] > held ? state->matched[i] : held;
    for (size_t b = 0; b < n_bytes; b++) {
        uint16_t found = 0;
        held = 0;
        state->n_bytes++;
        for (size_t i = 0; i < s->n; i++) {
            uint16_t k = advance(&s->patterns[i], state->matched[i], (unsigned char)text[b]);
            state->matched[i] = k;
            held = k > held ? k : held;
            if (k == s->patterns[i].n_bytes)
                found = k > found ? k : found;
        }
        if (found) {
            *safe = state->n_bytes - found;
            return true;
        }
    }
    *safe = state->n_bytes - held;
    return false;
}
