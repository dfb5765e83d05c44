/*
 * Who a credential belongs to: API keys and tokens, from files that are read again when they change. One for the process,
 * shared by all loops; its lock is never held while a signature is verified.
 *
 * What verification found is remembered by the token's SHA-256 until the token expires, or the files change: a signature
 * costs 80 to 280 us, remembering it under one.
 */
#ifndef GATEWAY_AUTH_H
#define GATEWAY_AUTH_H

#include "base/error.h"
#include "gateway/client.h"
#include "gateway/jwt.h"

#include <stdbool.h>
#include <stdint.h>

struct auth;

/* Reads the files; strings of the options and `api_keys` (NULL or "" = none) are borrowed until auth_close. */
enum error_code auth_open(const struct jwt_options *jwt, const char *api_keys, struct auth **out, struct error *err);
void auth_close(struct auth *a);

/* Whether any credential is configured: where none is, there is nobody to be told from anyone else. Any thread. */
bool auth_enabled(const struct auth *a);
/* Reads the files again, changed or not. One that is broken leaves what was there, and is logged. Any thread. */
void auth_reload(struct auth *a);
/* Reads those that have changed; looks once a second at most. Any thread. */
void auth_refresh(struct auth *a, int64_t now_ns);

/* The owner of a credential that costs nothing to know: a key, or a token that was verified before. Any thread. */
bool auth_lookup(struct auth *a, const char *credential, int64_t now_s, struct client *out);
/* Verifies a token, and remembers it. Any thread. */
enum error_code auth_verify(struct auth *a, const char *token, int64_t now_s, struct client *out, struct error *err);

#endif
