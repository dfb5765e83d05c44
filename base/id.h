/* Random identifiers from getrandom(2). Any thread. */
#ifndef BASE_ID_H
#define BASE_ID_H

#include <stdbool.h>
#include <stdint.h>

#define ID_UUID_BYTES 37 /* 36 characters and a NUL */

/* 64 random bits. */
uint64_t id_random_u64(void);

/* A version 4 UUID in lower case (RFC 9562 section 5.4); returns `out`. */
char *id_uuid(char out[ID_UUID_BYTES]);

/* True when `text` may be used as a request id: 1..128 characters of A-Z a-z 0-9 - _ . : / */
bool id_request_id_valid(const char *text);

#endif
