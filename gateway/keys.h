/*
 * API keys. The file holds no key, only SHA-256 of each: keys are made by this program and have 256 random bits, so there
 * is nothing to guess that a slow or salted hash would protect, and a request costs one hash, however many keys there are.
 *
 *   # NAME  sha256:HEX  [SCOPE,SCOPE...]
 *   alice   sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  model:read
 *
 * A name may have several lines, so that a key can be replaced without a pause.
 */
#ifndef GATEWAY_KEYS_H
#define GATEWAY_KEYS_H

#include "base/buffer.h"
#include "base/error.h"
#include "gateway/client.h"

#include <stddef.h>

#define KEYS_HASH_BYTES 32
#define KEYS_MAX_BYTES 512 /* a longer text is no key */

struct keys;

/* Reads the file; an error names file and line. A file without keys is one that lets nobody in. Any thread. */
enum error_code keys_load(const char *path, struct keys **out, struct error *err);
void keys_free(struct keys *keys);
size_t keys_count(const struct keys *keys);

/* Fills *client with the owner of the key whose SHA-256 is `hash`; false when there is none. Any thread. */
bool keys_find(const struct keys *keys, const unsigned char hash[KEYS_HASH_BYTES], struct client *client);

/* `bitnet-gateway make-key NAME [SCOPE,SCOPE...]`: prints a new key and the line for the file. Returns the exit status. */
int keys_main(int argc, char **argv);
/* What it prints: the key and its line. */
enum error_code keys_make(const char *name, const char *scopes, struct buffer *key, struct buffer *line,
                          struct error *err);

#endif
