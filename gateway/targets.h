/* The gRPC targets of `--engine`: addresses as they are, and names that stand for all of their addresses. */
#ifndef GATEWAY_TARGETS_H
#define GATEWAY_TARGETS_H

#include "base/error.h"

#include <stddef.h>

#define TARGETS_MAX 64
#define TARGET_ADDRESS_BYTES 128 /* "127.0.0.1:50051", "[::1]:50051", "unix:/run/bitnet.sock", with its NUL */

struct target {
    char address[TARGET_ADDRESS_BYTES]; /* "" for a name */
    char host[256], port[8];            /* of a name; host "" for an address */
};

/* Parses a list separated by commas: HOST:PORT, [IPv6]:PORT, ipv4:HOST:PORT, ipv6:[..]:PORT, dns:///NAME:PORT, unix:/PATH.
 * Fills at most TARGETS_MAX; a fault names the item, what was expected and what was found. Any thread. */
enum error_code targets_parse(const char *text, struct target out[TARGETS_MAX], size_t *n, struct error *err);

#endif
