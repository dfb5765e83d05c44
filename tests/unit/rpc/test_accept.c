/* A server whose process has no descriptor left turns connections away, and takes them again when it has some. */
#include "base/clock.h"
#include "rpc/rpc.h"
#include "tests/suite.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_CONNECTIONS 40

static void echo(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    (void)service;
    rpc_call_finish(call, &(struct rpc_status){.message = ""}, data, n_bytes);
}

static const struct rpc_method methods[] = {{.path = "/t.T/Echo", .kind = RPC_UNARY, .on_message = echo}, {.path = NULL}};

/* The next one to be given out. */
static int next_descriptor(void)
{
    int fd = open("/dev/null", O_RDONLY);
    ck_assert_int_ge(fd, 0);
    close(fd);
    return fd;
}

/* A process of its own, as its sockets must not need descriptors of the server's: connects to the port that it reads, says so, and lives until it is killed. */
static pid_t start_strangers(int *to, int *from)
{
    int in[2], out[2];
    ck_assert(pipe(in) == 0 && pipe(out) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int port;
        if (read(in[0], &port, sizeof port) != sizeof port)
            _exit(1);
        address.sin_port = htons((uint16_t)port);
        for (int i = 0; i < N_CONNECTIONS; i++)
            if (connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address) != 0)
                _exit(1);
        if (write(out[1], "c", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    *to = in[1];
    *from = out[0];
    return pid;
}

static _Atomic int status_code;

static void on_message(void *user, const void *data, size_t n_bytes)
{
    (void)user, (void)data, (void)n_bytes;
}

static void on_status(void *user, const struct rpc_status *status)
{
    (void)user;
    status_code = status->code;
}

static int ask(int port)
{
    char target[32];
    struct rpc_client *client;
    struct rpc_request *request;
    struct error err;
    snprintf(target, sizeof target, "127.0.0.1:%d", port);
    status_code = -1;
    ck_assert(!rpc_client_open(&(struct rpc_client_options){.target = target}, &client, &err));
    ck_assert(!rpc_request_start(client, &(struct rpc_request_options){.path = "/t.T/Echo", .data = "", .deadline_ns = clock_now_ns() + 5 * CLOCK_NS_PER_S,
                                     .wait_for_ready = true, .on_message = on_message, .on_status = on_status}, &request, &err));
    while (status_code < 0)
        usleep(1000);
    rpc_request_close(request);
    rpc_client_close(client);
    return status_code;
}

START_TEST(a_server_without_descriptors_goes_on_listening)
{
    int to, from;
    char said;
    struct rlimit before, tight;
    struct rpc_server *server;
    struct error err = {0};
    pid_t strangers = start_strangers(&to, &from);
    rpc_init();
    ck_assert(!rpc_server_open(&(struct rpc_server_options){.methods = methods, .listen = "127.0.0.1:0"}, &server, &err));
    int port = rpc_server_port(server);
    ck_assert_int_eq(ask(port), 0);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    tight = before;
    tight.rlim_cur = (rlim_t)next_descriptor() + 4;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &tight), 0);
    ck_assert_int_eq(write(to, &port, sizeof port), sizeof port);
    ck_assert_int_eq(read(from, &said, 1), 1);
    usleep(300000);
    ck_assert_int_eq(kill(strangers, SIGKILL), 0);
    ck_assert_int_eq(waitpid(strangers, NULL, 0), strangers);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    ck_assert_int_eq(ask(port), 0);
    rpc_server_close(server);
    rpc_fini();
}
END_TEST

SUITE("rpc/accept", a_server_without_descriptors_goes_on_listening)
