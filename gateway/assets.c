/* The table is written by make from the files of gateway/assets. */
#include "gateway/assets.h"

#include <string.h>

const struct asset *asset_find(const char *name)
{
    for (const struct asset *a = assets; a->name; a++)
        if (strcmp(a->name, name) == 0)
            return a;
    return NULL;
}

/* Tags are compared weakly (RFC 9110 section 13.1.2): without the W/. */
bool asset_known(const struct asset *a, const char *if_none_match)
{
    const char *opaque = strchr(a->etag, '"');
    return if_none_match && (strcmp(if_none_match, "*") == 0 || strstr(if_none_match, opaque));
}
