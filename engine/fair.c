/* See fair.h. */
#include "engine/fair.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BUCKETS 65536

bool fair_init(struct fair *f, size_t capacity)
{
    memset(f, 0, sizeof *f);
    for (f->n_buckets = 1; f->n_buckets < capacity && f->n_buckets < MAX_BUCKETS; f->n_buckets *= 2)
        ;
    f->heap = calloc(capacity, sizeof *f->heap);
    f->buckets = calloc(f->n_buckets, sizeof *f->buckets);
    if (f->heap && f->buckets)
        return true;
    fair_fini(f);
    return false;
}

void fair_fini(struct fair *f)
{
    free(f->heap);
    free(f->buckets);
    memset(f, 0, sizeof *f);
}

/* ---- the heap ---------------------------------------------------------------------------------------------------- */

static bool before(const struct fair_item *a, const struct fair_item *b)
{
    if (a->returned != b->returned)
        return a->returned;
    if (a->tag != b->tag && !a->returned)
        return a->tag < b->tag;
    return a->number < b->number;
}

static void place(struct fair *f, size_t at, struct fair_item *item)
{
    f->heap[at] = item;
    item->at = at;
}

/* Moves an item from `at`, where there is room, to where it belongs. */
static void settle(struct fair *f, size_t at, struct fair_item *item)
{
    for (; at > 0 && before(item, f->heap[(at - 1) / 2]); at = (at - 1) / 2)
        place(f, at, f->heap[(at - 1) / 2]);
    for (size_t child; (child = 2 * at + 1) < f->n_clients; at = child) {
        if (child + 1 < f->n_clients && before(f->heap[child + 1], f->heap[child]))
            child++;
        if (!before(f->heap[child], item))
            break;
        place(f, at, f->heap[child]);
    }
    place(f, at, item);
}

/* ---- clients ----------------------------------------------------------------------------------------------------- */

/* Where the head of a client is pointed to, or would be. */
static struct fair_item **find(const struct fair *f, uint64_t client)
{
    uint64_t hash = client * UINT64_C(0x9E3779B97F4A7C15);
    struct fair_item **at = &f->buckets[(hash >> 32) & (f->n_buckets - 1)];
    while (*at && (*at)->client != client)
        at = &(*at)->next_in_bucket;
    return at;
}

/* `item` stands for its client from now on: at the bucket's `link`, and in the heap from `at`. */
static void make_head(struct fair *f, struct fair_item **link, size_t at, struct fair_item *item, uint64_t start, size_t n)
{
    struct fair_item *after = *link ? (*link)->next_in_bucket : NULL;
    item->start = start;
    item->tag = item->returned ? start : start + item->cost;
    item->n = n;
    item->next_in_bucket = after;
    *link = item;
    settle(f, at, item);
}

static void insert_before(struct fair_item *item, struct fair_item *head)
{
    item->next = head;
    item->previous = head->previous;
    item->previous->next = head->previous = item;
}

void fair_add(struct fair *f, struct fair_item *item)
{
    struct fair_item **link = find(f, item->client);
    item->returned = false;
    item->number = ++f->n_added;
    if (*link) {
        insert_before(item, *link);
        (*link)->n++;
        return;
    }
    item->next = item->previous = item;
    make_head(f, link, f->n_clients++, item, f->clock, 1);
}

void fair_return(struct fair *f, struct fair_item *item)
{
    struct fair_item **link = find(f, item->client), *head = *link;
    item->returned = true;
    item->number = --f->n_returned;
    if (head) {
        insert_before(item, head);
        make_head(f, link, head->at, item, head->start, head->n + 1);
        return;
    }
    item->next = item->previous = item;
    make_head(f, link, f->n_clients++, item, f->clock, 1);
}

static void remove_client(struct fair *f, struct fair_item **link)
{
    size_t at = (*link)->at;
    struct fair_item *last = f->heap[--f->n_clients];
    *link = (*link)->next_in_bucket;
    if (at < f->n_clients)
        settle(f, at, last);
}

void fair_remove(struct fair *f, struct fair_item *item, bool served)
{
    struct fair_item **link = find(f, item->client), *head = *link;
    assert(head && "fair: the item's client waits");
    bool pays = served && !item->returned;
    if (pays && head == item && item->tag > f->clock)
        f->clock = item->tag;
    item->next->previous = item->previous;
    item->previous->next = item->next;
    if (head != item)
        head->n--;
    else if (item->next == item)
        remove_client(f, link);
    else
        make_head(f, link, item->at, item->next, pays ? item->tag : item->start, item->n - 1);
}

struct fair_item *fair_first(const struct fair *f)
{
    return f->n_clients ? f->heap[0] : NULL;
}

size_t fair_n_of(const struct fair *f, uint64_t client)
{
    const struct fair_item *head = *find(f, client);
    return head ? head->n : 0;
}
