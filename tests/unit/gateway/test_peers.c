/* Counts of connections by client address. */
#include "tests/suite.h"

#include "gateway/peers.h"

#include <arpa/inet.h>
#include <netinet/in.h>

static uint64_t key(const char *text)
{
    struct sockaddr_storage a = {0};
    struct sockaddr_in *v4 = (struct sockaddr_in *)&a;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a;
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1)
        a.ss_family = AF_INET;
    else if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1)
        a.ss_family = AF_INET6;
    else
        a.ss_family = AF_UNIX;
    return peers_key((struct sockaddr *)&a);
}

START_TEST(addresses_that_are_one_client)
{
    static const struct {
        const char *a, *b;
        bool same;
    } cases[] = {
        {"192.0.2.1", "192.0.2.1", true},
        {"192.0.2.1", "192.0.2.2", false},
        {"192.0.2.1", "::ffff:192.0.2.1", true},
        {"2001:db8::1", "2001:db8::2:3", true},     /* one /64 */
        {"2001:db8::1", "2001:db8:0:1::1", false},
        {"0.0.0.0", "255.255.255.255", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert_msg((key(cases[i].a) == key(cases[i].b)) == cases[i].same, "%s %s", cases[i].a, cases[i].b);
        ck_assert_uint_ne(key(cases[i].a), 0);
    }
    ck_assert_uint_ne(key("::1"), 0);
    ck_assert_uint_eq(key("unix"), 0);
}
END_TEST

START_TEST(each_has_its_limit)
{
    struct peers *p = peers_open(2);
    uint64_t a = key("192.0.2.1"), b = key("192.0.2.2");
    ck_assert(peers_enter(p, a) && peers_enter(p, a) && !peers_enter(p, a));
    ck_assert(peers_enter(p, b));
    peers_leave(p, a);
    ck_assert(peers_enter(p, a) && !peers_enter(p, a));
    for (int i = 0; i < 10; i++)
        ck_assert(peers_enter(p, 0)); /* unix sockets have none */
    peers_close(p);
}
END_TEST

START_TEST(many_come_and_go)
{
    struct peers *p = peers_open(1);
    for (int round = 0; round < 3; round++) {
        for (uint64_t k = 1; k <= 5000; k++)
            ck_assert(peers_enter(p, k * 7919) && !peers_enter(p, k * 7919));
        for (uint64_t k = 5000; k >= 1; k--)
            peers_leave(p, k * 7919);
    }
    peers_close(p);
}
END_TEST

START_TEST(no_limit_counts_nothing)
{
    struct peers *p = peers_open(0);
    for (int i = 0; i < 1000; i++)
        ck_assert(peers_enter(p, 5));
    peers_close(p);
}
END_TEST

SUITE("peers", addresses_that_are_one_client, each_has_its_limit, many_come_and_go, no_limit_counts_nothing)
