#include "engine/background.h"

#include "engine/waker.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A tenth of a CPU that threads of normal priority want whole, all of one that nobody wants. At idle priority a model would never be there on a
 * machine that is busy, and a lock that such a thread holds would be held for seconds. */
#define STEPS_DOWN 10
#define LOWEST 19

struct call {
    void (*fn)(void *arg);
    void *arg;
};

void background_enter(void)
{
    id_t thread = (id_t)syscall(SYS_gettid); /* Linux: of the thread, not of its process */
    int priority = getpriority(PRIO_PROCESS, thread) + STEPS_DOWN;
    setpriority(PRIO_PROCESS, thread, priority < LOWEST ? priority : LOWEST);
}

static void *run(void *arg)
{
    const struct call *c = arg;
    pthread_setname_np(pthread_self(), "background");
    background_enter();
    c->fn(c->arg);
    return NULL;
}

void background_run(void (*fn)(void *arg), void *arg)
{
    struct call c = {fn, arg};
    pthread_t thread;
    if (waker_thread_start(&thread, run, &c))
        pthread_join(thread, NULL);
    else
        fn(arg);
}
