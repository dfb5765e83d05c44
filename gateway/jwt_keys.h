/*
 * The keys that tokens are verified with. Each key takes exactly one algorithm, that of its type, so that no token can
 * choose how its signature is read.
 */
#ifndef GATEWAY_JWT_KEYS_H
#define GATEWAY_JWT_KEYS_H

#include "base/error.h"

#include <stddef.h>

/* How tokens are verified; strings are borrowed from the configuration. */
struct jwt_options {
    const char *key_file, *jwks_file; /* one of them; NULL or "" = not given */
    const char *alg;                  /* "auto", "HS256", "RS256", "ES256", "EdDSA" */
    const char *issuer, *audience;    /* NULL or "" = any */
    long long leeway_s;
};

struct jwt_keys;
struct jwk_key;

/* Reads the key file or the JWKS file. Of a set, keys that are not for signatures, or not for an algorithm that is allowed,
 * are left out; one that is broken, or a set without any key, is an error. Any thread, after jwt_init. */
enum error_code jwt_keys_load(const struct jwt_options *options, struct jwt_keys **out, struct error *err);
void jwt_keys_free(struct jwt_keys *keys);
size_t jwt_keys_count(const struct jwt_keys *keys);

/* The key for a token that names `alg` and `kid` (NULL = none): of a set the one with this kid, or the only one of that
 * algorithm where the token names none; of a key file the key, whatever the kid. NULL: there is none. Borrowed. */
const struct jwk_key *jwt_keys_find(const struct jwt_keys *keys, const char *alg, const char *kid);

/* rhonabwy's key (jwk_t *), for jwt.c. */
void *jwk_key_handle(const struct jwk_key *key);

#endif
