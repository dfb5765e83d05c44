/*
 * background: work that serves nobody yet, as loading and checking a model is, beside work that does. Any thread.
 */
#ifndef ENGINE_BACKGROUND_H
#define ENGINE_BACKGROUND_H

/* Runs fn(arg) on a thread of its own, at low priority (threads that it starts inherit it), and waits for it. On the caller's thread where the
 * system gives none. */
void background_run(void (*fn)(void *arg), void *arg);

/* Gives the calling thread that priority, for good: the system does not give back what a thread has given up. */
void background_enter(void);

#endif
