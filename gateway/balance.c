/* The policies. */
#include "gateway/balance.h"

uint64_t balance_hash(uint64_t before, const void *data, size_t n_bytes)
{
    const unsigned char *bytes = data;
    uint64_t h = before ^ UINT64_C(14695981039346656037); /* not `before` alone: "ab" "c" and "a" "bc" differ */
    for (size_t i = 0; i < n_bytes; i++)
        h = (h ^ bytes[i]) * UINT64_C(1099511628211);
    return h != 0 ? h : 1;
}

/* The finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static double least_load(const struct balance_member *members, size_t n)
{
    double least = -1;
    for (size_t i = 0; i < n; i++)
        if (members[i].may && (least < 0 || members[i].load < least))
            least = members[i].load;
    return least;
}

static int by_key(const struct balance_member *members, size_t n, uint64_t key, double least)
{
    int best = -1;
    uint64_t highest = 0;
    for (size_t i = 0; i < n; i++) {
        double more = members[i].load - least;
        bool far = more > BALANCE_FAR_MORE && members[i].load > least * BALANCE_FAR_TIMES;
        uint64_t weight = mix(key ^ members[i].id);
        if (members[i].may && !far && (best < 0 || weight > highest)) {
            best = (int)i;
            highest = weight;
        }
    }
    return best;
}

int balance_choose(const struct balance_member *members, size_t n, enum balance_policy policy, uint64_t key,
                   size_t *turn)
{
    double least = least_load(members, n);
    if (least < 0)
        return -1;
    if (key != 0)
        return by_key(members, n, key, least);
    for (size_t k = 0; k < n; k++) {
        size_t i = (*turn + k) % n;
        if (!members[i].may || (policy == BALANCE_LEAST_LOAD && members[i].load > least))
            continue;
        *turn = i + 1; /* behind the one taken, or what is skipped would give its turns to its neighbour */
        return (int)i;
    }
    return -1;
}
