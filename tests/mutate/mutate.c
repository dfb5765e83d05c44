/*
 * mutate SOCKET PROTOCOL COUNT SEED [INDEX]: the connections, AT_ONCE at a time. A case is written whole; when nothing has come for
 * QUIET_MS the client ends its side, and the gateway has to close within HANG_MS. With INDEX only that case is sent, and
 * printed.
 */
#include "tests/mutate/mutate.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define AT_ONCE 64
#define QUIET_MS 25
#define HANG_MS 60000
#define MAX_ANSWER_BYTES (16 << 20)

struct slot {
    int fd; /* -1 = free */
    uint64_t index;
    struct buffer out, in;
    size_t n_sent;
    int64_t last_ns; /* when bytes moved */
    bool shut;       /* our side is ended */
    bool refused;    /* the gateway took no more bytes */
};

struct run {
    struct sockaddr_un address;
    int protocol;
    uint64_t seed, n_started, n_cases, n_faults, n_silent;
    struct tally tally;
    struct slot slots[AT_ONCE];
    bool print;
};

static void print_bytes(const char *what, const struct buffer *b)
{
    printf("  %s, %zu bytes: ", what, b->n_bytes);
    for (size_t i = 0; i < b->n_bytes && i < 4000; i++) {
        unsigned char c = (unsigned char)b->data[i];
        printf(c >= ' ' && c <= '~' && c != '\\' ? "%c" : "\\x%02x", c);
    }
    printf("\n");
}

static void fault(struct run *r, const struct slot *s, const char *what)
{
    r->n_faults++;
    printf("case %" PRIu64 " of HTTP/%d, seed %" PRIu64 ": %s\n", s->index, r->protocol, r->seed, what);
    print_bytes("sent", &s->out);
    print_bytes("received", &s->in);
}

static void begin(struct run *r, struct slot *s)
{
    s->index = r->n_started++;
    s->n_sent = 0;
    s->shut = s->refused = false;
    buffer_clear(&s->in);
    case_make(r->protocol, r->seed, s->index, &s->out);
    s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* Blocks while the backlog is full. */
    if (s->fd < 0 || connect(s->fd, (const struct sockaddr *)&r->address, sizeof r->address) != 0) {
        perror("mutate: connect");
        exit(2);
    }
    fcntl(s->fd, F_SETFL, O_NONBLOCK);
    s->last_ns = clock_now_ns();
}

static void finish(struct run *r, struct slot *s)
{
    close(s->fd);
    s->fd = -1;
    if (s->in.n_bytes == 0)
        r->n_silent++;
    if (r->print) {
        print_bytes("sent", &s->out);
        print_bytes("received", &s->in);
    }
    const char *what = answers_check(&s->in, s->shut, &r->tally);
    if (what)
        fault(r, s, what);
}

static void send_more(struct slot *s)
{
    ssize_t n = send(s->fd, s->out.data + s->n_sent, s->out.n_bytes - s->n_sent, MSG_NOSIGNAL);
    if (n > 0) {
        s->n_sent += (size_t)n;
        s->last_ns = clock_now_ns();
    } else if (n < 0 && errno != EAGAIN) {
        s->refused = true;
    }
}

/* False when the gateway has closed. */
static bool receive_more(struct slot *s)
{
    char bytes[65536];
    ssize_t n = recv(s->fd, bytes, sizeof bytes, 0);
    if (n < 0 && errno == EAGAIN)
        return true;
    if (n <= 0)
        return false;
    buffer_append(&s->in, bytes, (size_t)n);
    s->last_ns = clock_now_ns();
    return true;
}

static bool sending(const struct slot *s)
{
    return !s->refused && s->n_sent < s->out.n_bytes;
}

static void serve(struct run *r, struct slot *s, short events, int64_t now_ns)
{
    int64_t quiet_ms = (now_ns - s->last_ns) / CLOCK_NS_PER_MS;
    if (sending(s) && (events & POLLOUT))
        send_more(s);
    if ((events & (POLLIN | POLLHUP | POLLERR)) && !receive_more(s)) {
        finish(r, s);
    } else if (!s->shut && !sending(s) && quiet_ms >= QUIET_MS) {
        shutdown(s->fd, SHUT_WR);
        s->shut = true;
        s->last_ns = now_ns;
    } else if (quiet_ms >= HANG_MS) {
        fault(r, s, "the gateway neither answers nor closes");
        close(s->fd);
        s->fd = -1;
    }
}

static void run_all(struct run *r, uint64_t end)
{
    for (size_t n_open = 1; n_open > 0 || r->n_started < end;) {
        struct pollfd fds[AT_ONCE];
        n_open = 0;
        for (int i = 0; i < AT_ONCE; i++) {
            struct slot *s = &r->slots[i];
            if (s->fd < 0 && r->n_started < end)
                begin(r, s);
            n_open += s->fd >= 0;
            fds[i] = (struct pollfd){.fd = s->fd, .events = (short)(POLLIN | (s->fd >= 0 && sending(s) ? POLLOUT : 0))};
        }
        poll(fds, AT_ONCE, QUIET_MS / 2);
        int64_t now_ns = clock_now_ns();
        for (int i = 0; i < AT_ONCE; i++)
            if (r->slots[i].fd >= 0)
                serve(r, &r->slots[i], fds[i].revents, now_ns);
    }
}

int main(int argc, char **argv)
{
    static struct run r;
    if (argc < 5 || strlen(argv[1]) >= sizeof r.address.sun_path) {
        fprintf(stderr, "usage: mutate SOCKET 1|2 COUNT SEED [INDEX]\n");
        return 2;
    }
    r.address.sun_family = AF_UNIX;
    strcpy(r.address.sun_path, argv[1]);
    r.protocol = atoi(argv[2]);
    r.n_cases = strtoull(argv[3], NULL, 10);
    r.seed = strtoull(argv[4], NULL, 10);
    r.print = argc > 5;
    r.n_started = r.print ? strtoull(argv[5], NULL, 10) : 0;
    for (int i = 0; i < AT_ONCE; i++) {
        r.slots[i].fd = -1;
        buffer_init(&r.slots[i].out, 1 << 20);
        buffer_init(&r.slots[i].in, MAX_ANSWER_BYTES);
    }
    run_all(&r, r.print ? r.n_started + 1 : r.n_cases);
    for (int i = 0; i < AT_ONCE; i++) {
        buffer_fini(&r.slots[i].out);
        buffer_fini(&r.slots[i].in);
    }
    printf("HTTP/%d: %" PRIu64 " cases, answers 1xx %" PRIu64 ", 2xx %" PRIu64 ", 4xx %" PRIu64 ", 5xx %" PRIu64
           ", resets %" PRIu64 ", GOAWAY %" PRIu64 ", closed without a word %" PRIu64 ", faults %" PRIu64 "\n",
           r.protocol, r.print ? 1 : r.n_cases, r.tally.n_status[1], r.tally.n_status[2], r.tally.n_status[4],
           r.tally.n_status[5], r.tally.n_resets, r.tally.n_goaways, r.n_silent, r.n_faults);
    return r.n_faults > 0;
}
