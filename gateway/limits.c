/* Buckets and counts of requests in flight. */
#include "gateway/limits.h"

#include "base/clock.h"

#include <openssl/rand.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define N_LISTS 1024 /* of clients with requests in flight */

struct bucket {
    uint64_t key;
    int64_t reset_ns; /* 0: never used */
    int64_t used;
    int64_t limit;
};

/* A client with requests in flight. */
struct flight {
    uint64_t key;
    int64_t n;
    struct flight *next;
};

struct limits {
    struct limits_options options;
    unsigned char seed[16]; /* where a client's bucket lies is not to be foreseen */
    size_t n_sets;
    pthread_mutex_t lock;   /* of all below */
    struct bucket *buckets; /* [n_sets][LIMITS_WAYS] */
    struct flight *flights[N_LISTS];
    int64_t n_in_flight;
};

struct limits *limits_open(const struct limits_options *options)
{
    struct limits *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->options = *options;
    l->n_sets = (options->n_buckets + LIMITS_WAYS - 1) / LIMITS_WAYS;
    if (l->n_sets == 0)
        l->n_sets = 1;
    l->buckets = calloc(l->n_sets * LIMITS_WAYS, sizeof *l->buckets); /* pages come as they are used */
    if (!l->buckets || RAND_bytes(l->seed, sizeof l->seed) != 1) {
        free(l->buckets);
        free(l);
        return NULL;
    }
    pthread_mutex_init(&l->lock, NULL);
    return l;
}

void limits_close(struct limits *l)
{
    if (!l)
        return;
    for (size_t i = 0; i < N_LISTS; i++)
        for (struct flight *f = l->flights[i], *next; f; f = next) {
            next = f->next;
            free(f);
        }
    pthread_mutex_destroy(&l->lock);
    free(l->buckets);
    free(l);
}

const char *limit_class_name(enum limit_class class)
{
    static const char *const names[LIMIT_N_CLASSES] = {"inference", "models", "health", "stats"};
    return names[class];
}

uint64_t limits_key(const struct limits *l, enum limit_class class, enum client_kind kind, const char *id)
{
    unsigned char text[sizeof l->seed + 2 + CLIENT_ID_BYTES], hash[SHA256_DIGEST_LENGTH];
    size_t n = strnlen(id, CLIENT_ID_BYTES);
    uint64_t key;
    memcpy(text, l->seed, sizeof l->seed);
    text[sizeof l->seed] = (unsigned char)class;
    text[sizeof l->seed + 1] = (unsigned char)kind;
    memcpy(text + sizeof l->seed + 2, id, n);
    SHA256(text, sizeof l->seed + 2 + n, hash);
    memcpy(&key, hash, sizeof key);
    return key;
}

/* ---- buckets ---- */

/* Whether `a` is the better one to give up: run out, less used for its limit, sooner full again. */
static bool gives_way(const struct bucket *a, const struct bucket *b, int64_t now_ns)
{
    bool a_over = a->reset_ns <= now_ns, b_over = b->reset_ns <= now_ns;
    if (a_over != b_over)
        return a_over;
    double a_share = (double)a->used / (double)(a->limit > 0 ? a->limit : 1);
    double b_share = (double)b->used / (double)(b->limit > 0 ? b->limit : 1);
    return a_share != b_share ? a_share < b_share : a->reset_ns < b->reset_ns;
}

/* The bucket of this key, full if its minute is over; NULL when there is none and none is to be made. */
static struct bucket *find(struct limits *l, int64_t limit, uint64_t key, int64_t now_ns, bool make)
{
    struct bucket *set = &l->buckets[key % l->n_sets * LIMITS_WAYS], *found = NULL, *worst = set;
    for (struct bucket *b = set; b < set + LIMITS_WAYS && !found; b++) {
        if (b->key == key && b->reset_ns > now_ns)
            found = b;
        else if (gives_way(b, worst, now_ns))
            worst = b;
    }
    if (!found && make) {
        found = worst;
        *found = (struct bucket){key, now_ns + LIMITS_WINDOW_S * CLOCK_NS_PER_S, 0, limit};
    }
    return found;
}

static struct limit_state state_of(const struct bucket *b, int64_t limit, int64_t now_ns)
{
    return b ? (struct limit_state){limit, limit - b->used, b->reset_ns}
             : (struct limit_state){limit, limit, now_ns + LIMITS_WINDOW_S * CLOCK_NS_PER_S};
}

bool limits_take(struct limits *l, enum limit_class class, uint64_t key, int64_t now_ns, struct limit_state *state)
{
    int64_t limit = l->options.per_minute[class];
    if (limit == 0) {
        *state = (struct limit_state){0};
        return true;
    }
    pthread_mutex_lock(&l->lock);
    struct bucket *b = find(l, limit, key, now_ns, true);
    bool taken = b->used < limit;
    b->used += taken;
    *state = state_of(b, limit, now_ns);
    pthread_mutex_unlock(&l->lock);
    return taken;
}

void limits_peek(struct limits *l, enum limit_class class, uint64_t key, int64_t now_ns, struct limit_state *state)
{
    int64_t limit = l->options.per_minute[class];
    *state = (struct limit_state){0};
    if (limit == 0)
        return;
    pthread_mutex_lock(&l->lock);
    *state = state_of(find(l, limit, key, now_ns, false), limit, now_ns);
    pthread_mutex_unlock(&l->lock);
}

/* ---- in flight ---- */

static struct flight **flight_of(struct limits *l, uint64_t key)
{
    struct flight **at = &l->flights[key % N_LISTS];
    while (*at && (*at)->key != key)
        at = &(*at)->next;
    return at;
}

/* Counts for the client alone; false when it has enough, or memory is out. */
static bool enter_client(struct limits *l, uint64_t key)
{
    struct flight **at = flight_of(l, key);
    if (*at && (*at)->n >= l->options.client_concurrency)
        return false;
    if (!*at && !(*at = calloc(1, sizeof **at)))
        return false;
    (*at)->key = key;
    (*at)->n++;
    return true;
}

static bool full(const struct limits *l)
{
    return l->options.max_requests > 0 && l->n_in_flight >= l->options.max_requests;
}

enum limits_entry limits_enter(struct limits *l, uint64_t key)
{
    enum limits_entry entry = LIMITS_ENTERED;
    pthread_mutex_lock(&l->lock);
    if (full(l))
        entry = LIMITS_FULL;
    else if (l->options.client_concurrency > 0 && !enter_client(l, key))
        entry = LIMITS_CLIENT_FULL;
    l->n_in_flight += entry == LIMITS_ENTERED;
    pthread_mutex_unlock(&l->lock);
    return entry;
}

void limits_leave(struct limits *l, uint64_t key)
{
    pthread_mutex_lock(&l->lock);
    l->n_in_flight--;
    struct flight **at = flight_of(l, key), *f = *at;
    if (l->options.client_concurrency > 0 && f && --f->n == 0) {
        *at = f->next;
        free(f);
    }
    pthread_mutex_unlock(&l->lock);
}

bool limits_full(struct limits *l)
{
    pthread_mutex_lock(&l->lock);
    bool is_full = full(l);
    pthread_mutex_unlock(&l->lock);
    return is_full;
}
