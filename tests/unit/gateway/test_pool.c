/* Members of names: the lookup is made up here, the engines are servers without a method, which count as serving. */
#include "tests/suite.h"

#include "base/clock.h"
#include "base/log.h"
#include "gateway/gateway.h"
#include "gateway/lookup.h"
#include "gateway/pool.h"
#include "tests/unit/gateway/turns.h"

#include <event2/event.h>

/* ---- lookups ---- */

struct lookup {
    struct event *soon;
    void *user;
    void (*on_found)(void *user, char (*addresses)[TARGET_ADDRESS_BYTES], size_t n, const char *why);
};

static char addresses[4][TARGET_ADDRESS_BYTES];
static size_t n_addresses;
static int n_lookups, n_open;

static void on_soon(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    struct lookup *l = user;
    event_free(l->soon);
    l->on_found(l->user, addresses, n_addresses, "no such name");
    n_open--;
    free(l);
}

enum error_code lookup_start(struct event_base *on, const char *host, const char *port, void *user,
                             void (*on_found)(void *user, char (*found)[TARGET_ADDRESS_BYTES], size_t n,
                                              const char *why),
                             struct lookup **out, struct error *err)
{
    (void)err;
    static const struct timeval soon = {0, 1000};
    ck_assert_str_eq(host, "engines");
    ck_assert_str_eq(port, "50051");
    struct lookup *l = *out = calloc(1, sizeof *l);
    l->user = user;
    l->on_found = on_found;
    l->soon = evtimer_new(on, on_soon, l);
    event_add(l->soon, &soon);
    n_lookups++;
    n_open++;
    return ERROR_NONE;
}

void lookup_cancel(struct lookup *l)
{
    event_free(l->soon);
    n_open--;
    free(l);
}

/* ---- the pool ---- */

static const struct rpc_method no_methods[] = {{0}};
static struct gateway_config config;
static struct metrics *metrics;
static struct pool *pool;
static struct rpc_server *servers[2];
static int n_changes;

static void on_change(void *user)
{
    (void)user;
    n_changes++;
}

static void setup(int64_t resolve_ms)
{
    struct error err;
    log_init(LOG_OFF, LOG_FORMAT_JSON);
    rpc_init();
    for (int i = 0; i < 2; i++) {
        const struct rpc_server_options options = {.methods = no_methods, .listen = "127.0.0.1:0"};
        ck_assert_int_eq(rpc_server_open(&options, &servers[i], &err), ERROR_NONE);
        snprintf(addresses[i], sizeof addresses[i], "127.0.0.1:%d", rpc_server_port(servers[i]));
    }
    n_addresses = 2;
    config = (struct gateway_config){.engine = "dns:///engines:50051", .engine_resolve_ms = resolve_ms};
    base = event_base_new();
    metrics = metrics_open();
    ck_assert_int_eq(pool_open(base, &config, metrics, NULL, on_change, &pool, &err), ERROR_NONE);
}

static void teardown(void)
{
    pool_close(pool);
    ck_assert_int_eq(n_open, 0);
    for (int i = 0; i < 2; i++)
        if (servers[i])
            rpc_server_close(servers[i]);
    metrics_close(metrics);
    event_base_free(base);
    rpc_fini();
}

static size_t n_serving(void)
{
    size_t n = 0;
    for (size_t i = 0; i < pool_n_members(pool); i++)
        n += pool_member(pool, i)->state == ENGINE_SERVING;
    return n;
}

static bool shown(const char *address)
{
    struct buffer page;
    buffer_init(&page, 65536);
    metrics_write(metrics, &page, 0);
    bool found = strstr(page.data, "bitnet_engine_up{") && strstr(page.data, address);
    buffer_fini(&page);
    return found;
}

START_TEST(a_name_stands_for_all_its_addresses)
{
    setup(60000);
    ck_assert_uint_eq(pool_n_members(pool), 0);
    ck_assert(pool_settling(pool)); /* nobody knows yet */
    TURN_UNTIL(n_serving() == 2);
    ck_assert(!pool_settling(pool));
    ck_assert_int_eq(n_lookups, 1);
    ck_assert_int_ge(n_changes, 1);
    struct member *first = pool_choose(pool, 0, NULL, 0), *second = pool_choose(pool, 0, NULL, 0);
    ck_assert_ptr_ne(first, second);
    ck_assert_ptr_eq(pool_choose(pool, 0, &first, 1), second);
    ck_assert_ptr_null(pool_choose(pool, 0, (struct member *[]){first, second}, 2));
    teardown();
}
END_TEST

START_TEST(addresses_come_and_go)
{
    setup(100);
    n_addresses = 1;
    TURN_UNTIL(n_serving() == 1);
    n_addresses = 2;
    TURN_UNTIL(n_serving() == 2);
    char gone[TARGET_ADDRESS_BYTES];
    memcpy(gone, addresses[0], sizeof gone);
    memcpy(addresses[0], addresses[1], sizeof gone);
    ck_assert(shown(gone));
    n_addresses = 1;
    struct member *old = pool_member(pool, 0);
    ck_assert_str_eq(old->address, gone);
    member_take(old, true); /* a call that runs on it */
    TURN_UNTIL(pool_n_members(pool) == 1);
    ck_assert_str_eq(pool_member(pool, 0)->address, addresses[0]);
    ck_assert(old->retired);
    ck_assert(!shown(gone));
    member_put(old, true);
    teardown();
}
END_TEST

START_TEST(no_answer_changes_nothing)
{
    setup(100);
    TURN_UNTIL(n_serving() == 2);
    n_addresses = 0;
    int before = n_lookups;
    TURN_UNTIL(n_lookups >= before + 3);
    ck_assert_uint_eq(n_serving(), 2);
    teardown();
}
END_TEST

START_TEST(a_name_without_addresses_is_no_hope)
{
    setup(60000);
    n_addresses = 0;
    TURN_UNTIL(!pool_settling(pool));
    ck_assert_ptr_null(pool_choose(pool, 0, NULL, 0));
    teardown();
}
END_TEST

START_TEST(a_lost_member_has_its_name_asked_again)
{
    setup(3600000);
    TURN_UNTIL(n_serving() == 2);
    ck_assert_int_eq(n_lookups, 1);
    rpc_server_close(servers[0]);
    servers[0] = NULL;
    n_addresses = 0;
    TURN_UNTIL(n_lookups >= 2);
    teardown();
}
END_TEST

SUITE("pool", a_name_stands_for_all_its_addresses, addresses_come_and_go, no_answer_changes_nothing,
      a_name_without_addresses_is_no_hope, a_lost_member_has_its_name_asked_again)
