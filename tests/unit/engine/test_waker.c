/* Which signals a thread of the engine takes. */
#include "tests/suite.h"

#include "engine/waker.h"

#include <signal.h>

static void *read_mask(void *mask)
{
    pthread_sigmask(SIG_BLOCK, NULL, mask);
    return NULL;
}

START_TEST(threads_take_faults_alone)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}, others[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGALRM};
    pthread_t thread;
    sigset_t mask, before, after;
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    ck_assert(waker_thread_start(&thread, read_mask, &mask));
    pthread_join(thread, NULL);
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        ck_assert_int_eq(sigismember(&mask, faults[i]), 0); /* or it dies without a report */
        ck_assert_int_eq(sigismember(&mask, others[i]), 1);
        ck_assert_int_eq(sigismember(&after, others[i]), sigismember(&before, others[i]));
    }
}
END_TEST

SUITE("waker", threads_take_faults_alone)
