/* What a service manager hears, by its side of the socket. */
#include "base/notify.h"
#include "tests/suite.h"

#include "base/clock.h"

#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* The manager's socket at `path`, '@' in front for the abstract namespace; the variable names it. */
static int manager(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memcpy(a.sun_path, path, strlen(path));
    if (path[0] == '@')
        a.sun_path[0] = '\0';
    else
        unlink(path);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    ck_assert_int_eq(
        bind(fd, (struct sockaddr *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path))), 0);
    setenv("NOTIFY_SOCKET", path, 1);
    return fd;
}

static const char *heard(int fd)
{
    static char text[256];
    ssize_t n = recv(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

START_TEST(tells_a_socket_by_path_and_by_name)
{
    char path[64], name[64];
    snprintf(path, sizeof path, "/tmp/test_notify_%d", (int)getpid());
    snprintf(name, sizeof name, "@test_notify_%d", (int)getpid());
    int fd = manager(path);
    ck_assert(notify_send("READY=1"));
    ck_assert_str_eq(heard(fd), "READY=1");
    unlink(path);
    fd = manager(name);
    ck_assert(notify_send("STOPPING=1\nSTATUS=x"));
    ck_assert_str_eq(heard(fd), "STOPPING=1\nSTATUS=x");
}
END_TEST

START_TEST(reloading_says_when)
{
    char name[64];
    snprintf(name, sizeof name, "@test_notify_r_%d", (int)getpid());
    int fd = manager(name);
    long long before = clock_now_ns() / 1000, said = 0;
    ck_assert(notify_reloading());
    ck_assert_int_eq(sscanf(heard(fd), "RELOADING=1\nMONOTONIC_USEC=%lld", &said), 1);
    ck_assert(said >= before && said <= clock_now_ns() / 1000);
}
END_TEST

START_TEST(nobody_to_tell)
{
    static const char *const places[] = {"", "x", "@", "relative/path", "/nowhere/at/all"};
    char too_long[300];
    unsetenv("NOTIFY_SOCKET");
    ck_assert(!notify_send("READY=1"));
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        setenv("NOTIFY_SOCKET", places[i], 1);
        ck_assert_msg(!notify_send("READY=1"), "%s", places[i]);
    }
    memset(too_long, '/', sizeof too_long - 1);
    too_long[sizeof too_long - 1] = '\0';
    setenv("NOTIFY_SOCKET", too_long, 1);
    ck_assert(!notify_send("READY=1"));
}
END_TEST

START_TEST(watchdog_is_due_at_half_of_its_time)
{
    char pid[32];
    static const struct {
        const char *usec;
        int64_t ns;
    } cases[] = {{"30000000", INT64_C(15) * CLOCK_NS_PER_S},
                 {"1", 500},
                 {"0", 0},
                 {"-5", 0},
                 {"x", 0},
                 {"9223372036854775807", 0}};
    unsetenv("WATCHDOG_PID");
    unsetenv("WATCHDOG_USEC");
    ck_assert_int_eq(notify_watchdog_ns(), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        setenv("WATCHDOG_USEC", cases[i].usec, 1);
        ck_assert_msg(notify_watchdog_ns() == cases[i].ns, "%s", cases[i].usec);
    }
    setenv("WATCHDOG_USEC", "1000", 1);
    setenv("WATCHDOG_PID", "1", 1); /* another process's */
    ck_assert_int_eq(notify_watchdog_ns(), 0);
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    setenv("WATCHDOG_PID", pid, 1);
    ck_assert_int_eq(notify_watchdog_ns(), 500000);
}
END_TEST

SUITE("notify", tells_a_socket_by_path_and_by_name, reloading_says_when, nobody_to_tell,
      watchdog_is_due_at_half_of_its_time)
