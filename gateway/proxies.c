/* Networks, and the walk along the proxies. */
#include "gateway/proxies.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_NETWORKS 64
#define MAX_HOPS 32 /* more are taken for a loop: the last one stands */

/* An address; IPv4 lies in ::ffff:0:0/96. */
struct ip {
    unsigned char bytes[16];
};

struct network {
    struct ip ip;
    int n_bits;
};

struct proxies {
    struct network networks[MAX_NETWORKS];
    size_t n;
    bool local;     /* "unix" is trusted */
    bool forwarded; /* which header */
};

static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF};

static bool is_v4(const struct ip *ip)
{
    return memcmp(ip->bytes, mapped, sizeof mapped) == 0;
}

/* An address without port; a zone ("%eth0") is left out. */
static bool parse_ip(const char *text, size_t n, struct ip *out)
{
    char copy[PROXIES_ADDRESS_BYTES];
    const char *zone = memchr(text, '%', n);
    if (zone)
        n = (size_t)(zone - text);
    if (n >= sizeof copy)
        return false;
    memcpy(copy, text, n);
    copy[n] = '\0';
    memcpy(out->bytes, mapped, sizeof mapped);
    return inet_pton(AF_INET, copy, out->bytes + sizeof mapped) == 1 || inet_pton(AF_INET6, copy, out->bytes) == 1;
}

static void print_ip(const struct ip *ip, char out[PROXIES_ADDRESS_BYTES])
{
    if (is_v4(ip))
        inet_ntop(AF_INET, ip->bytes + sizeof mapped, out, PROXIES_ADDRESS_BYTES);
    else
        inet_ntop(AF_INET6, ip->bytes, out, PROXIES_ADDRESS_BYTES);
}

/* ---- what is trusted ---- */

static bool parse_network(const char *text, size_t n, struct network *out)
{
    const char *slash = memchr(text, '/', n);
    size_t n_ip = slash ? (size_t)(slash - text) : n;
    char *end;
    if (!parse_ip(text, n_ip, &out->ip))
        return false;
    int shift = is_v4(&out->ip) ? 96 : 0;
    out->n_bits = 128;
    if (!slash)
        return true;
    if (slash[1] < '0' || slash[1] > '9')
        return false;
    long bits = strtol(slash + 1, &end, 10);
    out->n_bits = (int)bits + shift;
    return end == text + n && bits <= 128 - shift;
}

static bool in_network(const struct network *network, const struct ip *ip)
{
    int n_bytes = network->n_bits / 8, rest = network->n_bits % 8;
    unsigned char mask = (unsigned char)(0xFF00 >> rest);
    return memcmp(network->ip.bytes, ip->bytes, (size_t)n_bytes) == 0 &&
           (rest == 0 || ((network->ip.bytes[n_bytes] ^ ip->bytes[n_bytes]) & mask) == 0);
}

static bool trusted(const struct proxies *p, const struct ip *ip)
{
    for (size_t i = 0; i < p->n; i++)
        if (in_network(&p->networks[i], ip))
            return true;
    return false;
}

enum error_code proxies_open(const char *list, bool forwarded, struct proxies **out, struct error *err)
{
    struct proxies *p = calloc(1, sizeof *p);
    if (!p)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    p->forwarded = forwarded;
    for (const char *one = list ? list : ""; *one; one += strspn(one, " ,")) {
        size_t n = strcspn(one, " ,");
        bool local = n == 4 && memcmp(one, "unix", 4) == 0;
        if (!local && (p->n == MAX_NETWORKS || !parse_network(one, n, &p->networks[p->n]))) {
            error_set(err, ERROR_VALIDATION_FAILED,
                      "--trusted-proxies: expected at most %d of ADDRESS, ADDRESS/BITS or unix, found %.*s", MAX_NETWORKS,
                      (int)(n < 64 ? n : 64), one);
            free(p);
            return ERROR_VALIDATION_FAILED;
        }
        p->local |= local;
        p->n += !local;
        one += n;
    }
    *out = p;
    return ERROR_NONE;
}

void proxies_close(struct proxies *p)
{
    free(p);
}

bool proxies_trust(const struct proxies *p, const struct sockaddr *from)
{
    struct ip ip;
    memcpy(ip.bytes, mapped, sizeof mapped);
    if (from->sa_family == AF_INET)
        memcpy(ip.bytes + sizeof mapped, &((const struct sockaddr_in *)from)->sin_addr, 4);
    else if (from->sa_family == AF_INET6)
        memcpy(ip.bytes, &((const struct sockaddr_in6 *)from)->sin6_addr, sizeof ip.bytes);
    else
        return false;
    return trusted(p, &ip);
}

/* ---- the walk ---- */

/* A word of the list: an address, perhaps with a port; IPv6 with a port stands in brackets. */
static bool parse_node(const char *text, size_t n, struct ip *out)
{
    const char *end;
    if (n > 0 && text[0] == '[') {
        end = memchr(text, ']', n);
        return end && parse_ip(text + 1, (size_t)(end - text - 1), out);
    }
    end = memchr(text, ':', n);
    if (end && memrchr(text, ':', n) == end)
        n = (size_t)(end - text); /* 192.0.2.1:4711 */
    return parse_ip(text, n, out);
}

/* The node of `for=` in an element of Forwarded, quotes taken off. */
static bool forwarded_node(const char **text, size_t *n)
{
    const char *end = *text + *n;
    for (const char *p = *text; p < end;) {
        const char *semicolon = memchr(p, ';', (size_t)(end - p)), *stop = semicolon ? semicolon : end;
        while (p < stop && (*p == ' ' || *p == '\t'))
            p++;
        if (stop - p > 4 && strncasecmp(p, "for=", 4) == 0) {
            *text = p + 4;
            *n = (size_t)(stop - p - 4);
            while (*n > 0 && ((*text)[*n - 1] == ' ' || (*text)[*n - 1] == '\t'))
                --*n;
            if (*n >= 2 && **text == '"' && (*text)[*n - 1] == '"') {
                ++*text;
                *n -= 2;
            }
            return true;
        }
        p = stop + 1;
    }
    return false;
}

/* Takes the last element off `value`, whose length is *n; false when there is none left. */
static bool last_element(const char *value, size_t *n, const char **element, size_t *n_element)
{
    if (*n == 0)
        return false;
    const char *comma = memrchr(value, ',', *n);
    *element = comma ? comma + 1 : value;
    *n_element = (size_t)(value + *n - *element);
    *n = comma ? (size_t)(comma - value) : 0;
    while (*n_element > 0 && (**element == ' ' || **element == '\t')) {
        ++*element;
        --*n_element;
    }
    while (*n_element > 0 && ((*element)[*n_element - 1] == ' ' || (*element)[*n_element - 1] == '\t'))
        --*n_element;
    return true;
}

/* One step to the left, within a header field. False: here the walk ends. */
static bool step(const struct proxies *p, const char *element, size_t n, struct ip *ip)
{
    struct ip next;
    if (p->forwarded && !forwarded_node(&element, &n))
        return false;
    if (!parse_node(element, n, &next))
        return false; /* "unknown", a made-up name, or nonsense: the proxy that wrote it is all we know */
    *ip = next;
    return true;
}

void proxies_address(const struct proxies *p, const struct http_request *r, char out[PROXIES_ADDRESS_BYTES])
{
    const char *name = p->forwarded ? "forwarded" : "x-forwarded-for";
    struct ip ip;
    bool known = parse_ip(r->peer, strlen(r->peer), &ip);
    bool believe = known ? trusted(p, &ip) : p->local;
    int hops = 0;
    for (size_t i = r->n_headers; believe && i-- > 0;) {
        const char *value = r->headers[i].value, *element;
        size_t n = strlen(value), n_element;
        if (strcmp(r->headers[i].name, name) != 0)
            continue;
        while (believe && last_element(value, &n, &element, &n_element)) {
            bool moved = ++hops <= MAX_HOPS && step(p, element, n_element, &ip);
            known |= moved;
            believe = moved && trusted(p, &ip);
        }
    }
    if (known)
        print_ip(&ip, out);
    else
        snprintf(out, PROXIES_ADDRESS_BYTES, "unix");
}

void proxies_client(const char *address, char *out, size_t n_out)
{
    struct ip ip;
    char text[PROXIES_ADDRESS_BYTES];
    if (!parse_ip(address, strlen(address), &ip) || is_v4(&ip)) {
        snprintf(out, n_out, "%s", address);
        return;
    }
    memset(ip.bytes + 8, 0, 8);
    print_ip(&ip, text);
    snprintf(out, n_out, "%s/64", text);
}
