/* Files that the program carries in itself: everything in gateway/assets, by name. */
#ifndef GATEWAY_ASSETS_H
#define GATEWAY_ASSETS_H

#include <stdbool.h>
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
/* Has the client this content? `if_none_match` is that header's value, a list of tags or "*"; NULL = it has none. Any
 * thread. */
bool asset_known(const struct asset *a, const char *if_none_match);

#endif
