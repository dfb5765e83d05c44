/* Open addressing with linear probing; see strmap.h. */
#include "engine/text/strmap.h"

#include "base/id.h"

#include <stdlib.h>
#include <string.h>

static uint64_t hash_bytes(uint64_t seed, const char *key, size_t n_bytes)
{
    uint64_t h = strmap_mix(seed, n_bytes), word;
    for (; n_bytes >= sizeof word; key += sizeof word, n_bytes -= sizeof word) {
        memcpy(&word, key, sizeof word);
        h = strmap_mix(h, word);
    }
    if (n_bytes > 0) {
        word = 0;
        memcpy(&word, key, n_bytes);
        h = strmap_mix(h, word);
    }
    return h;
}

/* The slot that holds the key, or the free one where it belongs. */
static struct strmap_slot *find_slot(const struct strmap *m, const char *key, size_t n_bytes)
{
    size_t i = (size_t)hash_bytes(m->seed, key, n_bytes) & (m->capacity - 1);
    while (m->slots[i].key != NULL && (m->slots[i].n_bytes != n_bytes || memcmp(m->slots[i].key, key, n_bytes) != 0))
        i = (i + 1) & (m->capacity - 1);
    return &m->slots[i];
}

bool strmap_init(struct strmap *m, size_t n_expected)
{
    size_t capacity = 16;
    while (capacity / 2 < n_expected)
        capacity *= 2;
    *m = (struct strmap){.capacity = capacity, .seed = id_random_u64()};
    m->slots = calloc(capacity, sizeof *m->slots);
    return m->slots != NULL;
}

void strmap_fini(struct strmap *m)
{
    free(m->slots);
    *m = (struct strmap){0};
}

static bool grow(struct strmap *m)
{
    struct strmap bigger = {.capacity = m->capacity * 2, .n = m->n, .seed = m->seed};
    bigger.slots = calloc(bigger.capacity, sizeof *bigger.slots);
    if (bigger.slots == NULL)
        return false;
    for (size_t i = 0; i < m->capacity; i++)
        if (m->slots[i].key != NULL)
            *find_slot(&bigger, m->slots[i].key, m->slots[i].n_bytes) = m->slots[i];
    free(m->slots);
    *m = bigger;
    return true;
}

bool strmap_add(struct strmap *m, const char *key, size_t n_bytes, uint32_t value, uint32_t *found)
{
    if (m->n >= m->capacity / 2 && !grow(m))
        return false;
    struct strmap_slot *slot = find_slot(m, key, n_bytes);
    if (slot->key == NULL) {
        *slot = (struct strmap_slot){.key = key, .n_bytes = (uint32_t)n_bytes, .value = value};
        m->n++;
    }
    *found = slot->value;
    return true;
}

uint32_t strmap_get(const struct strmap *m, const char *key, size_t n_bytes)
{
    if (m->slots == NULL)
        return STRMAP_NONE;
    const struct strmap_slot *slot = find_slot(m, key, n_bytes);
    return slot->key == NULL ? STRMAP_NONE : slot->value;
}
