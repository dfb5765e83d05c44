/*
 * The report is written by the handler itself, so only with functions that are safe there: write, and reads of atomics. backtrace() is, once
 * it has been called before, which loads the unwinder.
 */
#include "base/crash.h"

#include "base/clock.h"

#include <errno.h>
#include <execinfo.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_REQUESTS 4096
#define ID_BYTES 128
#define MAX_FRAMES 64
#define MAX_SHOWN 256
#define STACK_BYTES 65536
#define REPORT_S 5 /* that the report may take */

/* A place: 0 = free, 1 = being written, 2 = its id is whole. */
static struct {
    atomic_int state;
    char id[ID_BYTES + 1];
} requests[MAX_REQUESTS];
static atomic_uint next_place;
static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
#define N_SIGNALS (sizeof signals / sizeof *signals)
static const char *about_program;
static int64_t started_ns;
static char stack[STACK_BYTES]; /* the main thread's, for when its own is used up */

int crash_enter(const char *request_id)
{
    unsigned first = atomic_fetch_add_explicit(&next_place, 1, memory_order_relaxed);
    for (unsigned i = 0; i < 64; i++) { /* a few looks: the table is mostly empty */
        unsigned at = (first + i) % MAX_REQUESTS;
        int is_free = 0;
        if (!atomic_compare_exchange_strong_explicit(&requests[at].state, &is_free, 1, memory_order_acquire, memory_order_relaxed))
            continue;
        size_t n = strnlen(request_id, ID_BYTES);
        memcpy(requests[at].id, request_id, n);
        requests[at].id[n] = '\0';
        atomic_store_explicit(&requests[at].state, 2, memory_order_release);
        return (int)at + 1;
    }
    return 0;
}

void crash_leave(int place)
{
    if (place > 0)
        atomic_store_explicit(&requests[place - 1].state, 0, memory_order_release);
}

void crash_let_through(sigset_t *blocked)
{
    for (size_t i = 0; i < N_SIGNALS; i++)
        sigdelset(blocked, signals[i]);
}

/* ---- in the handler ---- */

static void put(const char *text)
{
    size_t n = strlen(text);
    while (n > 0) {
        ssize_t wrote = write(STDERR_FILENO, text, n);
        if (wrote <= 0 && errno != EINTR)
            return;
        text += wrote > 0 ? wrote : 0;
        n -= wrote > 0 ? (size_t)wrote : 0;
    }
}

static void put_number(uint64_t v, unsigned base)
{
    char text[24], *p = text + sizeof text - 1;
    *p = '\0';
    do
        *--p = "0123456789abcdef"[v % base];
    while ((v /= base) > 0);
    put(p);
}

static const char *name_of(int number)
{
    return number == SIGSEGV   ? "SIGSEGV: a wrong address"
           : number == SIGBUS  ? "SIGBUS: memory that is not there, as of a file that was cut"
           : number == SIGFPE  ? "SIGFPE: arithmetic that has no result"
           : number == SIGILL  ? "SIGILL: an instruction that this CPU does not have"
                               : "SIGABRT: an assertion failed, or the process gave up";
}

static void put_requests(void)
{
    unsigned n = 0;
    for (unsigned i = 0; i < MAX_REQUESTS; i++) {
        if (atomic_load_explicit(&requests[i].state, memory_order_acquire) != 2)
            continue;
        if (n++ < MAX_SHOWN) {
            put("  ");
            put(requests[i].id);
            put("\n");
        }
    }
    put("requests in flight: ");
    put_number(n, 10);
    put("\n");
}

static void on_crash(int number, siginfo_t *info, void *context)
{
    (void)context;
    char thread[17] = "";
    void *frames[MAX_FRAMES];
    signal(SIGALRM, SIG_DFL); /* ends the process where nobody reads stderr */
    alarm(REPORT_S);
    prctl(PR_GET_NAME, thread);
    put("\n=== crash report ===\n");
    put(about_program);
    put("\n");
    put(name_of(number));
    if (info->si_code == SI_USER) { /* by kill: there is no address then, and perhaps no fault */
        put(", sent by process ");
        put_number((uint64_t)info->si_pid, 10);
    } else if (number != SIGABRT) {
        put(", at 0x");
        put_number((uintptr_t)info->si_addr, 16);
    }
    put("\nthread ");
    put_number((uint64_t)syscall(SYS_gettid), 10);
    put(" (");
    put(thread);
    put("), process ");
    put_number((uint64_t)getpid(), 10);
    put(", up ");
    put_number((uint64_t)((clock_now_ns() - started_ns) / CLOCK_NS_PER_S), 10);
    put(" s\nstack:\n");
    backtrace_symbols_fd(frames, backtrace(frames, MAX_FRAMES), STDERR_FILENO);
    put_requests();
    put("=== end of the report ===\n");
    raise(number); /* SA_RESETHAND: the default action, once the handler has returned */
}

void crash_init(const char *about)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    const stack_t alternative = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_sigaction = on_crash, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESETHAND};
    void *frame;
    about_program = about;
    started_ns = clock_now_ns();
    backtrace(&frame, 1); /* loads the unwinder now */
    sigaltstack(&alternative, NULL);
    sigfillset(&action.sa_mask); /* one report at a time of a thread */
    sigdelset(&action.sa_mask, SIGALRM);
    for (size_t i = 0; i < N_SIGNALS; i++)
        sigaction(signals[i], &action, NULL);
#else
    (void)about, (void)stack, (void)started_ns, (void)about_program, (void)on_crash;
#endif
}
