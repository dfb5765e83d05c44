/*
 * Which engine a request goes to. Pure: members as they are now in, an index out.
 *
 *   key given      rendezvous hashing over the members that may be taken: the same key, the same member, and only the keys of
 *                  a member that goes away move. A member far busier than the least busy one is passed over.
 *   round_robin    in turn
 *   least_load     fewest requests in flight; among equals in turn
 */
#ifndef GATEWAY_BALANCE_H
#define GATEWAY_BALANCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum balance_policy { BALANCE_ROUND_ROBIN, BALANCE_LEAST_LOAD };

struct balance_member {
    uint64_t id; /* of its address: the same in every process */
    double load; /* requests in flight */
    bool may;    /* serving, and not tried before */
};

/* A member with key is passed over when its load is above BALANCE_FAR_TIMES the least one's and BALANCE_FAR_MORE more. */
#define BALANCE_FAR_TIMES 2
#define BALANCE_FAR_MORE 8

/* The index of the member to take, or -1 when none may be. `key` 0 = none. `*turn` is the caller's memory of whose turn it is,
 * 0 at first. */
int balance_choose(const struct balance_member *members, size_t n, enum balance_policy policy, uint64_t key,
                   size_t *turn);

/* A hash for ids and keys, FNV-1a; never 0. Begin with 0 and go on with what came out. */
uint64_t balance_hash(uint64_t before, const void *data, size_t n_bytes);

#endif
