/*
 * The engines behind the gateway. Every target becomes members, one for each address: an address is one, a name is looked up
 * at the start, at intervals and when one of its members is lost, and has a member for each of its addresses. So health, load
 * and affinity are the same for all of them. One pool for each loop; loop thread only.
 */
#ifndef GATEWAY_POOL_H
#define GATEWAY_POOL_H

#include "gateway/member.h"

struct gateway_config;
struct pool;

/* Parses config->engine and connects. `on_change` comes when a member's state or the list has changed. */
enum error_code pool_open(struct event_base *base, const struct gateway_config *config, struct metrics *metrics,
                          void *user, void (*on_change)(void *user), struct pool **out, struct error *err);
/* No call may be open any more. */
void pool_close(struct pool *p);
struct bridge *pool_bridge(struct pool *p);

size_t pool_n_members(const struct pool *p);
struct member *pool_member(const struct pool *p, size_t index);
/* Whose turn it is by the policy: a member that serves and is not in `tried`; NULL when there is none. `key` 0 = none. */
struct member *pool_choose(struct pool *p, uint64_t key, struct member *const *tried, size_t n_tried);
/* No member serves, but the verdict on one is still out: a moment of patience is worth it. */
bool pool_settling(const struct pool *p);

#endif
