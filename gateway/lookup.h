/* The addresses of a name, asked on a thread of its own: the system's resolver blocks, and the loop must not. */
#ifndef GATEWAY_LOOKUP_H
#define GATEWAY_LOOKUP_H

#include "gateway/targets.h"

struct event_base;
struct lookup;

/* Starts it. `on_found` comes on the loop, once: the addresses in ascending order, borrowed; n 0 and the resolver's words
 * when there are none. The handle is gone with it. */
enum error_code lookup_start(struct event_base *base, const char *host, const char *port, void *user,
                             void (*on_found)(void *user, char (*addresses)[TARGET_ADDRESS_BYTES], size_t n,
                                              const char *why),
                             struct lookup **out, struct error *err);
/* on_found does not come; the thread ends by itself. */
void lookup_cancel(struct lookup *l);

#endif
