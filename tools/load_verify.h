/*
 * The texts that were seen, as hashes by what was asked: the same prompt, parameters and seed must give the same text. Bounded; what
 * does not fit is not compared. Any thread.
 */
#ifndef TOOLS_LOAD_VERIFY_H
#define TOOLS_LOAD_VERIFY_H

#include <stddef.h>
#include <stdint.h>

#define LOAD_HASH_START UINT64_C(0xCBF29CE484222325)

struct load_verify;

enum load_verdict {
    LOAD_FIRST, /* it is what others will be compared with */
    LOAD_SAME,
    LOAD_DIFFERENT,
    LOAD_NO_ROOM
};

/* A table for up to max_keys requests that differ; NULL when memory is out. */
struct load_verify *load_verify_open(size_t max_keys);
void load_verify_close(struct load_verify *v);
/* `key` stands for what was asked, `text` for what was answered. */
enum load_verdict load_verify_text(struct load_verify *v, uint64_t key, uint64_t text);

/* The hash (FNV-1a) of a text that comes in pieces: begin with LOAD_HASH_START. */
uint64_t load_hash(uint64_t hash, const void *data, size_t n_bytes);

#endif
