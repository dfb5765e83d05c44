/* Which requests belong together: those that an engine has computed the beginning of. */
#ifndef GATEWAY_AFFINITY_H
#define GATEWAY_AFFINITY_H

#include <jansson.h>
#include <stdint.h>

#define AFFINITY_BYTES 256 /* of a prompt, or of each message */

/* The key of a request's JSON, made of `model` and the first there is of
 *   prompt_cache_key, user   as text
 *   messages                 up to and with the first of the user, AFFINITY_BYTES of each: a conversation keeps it
 *   prompt                   its first AFFINITY_BYTES; of several prompts the first one; of token ids the first 64
 * 0 when there is none of them. Pure. */
uint64_t affinity_key(const json_t *root);

#endif
