/*
 * Counts in a balanced tree of the C library (tsearch(3)): nobody can choose addresses that make it slow. An address without
 * a connection has no node.
 *
 * The key of an IPv4 address is the address above a 1 bit; that of an IPv6 address is its /64 prefix, whose first byte is
 * never 0 in addresses that are routed.
 */
#include "gateway/peers.h"

#include <netinet/in.h>
#include <pthread.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

struct node {
    uint64_t key;
    int64_t n;
};

struct peers {
    int64_t limit;
    pthread_mutex_t lock; /* guards the tree */
    void *tree;
};

static uint64_t key_v4(const void *address)
{
    uint32_t v4;
    memcpy(&v4, address, sizeof v4);
    return (uint64_t)1 << 32 | v4;
}

uint64_t peers_key(const struct sockaddr *a)
{
    uint64_t prefix;
    if (a->sa_family == AF_INET)
        return key_v4(&((const struct sockaddr_in *)a)->sin_addr);
    if (a->sa_family != AF_INET6)
        return 0;
    const struct in6_addr *v6 = &((const struct sockaddr_in6 *)a)->sin6_addr;
    if (IN6_IS_ADDR_V4MAPPED(v6))
        return key_v4(v6->s6_addr + 12);
    memcpy(&prefix, v6->s6_addr, sizeof prefix);
    return prefix != 0 ? prefix : (uint64_t)1 << 63; /* ::1 and its like */
}

static int compare(const void *a, const void *b)
{
    uint64_t x = ((const struct node *)a)->key, y = ((const struct node *)b)->key;
    return (x > y) - (x < y);
}

struct peers *peers_open(int64_t limit)
{
    struct peers *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->limit = limit;
    pthread_mutex_init(&p->lock, NULL);
    return p;
}

void peers_close(struct peers *p)
{
    if (!p)
        return;
    tdestroy(p->tree, free);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

/* The key's node, made when there is none; NULL when memory is out. Locked. */
static struct node *get(struct peers *p, uint64_t key)
{
    const struct node wanted = {.key = key};
    struct node *const *found = tfind(&wanted, &p->tree, compare);
    if (found)
        return *found;
    struct node *node = calloc(1, sizeof *node);
    if (!node)
        return NULL;
    node->key = key;
    if (!tsearch(node, &p->tree, compare)) {
        free(node);
        return NULL;
    }
    return node;
}

bool peers_enter(struct peers *p, uint64_t key)
{
    if (key == 0 || p->limit == 0)
        return true;
    pthread_mutex_lock(&p->lock);
    struct node *node = get(p, key);
    bool ok = node && node->n < p->limit;
    if (ok)
        node->n++;
    pthread_mutex_unlock(&p->lock);
    return ok;
}

void peers_leave(struct peers *p, uint64_t key)
{
    if (key == 0 || p->limit == 0)
        return;
    pthread_mutex_lock(&p->lock);
    const struct node wanted = {.key = key};
    struct node *const *found = tfind(&wanted, &p->tree, compare);
    struct node *node = found ? *found : NULL;
    if (node && --node->n == 0) {
        tdelete(node, &p->tree, compare);
        free(node);
    }
    pthread_mutex_unlock(&p->lock);
}
