/* Targets as people write them, and names looked up. */
#include "tests/suite.h"

#include "base/clock.h"
#include "gateway/lookup.h"

#include <event2/event.h>
#include <stdbool.h>

static struct target targets[TARGETS_MAX];
static size_t n;
static struct error err;

START_TEST(addresses_and_names)
{
    ck_assert_int_eq(targets_parse("127.0.0.1:50051, [::1]:1,ipv4:10.0.0.1:2,ipv6:[::2]:3,dns:///e.svc:4,host-1:65535,"
                                   "unix:/a,unix:///b/c",
                                   targets, &n, &err),
                     ERROR_NONE);
    ck_assert_uint_eq(n, 8);
    static const char *const addresses[] = {"127.0.0.1:50051", "[::1]:1", "10.0.0.1:2", "[::2]:3", "", "", "unix:/a",
                                            "unix:/b/c"};
    for (size_t i = 0; i < n; i++)
        ck_assert_str_eq(targets[i].address, addresses[i]);
    ck_assert_str_eq(targets[4].host, "e.svc");
    ck_assert_str_eq(targets[4].port, "4");
    ck_assert_str_eq(targets[5].host, "host-1");
    ck_assert_str_eq(targets[5].port, "65535");
}
END_TEST

START_TEST(faults_are_named)
{
    static const char *const faults[] = {
        "", ",", "127.0.0.1:1,", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:1x", ":1", "::1:5", "[::1]",
        "[x]:1", "unix:", "dns:///", "dns:///a", "dns://8.8.8.8/a:1", "ipv4:host:1", "ipv6:1.2.3.4", "a b:1", "http://a:1",
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        memset(&err, 0, sizeof err);
        ck_assert_msg(targets_parse(faults[i], targets, &n, &err) == ERROR_VALIDATION_FAILED, "\"%s\"", faults[i]);
        ck_assert_msg(strstr(err.message, "--engine: expected HOST:PORT"), "%s", err.message);
        ck_assert_str_eq(err.param, "engine");
    }
    ck_assert_int_eq(targets_parse(NULL, targets, &n, &err), ERROR_VALIDATION_FAILED);
    ck_assert_int_eq(targets_parse("a:1,127.0.0.1:2,ipv4:127.0.0.1:2", targets, &n, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.message, "--engine: ipv4:127.0.0.1:2 is named twice");
}
END_TEST

START_TEST(the_bound_is_kept)
{
    char text[TARGETS_MAX * 16 + 32] = "";
    for (int i = 0; i <= TARGETS_MAX; i++) {
        if (i == TARGETS_MAX)
            ck_assert_int_eq(targets_parse(text, targets, &n, &err), ERROR_NONE);
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s10.0.0.%d:1", i ? "," : "", i);
    }
    ck_assert_int_eq(targets_parse(text, targets, &n, &err), ERROR_VALIDATION_FAILED);
    ck_assert_ptr_nonnull(strstr(err.message, "at most 64 targets"));
}
END_TEST

/* ---- lookups ---- */

struct found {
    bool came;
    size_t n;
    char first[TARGET_ADDRESS_BYTES], why[128];
};

static void on_found(void *user, char (*addresses)[TARGET_ADDRESS_BYTES], size_t n_found, const char *why)
{
    struct found *f = user;
    f->came = true;
    f->n = n_found;
    snprintf(f->first, sizeof f->first, "%s", n_found > 0 ? addresses[0] : "");
    snprintf(f->why, sizeof f->why, "%s", why);
}

static struct found look_up(const char *host)
{
    struct event_base *base = event_base_new();
    struct lookup *l;
    struct found f = {0};
    ck_assert_int_eq(lookup_start(base, host, "50051", &f, on_found, &l, &err), ERROR_NONE);
    event_base_dispatch(base); /* until nothing is left to wait for */
    event_base_free(base);
    ck_assert(f.came);
    return f;
}

START_TEST(a_name_has_addresses)
{
    struct found f = look_up("localhost");
    ck_assert_uint_ge(f.n, 1);
    ck_assert(strcmp(f.first, "127.0.0.1:50051") == 0 || strcmp(f.first, "[::1]:50051") == 0);
}
END_TEST

START_TEST(a_name_without_says_why)
{
    struct found f = look_up("..");
    ck_assert_uint_eq(f.n, 0);
    ck_assert(f.why[0] != '\0');
}
END_TEST

START_TEST(a_lookup_that_is_given_up)
{
    struct event_base *base = event_base_new();
    struct lookup *l;
    struct found f = {0};
    for (int i = 0; i < 50; i++) {
        ck_assert_int_eq(lookup_start(base, "localhost", "1", &f, on_found, &l, &err), ERROR_NONE);
        lookup_cancel(l);
    }
    event_base_dispatch(base);
    event_base_free(base);
    ck_assert(!f.came);
}
END_TEST

SUITE("targets", addresses_and_names, faults_are_named, the_bound_is_kept, a_name_has_addresses, a_name_without_says_why,
      a_lookup_that_is_given_up)
