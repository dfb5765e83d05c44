/* The table of routes. */
#ifndef GATEWAY_ROUTER_H
#define GATEWAY_ROUTER_H

#include "gateway/gateway.h"

#define ROUTER_ALLOW_BYTES 64

/* The route of a path and method on the main or the admin port; HEAD goes where GET does. NULL when there is none:
 * `allow` then lists the methods that the path takes, "" when nothing is there. `param` gets what stands for {id}. */
const struct route *router_find(const char *path, enum http_method method, unsigned where, char *param, size_t n_param,
                                char allow[ROUTER_ALLOW_BYTES]);
/* All routes, for who compares them with the API's description. */
const struct route *router_routes(size_t *n);

#endif
