/*
 * accuracy: a share of what an engine answered, computed again by its reference in idle time and compared token by token.
 *
 *   loop: accuracy_offer -> a few places -> a thread of the lowest priority: reference_compare -> figures
 *
 * Which requests: every k-th of those that drew a token, from the first on, k = 1 / share; one that cannot be compared (a grammar, a long
 * prompt) leaves its turn to the next. Of a request choice 0, and at most ACCURACY_MAX_TOKENS of it. While requests run the thread works
 * 1/60 of the time.
 *
 * A violation is a request of whose tokens less than `threshold` are the same; the engine is degraded while that holds for the last
 * ACCURACY_WINDOW requests together.
 */
#ifndef ENGINE_ACCURACY_H
#define ENGINE_ACCURACY_H

#include "engine/job.h"

#define ACCURACY_MAX_PROMPT 512
#define ACCURACY_MAX_TOKENS 64
#define ACCURACY_WINDOW 32

struct accuracy;

/* Starts the thread; share > 0, threshold of 0 is the default; idle: what computes runs at idle priority. The engine must outlive it, and offers must be over when it is closed, which ends
 * what is being compared after the next chunk. */
enum error_code accuracy_open(struct engine *e, double share, double threshold, bool idle, struct accuracy **out, struct error *err);
void accuracy_close(struct accuracy *a); /* NULL is ignored */

/* A request has ended. On the loop's thread; allocates nothing and waits for nothing but a short lock. */
void accuracy_offer(struct accuracy *a, const struct job *j);

/* Any thread. */
void accuracy_read(struct accuracy *a, struct engine_accuracy *out);

#endif
