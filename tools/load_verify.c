/* A hash table with open addressing that is never more than half full. */
#include "tools/load_verify.h"

#include "tools/load_random.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

struct entry {
    bool used;
    uint64_t key, text;
};

struct load_verify {
    pthread_mutex_t lock;
    size_t n_used, max_keys, mask;
    struct entry entries[];
};

struct load_verify *load_verify_open(size_t max_keys)
{
    size_t size = 2;
    while (size / 2 < max_keys)
        size *= 2;
    struct load_verify *v = calloc(1, sizeof *v + size * sizeof v->entries[0]);
    if (!v)
        return NULL;
    pthread_mutex_init(&v->lock, NULL);
    v->max_keys = max_keys;
    v->mask = size - 1;
    return v;
}

void load_verify_close(struct load_verify *v)
{
    if (!v)
        return;
    pthread_mutex_destroy(&v->lock);
    free(v);
}

static enum load_verdict look(struct load_verify *v, uint64_t key, uint64_t text)
{
    size_t i = load_random_u64(0, key, 0) & v->mask;
    for (; v->entries[i].used; i = (i + 1) & v->mask)
        if (v->entries[i].key == key)
            return v->entries[i].text == text ? LOAD_SAME : LOAD_DIFFERENT;
    if (v->n_used == v->max_keys)
        return LOAD_NO_ROOM;
    v->n_used++;
    v->entries[i] = (struct entry){true, key, text};
    return LOAD_FIRST;
}

enum load_verdict load_verify_text(struct load_verify *v, uint64_t key, uint64_t text)
{
    pthread_mutex_lock(&v->lock);
    enum load_verdict verdict = look(v, key, text);
    pthread_mutex_unlock(&v->lock);
    return verdict;
}

uint64_t load_hash(uint64_t hash, const void *data, size_t n_bytes)
{
    const unsigned char *bytes = data;
    for (size_t i = 0; i < n_bytes; i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001B3);
    return hash;
}
