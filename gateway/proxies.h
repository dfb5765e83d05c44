/*
 * Which address a request comes from. Behind proxies the connection's own address is the last proxy's; the addresses that
 * X-Forwarded-For or Forwarded (RFC 7239) lists are believed as far as trusted proxies wrote them: from the right, up to
 * the first that is no trusted proxy itself.
 */
#ifndef GATEWAY_PROXIES_H
#define GATEWAY_PROXIES_H

#include "base/error.h"
#include "gateway/http.h"

#include <stdbool.h>

#define PROXIES_ADDRESS_BYTES 64

struct proxies;
struct sockaddr;

/* `list`: networks by commas, "10.0.0.0/8, 192.0.2.7, 2001:db8::/32, unix"; NULL or "" = none is trusted. `forwarded`:
 * read Forwarded instead of X-Forwarded-For - one of them only, because a proxy passes on unchanged the one it does not
 * know. */
enum error_code proxies_open(const char *list, bool forwarded, struct proxies **out, struct error *err);
void proxies_close(struct proxies *p);

/* Writes the address of the client: IPv4 also where it came mapped into IPv6, without port and zone; "unix" for a local
 * socket. Any thread. */
void proxies_address(const struct proxies *p, const struct http_request *r, char out[PROXIES_ADDRESS_BYTES]);
/* Whether the other end of a connection is a trusted proxy, by its IP address. Any thread. */
bool proxies_trust(const struct proxies *p, const struct sockaddr *from);
/* Writes what stands for the client of this address: itself, of IPv6 its /64, which is what one customer gets. */
void proxies_client(const char *address, char *out, size_t n_out);

#endif
