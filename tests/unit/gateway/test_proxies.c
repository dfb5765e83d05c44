/* Which address a request comes from. */
#include "gateway/proxies.h"
#include "tests/suite.h"

#include <arpa/inet.h>

#define NEAR "10.0.0.0/8, 2001:db8:1::/48,192.0.2.1"

struct one {
    const char *trusted, *peer, *header, *value, *second; /* second: another field of the same name, after it */
    const char *address;
};

static const struct one ones[] = {
    {NULL, "192.0.2.1", NULL, NULL, NULL, "192.0.2.1"},
    {NULL, "192.0.2.1", "x-forwarded-for", "203.0.113.9", NULL, "192.0.2.1"}, /* nobody is trusted */
    {"", "127.0.0.1", "x-forwarded-for", "203.0.113.9", NULL, "127.0.0.1"},
    {NEAR, "192.0.2.2", "x-forwarded-for", "203.0.113.9", NULL, "192.0.2.2"},
    {NEAR, "192.0.2.1", "x-forwarded-for", "203.0.113.9", NULL, "203.0.113.9"},
    {NEAR, "10.255.1.2", "x-forwarded-for", "203.0.113.9", NULL, "203.0.113.9"},
    {NEAR, "11.0.0.1", "x-forwarded-for", "203.0.113.9", NULL, "11.0.0.1"},
    {NEAR, "::ffff:10.0.0.1", "x-forwarded-for", "203.0.113.9", NULL, "203.0.113.9"},
    {NEAR, "2001:db8:1:2::3", "x-forwarded-for", "2001:DB8:9::1", NULL, "2001:db8:9::1"},
    {NEAR, "2001:db8:2::3", "x-forwarded-for", "203.0.113.9", NULL, "2001:db8:2::3"},
    /* What the client itself wrote stands to the left of what the first trusted proxy wrote. */
    {NEAR, "10.0.0.1", "x-forwarded-for", "1.1.1.1, 203.0.113.9", NULL, "203.0.113.9"},
    {NEAR, "10.0.0.1", "x-forwarded-for", "1.1.1.1, 203.0.113.9 , 10.9.9.9", NULL, "203.0.113.9"},
    {NEAR, "10.0.0.1", "x-forwarded-for", "1.1.1.1", "203.0.113.9, 10.2.2.2", "203.0.113.9"},
    {NEAR, "10.0.0.1", "x-forwarded-for", "203.0.113.9", "10.2.2.2", "203.0.113.9"},
    {NEAR, "10.0.0.1", "x-forwarded-for", "10.0.0.3, 10.0.0.2", NULL, "10.0.0.3"},
    /* Nonsense ends the walk at the proxy that wrote it. */
    {NEAR, "10.0.0.1", "x-forwarded-for", "203.0.113.9, unknown", NULL, "10.0.0.1"},
    {NEAR, "10.0.0.1", "x-forwarded-for", "203.0.113.9, , ", NULL, "10.0.0.1"},
    {NEAR, "10.0.0.1", "x-forwarded-for", "1.2.3.4.5, 10.0.0.2", NULL, "10.0.0.2"},
    {NEAR, "10.0.0.1", "x-forwarded-for", "", NULL, "10.0.0.1"},
    /* Ports and brackets. */
    {NEAR, "10.0.0.1", "x-forwarded-for", "203.0.113.9:4711", NULL, "203.0.113.9"},
    {NEAR, "10.0.0.1", "x-forwarded-for", "[2001:db8:9::1]:4711", NULL, "2001:db8:9::1"},
    {NEAR, "10.0.0.1", "x-forwarded-for", "[2001:db8:9::1", NULL, "10.0.0.1"},
    {NEAR, "10.0.0.1", "x-forwarded-for", "fe80::1%eth0", NULL, "fe80::1"},
    /* Only the header that is configured. */
    {NEAR, "10.0.0.1", "forwarded", "for=203.0.113.9", NULL, "10.0.0.1"},
    /* A local socket. */
    {NULL, "unix", "x-forwarded-for", "203.0.113.9", NULL, "unix"},
    {"unix", "unix", "x-forwarded-for", "1.1.1.1, 203.0.113.9", NULL, "203.0.113.9"},
    {"unix", "unix", "x-forwarded-for", "nonsense", NULL, "unix"},
    {"0.0.0.0/0", "8.8.8.8", "x-forwarded-for", "2001:db8:9::1", NULL, "2001:db8:9::1"},
};

static const struct one forwarded[] = {
    {NEAR, "10.0.0.1", "forwarded", "for=203.0.113.9", NULL, "203.0.113.9"},
    {NEAR, "10.0.0.1", "forwarded", "proto=https; For=\"203.0.113.9:80\" ;by=10.0.0.1", NULL, "203.0.113.9"},
    {NEAR, "10.0.0.1", "forwarded", "for=1.1.1.1, for=\"[2001:db8:9::1]:80\", for=10.0.0.2;proto=http", NULL,
     "2001:db8:9::1"},
    {NEAR, "10.0.0.1", "forwarded", "for=_hidden", NULL, "10.0.0.1"},
    {NEAR, "10.0.0.1", "forwarded", "for=unknown, for=10.0.0.7", NULL, "10.0.0.7"},
    {NEAR, "10.0.0.1", "forwarded", "proto=https", NULL, "10.0.0.1"},
    {NEAR, "10.0.0.1", "forwarded", "for=", NULL, "10.0.0.1"},
    {NEAR, "10.0.0.1", "forwarded", "for=\"", NULL, "10.0.0.1"},
    {NEAR, "10.0.0.1", "forwarded", ";;;,;,", NULL, "10.0.0.1"},
    {NEAR, "10.0.0.1", "x-forwarded-for", "203.0.113.9", NULL, "10.0.0.1"},
};

static void check(const struct one *one, bool use_forwarded)
{
    struct http_header headers[3] = {{"host", "a"}};
    struct http_request r = {.headers = headers, .n_headers = 1, .peer = one->peer};
    struct proxies *p;
    struct error err;
    char address[PROXIES_ADDRESS_BYTES];
    if (one->value)
        headers[r.n_headers++] = (struct http_header){one->header, one->value};
    if (one->second)
        headers[r.n_headers++] = (struct http_header){one->header, one->second};
    ck_assert_int_eq(proxies_open(one->trusted, use_forwarded, &p, &err), ERROR_NONE);
    proxies_address(p, &r, address);
    ck_assert_msg(strcmp(address, one->address) == 0, "%s from %s: %s, expected %s", one->value, one->peer, address,
                  one->address);
    proxies_close(p);
}

START_TEST(finds_the_client)
{
    for (size_t i = 0; i < sizeof ones / sizeof *ones; i++)
        check(&ones[i], false);
    for (size_t i = 0; i < sizeof forwarded / sizeof *forwarded; i++)
        check(&forwarded[i], true);
}
END_TEST

START_TEST(endless_lists_end)
{
    char value[8192] = "203.0.113.9";
    for (int i = 0; i < 500; i++)
        strcat(value, ",10.0.0.2");
    check(&(struct one){NEAR, "10.0.0.1", "x-forwarded-for", value, NULL, "10.0.0.2"}, false);
}
END_TEST

START_TEST(one_customer_is_one_client)
{
    static const char *const cases[][2] = {
        {"192.0.2.1", "192.0.2.1"},
        {"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"},
        {"2001:db8:1:2::9", "2001:db8:1:2::/64"},
        {"::1", "::/64"},
        {"unix", "unix"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char id[80];
        proxies_client(cases[i][0], id, sizeof id);
        ck_assert_str_eq(id, cases[i][1]);
    }
}
END_TEST

START_TEST(refuses_networks)
{
    static const char *const cases[] = {"10.0.0.0/33",   "::/129",      "10.0.0.0/",
                                        "10.0.0/8",      "10.0.0.0/8x", "10.0.0.0/-1",
                                        "proxy.example", "unix:/run/x", "10.0.0.1,nonsense"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct proxies *p;
        struct error err;
        ck_assert_msg(proxies_open(cases[i], false, &p, &err) != ERROR_NONE, "%s", cases[i]);
        ck_assert_ptr_nonnull(strstr(err.message, "trusted-proxies: expected"));
    }
}
END_TEST

START_TEST(connections_of_proxies_are_known)
{
    static const struct {
        const char *trusted, *from;
        bool is;
    } cases[] = {
        {NEAR, "10.1.2.3", true},        {NEAR, "11.1.2.3", false},      {NEAR, "192.0.2.1", true},
        {NEAR, "192.0.2.2", false},      {NEAR, "2001:db8:1::7", true},  {NEAR, "2001:db8:2::7", false},
        {NEAR, "::ffff:10.0.0.1", true}, {NULL, "10.1.2.3", false},      {"unix", "127.0.0.1", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct proxies *p;
        struct error err;
        struct sockaddr_in v4 = {.sin_family = AF_INET};
        struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
        bool is_v4 = inet_pton(AF_INET, cases[i].from, &v4.sin_addr) == 1;
        ck_assert(is_v4 || inet_pton(AF_INET6, cases[i].from, &v6.sin6_addr) == 1);
        ck_assert_int_eq(proxies_open(cases[i].trusted, false, &p, &err), ERROR_NONE);
        const struct sockaddr *from = is_v4 ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6;
        ck_assert_msg(proxies_trust(p, from) == cases[i].is, "%s", cases[i].from);
        proxies_close(p);
    }
    struct proxies *p;
    struct error err;
    const struct sockaddr local = {.sa_family = AF_UNIX};
    ck_assert_int_eq(proxies_open("unix,0.0.0.0/0", false, &p, &err), ERROR_NONE);
    ck_assert(!proxies_trust(p, &local)); /* it is not counted anyway */
    proxies_close(p);
}
END_TEST

SUITE("proxies", connections_of_proxies_are_known, finds_the_client, endless_lists_end, one_customer_is_one_client, refuses_networks)
