/* Cross-origin requests (the Fetch standard): which pages of other origins may read our answers. */
#ifndef GATEWAY_CORS_H
#define GATEWAY_CORS_H

#include "base/error.h"

#include <stdbool.h>

/* Checks a list of origins, "https://a.example,http://localhost:3000", or "*". NULL or "" is none. Any thread. */
enum error_code cors_check(const char *origins, struct error *err);
/* Whether `origin` is in the list, or the list is "*". Any thread. */
bool cors_allows(const char *origins, const char *origin);
/* Whether the list is "*". Any thread. */
bool cors_any(const char *origins);
/* Whether `text` is a list of header names that may be repeated in an answer. Any thread. */
bool cors_names_valid(const char *text);

#endif
