/* Members of targets, and names looked up. */
#include "gateway/pool.h"

#include "base/log.h"
#include "gateway/balance.h"
#include "gateway/gateway.h"
#include "gateway/lookup.h"

#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

#define MAX_MEMBERS 256
#define LOST_LOOKUP_MS 1000 /* after a member of a name was lost, its name is asked again by then */

/* A member in the pool and where it is from. */
struct place {
    struct member *member;
    const struct name *name; /* NULL: an address of its own */
};

struct name {
    struct pool *pool;
    const struct target *target;
    struct lookup *lookup; /* NULL: none is under way */
    struct event *timer;   /* to the next one */
    bool answered;
    bool failed; /* the last one; logged once */
};

struct pool {
    const struct gateway_config *config;
    struct member_shared shared;
    struct rpc_tls *tls; /* owned; NULL = plain text */
    struct target targets[TARGETS_MAX];
    struct name names[TARGETS_MAX];
    enum balance_policy policy;
    size_t n_targets, n_names, n_places;
    size_t turn, turn_again; /* of first attempts and of others, so that those do not take the turns of these */
    struct place places[MAX_MEMBERS];
    void *user;
    void (*on_change)(void *user);
};

static enum error_code add_member(struct pool *p, const char *address, const struct name *name, struct error *err)
{
    for (size_t i = 0; i < p->n_places; i++)
        if (strcmp(p->places[i].member->address, address) == 0)
            return ERROR_NONE; /* two names may have an address in common */
    if (p->n_places == MAX_MEMBERS)
        return error_set(err, ERROR_INTERNAL, "there are %d engines already", MAX_MEMBERS);
    struct place *place = &p->places[p->n_places];
    enum error_code code = member_open(&p->shared, address, name ? name->target->host : NULL, &place->member, err);
    if (code != ERROR_NONE)
        return code;
    place->name = name;
    p->n_places++;
    return ERROR_NONE;
}

static void remove_member(struct pool *p, size_t index)
{
    struct member *m = p->places[index].member;
    log_info("gateway", "engine is no longer in its name", LOG_STR("target", m->address));
    p->n_places--;
    memmove(&p->places[index], &p->places[index + 1], (p->n_places - index) * sizeof *p->places);
    member_retire(m);
}

/* ---- names ---- */

static void set_timer(struct name *n, int64_t ms)
{
    const struct timeval wait = {ms / 1000, ms % 1000 * 1000};
    event_add(n->timer, &wait);
}

static bool has(char (*addresses)[TARGET_ADDRESS_BYTES], size_t n, const char *address)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(addresses[i], address) == 0)
            return true;
    return false;
}

/* Without an answer the members stay as they are: their health says what they are good for. */
static void on_found(void *user, char (*addresses)[TARGET_ADDRESS_BYTES], size_t n, const char *why)
{
    struct name *name = user;
    struct pool *p = name->pool;
    name->lookup = NULL;
    name->answered = true;
    set_timer(name, p->config->engine_resolve_ms);
    if (n == 0 && !name->failed)
        log_warn("gateway", "engine's name has no address", LOG_STR("name", name->target->host),
                 LOG_STR("reason", why));
    name->failed = n == 0;
    for (size_t i = p->n_places; n > 0 && i-- > 0;)
        if (p->places[i].name == name && !has(addresses, n, p->places[i].member->address))
            remove_member(p, i);
    struct error err = {0};
    for (size_t i = 0; i < n; i++)
        if (add_member(p, addresses[i], name, &err) != ERROR_NONE)
            log_error("gateway", "engine cannot be used", LOG_STR("target", addresses[i]),
                      LOG_STR("reason", err.message));
    p->on_change(p->user);
}

static void on_timer(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    struct name *n = user;
    struct error err = {0};
    if (n->lookup || lookup_start(n->pool->shared.base, n->target->host, n->target->port, n, on_found, &n->lookup,
                                  &err) == ERROR_NONE)
        return;
    log_error("gateway", err.message);
    set_timer(n, n->pool->config->engine_resolve_ms);
}

/* A member that is down may have moved. */
static void ask_again(struct pool *p)
{
    for (size_t i = 0; i < p->n_names; i++) {
        struct name *n = &p->names[i];
        bool lost = false;
        for (size_t k = 0; k < p->n_places; k++)
            lost |= p->places[k].name == n && p->places[k].member->served && p->places[k].member->state == ENGINE_DOWN;
        struct timeval due, now;
        if (!lost || n->lookup || !evtimer_pending(n->timer, &due))
            continue;
        evutil_gettimeofday(&now, NULL);
        if ((due.tv_sec - now.tv_sec) * 1000 > LOST_LOOKUP_MS)
            set_timer(n, LOST_LOOKUP_MS);
    }
}

static void on_member_change(void *user)
{
    struct pool *p = user;
    ask_again(p);
    p->on_change(p->user);
}

/* ---- the pool ---- */

static enum error_code open_tls(struct pool *p, struct error *err)
{
    const struct gateway_config *c = p->config;
    if (!c->engine_tls_ca)
        return ERROR_NONE;
    enum error_code code = rpc_tls_open(c->engine_tls_ca, c->engine_tls_cert, c->engine_tls_key, &p->tls, err);
    p->shared.tls = p->tls;
    return code != ERROR_NONE ? error_prefix(err, "engine-tls") : code;
}

static enum error_code open_targets(struct pool *p, struct error *err)
{
    enum error_code code = targets_parse(p->config->engine, p->targets, &p->n_targets, err);
    for (size_t i = 0; i < p->n_targets && code == ERROR_NONE; i++) {
        const struct target *t = &p->targets[i];
        if (t->host[0] == '\0') {
            code = add_member(p, t->address, NULL, err);
            continue;
        }
        struct name *n = &p->names[p->n_names++];
        *n = (struct name){.pool = p, .target = t, .timer = evtimer_new(p->shared.base, on_timer, n)};
        if (!n->timer)
            return error_set(err, ERROR_INTERNAL, "out of memory");
        set_timer(n, 0);
    }
    return code;
}

enum error_code pool_open(struct event_base *base, const struct gateway_config *config, struct metrics *metrics,
                          void *user, void (*on_change)(void *user), struct pool **out, struct error *err)
{
    struct pool *p = calloc(1, sizeof *p);
    if (!p)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    p->config = config;
    p->user = user;
    p->on_change = on_change;
    p->policy = config->balance && strcmp(config->balance, "least_load") == 0 ? BALANCE_LEAST_LOAD : BALANCE_ROUND_ROBIN;
    p->shared = (struct member_shared){.base = base,
                                       .tls_name = config->engine_tls_name,
                                       .keepalive_ms = (int)config->engine_keepalive_ms,
                                       .keepalive_timeout_ms = (int)config->engine_keepalive_timeout_ms,
                                       .user = p,
                                       .on_change = on_member_change};
    p->shared.up = metrics_add(metrics, METRICS_GAUGE, "bitnet_engine_up",
                               "1 while the engine at the target says that it serves.", "target", NULL, 0);
    p->shared.active = metrics_add(metrics, METRICS_GAUGE, "bitnet_engine_requests_active",
                                   "Requests that the engine at the target has from this gateway.", "target", NULL, 0);
    enum error_code code = bridge_open(base, &p->shared.bridge, err);
    if (code == ERROR_NONE)
        code = open_tls(p, err);
    if (code == ERROR_NONE)
        code = open_targets(p, err);
    if (code != ERROR_NONE)
        pool_close(p);
    else
        *out = p;
    return code;
}

void pool_close(struct pool *p)
{
    for (size_t i = 0; i < p->n_names; i++) {
        if (p->names[i].lookup)
            lookup_cancel(p->names[i].lookup);
        if (p->names[i].timer)
            event_free(p->names[i].timer);
    }
    for (size_t i = 0; i < p->n_places; i++)
        member_retire(p->places[i].member);
    bridge_close(p->shared.bridge);
    rpc_tls_close(p->tls);
    free(p);
}

struct bridge *pool_bridge(struct pool *p)
{
    return p->shared.bridge;
}

size_t pool_n_members(const struct pool *p)
{
    return p->n_places;
}

struct member *pool_member(const struct pool *p, size_t index)
{
    return p->places[index].member;
}

static bool in(struct member *const *list, size_t n, const struct member *m)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == m)
            return true;
    return false;
}

struct member *pool_choose(struct pool *p, uint64_t key, struct member *const *tried, size_t n_tried)
{
    struct balance_member view[MAX_MEMBERS];
    for (size_t i = 0; i < p->n_places; i++) {
        const struct member *m = p->places[i].member;
        view[i] = (struct balance_member){
            .id = m->id, .load = member_load(m), .may = m->state == ENGINE_SERVING && !in(tried, n_tried, m)};
    }
    int i = balance_choose(view, p->n_places, p->policy, key, n_tried == 0 ? &p->turn : &p->turn_again);
    return i >= 0 ? p->places[i].member : NULL;
}

bool pool_settling(const struct pool *p)
{
    bool settling = false;
    for (size_t i = 0; i < p->n_names; i++)
        settling |= !p->names[i].answered;
    for (size_t i = 0; i < p->n_places; i++) {
        if (p->places[i].member->state == ENGINE_SERVING)
            return false;
        settling |= p->places[i].member->state == ENGINE_CONNECTING;
    }
    return settling;
}
