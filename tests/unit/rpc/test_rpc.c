/* Server and client against each other over loopback and unix sockets: all kinds of calls, cancels, deadlines, flow, drain. */
#include "base/clock.h"
#include "rpc/rpc.h"

#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECOND CLOCK_NS_PER_S

/* ---- the server's side: echo, a counter that streams, one that never answers ------------------------------------- */

static atomic_int n_done, n_cancelled, n_sent;

static void echo(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    (void)service;
    rpc_call_add_metadata(call, "x-echo", rpc_call_metadata(call, "x-test") ? rpc_call_metadata(call, "x-test") : "none");
    rpc_call_finish(call, &(struct rpc_status){.message = ""}, data, n_bytes);
}

/* What a streaming call knows: how many numbers are still to be sent. */
static void send_next(void *service, struct rpc_call *call)
{
    (void)service;
    uintptr_t left = (uintptr_t)rpc_call_user(call);
    char message[1000] = {0};
    if (left == 0) {
        rpc_call_finish(call, &(struct rpc_status){.message = ""}, NULL, 0);
        return;
    }
    snprintf(message, sizeof message, "%zu", (size_t)left);
    if (rpc_call_send(call, message, sizeof message)) {
        rpc_call_set_user(call, (void *)(left - 1));
        atomic_fetch_add(&n_sent, 1);
    }
}

static void count(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    (void)n_bytes;
    rpc_call_set_user(call, (void *)(uintptr_t)strtoul(data, NULL, 10));
    send_next(service, call);
}

static void count_sent(void *service, struct rpc_call *call, bool ok)
{
    if (ok)
        rpc_post(call, send_next);
    (void)service;
}

static void silent(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    (void)service, (void)call, (void)data, (void)n_bytes;
}

static char details[300]; /* longer than gRPC keeps inside a slice */

static _Atomic(struct rpc_call *) the_call; /* that a test gets hold of */

static void abort_it(void *service, struct rpc_call *call)
{
    (void)service;
    rpc_call_abort(call, 10, "not read");
    rpc_call_abort(call, 13, "twice is once");
}

static void count_for_abort(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    rpc_call_get(call);
    atomic_store(&the_call, call);
    count(service, call, data, n_bytes);
}

static struct rpc_call *posted[8];
static atomic_int n_ran;

static void ran(void *service, struct rpc_call *call)
{
    (void)service, (void)call;
    atomic_fetch_add(&n_ran, 1);
}

static void end_post(void *service, struct rpc_call *call)
{
    (void)service;
    rpc_call_finish(call, &(struct rpc_status){.message = ""}, NULL, 0);
}

static void take_posts(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    (void)service, (void)data, (void)n_bytes;
    rpc_call_get(call);
    atomic_store(&the_call, call);
}

static void refuse(void *service, struct rpc_call *call, const void *data, size_t n_bytes)
{
    (void)service, (void)data, (void)n_bytes;
    rpc_call_finish(call, &(struct rpc_status){.code = 8, .message = "full", .details = details, .details_n_bytes = sizeof details}, NULL, 0);
}

static void done(void *service, struct rpc_call *call, bool cancelled)
{
    (void)service, (void)call;
    atomic_fetch_add(&n_done, 1);
    atomic_fetch_add(&n_cancelled, cancelled);
}

static const struct rpc_method methods[] = {
    {.path = "/t.T/Echo", .kind = RPC_UNARY, .on_message = echo, .on_done = done},
    {.path = "/t.T/Count", .kind = RPC_SERVER_STREAM, .on_message = count, .on_sent = count_sent, .on_done = done},
    {.path = "/t.T/Abort", .kind = RPC_SERVER_STREAM, .on_message = count_for_abort, .on_sent = count_sent, .on_done = done},
    {.path = "/t.T/Post", .kind = RPC_SERVER_STREAM, .on_message = take_posts, .on_done = done},
    {.path = "/t.T/Silent", .kind = RPC_SERVER_STREAM, .on_message = silent, .on_done = done},
    {.path = "/t.T/Refuse", .kind = RPC_UNARY, .on_message = refuse, .on_done = done},
    {.path = NULL}};

/* ---- the client's side ------------------------------------------------------------------------------------------- */

struct answer {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct rpc_request *request;
    size_t n_messages, last_n_bytes, hold_bytes;
    char first[64], last[64], message[256], details[sizeof details];
    size_t details_n_bytes;
    int code; /* -1: not over */
    pthread_t thread; /* on which the status came */
};

static void on_message(void *user, const void *data, size_t n_bytes)
{
    struct answer *a = user;
    pthread_mutex_lock(&a->lock);
    snprintf(a->last, sizeof a->last, "%.*s", (int)n_bytes, (const char *)data);
    if (a->n_messages++ == 0)
        memcpy(a->first, a->last, sizeof a->first);
    a->last_n_bytes = n_bytes;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    if (a->hold_bytes)
        rpc_request_hold(a->request, n_bytes);
}

static void on_status(void *user, const struct rpc_status *status)
{
    struct answer *a = user;
    pthread_mutex_lock(&a->lock);
    ck_assert_int_eq(a->code, -1);
    a->code = status->code;
    a->thread = pthread_self();
    snprintf(a->message, sizeof a->message, "%s", status->message);
    a->details_n_bytes = status->details_n_bytes;
    ck_assert_uint_le(status->details_n_bytes, sizeof a->details);
    memcpy(a->details, status->details ? status->details : "", status->details_n_bytes);
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

static struct rpc_server *server;
static struct rpc_client *client;
static char target[128];

static void open_pair(const char *listen)
{
    struct error err = {0};
    atomic_store(&n_done, 0);
    atomic_store(&n_cancelled, 0);
    atomic_store(&n_sent, 0);
    rpc_init();
    ck_assert_msg(!rpc_server_open(&(struct rpc_server_options){.methods = methods, .listen = listen, .max_message_bytes = 1 << 20},
                                   &server, &err), "%s", err.message);
    if (strncmp(listen, "unix:", 5) == 0)
        snprintf(target, sizeof target, "%s", listen);
    else
        snprintf(target, sizeof target, "127.0.0.1:%d", rpc_server_port(server));
    ck_assert(!rpc_client_open(&(struct rpc_client_options){.target = target}, &client, &err));
}

static void close_pair(void)
{
    rpc_client_close(client);
    rpc_server_close(server);
    rpc_fini();
}

static void start(struct answer *a, const char *path, const char *text, size_t n_bytes, int64_t deadline_ns, size_t window)
{
    static const char *const metadata[] = {"x-test", "hello", NULL};
    struct error err = {0};
    *a = (struct answer){.code = -1, .hold_bytes = window};
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    ck_assert(!rpc_request_start(client, &(struct rpc_request_options){.path = path, .data = text, .n_bytes = n_bytes,
                                     .deadline_ns = deadline_ns, .wait_for_ready = true, .metadata = metadata, .window_bytes = window,
                                     .user = a, .on_message = on_message, .on_status = on_status}, &a->request, &err));
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

static bool is_over(struct answer *a)
{
    pthread_mutex_lock(&a->lock);
    bool over = a->code >= 0;
    pthread_mutex_unlock(&a->lock);
    return over;
}

static void wait_messages(struct answer *a, size_t n)
{
    pthread_mutex_lock(&a->lock);
    while (a->n_messages < n && a->code < 0)
        pthread_cond_wait(&a->changed, &a->lock);
    pthread_mutex_unlock(&a->lock);
}

static void wait_count(atomic_int *value, int wanted)
{
    for (int i = 0; i < 500 && atomic_load(value) < wanted; i++)
        usleep(10000);
    ck_assert_int_eq(atomic_load(value), wanted);
}

START_TEST(unary_calls_are_answered)
{
    struct answer a;
    char path[64];
    snprintf(path, sizeof path, "unix:/tmp/bitnet-rpc-%d.sock", getpid());
    open_pair(_i ? path : "127.0.0.1:0");
    start(&a, "/t.T/Echo", "abc", 3, clock_now_ns() + 5 * SECOND, 0);
    ck_assert_int_eq(finish(&a), 0);
    ck_assert_str_eq(a.last, "abc");
    ck_assert_uint_eq(a.n_messages, 1);
    wait_count(&n_done, 1);
    ck_assert_int_eq(atomic_load(&n_cancelled), 0);
    close_pair();
    unlink(path + 5);
}
END_TEST

START_TEST(a_refusal_carries_its_details)
{
    struct answer a;
    for (size_t i = 0; i < sizeof details; i++)
        details[i] = (char)(i * 7);
    open_pair("127.0.0.1:0");
    start(&a, "/t.T/Refuse", "x", 1, CLOCK_NEVER, 0);
    ck_assert_int_eq(finish(&a), 8);
    ck_assert_str_eq(a.message, "full");
    ck_assert_uint_eq(a.details_n_bytes, sizeof details);
    ck_assert_mem_eq(a.details, details, sizeof details);
    ck_assert_uint_eq(a.n_messages, 0);
    close_pair();
}
END_TEST

START_TEST(a_stream_of_many_messages_arrives_whole_and_in_order)
{
    struct answer a;
    open_pair("127.0.0.1:0");
    start(&a, "/t.T/Count", "3000", 5, CLOCK_NEVER, 0);
    ck_assert_int_eq(finish(&a), 0);
    ck_assert_uint_eq(a.n_messages, 3000);
    ck_assert_str_eq(a.first, "3000");
    ck_assert_str_eq(a.last, "1");
    close_pair();
}
END_TEST

START_TEST(unknown_methods_are_unimplemented_at_once)
{
    struct answer a;
    open_pair("127.0.0.1:0");
    int64_t begin = clock_now_ns();
    start(&a, "/t.T/Nothing", "", 0, clock_now_ns() + 20 * SECOND, 0);
    ck_assert_int_eq(finish(&a), 12);
    ck_assert_ptr_nonnull(strstr(a.message, "/t.T/Nothing"));
    ck_assert_int_lt(clock_now_ns() - begin, 10 * SECOND);
    close_pair();
}
END_TEST

START_TEST(a_message_that_is_too_large_is_refused)
{
    struct answer a;
    char *big = calloc(1, 2 << 20);
    open_pair("127.0.0.1:0");
    start(&a, "/t.T/Echo", big, 2 << 20, CLOCK_NEVER, 0);
    ck_assert_int_eq(finish(&a), 8);
    close_pair();
    free(big);
}
END_TEST

START_TEST(a_cancel_reaches_the_server)
{
    struct answer a;
    open_pair("127.0.0.1:0");
    start(&a, _i ? "/t.T/Silent" : "/t.T/Count", "1000000", 8, CLOCK_NEVER, 0);
    if (!_i)
        wait_messages(&a, 3);
    else
        usleep(100000);
    rpc_request_cancel(a.request);
    ck_assert_int_eq(finish(&a), 1);
    wait_count(&n_done, 1);
    ck_assert_int_eq(atomic_load(&n_cancelled), 1);
    close_pair();
}
END_TEST

START_TEST(a_deadline_ends_both_sides)
{
    struct answer a;
    open_pair("127.0.0.1:0");
    start(&a, "/t.T/Silent", "x", 1, clock_now_ns() + SECOND / 5, 0);
    ck_assert_int_eq(finish(&a), 4);
    wait_count(&n_done, 1);
    ck_assert_int_eq(atomic_load(&n_cancelled), 1);
    close_pair();
}
END_TEST

/* Waits until the sender stands still; how much it has sent. */
static int wait_still(void)
{
    int before, after = atomic_load(&n_sent);
    do {
        usleep(300000);
        before = after;
        after = atomic_load(&n_sent);
    } while (after != before);
    return after;
}

START_TEST(a_consumer_that_holds_stops_the_sender_and_release_resumes_it)
{
    struct answer a;
    open_pair("127.0.0.1:0");
    start(&a, "/t.T/Count", "2000", 5, CLOCK_NEVER, 16000);
    wait_messages(&a, 16);
    ck_assert_int_lt(wait_still(), 1500);
    for (int i = 0; i < 4000 && !is_over(&a); i++) {
        rpc_request_release(a.request, 64000);
        usleep(500);
    }
    ck_assert_int_eq(finish(&a), 0);
    ck_assert_uint_eq(a.n_messages, 2000);
    close_pair();
}
END_TEST

START_TEST(an_abort_gets_past_what_is_not_read)
{
    struct answer a;
    open_pair("127.0.0.1:0");
    start(&a, "/t.T/Abort", "2000", 5, CLOCK_NEVER, 16000);
    wait_messages(&a, 16);
    wait_still();
    rpc_post(atomic_load(&the_call), abort_it);
    wait_count(&n_done, 1); /* though the client has read nothing more */
    ck_assert_int_eq(atomic_load(&n_cancelled), 1);
    rpc_call_put(atomic_load(&the_call));
    for (int i = 0; i < 4000 && !is_over(&a); i++) {
        rpc_request_release(a.request, 64000);
        usleep(500);
    }
    ck_assert_int_eq(finish(&a), 10);
    ck_assert_str_eq(a.message, "not read");
    close_pair();
}
END_TEST

/* Of each call, whatever else is posted to the same queue at the same time. */
static void *post_often(void *arg)
{
    for (int i = 0; i < 20000; i++)
        rpc_post(arg, ran);
    return NULL;
}

START_TEST(posts_of_many_calls_all_run)
{
    enum { N = 8 };
    struct answer a[N];
    pthread_t threads[N];
    open_pair("127.0.0.1:0");
    for (int i = 0; i < N; i++) {
        atomic_store(&the_call, NULL);
        start(&a[i], "/t.T/Post", "x", 1, CLOCK_NEVER, 0);
        while (!atomic_load(&the_call))
            usleep(100);
        pthread_create(&threads[i], NULL, post_often, atomic_load(&the_call));
        posted[i] = atomic_load(&the_call);
    }
    for (int i = 0; i < N; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < N; i++) {
        rpc_post(posted[i], end_post);
        ck_assert_int_eq(finish(&a[i]), 0);
        rpc_call_put(posted[i]);
    }
    ck_assert_int_ge(atomic_load(&n_ran), N);
    close_pair();
}
END_TEST

static void *drain_now(void *arg)
{
    rpc_server_drain(server, clock_now_ns() + *(int64_t *)arg);
    return NULL;
}

START_TEST(drain_lets_streams_finish)
{
    struct answer a;
    pthread_t thread;
    int64_t limit = 20 * SECOND;
    open_pair("127.0.0.1:0");
    start(&a, "/t.T/Count", "2000", 5, CLOCK_NEVER, 0);
    wait_messages(&a, 2);
    pthread_create(&thread, NULL, drain_now, &limit);
    ck_assert_int_eq(finish(&a), 0);
    ck_assert_uint_eq(a.n_messages, 2000);
    pthread_join(thread, NULL);
    close_pair();
}
END_TEST

START_TEST(drain_ends_what_does_not_finish)
{
    struct answer a;
    pthread_t thread;
    int64_t limit = SECOND / 5;
    open_pair("127.0.0.1:0");
    start(&a, "/t.T/Silent", "x", 1, CLOCK_NEVER, 0);
    usleep(200000);
    pthread_create(&thread, NULL, drain_now, &limit);
    ck_assert_int_ne(finish(&a), 0);
    pthread_join(thread, NULL);
    close_pair();
}
END_TEST

START_TEST(without_a_server_calls_fail_and_work_again_when_it_is_back)
{
    struct answer a;
    struct error err = {0};
    char listen[32];
    open_pair("127.0.0.1:0");
    start(&a, "/t.T/Echo", "abc", 3, CLOCK_NEVER, 0);
    ck_assert_int_eq(finish(&a), 0);
    snprintf(listen, sizeof listen, "127.0.0.1:%d", rpc_server_port(server));
    rpc_server_close(server);
    a = (struct answer){.code = -1};
    pthread_mutex_init(&a.lock, NULL);
    pthread_cond_init(&a.changed, NULL);
    ck_assert(!rpc_request_start(client, &(struct rpc_request_options){.path = "/t.T/Echo", .data = "", .deadline_ns = CLOCK_NEVER, .user = &a,
                                     .on_message = on_message, .on_status = on_status}, &a.request, &err));
    ck_assert_int_eq(finish(&a), 14);
    ck_assert(!rpc_server_open(&(struct rpc_server_options){.methods = methods, .listen = listen}, &server, &err));
    start(&a, "/t.T/Echo", "abc", 3, clock_now_ns() + 10 * SECOND, 0);
    ck_assert_int_eq(finish(&a), 0);
    close_pair();
}
END_TEST

START_TEST(clients_share_a_queue)
{
    struct rpc_queue *queue;
    struct rpc_client *own, *shared[2];
    struct answer a[2];
    struct error err = {0};
    open_pair("127.0.0.1:0");
    ck_assert(!rpc_queue_open(&queue, &err));
    own = client;
    for (int i = 0; i < 2; i++) {
        ck_assert(!rpc_client_open(&(struct rpc_client_options){.target = target, .queue = queue}, &shared[i], &err));
        client = shared[i];
        start(&a[i], "/t.T/Echo", "abc", 3, clock_now_ns() + 5 * SECOND, 0);
    }
    ck_assert_int_eq(finish(&a[0]), 0);
    rpc_client_close(shared[0]); /* the other one goes on */
    ck_assert_int_eq(finish(&a[1]), 0);
    ck_assert_str_eq(a[1].last, "abc");
    ck_assert(pthread_equal(a[0].thread, a[1].thread));
    start(&a[0], "/t.T/Echo", "def", 3, clock_now_ns() + 5 * SECOND, 0);
    ck_assert_int_eq(finish(&a[0]), 0);
    rpc_client_close(shared[1]);
    rpc_queue_close(queue);
    client = own;
    close_pair();
}
END_TEST

START_TEST(an_idle_queue_runs_on_the_thread_that_turns_it)
{
    struct error err = {0};
    struct answer a;
    struct rpc_queue *queue;
    struct rpc_client *own;
    open_pair("127.0.0.1:0");
    own = client;
    ck_assert(!rpc_queue_open_idle(&queue, &err));
    ck_assert(!rpc_client_open(&(struct rpc_client_options){.target = target, .queue = queue}, &client, &err));
    start(&a, "/t.T/Echo", "abc", 3, clock_now_ns() + 20 * SECOND, 0);
    usleep(50000);
    ck_assert_int_eq(a.code, -1); /* whatever has come: nobody has turned it */
    for (int64_t end_ns = clock_now_ns() + 20 * SECOND; !is_over(&a) && clock_now_ns() < end_ns; usleep(1000))
        rpc_queue_turn(queue);
    ck_assert_int_eq(a.code, 0);
    ck_assert(pthread_equal(a.thread, pthread_self()));
    rpc_request_close(a.request);
    rpc_client_close(client);
    rpc_queue_close(queue);
    client = own;
    close_pair();
}
END_TEST

START_TEST(a_port_in_use_is_an_error_that_names_it)
{
    struct error err = {0};
    struct rpc_server *second = NULL;
    char listen[32];
    open_pair("127.0.0.1:0");
    snprintf(listen, sizeof listen, "127.0.0.1:%d", rpc_server_port(server));
    ck_assert(rpc_server_open(&(struct rpc_server_options){.methods = methods, .listen = listen}, &second, &err));
    ck_assert_ptr_nonnull(strstr(err.message, listen));
    close_pair();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("rpc/rpc");
    TCase *tc = tcase_create("rpc");
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, unary_calls_are_answered, 0, 2);
    tcase_add_test(tc, a_refusal_carries_its_details);
    tcase_add_test(tc, a_stream_of_many_messages_arrives_whole_and_in_order);
    tcase_add_test(tc, unknown_methods_are_unimplemented_at_once);
    tcase_add_test(tc, a_message_that_is_too_large_is_refused);
    tcase_add_loop_test(tc, a_cancel_reaches_the_server, 0, 2);
    tcase_add_test(tc, a_deadline_ends_both_sides);
    tcase_add_test(tc, a_consumer_that_holds_stops_the_sender_and_release_resumes_it);
    tcase_add_test(tc, an_abort_gets_past_what_is_not_read);
    tcase_add_test(tc, posts_of_many_calls_all_run);
    tcase_add_test(tc, drain_lets_streams_finish);
    tcase_add_test(tc, drain_ends_what_does_not_finish);
    tcase_add_test(tc, without_a_server_calls_fail_and_work_again_when_it_is_back);
    tcase_add_test(tc, clients_share_a_queue);
    tcase_add_test(tc, an_idle_queue_runs_on_the_thread_that_turns_it);
    tcase_add_test(tc, a_port_in_use_is_an_error_that_names_it);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
