/*
 * JSON Web Tokens (RFC 7519) in compact form, signed (RFC 7515): from a token to the client that it names, or the reason
 * why not. What RFC 8725 asks for: the algorithm is the key's, `none` does not exist, keys that a token brings along are
 * not looked at, and what is absurd is refused before anything is computed.
 */
#ifndef GATEWAY_JWT_H
#define GATEWAY_JWT_H

#include "base/error.h"
#include "gateway/client.h"
#include "gateway/jwt_keys.h"

#include <stdint.h>

#define JWT_MAX_BYTES 8192

/* Prepares the library; once, before the first thread. */
enum error_code jwt_init(struct error *err);
void jwt_fini(void);

/* Whether `token` has the form of one: three parts of base64url, at most JWT_MAX_BYTES. */
bool jwt_has_form(const char *token);

/* Verifies signature and claims at `now_s` (seconds since 1970). On success *client is whom it names and *expires_s when
 * it stops being valid, leeway included. Messages are static sentences without quotes: they go into a header. Any thread:
 * `keys` is only read. */
enum error_code jwt_verify(const struct jwt_options *options, const struct jwt_keys *keys, const char *token,
                           int64_t now_s, struct client *client, int64_t *expires_s, struct error *err);

#endif
