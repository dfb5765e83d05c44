/* Peers: how many connections each client address has. IPv6 clients count by their /64, which one host usually owns whole;
 * IPv4 within IPv6 counts as IPv4; unix sockets are not counted. Any thread. */
#ifndef GATEWAY_PEERS_H
#define GATEWAY_PEERS_H

#include <stdbool.h>
#include <stdint.h>

struct sockaddr;
struct peers;

/* At most `limit` connections an address; 0 = no limit. NULL when memory is out. */
struct peers *peers_open(int64_t limit);
void peers_close(struct peers *p);
/* The address as a number that peers_enter and peers_leave know it by; 0 = not counted. */
uint64_t peers_key(const struct sockaddr *a);
/* Counts one more. False, and nothing counted, when the address has its limit, or memory is out. */
bool peers_enter(struct peers *p, uint64_t key);
void peers_leave(struct peers *p, uint64_t key);

#endif
