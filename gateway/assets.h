/* Files that the program carries in itself: everything in gateway/assets, by name. */
#ifndef GATEWAY_ASSETS_H
#define GATEWAY_ASSETS_H

#include <stddef.h>

struct asset {
    const char *name; /* "playground.html" */
    const char *etag; /* of the content; a weak one, as an answer may be compressed on its way */
    const unsigned char *data;
    size_t n_bytes;
};

/* Written by make; a NULL name ends the table. */
extern const struct asset assets[];
/* NULL when there is none of that name. Any thread. */
const struct asset *asset_find(const char *name);

#endif
