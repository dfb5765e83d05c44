/*
 * accept4 in place of libc's. gRPC 1.51 stops listening for good at the first error that is not EINTR or EAGAIN: when descriptors have run
 * out, or when a connection was lost before it was taken, which accept(2) passes on. A server would go on with the connections it has and
 * never get another one.
 *
 * On gRPC's threads a connection without a descriptor is taken with one that is kept for that and closed at once: its client knows, and the queue is
 * empty when gRPC is told so; epoll would not tell it of the rest. All other threads get what libc would give.
 */
#include "rpc/core.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static _Thread_local bool for_grpc;

static struct {
    pthread_mutex_t lock; /* guards what follows */
    int fd;               /* -1: none */
    int64_t told_ns;
} reserve = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1};

static int take_reserve(void)
{
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

void accept_for_grpc(void)
{
    for_grpc = true;
    pthread_mutex_lock(&reserve.lock);
    if (reserve.fd < 0)
        reserve.fd = take_reserve();
    pthread_mutex_unlock(&reserve.lock);
}

static int take(int fd, struct sockaddr *address, socklen_t *n_bytes, int flags)
{
    return (int)syscall(SYS_accept4, fd, address, n_bytes, flags);
}

/* False when there was none. */
static bool turn_away(int fd)
{
    pthread_mutex_lock(&reserve.lock);
    if (reserve.fd >= 0)
        close(reserve.fd);
    int connection = take(fd, NULL, NULL, SOCK_CLOEXEC);
    if (connection >= 0)
        close(connection);
    reserve.fd = take_reserve();
    int64_t now_ns = clock_now_ns();
    bool tell = connection >= 0 && now_ns - reserve.told_ns > CLOCK_NS_PER_S;
    if (tell)
        reserve.told_ns = now_ns;
    pthread_mutex_unlock(&reserve.lock);
    if (tell)
        log_error("rpc", "connections are turned away: no file descriptor is left (ulimit -n)");
    return connection >= 0;
}

/* Of one connection, and gone with it. */
static bool passing(int error)
{
    return error == ECONNABORTED || error == EPROTO || error == EPERM || error == ENETDOWN || error == ENOPROTOOPT || error == EHOSTDOWN ||
           error == ENONET || error == EHOSTUNREACH || error == ENETUNREACH || error == EOPNOTSUPP || error == ETIMEDOUT;
}

int accept4(int fd, struct sockaddr *address, socklen_t *n_bytes, int flags)
{
    const socklen_t room = n_bytes ? *n_bytes : 0;
    for (;;) {
        int connection = take(fd, address, n_bytes, flags);
        if (connection >= 0 || !for_grpc)
            return connection;
        bool out = errno == EMFILE || errno == ENFILE;
        if (!out && !passing(errno)) {
            if (errno == ENOBUFS || errno == ENOMEM)
                errno = EAGAIN;
            return -1;
        }
        if (out && !turn_away(fd)) {
            errno = EAGAIN;
            return -1;
        }
        if (n_bytes)
            *n_bytes = room;
    }
}
