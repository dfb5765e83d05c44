/*
 * getaddrinfo on a detached thread: the system's own resolver, so that /etc/hosts, resolv.conf and long answers are what
 * they are for every other program. Loop and thread own the lookup together; the last one frees it.
 */
#include "gateway/lookup.h"

#include "base/crash.h"

#include <event2/event.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_ADDRESSES 256

struct lookup {
    atomic_int n_owners;
    int fd;             /* the thread's word to the loop that it has ended */
    struct event *done; /* loop */
    void *user;
    void (*on_found)(void *user, char (*addresses)[TARGET_ADDRESS_BYTES], size_t n, const char *why);
    char host[256], port[8];
    /* Written by the thread before it writes to `fd`. */
    int rc;
    size_t n;
    char addresses[MAX_ADDRESSES][TARGET_ADDRESS_BYTES];
};

static void lookup_put(struct lookup *l)
{
    if (atomic_fetch_sub(&l->n_owners, 1) != 1)
        return;
    if (l->fd >= 0)
        close(l->fd);
    free(l);
}

/* ---- thread ---- */

static int compare(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void add(struct lookup *l, const struct addrinfo *a)
{
    char host[NI_MAXHOST];
    if (l->n == MAX_ADDRESSES ||
        getnameinfo(a->ai_addr, a->ai_addrlen, host, sizeof host, NULL, 0, NI_NUMERICHOST) != 0)
        return;
    char *out = l->addresses[l->n];
    snprintf(out, TARGET_ADDRESS_BYTES, a->ai_family == AF_INET6 ? "[%.100s]:%.7s" : "%.100s:%.7s", host, l->port);
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->addresses[i], out) == 0)
            return;
    l->n++;
}

static void *run(void *user)
{
    struct lookup *l = user;
    struct addrinfo *found = NULL;
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    l->rc = getaddrinfo(l->host, l->port, &hints, &found);
    for (const struct addrinfo *a = l->rc == 0 ? found : NULL; a; a = a->ai_next)
        add(l, a);
    if (l->rc == 0)
        freeaddrinfo(found);
    qsort(l->addresses, l->n, sizeof *l->addresses, compare);
    uint64_t one = 1;
    ssize_t written = write(l->fd, &one, sizeof one);
    (void)written; /* an eventfd that is empty takes it */
    lookup_put(l);
    return NULL;
}

/* ---- loop ---- */

static void on_done(evutil_socket_t fd, short what, void *user)
{
    (void)what;
    struct lookup *l = user;
    uint64_t count;
    if (read(fd, &count, sizeof count) < 0)
        return;
    event_free(l->done);
    l->on_found(l->user, l->addresses, l->n, l->n > 0 ? "" : l->rc != 0 ? gai_strerror(l->rc) : "no address");
    lookup_put(l);
}

/* A thread that takes no signals: they are the main thread's. */
static int start_thread(struct lookup *l)
{
    pthread_t thread;
    pthread_attr_t detached;
    sigset_t all, before;
    sigfillset(&all);
    crash_let_through(&all);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int failed = pthread_create(&thread, &detached, run, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&detached);
    return failed;
}

enum error_code lookup_start(struct event_base *base, const char *host, const char *port, void *user,
                             void (*on_found)(void *user, char (*addresses)[TARGET_ADDRESS_BYTES], size_t n,
                                              const char *why),
                             struct lookup **out, struct error *err)
{
    struct lookup *l = calloc(1, sizeof *l);
    if (!l)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    atomic_init(&l->n_owners, 2);
    l->user = user;
    l->on_found = on_found;
    snprintf(l->host, sizeof l->host, "%s", host);
    snprintf(l->port, sizeof l->port, "%s", port);
    l->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    l->done = l->fd >= 0 ? event_new(base, l->fd, EV_READ, on_done, l) : NULL;
    if (!l->done || event_add(l->done, NULL) != 0 || start_thread(l) != 0) {
        if (l->done)
            event_free(l->done);
        atomic_store(&l->n_owners, 1);
        lookup_put(l);
        return error_set(err, ERROR_INTERNAL, "cannot start a thread that looks %s up", host);
    }
    *out = l;
    return ERROR_NONE;
}

void lookup_cancel(struct lookup *l)
{
    event_free(l->done);
    lookup_put(l);
}
