/* Certificates that are missing, wrong, or replaced while server and client run; and the age of connections. */
#include "base/clock.h"
#include "rpc/rpc.h"
#include "tests/suite.h"

#include <pthread.h>
#include <unistd.h>

#define UNAVAILABLE 14

/* ---- a server that says who called, and calls that wait ---- */

static void who(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    (void)service, (void)data, (void)n_bytes;
    const char *peer = rpc_call_peer(call);
    rpc_call_finish(call, &(struct rpc_status){.message = ""}, peer, strlen(peer));
}

static void silent(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    (void)service, (void)call, (void)data, (void)n_bytes;
}

static const struct rpc_method methods[] = {{.path = "/t.T/Who", .kind = RPC_UNARY, .on_message = who},
                                            {.path = "/t.T/Silent", .kind = RPC_SERVER_STREAM, .on_message = silent},
                                            {.path = NULL}};

struct answer {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct rpc_request *request;
    char text[128], message[256];
    int code; /* -1: not over */
};

static void on_message(void *user, const void *data, size_t n_bytes)
{
    struct answer *a = user;
    snprintf(a->text, sizeof a->text, "%.*s", (int)n_bytes, (const char *)data);
}

static void on_status(void *user, const struct rpc_status *status)
{
    struct answer *a = user;
    pthread_mutex_lock(&a->lock);
    snprintf(a->message, sizeof a->message, "%s", status->message);
    a->code = status->code;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

static void start(struct rpc_client *client, const char *path, bool wait, struct answer *a)
{
    struct error err = {0};
    *a = (struct answer){.code = -1};
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    ck_assert(!rpc_request_start(client, &(struct rpc_request_options){.path = path, .data = "", .deadline_ns = clock_now_ns() + 20 * CLOCK_NS_PER_S,
                                     .wait_for_ready = wait, .user = a, .on_message = on_message, .on_status = on_status}, &a->request, &err));
}

static int finish(struct answer *a)
{
    pthread_mutex_lock(&a->lock);
    while (a->code < 0)
        pthread_cond_wait(&a->changed, &a->lock);
    pthread_mutex_unlock(&a->lock);
    rpc_request_close(a->request);
    return a->code;
}

static int ask(struct rpc_client *client, struct answer *a)
{
    start(client, "/t.T/Who", false, a);
    return finish(a);
}

/* Asks until the status is `code`, or for ten seconds. */
static void ask_until(struct rpc_client *client, int code)
{
    struct answer a;
    int64_t limit_ns = clock_now_ns() + 10 * CLOCK_NS_PER_S;
    while (ask(client, &a) != code) {
        ck_assert_msg(clock_now_ns() < limit_ns, "%d %s", a.code, a.message);
        usleep(50000);
    }
}

/* ---- certificates ---- */

static char folder[] = "/tmp/bitnet-rpc-tls-XXXXXX";

static void shell(const char *format, const char *a, const char *b)
{
    char script[1024], command[1100];
    snprintf(script, sizeof script, format, a, b);
    snprintf(command, sizeof command, "cd %s && { %s; } >log 2>&1", folder, script);
    ck_assert_msg(system(command) == 0, "%s", command);
}

static const char *file(const char *name)
{
    static char paths[16][128];
    static size_t n;
    char *path = paths[n++ % 16];
    snprintf(path, 128, "%s/%s", folder, name);
    return path;
}

static void make_ca(const char *name)
{
    shell("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=%1$s -keyout %1$s.key -out %1$s.pem", name, NULL);
}

static void make_pair(const char *name, const char *ca)
{
    shell("echo subjectAltName=IP:127.0.0.1 >ext;"
          "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=%1$s -keyout %1$s.key -out csr &&"
          "openssl x509 -req -in csr -CA %2$s.pem -CAkey %2$s.key -days 2 -extfile ext -out %1$s.pem",
          name, ca);
}

/* As tools do it: a new file takes the name of the old one. */
static void put(const char *name, const char *as)
{
    shell("cp %1$s.pem new && mv new %2$s.pem; cp %1$s.key new && mv new %2$s.key", name, as);
}

static void remove_folder(void)
{
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (system(command) != 0)
        perror(command);
}

static void prepare(void)
{
    ck_assert_ptr_nonnull(mkdtemp(folder));
    atexit(remove_folder);
    make_ca("ca1");
    make_ca("ca2");
    make_pair("one", "ca1");
    make_pair("two", "ca2");
    rpc_init();
}

static struct rpc_server *server;

static void serve(const char *pair, const char *client_ca)
{
    struct error err = {0};
    char cert[32], key[32], ca[32];
    snprintf(cert, sizeof cert, "%s.pem", pair);
    snprintf(key, sizeof key, "%s.key", pair);
    snprintf(ca, sizeof ca, "%s.pem", client_ca ? client_ca : "");
    const struct rpc_server_options options = {.methods = methods, .listen = "127.0.0.1:0,127.0.0.1:0", .tls_cert_file = file(cert),
                                               .tls_key_file = file(key), .tls_client_ca_file = client_ca ? file(ca) : NULL};
    ck_assert_msg(!rpc_server_open(&options, &server, &err), "%s", err.message);
}

static struct rpc_client *connect_to(const char *ca, const char *pair)
{
    struct rpc_tls *tls;
    struct rpc_client *client;
    struct error err = {0};
    char target[64], names[3][32];
    snprintf(names[0], 32, "%s.pem", ca);
    snprintf(names[1], 32, "%s.pem", pair ? pair : "");
    snprintf(names[2], 32, "%s.key", pair ? pair : "");
    snprintf(target, sizeof target, "ipv4:127.0.0.1:%d", rpc_server_port(server));
    ck_assert_msg(!rpc_tls_open(file(names[0]), pair ? file(names[1]) : NULL, pair ? file(names[2]) : NULL, &tls, &err), "%s", err.message);
    ck_assert(!rpc_client_open(&(struct rpc_client_options){.target = target, .tls = tls}, &client, &err));
    rpc_tls_close(tls); /* the client has what it needs */
    return client;
}

/* ---- cases ---- */

START_TEST(files_that_are_not_usable_are_named)
{
    struct error err;
    struct rpc_tls *tls;
    struct rpc_server *none;
    prepare();
    put("one", "broken");
    shell("echo nonsense >broken.pem", NULL, NULL);
    const struct {
        const char *ca, *cert, *key, *message;
    } cases[] = {
        {"ca1.pem", "one.pem", "two.key", "two.key: expected the key of the certificate in "},
        {"ca1.pem", "broken.pem", "broken.key", "broken.pem: expected a certificate in PEM"},
        {"ca1.pem", "one.pem", "one.pem", "one.pem: expected a private key in PEM without a password"},
        {"broken.pem", "one.pem", "one.key", "broken.pem: expected a certificate in PEM"},
        {"nothing.pem", "one.pem", "one.key", "nothing.pem: No such file"},
        {"ca1.pem", "one.pem", NULL, "TLS needs certificate and key together: the key is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *key = cases[i].key ? file(cases[i].key) : NULL;
        err = (struct error){0};
        ck_assert_int_ne(rpc_tls_open(file(cases[i].ca), file(cases[i].cert), key, &tls, &err), ERROR_NONE);
        ck_assert_msg(strstr(err.message, cases[i].message), "%s", err.message);
        err = (struct error){0};
        ck_assert_int_ne(rpc_server_open(&(struct rpc_server_options){.methods = methods, .listen = "127.0.0.1:0", .tls_cert_file = file(cases[i].cert),
                                             .tls_key_file = key, .tls_client_ca_file = file(cases[i].ca)}, &none, &err), ERROR_NONE);
        ck_assert_msg(strstr(err.message, cases[i].message), "%s", err.message);
    }
    rpc_fini();
}
END_TEST

START_TEST(a_server_takes_files_that_were_replaced)
{
    struct answer a;
    prepare();
    put("one", "live");
    serve("live", NULL);
    struct rpc_client *old = connect_to("ca1", NULL), *new = connect_to("ca2", NULL);
    ck_assert_int_eq(ask(old, &a), 0);
    ck_assert_int_eq(ask(new, &a), UNAVAILABLE);
    shell("echo nonsense >live.pem", NULL, NULL);
    struct rpc_client *later = connect_to("ca1", NULL);
    ck_assert_int_eq(ask(later, &a), 0); /* what is no certificate is not taken */
    put("two", "live");
    ask_until(new, 0);
    ck_assert_int_eq(ask(old, &a), 0); /* its connection was there before */
    struct rpc_client *late = connect_to("ca1", NULL);
    ck_assert_int_eq(ask(late, &a), UNAVAILABLE);
    rpc_client_close(old);
    rpc_client_close(new);
    rpc_client_close(later);
    rpc_client_close(late);
    rpc_server_close(server);
    rpc_fini();
}
END_TEST

START_TEST(a_server_takes_another_client_ca)
{
    struct answer a;
    prepare();
    put("ca1", "trusted");
    serve("one", "trusted");
    struct rpc_client *stranger = connect_to("ca1", "two"), *none = connect_to("ca1", NULL), *ours = connect_to("ca1", "one");
    ck_assert_int_eq(ask(ours, &a), 0);
    ck_assert_int_eq(ask(none, &a), UNAVAILABLE);
    ck_assert_int_eq(ask(stranger, &a), UNAVAILABLE);
    put("ca2", "trusted");
    ask_until(stranger, 0);
    ck_assert_int_eq(ask(none, &a), UNAVAILABLE);
    rpc_client_close(stranger);
    rpc_client_close(none);
    rpc_client_close(ours);
    rpc_server_close(server);
    rpc_fini();
}
END_TEST

START_TEST(a_client_takes_files_that_were_replaced)
{
    struct answer a;
    prepare();
    put("two", "mine");
    put("ca2", "trusted");
    serve("one", "ca1");
    struct rpc_client *client = connect_to("trusted", "mine");
    ck_assert_int_eq(ask(client, &a), UNAVAILABLE);
    put("one", "mine");
    put("ca1", "trusted");
    ask_until(client, 0);
    shell("echo nonsense >mine.pem", NULL, NULL);
    usleep(1500000); /* the watcher has seen it */
    ck_assert_int_eq(ask(client, &a), 0);
    rpc_client_close(client);
    rpc_server_close(server);
    rpc_fini();
}
END_TEST

/* ---- age ---- */

static void serve_for(int age_ms, int grace_ms)
{
    struct error err = {0};
    rpc_init();
    ck_assert(!rpc_server_open(&(struct rpc_server_options){.methods = methods, .listen = "127.0.0.1:0", .max_connection_age_ms = age_ms,
                                   .max_connection_age_grace_ms = grace_ms}, &server, &err));
}

static struct rpc_client *plain(void)
{
    struct rpc_client *client;
    struct error err = {0};
    char target[64];
    snprintf(target, sizeof target, "127.0.0.1:%d", rpc_server_port(server));
    ck_assert(!rpc_client_open(&(struct rpc_client_options){.target = target}, &client, &err));
    return client;
}

START_TEST(a_connection_of_age_is_left_and_its_calls_go_on)
{
    struct answer first, later, stream;
    serve_for(300, 0);
    struct rpc_client *client = plain();
    ck_assert_int_eq(ask(client, &first), 0);
    start(client, "/t.T/Silent", true, &stream);
    for (int64_t limit_ns = clock_now_ns() + 10 * CLOCK_NS_PER_S;;) {
        ck_assert_int_eq(ask(client, &later), 0); /* none fails on the way */
        if (strcmp(first.text, later.text) != 0)
            break; /* another connection */
        ck_assert(clock_now_ns() < limit_ns);
        usleep(10000);
    }
    usleep(500000);
    ck_assert_int_eq(stream.code, -1);
    rpc_request_cancel(stream.request);
    ck_assert_int_eq(finish(&stream), 1);
    rpc_client_close(client);
    rpc_server_close(server);
    rpc_fini();
}
END_TEST

START_TEST(after_the_grace_its_calls_are_ended)
{
    struct answer stream;
    serve_for(200, 200);
    struct rpc_client *client = plain();
    start(client, "/t.T/Silent", true, &stream);
    ck_assert_int_eq(finish(&stream), UNAVAILABLE);
    rpc_client_close(client);
    rpc_server_close(server);
    rpc_fini();
}
END_TEST

SUITE("rpc/tls", files_that_are_not_usable_are_named, a_server_takes_files_that_were_replaced, a_server_takes_another_client_ca,
      a_client_takes_files_that_were_replaced, a_connection_of_age_is_left_and_its_calls_go_on, after_the_grace_its_calls_are_ended)
