/*
 * turn: engines that share the CPU compute in turns, one step each, first come, first served. Together they then take the machine once,
 * where steps at the same time would have more threads than CPUs, which wait for each other at every operation. While they share it, a step
 * that computes prompts only must be short, as another engine's streams wait for it. Any thread.
 */
#ifndef ENGINE_TURN_H
#define ENGINE_TURN_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct turn {
    pthread_mutex_t lock;
    pthread_cond_t passed;
    /* Under lock: */
    uint64_t next, now; /* tickets; the one that is `now` has the turn, next == now: nobody has it */
    const void *last;   /* who took it last */
    int64_t shared_ns;  /* when it went from one to another; 0 = never */
};

bool turn_init(struct turn *t);
void turn_fini(struct turn *t);

/* Waits for the turn of `who` (not NULL), behind all that waited before. t NULL: there is nobody to share with. */
void turn_take(struct turn *t, const void *who);
/* Gives it to the next that waits. */
void turn_give(struct turn *t);
/* Whether others than `who` have taken turns lately. */
bool turn_is_shared(struct turn *t, const void *who, int64_t now_ns);

#endif
