/*
 * turn: engines that share the CPU compute in turns, one step each, first come, first served. Together they then take the machine once,
 * where steps at the same time would have more threads than CPUs, which wait for each other at every operation. Any thread.
 */
#ifndef ENGINE_TURN_H
#define ENGINE_TURN_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct turn {
    pthread_mutex_t lock;
    pthread_cond_t passed;
    uint64_t next, now; /* under lock: tickets; the one that is `now` has the turn, next == now: nobody has it */
};

bool turn_init(struct turn *t);
void turn_fini(struct turn *t);

/* Waits for the caller's turn, behind all that waited before. NULL: there is nobody to share with. */
void turn_take(struct turn *t);
/* Gives it to the next that waits. */
void turn_give(struct turn *t);

#endif
