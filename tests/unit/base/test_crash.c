/* What a child says before it dies of each signal. */
#include "tests/suite.h"

#include "base/crash.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
START_TEST(not_here)
{
    puts("skip crash: the sanitizer reports");
}
END_TEST
SUITE("crash", not_here)
#else

static char report[65536];

/* Runs `die` in a child with stderr in a pipe; fills `report` and returns the signal that ended it. */
static int dies(void (*die)(void))
{
    int fds[2], status;
    size_t n = 0;
    ck_assert_int_eq(pipe(fds), 0);
    pid_t child = fork();
    if (child == 0) {
        const struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        for (int i = 1; i < 32; i++)
            if (i != SIGKILL && i != SIGSTOP)
                signal(i, SIG_DFL); /* what the test's runner has set */
        dup2(fds[1], STDERR_FILENO);
        crash_init("tested 1.2.3 (abc)");
        die();
        _exit(0);
    }
    close(fds[1]);
    for (ssize_t got; (got = read(fds[0], report + n, sizeof report - 1 - n)) > 0;)
        n += (size_t)got;
    report[n] = '\0';
    close(fds[0]);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFSIGNALED(status), "%s", report);
    return WTERMSIG(status);
}

static void has(const char *what)
{
    ck_assert_msg(strstr(report, what) != NULL, "expected %s in:\n%s", what, report);
}

static void wrong_address(void)
{
    int first = crash_enter("request-one"), second = crash_enter("request-two");
    crash_leave(first);
    (void)second;
    pthread_setname_np(pthread_self(), "the-thread");
    *(volatile int *)(uintptr_t)0xdead000 = 1;
}

START_TEST(a_wrong_address)
{
    ck_assert_int_eq(dies(wrong_address), SIGSEGV);
    has("tested 1.2.3 (abc)\n");
    has("SIGSEGV: a wrong address, at 0xdead000\n");
    has("(the-thread)");
    has("stack:\n");
    has("test_crash(+0x");
    has("  request-two\nrequests in flight: 1\n");
    has("=== end of the report ===\n");
    ck_assert_ptr_null(strstr(report, "request-one"));
}
END_TEST

static void kill_oneself(void)
{
    kill(getpid(), SIGSEGV);
}

START_TEST(a_signal_that_was_sent)
{
    ck_assert_int_eq(dies(kill_oneself), SIGSEGV);
    has("SIGSEGV: a wrong address, sent by process ");
}
END_TEST

static void *fault(void *unused)
{
    wrong_address();
    return unused;
}

/* As threads of the engine are started. */
static void in_a_thread_without_signals(void)
{
    pthread_t thread;
    sigset_t all;
    sigfillset(&all);
    crash_let_through(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    pthread_create(&thread, NULL, fault, NULL);
    pthread_join(thread, NULL);
}

START_TEST(a_thread_without_signals)
{
    ck_assert_int_eq(dies(in_a_thread_without_signals), SIGSEGV);
    has("SIGSEGV: a wrong address, at 0xdead000\n");
    has("=== end of the report ===\n");
}
END_TEST

static void give_up(void)
{
    abort();
}

static void divide(void)
{
    volatile int seven = 7, zero = 0;
    zero = seven / zero;
}

static void bad_instruction(void)
{
    __builtin_trap();
}

static void lost_file(void)
{
    FILE *file = tmpfile();
    int grown = ftruncate(fileno(file), 4096);
    volatile char *p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fileno(file), 0);
    int cut = ftruncate(fileno(file), 0);
    if (grown == 0 && cut == 0)
        (void)*p;
}

START_TEST(each_signal)
{
    static const struct {
        void (*die)(void);
        int number;
        const char *name;
    } cases[] = {{give_up, SIGABRT, "SIGABRT"}, {divide, SIGFPE, "SIGFPE"}, {bad_instruction, SIGILL, "SIGILL"}, {lost_file, SIGBUS, "SIGBUS"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert_int_eq(dies(cases[i].die), cases[i].number);
        has(cases[i].name);
        has("requests in flight: 0\n");
    }
}
END_TEST

static int deeper(volatile int n)
{
    volatile char room[4096];
    room[0] = (char)n;
    if (n < 0)
        return 0;
    return deeper(n + 1) + room[0];
}

static void use_up_the_stack(void)
{
    deeper(0);
}

START_TEST(no_stack_left)
{
    ck_assert_int_eq(dies(use_up_the_stack), SIGSEGV);
    has("=== end of the report ===\n");
}
END_TEST

static void *enter_and_leave(void *id)
{
    for (int i = 0; i < 100000; i++)
        crash_leave(crash_enter(id));
    return NULL;
}

static void with_threads(void)
{
    static char names[4][16] = {"thread-a", "thread-b", "thread-c", "thread-d"};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, enter_and_leave, names[i]);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 5000; i++) /* more than there are places for */
        crash_enter("many");
    abort();
}

START_TEST(the_list_has_bounds)
{
    int n = 0;
    ck_assert_int_eq(dies(with_threads), SIGABRT);
    ck_assert_ptr_null(strstr(report, "thread-"));
    for (const char *p = report; (p = strstr(p, "  many\n")); p++)
        n++;
    ck_assert_int_eq(n, 256); /* that are shown */
    has("requests in flight: 4096\n");
}
END_TEST

SUITE("crash", a_wrong_address, a_signal_that_was_sent, a_thread_without_signals, each_signal, no_stack_left, the_list_has_bounds)
#endif
