/* The generator: the finalizer of splitmix64 over the three numbers, one after the other. */
#include "tools/load_random.h"

#include <math.h>

static uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

uint64_t load_random_u64(uint64_t seed, uint64_t index, uint64_t what)
{
    return mix(mix(mix(seed) ^ index) ^ what);
}

double load_random_unit(uint64_t seed, uint64_t index, uint64_t what)
{
    return (double)(load_random_u64(seed, index, what) >> 11) * 0x1p-53;
}

double load_random_exponential(uint64_t seed, uint64_t index, uint64_t what)
{
    /* The upper end, 1 - u in (0, 1], has a logarithm; half a step below 1 keeps the gap above 0. */
    return -log(1 - load_random_unit(seed, index, what) - 0x1p-54);
}
