/*
 * A map from byte strings to 32-bit values: open addressing, hashed with a random seed, because the strings come from model
 * files that may have been made to collide. Keys are borrowed. Not thread-safe while it is filled; read by any thread after.
 */
#ifndef ENGINE_TEXT_STRMAP_H
#define ENGINE_TEXT_STRMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STRMAP_NONE UINT32_MAX /* "not there"; no value may be this */

struct strmap_slot {
    const char *key; /* NULL = free */
    uint32_t n_bytes, value;
};

struct strmap {
    struct strmap_slot *slots; /* [capacity], a power of two, at most half full */
    size_t capacity, n;
    uint64_t seed;
};

/* Makes an empty map with room for n_expected keys. False when memory is out. */
bool strmap_init(struct strmap *m, size_t n_expected);
void strmap_fini(struct strmap *m);

/* Adds key -> value unless the key is there already; *found gets the value that the map then holds. False when memory is out. */
bool strmap_add(struct strmap *m, const char *key, size_t n_bytes, uint32_t value, uint32_t *found);

/* The value of a key, STRMAP_NONE when it is not there (or the map was never made). */
uint32_t strmap_get(const struct strmap *m, const char *key, size_t n_bytes);

/* 64 mixed bits of two words; the hash of maps whose keys are integers. */
static inline uint64_t strmap_mix(uint64_t a, uint64_t b)
{
    a = (a ^ (b + UINT64_C(0x9e3779b97f4a7c15))) * UINT64_C(0xbf58476d1ce4e5b9);
    a = (a ^ (a >> 32)) * UINT64_C(0x94d049bb133111eb);
    return a ^ (a >> 29);
}

#endif
