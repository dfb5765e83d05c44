/* Accepting over real sockets: how connections are shared out, limits, and the end. Two servers on one loop stand for two loops. */
#include "tests/suite.h"

#include "base/log.h"
#include "gateway/address.h"
#include "gateway/listener.h"
#include "gateway/server.h"

#include <event2/event.h>
#include <event2/thread.h>
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

static void setup(int64_t max_connections)
{
    struct error err = {0};
    char listen[80];
    log_init(LOG_OFF, LOG_FORMAT_JSON);
    evthread_use_pthreads();
    snprintf(path, sizeof path, "/tmp/bitnet-listener-%d", (int)getpid());
    snprintf(listen, sizeof listen, "unix:%s", path);
    base = event_base_new();
    metrics = metrics_open();
    const struct listener_options options = {
        .listen = listen, .name = "test", .max_connections = max_connections, .metrics = metrics};
    ck_assert_int_eq(listener_open(base, &options, &listener, &err), ERROR_NONE);
    const struct server_options server = {&http, listener_closed, listener};
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(server_open(base, &server, &servers[i], &err), ERROR_NONE);
    ck_assert_int_eq(listener_start(listener, servers, 2, &err), ERROR_NONE);
    ck_assert_int_eq(address_parse(listen, &address, &err), ERROR_NONE);
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
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
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
      what_the_kernel_accepted_is_taken_over_at_the_end, an_address_says_whether_it_is_tls)
