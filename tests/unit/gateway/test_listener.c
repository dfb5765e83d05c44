/* Accepting over real sockets: how connections are shared out, limits, and the end. Two servers on one loop stand for two loops. */
#include "tests/suite.h"

#include "base/log.h"
#include "gateway/address.h"
#include "gateway/listener.h"
#include "gateway/proxies.h"
#include "gateway/server.h"

#include <event2/event.h>
#include <event2/thread.h>
#include <netinet/in.h>
#include <unistd.h>

#define MAX_CLIENTS 32

static struct event_base *base;
static struct metrics *metrics;
static struct listener *listener;
static struct server *servers[2];
static struct http_settings http = {.max_body_bytes = 1024};
static struct address address;
static char path[64];
static int clients[MAX_CLIENTS], n_clients;

static void setup_at(const char *listen, int64_t max_connections, int64_t per_address, const struct proxies *proxies)
{
    struct error err = {0};
    log_init(LOG_OFF, LOG_FORMAT_JSON);
    evthread_use_pthreads();
    base = event_base_new();
    metrics = metrics_open();
    const struct listener_options options = {.listen = listen,
                                             .name = "test",
                                             .max_connections = max_connections,
                                             .max_connections_per_address = per_address,
                                             .proxies = proxies,
                                             .metrics = metrics};
    ck_assert_int_eq(listener_open(base, &options, &listener, &err), ERROR_NONE);
    const struct server_options server = {&http, listener_closed, listener};
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(server_open(base, &server, &servers[i], &err), ERROR_NONE);
    ck_assert_int_eq(listener_start(listener, servers, 2, &err), ERROR_NONE);
    ck_assert_int_eq(address_parse(listen, &address, &err), ERROR_NONE);
}

static void setup(int64_t max_connections)
{
    char listen[80];
    snprintf(path, sizeof path, "/tmp/bitnet-listener-%d", (int)getpid());
    snprintf(listen, sizeof listen, "unix:%s", path);
    setup_at(listen, max_connections, 0, NULL);
}

/* A TCP port that nobody has just now. */
static int free_port(void)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof any;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&any, sizeof any), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&any, &n), 0);
    close(fd);
    return ntohs(any.sin_port);
}

static void teardown(void)
{
    while (n_clients > 0)
        close(clients[--n_clients]);
    for (int i = 0; i < 2; i++)
        server_close(servers[i]);
    listener_close(listener);
    metrics_close(metrics);
    event_base_free(base);
}

static void turn(void)
{
    for (int i = 0; i < 20; i++)
        event_base_loop(base, EVLOOP_NONBLOCK);
}

static void connect_one(void)
{
    int fd = socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&address.storage, address.n_bytes), 0);
    clients[n_clients++] = fd;
}

static double active(void)
{
    return metrics_value(
        metrics_get(metrics_add(metrics, METRICS_GAUGE, "bitnet_connections_active", "", "server", NULL, 0), "test"));
}

START_TEST(connections_are_shared_out_evenly)
{
    setup(100);
    for (int i = 0; i < 10; i++) {
        connect_one();
        turn();
    }
    ck_assert_int_eq(server_connections(servers[0]), 5);
    ck_assert_int_eq(server_connections(servers[1]), 5);
    /* All of one server's go away: new ones are its. */
    int64_t n_before = server_connections(servers[0]);
    for (int i = 0; i < 10; i += 2)
        shutdown(clients[i], SHUT_RDWR);
    turn();
    struct server *emptied = server_connections(servers[0]) < n_before ? servers[0] : servers[1];
    ck_assert_int_eq(server_connections(emptied), 0);
    for (int i = 0; i < 5; i++)
        connect_one();
    turn();
    ck_assert_int_eq(server_connections(emptied), 5);
    ck_assert_int_eq((int)active(), 10);
    teardown();
}
END_TEST

START_TEST(beyond_the_limit_they_wait)
{
    setup(3);
    for (int i = 0; i < 8; i++)
        connect_one();
    turn();
    ck_assert_int_eq((int)active(), 3);
    for (int i = 0; i < 3; i++)
        shutdown(clients[i], SHUT_RDWR);
    turn();
    ck_assert_int_eq((int)active(), 3);
    for (int i = 3; i < 8; i++)
        shutdown(clients[i], SHUT_RDWR);
    turn();
    turn();
    ck_assert_int_eq((int)active(), 0);
    teardown();
}
END_TEST

static double refused(void)
{
    return metrics_value(metrics_get(
        metrics_add(metrics, METRICS_COUNTER, "bitnet_connections_refused_total", "", "server", NULL, 0), "test"));
}

START_TEST(an_address_has_its_limit_and_a_trusted_proxy_none)
{
    static const struct {
        const char *trusted;
        int n_kept;
    } cases[] = {{NULL, 2}, {"10.0.0.0/8,unix", 2}, {"10.0.0.0/8,127.0.0.0/8", 5}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err;
        struct proxies *proxies;
        char listen[32];
        ck_assert_int_eq(proxies_open(cases[i].trusted, false, &proxies, &err), ERROR_NONE);
        snprintf(listen, sizeof listen, "127.0.0.1:%d", free_port());
        setup_at(listen, 100, 2, proxies);
        for (int round = 0; round < 2; round++) { /* what goes away makes room for as many */
            for (int k = 0; k < 5; k++)
                connect_one();
            turn();
            ck_assert_int_eq((int)active(), cases[i].n_kept);
            ck_assert_int_eq((int)refused(), (round + 1) * (5 - cases[i].n_kept));
            while (n_clients > 0)
                close(clients[--n_clients]);
            turn();
            ck_assert_int_eq((int)active(), 0);
        }
        teardown();
        proxies_close(proxies);
    }
}
END_TEST

START_TEST(what_the_kernel_accepted_is_taken_over_at_the_end)
{
    setup(100);
    for (int i = 0; i < 5; i++)
        connect_one(); /* the loop has not turned since */
    listener_stop(listener);
    ck_assert_int_eq(server_connections(servers[0]) + server_connections(servers[1]), 5);
    ck_assert_int_ne(access(path, F_OK), 0);
    turn();
    char byte;
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(recv(clients[i], &byte, 1, MSG_DONTWAIT), -1); /* open, and silent */
    teardown();
}
END_TEST

START_TEST(an_address_says_whether_it_is_tls)
{
    static const struct {
        const char *listen, *message;
    } cases[] = {
        {"https://127.0.0.1:0", "expected --tls-cert"},
        {"127.0.0.1", "expected HOST:PORT"},
        {"http://127.0.0.1", "expected HOST:PORT"},
        {",", "expected an address"},
        {":0,:0,:0,:0,:0,:0,:0,:0,:0", "at most 8"},
    };
    setup(1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err = {0};
        struct listener *l = NULL;
        const struct listener_options options = {.listen = cases[i].listen, .name = "x", .metrics = metrics};
        ck_assert_int_ne(listener_open(base, &options, &l, &err), ERROR_NONE);
        ck_assert_msg(strstr(err.message, cases[i].message), "%s: %s", cases[i].listen, err.message);
    }
    teardown();
}
END_TEST

SUITE("listener", connections_are_shared_out_evenly, beyond_the_limit_they_wait,
      an_address_has_its_limit_and_a_trusted_proxy_none,
      what_the_kernel_accepted_is_taken_over_at_the_end, an_address_says_whether_it_is_tls)
