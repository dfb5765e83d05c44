/* Who sent a request, and what they may do. */
#ifndef GATEWAY_CLIENT_H
#define GATEWAY_CLIENT_H

#include <stdbool.h>
#include <stddef.h>

#define CLIENT_ID_BYTES 129 /* 128 bytes and a NUL */

/* CERTIFICATE: a name for limits, fairness and log; where keys are asked for it is none. */
enum client_kind { CLIENT_ANYONE, CLIENT_KEY, CLIENT_JWT, CLIENT_CERTIFICATE, CLIENT_N_KINDS };

/* Bits of client.scopes. */
enum { SCOPE_MODEL_READ = 1, SCOPE_MODEL_WRITE = 2, SCOPE_MODEL_MANAGE = 4 };

struct client {
    char id[CLIENT_ID_BYTES]; /* a token's client_id or sub, the name of an API key, by option that of a TLS certificate, else the address (IPv6: its /64) */
    unsigned scopes;
    enum client_kind kind;
};

/* "anyone", "key", "jwt", "certificate": for the log. Any thread. */
const char *client_kind_name(enum client_kind kind);

/* Whether `id` can be one: 1 to 128 bytes of UTF-8 without control characters. Any thread. */
bool client_id_valid(const char *id);

/* "model:read" -> SCOPE_MODEL_READ; 0 for what this server does not know. Any thread. */
unsigned scope_from_name(const char *name, size_t n_bytes);
/* The bits of words separated by any of `separators`; names that are not known are left out, and counted in
 * *n_unknown (may be NULL). Any thread. */
unsigned scopes_from_list(const char *text, const char *separators, int *n_unknown);
/* The name of one bit. Any thread. */
const char *scope_name(unsigned scope);

#endif
