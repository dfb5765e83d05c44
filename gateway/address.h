/* Socket addresses as people write them: "127.0.0.1:8080", "[::1]:8080", "name:8080", ":8080", "unix:/path". */
#ifndef GATEWAY_ADDRESS_H
#define GATEWAY_ADDRESS_H

#include "base/error.h"

#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

#define ADDRESS_BACKLOG 1024 /* connections that the kernel accepts before we do */

struct address {
    struct sockaddr_storage storage;
    socklen_t n_bytes;
};

/* One address; names are resolved. An empty host means all interfaces. */
enum error_code address_parse(const char *text, struct address *out, struct error *err);
/* A listening, non-blocking socket. A unix socket that nobody serves any more is replaced. */
enum error_code address_listen(const struct address *a, int *fd, struct error *err);
/* Where a socket is bound, as text; returns the port, 0 for unix sockets. */
int address_bound(int fd, char *out, size_t n_out);
/* A peer as text, without port: the client's address. */
const char *address_text(const struct sockaddr *a, size_t n_bytes, char *out, size_t n_out);
/* Removes the file of a unix socket. */
void address_unlink(const struct address *a);

#endif
