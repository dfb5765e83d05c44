/* Clients in turns: no flood delays another client by more than a round, tokens are shared alike, each client's own order is kept, nothing
 * starves, and one client alone is first come, first served. Then the whole queue under random arrivals, ends and returns. */
#include "engine/fair.h"
#include "engine/queue.h"
#include "tests/suite.h"

#include "base/clock.h"

#define N 2000

static void add(struct fair *f, struct fair_item *item, uint64_t client, uint64_t cost)
{
    *item = (struct fair_item){.client = client, .cost = cost};
    fair_add(f, item);
}

static struct fair_item *serve(struct fair *f)
{
    struct fair_item *item = fair_first(f);
    fair_remove(f, item, true);
    return item;
}

START_TEST(test_one_client_is_first_come_first_served)
{
    static struct fair_item items[N];
    struct fair f;
    srand(3);
    ck_assert(fair_init(&f, N));
    for (int i = 0, out = 0; out < N;) {
        if (i < N && rand() % 2)
            add(&f, &items[i++], 7, (uint64_t)rand() % 100);
        else if (out < i)
            ck_assert_ptr_eq(serve(&f), &items[out++]);
    }
    ck_assert_ptr_null(fair_first(&f));
    fair_fini(&f);
}
END_TEST

START_TEST(test_a_flood_delays_others_by_a_round)
{
    struct fair_item flood[200], others[10];
    struct fair f;
    ck_assert(fair_init(&f, 300));
    for (int i = 0; i < 200; i++)
        add(&f, &flood[i], 1, 100);
    for (int i = 0; i < 50; i++)
        ck_assert_ptr_eq(serve(&f), &flood[i]);
    for (int i = 0; i < 10; i++)
        add(&f, &others[i], 2 + (uint64_t)i, 100);
    for (int n = 0, n_flood = 0; n < 10;) {
        struct fair_item *item = serve(&f);
        if (item->client == 1)
            ck_assert_int_lt(n_flood++, 1);
        else
            ck_assert_ptr_eq(item, &others[n++]);
    }
    for (int i = 0; i < 5; i++) { /* one request after another: a turn each */
        add(&f, &others[0], 2, 100);
        int before = 0;
        while (serve(&f) != &others[0])
            ck_assert_int_le(++before, 2);
    }
    while (fair_first(&f))
        serve(&f);
    fair_fini(&f);
}
END_TEST

/* The first 49 of a client's 50 are cancelled: the last takes their turn. */
START_TEST(test_cancelled_ones_leave_no_debt)
{
    struct fair_item a[50], b[50];
    struct fair f;
    ck_assert(fair_init(&f, 100));
    for (int i = 0; i < 50; i++) {
        add(&f, &a[i], 1, 10);
        add(&f, &b[i], 2, 10);
    }
    for (int i = 0; i < 49; i++)
        fair_remove(&f, &a[(i * 5) % 49], false);
    ck_assert_ptr_eq(serve(&f), &b[0]);
    ck_assert_ptr_eq(serve(&f), &a[49]);
    ck_assert_uint_eq(fair_n_of(&f, 1), 0);
    ck_assert_uint_eq(fair_n_of(&f, 2), 49);
    fair_fini(&f);
}
END_TEST

/* Ten clients that always wait, with requests of their own sizes, get the same tokens, give or take a request of each. */
START_TEST(test_tokens_are_shared_alike)
{
    static struct fair_item items[10][40];
    uint64_t served[10] = {0}, most = 1200;
    struct fair f;
    srand(9);
    ck_assert(fair_init(&f, 400));
    for (uint64_t c = 0; c < 10; c++)
        for (int i = 0; i < 40; i++)
            add(&f, &items[c][i], c, 1 + (uint64_t)rand() % (100 + 120 * c));
    for (int step = 0; step < 20000; step++) {
        struct fair_item *item = serve(&f);
        uint64_t c = item->client, least = UINT64_MAX, greatest = 0;
        served[c] += item->cost;
        for (int i = 0; i < 10; i++) {
            least = served[i] < least ? served[i] : least;
            greatest = served[i] > greatest ? served[i] : greatest;
        }
        if (greatest - least > 2 * most)
            ck_abort_msg("step %d: %lu and %lu tokens", step, (unsigned long)least, (unsigned long)greatest);
        add(&f, item, c, 1 + (uint64_t)rand() % (100 + 120 * c));
    }
    fair_fini(&f);
}
END_TEST

/* New clients without end, each with one small request: a large one is served before long. */
START_TEST(test_nothing_starves)
{
    struct fair_item large, small[4];
    struct fair f;
    ck_assert(fair_init(&f, 8));
    add(&f, &large, 1, 1000);
    for (uint64_t i = 0; i < 4; i++)
        add(&f, &small[i], 10 + i, 10);
    uint64_t n = 0;
    for (struct fair_item *item; (item = serve(&f)) != &large; n++) {
        ck_assert_uint_le(n, 4 * 1000 / 10 + 4); /* four at a time, for as many tokens each */
        add(&f, item, 100 + n, 10);
    }
    fair_fini(&f);
}
END_TEST

/* ---- the whole queue --------------------------------------------------------------------------------------------- */

#define N_CLIENTS 12
#define LIMIT 64
#define MAX_TOKENS 20000
#define N_ARRIVALS 20000
#define N_SLOTS 8

struct sim_request {
    struct queue_item item; /* first */
    uint64_t number, n_claimed;
    int64_t deadline_ns;
    int n_returns;
};

struct sim {
    struct queue q;
    struct sim_request pool[N_ARRIVALS];
    struct sim_request *waiting[LIMIT + N_SLOTS], *running[N_SLOTS];
    size_t n_waiting, n_running, n_born, n_served, n_refused[6], n_expired, n_returned;
    uint64_t tokens;
};

static size_t reason_index(const char *reason)
{
    static const char *const all[] = {REFUSED_QUEUE_FULL, REFUSED_QUEUE_TOKENS, REFUSED_PRIORITY, REFUSED_DEADLINE};
    for (size_t i = 0; i < 4; i++)
        if (strcmp(all[i], reason) == 0)
            return i;
    ck_abort_msg("reason %s", reason);
}

static void arrive(struct sim *s, int64_t now_ns)
{
    struct error err = {0};
    struct sim_request *r = &s->pool[s->n_born];
    enum priority priority = (enum priority)(rand() % 3);
    uint64_t client = (uint64_t)(rand() % 2 ? 0 : rand() % N_CLIENTS), cost = 1 + (uint64_t)rand() % 600;
    *r = (struct sim_request){.number = ++s->n_born, .n_claimed = cost / 2 + (uint64_t)rand() % 300};
    r->deadline_ns = rand() % 4 ? CLOCK_NEVER : now_ns + (rand() % 20) * CLOCK_NS_PER_S / 10;
    const struct queue_claim claim = {priority, client, r->n_claimed, now_ns, r->deadline_ns};
    if (queue_reserve(&s->q, &claim, &err)) {
        ck_assert_int_gt(err.retry_after_ms, 0);
        s->n_refused[reason_index(err.reason)]++;
        return;
    }
    if (rand() % 20 == 0) { /* its prompt was none */
        queue_give_back(&s->q, r->n_claimed);
        return;
    }
    r->item = (struct queue_item){.priority = priority, .arrival_ns = now_ns, .fair = {.client = client, .cost = cost}};
    queue_put(&s->q, &r->item, r->n_claimed);
    s->waiting[s->n_waiting++] = r;
    s->tokens += cost;
}

static void leave(struct sim *s, struct sim_request *r, bool admitted, int64_t now_ns)
{
    size_t i = 0;
    while (s->waiting[i] != r)
        i++;
    s->waiting[i] = s->waiting[--s->n_waiting];
    s->tokens -= r->item.fair.cost;
    queue_remove(&s->q, &r->item, admitted, now_ns);
}

static bool is_overdue(const struct queue_item *item, void *user)
{
    return ((const struct sim_request *)item)->deadline_ns <= *(int64_t *)user;
}

static unsigned class_of(enum priority p) { return p == PRIORITY_HIGH ? 2 : p == PRIORITY_LOW ? 0 : 1; }

/* The first one is of the class whose oldest has the highest rank, and the first of its client there, or it has been served before. */
static void check_first(struct sim *s, const struct sim_request *r, int64_t now_ns)
{
    int64_t best = -1, own = -1;
    bool fifo = true;
    for (size_t i = 0; i < s->n_waiting; i++) {
        const struct sim_request *o = s->waiting[i];
        int64_t rank = now_ns - o->item.since_ns + class_of(o->item.priority) * QUEUE_AGE_NS;
        best = rank > best ? rank : best;
        if (o->item.priority != r->item.priority)
            continue;
        own = rank > own ? rank : own;
        if (o->item.fair.client == r->item.fair.client && o->n_returns == 0 && r->n_returns == 0)
            fifo &= o->number >= r->number;
        fifo &= r->n_returns > 0 || o->n_returns == 0;
    }
    ck_assert(fifo && own == best);
}

static void serve_one(struct sim *s, int64_t now_ns)
{
    struct sim_request *r = (struct sim_request *)queue_first(&s->q, now_ns);
    if (!r)
        return;
    if (s->n_running == N_SLOTS) {
        queue_blocked(&s->q, now_ns);
        return;
    }
    check_first(s, r, now_ns);
    leave(s, r, true, now_ns);
    s->running[s->n_running++] = r;
}

static void end_one(struct sim *s, int64_t now_ns)
{
    if (!s->n_running)
        return;
    size_t i = (size_t)rand() % s->n_running;
    struct sim_request *r = s->running[i];
    s->running[i] = s->running[--s->n_running];
    if (r->item.priority == PRIORITY_LOW && r->n_returns < 2 && rand() % 2) {
        r->n_returns++;
        s->n_returned++;
        queue_return(&s->q, &r->item, now_ns);
        s->waiting[s->n_waiting++] = r;
        s->tokens += r->item.fair.cost;
    } else {
        s->n_served++;
    }
}

START_TEST(test_random_arrivals)
{
    static struct sim s;
    srand(17);
    ck_assert(queue_init(&s.q, &(struct queue_options){.limit = LIMIT, .max_tokens = MAX_TOKENS, .max_returned = N_SLOTS}));
    int64_t now_ns = 0, longest_ns = 0;
    while (s.n_born < N_ARRIVALS || s.n_waiting || s.n_running) {
        struct queue_item *item;
        now_ns += rand() % 20 * CLOCK_NS_PER_MS;
        for (int burst = rand() % 8 == 0 ? 40 : 1; burst > 0 && s.n_born < N_ARRIVALS; burst--)
            arrive(&s, now_ns);
        while ((item = queue_find(&s.q, is_overdue, &now_ns))) {
            s.n_expired++;
            leave(&s, (struct sim_request *)item, false, now_ns);
        }
        for (int i = 0; i < 4; i++)
            end_one(&s, now_ns);
        for (int i = 0; i <= N_SLOTS; i++)
            serve_one(&s, now_ns);
        for (size_t i = 0; i < s.n_waiting; i++) {
            int64_t waited_ns = now_ns - s.waiting[i]->item.since_ns;
            longest_ns = waited_ns > longest_ns ? waited_ns : longest_ns;
        }
        ck_assert(queue_n_taken(&s.q) == s.n_waiting && queue_n_waiting(&s.q) == s.n_waiting && queue_n_tokens(&s.q) == s.tokens);
        ck_assert_uint_le(s.n_waiting, LIMIT + N_SLOTS);
    }
    for (int i = 0; i < 4; i++)
        ck_assert_msg(s.n_refused[i] > 0, "each bound has refused some: not %d", i);
    ck_assert(s.n_served > N_ARRIVALS / 4 && s.n_returned > 100 && s.n_expired > 10);
    /* About four leave in 10 ms: the whole queue in a fifth of a second. Two classes of age and some rounds of the queue bound any wait. */
    ck_assert_int_lt(longest_ns, 2 * QUEUE_AGE_NS + CLOCK_NS_PER_S);
    for (unsigned c = 0; c < QUEUE_N_CLASSES; c++)
        ck_assert_uint_eq(s.q.classes[c].fair.n_clients, 0);
    queue_fini(&s.q);
}
END_TEST

SUITE("fair", test_one_client_is_first_come_first_served, test_a_flood_delays_others_by_a_round, test_cancelled_ones_leave_no_debt,
      test_tokens_are_shared_alike, test_nothing_starves, test_random_arrivals)
