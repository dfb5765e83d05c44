/*
 * Random numbers as functions of (seed, index, what is drawn): they need no state and no order, so a request is the same whichever
 * thread sends it and whatever was sent before. Any thread.
 */
#ifndef TOOLS_LOAD_RANDOM_H
#define TOOLS_LOAD_RANDOM_H

#include <stdint.h>

/* 64 random bits. */
uint64_t load_random_u64(uint64_t seed, uint64_t index, uint64_t what);
/* Uniform in [0, 1). */
double load_random_unit(uint64_t seed, uint64_t index, uint64_t what);
/* Exponentially distributed with mean 1, > 0: the gaps between the arrivals of a Poisson process of rate 1. */
double load_random_exponential(uint64_t seed, uint64_t index, uint64_t what);

#endif
